"""What a question of `mcd bench` is made of: benchmarks, each of which measures one row of the table."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""name, ours_s, peers_s, ratio, ours_bytes, peers_bytes (None for what was not measured), and more, by question."""


@dataclass(frozen=True)
class Benchmark:
    """One row to measure. `seconds`: about how long that takes on two cores. `full`: only on request."""

    name: str
    seconds: float
    measure: Callable[[], Row] = field(repr=False)
    full: bool = False


def row(
    name: str,
    ours_s: float | None = None,
    peers_s: float | None = None,
    ours_bytes: int | None = None,
    peers_bytes: int | None = None,
    **more: Any,
) -> Row:
    """A row; `ratio` is peers_s / ours_s, how many times faster ours is."""
    ratio = peers_s / ours_s if ours_s and peers_s else None
    first = {"name": name, "ours_s": ours_s, "peers_s": peers_s, "ratio": ratio}
    return {**first, "ours_bytes": ours_bytes, "peers_bytes": peers_bytes, **more}


def median_and_spread(seconds: list[float]) -> tuple[float, float]:
    """The median, and (largest - smallest) / median."""
    median = statistics.median(seconds)
    return median, (max(seconds) - min(seconds)) / median
