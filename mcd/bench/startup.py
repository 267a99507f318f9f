"""How long until something happens? Fresh processes, medians of five."""

import subprocess
import sys
import time
from collections.abc import Iterator

from mcd.bench.cell import Cell, Row, median_and_spread, row
from mcd.bench.worker import child_environment

KINDS = {
    "startup_python": ["-c", ""],
    "startup_help": ["-m", "mcd", "--help"],
    "startup_import_mcd": ["-c", "import mcd"],
    "startup_import_torch": ["-c", "import torch"],
    "startup_import_mcd_denoiser": ["-c", "import mcd; mcd.Denoiser"],
}
"""What each row runs: an empty program, the help, the bare package, torch alone, and the package with its network."""
REPEATS = 5


def cells() -> Iterator[Cell]:
    """A cell of each kind."""
    for name in KINDS:
        yield Cell(name, 5, lambda name=name: measure(name))


def measure(name: str) -> Row:
    """One row, in seconds of the whole process."""
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run([sys.executable, *KINDS[name]], check=True, capture_output=True, env=child_environment())
        taken.append(time.perf_counter() - started)
    seconds, spread = median_and_spread(taken)
    return row(name, seconds, ours_spread=spread, how=" ".join(["python", *KINDS[name]]))
