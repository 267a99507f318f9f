"""`mcd.options`: a field's annotation is the check, the message and the help."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy
import pytest
from annotated_types import Ge, Gt, Le, Lt

from mcd.cli.arguments import Flat, parse
from mcd.errors import UsageError
from mcd.options import Count, Decay, NotNegative, Options, Positive, Seed, Share, fault, interval


@dataclass(frozen=True)
class Inner(Options):
    """Options of a part."""

    share: Share = 0.5
    """A share."""


@dataclass(frozen=True)
class Outer(Options):
    """Some options."""

    decay: Decay = 0.0
    """A decay."""
    rows_per_call: Count = 1
    """A count."""
    seed: Seed = 0
    """A seed."""
    kl: Literal["reverse", "forward", "hybrid"] = "reverse"
    """A word."""
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    """A pair."""
    steps: tuple[Count, ...] = (1,)
    """A list."""
    minutes: Positive | None = None
    """A number or none."""
    cap: Positive = math.inf
    """May be infinite, as its default is."""
    shift: float = 0.0
    """Any finite number."""
    inner: Flat[Inner] = Inner()


@pytest.mark.parametrize(
    "value, message",
    [
        ({"decay": 1.0}, r"--decay 1.0: must be in \[0, 1\)$"),
        ({"decay": math.nan}, r"--decay nan: must be in \[0, 1\)$"),
        ({"rows_per_call": 0}, "--rows-per-call 0: must be at least 1$"),
        ({"rows_per_call": 1.5}, "--rows-per-call 1.5: must be a whole number, at least 1$"),
        ({"rows_per_call": True}, "must be a whole number, at least 1$"),
        ({"rows_per_call": "1"}, "must be a whole number, at least 1$"),
        ({"seed": 2**63}, r"must be in \[0, 2\*\*63\)$"),
        ({"kl": "both"}, "--kl both: must be reverse, forward or hybrid$"),
        ({"betas": (0.9, 1.0)}, r"--betas 0.9 1.0: must be in \[0, 1\), each$"),
        ({"steps": (4, 0)}, "--steps 4 0: must be at least 1, each$"),
        ({"minutes": 0.0}, "--minutes 0.0: must be positive$"),
        ({"minutes": math.inf}, "--minutes inf: must be positive and finite$"),
        ({"cap": math.nan}, "--cap nan: must be positive$"),
        ({"shift": math.inf}, "--shift inf: must be finite$"),
        ({"steps": (4, 8, 4)}, "--steps: names 4 twice; name each once$"),
        ({"shift": "left"}, "--shift left: must be a number$"),
    ],
)
def test_a_value_outside_its_annotation_is_refused_by_the_name_of_its_option(value, message):
    with pytest.raises(ValueError, match=message):
        Outer(**value)


def test_what_is_inside_is_taken():
    one = Outer(decay=0, seed=2**63 - 1, minutes=1, cap=math.inf, steps=(), kl="hybrid", shift=-3.5)
    assert one.seed == 2**63 - 1 and one.minutes == 1


@pytest.mark.parametrize(
    "hint, words",
    [
        (Share, "in [0, 1]"),
        (Annotated[float, Gt(0), Le(2)], "in (0, 2]"),
        (Annotated[int, Ge(3)], "at least 3"),
        (Annotated[int, Le(70_000)], "at most 70,000"),
        (Annotated[float, Lt(1)], "below 1"),
        (Annotated[float, Gt(1)], "above 1"),
        (Positive, "positive"),
        (NotNegative, "at least 0"),
        (float, ""),
    ],
)
def test_bounds_in_words(hint, words):
    assert interval(hint) == words


def test_help_shows_bounds_and_a_command_line_is_held_to_them(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Outer, ["--help"], "test")
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert stop.value.code == 0
    for line in (
        "A decay. (in [0, 1); default: 0.0)",
        "A share. (in [0, 1]; default: 0.5)",
        "(positive; default: None)",
    ):
        assert line in shown
    with pytest.raises(UsageError, match=r"--share 1\.5: must be in "):
        parse(Outer, ["--share", "1.5"], "test")
    with pytest.raises(UsageError, match=r"^--decay 1\.5: must be in \[0, 1\)$"):  # of the outermost dataclass
        parse(Outer, ["--decay", "1.5"], "test")
    assert parse(Outer, ["--betas", "0", "0.5"], "test").betas == (0.0, 0.5)


def test_a_field_of_another_type_takes_any_value():
    assert fault({"a": 1}, dict[str, int]) is None
    assert fault((1, 2), Annotated[tuple[Annotated[int, Ge(2)], ...], "note"]) == "at least 2, each"


def test_numbers_of_numpy_are_numbers():
    share, count = Inner(numpy.float32(0.25)).share, numpy.int64(3)  # type: ignore[arg-type]
    assert type(share) is float and share == 0.25 and fault(count, Count) is None
    assert fault(numpy.float32(3), Count) == "a whole number, at least 1" and fault(-count, Count) == "at least 1"
