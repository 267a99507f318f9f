"""The parts of result pages: tables, columns for numbers of steps, sections, and numbers that may be missing."""

from collections.abc import Callable, Iterable
from typing import Any

from mcd.table import markdown_table

Row = dict[str, Any]
Column = tuple[str, str | Callable[[Row], str]]
"""A heading, and a cell: a format string of the row's fields, or a function of the row."""


def table(rows: Iterable[Row], *columns: Column) -> str:
    """A table with a line for each row."""
    cells = [[cell.format_map(row) if isinstance(cell, str) else cell(row) for _, cell in columns] for row in rows]
    return markdown_table([heading for heading, _ in columns], cells)


def a_column_each_step(
    rows: list[Row], headings: list[str], name: Callable[[Row], tuple[str, ...]], heading: str, cell: str
) -> str:
    """A line for each name, with a column for each number of steps."""
    steps = sorted({row["steps"] for row in rows})
    lines: dict[tuple[str, ...], dict[int, Row]] = {}
    for row in rows:
        lines.setdefault(name(row), {})[row["steps"]] = row
    cells = [[*names, *(cell.format_map(at[n]) if n in at else "" for n in steps)] for names, at in lines.items()]
    return markdown_table([*headings, *(heading.format(steps=n) for n in steps)], cells)


def sections(parts: dict[str, str]) -> str:
    """Parts under their headings."""
    return "\n".join(f"## {heading}\n\n{text}" for heading, text in parts.items())


def by_steps(rows: Iterable[Row]) -> list[Row]:
    """Rows of few steps first."""
    return sorted(rows, key=lambda row: row["steps"])


def interval(row: Row, prefix: str) -> str:
    """The value of a row's measure with its interval, from the keys that begin with `prefix`."""
    value, lo, hi = (row[f"{prefix}{key}"] for key in ("value", "lo", "hi"))
    if value is None:
        return "not reached"
    form = ",.0f" if row["measure"] == "gen_ppl" else ".3f"
    return f"{value:{form}}" + (f" ({lo:{form}} to {hi:{form}})" if lo is not None else "")


def fixed(value: float | None, digits: int = 3) -> str:
    """A number of so many digits; nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"
