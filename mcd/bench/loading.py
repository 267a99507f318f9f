"""Does the loader keep up with the model?

Seconds the loader takes for a batch of rows of a memory-mapped file, against a training step on such a batch; `share`
is the first over the second. The demo's network is small and so the harder case. `loading_owt` is only the loader, at
OpenWebText's size: 9 million rows of 1,024 tokens in shards that are sparse files, so that disks do not count.
"""

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mcd.bench.benchmark import Benchmark, Row, median_and_spread, row
from mcd.bench.memory import resident
from mcd.bench.models import SMALL, Size
from mcd.bench.worker import Pair

if TYPE_CHECKING:
    from mcd.data.loader import Loader

TOKENS = 20_000_000
BATCHES = 200
DEMO = Size(rows=2_049, length=128, hidden=192, layers=6, heads=3, cond_dim=16)
OWT_ROWS, OWT_BATCH, OWT_LENGTH = 9_000_000, 512, 1024


def benchmarks() -> Iterator[Benchmark]:
    """A network of the demo's size, and DiT-small; the loader of OpenWebText."""
    yield Benchmark("loading_demo_b32_l128", 15, partial(measure, "loading_demo_b32_l128", DEMO, 32))
    yield Benchmark("loading_small_b2_l256", 25, partial(measure, "loading_small_b2_l256", SMALL, 2), full=True)
    yield Benchmark("loading_owt_b512_l1024", 60, partial(measure_owt, "loading_owt_b512_l1024"), full=True)


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
        load_s = _batch_seconds(loader, range(1, BATCHES + 1))
        del loader, mapped
    with Pair(peers=None) as pair:
        pair.ask("build", size=size, batch=batch, method="nelbo", options={})
        pair.ask("step", seed=0)
        step_s, _ = median_and_spread([answer["seconds"] for answer in pair.repeat(5, "step")["ours"]])
    count = batch * size.length
    more = {"batch": batch, "length": size.length, "step_s": step_s, "share": load_s / step_s}
    return row(name, load_s, **more, loader_tokens_per_s=count / load_s, model_tokens_per_s=count / step_s)


def measure_owt(name: str, rows: int = OWT_ROWS) -> Row:
    """One row: the time of a batch, and what the order of an epoch takes."""
    import numpy as np

    from mcd.data.loader import Loader
    from mcd.data.prepare.pipeline import SHARD_TOKENS
    from mcd.data.tokens import Tokens, mapped

    with tempfile.TemporaryDirectory() as folder:
        parts, left = [], rows * (OWT_LENGTH - 2)
        while left:
            path, size = Path(folder) / f"{len(parts)}.bin", min(left, SHARD_TOKENS)
            with path.open("wb") as file:
                file.truncate(2 * size)
            parts.append(mapped(path, np.dtype(np.uint16)))
            left -= size
        loader = Loader(Tokens(parts), OWT_LENGTH, OWT_BATCH, eos_id=50_256, wrap=True)
        before, last = resident(), loader.rows // OWT_BATCH
        more = {
            "rows": loader.rows,
            "shards": len(parts),
            "first_batch_s": _batch_seconds(loader, range(1)),
            "order_of_an_epoch_bytes": resident() - before,
            "batch_s": _batch_seconds(loader, range(1, 51)),
            "next_epoch_s": _batch_seconds(loader, range(last + 1, last + 2)),
        }
        del loader, parts
    return row(name, more["batch_s"], batch=OWT_BATCH, length=OWT_LENGTH, **more)


def _batch_seconds(loader: "Loader", steps: range) -> float:
    """Median time of a batch."""
    taken = []
    for step in steps:
        started = time.perf_counter()
        loader.batch(step)
        taken.append(time.perf_counter() - started)
    return median_and_spread(taken)[0]
