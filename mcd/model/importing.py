"""Public checkpoints of MDLM, SDTT and Duo as models of ours: every key accounted for, nothing in them executed.

The layouts are in docs/checkpoints.md. Ours compute in float32; the public code runs blocks and head under bfloat16
autocast whatever it is asked for, so that its own logits are rounded to 8 bits of mantissa.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mcd.model.denoiser import DenoiserConfig
from mcd.model.foreign import ROTARY, Sizes, check_rotary, own_name, sizes_of, unwrapped
from mcd.model.foreign_config import LICENCES, Facts, Family, denoiser_config, facts_of
from mcd.model.pretrained import WEIGHTS, ModelError, config_to_json
from mcd.model.sources import Opened
from mcd.model.tensor_file import write_streamed

ORIGIN = "origin.json"
Choice = Literal["ema", "raw", "both"]
_PUBLISHED = {
    "mdlm": "the hub holds one set; whether it is the average is not said there",
    "sdtt": "the hub holds one set: SDTT's push_to_hub.py uploads the state_dict, which is not its average",
    "duo": "the hub holds one set; whether it is the average is not said there",
}


@dataclass(frozen=True)
class Import:
    """A checkpoint that has been understood, before any of its weights is read.

    sets: weight sets by the name they get here ("ema", which model.safetensors holds, and "raw"), each a reader by our
    names; shapes: of our names; chosen, available: what the file calls them; ignored: keys that are not needed;
    assumed: what nothing in the file says.
    """

    opened: Opened
    facts: Facts
    config: DenoiserConfig
    shapes: Mapping[str, tuple[int, ...]]
    sets: Mapping[str, Callable[[str], Tensor]]
    chosen: str
    available: Sequence[str]
    ignored: Sequence[str]
    assumed: Sequence[str]

    @property
    def layout(self) -> str:
        """Such as "mdlm-hub", "duo-lightning", "sdtt-bare"."""
        return f"{self.facts.family}-{self.opened.container}"


def understand(
    opened: Opened,
    weights: Choice | None = None,
    family: Family | None = None,
    heads: int | None = None,
    length: int | None = None,
) -> Import:
    """Match a checkpoint's keys, shapes and configuration with a model of ours.

    weights: of a Lightning checkpoint, which holds two sets ("ema" where None); family, heads, length: what the file
    does not say. Raises ModelError with the list of keys that do not fit, and for what it lacks or contradicts.
    """
    source = opened.source
    facts = facts_of(opened.config, family, source)
    named, teacher = unwrapped(opened.shapes, source)
    if opened.others:
        raise ModelError(
            f"{source}: {', '.join(opened.others[:8])} hold no weights of a known kind, which nothing here uses"
        )
    sizes = sizes_of({public: opened.shapes[name] for public, name in named.items()}, source)
    if ROTARY in named:
        check_rotary(opened.read(named[ROTARY]), source)
    config, assumed = denoiser_config(sizes, facts, heads, length, source)
    raw = _reader(opened.read, {own_name(name): named[name] for name in sizes.shapes()}, source)
    sets, chosen, available = _chosen(opened, facts, sizes, list(named), weights, raw)
    return Import(
        opened=opened,
        facts=facts,
        config=config,
        shapes={own_name(name): shape for name, shape in sizes.shapes().items()},
        sets=sets,
        chosen=chosen,
        available=available,
        ignored=[*teacher, *([named[ROTARY]] if ROTARY in named else [])],
        assumed=assumed,
    )


def _chosen(
    opened: Opened, facts: Facts, sizes: Sizes, order: list[str], weights: Choice | None, raw: Callable[[str], Tensor]
) -> tuple[dict[str, Callable[[str], Tensor]], str, list[str]]:
    """The weight sets to write by the name they get here, which of the file's they are, and which it has."""
    if opened.ema is None:
        chosen = "raw" if opened.container == "lightning" or facts.family == "sdtt" else "published"
        if weights not in (None, chosen):
            raise ModelError(f"--weights {weights}: {opened.source} holds one set of weights; leave the option out")
        return {"ema": raw}, chosen, [chosen]
    available = ["ema", "raw"]
    if weights == "raw":
        return {"ema": raw}, "raw", available
    names = list(sizes.shapes())
    here = [name for name in order if name != ROTARY]
    if list(opened.ema) != list(sizes.shapes().values()) or here != names:
        raise ModelError(
            f"{opened.source}: its average is a list of tensors in the order of the model's parameters, and their "
            f"number, shapes or the order of the state_dict are not the public model's; take --weights raw"
        )
    assert opened.read_ema is not None
    averaged = _reader(opened.read_ema, {own_name(name): i for i, name in enumerate(names)}, opened.source)
    both = {"raw": raw} if weights == "both" else {}
    return {**both, "ema": averaged}, "ema and raw" if both else "ema", available


def _reader(read: Callable[[Any], Tensor], keys: Mapping[str, Any], source: str) -> Callable[[str], Tensor]:
    def one(name: str) -> Tensor:
        tensor = read(keys[name]).float()
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{source}: {keys[name]} (here {name}) holds values that are not finite")
        return tensor

    return one


def write_import(found: Import, folder: Path, tokenizer_json: str | None, origin: Mapping[str, Any]) -> None:
    """Write the model folder, one tensor in memory at a time; config.json last. The folder must not exist yet.

    origin: what `origin_of` says, and more. Raises ModelError for weights that are not finite or cannot be read,
    OSError when the disk refuses; the folder is then incomplete (no config.json).
    """
    folder.mkdir(parents=True)
    for kind, read in found.sets.items():
        write_streamed(folder / WEIGHTS[kind], found.shapes, read)
    if tokenizer_json is not None:
        (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    config = json.dumps(config_to_json(found.config), indent=2) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")


def origin_of(found: Import) -> dict[str, Any]:
    """Where a model is from, as origin.json keeps it beside the model."""
    opened = found.opened
    return {
        "layout": found.layout,
        "weights": found.chosen,
        "available": list(found.available),
        "weights_note": _PUBLISHED[found.facts.family] if opened.container == "hub" else None,
        "ema_decay": opened.ema_decay,
        "steps": opened.steps,
        "licence": LICENCES[found.facts.family],
        "precision": "float32 here; the public code computes blocks and head in bfloat16",
        "assumed": list(found.assumed),
        "ignored_keys": list(found.ignored),
        "unused_parts": list(opened.unused),
        "config": dict(opened.config),
    }
