"""Why a command line cannot be read, in one sentence: an unknown option, a missing one, a value of another kind.

tyro reads command lines, and what it refuses is looked at again here, by the annotations of the options alone.
"""

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from mcd.options import alternatives, fault, option_name


@dataclass(frozen=True)
class Argument:
    """An option, or an argument without a name in front of it, as `--help` spells it; hint: the type of its value."""

    name: str
    hint: Any
    required: bool
    positional: bool = False

    @property
    def is_flag(self) -> bool:
        """Whether it takes no value: `--x` and `--no-x`."""
        return self.hint is bool

    @property
    def values(self) -> int | None:
        """How many values it takes; None for any number."""
        args = get_args(self.hint)
        if get_origin(self.hint) is not tuple:
            return 0 if self.is_flag else 1
        return None if args[-1] is Ellipsis else len(args)

    def fault(self, words: Sequence[str]) -> str | None:
        """What its values must be and are not, or None."""
        if get_origin(self.hint) is not tuple:
            return fault(_read(words[0], self.hint), self.hint)
        args = get_args(self.hint)
        hints = args[:1] * len(words) if args[-1] is Ellipsis else args
        return fault(tuple(map(_read, words, hints)), self.hint)


def arguments_of(kind: type, default: Any = None) -> list[Argument]:
    """The arguments of a dataclass, nested ones among them, as `mcd.cli.arguments.parse` takes them."""
    found, hints = [], get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, *marks = _plain(hints[field.name])
        if tyro.conf.Suppress in marks:
            continue
        given = getattr(default, field.name, None)
        if is_dataclass(hint):
            assert isinstance(hint, type)
            found += arguments_of(type(given) if isinstance(given, hint) else hint, given)
            continue
        has_none = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        required = has_none if default is None else given is tyro.MISSING
        positional = tyro.conf.Positional in marks
        shown = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), field.name.upper())
        found.append(Argument(shown if positional else option_name(field.name), hint, required, positional))
    return found


def options_of(kind: type, default: Any = None) -> list[str]:
    """The options among `arguments_of`, as `--help` spells them."""
    return [one.name for one in arguments_of(kind, default) if not one.positional]


def owners_of(kinds: Mapping[str, type], prefix: str) -> dict[str, str]:
    """The options of some dataclasses of options, and in words whose they are: `prefix` and the names of those."""
    names: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        for option in options_of(kind):
            names.setdefault(option, []).append(name)
    return {option: f"{prefix} {alternatives(of)}" for option, of in names.items()}


def why_unreadable(argv: Sequence[str], arguments: Iterable[Argument], owners: Mapping[str, str]) -> str | None:
    """What is wrong with a command line, beginning with the option; None where nothing is found.

    owners: options that this command does not take, and whose they are.
    """
    options = {one.name: one for one in arguments if not one.positional}
    unnamed = [one for one in arguments if one.positional]
    words, loose, named = deque(argv), list[str](), set[str]()
    while words:
        word = words.popleft()
        if word == "--":
            loose += words
            break
        if not _is_option(word):
            loose.append(word)
            continue
        typed, equals, value = word.partition("=")
        name = typed.replace("_", "-")
        one = options.get(name) or options.get(name.replace("--no-", "--", 1))
        if one is None or (not one.is_flag and name != one.name):
            return _unknown(typed, options, owners.get(name))
        named.add(one.name)
        values = [value] if equals else []
        while words and not _is_option(words[0]) and (one.values is None or len(values) < one.values):
            values.append(words.popleft())
        if one.values is not None and len(values) < one.values:
            needed = "a value" if one.values == 1 else f"{one.values} values"
            wanted = one.fault(["?"] * one.values)
            return f"{typed}: needs {needed}" + (f": {wanted}" if wanted else "")
        if values and (wanted := one.fault(values)):
            return f"{typed} {' '.join(values)}: must be {wanted}"
    missing = [one.name for one in unnamed if one.required][len(loose) :]
    missing += [one.name for one in options.values() if one.required and one.name not in named]
    if missing:
        return f"{', '.join(missing)}: must be given"
    if all(one.values is not None for one in unnamed):
        if len(loose) > len(unnamed):
            return f"{loose[len(unnamed)]}: belongs to no option"
        for one, word in zip(unnamed, loose, strict=False):
            if wanted := one.fault([word]):
                return f"{one.name} {word}: must be {wanted}"
    return None


def _unknown(typed: str, options: Mapping[str, Argument], owner: str | None) -> str:
    if owner is not None:
        return f"{typed}: is an option of {owner}"
    known = [*options, *(one.name.replace("--", "--no-", 1) for one in options.values() if one.is_flag)]
    close = get_close_matches(typed.replace("_", "-"), known, n=1)
    return f"{typed}: unknown option" + (f"; did you mean {close[0]}?" if close else "")


def _is_option(word: str) -> bool:
    """Whether a word begins with an option's name rather than being a value, such as -1."""
    if word.lower() in ("-inf", "-infinity", "-nan"):
        return False
    return word == "--" or (word.startswith("-") and word.lstrip("-")[:1].isalpha())


def _plain(hint: Any) -> list[Any]:
    """A type without the marks of tyro, then those; the bounds of a value stay with its type."""
    kind, *rest = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    bounds = [one for one in rest if type(one).__module__ == "annotated_types"]
    return [Annotated[(kind, *bounds)] if bounds else kind, *(one for one in rest if one not in bounds)]


def _read(word: str, hint: Any) -> Any:
    """A word as a value of `hint`, as tyro reads it; the word itself where it cannot be one."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(kind) in (Union, UnionType):
        read = [None if one is NoneType and word == "None" else _read(word, one) for one in get_args(kind)]
        return next((value for value in read if value != word), word)
    if get_origin(kind) is Literal:
        return next((one for one in get_args(kind) if str(one) == word), word)
    try:
        return kind(word) if kind in (int, float) else word
    except ValueError:
        return word
