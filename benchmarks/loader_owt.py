"""What does the loader take at OpenWebText's size: 9 million rows of 1,024 in 36 shards, batches of 512?

The shards are sparse files, so that disks do not count: what is measured is what the loader computes.

    python benchmarks/loader_owt.py [--rows 9000000] [--out FILE]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mcd.data.loader import Loader
from mcd.data.prepare.pipeline import SHARD_TOKENS
from mcd.data.tokens import Tokens, mapped
from mcd.machine import machine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=9_000_000)
parser.add_argument("--out", type=Path)
args = parser.parse_args()


def batch_seconds(loader: Loader, steps: range) -> float:
    """Median wall-clock time of a batch."""
    taken = []
    for step in steps:
        began = time.perf_counter()
        loader.batch(step)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def own_bytes() -> int:
    """Memory of this process that is no mapped file."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))


with tempfile.TemporaryDirectory() as folder:
    parts, left = [], args.rows * 1022
    while left:
        size = min(left, SHARD_TOKENS)
        path = Path(folder) / f"{len(parts)}.bin"
        with path.open("wb") as file:
            file.truncate(2 * size)
        parts.append(mapped(path, np.dtype(np.uint16)))
        left -= size
    loader = Loader(Tokens(parts), 1024, 512, eos_id=50_256, wrap=True)
    before, last = own_bytes(), loader.rows // 512
    row = {
        "rows": loader.rows,
        "shards": len(parts),
        "first_batch_s": batch_seconds(loader, range(1)),
        "batch_s": batch_seconds(loader, range(1, 51)),
        "bytes_of_an_epochs_order": own_bytes() - before,
        "next_epoch_s": batch_seconds(loader, range(last + 1, last + 2)),
    }
    del loader, parts
print(json.dumps(row, indent=1))
if args.out:
    shown = " ".join(["python benchmarks/loader_owt.py", *sys.argv[1:]])
    value = {"command": shown, "note": "the machine was shared", "machine": machine(), "rows": [row]}
    args.out.write_text(json.dumps(value, indent=1) + "\n")
