"""Progress of long work: a bar with time left on a terminal, a plain line now and then elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Watch:
    """`tell(fraction, note)` as often as you like."""

    def __init__(self, title: str, bar: Progress | None, every_s: float = 15.0):
        self.title, self.bar, self.every_s = title, bar, every_s
        self.started = time.monotonic()
        self.first: tuple[float, float] | None = None
        self.told = self.started
        self.task = bar.add_task(title, total=1.0, note="") if bar else None

    def tell(self, fraction: float, note: str = "") -> None:
        """Show how much is done, in [0, 1], and what there is to say about it."""
        now = time.monotonic()
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=fraction, note=note)
            return
        self.first = self.first or (fraction, now)
        if now - self.told >= self.every_s or fraction >= 1.0:
            self.told = now
            gained = fraction - self.first[0]
            left = f", {_span((now - self.first[1]) * (1 - fraction) / gained)} left" if gained > 0 else ""
            print(f"{self.title}: {fraction:4.0%}{left}  {note}", file=sys.stderr, flush=True)


def _span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


class Mute(Watch):
    """Tells nothing."""

    def tell(self, fraction: float, note: str = "") -> None:
        """Say nothing."""


@contextmanager
def watching(title: str) -> Iterator[Watch]:
    """A `Watch` on stderr for the length of a `with` block; of the processes of a job only the first one's tells."""
    if os.environ.get("RANK", "0") != "0":
        yield Mute(title, None)
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Watch(title, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, *times, console=console) as bar:
        yield Watch(title, bar)
