"""What cannot be read of a command line is reported in one line that names the option, with exit status 2."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from mcd.cli.arguments import Flat, parse
from mcd.cli.command_line import Argument, arguments_of, options_of, owners_of, why_unreadable
from mcd.cli.main import COMMANDS, main
from mcd.errors import UsageError
from mcd.options import Count, Options


@dataclass(frozen=True)
class Nested(Options):
    """Options within options."""

    pair: tuple[float, float] = (0.0, 1.0)
    """Two numbers."""
    watch: bool = False
    """A flag."""


@dataclass(frozen=True)
class More(Nested):
    """More of them."""

    kl: Literal["reverse", "forward"] = "reverse"
    """A word."""


@dataclass(frozen=True)
class Args(Options):
    """Options of a command."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model."""
    out_file: Path
    """A file."""
    steps: tuple[Count, ...] = (1,)
    """A list."""
    alpha: float | None = None
    """A number, or none."""
    nested: Flat[Nested] = field(default_factory=Nested)


DEFAULT = Args(tyro.MISSING, tyro.MISSING, nested=More())


def test_options_are_named_as_help_spells_them():
    assert options_of(Args) == ["--out-file", "--steps", "--alpha", "--pair", "--watch"]
    assert options_of(Args, DEFAULT) == [*options_of(Args), "--kl"]
    assert [one.name for one in arguments_of(Args, DEFAULT) if one.required] == ["MODEL", "--out-file"]
    assert owners_of({"a": Nested, "b": More}, "mcd") == dict.fromkeys(("--pair", "--watch"), "mcd a or b") | {
        "--kl": "mcd b"
    }


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("m --out-fil x", "--out-fil: unknown option; did you mean --out-file?"),
        ("m --out_fil=x", "--out_fil: unknown option; did you mean --out-file?"),
        ("m --out-file x --no-wach", "--no-wach: unknown option; did you mean --no-watch?"),
        ("m --out-file x --no-steps 3", "--no-steps: unknown option; did you mean --steps?"),
        ("m --out-file x --zzz", "--zzz: unknown option"),
        ("m --out-file x -z", "-z: unknown option"),
        ("m --out-file x --k 3", "--k: is an option of another"),
        ("", "MODEL, --out-file: must be given"),
        ("--out-file x --steps 1 2 --", "MODEL: must be given"),
        ("m", "--out-file: must be given"),
        ("m n --out-file x", "n: belongs to no option"),
        ("m --out-file x --watch 3", "3: belongs to no option"),
        ("m --out-file", "--out-file: needs a value"),
        ("m --out-file --watch", "--out-file: needs a value"),
        ("m --out-file x --pair 1", "--pair: needs 2 values: a number, each"),
        ("m --out-file x --pair -1 b", "--pair -1 b: must be a number, each"),
        ("m --out-file x --steps 4 1.5", "--steps 4 1.5: must be a whole number, at least 1, each"),
        ("m --out-file x --steps=x", "--steps x: must be a whole number, at least 1, each"),
        ("m --out-file x --alpha x", "--alpha x: must be a number"),
        ("m --out-file x --alpha None --steps x", "--steps x: must be a whole number, at least 1, each"),
        ("m --out-file x --alpha -inf --steps x", "--alpha -inf: must be finite"),
        ("m --out-file x --kl both", "--kl both: must be reverse or forward"),
    ],
)
def test_the_first_fault_is_told_in_one_line(words, why, capsys):
    with pytest.raises(UsageError) as refusal:
        parse(Args, words.split(), "test", DEFAULT, {"--k": "another"})
    assert str(refusal.value) == f"{why} (mcd test --help)"
    assert capsys.readouterr() == ("", "")


def test_an_argument_without_a_name_is_told_too():
    shell = Argument("SHELL", Literal["bash", "zsh"], True, True)
    assert why_unreadable(["fish"], [shell], {}) == "SHELL fish: must be bash or zsh"
    assert why_unreadable(["bash"], [shell], {}) is None


@pytest.mark.parametrize(
    "words",
    [
        "m --out-file x --pair -1 -.5 --steps 1 2 --no-watch --kl forward",
        "--out_file=--x --alpha None --steps -- m",
        "--steps 3 --out-file x m",
    ],
)
def test_nothing_is_found_where_nothing_is_wrong(words):
    """What tyro reads has no fault. (`--steps 3 --out-file x m` has its list end at the next option.)"""
    parse(Args, words.split(), "test", DEFAULT)
    assert why_unreadable(words.split(), arguments_of(Args, DEFAULT), {}) is None


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command != "lm-eval"]
)  # it has a parser of its own
def test_every_command_tells_an_unknown_option_in_one_line(command, capsys):
    words = {"distill": ["mcd"]}.get(command, [])
    assert main([command, *words, "--dry-rum"]) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    hint = "" if command in ("doctor", "completion") else "; did you mean --dry-run?"
    assert line == f"mcd: --dry-rum: unknown option{hint} (mcd {' '.join([command, *words])} --help)"
    assert not shown.out


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            "distill",
            "METHOD: must be given first, one of mcd, sdtt, cd4lm, idlm, ltd, mmd, duo-dcd (mcd distill --help)",
        ),
        (
            "distill --teacher demo",
            "METHOD: must be given first, one of mcd, sdtt, cd4lm, idlm, ltd, mmd, duo-dcd (mcd distill --help)",
        ),
        ("distill mcd", "--teacher, --out: must be given (mcd distill mcd --help)"),
        ("distill sdtt --kl reverse", "--kl: is an option of mcd distill mcd or duo-dcd (mcd distill sdtt --help)"),
        ("train --method ar --t-min 0.1", "--t-min: is an option of --method nelbo, adapt or duo (mcd train --help)"),
        ("sample demo --steps x", "--steps x: must be a whole number, 1 to 1,000,000 (mcd sample --help)"),
        ("sample demo --temperature x", "--temperature x: must be a number, positive (mcd sample --help)"),
        ("train --out r --betas 0.1", "--betas: needs 2 values: a number, in [0, 1), each (mcd train --help)"),
    ],
)
def test_commands_say_what_is_missing_or_of_another_kind(command, line, capsys):
    assert main(command.split()) == 2
    assert capsys.readouterr() == ("", f"mcd: {line}\n")
