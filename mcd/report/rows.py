"""The rows of a metrics.json as the report reads them: of samples, and of the likelihood of text."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcd.errors import UsageError
from mcd.eval.protocol import said_by


@dataclass(frozen=True)
class Estimate:
    """A measured value and its 95 % interval; lo and hi are None where no interval was measured."""

    value: float
    lo: float | None = None
    hi: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """The interval; the value itself replaces an end that was not measured."""
        return self.value if self.lo is None else self.lo, self.value if self.hi is None else self.hi


@dataclass(frozen=True)
class MeasuredRow:
    """A row of a metrics.json: a model at one number of steps. None: not measured, or it does not apply."""

    run: str
    model: str
    round: int | None = None
    steps: int | None = None
    samples: int | None = None
    tokens: int | None = None
    nfe: float | None = None
    gen_ppl: Estimate | None = None
    entropy: Estimate | None = None
    repetition_4: float | None = None
    distinct_2: float | None = None
    temperature: float | None = None
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> tuple[float, float]:
        """The position of the row among those of its model: by steps, then by temperature."""
        return self.steps or 0, self.temperature or 0


@dataclass(frozen=True)
class LikelihoodRow:
    """A row of `mcd eval --likelihood`: a model on a text. nelbo is in nats per token, bpb in bits per byte.

    remarks: what must be known besides: which tokens count, what the bytes are of.
    """

    run: str
    model: str
    text: str
    nelbo: Estimate
    ppl: float | None
    bpb: Estimate | None
    rows: int | None
    is_exact: bool
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class MatchedRow:
    """A row of `mcd frontier`: the Gen PPL of a model and of its teacher at one entropy, in nats, that `entropy_of`
    names. None: this entropy was not reached."""

    model: str
    teacher: str
    steps: int | None
    entropy: float | None
    entropy_of: str
    own: Estimate | None
    of_teacher: Estimate | None


def is_likelihood(row: Any) -> bool:
    """Whether a row is of the likelihood of a text, and not of samples."""
    return isinstance(row, dict) and "valid_nelbo" in row


def measured_row(run: str, row: Any, where: str) -> MeasuredRow:
    """A row of samples. Raises UsageError, which begins with `where`, for one that is damaged."""
    cells = _Cells(row, where)
    protocol = said_by(mapping(row.get("protocol")))
    values: dict[str, Any] = {name: cells.whole(name) for name in ("round", "steps", "samples", "tokens")}
    values |= {name: cells.estimate(name) for name in ("gen_ppl", "entropy")}
    values |= {name: cells.number(name) for name in ("nfe", "repetition_4", "distinct_2")}
    values["temperature"] = cells.number("temperature", protocol.get("temperature"))
    return MeasuredRow(run, row["model"], protocol=protocol, **values)


def likelihood_row(run: str, row: Any, where: str) -> LikelihoodRow:
    """A row of likelihood. Raises UsageError, which begins with `where`, for one that is damaged."""
    cells = _Cells(row, where)
    nelbo, text = cells.estimate("valid_nelbo"), row.get("text")
    if nelbo is None or not isinstance(text, str):
        raise UsageError(f'{where} has no "text" or no valid_nelbo')
    remarks = (row.get("counted"), row.get("bytes_of") and f"bytes of {row['bytes_of']}")
    return LikelihoodRow(
        run,
        row["model"],
        Path(text).name,
        nelbo,
        cells.number("valid_ppl"),
        cells.estimate("valid_bpb"),
        cells.whole("rows"),
        row.get("exact") is True,
        tuple(str(remark) for remark in remarks if remark),
    )


def matched_row(row: Any, where: str) -> MatchedRow | None:
    """A row at equal entropy; None for another measure than Gen PPL. Raises UsageError for one that is damaged."""
    cells = _Cells(row, where)
    if row.get("measure") != "gen_ppl":
        return None
    own, teacher = (
        None
        if (value := cells.number(f"{prefix}value")) is None
        else Estimate(value, cells.number(f"{prefix}lo"), cells.number(f"{prefix}hi"))
        for prefix in ("", "teacher_")
    )
    names = str(row.get("teacher", "teacher")), str(row.get("entropy_of", ""))
    return MatchedRow(row["model"], names[0], cells.whole("steps"), cells.number("entropy"), names[1], own, teacher)


def mapping(value: Any) -> dict[str, Any]:
    """A value of JSON where it is an object; {} where it is not."""
    return value if isinstance(value, dict) else {}


class _Cells:
    """The numbers of a row; one that is none is refused."""

    def __init__(self, row: Any, where: str):
        if not isinstance(row, dict) or not isinstance(row.get("model"), str):
            raise UsageError(f'{where} has no "model"')
        self.row, self.where = row, where

    def number(self, name: str, default: Any = None) -> float | None:
        """None where it is missing or not finite."""
        value = self.row.get(name, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{self.where}: {name} is {value!r}, not a number")
        if value is None or not math.isfinite(value):
            return None
        if name in ("gen_ppl", "steps") and value <= 0:
            raise UsageError(f"{self.where}: {name} is {value}, which is not positive")
        return float(value)

    def whole(self, name: str) -> int | None:
        """A number without its decimals."""
        value = self.number(name)
        return None if value is None else int(value)

    def estimate(self, name: str) -> Estimate | None:
        """A number with the ends of its interval."""
        value, lo, hi = self.number(name), self.number(f"{name}_lo"), self.number(f"{name}_hi")
        return None if value is None else Estimate(value, lo, hi)
