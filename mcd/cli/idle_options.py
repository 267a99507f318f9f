"""The refusal of options that would do nothing, and which options a command line names."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from itertools import takewhile
from typing import Any, get_type_hints

from mcd.errors import UsageError
from mcd.options import option_name


def options_of(kind: Any) -> list[str]:
    """The options of a dataclass of arguments, nested ones among them, as `--help` spells them."""
    hints = get_type_hints(kind)
    nested = {field.name: hints[field.name] for field in fields(kind)}
    return [
        option
        for name, hint in nested.items()
        for option in (options_of(hint) if is_dataclass(hint) else [option_name(name)])
    ]


def typed(argv: list[str]) -> dict[str, str]:
    """The options that a command line names, as `--help` spells them, and as they were typed: `--no-x` is of `--x`."""
    words = (word.split("=", 1)[0] for word in takewhile(lambda word: word != "--", argv) if word.startswith("--"))
    return {word.replace("_", "-").replace("--no-", "--", 1): word for word in words}


def refuse_idle(argv: list[str], idle: Mapping[str, str]) -> None:
    """Raise UsageError for an option that was typed and would do nothing. idle: the reason why not, by option."""
    for option, word in sorted(typed(argv).items()):
        if option in idle:
            raise UsageError(f"{word}: does nothing here, since {idle[option]}; leave it out")
