"""`mcd bench`: how fast and how small, measured here: our path against the peers' way, in one run."""

import importlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mcd.cli.arguments import check_out, choose, parse, show_dry_run, with_names
from mcd.cli.typed_options import refuse_idle
from mcd.errors import UsageError, WorkFailed

QUESTIONS = {
    "step": "time and memory of a distillation step",
    "sampling": "time of drawing text",
    "scale": "how both grow with V, L, B and the steps",
    "matmul": "share of matrix products, and their rate against this machine's best",
    "loading": "the loader against the model",
    "startup": "time until something happens",
}


@dataclass(frozen=True)
class BenchArgs:
    """Measure speed and memory on this machine: our path against the peers' way, taking turns in one run.

    The peers' way is a twin, written by us, of what the public code of MDLM, SDTT and Duo computes: the same weights
    and the same draws, so both losses must agree and are shown. A row is name, ours_s and peers_s (seconds), ratio,
    ours_bytes and peers_bytes (peak memory above weights, gradients and optimiser). The default set takes up to 20
    minutes on two cores and 12 GB; close what else is running.

    Examples:
      mcd bench
      mcd bench step --json runs/step.json
      mcd bench step_mcd_b2_l256 startup
      mcd bench --full --dry-run
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ()
    """Questions, or single rows; all of the default set when none is named."""
    json: Path | None = None
    """File for command, machine and rows; written anew after every row."""
    full: bool = False
    """Also what takes long or much memory."""
    dry_run: bool = False
    """Print which rows would be measured, and about how long that takes, and stop."""


BenchArgs.__doc__ = with_names(BenchArgs, QUESTIONS)


def main(argv: list[str]) -> int:
    args = parse(BenchArgs, argv, "bench")
    cells = _chosen(args)
    if args.names and not set(args.names) & QUESTIONS.keys():
        refuse_idle(argv, {"--full": "single rows are measured, whatever set they are of"})
    minutes = sum(cell.seconds for cell in cells) / 60
    if args.dry_run:
        return show_dry_run({"rows": [cell.name for cell in cells], "minutes": round(minutes, 1)})
    if args.json is not None:
        check_out(args.json, option="--json")
        args.json.parent.mkdir(parents=True, exist_ok=True)
    return _run(args, cells, f"mcd bench {shlex.join(argv)}".rstrip())


def _chosen(args: BenchArgs) -> list[Any]:
    """The cells to be measured, in the order of the questions. Raises UsageError for an unknown name."""
    by_question = {name: list(importlib.import_module(f"mcd.bench.{name}").cells()) for name in QUESTIONS}
    known = {name: name for name in QUESTIONS} | {cell.name: cell.name for q in by_question.values() for cell in q}
    named = {choose(name, known, "benchmark") for name in args.names}
    chosen = []
    for question, cells in by_question.items():
        for cell in cells:
            asked = question in named or not named
            if cell.name in named or (asked and (args.full or not cell.full)):
                chosen.append(cell)
    if not chosen:
        raise UsageError(f"{' '.join(args.names)}: has rows of the full set only; add --full")
    return chosen


def _run(args: BenchArgs, cells: list[Any], command: str) -> int:
    from mcd.bench.table import print_table
    from mcd.files import write_json
    from mcd.machine import machine
    from mcd.progress import progress_bar

    facts, rows, failed = machine(), [], []
    total, done = sum(cell.seconds for cell in cells), 0.0
    with progress_bar("bench") as update:
        for cell in cells:
            update(done / total, cell.name)
            try:
                rows.append(cell.measure())
            except WorkFailed as error:  # the others may still fit
                failed.append(f"{cell.name}: {error}")
                rows.append({"name": cell.name, "error": str(error)})
            if args.json is not None:
                write_json(args.json, {"command": command, "machine": facts, "rows": rows})
            done += cell.seconds
        update(1.0)
    print_table([row for row in rows if "error" not in row])
    if args.json is not None:
        print(f"{args.json}: {len(rows)} rows")
    if failed:
        raise WorkFailed("\n".join(failed))
    return 0
