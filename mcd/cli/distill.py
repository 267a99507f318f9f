"""`mcd distill METHOD`: turn a many-step teacher into a few-step student."""

import inspect
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tyro import MISSING

from mcd.cli.arguments import Flat, Threads, check_out, choose, naming, parse, peek, set_threads, show_dry_run
from mcd.cli.command_line import owners_of
from mcd.cli.idle_options import refuse_idle
from mcd.cli.recipes import DISTILL
from mcd.cli.shapes import shapes_of_model
from mcd.data.languages.known import Language, language_of_data
from mcd.errors import UsageError
from mcd.eval.exact_denoiser import exact_denoiser, language_of_exact
from mcd.model.denoiser import Denoiser
from mcd.model.lora import LoRA
from mcd.objective import OBJECTIVES, Objective
from mcd.options import Count, Options
from mcd.training.config import Budget, TrainConfig, check_method, configuration
from mcd.training.tracking import check_trackers

USAGE = """usage: mcd distill METHOD --teacher MODEL --out RUN [options]

Distil a diffusion teacher into a student that needs fewer steps. METHOD is one of: {methods}
`mcd distill METHOD --help` lists its options.

examples:
  mcd distill mcd --teacher demo --out runs/student
  mcd distill mcd --teacher demo --out runs/tau-only --delta0 0
  mcd distill mcd --teacher runs/teacher --recipe paper --out runs/paper
  mcd distill sdtt --teacher demo --out runs/sdtt
  mcd distill ltd --teacher demo --out runs/ltd
  mcd distill idlm --teacher demo --out runs/idlm
  mcd distill mmd --teacher demo --out runs/mmd
  mcd distill duo-dcd --teacher runs/uniform --out runs/duo-dcd
"""


@dataclass(frozen=True)
class DistillArgs(Options):
    """Distil a teacher in rounds. To resume, run the same command again.

    Examples:
      mcd distill mcd --teacher demo --out runs/student
      mcd distill mcd --teacher demo --out runs/short --rounds 2 --steps-per-round 20
      mcd distill mcd --teacher runs/teacher --recipe paper --out runs/paper
      mcd distill ltd --teacher exact:hmm --init runs/hmm --out runs/hmm-ltd
      torchrun --nproc-per-node 8 -m -- mcd distill mcd --teacher runs/teacher --recipe paper --out runs/paper
    """

    teacher: str
    """MODEL: a folder, a hub id, or demo; or exact:LANGUAGE, the exact posterior of a synthetic language (exact:hmm),
    and no model predicts better. It has no weights: the student begins as --init, and the teacher is the same in all
    rounds."""
    out: Path
    """Run folder."""
    objective: Flat[Objective]
    data: str | None = None
    """A prepared folder or text; by default the data of the teacher, or of --init."""
    init: str | None = None
    """The model as which the student of an exact teacher begins: a folder or a hub id. `mcd train --data LANGUAGE`
    makes one, of any size and as little trained as you like."""
    recipe: str = "cpu"
    """Starting point: cpu (minutes, L = 128) or paper (50,000 steps, L = 1024)."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of the teacher, or of --init, to start from."""
    rounds: Count = 5
    """Rounds; each begins with a hard snapshot teacher := student."""
    steps_per_round: Count = 24
    """Optimiser steps per round."""
    threads: Threads | None = None
    """CPU threads; all cores by default. The last bits of results depend on this number."""
    lora: Flat[LoRA] = LoRA()
    train: Flat[TrainConfig] = TrainConfig()
    dry_run: bool = False
    """Print the resolved configuration, round by round, and stop."""


