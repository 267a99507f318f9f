"""`mcd demo`: the main job, end to end: distil, sample, score, and show what was gained and what it cost."""

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcd.cli.arguments import check_out, naming, parse, show_dry_run
from mcd.cli.demo_options import FULL, DemoArgs
from mcd.cli.idle_options import refuse_idle, typed
from mcd.cli.metrics_table import print_rows
from mcd.cli.sampling_options import weights_digest
from mcd.errors import UsageError

if TYPE_CHECKING:
    from mcd.model.denoiser import DenoiserConfig

SHORTEST = 4
"""Least tokens per row: repetition is measured in runs of four."""


def main(argv: list[str]) -> int:
    args = parse(DemoArgs, argv, "demo", FULL if typed(argv).get("--full") == "--full" else DemoArgs())
    refuse_idle(argv, _idle(args))
    check_out(args.out, folder=True)
    if args.dry_run:
        return show_dry_run(_planned(args))

    from mcd.checkpoints.folder import from_pretrained, locate
    from mcd.cli import demo_work, distill, report
    from mcd.cli.data_option import prepared
    from mcd.eval.laboratory import cost
    from mcd.eval.laboratory.lab import load_once
    from mcd.eval.laboratory.metrics_file import read_metrics, write_metrics
    from mcd.files import write_durably, write_json
    from mcd.machine import device
    from mcd.model.sizes import sizes_of
    from mcd.progress import whole_progress

    started = time.monotonic()
    with naming("--teacher", args.teacher):
        teacher = from_pretrained(args.teacher).to(device())
    _check_teacher(args, teacher.config)
    if args.scorer != "none":
        load_once(args.scorer, "fp32")  # one that cannot be loaded is refused before the work
    report.check_page(args.out / "report.html")
    config, metrics = _config(args, weights_digest(teacher, "ema")), args.out / "metrics.json"
    read_metrics(metrics)
    data = prepared(args.data, args.out / "data", locate(args.teacher) / "tokenizer.json", length=args.length)
    args.out.mkdir(parents=True, exist_ok=True)  # the data may lie elsewhere
    write_json(args.out / "demo.json", config)
    sizes = sizes_of(teacher.config.backbone)
    work = demo_work.operations(args, sizes)
    left = demo_work.minutes(args, work, cost.rate_of_products())
    sets = len(demo_work.cells_of(args)) + len(demo_work.compared_steps(args))
    _stage(f"{sets} sets of {args.num} samples; this takes about {left:.0f} minutes", started)
    with whole_progress("demo", sum(work.values())) as whole:
        for name, delta0 in demo_work.trainings(args).items():
            _stage(f"distilling: {name}", started)
            with whole.part(demo_work.distilling(args, sizes, name)):
                status = distill.main(["mcd", *_training(args, data, args.out / name), "--delta0", str(delta0)])
            if status:
                return status
        _stage("sampling and scoring", started)
        rows = demo_work.measured(args, data, teacher, sizes, whole)
    write_metrics(metrics, rows, f"mcd demo {shlex.join(argv)}".strip())
    shown = max((steps for steps in args.student_steps if steps <= 32), default=min(args.student_steps))
    models = {"teacher": teacher, "student": from_pretrained(str(args.out / "student")).to(device())}
    lines = (line for name, model in models.items() for line in _trajectory(args, name, model, shown))
    write_durably(args.out / "trajectory.jsonl", "".join(lines))
    print_rows(rows)
    _stage("writing the report", started)
    status = report.main([str(args.out), "--out", str(args.out / "report.html")])
    if not status:
        _stage(f"done: {args.out / 'report.html'}", started)
    return status


