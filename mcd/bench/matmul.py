"""How much of a distillation step is matrix products, and how near are they to what this machine can do?

The products of one step are found by torch.profiler (operators, shapes, times). Each shape is then timed alone, in
every layout that PyTorch and oneDNN offer; the best is its peak. `*_share` is the part of the profiled step's time
that is in products, `*_gflops` their rate in the step, `*_peak_gflops` what the same products would reach at their
peaks, and `large_gflops` the rate of one product of 4096 x 4096 by 4096 x 4096.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from mcd.bench.benchmark import Benchmark, Row, row
from mcd.bench.models import SMALL, Size
from mcd.bench.products import LARGE, Product
from mcd.bench.worker import Pair


def benchmarks() -> Iterator[Benchmark]:
    """The MCD step of both sides at two shapes."""
    for batch, length, full in ((2, 256, False), (1, 1024, True)):
        name = f"matmul_step_mcd_b{batch}_l{length}"
        yield Benchmark(name, 75, partial(measure, name, replace(SMALL, length=length), batch), full=full)


def measure(name: str, size: Size, batch: int, large: int = LARGE) -> Row:
    """One row; `ours_s` and `peers_s` are the seconds of a step."""
    more: dict[str, Any] = {"batch": batch, "length": size.length, "rows": size.rows}
    with Pair() as pair:
        pair.ask("build", size=size, batch=batch, method="mcd", options={})
        pair.ask("step", seed=0)
        steps = pair.repeat(3, "step")
        seconds = {side: sorted(step["seconds"] for step in taken)[1] for side, taken in steps.items()}
        for side, (products, profiled) in pair.ask("products", seed=4).items():
            best = [p.count * pair.workers["ours"].ask("best_seconds", product=p) for p in products]
            flops, taken = sum(p.flops for p in products), sum(p.seconds for p in products)
            more |= {
                f"{side}_gflop": flops / 1e9,
                f"{side}_products_s": taken,
                f"{side}_share": taken / profiled,
                f"{side}_gflops": flops / taken / 1e9,
                f"{side}_peak_gflops": flops / sum(best) / 1e9,
                f"{side}_of_peak": sum(best) / taken,
            }
        plain = Product("mm", 1, large, large, large, 1, 0.0)
        more["large_gflops"] = plain.flops / pair.workers["ours"].ask("best_seconds", product=plain) / 1e9
    return row(name, seconds["ours"], seconds["peers"], **more)
