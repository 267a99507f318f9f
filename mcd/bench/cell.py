"""What a benchmark is made of: cells, each of which measures one row of the table."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from mcd.bench.worker import Worker

Row = dict[str, Any]
"""name, ours_s, peers_s, ratio, ours_bytes, peers_bytes (None where there is nothing), and what else a question has."""


@dataclass(frozen=True)
class Cell:
    """One row to be measured. `seconds`: about how long that takes on two cores. `full`: only on request."""

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


class Pair:
    """A worker of ours and, unless there is nothing to compare with, one of the peers; both asked in turn.

    peers: None for none; else whether the peers' malloc keeps freed blocks, as ours does.
    """

    def __init__(self, peers: bool | None = False):
        self._stack = ExitStack()
        self.workers: dict[str, Worker] = {}
        try:
            self.workers["ours"] = self._stack.enter_context(Worker("ours"))
            if peers is not None:
                self.workers["peers"] = self._stack.enter_context(Worker("peers", keeps_blocks=peers))
        except BaseException:
            self._stack.close()
            raise

    def ask(self, request: str, /, **options: Any) -> dict[str, Any]:
        """The answers of "ours" and "peers", which work one after the other."""
        return {side: worker.ask(request, **options) for side, worker in self.workers.items()}

    def repeat(self, repeats: int, request: str, /, **options: Any) -> dict[str, list[Any]]:
        """So many answers of each side, the sides taking turns; the request is given `seed` from 1 on."""
        answers = [self.ask(request, seed=seed, **options) for seed in range(1, repeats + 1)]
        return {side: [answer[side] for answer in answers] for side in self.workers}

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
