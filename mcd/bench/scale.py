"""How does the cost of a distillation step and of sampling grow with the vocabulary, the length, the batch, the steps?

A smaller network (4 blocks of width 256), so that growth shows and large shapes take little time; one of V, L and B is
changed at a time. Steps and samples are measured as in `step` and `sampling`.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from mcd.bench import sampling, step
from mcd.bench.benchmark import Benchmark
from mcd.bench.models import Size

BASE = Size(hidden=256, layers=4, heads=4, length=256)
BATCH = 2


def benchmarks() -> Iterator[Benchmark]:
    """V from 1k to 128k, L from 64 to 1024, B from 1 to 8 for a step; 8 to 256 steps for sampling."""
    shapes = {f"v{rows}": (replace(BASE, rows=rows), BATCH) for rows in (1_024, 8_192, 32_768, 131_072)}
    shapes |= {f"l{length}": (replace(BASE, length=length), BATCH) for length in (64, 1024)}
    shapes |= {f"b{batch}": (BASE, batch) for batch in (1, 8)}
    for shape, (size, batch) in shapes.items():
        name = f"scale_step_{shape}"
        yield Benchmark(name, 18, partial(step.measure, name, size, batch))
    for steps in (8, 64, 256):
        name = f"scale_sample_steps{steps}"
        first = None if steps == 8 else 16
        yield Benchmark(name, 20, partial(sampling.measure, name, BASE, 1, steps, first))
