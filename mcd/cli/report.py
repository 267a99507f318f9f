"""`mcd report`: one self-contained page of what run folders hold."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mcd.cli.arguments import check_out, parse, show_dry_run
from mcd.errors import UsageError


@dataclass(frozen=True)
class ReportArgs:
    """Make one HTML page of runs: what the student gained and paid in words, figures, tables, samples, a trajectory.

    A RUN is a folder with any of metrics.json (of `mcd eval`), samples_*.jsonl (of `mcd sample --out`, by that name),
    trajectory.jsonl, stats.jsonl and run.json, in it or in its subfolders; other files are not read. What is missing is
    left out and said to be. The page loads nothing and needs no JavaScript.

    Examples:
      mcd report runs/demo --out report.html
      mcd report runs/teacher runs/student --title "My student" --out report.html
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders to read."""
    out: Path
    """HTML file to write."""
    title: str | None = None
    """Heading of the page; the runs' names by default."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    args = parse(ReportArgs, argv, "report")
    if not args.runs:
        raise UsageError("RUN: name at least one run folder")
    title = args.title or f"Report of {', '.join(run.resolve().name for run in args.runs)}"
    if args.dry_run:
        return show_dry_run({"runs": [str(run) for run in args.runs], "out": str(args.out), "title": title})
    from mcd.report.document import page
    from mcd.report.gather import gather

    check_page(args.out)
    write_text(args.out, page(gather(args.runs), title))
    print(f"{args.out}: written")
    return 0


def check_page(path: Path) -> None:
    """Raise UsageError where no page can be written: no file can be made there, or one that is no report is."""
    from mcd.report.document import MARKER

    check_out(path)
    if path.exists() and MARKER.encode() not in path.read_bytes()[:1000]:
        raise UsageError(f"--out {path}: is there and is no report of ours; name a new file")


def write_text(path: Path, text: str) -> None:
    """Write a file by way of a temporary one, so that a reader never sees half of it.

    Raises UsageError where `path` cannot be a file: it is a folder, or lies below a file.
    """
    if path.is_dir():
        raise UsageError(f"--out {path}: is a folder; name a file such as {path / 'report.html'}")
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (FileExistsError, FileNotFoundError, NotADirectoryError):
        raise UsageError(f"--out {path}: {path.parent} is no folder a file can be made in") from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
