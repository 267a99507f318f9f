"""What does a distillation step cost, in time and in memory, our way and the peers' way?

DiT-small, float32, V = 50,258 rows of the embedding. A step is the loss of student and teacher, the backward pass,
clipping, AdamW and the average of the weights. Student and teacher have different random weights, the same on both
sides; rows and draws (t, u) are the same too, so the losses must agree. `*_bytes` is the peak above weights, optimiser
and gradients (`memory.AboveGradients`), `*_peak_bytes` the peak above the memory between two steps, gradients included.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from mcd.bench.benchmark import Benchmark, Row, median_and_spread, row
from mcd.bench.models import SMALL, Size
from mcd.bench.worker import Pair

FEW_ROWS = 1_024
"""Rows of the embedding of the network that shows which part of the memory grows with V."""


def benchmarks() -> Iterator[Benchmark]:
    """MCD on both sides, and with activation checkpointing on ours; what grows with V; SDTT and Duo-DCD of this tool.

    In full also: dropout as in training; the peers with our allocator settings, and further with our matrix products,
    which shows what of the ratio comes from those; and longer rows.
    """

    def shape(
        what: str, seconds: float, size: Size = SMALL, batch: int = 2, full: bool = False, **how: Any
    ) -> Benchmark:
        name = f"step_{what}_b{batch}_l{size.length}"
        return Benchmark(name, seconds, partial(measure, name, size, batch, **how), full)

    long, uniform = replace(SMALL, length=1024), replace(SMALL, process="uniform")
    checkpointing = {"checkpointing": True}
    growing = "step_mcd_growing_with_v_b2_l256"
    yield shape("mcd", 90)
    yield shape("mcd", 150, long, 1)
    yield Benchmark(growing, 90, partial(measure_growth, growing, SMALL, 2))
    yield shape("sdtt", 40, method="sdtt", peers=None)
    yield shape("duo", 40, uniform, method="duo-dcd", peers=None)
    yield shape("mcd_checkpointing", 35, peers=None, options=checkpointing)
    yield shape("mcd_dropout", 90, replace(SMALL, dropout=0.1), full=True)
    yield shape("mcd_same_allocator", 90, full=True, peers=True)
    yield shape("mcd_same_libraries", 90, full=True, peers=True, options={"our_linear": True})
    yield shape("mcd_checkpointing", 60, long, 1, full=True, peers=None, options=checkpointing)
    yield shape("sdtt", 60, long, 1, full=True, method="sdtt", peers=None)
    yield shape("duo", 60, replace(uniform, length=1024), 1, full=True, method="duo-dcd", peers=None)


def measure(
    name: str,
    size: Size,
    batch: int,
    method: str = "mcd",
    peers: bool | None = False,
    repeats: int = 3,
    options: dict[str, Any] | None = None,
) -> Row:
    """One row: medians of alternating steps after one to warm up, whose losses are given; then the memory of one."""
    with Pair(peers) as pair:
        parameters = pair.ask("build", size=size, batch=batch, method=method, options=options or {})["ours"]
        first = pair.ask("step", seed=0)
        answers = pair.repeat(repeats, "step")
        memory = pair.ask("memory", seed=0)
        threads = pair.ask("threads")["ours"]
    times = {side: median_and_spread([answer["seconds"] for answer in answers[side]]) for side in answers}
    more: dict[str, Any] = {"method": method, "batch": batch, "length": size.length, "rows": size.rows}
    more |= {"parameters": parameters, "threads": threads, "repeats": repeats, "dropout": size.dropout}
    for side in answers:
        more |= {f"{side}_loss": first[side]["loss"], f"{side}_spread": times[side][1]}
        more |= {f"{side}_peak_bytes": memory[side]["total"]}
    if "peers" in first and not size.dropout:
        more["losses_differ_by"] = abs(first["ours"]["loss"] / first["peers"]["loss"] - 1)
    if peers is not None:
        more["peers_allocator"] = "as ours" if peers else "as PyTorch comes"
    more |= options or {}
    seconds = {f"{side}_s": median for side, (median, _) in times.items()}
    return row(name, **seconds, **{f"{side}_bytes": memory[side]["above"] for side in memory}, **more)


def measure_growth(name: str, size: Size, batch: int, few: int = FEW_ROWS) -> Row:
    """One row without times: how much more memory a step takes with all rows of the embedding than with few."""
    above = {}
    for rows in (few, size.rows):
        with Pair() as pair:
            pair.ask("build", size=replace(size, rows=rows), batch=batch, method="mcd", options={})
            pair.ask("step", seed=0)
            above[rows] = {side: memory["above"] for side, memory in pair.ask("memory", seed=0).items()}
    grown = {f"{side}_bytes": above[size.rows][side] - above[few][side] for side in above[few]}
    how = f"memory with {size.rows} rows of the embedding, less that with {few}"
    return row(name, **grown, batch=batch, length=size.length, rows=size.rows, how=how)
