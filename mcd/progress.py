"""Progress of long work: a bar with the time left on a terminal, a line every 15 seconds elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

INTERVAL_S = 15.0
"""Shortest time between two lines."""


class Update(Protocol):
    """Shows how much is done, in [0, 1], with a remark. It may be called as often as you like."""

    def __call__(self, fraction: float, note: str = "") -> None: ...


@contextmanager
def progress_bar(title: str) -> Iterator[Update]:
    """An `Update` on stderr for the length of a `with` block. Of the processes of a job only the first one shows it."""
    console = Console(stderr=True)
    if os.environ.get("RANK", "0") != "0":
        yield lambda fraction, note="": None
    elif not console.is_terminal:
        yield _lines(title)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        with Progress(*columns, *times, console=console) as progress:
            task = progress.add_task(title, total=1.0, note="")
            yield lambda fraction, note="": progress.update(task, completed=fraction, note=note)


def _lines(title: str) -> Update:
    printed_s = time.monotonic()
    start: tuple[float, float] | None = None

    def update(fraction: float, note: str = "") -> None:
        nonlocal printed_s, start
        now = time.monotonic()
        start = start or (fraction, now)
        if now - printed_s < INTERVAL_S and fraction < 1.0:
            return
        printed_s = now
        left = ""
        if fraction > start[0]:
            minutes, seconds = divmod(round((now - start[1]) * (1 - fraction) / (fraction - start[0])), 60)
            left = f", {minutes}:{seconds:02d} left"
        print(f"{title}: {fraction:4.0%}{left}  {note}", file=sys.stderr, flush=True)

    return update
