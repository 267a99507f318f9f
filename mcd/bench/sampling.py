"""What does drawing text cost, our way and the peers' way?

DiT-small, V = 50,258, float32 network and float64 draws on both sides: ours is the ancestral sampler with locked
scalars, theirs MDLM's `ddpm_cache` with float64 as in Duo's code. Both draw from the same law. Seconds are of the whole
batch. `*_nfe` are network calls per row, as each side counts them: ours leaves out rows that reveal nothing, theirs
keeps a prediction while no row of the batch changed, and makes one call more at the end.

Runs of many steps are measured by their first steps and scaled (the row says so in `how`): a token is revealed at any
step of the grid alike, so all steps cost the same on average, and the law of the number of calls is known. A step in
which a batch of B rows of L tokens reveals nothing has probability (1 - 1/N)^(B L).
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mcd.bench.benchmark import Benchmark, Row, row
from mcd.bench.models import SMALL, Size
from mcd.bench.worker import Pair

if TYPE_CHECKING:
    from mcd.bench.sides import Sampled

WHOLE = 32
"""Runs of one row with at most this number of steps are made in full."""
WINDOW = {1: 16, 8: 3}
"""Steps that are measured of longer runs, by rows of the batch."""
DEFAULT = ((256, 1, 8), (256, 1, 32), (256, 1, 256), (256, 8, 32), (256, 8, 256), (1024, 1, 32), (1024, 1, 1024))
"""(L, B, steps) of the rows that do not need `--full`."""


def benchmarks() -> Iterator[Benchmark]:
    """L of 256 and 1024, 1 and 8 rows, 8 to L steps; L = 1024 with 8 rows needs 24 GB on the peers' side."""
    for length in (256, 1024):
        for batch in (1, 8):
            for steps in (8, 32, 128, length):
                name = f"sample_l{length}_b{batch}_steps{steps}"
                first = None if batch == 1 and steps <= (WHOLE if length == 256 else 8) else WINDOW[batch]
                if length == 1024 and first == WINDOW[1]:
                    first = 6
                cost = length / 256 * batch * 1.5 * ((first or steps + 1) + 2) + 15
                size = replace(SMALL, length=length)
                yield Benchmark(
                    name, cost, partial(measure, name, size, batch, steps, first), (length, batch, steps) not in DEFAULT
                )


def measure(name: str, size: Size, batch: int, steps: int, first: int | None) -> Row:
    """One row: the whole run, or its first steps scaled. Two calls to warm up come before."""
    with Pair() as pair:
        pair.ask("build", size=size, batch=batch, method=None, options={})
        pair.ask("sample", steps=steps, seed=0, first=1)
        memory = pair.ask("sample_memory", steps=steps, seed=0, first=1)
        taken = pair.ask("sample", steps=steps, seed=1, first=first)
        last = pair.workers["peers"].ask("network_call") if first else None
    more: dict[str, Any] = {"batch": batch, "length": size.length, "steps": steps, "rows": size.rows}
    seconds, nfe = {}, {}
    seconds["ours"], nfe["ours"] = ours_of_run(taken["ours"], steps, size.length, batch)
    seconds["peers"], nfe["peers"] = peers_of_run(taken["peers"], steps, size.length, batch, last)
    more["how"] = "the whole run" if first is None else scaled(first, steps)
    more |= {f"{side}_nfe": nfe[side] for side in nfe}
    return row(name, seconds["ours"], seconds["peers"], memory["ours"], memory["peers"], **more)


def scaled(first: int, steps: int) -> str:
    """How a row says that only the first steps were made."""
    return f"the first {first} steps, scaled to {steps} by the expected number of network calls"


def ours_of_run(taken: "Sampled", steps: int, length: int, batch: int) -> tuple[float, float]:
    """Seconds and calls per row of all `steps` for a batch of rows of `length`, from those of the steps made."""
    if len(taken["seconds"]) == steps:
        return sum(taken["seconds"]), taken["nfe"]
    nfe = steps * (1 - (1 - 1 / steps) ** length)
    return sum(taken["seconds"]) / sum(taken["calls"]) * nfe * batch, nfe


def peers_of_run(taken: "Sampled", steps: int, length: int, batch: int, last: float | None) -> tuple[float, float]:
    """The same for the peers; last: seconds of a call alone, where not all steps were made."""
    if len(taken["seconds"]) == steps + 1 or last is None:
        return sum(taken["seconds"]), taken["nfe"]
    nfe = 1 + (steps - 1) * (1 - (1 - 1 / steps) ** (length * batch)) + 1
    return _peers_seconds(taken, steps, nfe - 1, last) + last, nfe


def _peers_seconds(taken: "Sampled", steps: int, calls: float, call: float) -> float:
    """Seconds of `steps` steps with `calls` calls, from the means of steps with and without one.

    call: seconds of a call alone. Where every measured step had one, a step without is taken to be one with it less
    the call.
    """
    pairs = list(zip(taken["seconds"], taken["calls"], strict=True))
    with_call = [seconds for seconds, called in pairs if called]
    without = [seconds for seconds, called in pairs if not called] or [fmean(with_call) - call]
    return calls * fmean(with_call) + (steps - calls) * fmean(without)
