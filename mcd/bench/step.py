"""What does a distillation step cost, in time and in memory, our way and the peers' way?

DiT-small, float32, V = 50,258 rows of the embedding. A step is the loss of student and teacher, the backward pass,
clipping, AdamW and the average of the weights. Student and teacher have unlike random weights, the same on both sides;
rows and draws (t, u) are the same too, so the losses must agree. `*_bytes` is the peak above weights, optimiser and
gradients (`memory.AboveGradients`), `*_peak_bytes` the peak above what is there between two steps, gradients included.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from mcd.bench.cell import Cell, Pair, Row, median_and_spread, row
from mcd.bench.models import SMALL, Size

SHAPES = ((2, 256), (1, 1024))
FEW_ROWS = 1_024
"""Rows of the embedding of the network that tells what part of the memory grows with V."""


def cells() -> Iterator[Cell]:
    """MCD on both sides, and with activation checkpointing on ours; what grows with V; SDTT and Duo-DCD of this tool.

    In full also: dropout as in training; the peers with our allocator settings, and further with our matrix products,
    which tells what of the ratio comes from those; and longer rows.
    """
    for batch, length in SHAPES:
        size, shape = replace(SMALL, length=length), f"b{batch}_l{length}"
        cost = 90 if length == SHAPES[0][1] else 150
        yield Cell(f"step_mcd_{shape}", cost, partial(measure, f"step_mcd_{shape}", size, batch))
    batch, length = SHAPES[0]
    shape = f"b{batch}_l{length}"
    name = f"step_mcd_growing_with_v_{shape}"
    yield Cell(name, 90, partial(measure_growth, name, SMALL, batch))
    for key, method in (("sdtt", "sdtt"), ("duo", "duo-dcd")):
        size = replace(SMALL, process="uniform") if key == "duo" else SMALL
        name = f"step_{key}_{shape}"
        yield Cell(name, 40, partial(measure, name, size, batch, method, peers=None))
    name, options = f"step_mcd_checkpointing_{shape}", {"checkpointing": True}
    yield Cell(name, 35, partial(measure, name, SMALL, batch, peers=None, options=options))
    name = f"step_mcd_dropout_{shape}"
    yield Cell(name, 90, partial(measure, name, replace(SMALL, dropout=0.1), batch), full=True)
    name = f"step_mcd_same_allocator_{shape}"
    yield Cell(name, 90, partial(measure, name, SMALL, batch, peers=True), full=True)
    name, options = f"step_mcd_same_libraries_{shape}", {"our_linear": True}
    yield Cell(name, 90, partial(measure, name, SMALL, batch, peers=True, options=options), full=True)
    name, options = "step_mcd_checkpointing_b1_l1024", {"checkpointing": True}
    yield Cell(name, 60, partial(measure, name, replace(SMALL, length=1024), 1, peers=None, options=options), full=True)
    for key, method in (("sdtt", "sdtt"), ("duo", "duo-dcd")):
        size = replace(SMALL, length=1024, process="uniform" if key == "duo" else "masked")
        name = f"step_{key}_b1_l1024"
        yield Cell(name, 60, partial(measure, name, size, 1, method, peers=None), full=True)


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
