"""`mcd completion`: a script with which a shell completes commands, options and their values."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal
from unittest.mock import patch

import tyro

from mcd.cli.arguments import parse
from mcd.cli.main import COMMANDS
from mcd.cli.main import main as run_command
from mcd.objective import OBJECTIVES
from mcd.options import Options

OPTION = re.compile(r"^ {2,4}(?:-h, )?(--[\w-]+)(?:, (--[\w-]+))?(?: \[?(?:\{None\}\|)?\{([^}]+)\})?", re.MULTILINE)
"""An option in the text of --help: its name, the one that turns it off, and its values if they are listed."""

BASH = """\
_mcd() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} key=${{COMP_WORDS[1]}} words=
    if [[ $key == distill ]] && (( COMP_CWORD > 2 )); then key="distill ${{COMP_WORDS[2]}}"; fi
    case "$key $before" in
{values}
    esac
    if (( COMP_CWORD == 1 )); then
        words="{commands}"
    elif [[ $word == -* && -z $words ]]; then
        case "$key" in
{options}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _mcd mcd
"""
"""Where nothing is known, the shell's own completion of file names goes on."""
ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


@dataclass(frozen=True)
class CompletionArgs(Options):
    """Print a script with which the shell completes the commands of mcd, their options, and values that are few.

    The script is made from the help of all commands, which takes some seconds, so write it to a file once, and again
    after an update.

    Examples:
      mcd completion bash > ~/.local/share/bash-completion/completions/mcd
      mcd completion zsh > ~/.mcd.zsh && echo 'source ~/.mcd.zsh' >> ~/.zshrc
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """Which shell."""


def main(argv: list[str]) -> int:
    args = parse(CompletionArgs, argv, "completion")
    print((ZSH if args.shell == "zsh" else "") + script(), end="")
    return 0


def script() -> str:
    """What bash reads; zsh does too, with its `bashcompinit`."""
    methods = [name for name, kind in OBJECTIVES.items() if kind.distils]
    values, options = [_case("distill distill", methods), _case("completion completion", ["bash", "zsh"])], []
    for key in [*COMMANDS, *(f"distill {name}" for name in methods)]:
        found = list(options_of(key.split()))
        names = [name for name, off, _ in found] + [off for _, off, _ in found if off]
        options.append("    " + _case(key, [*names, "--help"]))
        values += [_case(f"{key} {name}", choices) for name, _, choices in found if choices]
    return BASH.format(values="\n".join(values), options="\n".join(options), commands=" ".join(COMMANDS))


def options_of(command: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """The options that `mcd COMMAND --help` lists: the name, the one that turns it off or "", and its values."""
    shown = io.StringIO()
    plain = patch.dict(os.environ, COLUMNS="200", NO_COLOR="1", TERM="dumb")
    with plain, contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), contextlib.suppress(SystemExit):
        run_command([*command, "--help"])
    for name, off, values in OPTION.findall(shown.getvalue()):
        if name != "--help":
            yield name, off, [value for value in values.split(",") if value not in ("", "None")]


def _case(key: str, words: list[str]) -> str:
    return f'        "{key}") words="{" ".join(words)}" ;;'
