"""Import public checkpoints of MDLM, SDTT and Duo: every key is accounted for, and nothing in them is executed.

The layouts are in docs/checkpoints.md. Ours compute in float32; the public code runs blocks and head under bfloat16
autocast whatever it is asked for, so that its own logits are rounded to 8 bits of mantissa.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mcd.checkpoints.config import config_to_json
from mcd.checkpoints.public_config import CONDITIONING, LICENCES, Facts, Family, Said, denoiser_config, facts_of
from mcd.checkpoints.public_layout import ROTARY, check_rotary, own_name, sizes_of, unwrapped
from mcd.checkpoints.source import Source
from mcd.checkpoints.weights import WEIGHTS, Stored, checked, write_streamed
from mcd.errors import ModelError
from mcd.files import write_json
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
    """A checkpoint that has been understood, before most of its weights are read.

    sets: weight sets by the name they get here ("ema", which model.safetensors holds, and "raw"), by our names of the
    tensors; chosen, available: what the file calls them; ignored: keys that are not needed; assumed: what nothing in
    the file says, each "name value: reason".
    """

    source: Source
    facts: Facts
    config: DenoiserConfig
    sets: Mapping[str, Mapping[str, Stored]]
    chosen: str
    available: Sequence[str]
    ignored: Sequence[str]
    assumed: Sequence[str]

    @property
    def layout(self) -> str:
        """Such as "mdlm-hub", "duo-lightning", "sdtt-bare"."""
        return f"{self.facts.family}-{self.source.container}"

    @property
    def warning(self) -> str | None:
        """The warning for an assumption that may make all predictions wrong; None where it was not made."""
        assumed = next((line for line in self.assumed if line.startswith(CONDITIONING)), None)
        if assumed is None:
            return None
        return (
            f"the file does not say whether the network reads the time; taken: {assumed}. If that is wrong, so are its "
            "predictions: say it by --time-conditioned or --no-time-conditioned"
        )


def understand(
    source: Source,
    weights: Choice | None = None,
    family: Family | None = None,
    heads: int | None = None,
    length: int | None = None,
    time_conditioned: bool | None = None,
    eps: float | None = None,
) -> Import:
    """Match a checkpoint's keys, shapes and configuration with our model.

    weights: of a Lightning checkpoint, which holds two sets ("ema" where None); family, heads, length,
    time_conditioned, eps (of the log-linear schedule): what the file does not say. Raises ModelError with the list of
    keys that do not fit, and for what it lacks or contradicts.
    """
    assumed = []
    if family is None and source.nameless and not source.config:
        family = "sdtt"
        assumed.append("layout sdtt: Lightning's file without hyper_parameters and sampler, as SDTT's code writes it")
    facts = facts_of(source.config, family, source.name)
    named, ignored = unwrapped(source.tensors, source.name)
    if source.others:
        raise ModelError(
            f"{source.name}: {', '.join(source.others[:8])} hold no weights of a known kind, which nothing here uses"
        )
    sizes = sizes_of({public: source.tensors[name].shape for public, name in named.items()}, source.name)
    if ROTARY in named:
        check_rotary(source.tensors[named[ROTARY]].read(), source.name)
        ignored = [*ignored, named[ROTARY]]
    order = list(sizes.shapes())
    said = Said(family, heads, length, time_conditioned, eps)
    config, more = denoiser_config(sizes, facts, said, _time_trained(source, order, named), source.name)
    sets, chosen, available = _chosen(source, facts, order, named, weights)
    return Import(source, facts, config, sets, chosen, available, ignored, [*assumed, *more])


def _time_trained(source: Source, order: list[str], named: Mapping[str, str]) -> bool | None:
    """Whether weights that only a time input trains differ from their average; None where there is no average.

    A network that is not conditioned on time is given sigma = 0, whose sines are 0: the half of the first matrix of
    `sigma_map` that reads them has no gradient, so that weights and average are its initial values to the bit. (Weight
    decay, which neither MDLM nor SDTT uses, would move it too.)
    """
    name = "sigma_map.mlp.0.weight"
    index = order.index(name)
    if source.ema is None or index >= len(source.ema):
        return None
    weights, average = source.tensors[named[name]].read(), source.ema[index].read()
    if weights.shape != average.shape:
        return None
    half = TimeEmbedding.width // 2
    return not torch.equal(weights[:, half:], average[:, half:])


def _chosen(
    source: Source, facts: Facts, order: list[str], named: Mapping[str, str], weights: Choice | None
) -> tuple[dict[str, dict[str, Stored]], str, list[str]]:
    """The weight sets to write by the name they get here, which of the file's they are, and which it has."""

    def own(keys: Sequence[Any], tensors: Any) -> dict[str, Stored]:
        pairs = zip(map(own_name, order), keys, strict=True)
        return {name: checked(tensors[key], f"{key} (here {name})", source.name) for name, key in pairs}

    raw = own([named[name] for name in order], source.tensors)
    if source.ema is None or source.averaged:
        raw_on_hub = source.container == "hub" and facts.family == "sdtt"
        one_set = "raw" if source.container == "lightning" or raw_on_hub else "published"
        chosen = "ema" if source.averaged else one_set
        if weights not in (None, chosen):
            raise ModelError(f"--weights {weights}: {source.name} holds one set of weights; leave the option out")
        return {"ema": raw}, chosen, [chosen]
    available = ["ema", "raw"]
    if weights == "raw":
        return {"ema": raw}, "raw", available
    shapes = [tensor.shape for tensor in raw.values()]
    if [tensor.shape for tensor in source.ema] != shapes or [name for name in named if name != ROTARY] != order:
        raise ModelError(
            f"{source.name}: its average is a list of tensors in the order of the model's parameters, and their "
            f"number, shapes or the order of the state_dict are not the public model's; take --weights raw"
        )
    averaged = own(range(len(order)), source.ema)
    if weights == "both":
        return {"raw": raw, "ema": averaged}, "ema and raw", available
    return {"ema": averaged}, "ema", available


def write_import(found: Import, folder: Path, tokenizer_json: str | None, origin: Mapping[str, Any]) -> None:
    """Write the model folder, one tensor in memory at a time; config.json last. The folder must not exist yet.

    origin: what `origin_of` says, and more. Raises ModelError for weights that are not finite or cannot be read,
    OSError when the disk refuses; the folder is then incomplete (no config.json).
    """
    folder.mkdir(parents=True)
    for kind, tensors in found.sets.items():
        write_streamed(folder / WEIGHTS[kind], tensors)
    if tokenizer_json is not None:
        (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    write_json(folder / ORIGIN, origin)
    write_json(folder / "config.json", config_to_json(found.config))


def origin_of(found: Import) -> dict[str, Any]:
    """Where a model is from, as origin.json records it."""
    source = found.source
    return {
        "layout": found.layout,
        "weights": found.chosen,
        "available": list(found.available),
        "weights_note": _PUBLISHED[found.facts.family] if source.container == "hub" else None,
        "ema_decay": source.ema_decay,
        "steps": source.steps,
        "licence": found.facts.licence or LICENCES[found.facts.family],
        "precision": "float32 here; the public code computes blocks and head in bfloat16",
        "assumed": list(found.assumed),
        "ignored_keys": list(found.ignored),
        "unused_parts": list(source.unused),
        "config": source.config,
    }