def main(argv: list[str]) -> int:
    methods = {name: kind for name, kind in OBJECTIVES.items() if kind.distils}
    if argv[:1] in (["-h"], ["--help"]):
        print(USAGE.format(methods=", ".join(methods)), end="")
        return 0
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"METHOD: must be given first, one of {', '.join(methods)} (mcd distill --help)")
    name, *rest = argv
    if name in OBJECTIVES and name not in methods:
        raise UsageError(f"{name} distils nothing: `mcd train --method {name}`")
    kind = choose(name, methods, "METHOD")
    recipe = choose(peek(rest, "--recipe") or DistillArgs.recipe, DISTILL, "--recipe")
    train, budget = recipe.of(name)
    default = DistillArgs(
        teacher=MISSING,
        out=MISSING,
        objective=recipe.objective(kind),
        rounds=budget.rounds,
        steps_per_round=budget.steps_per_round,  # type: ignore[arg-type]
        train=train,
    )
    about = f"{name}: {inspect.getdoc(kind)}"
    args = parse(DistillArgs, rest, f"distill {name}", default, owners_of(methods, "mcd distill"), about)
    args = replace(args, train=args.train.resolved())
    refuse_idle(rest, args.objective.idle_options(args.rounds))
    check_method(args.objective, args.train)
    exact = _exact_language(args, rest)
    if exact is None and (why := args.objective.nothing_to_learn(args.rounds)):
        raise UsageError(why)
    budget = Budget(steps=args.rounds * args.steps_per_round, rounds=args.rounds)
    config = {
        "command": "distill",
        "teacher": args.teacher,
        "weights": args.weights,
        "data": args.data,
        "threads": args.threads,
        **configuration(args.objective, args.train, budget, args.lora),
    } | ({} if exact is None else {"init": args.init})
    check_out(args.out, folder=True)
    check_trackers(args.train.track)
    if args.dry_run:
        schedule = [{"round": r + 1, **args.objective.schedule_of_round(r)} for r in range(args.rounds)]
        return show_dry_run(config | {"schedule": schedule} | shapes_of_model(args.init or args.teacher))

    from mcd.checkpoints.folder import from_pretrained
    from mcd.cli.data_checks import check_language
    from mcd.cli.data_option import prepared
    from mcd.cli.training import train_run
    from mcd.data.manifest import read_manifest
    from mcd.training.launch import join
    from mcd.training.ranks import first_alone
    from mcd.training.trained_on import data_of_model

    set_threads(args.threads)
    fabric = join(args.train)
    option, start = ("--teacher", args.teacher) if args.init is None else ("--init", args.init)
    with first_alone(), naming(option, start):
        student = from_pretrained(start, args.weights)
    assert student.folder is not None
    process, longest = student.config.process, student.config.backbone.length
    if not args.objective.takes(process):
        fitting = " or ".join(name for name, kind in methods.items() if kind.takes(process))
        advice = f"and {name} distils {args.objective.process} models; distil it with {fitting}"
        raise UsageError(
            f"{option} {start}: is {process}" + (f", {advice}" if fitting else f"; no method distils {process} models")
        )
    if (args.train.length or 1) > longest:
        who = "the teacher" if args.init is None else option
        raise UsageError(f"--length {args.train.length}: {who} takes 1 to {longest} tokens")
    data = data_of_model(student.folder) if args.data is None else args.data
    check_language(f"{option} {start}", student, data)
    with first_alone():
        tokenizer = student.folder / "tokenizer.json"
        folder = prepared(data, args.out.parent / "data", tokenizer, args.train.length or longest)
    length = args.train.length or min(read_manifest(folder)["recipe"]["length"], longest)
    teacher = None if exact is None else _exact_teacher(exact, student, data, length, args)
    if teacher is not None:
        config["data"] = data  # the teacher is in no folder that says so
    command = f"mcd distill {shlex.join(argv)}"
    return train_run(replace(args, data=data), budget, student, folder, length, config, command, fabric, teacher)


def _exact_language(args: DistillArgs, argv: list[str]) -> Language | None:
    """The language of an exact teacher, None for a model. Raises UsageError for what does not go together."""
    with naming("--teacher", args.teacher):
        language = language_of_exact(args.teacher)
    if language is None:
        refuse_idle(argv, {"--init": "the student begins as its teacher, which is a model"})
        return None
    name, method = language.name, args.objective
    if args.init is None:
        raise UsageError(
            f"--init: the teacher {args.teacher} has no weights that a student could begin with; name a model of "
            f"{name}, such as one of `mcd train --data {name}`"
        )
    if method.reads_states or not method.takes("masked"):
        why = "reads hidden states of its teacher" if method.reads_states else f"distils {method.process} models"
        raise UsageError(f"--teacher {args.teacher}: is no network and masked, and {method.name} {why}; name a model")
    if args.train.teacher_ema:
        raise UsageError(
            f"--teacher-ema {args.train.teacher_ema}: {args.teacher} cannot follow a student; leave it out"
        )
    return language


def _exact_teacher(language: Language, student: Denoiser, data: str, length: int, args: DistillArgs) -> Denoiser:
    """The exact posterior as the teacher of rows of `length`. Raises UsageError where the student does not fit it."""
    if language_of_data(data) != language.name:
        raise UsageError(f"--data {data}: is not of {language.name}, of which {args.teacher} is; give its data")
    V = language.vocab_size
    if (student.config.mask_id, student.config.vocab_size) != (V, V):
        raise UsageError(
            f"--init {args.init}: predicts {student.config.vocab_size} tokens, and {language.name} has {V} and a mask "
            f"behind them; name a model of `mcd train --data {language.name}`"
        )
    return exact_denoiser(language, length, student.config.schedule)
