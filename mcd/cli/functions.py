"""`mcd.train` and `mcd.distill`: the commands as Python functions. What they do, check and record is the commands'."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mcd.api.model import Model, load
from mcd.cli import distill as distill_command
from mcd.cli import train as train_command
from mcd.cli.errors import missing_extra
from mcd.errors import UsageError, WorkFailed
from mcd.options import option_name

_OF_THE_SHELL = ("dry_run", "help")


def train(*, out: str | Path, **options: Any) -> Model:
    """Train a teacher in the run folder `out`, and return it.

    options: those of `mcd train`, with underscores, such as data="my.jsonl", minutes=10, hidden=256, method="duo". A
    list gives an option several values, True and False are `--x` and `--no-x`, and None leaves an option out. A run
    that was stopped resumes when the same call, or the command in its run.json, is made again. Progress is shown on a
    terminal and in a notebook. Raises UsageError, DataError and the other errors of `mcd.errors`, which name an option
    as the command line spells it; a run that is asked to stop saves its work and raises WorkFailed.
    """
    return _run(train_command.main, [], out, options)


def distill(method: str = "mcd", *, out: str | Path, teacher: str | Path | Model = "demo", **options: Any) -> Model:
    """Distil `teacher` by a method into a student in the run folder `out`, and return the student.

    teacher: a name, or a model, which stands for its folder. options: those of `mcd distill METHOD`, such as
    rounds=2, steps_per_round=50, data="data/mine", lr=1e-4; as of `train`.
    """
    return _run(distill_command.main, [method], out, {"teacher": teacher, **options})


def _run(command: Callable[[list[str]], int], words: list[str], out: str | Path, options: dict[str, Any]) -> Model:
    with _extras_named():
        if command([*words, "--out", str(out), *words_of(options)]):
            raise WorkFailed(f"{out}: the run was stopped; call again to resume it")
    return load(str(out))


def words_of(options: dict[str, Any]) -> list[str]:
    """Options as the words of a command line."""
    words: list[str] = []
    for name, value in options.items():
        option = option_name(name)
        value = value.denoiser.folder if isinstance(value, Model) else value
        if name in _OF_THE_SHELL:
            raise UsageError(f"{option}: is for the command line")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif isinstance(value, list | tuple):
            words += [option, *map(str, value)]
        elif value is not None:
            words += [f"{option}={value}"] if str(value).startswith("-") else [option, str(value)]
    return words


@contextlib.contextmanager
def _extras_named() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if (fix := missing_extra(error)) is None:
            raise
        raise ImportError(fix, name=error.name) from None
