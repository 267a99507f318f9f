"""`mcd demo`: the main job, end to end: distil, sample, score, and show what was gained and what it cost."""

import json
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from mcd.cli.arguments import check_out, naming, parse, show_dry_run
from mcd.cli.idle_options import refuse_idle
from mcd.cli.metrics_table import print_rows
from mcd.cli.sampling_options import weights_digest
from mcd.data.text import Borders
from mcd.errors import UsageError
from mcd.options import Count, Options, Seed, Steps, option_name

SHORTEST = 4
"""Least tokens per row: repetition is measured in runs of four."""


@dataclass(frozen=True)
class DemoArgs(Options):
    """Distil a teacher by MCD in rounds, sample teacher and student, score them, and write a report.

    Writes demo.json, metrics.json, samples_*.jsonl, trajectory.jsonl and report.html below --out. A run that was killed
    resumes when the same command is typed again; with other options, name a new folder.

    Examples:
      mcd demo
      mcd demo --teacher runs/teacher --out runs/mine --num 256
    """

    out: Path = Path("runs/demo")
    """Folder to write."""
    teacher: str = "demo"
    """MODEL: a folder, a hub id, or demo."""
    data: str = "sotu"
    """Text, or a prepared folder with the teacher's tokenizer."""
    length: int = 128
    """Tokens per row: 4 to the teacher's length."""
    num: Annotated[int, Ge(2)] = 64
    """Samples per row of the table."""
    seed: Seed = 0
    """Seed of training, samples and intervals."""
    scorer: str = "smollm2"
    """As in `mcd eval`."""
    borders: Borders = "kept"
    """As in `mcd eval`."""
    teacher_steps: tuple[Steps, ...] = (4, 8, 32, 128, 256)
    """Numbers of steps at which the teacher is sampled."""
    student_steps: tuple[Steps, ...] = (2, 4, 8, 32, 128)
    """Numbers of steps at which the student of the last round is sampled."""
    round_steps: tuple[Steps, ...] = (8,)
    """Numbers of steps at which the students of the earlier rounds are sampled."""
    control_steps: tuple[Steps, ...] = (8,)
    """Numbers of steps of the controls: tau-only, and the teacher cooled to the student's entropy."""
    rounds: Count = 5
    """Rounds of distillation."""
    steps_per_round: Count = 16
    """Optimiser steps per round."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("teacher_steps", "student_steps", "round_steps", "control_steps"):
            if not getattr(self, name):
                raise ValueError(f"{option_name(name)}: name at least one number of steps")


def main(argv: list[str]) -> int:
    args = parse(DemoArgs, argv, "demo")
    refuse_idle(argv, _idle(args))
    check_out(args.out, folder=True)
    if args.dry_run:
        return show_dry_run({key: str(v) if isinstance(v, Path) else v for key, v in vars(args).items()})

    from mcd.checkpoints.folder import from_pretrained
    from mcd.checkpoints.locate import locate
    from mcd.cli import distill, report
    from mcd.cli.data_option import prepared
    from mcd.eval.laboratory.lab import load_once
    from mcd.eval.laboratory.metrics_file import read_metrics, write_metrics
    from mcd.files import write_durably, write_json

    started = time.monotonic()
    with naming("--teacher", args.teacher):
        teacher = from_pretrained(args.teacher)
    longest, process = teacher.config.backbone.length, teacher.config.process
    if process != "masked":
        raise UsageError(f"--teacher {args.teacher}: is {process}; the demo distils a masked model")
    if not SHORTEST <= args.length <= longest:
        raise UsageError(f"--length {args.length}: must be {SHORTEST} to {longest}, the teacher's")
    if args.scorer != "none":
        load_once(args.scorer, "fp32")  # one that cannot be loaded is refused before the work
    report.check_page(args.out / "report.html")
    config, metrics = _config(args, weights_digest(teacher, "ema")), args.out / "metrics.json"
    read_metrics(metrics)
    data = prepared(args.data, args.out / "data", locate(args.teacher) / "tokenizer.json", length=args.length)
    args.out.mkdir(parents=True, exist_ok=True)  # the data may lie elsewhere
    write_json(args.out / "demo.json", config)
    # The paper's first gap is 2 tokens of 1,024; tau-only looks ahead by nothing.
    for name, delta0 in (("student", 2 / args.length), ("tau-only", 0.0)):
        _stage(f"distilling: {name}", started)
        status = distill.main(["mcd", *_training(args, data, args.out / name), "--delta0", str(delta0)])
        if status:
            return status
    _stage("sampling and scoring", started)
    rows = _measured(args, data, teacher)
    write_metrics(metrics, rows, f"mcd demo {shlex.join(argv)}".strip())
    shown = max((steps for steps in args.student_steps if steps <= 32), default=min(args.student_steps))
    models = {"teacher": teacher, "student": from_pretrained(str(args.out / "student"))}
    lines = (line for name, model in models.items() for line in _trajectory(args, name, model, shown))
    write_durably(args.out / "trajectory.jsonl", "".join(lines))
    print_rows(rows)
    _stage("writing the report", started)
    status = report.main([str(args.out), "--out", str(args.out / "report.html")])
    if not status:
        _stage(f"done: {args.out / 'report.html'}", started)
    return status


def _idle(args: DemoArgs) -> dict[str, str]:
    """The options that others leave without effect, with the reason (`refuse_idle`)."""
    idle = {}
    if args.scorer == "none":
        idle["--borders"] = "there is no scorer"
    if args.rounds == 1:
        idle["--round-steps"] = "the one round is the last"
    if not set(args.control_steps) & set(args.student_steps):
        idle["--control-steps"] = "none of them is among --student-steps, so that there is nothing to compare with"
    return idle


def _config(args: DemoArgs, teacher_sha256: str) -> dict[str, Any]:
    """What demo.json is to hold. Raises UsageError where --out holds a demo of other options, or files of no demo."""
    path = args.out / "demo.json"
    options = {name: value for name, value in vars(args).items() if name not in ("out", "dry_run")}
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
        "length": args.length,
        "seed": args.seed,
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _measured(args: DemoArgs, data: Path, teacher: Any) -> list[dict[str, Any]]:
    """The rows of the table; the samples of each are written next to it.

    The laboratory's one process has all threads and the sampler's own calls, as `mcd sample` has.
    """
    import torch

    from mcd.eval.laboratory.experiment import Cell, sampler_options
    from mcd.eval.laboratory.lab import Lab

    lab = Lab(args.out, jobs=1, threads=torch.get_num_threads())

    def cell(label: str, steps: int, round: int | None = None, **options: Any) -> Cell:
        return Cell(
            args.teacher if label.startswith("teacher") else label,
            steps,
            args.num,
            label,
            round,
            args.length,
            sampler_options(rows_per_call=0, **options),
            args.seed,
            None if args.scorer == "none" else args.scorer,
            borders=args.borders,
        )

    cells = [cell("teacher", steps) for steps in args.teacher_steps]
    cells += [cell("student", steps, args.rounds) for steps in args.student_steps]
    cells += [cell("student", steps, round) for round in range(1, args.rounds) for steps in args.round_steps]
    cells += [cell("tau-only", steps, args.rounds) for steps in args.control_steps]
    references = lab.references(data, cells[0])
    measured = lab.measure(list(dict.fromkeys(cells)))
    last = [one for one in measured if (one.cell.label, one.cell.round) == ("student", args.rounds)]
    entropies = {one.cell.steps: one.row["entropy"] for one in last}
    cooled = []
    for steps in dict.fromkeys(args.control_steps):
        entropy = entropies.get(steps)
        if entropy is None:
            print(f"no cooled teacher at {steps} steps, where no student is (--student-steps)")
            continue
        cooled.append(cell("teacher-cooled", steps, temperature=_temperature(args, teacher, steps, entropy)))
    measured += lab.measure(cooled)
    for one in measured:
        tag = f"{one.cell.label}_r{one.cell.round}" if one.cell.round else one.cell.label
        assert one.samples is not None  # they are text
        shutil.copyfile(one.samples, args.out / f"samples_{tag}_s{one.cell.steps}.jsonl")
    return [*references, *(one.row for one in measured)]


def _temperature(args: DemoArgs, teacher: Any, steps: int, entropy: float) -> float:
    """The temperature at which the teacher's entropy is nearest to `entropy`, four decimals."""
    from mcd.eval.diversity import sample_entropy
    from mcd.eval.equal_entropy import temperature_of_entropy
    from mcd.sampler import sample
    from mcd.sampler.ancestral import Ancestral

    def entropy_at(temperature: float) -> float:
        ids, _ = sample(Ancestral(steps, temperature), teacher, args.num, args.length, args.seed)
        return sample_entropy(ids)

    return round(temperature_of_entropy(entropy_at, entropy), 4)


def _trajectory(args: DemoArgs, name: str, model: Any, steps: int, row: int = 0) -> list[str]:
    """How one row is revealed: the lines of trajectory.jsonl, one per state."""
    import torch

    from mcd.cli.sample import states_as_text
    from mcd.data.tokenizer import tokenizer_of_model
    from mcd.sampler.ancestral import Ancestral

    tokenizer = tokenizer_of_model(model.folder, model.config.tokens)
    z, before = torch.full((args.length,), model.mask_id), [None] * args.length
    lines = []
    for i, (step, tokens) in enumerate(states_as_text(Ancestral(steps), model, tokenizer, z, row, args.seed)):
        new = [j for j, (old, now) in enumerate(zip(before, tokens, strict=True)) if old is None and now is not None]
        line = {"model": name, "row": row, "seed": args.seed, "steps": steps, "step": i, "t": step.t}
        lines.append(json.dumps({**line, "tokens": tokens, "new": new}, ensure_ascii=False) + "\n")
        before = tokens
    return lines
