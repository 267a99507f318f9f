"""The protocol of a measured number: everything that changes it and is not the model. Every number has one."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Protocol:
    """How text was drawn and how it was scored; None where a field does not apply (held-out text has no sampler).

    `precision` alone makes the figures of papers differ by factors of two on one checkpoint.
    """

    scorer: str | None = None
    scorer_precision: str | None = None
    scorer_context: int | None = None  # tokens
    retokenised: bool | None = None  # decoded and tokenised again by the scorer; else its own ids are scored
    borders: Literal["kept", "dropped"] | None = None  # between documents: the scorer's end of text, or none
    counted: Literal["scorer"] | None = None  # whose tokens entropy and repetition are of; None: the model's
    averaging: Literal["pooled", "per-sample"] | None = None
    reference: str | None = None  # real text that samples were compared with
    reference_samples: int | None = None
    features: str | None = None  # by what they were compared: the scorer's hidden states, or minilm
    sampler: str | None = None
    order: str | None = None  # in which order tokens are revealed: iid, stratified, ...
    precision: str | None = None  # of the categorical draws
    grid: str | None = None  # the times of the steps, or how many tokens each reveals
    temperature: float | None = None
    top_p: float | None = None
    samples: int | None = None
    length: int | None = None  # tokens of the model
    frame: bool | None = None  # [CLS] and [SEP], or the like, around each row: visible, and not measured
    weights: Literal["ema", "raw"] | None = None
    seed: int | None = None
    threads: int | None = None
    dtype: str | None = None  # of the network's products; None: float32
    compiled: bool | None = None  # blocks of the network by torch.compile
    shapes: str | None = None  # of the network calls and projections of a GPU; None: a CPU's
    own: tuple[tuple[str, Any], ...] = ()
    """The options of the sampler, by name: `as_dict` lists them like fields."""

    def as_dict(self) -> dict[str, Any]:
        """The stamp as JSON takes it; `protocol_of_dict` reads it back."""
        return {name: getattr(self, name) for name in _HINTS} | dict(self.own)

    def digest(self) -> str:
        """Twelve hex digits, the same on every machine: equal protocols, equal digests."""
        said = {  # what goes without saying is left out, so that a new field changes no digest of older rows
            name: value
            for name, value in self.as_dict().items()
            if value is not None and (name, value) not in UNSAID.items()
        }
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def stamp(self) -> dict[str, Any]:
        """What a row of metrics.json holds as its `protocol`: all fields, and the digest."""
        return {**self.as_dict(), "digest": self.digest()}


_HINTS = {name: hint for name, hint in get_type_hints(Protocol).items() if name != "own"}
UNSAID = {"borders": "dropped", "block": 0, "features": "scorer"}
"""What a stamp without the field means, if it is one of scored text, of `confidence` or of a reference."""


def said_by(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """A stamp with all that it says: documents of scored text ran together until stamps had the field `borders`, and
    texts were compared by the scorer's features until they had `features`."""
    scored = stamp.get("scorer") is not None and stamp.get("retokenised") is not False
    implied = {"borders": UNSAID["borders"]} if scored and stamp.get("borders") is None else {}
    if stamp.get("reference") is not None and stamp.get("features") is None:
        implied["features"] = UNSAID["features"]
    return _unhidden(stamp) | implied


def _unhidden(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """A stamp with its sampler's options by their names; older stamps hide some in the words of order and grid."""
    said, order, grid = dict(stamp), str(stamp.get("order")), str(stamp.get("grid"))
    if found := re.fullmatch(r"iid, remasking by (cap|rescale) ([\d.e-]+)", order):
        said |= {"order": "iid", "remasking": found[1], "eta": float(found[2])}
    if found := re.fullmatch(r"(top|margin|entropy|random)(?:, blocks of (\d+))?", order):
        said |= {"order": found[1], "block": stamp.get("block", int(found[2] or UNSAID["block"]))}
    if found := re.fullmatch(r"adaptive, threshold ([\d.e-]+), at most (\d+) tokens", grid):
        said |= {"grid": "adaptive", "threshold": float(found[1]), "cap": int(found[2])}
    return said


def protocol_of_dict(stamp: Mapping[str, Any]) -> Protocol:
    """A protocol from `as_dict`, with or without the digest of a metrics row, or from that of a sampler and more.

    Raises ValueError for fields that no sampler accounts for, and for values of another type.
    """
    said = {name: value for name, value in _unhidden(stamp).items() if value is not None and name != "digest"}
    own = tuple(sorted((name, value) for name, value in said.items() if name not in _HINTS))
    if own and "sampler" not in said:
        raise ValueError(f"unknown protocol fields: {', '.join(name for name, _ in own)}")
    for name, value in said.items():
        if not _fits(value, _HINTS.get(name, bool | int | float | str)):
            raise ValueError(f"protocol field {name} cannot be {value!r:.40}")
    return Protocol(**{name: value for name, value in said.items() if name in _HINTS}, own=own)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of a field's type: a plain one, a Literal, or a union of such."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_args(kind):
        return any(_fits(value, one) for one in get_args(kind))
    if kind is float:
        return type(value) in (int, float) and -math.inf < value < math.inf
    return type(value) is kind
