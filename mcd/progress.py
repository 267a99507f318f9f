"""What long work shows: a bar with the time left on a terminal and in a notebook, a line every 15 seconds elsewhere."""

import html
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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
    """An `Update` on stderr for the length of a `with` block. Of the processes of a job only the first one shows it.

    Inside a part of a `whole_progress` it moves the bar of the whole.
    """
    part = _PART.get()
    console = Console(stderr=True, soft_wrap=True)  # only the terminal breaks the lines of a text above the bar
    if part is not None:
        yield lambda fraction, note="": part(fraction, f"{title} {note}".rstrip())
    elif os.environ.get("RANK", "0") != "0":
        yield lambda fraction, note="": None
    elif console.is_jupyter:
        yield _notebook(title)
    elif not console.is_terminal:
        yield _lines(title)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        # rich would write what is printed meanwhile to stderr, above the bar; a file or a pipe would never get it
        above = sys.stdout.isatty()
        with Progress(*columns, *times, console=console, redirect_stdout=above) as progress:
            task = progress.add_task(title, total=1.0, note="")
            yield lambda fraction, note="": progress.update(task, completed=fraction, note=note)


class Whole:
    """Work of several parts, some of which show a progress of their own: one bar for all of it (`whole_progress`)."""

    def __init__(self, update: Update, cost: float):
        self._update, self._cost, self._done = update, cost, 0.0

    @contextmanager
    def part(self, cost: float) -> Iterator[Update]:
        """A part of the work that costs so much of the whole, in any unit; it may also tell its own progress."""
        first = self._done

        def update(fraction: float, note: str = "") -> None:
            self._update(min(1.0, (first + fraction * cost) / self._cost) if self._cost else 1.0, note)

        token = _PART.set(update)
        try:
            yield update
            self._done = first + cost
            update(1.0)
        finally:
            _PART.reset(token)


@contextmanager
def whole_progress(title: str, cost: float) -> Iterator[Whole]:
    """One bar for the parts of some work, whose costs sum to `cost`: what is left is the time left of all of them."""
    with progress_bar(title) as update:
        yield Whole(update, cost)


_PART: ContextVar[Update | None] = ContextVar("part", default=None)


def notice(line: str) -> None:
    """Show a line: on stderr, or in a notebook below the cell that runs."""
    if Console().is_jupyter:
        from IPython.display import display

        display({"text/plain": line}, raw=True)
    else:
        print(line, file=sys.stderr, flush=True)


def _notebook(title: str) -> Update:
    """A bar below the cell that runs, which is redrawn in place."""
    from IPython.display import display

    handle, time_left = None, _TimeLeft()

    def update(fraction: float, note: str = "") -> None:
        nonlocal handle
        words = f"{title}: {fraction:4.0%}{time_left(fraction)}  {note}"
        bar = f"<progress value={fraction:.4f}></progress> <code>{html.escape(words)}</code>"
        shown = {"text/plain": words, "text/html": bar}
        if handle is None:
            handle = display(shown, raw=True, display_id=True)
        else:
            handle.update(shown, raw=True)

    return update


class _TimeLeft:
    """The time left in words, from how fast the work went since the first call; "" as long as that is not known."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None

    def __call__(self, fraction: float) -> str:
        now = time.monotonic()
        self._start = self._start or (fraction, now)
        if fraction <= self._start[0]:
            return ""
        minutes, seconds = divmod(round((now - self._start[1]) * (1 - fraction) / (fraction - self._start[0])), 60)
        return f", {minutes}:{seconds:02d} left"


def _lines(title: str) -> Update:
    printed_s, time_left, ended = time.monotonic(), _TimeLeft(), False

    def update(fraction: float, note: str = "") -> None:
        nonlocal printed_s, ended
        left, now = time_left(fraction), time.monotonic()
        if ended or (now - printed_s < INTERVAL_S and fraction < 1.0):
            return
        printed_s, ended = now, fraction >= 1.0
        print(f"{title}: {fraction:4.0%}{left}  {note}", file=sys.stderr, flush=True)

    return update
