"""`mcd distill METHOD`: turn a many-step teacher into a few-step student."""

import shlex
from dataclasses import asdict, dataclass, fields, make_dataclass
from pathlib import Path
from typing import Any

from tyro import MISSING

from mcd.cli.arguments import Flat, check_out, check_seed, check_threads, choose, parse, peek, set_threads, show_dry_run
from mcd.cli.recipes import DISTILL
from mcd.cli.train import idle_in_objective
from mcd.cli.typed_options import refuse_idle
from mcd.errors import UsageError
from mcd.model.lora import LoRA
from mcd.objective import OBJECTIVES, Objective
from mcd.train.config import Budget, TrainConfig

METHODS = {name: kind for name, kind in OBJECTIVES.items() if kind.distils}

USAGE = """usage: mcd distill METHOD --teacher MODEL --out RUN [options]

Distil a diffusion teacher into a student that needs fewer steps. METHOD is one of: {methods}
`mcd distill METHOD --help` lists its options.

examples:
  mcd distill mcd --teacher demo --out runs/student
  mcd distill mcd --teacher demo --out runs/tau-only --delta0 0
  mcd distill mcd --teacher runs/teacher --recipe paper --out runs/paper
  mcd distill sdtt --teacher demo --out runs/sdtt
  mcd distill duo-dcd --teacher runs/uniform --out runs/duo-dcd
"""


@dataclass(frozen=True)
class DistillArgs:
    """Distil a teacher in rounds. To resume, run the same command again.

    Examples:
      mcd distill mcd --teacher demo --out runs/student
      mcd distill mcd --teacher demo --out runs/short --rounds 2 --steps-per-round 20
      mcd distill mcd --teacher runs/teacher --recipe paper --out runs/paper
      torchrun --nproc-per-node 8 -m -- mcd distill mcd --teacher runs/teacher --recipe paper --out runs/paper
    """

    teacher: str
    """MODEL: a folder, a hub id, or demo."""
    out: Path
    """Run folder."""
    data: str | None = None
    """A prepared folder or text; by default what the teacher was trained on."""
    recipe: str = "cpu"
    """Starting point: cpu (minutes, L = 128) or paper (50,000 steps, L = 1024)."""
    weights: str = "ema"
    """Weights of the teacher to start from: ema or raw."""
    rounds: int = 5
    """Rounds; each begins with a hard snapshot teacher := student."""
    steps_per_round: int = 24
    """Optimiser steps a round."""
    threads: int | None = None
    """CPU threads; all cores by default. Bits depend on it."""
    lora: Flat[LoRA] = LoRA()
    train: Flat[TrainConfig] = TrainConfig()
    dry_run: bool = False
    """Print the resolved configuration, round by round, and stop."""


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(methods=", ".join(METHODS)), end="")
        return 0 if argv else 2
    if argv[0] in OBJECTIVES and argv[0] not in METHODS:
        raise UsageError(f"{argv[0]} distils nothing: `mcd train --method {argv[0]}`")
    kind = choose(argv[0], METHODS, "method")
    recipe = choose(peek(argv, "--recipe") or DistillArgs.recipe, DISTILL, "recipe")
    known = {field.name for field in fields(kind)}
    method = kind(**{name: value for name, value in recipe.method.items() if name in known})
    args_kind = make_dataclass(
        "Args",
        [("method", Flat[kind], method)],
        bases=(DistillArgs,),
        frozen=True,
        namespace={"__doc__": DistillArgs.__doc__},
    )
    default = args_kind(
        teacher=MISSING,
        out=MISSING,
        rounds=recipe.rounds,
        steps_per_round=recipe.steps_per_round,
        train=recipe.train,
        method=method,
    )
    args = parse(args_kind, argv[1:], f"distill {argv[0]}", default)
    idle = idle_in_objective(args.method)
    if args.rounds == 1:
        idle |= dict.fromkeys(("--delta-growth", "--tau-step"), "they act from round to round, and there is one")
    refuse_idle(argv[1:], idle)
    return distill(args, args.method, f"mcd distill {shlex.join(argv)}")


def distill(args: DistillArgs, objective: Objective, command: str) -> int:
    """Run a distillation, or show what it would do."""
    if args.rounds < 1 or args.steps_per_round < 1:
        raise UsageError(f"--rounds {args.rounds} --steps-per-round {args.steps_per_round}: both must be at least 1")
    if args.weights not in ("ema", "raw"):
        raise UsageError(f"--weights {args.weights}: known are ema, raw")
    check_seed(args.train.seed)
    check_threads(args.threads)
    budget = Budget(steps=args.rounds * args.steps_per_round, rounds=args.rounds)
    config: dict[str, Any] = {
        "command": "distill",
        "teacher": args.teacher,
        "weights": args.weights,
        "data": args.data,
        "threads": args.threads,
        "objective": {"name": objective.name, **asdict(objective)},
        "train": asdict(args.train) | asdict(budget),
    } | ({"lora": asdict(args.lora)} if args.lora.lora_rank else {})
    if args.dry_run:
        schedule = [{"round": r + 1, **objective.schedule_of_round(r)} for r in range(args.rounds)]
        return show_dry_run(config | {"schedule": schedule})

    from mcd.checkpoints.folder import from_pretrained
    from mcd.cli.data_option import check_language, data_of_model, prepared
    from mcd.cli.training import check_and_adapt, joined, train_run
    from mcd.data.loader import open_loader
    from mcd.data.manifest import read_manifest
    from mcd.train.ranks import first_alone

    set_threads(args.threads)
    check_out(args.out, folder=True)
    fabric = joined(args.train)
    with first_alone():
        student = from_pretrained(args.teacher, args.weights)  # type: ignore[arg-type]
    assert student.folder is not None
    if student.config.process != objective.process:
        raise UsageError(f"--teacher {args.teacher}: {_mend(student.config.process, objective)}")
    longest = student.config.backbone.length
    if args.train.length is not None and not 1 <= args.train.length <= longest:
        raise UsageError(f"--length {args.train.length}: the teacher takes 1 to {longest} tokens")
    data = data_of_model(student.folder) if args.data is None else args.data
    check_language(f"--teacher {args.teacher}", student, data)
    with first_alone():
        folder = prepared(data, args.out.parent / "data", student.folder / "tokenizer.json")
    length = args.train.length or min(read_manifest(folder)["recipe"]["length"], longest)
    loader = open_loader(folder, "train", args.train.batch_size, length, args.train.seed)
    check_and_adapt(student, data, folder, args.lora, args.train.seed)
    return train_run(student, objective, loader, args.train, budget, args.out, config, folder, command, fabric)


def _mend(process: str, objective: Objective) -> str:
    """What is said of a teacher of a kind that the method does not distil."""
    methods = [name for name, kind in METHODS.items() if kind.process == process]
    if not methods:
        return f"is {process}; no method distils {process} models"
    return (
        f"is {process}, and {objective.name} distils {objective.process} models; distil it with {' or '.join(methods)}"
    )
