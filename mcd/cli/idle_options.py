"""The refusal of options that would do nothing, and which options a command line names."""

from collections.abc import Mapping
from itertools import takewhile

from mcd.errors import UsageError


def typed(argv: list[str]) -> dict[str, str]:
    """The options that a command line names, as `--help` spells them, and as they were typed: `--no-x` is of `--x`."""
    words = (word.split("=", 1)[0] for word in takewhile(lambda word: word != "--", argv) if word.startswith("--"))
    return {word.replace("_", "-").replace("--no-", "--", 1): word for word in words}


def refuse_idle(argv: list[str], idle: Mapping[str, str]) -> None:
    """Raise UsageError for an option that was typed and would do nothing. idle: the reason why not, by option."""
    for option, word in sorted(typed(argv).items()):
        if option in idle:
            raise UsageError(f"{word}: does nothing here, since {idle[option]}; leave it out")