def _planned(args: DemoArgs) -> dict[str, Any]:
    """What --dry-run shows. A teacher of the hub is not fetched for it, so that its work is not known."""
    from mcd.checkpoints.config import read_config
    from mcd.checkpoints.folder import locate

    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    if args.teacher.count("/") == 1 and not Path(args.teacher).exists():
        return options | {"work": None}
    from mcd.cli import demo_work
    from mcd.eval.laboratory import cost
    from mcd.model.sizes import sizes_of

    with naming("--teacher", args.teacher):
        config = read_config(locate(args.teacher))
    _check_teacher(args, config)
    work, rate = demo_work.operations(args, sizes_of(config.backbone)), cost.rate_of_products()
    known = {
        "sets": len(demo_work.cells_of(args)) + len(demo_work.compared_steps(args)),
        **{f"{name}_tflop": round(value / 1e12, 2) for name, value in work.items()},
        "products_gflops": round(rate / 1e9, 1),
        "minutes": round(demo_work.minutes(args, work, rate), 1),
    }
    return options | {"work": known}


def _check_teacher(args: DemoArgs, config: "DenoiserConfig") -> None:
    """Raise UsageError for a teacher that is not to be distilled by MCD, and rows that it does not make."""
    longest, process = config.backbone.length, config.process
    if process != "masked":
        raise UsageError(f"--teacher {args.teacher}: is {process}; the demo distils a masked model")
    if not SHORTEST <= args.length <= longest:
        raise UsageError(f"--length {args.length}: must be {SHORTEST} to {longest}, the teacher's")


def _idle(args: DemoArgs) -> dict[str, str]:
    """The options that others leave without effect, with the reason (`refuse_idle`)."""
    idle = {}
    if args.scorer == "none":
        idle["--borders"] = "there is no scorer"
    if args.rounds == 1:
        idle |= dict.fromkeys(("--round-steps", "--every-round"), "the one round is the last")
    elif not args.round_steps:
        idle["--every-round"] = "--round-steps names no number of steps"
    if not set(args.control_steps) & set(args.student_steps):
        idle["--control-steps"] = "none of them is among --student-steps, so that there is nothing to compare with"
    return idle


def _config(args: DemoArgs, teacher_sha256: str) -> dict[str, Any]:
    """What demo.json is to hold. Raises UsageError where --out holds a demo of other options, or files of no demo."""
    path = args.out / "demo.json"
    options = {name: value for name, value in vars(args).items() if name not in ("out", "full", "dry_run")}
    config = json.loads(json.dumps({**options, "teacher_sha256": teacher_sha256}))
    if not path.exists():
        for name in ("metrics.json", "trajectory.jsonl"):
            if (args.out / name).exists():
                raise UsageError(f"--out {args.out}: holds a {name} but no demo.json; name a new folder")
        return config
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        old = None
    if not isinstance(old, dict):
        raise UsageError(f"--out {args.out}: its demo.json is damaged or another file; name a new folder")
    changed = sorted(key for key in old.keys() | config.keys() if old.get(key) != config.get(key))
    if changed:
        raise UsageError(
            f"--out {args.out}: holds a demo of another configuration (differs in {', '.join(changed)}); "
            "name a new folder"
        )
    return config


def _stage(what: str, started: float) -> None:
    """Print what begins, with the minutes since the start."""
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    print(f"[{minutes:2d}:{seconds:02d}] {what}", flush=True)


def _training(args: DemoArgs, data: Path, out: Path) -> list[str]:
    options = {
        "teacher": args.teacher,
        "data": data,
        "out": out,
        "recipe": "cpu",
        "rounds": args.rounds,
        "steps-per-round": args.steps_per_round,
        "batch-size": args.batch_size,
        "length": args.length,
        "seed": args.seed,
        "log-every": 2,  # so that the time left is told
        "valid-every": 0,
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _trajectory(args: DemoArgs, name: str, model: Any, steps: int, row: int = 0) -> list[str]:
    """How one row is revealed: the lines of trajectory.jsonl, one per state."""
    from mcd.api.model import Model

    lines, before = [], [None] * args.length
    states = Model(model).stream(steps=steps, seed=args.seed, length=args.length, first_row=row)
    for i, state in enumerate(states):
        (tokens,) = state.tokens
        new = [j for j, (old, now) in enumerate(zip(before, tokens, strict=True)) if old is None and now is not None]
        line = {"model": name, "row": row, "seed": args.seed, "steps": steps, "step": i, "t": state.t}
        lines.append(json.dumps({**line, "tokens": tokens, "new": new}, ensure_ascii=False) + "\n")
        before = tokens
    return lines
