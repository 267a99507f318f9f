"""Command lines from dataclasses (by tyro): options flattened, faults told as `UsageError`."""

import inspect
import sys
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import tyro

from mcd.app.cli import nearest
from mcd.app.errors import UsageError

T = TypeVar("T")
Flat = Annotated[T, tyro.conf.arg(name="")]
"""A nested dataclass whose fields are options of the command itself."""


def parse(kind: type[T], argv: list[str], command: str, default: T | None = None) -> T:
    """Read `argv` into `kind`; `--help` shows its docstring and every option. Exits with 2 on an unknown option.

    Raises UsageError when a value is refused by the dataclass that takes it.
    """
    try:
        return tyro.cli(  # type: ignore[return-value]
            kind,
            args=argv,
            prog=f"mcd {command}",
            description=inspect.cleandoc(kind.__doc__ or ""),
            default=default,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def choose(word: str, known: Mapping[str, T], what: str) -> T:
    """known[word], or UsageError that names the nearest."""
    if word not in known:
        raise UsageError(f"unknown {what} {word!r}{nearest(word, known)}; known: {', '.join(known)}")
    return known[word]


def peek(argv: list[str], option: str) -> str | None:
    """The value of an option before the command line is parsed, since it decides other options' defaults."""
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(option + "="):
            return word.split("=", 1)[1]
    return None


def show_dry_run(value: Any) -> int:
    """Print the resolved configuration as JSON, for `--dry-run`."""
    import json

    json.dump(value, sys.stdout, indent=2)
    print()
    return 0
