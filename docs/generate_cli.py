"""Write docs/cli.md from the commands' own --help. With `--check`, exit with 1 if the file is out of date."""

import contextlib
import io
import os
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")


def help_of(argv: list[str]) -> str:
    """What `mcd ARGV` prints, at a fixed width and without colours."""
    os.environ.update(COLUMNS="100", NO_COLOR="1", TERM="dumb")
    from mcd.cli.main import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(argv)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def page() -> str:
    """The whole page."""
    from mcd.cli.main import COMMANDS
    from mcd.objective import OBJECTIVES

    calls = [["--help"], *([name, "--help"] for name in COMMANDS)]
    calls += [["distill", name, "--help"] for name, kind in OBJECTIVES.items() if kind.distils]
    calls += [["train", "--method", name, "--help"] for name in ("duo", "ar")]
    parts = ["# Command line\n\nMade by `make docs` from the commands' own help; a test holds it up to date.\n"]
    for argv in calls:
        parts.append(f"## mcd {' '.join(argv[:-1])}".rstrip() + f"\n\n```text\n{help_of(argv)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
