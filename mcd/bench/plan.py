"""How near does the estimate of `mcd plan` come to MCD steps on this CPU, in memory and time?

`ours_s` and `ours_bytes` are measured: the seconds of a step, and its peak above the memory between two steps.
`held_bytes` is what is in memory between two steps. `estimated_*` are the same by `mcd.training.estimate`.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from mcd.bench.benchmark import Benchmark, Row, median_and_spread, row
from mcd.bench.models import SMALL, Size
from mcd.bench.worker import Pair

TINY = Size(rows=2_049, length=128, hidden=192, layers=6, heads=3, cond_dim=16)
MIDDLE = Size(rows=8_193, hidden=512, layers=8, heads=8)


def benchmarks() -> Iterator[Benchmark]:
    """Three sizes; larger batches, activation checkpointing and dropout."""
    dropout = replace(MIDDLE, dropout=0.1)
    yield Benchmark("plan_4m_b16_l128", 15, partial(measure, "plan_4m_b16_l128", TINY, 16))
    for name, seconds, size, batch, checkpointing in (
        ("plan_4m_b64_l128", 30, TINY, 64, False),
        ("plan_33m_b8_l256", 45, MIDDLE, 8, False),
        ("plan_33m_b8_l256_checkpointing", 50, MIDDLE, 8, True),
        ("plan_33m_b8_l256_dropout", 45, dropout, 8, False),
        ("plan_169m_b2_l256", 45, SMALL, 2, False),
        ("plan_169m_b8_l256", 120, SMALL, 8, False),
    ):
        yield Benchmark(name, seconds, partial(measure, name, size, batch, checkpointing), full=True)


def measure(name: str, size: Size, batch: int, checkpointing: bool = False) -> Row:
    """One row."""
    from mcd.model.sizes import sizes_of
    from mcd.training.estimate import HELD, UTILISATION, Setup, measured_cpu, memory, seconds

    setup = Setup(sizes_of(size), batch, size.length, checkpointing=checkpointing, on_cpu=True)
    terms = memory(setup)
    held = sum(terms[term] for term in HELD)
    more = {
        "batch": batch,
        "length": size.length,
        "parameters": setup.parameters,
        "estimated_s": seconds(setup, measured_cpu(setup.precision), UTILISATION["cpu"])["step"],
        "estimated_bytes": terms["peak"] - held,
        "estimated_held_bytes": held,
    }
    with Pair(peers=None) as pair:
        before = pair.ask("resident")["ours"]
        pair.ask("build", size=size, batch=batch, method="mcd", options={"checkpointing": checkpointing})
        pair.ask("step", seed=0)
        more["held_bytes"] = pair.ask("resident")["ours"] - before
        above = pair.ask("memory", seed=0)["ours"]["total"]
        step_s, _ = median_and_spread([step["seconds"] for step in pair.repeat(3, "step")["ours"]])
    return row(name, step_s, ours_bytes=above, **more)
