"""How does the cost of a distillation step and of sampling grow with the vocabulary, the length, the batch, the steps?

A smaller network (4 blocks of width 256), so that what grows is seen and large cells stay short; one of V, L and B is
changed at a time. Steps and samples are measured as in `step` and `sampling`.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from mcd.bench.cell import Cell
from mcd.bench.models import Size
from mcd.bench.sampling import measure as measure_sampling
from mcd.bench.step import measure as measure_step

BASE = Size(hidden=256, layers=4, heads=4, length=256)
BATCH = 2


def cells() -> Iterator[Cell]:
    """V from 1k to 128k, L from 64 to 1024, B from 1 to 8 for a step; 8 to 256 steps for sampling."""
    for rows in (1_024, 8_192, 32_768, 131_072):
        name = f"scale_step_v{rows}"
        yield Cell(name, 18, partial(measure_step, name, replace(BASE, rows=rows), BATCH))
    for length in (64, 1024):
        name = f"scale_step_l{length}"
        yield Cell(name, 18, partial(measure_step, name, replace(BASE, length=length), BATCH))
    for batch in (1, 8):
        name = f"scale_step_b{batch}"
        yield Cell(name, 18, partial(measure_step, name, BASE, batch))
    for steps in (8, 64, 256):
        name = f"scale_sample_steps{steps}"
        first = None if steps == 8 else 16
        yield Cell(name, 20, partial(measure_sampling, name, BASE, 1, steps, first))
