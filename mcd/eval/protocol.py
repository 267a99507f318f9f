"""The protocol stamp: everything that moves a measured number and is not the model. No number stands without it."""

import hashlib
import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Protocol:
    """How text was drawn and how it was scored; None where a field does not apply (held-out text has no sampler).

    Papers differ by factors of two on one checkpoint for `precision` alone.
    """

    scorer: str | None = None
    scorer_precision: str | None = None
    scorer_context: int | None = None  # tokens
    retokenised: bool | None = None  # decoded and tokenised again by the scorer, or its own ids scored as they are
    borders: Literal["kept", "dropped"] | None = (
        None  # between documents: the scorer's end of text, or they run together
    )
    counted: Literal["scorer"] | None = None  # whose tokens entropy and repetition are of; None: the model's
    averaging: Literal["pooled", "per-sample"] | None = None
    reference: str | None = None  # real text that samples were compared with
    reference_samples: int | None = None
    sampler: str | None = None
    order: str | None = None  # where u comes from: iid, stratified, ...
    precision: str | None = None  # of the categorical draws
    grid: str | None = None
    tail: str | None = None  # of uniform diffusion: how the last tokens are settled
    kappa: float | None = None  # share of the reverse step in a predictor-corrector
    temperature: float | None = None
    top_p: float | None = None
    samples: int | None = None
    length: int | None = None  # tokens of the model
    frame: bool | None = None  # [CLS] and [SEP], or the like, around each row: visible, and not measured
    weights: Literal["ema", "raw"] | None = None
    seed: int | None = None
    threads: int | None = None

    def as_dict(self) -> dict:
        """The fields as JSON takes them; `protocol_of_dict` reads them back."""
        return asdict(self)

    def digest(self) -> str:
        """Twelve hex digits, the same on every machine: equal protocols, equal digests."""
        said = {  # a later field changes no digest where it says what went without saying before
            name: value
            for name, value in self.as_dict().items()
            if value is not None and (name, value) not in IMPLIED.items()
        }
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def differences(self, other: "Protocol", ignore: Collection[str] = ()) -> list[str]:
        """The names of the fields that differ, in order: empty when numbers may share a table without a word."""
        mine, others = said_by(self.as_dict()), said_by(other.as_dict())
        return [
            field.name for field in fields(self) if field.name not in ignore and mine[field.name] != others[field.name]
        ]


IMPLIED = {"borders": "dropped"}
"""What was done before a field came, and so for every scored text whose stamp lacks it."""


def said_by(stamp: dict[str, Any]) -> dict[str, Any]:
    """A stamp with what its fields imply: text was scored with its documents run together until `borders` came."""
    scored = stamp.get("scorer") is not None and stamp.get("retokenised") is not False
    return stamp | {name: value for name, value in IMPLIED.items() if scored and stamp.get(name) is None}


def protocol_of_dict(config: dict) -> Protocol:
    """A protocol from `as_dict`, with or without the digest of a metrics row.

    Raises ValueError for unknown fields and for values of another type.
    """
    known = {field.name for field in fields(Protocol)}
    unknown = set(config) - known - {"digest"}
    if unknown:
        raise ValueError(f"unknown protocol fields: {', '.join(sorted(unknown))}")
    for name, kind in get_type_hints(Protocol).items():
        if not _fits(config.get(name), kind):
            raise ValueError(f"protocol field {name} cannot be {config[name]!r:.40}")
    return Protocol(**{name: value for name, value in config.items() if name in known})


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of a field's type: a plain one, a Literal, or a union of such."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_args(kind):
        return any(_fits(value, one) for one in get_args(kind))
    if kind is float:
        return type(value) in (int, float) and -math.inf < value < math.inf
    return type(value) is kind
