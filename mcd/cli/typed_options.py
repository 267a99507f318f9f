"""Which options a command line names, and the refusal of those that would do nothing there."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from mcd.errors import UsageError

MANY = -1
"""Values of an option that takes all words up to the next option."""


def options_of(kind: Any) -> dict[str, int]:
    """The options of a dataclass of arguments, nested ones among them, as `--help` spells them: values each takes."""
    found: dict[str, int] = {}
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        if is_dataclass(hint):
            found |= options_of(hint)
        else:
            found[option_name(field.name)] = _values(hint)
    return found


def option_name(field: str) -> str:
    """The option of a field of arguments."""
    return f"--{field.replace('_', '-')}"


def typed(argv: list[str]) -> set[str]:
    """The options that a command line names, as `--help` spells them; `--no-x` counts as `--x`."""
    return {name.replace("--no-", "--", 1) for word in _before_end(argv) if (name := _name(word))}


def positionals(argv: list[str], options: Mapping[str, int]) -> list[str]:
    """The words that belong to no option, in order. options: as `options_of`; unknown ones take one value."""
    found, left = [], 0
    for i, word in enumerate(argv):
        if word == "--":
            return found + argv[i + 1 :]
        if name := _name(word):
            is_flag = name not in options and name.replace("--no-", "--", 1) in options
            left = 0 if "=" in word or is_flag else options.get(name, 1)
        elif left:
            left = left if left == MANY else left - 1
        else:
            found.append(word)
    return found


def refuse_idle(argv: list[str], idle: Mapping[str, str]) -> None:
    """Raise UsageError for an option that was typed and would do nothing. idle: the reason why not, by option."""
    for option in sorted(typed(argv) & idle.keys()):
        raise UsageError(f"{option}: does nothing here, since {idle[option]}; leave it out")


def _before_end(argv: list[str]) -> Iterator[str]:
    for word in argv:
        if word == "--":
            return
        yield word


def _name(word: str) -> str:
    """The option that a word names, or "" for another word."""
    if not word.startswith("--") or word == "--":
        return ""
    return word.split("=", 1)[0].replace("_", "-")


def _values(hint: Any) -> int:
    """How many words an option of this type takes."""
    if hint is bool:
        return 0
    if get_origin(hint) is tuple:
        args = get_args(hint)
        return MANY if args[-1] is Ellipsis else len(args)
    return 1
