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

from mcd.checkpoints.folder import WEIGHTS, config_to_json
from mcd.checkpoints.public_config import CONDITIONING, LICENCES, Facts, Family, Said, denoiser_config, facts_of
from mcd.checkpoints.public_layout import ROTARY, Sizes, check_rotary, own_name, sizes_of, unwrapped
from mcd.checkpoints.sources import Opened
from mcd.checkpoints.weights import write_streamed
from mcd.errors import ModelError
from mcd.model.denoiser import DenoiserConfig
from mcd.model.dit import TimeEmbedding

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
    assumed: what nothing in the file says, each "name value: reason".
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

    @property
    def warning(self) -> str | None:
        """What is said of an assumption by which all that the model says may be wrong; None where none was made."""
        told = next((line for line in self.assumed if line.startswith(CONDITIONING)), None)
        if told is None:
            return None
        return (
            f"the file does not say whether the network reads the time; taken: {told}. If that is wrong, so are its "
            "predictions: say it by --time-conditioned or --no-time-conditioned"
        )


def understand(
    opened: Opened,
    weights: Choice | None = None,
    family: Family | None = None,
    heads: int | None = None,
    length: int | None = None,
    time_conditioned: bool | None = None,
    eps: float | None = None,
) -> Import:
    """Match a checkpoint's keys, shapes and configuration with a model of ours.

    weights: of a Lightning checkpoint, which holds two sets ("ema" where None); family, heads, length,
    time_conditioned, eps (of the log-linear schedule): what the file does not say. Raises ModelError with the list of
    keys that do not fit, and for what it lacks or contradicts.
    """
    source = opened.source
    assumed = []
    if family is None and opened.nameless and not opened.config:
        family = "sdtt"
        assumed.append("layout sdtt: Lightning's file without hyper_parameters and sampler, as SDTT's code writes it")
    facts = facts_of(opened.config, family, source)
    named, helpers = unwrapped(opened.shapes, source)
    if opened.others:
        raise ModelError(
            f"{source}: {', '.join(opened.others[:8])} hold no weights of a known kind, which nothing here uses"
        )
    sizes = sizes_of({public: opened.shapes[name] for public, name in named.items()}, source)
    if ROTARY in named:
        check_rotary(opened.read(named[ROTARY]), source)
    said = Said(family, heads, length, time_conditioned, eps)
    config, more = denoiser_config(sizes, facts, said, _time_trained(opened, sizes, named), source)
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
        ignored=[*helpers, *([named[ROTARY]] if ROTARY in named else [])],
        assumed=[*assumed, *more],
    )


def _time_trained(opened: Opened, sizes: Sizes, named: Mapping[str, str]) -> bool | None:
    """Whether weights that only a time input trains differ from their average; None where there is no average.

    A network that is not conditioned on time is told sigma = 0, whose sines are 0: the half of the first matrix of
    `sigma_map` that reads them has no gradient, so that weights and average are its initial values to the bit. (Weight
    decay, which neither MDLM nor SDTT uses, would move it too.)
    """
    name = "sigma_map.mlp.0.weight"
    index = list(sizes.shapes()).index(name)
    if opened.read_ema is None or opened.ema is None or index >= len(opened.ema):
        return None
    weights, average = opened.read(named[name]), opened.read_ema(index)
    if weights.shape != average.shape:
        return None
    half = TimeEmbedding.width // 2
    return not torch.equal(weights[:, half:], average[:, half:])


def _chosen(
    opened: Opened, facts: Facts, sizes: Sizes, order: list[str], weights: Choice | None, raw: Callable[[str], Tensor]
) -> tuple[dict[str, Callable[[str], Tensor]], str, list[str]]:
    """The weight sets to write by the name they get here, which of the file's they are, and which it has."""
    if opened.ema is None or opened.averaged:
        raw_on_hub = opened.container == "hub" and facts.family == "sdtt"
        one_set = "raw" if opened.container == "lightning" or raw_on_hub else "published"
        chosen = "ema" if opened.averaged else one_set
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
        "licence": found.facts.licence or LICENCES[found.facts.family],
        "precision": "float32 here; the public code computes blocks and head in bfloat16",
        "assumed": list(found.assumed),
        "ignored_keys": list(found.ignored),
        "unused_parts": list(opened.unused),
        "config": dict(opened.config),
    }
