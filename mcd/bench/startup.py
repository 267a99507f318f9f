"""How long do the first commands take? Fresh processes, medians of five."""

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mcd
from mcd.bench.benchmark import Benchmark, Row, median_and_spread, row

KINDS = {
    "startup_python": ["-c", ""],
    "startup_help": ["-m", "mcd", "--help"],
    "startup_import_mcd": ["-c", "import mcd"],
    "startup_import_torch": ["-c", "import torch"],
    "startup_import_mcd_denoiser": ["-c", "import mcd; mcd.Denoiser"],
}
"""The program of each row: an empty one, the help, the bare package, only torch, and the package with its network."""
REPEATS = 5


def benchmarks() -> Iterator[Benchmark]:
    """One of each kind."""
    for name in KINDS:
        yield Benchmark(name, 5, partial(measure, name))


def measure(name: str) -> Row:
    """One row, in seconds of the whole process."""
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        folder = Path(mcd.__file__).parents[1]  # so that this very package is imported
        subprocess.run([sys.executable, *KINDS[name]], check=True, capture_output=True, cwd=folder)
        taken.append(time.perf_counter() - started)
    seconds, spread = median_and_spread(taken)
    return row(name, seconds, ours_spread=spread, how=" ".join(["python", *KINDS[name]]))
