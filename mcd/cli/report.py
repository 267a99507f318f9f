"""`mcd report`: one self-contained page of what run folders hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mcd.cli.arguments import check_out, parse, show_dry_run
from mcd.errors import UsageError
from mcd.options import Options, check_distinct


@dataclass(frozen=True)
class ReportArgs(Options):
    """Make one HTML page of runs: what the student gained and what it cost, in words, figures, tables and samples.

    A RUN is a folder with any of metrics.json (of `mcd eval`), frontier.json (of `mcd frontier`), samples_*.jsonl (of
    `mcd sample --out`, by that name), trajectory.jsonl, stats.jsonl and run.json, in it or in its subfolders; other
    files are not read. Several runs are drawn together, round by round. The page says what is missing. It loads
    nothing; JavaScript serves only to drag the time of a trajectory.

    Examples:
      mcd report runs/demo --out report.html
      mcd report runs/teacher runs/student --title "My student" --out report.html
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders to read."""
    out: Path
    """HTML file to write."""
    title: str | None = None
    """Heading of the page; by default the names of the runs."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    args = parse(ReportArgs, argv, "report")
    if not args.runs:
        raise UsageError("RUN: name at least one run folder")
    check_distinct("RUN", args.runs)
    title = args.title or f"Report of {', '.join(run.resolve().name for run in args.runs)}"
    check_page(args.out)
    if args.dry_run:
        return show_dry_run({"runs": [str(run) for run in args.runs], "out": str(args.out), "title": title})
    from mcd.files import write_durably
    from mcd.report.page import page
    from mcd.report.runs import read_runs

    text = page(read_runs(args.runs), title)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_durably(args.out, text)
    print(f"{args.out}: written")
    return 0


def check_page(path: Path) -> None:
    """Raise UsageError where no page can be written: no file can be made there, or another file is there."""
    from mcd.report.page import MARKER

    check_out(path)
    if path.exists() and MARKER.encode() not in path.read_bytes()[:1000]:
        raise UsageError(f"--out {path}: exists and is not a report of mcd; name a new file")
