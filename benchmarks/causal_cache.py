"""What do kept keys and values save an autoregressive model? Seconds for a token of a row, with them and without.

DiT-small, V = 50,258, one thread, in seconds of the processor. With them: a call reads one position of each of its
rows, at the beginning, middle and end of the rows (the mean). Without: a call computes whole rows for one token each.
Both make logits of the wanted position only.

    python benchmarks/causal_cache.py --length 256 1024
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from mcd.bench.models import SMALL
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.reader import rows_to_read

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--length", type=int, nargs="+", default=[256])
parser.add_argument("--repeats", type=int, default=3)
args = parser.parse_args()


def seconds(work: Callable[[], object]) -> float:
    """The median time of the processor, after a call to warm up."""
    taken = []
    for _ in range(args.repeats + 1):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken[1:])


@torch.inference_mode()
def measure(length: int) -> None:
    """Print what a token costs for rows of `length`."""
    torch.manual_seed(0)
    size = replace(SMALL, length=length, causal=True)
    model = Denoiser(DenoiserConfig(size, size.rows - 1)).eval()
    whole_rows, rows = model.shapes.call_rows(length), rows_to_read(size, length, model.shapes)
    ids = torch.randint(size.rows, (max(rows, whole_rows), length))
    z, where = ids[:whole_rows], torch.arange(whole_rows) * length + length // 2
    without = seconds(lambda: model.logits(model.hidden(z, torch.zeros(whole_rows), rows=where)))
    found = []
    for start in (1, length // 2, length - args.repeats - 1):
        reader = model.reader(rows, length)
        reader.read(ids[:rows, :start])
        found.append(seconds(lambda reader=reader: model.logits(reader.read(ids[:rows, -1:]))))
    call = statistics.mean(found)
    print(f"length {length}: without, {without:.3f} s for a call of {whole_rows} rows; with, {call:.3f} s for {rows}")
    many = without / whole_rows * rows / call
    print(f"  a row alone: {without / call:.1f} times as fast; {rows} rows: {many:.0f} times")


torch.set_num_threads(1)
for length in args.length:
    measure(length)
