"""Options as frozen dataclasses. The annotation of a field is the only place that bounds its value: the check, the
message of the refusal and the line of `--help` are all made from it.

    delta0: Share = 1 / 512                        one of the kinds below
    eta: Annotated[float, Ge(0), Le(1)] = 0.04     bounds of `annotated_types`
    kl: Literal["reverse", "forward"] = "reverse"  one of a few
"""

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from mcd.errors import UsageError

Count = Annotated[int, Ge(1)]
"""A number of things of which there must be one."""
Natural = Annotated[int, Ge(0)]
"""A number of things of which there may be none."""
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Guidance = Annotated[float, Ge(0), Le(100)]
"""How far the evidence of the visible tokens is sharpened (`mcd.sampler.masked`)."""
Share = Annotated[float, Ge(0), Le(1)]
"""A part of a whole."""
Decay = Annotated[float, Ge(0), Lt(1)]
"""Decay of a moving average, a probability that is never 1, and the like."""
Steps = Annotated[int, Ge(1), Le(1_000_000)]
"""Steps of a sampler."""
Seed = Annotated[int, Ge(0), Lt(2**63)]
"""What the generators take."""
LONGEST_ROW = 1 << 16
RowLength = Annotated[int, Ge(1), Le(LONGEST_ROW)]
"""Tokens of a row to draw, which may be longer than the model's own rows."""


class Options:
    """Base of a frozen dataclass of options: `__post_init__` holds each value to its field's annotation.

    A list of any length (`tuple[Steps, ...]`) names nothing twice.

    A subclass that checks how its fields go together calls `super().__post_init__()` first. Raises UsageError, which
    names the option as the command line spells it.
    """

    def __post_init__(self) -> None:
        assert is_dataclass(self)
        for field in fields(self):
            wanted = fault(getattr(self, field.name), field.type, infinite=field.default == math.inf)
            if wanted is not None:
                value = getattr(self, field.name)
                shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
                raise UsageError(f"{option_name(field.name)} {shown}: must be {wanted}")
            value = getattr(self, field.name)
            if isinstance(value, Real) and not isinstance(value, int | float):  # NumPy's, which JSON does not write
                plain = int(value) if isinstance(value, Integral) else float(value)
                object.__setattr__(self, field.name, plain)
            if get_origin(field.type) is tuple and get_args(field.type)[-1] is Ellipsis:
                check_distinct(option_name(field.name), getattr(self, field.name))


def check_distinct(option: str, values: Sequence[Any]) -> None:
    """Raise UsageError for a list of an option that names something twice."""
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise UsageError(f"{option}: names {twice} twice; name each once")


def option_name(field: str) -> str:
    """The option of a field, as the command line spells it."""
    return f"--{field.replace('_', '-')}"


def fault(value: Any, hint: Any, infinite: bool = False) -> str | None:
    """What `value` must be and is not ("at least 1"), or None where it is as the annotation `hint` says.

    infinite: whether a float may be infinite. Annotations that say nothing of values allow any.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in args:
            return None
        faults = [fault(value, arg, infinite) for arg in args if arg is not NoneType]
        return None if None in faults else faults[0]
    if origin is Literal:
        return None if value in args else alternatives(list(map(str, args)))
    if origin is tuple and isinstance(value, tuple):
        hints = args[:1] * len(value) if args[-1] is Ellipsis else args
        found = next((wanted for one, arg in zip(value, hints, strict=True) if (wanted := fault(one, arg))), None)
        return found and f"{found}, each"
    kind, *bounds = args if origin is Annotated else (hint,)
    if bounds and get_origin(kind) is not None:  # Annotated around a tuple or a union
        return fault(value, kind, infinite)
    if kind not in (bool, int, float) or type(value).__name__ == "MISSING_TYPE":  # tyro's, while it looks for defaults
        return None
    if kind is bool:
        return None if isinstance(value, bool) else "true or false"
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    broken = kind is int and not isinstance(value, Integral)
    is_inside = is_number and all(_holds(value, bound) for bound in bounds)
    if is_inside and not broken and ((infinite and not math.isnan(value)) or math.isfinite(value)):
        return None
    kind_words = "a whole number" if kind is int else "a number" if bounds or infinite or not is_number else "finite"
    if not is_number or broken or not bounds:
        return ", ".join(filter(None, (kind_words, interval(hint))))
    return interval(hint) + (" and finite" if kind is float and math.isinf(value) else "")


def alternatives(words: Sequence[str]) -> str:
    """Words as a choice: "a, b or c"."""
    return " or ".join([", ".join(words[:-1])] * (len(words) > 1) + list(words[-1:]))


def interval(hint: Any) -> str:
    """The bounds of an annotation in words: "in [0, 1)", "at least 1", "positive"; "" for one without bounds."""
    bounds = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    low = next((bound for bound in bounds if isinstance(bound, Ge | Gt)), None)
    high = next((bound for bound in bounds if isinstance(bound, Le | Lt)), None)
    if isinstance(low, Ge) and isinstance(high, Le) and get_args(hint)[0] is int:
        return f"{_number(low.ge)} to {_number(high.le)}"
    if low is not None and high is not None:
        left = f"[{_number(low.ge)}" if isinstance(low, Ge) else f"({_number(low.gt)}"
        return f"in {left}, " + (f"{_number(high.le)}]" if isinstance(high, Le) else f"{_number(high.lt)})")
    if isinstance(low, Gt):
        return "positive" if low.gt == 0 else f"above {_number(low.gt)}"
    if isinstance(low, Ge):
        return f"at least {_number(low.ge)}"
    if high is not None:
        return f"at most {_number(high.le)}" if isinstance(high, Le) else f"below {_number(high.lt)}"
    return ""


def _holds(value: Any, bound: Any) -> bool:
    match bound:
        case Ge(ge):
            return value >= ge
        case Gt(gt):
            return value > gt
        case Le(le):
            return value <= le
        case Lt(lt):
            return value < lt
    return True


def _number(bound: Any) -> str:
    """2**63 rather than its nineteen digits."""
    power = int(bound).bit_length() - 1
    return (
        f"2**{power}" if power > 40 and bound == 2**power else f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
    )
