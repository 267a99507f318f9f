"""Command lines from dataclasses (by tyro): options flattened, faults raised as `UsageError`."""

import contextlib
import errno
import inspect
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass, make_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, get_args

import tyro
from annotated_types import Ge, Le

from mcd.cli.command_line import arguments_of, why_unreadable
from mcd.cli.errors import nearest
from mcd.errors import ModelError, UsageError
from mcd.options import interval

T = TypeVar("T")
Flat = Annotated[T, tyro.conf.arg(name="")]
"""A nested dataclass whose fields are options of the command itself."""
Threads = Annotated[int, Ge(1), Le(1024)]
"""A number of threads that a machine may have."""


def parse(
    kind: type[T],
    argv: list[str],
    command: str,
    default: T | None = None,
    owners: Mapping[str, str] = MappingProxyType({}),
    about: str = "",
) -> T:
    """Read `argv` into `kind`. For `--help`, print its docstring, `about`, and every option, and exit with 0.

    default: values to start from. A nested dataclass of it may be of a subclass of what `kind` says, and the options
    are then those of the subclass. owners: options that this command line cannot take, and whose they are. Raises
    UsageError for what cannot be read, and when a value is refused by the dataclass that takes it.
    """
    _show_bounds(kind, default)
    whole = make_dataclass("Command", [("args", Flat[kind])])  # tyro frames a ValueError of the outermost class itself
    said = io.StringIO()
    try:
        with refused(), contextlib.redirect_stderr(said):
            args = tyro.cli(
                whole,
                args=argv,
                prog=f"mcd {command}",
                description=f"{inspect.cleandoc(kind.__doc__ or '')}\n\n{about}".strip(),
                default=None if default is None else whole(default),
                config=(tyro.conf.OmitArgPrefixes,),
            ).args  # type: ignore[attr-defined]
    except SystemExit as stop:
        why = why_unreadable(argv, arguments_of(kind, default), owners) if stop.code else None
        if why is None:
            print(said.getvalue(), end="", file=sys.stderr)
            raise
        raise UsageError(f"{why} (mcd {command} --help)") from None
    print(said.getvalue(), end="", file=sys.stderr)
    return args


@contextlib.contextmanager
def naming(option: str, value: str) -> Iterator[None]:
    """Around the reading of what an option names: a refusal of it begins with the option and `value`."""
    try:
        yield
    except ModelError as error:
        said = str(error)
        if said.startswith("--"):
            raise
        rest = said.removeprefix(value) if said.startswith(f"{value}: ") else f": {said}"
        raise ModelError(f"{option} {value}{rest}") from None


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Around a call that raises ValueError for an option's value and nothing else: the user gets a UsageError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from None


def _show_bounds(kind: type, default: Any = None) -> None:
    """Let `--help` show what each option of a dataclass, and of those nested in it, must be (`mcd.options`)."""
    for owner in kind.__mro__:
        for name, hint in inspect.get_annotations(owner).items():
            parts = (hint, *get_args(hint))
            if any(getattr(part, "help_behavior_hint", None) for part in parts):
                continue  # of an earlier call
            nested = next((one for one in parts if isinstance(one, type) and is_dataclass(one)), None)
            if nested is not None:
                given = getattr(default, name, None)
                _show_bounds(type(given) if isinstance(given, nested) else nested, given)
            elif words := " ".join(dict.fromkeys(filter(None, map(interval, parts)))):
                shown = tyro.conf.arg(help_behavior_hint=lambda default, words=words: f"({words}; default: {default})")
                owner.__annotations__[name] = Annotated[hint, shown]


def choose(word: str, known: Mapping[str, T], what: str, listed: str | None = None) -> T:
    """known[word], or UsageError that names the nearest. what: how the message begins, such as "--sampler".

    listed: what is known, in words; by default all names.
    """
    if word not in known:
        known_are = ", ".join(known) if listed is None else listed
        raise UsageError(f"{what} {word}: is not known{nearest(word, known)}; known are {known_are}")
    return known[word]


def peek(argv: list[str], option: str) -> str | None:
    """The value of an option before the command line is parsed, since it decides other options' defaults.

    Of an option given twice it is the last one, as everywhere.
    """
    found = None
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            found = argv[i + 1]
        if word.startswith(option + "="):
            found = word.split("=", 1)[1]
    return found


def set_threads(threads: int | None) -> None:
    """Set the number of torch's threads; None uses all cores."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def check_out(out: Path, folder: bool = False, option: str = "--out") -> None:
    """See before long work that a file (or a folder) can be made at `out`; nothing is left behind. `option` names it.

    Raises UsageError where the path is of another kind or below no folder, OSError where the system lets nobody write.
    """
    kind = "folder" if folder else "file"
    try:
        if not folder and out.is_dir():
            raise UsageError(f"{option} {out}: is a folder; name a file in it")
        if out.exists() and not (out.is_dir() if folder else out.is_file()):
            raise UsageError(
                f"{option} {out}: is there and is no {'folder' if folder else 'regular file'}; name another"
            )
        if len(os.fsencode(out.name)) > 240:  # of 255, for the names of temporary files
            raise UsageError(f"{option} {out}: its name is too long; name a shorter one")
        parent = out if folder else out.parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir():
            raise UsageError(f"{option} {out}: {parent} is no folder a {kind} can be made in; name another")
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise OSError(error.errno, error.strerror, str(out)) from None
        raise UsageError(f"{option} {out}: no {kind} can be made there ({error.strerror}); name another") from None


def check_empty(out: Path, option: str) -> None:
    """Raise UsageError for a folder that holds something; `option`, with its value, begins the message."""
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{option}: is not empty; name a new folder")


def show_dry_run(value: Any) -> int:
    """Print the resolved configuration as JSON, for `--dry-run`."""
    import json

    json.dump(value, sys.stdout, indent=2)
    print()
    return 0


def with_names(args: type, names: Mapping[str, str]) -> str:
    """The docstring of a command's options, which is its help, with the list of what NAME may be."""
    width = max(12, *(len(name) + 2 for name in names))
    lines = "".join(f"      {name:{width}}{what}\n" for name, what in names.items())
    return f"{args.__doc__ or ''}\n    NAME:\n{lines}"
