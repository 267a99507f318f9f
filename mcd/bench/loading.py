"""Does the loader keep up with the model?

Seconds the loader takes for a batch of rows of a memory-mapped file, against a training step on such a batch; `share`
is the first over the second. The demo's network is small and so the harder case.
"""

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mcd.bench.cell import Cell, Pair, Row, median_and_spread, row
from mcd.bench.models import SMALL, Size

TOKENS = 20_000_000
BATCHES = 200
DEMO = Size(rows=2_049, length=128, hidden=192, layers=6, heads=3, cond_dim=16)


def cells() -> Iterator[Cell]:
    """A network of the demo's size, and DiT-small."""
    yield Cell("loading_demo_b32_l128", 15, partial(measure, "loading_demo_b32_l128", DEMO, 32))
    yield Cell("loading_small_b2_l256", 25, partial(measure, "loading_small_b2_l256", SMALL, 2), full=True)


def measure(name: str, size: Size, batch: int, tokens: int = TOKENS) -> Row:
    """One row; `ours_s` is the loader's time for a batch."""
    import numpy as np

    from mcd.data.loader import Loader

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.bin"
        np.random.default_rng(0).integers(0, size.rows - 1, tokens).astype(np.uint16).tofile(path)
        mapped = np.memmap(path, dtype=np.uint16, mode="r")
        loader = Loader(mapped, size.length, batch, eos_id=None)
        loader.batch(0)  # draws the order of the epoch
        taken = []
        for step in range(1, BATCHES + 1):
            started = time.perf_counter()
            loader.batch(step)
            taken.append(time.perf_counter() - started)
        del loader, mapped
    with Pair(peers=None) as pair:
        pair.ask("build", size=size, batch=batch, method="nelbo", options={})
        pair.ask("step", seed=0)
        steps = [answer["seconds"] for answer in pair.repeat(5, "step")["ours"]]
    load_s, step_s = median_and_spread(taken)[0], median_and_spread(steps)[0]
    count = batch * size.length
    more = {"batch": batch, "length": size.length, "step_s": step_s, "share": load_s / step_s}
    return row(name, load_s, **more, loader_tokens_per_s=count / load_s, model_tokens_per_s=count / step_s)
