"""Tables on the terminal and in Markdown."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1, width: int | None = None
) -> None:
    """Print rows of text. The first `names` columns are names, on the left; the others are numbers, on the right.

    width: the most characters of the first column; longer names are cut. Without it, it is as wide as it must be.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for i, heading in enumerate(headings):
        most = width if i == 0 else None
        table.add_column(
            heading, justify="left" if i < names else "right", no_wrap=True, overflow="ellipsis", max_width=most
        )
    for row in rows:
        table.add_row(*row)
    Console(markup=False).print(table)  # names of folders are no markup


def is_number(value: Any) -> TypeGuard[int | float]:
    """A finite number, and no bool: what of a file that may hold anything can stand in a table."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; it ends with a line break."""
    heading, *lines = (f"| {' | '.join(line)} |\n" for line in (headings, *rows))
    return "".join((heading, "|" + "---|" * len(headings) + "\n", *lines))


def shown(value: Any, form: str = "") -> str:
    """A value as a cell of a table; "-" for None."""
    return "-" if value is None else f"{value:{form}}"
