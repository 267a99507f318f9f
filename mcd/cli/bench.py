"""`mcd bench`: how fast and how small, measured here: our path against the peers' way, in one run."""

import importlib
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mcd.cli.arguments import check_out, choose, parse, show_dry_run, with_names
from mcd.cli.idle_options import refuse_idle
from mcd.errors import UsageError, WorkFailed
from mcd.options import Options, Positive, check_distinct

if TYPE_CHECKING:
    from mcd.bench.benchmark import Benchmark

QUESTIONS = {
    "step": "time and memory of a distillation step",
    "sampling": "time of drawing text",
    "scale": "how both grow with V, L, B and the steps",
    "matmul": "share of matrix products, and their speed relative to this machine's best",
    "loading": "time of the loader compared with that of the model",
    "plan": "the estimate of `mcd plan` against measured steps",
    "startup": "time of the first commands",
}
"""Names of modules of `mcd.bench`, and what each measures."""


@dataclass(frozen=True)
class BenchArgs(Options):
    """Measure speed and memory on this machine: our code and the peers' way, alternating in one run.

    The peers' way is a twin, written by us, of what the public code of MDLM, SDTT and Duo computes: the same weights
    and the same draws, so both losses must agree and are shown. A row is name, ours_s and peers_s (seconds), ratio,
    ours_bytes and peers_bytes (peak memory above weights, gradients and optimiser). The default set takes up to 20
    minutes on two cores and 12 GB; close all other programs.

    --gpu is another set, for one GPU and at most 6 minutes: agreement with the CPU, training steps, drawing, and how
    both grow, each beside the peers' way in the same process, in bfloat16 (`make gpu-check`).

    Examples:
      mcd bench
      mcd bench step --json runs/step.json
      mcd bench step_mcd_b2_l256 startup
      mcd bench --full --dry-run
      mcd bench --gpu --json results/bench/gpu.json
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ()
    """Questions, or single rows; without a name, the default set is measured."""
    json: Path | None = None
    """File for command, machine and rows; it is rewritten after every row."""
    full: bool = False
    """Measure also rows that take long or need much memory."""
    gpu: bool = False
    """Measure what needs a GPU, and nothing else."""
    minutes: Positive = 6.0
    """With --gpu: nothing begins that would probably not end within this time."""
    tiny: bool = False
    """With --gpu: the same with a network of a few weights, in seconds, also on a CPU; the figures mean nothing."""
    dry_run: bool = False
    """Print which rows would be measured, and about how long that takes, and stop."""


BenchArgs.__doc__ = with_names(BenchArgs, QUESTIONS)


def main(argv: list[str]) -> int:
    args = parse(BenchArgs, argv, "bench")
    check_distinct("NAME", args.names)
    if args.json is not None:
        check_out(args.json, option="--json")
    command = f"mcd bench {shlex.join(argv)}".rstrip()
    if args.gpu:
        from mcd.cli.bench_gpu import check_gpu

        if args.names:
            raise UsageError(f"{' '.join(args.names)}: --gpu measures a set of its own; leave the name out")
        refuse_idle(argv, {"--full": "--gpu measures a set of its own"})
        return check_gpu(args.json, args.minutes, args.tiny, args.dry_run, command)
    refuse_idle(argv, dict.fromkeys(("--minutes", "--tiny"), "it goes with --gpu"))
    benchmarks = _chosen(args)
    if args.names and not set(args.names) & QUESTIONS.keys():
        refuse_idle(argv, {"--full": "single rows are measured, whatever set they belong to"})
    minutes = sum(benchmark.seconds for benchmark in benchmarks) / 60
    if args.dry_run:
        return show_dry_run({"rows": [benchmark.name for benchmark in benchmarks], "minutes": round(minutes, 1)})
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    return _run(args, benchmarks, command)


def _chosen(args: BenchArgs) -> list["Benchmark"]:
    """What is to be measured, in the order of the questions. Raises UsageError for an unknown name."""
    by_question = {name: list(importlib.import_module(f"mcd.bench.{name}").benchmarks()) for name in QUESTIONS}
    known = {name: name for name in QUESTIONS} | {one.name: one.name for group in by_question.values() for one in group}
    rows = "; or rows, which `mcd bench --full --dry-run` lists"
    named = {choose(name, known, "NAME", f"{', '.join(QUESTIONS)}{rows}") for name in args.names}
    chosen = [
        one
        for question, benchmarks in by_question.items()
        for one in benchmarks
        if one.name in named or ((question in named or not named) and (args.full or not one.full))
    ]
    if not chosen:
        raise UsageError(f"{' '.join(args.names)}: has rows of the full set only; add --full")
    return chosen


def _run(args: BenchArgs, benchmarks: Sequence["Benchmark"], command: str) -> int:
    from mcd.files import write_json
    from mcd.machine import machine
    from mcd.progress import progress_bar

    facts, rows, failed = machine(), [], []
    total, done = sum(benchmark.seconds for benchmark in benchmarks), 0.0
    with progress_bar("bench") as update:
        for benchmark in benchmarks:
            update(done / total, benchmark.name)
            try:
                rows.append(benchmark.measure())
            except WorkFailed as error:  # the others may still fit into memory
                failed.append(f"{benchmark.name}: {error}")
                rows.append({"name": benchmark.name, "error": str(error)})
            if args.json is not None:
                write_json(args.json, {"command": command, "machine": facts, "rows": rows})
            done += benchmark.seconds
        update(1.0)
    show([row for row in rows if "error" not in row])
    if args.json is not None:
        print(f"{args.json}: {len(rows)} rows")
    if failed:
        raise WorkFailed("\n".join(failed))
    return 0


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print times and memory of all rows; then the further fields of single questions."""
    from mcd.table import print_table, shown

    times = []
    for row in rows:
        seconds = (shown(row["ours_s"], ".3g"), shown(row["peers_s"], ".3g"), shown(row["ratio"], ".2f"))
        ours, peers = row["ours_bytes"], row["peers_bytes"]
        megabytes = (shown(value and value / 1e6, ",.0f") for value in (ours, peers))
        times.append((row["name"], *seconds, *megabytes, shown(ours and peers and peers / ours, ".2f")))
    print_table(("name", "ours s", "peers s", "ratio", "ours MB", "peers MB", "ratio"), times)
    losses = [
        (row["name"], f"{row['ours_loss']:.6f}", f"{row['peers_loss']:.6f}", f"{row['losses_differ_by']:.1e}")
        for row in rows
        if row.get("losses_differ_by") is not None
    ]
    if losses:
        print_table(("first loss of", "ours", "peers", "they differ by"), losses)
    products = [
        (
            f"{row['name']}, {side}",
            f"{row[f'{side}_share']:.0%}",
            *(f"{row[f'{side}_{rate}']:.0f}" for rate in ("gflops", "peak_gflops")),
            f"{row[f'{side}_of_peak']:.0%}",
            f"{row['large_gflops']:.0f}",
        )
        for row in rows
        if "ours_of_peak" in row
        for side in ("ours", "peers")
    ]
    if products:
        print_table(("matrix products of", "share of time", "GFLOP/s", "at their best", "share", "large"), products)
    estimates = [
        (
            row["name"],
            shown(row["estimated_s"], ".3g"),
            *(f"{row[key] / 1e6:,.0f}" for key in ("estimated_bytes", "estimated_held_bytes", "held_bytes")),
        )
        for row in rows
        if "estimated_s" in row
    ]
    if estimates:
        print_table(("estimate of", "s", "MB", "held MB", "measured"), estimates)
    for how in dict.fromkeys(row["how"] for row in rows if row["name"].startswith("sample") and "how" in row):
        print(textwrap.fill(f"{how}: {', '.join(row['name'] for row in rows if row.get('how') == how)}", 80))
