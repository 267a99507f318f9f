"""`mcd train`: pretrain a teacher: masked diffusion, uniform diffusion, or the autoregressive yardstick."""

import shlex
from dataclasses import asdict, dataclass, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro import MISSING

from mcd.cli.arguments import Flat, check_out, check_seed, check_threads, choose, parse, peek, set_threads, show_dry_run
from mcd.cli.recipes import OURS, TRAIN, ModelSize
from mcd.cli.typed_options import option_name, refuse_idle
from mcd.errors import UsageError
from mcd.model.lora import LoRA
from mcd.objective import OBJECTIVES, Objective
from mcd.train.config import Budget, TrainConfig

if TYPE_CHECKING:
    from mcd.model.denoiser import Denoiser

METHODS = {name: kind for name, kind in OBJECTIVES.items() if not kind.distils}


@dataclass(frozen=True)
class TrainArgs:
    """Train a teacher. To resume, run the same command again.

    --method says what is learnt, and has options of its own (`--method NAME --help` lists them): nelbo, the bound of
    masked diffusion (MDLM); duo, that of uniform diffusion (its curriculum is off unless asked for); ar, an
    autoregressive model.

    Examples:
      mcd train --recipe cpu --out runs/teacher
      mcd train --data data/mine --recipe cpu --minutes 30 --hidden 256 --out runs/mine
      mcd train --method duo --recipe cpu --cond-dim 64 --out runs/uniform
      mcd train --init demo --length 256 --minutes 10 --recipe cpu --out runs/longer
    """

    out: Path
    """Run folder."""
    data: str = "sotu"
    """A prepared folder, or text as for `mcd prepare` (prepared below the run folder's parent)."""
    recipe: str = "cpu"
    """Starting point: sotu (the bundled teacher's), cpu, or mdlm (the paper's scale)."""
    method: str = "nelbo"
    """What is learnt: nelbo, duo or ar."""
    init: str | None = None
    """Go on from this model (a folder, a hub id, or demo) in place of random weights."""
    steps: int | None = None
    """Optimiser steps; replaces the recipe's budget."""
    minutes: float | None = None
    """Minutes of training; replaces the recipe's budget."""
    vocab_size: int = 2048
    """Tokens of the BPE, when text is prepared on the way."""
    threads: int | None = None
    """CPU threads; all cores by default. Bits depend on it."""
    lora: Flat[LoRA] = LoRA()
    size: Flat[ModelSize] = OURS
    train: Flat[TrainConfig] = TrainConfig()
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    recipe = choose(peek(argv, "--recipe") or TrainArgs.recipe, TRAIN, "recipe")
    name = peek(argv, "--method") or TrainArgs.method
    if name in OBJECTIVES and name not in METHODS:
        raise UsageError(f"--method {name}: is a distillation: `mcd distill {name}`")
    kind = choose(name, METHODS, "method")
    known = {field.name for field in fields(kind)}
    objective = kind(**{name: value for name, value in recipe.method.items() if name in known})
    args_kind = make_dataclass(
        "Args",
        [("objective", Flat[kind], objective)],
        bases=(TrainArgs,),
        frozen=True,
        namespace={"__doc__": TrainArgs.__doc__},
    )
    default = args_kind(out=MISSING, method=name, size=recipe.size, objective=objective, train=recipe.train)
    args = parse(args_kind, argv, "train", default)
    budget = recipe.budget
    if args.steps is not None or args.minutes is not None:
        try:
            budget = Budget(args.steps, args.minutes)
        except ValueError as error:
            raise UsageError(str(error)) from None
    refuse_idle(argv, idle_options(args))
    _check(args)
    config = {
        "command": "train",
        "data": args.data,
        "vocab_size": args.vocab_size,
        "init": args.init,
        "threads": args.threads,
        "size": args.size.chosen() if args.init is None else None,
        "objective": {"name": args.objective.name, **asdict(args.objective)},
        "train": asdict(args.train) | asdict(budget),
    } | ({"lora": asdict(args.lora)} if args.lora.lora_rank else {})
    if args.dry_run:
        return show_dry_run(config)
    return run(args, args.objective, budget, config, f"mcd train {shlex.join(argv)}")


def idle_options(args: Any) -> dict[str, str]:
    """The options that what is trained leaves without effect, with the reason (`refuse_idle`)."""
    from mcd.data.languages.known import LANGUAGES
    from mcd.data.manifest import MANIFEST

    idle = {"--teacher-ema": "`mcd train` has no teacher"} | idle_in_objective(args.objective)
    if args.init is not None:
        idle |= dict.fromkeys(map(option_name, args.size.chosen()), f"the network is that of --init {args.init}")
        idle["--vocab-size"] = f"the tokenizer is that of --init {args.init}"
    elif args.data in LANGUAGES or (Path(args.data) / MANIFEST).is_file():
        idle["--vocab-size"] = f"--data {args.data} has its tokens already"
    return idle


def idle_in_objective(objective: Objective) -> dict[str, str]:
    """The options of a method that others of it leave without effect, with the reason."""
    own, idle = vars(objective), {}
    if own.get("warm_start") == 0.0:
        idle |= dict.fromkeys(("--warm-t", "--warm-weight"), "--warm-start 0 has no warm start")
    if own.get("curriculum") == 0.0:
        soft = ("--tau-start", "--tau-end", "--alpha-min", "--alpha-max")
        idle |= dict.fromkeys(soft, "--curriculum 0 has no soft tokens")
    if own.get("delta0") == 0.0:
        idle["--delta-growth"] = "--delta0 0 has no gap to grow"
        if own.get("coupling") == "shared":
            idle |= dict.fromkeys(("--region", "--ce-weight"), "with --delta0 0 no token is revealed")
    return idle


def _check(args: TrainArgs) -> None:
    """Raise UsageError for options that would fail only after data has been prepared."""
    from mcd.model.dit import DiTConfig

    check_seed(args.train.seed)
    check_threads(args.threads)
    if args.init is None:
        try:
            DiTConfig(rows=2, length=args.train.length or DiTConfig.length, **args.size.chosen())
        except ValueError as error:
            raise UsageError(str(error)) from None


def run(args: TrainArgs, objective: Objective, budget: Budget, config: dict[str, Any], command: str) -> int:
    """Prepare the data, make or load the network, and train it."""
    import torch

    from mcd.checkpoints.folder import from_pretrained
    from mcd.cli.data_option import check_language, prepared
    from mcd.cli.training import check_and_adapt, joined, train_run
    from mcd.data.loader import open_loader
    from mcd.data.manifest import read_manifest
    from mcd.model.denoiser import Denoiser, DenoiserConfig
    from mcd.model.dit import DiTConfig
    from mcd.train.ranks import first_alone

    set_threads(args.threads)
    check_out(args.out, folder=True)
    fabric, student = joined(args.train), None
    if args.init is not None:
        with first_alone():
            student = from_pretrained(args.init)
        if student.config.process != objective.process:
            process = student.config.process
            fit = " or ".join(name for name, kind in METHODS.items() if kind.process == process)
            raise UsageError(
                f"--init {args.init}: is {process}, and --method {args.method} trains {objective.process} models; "
                f"go on with --method {fit}"
            )
        check_language(f"--init {args.init}", student, args.data)
        if args.train.length is not None:  # before the data are prepared
            student = _long_enough(student, args.train.length, "", args)
    tokenizer = None if student is None else student.folder / "tokenizer.json"  # type: ignore[operator]
    with first_alone():
        folder = prepared(args.data, args.out.parent / "data", tokenizer, vocab_size=args.vocab_size)
    loader = open_loader(folder, "train", args.train.batch_size, args.train.length, args.train.seed)
    vocab_size = read_manifest(folder)["vocab_size"]
    if student is None:
        torch.manual_seed(args.train.seed)
        uniform, causal = objective.process == "uniform", objective.process == "autoregressive"
        rows = vocab_size if uniform else vocab_size + 1
        backbone = DiTConfig(rows=rows, length=loader.length, causal=causal, **args.size.chosen())
        student = Denoiser(DenoiserConfig(backbone, None if uniform else vocab_size, time_conditioned=uniform))
    else:
        student = _long_enough(student, loader.length, f", the rows of --data {args.data}", args)
    check_and_adapt(student, args.data, folder, args.lora, args.train.seed)
    return train_run(student, objective, loader, args.train, budget, args.out, config, folder, command, fabric)


def _long_enough(student: "Denoiser", length: int, whose: str, args: TrainArgs) -> "Denoiser":
    """The model of --init, for rows of `length`. Raises UsageError where it has learnt fewer positions."""
    from mcd.checkpoints.folder import lengthened

    if length <= student.config.backbone.length:
        return student
    try:
        return lengthened(student, length)
    except ValueError as error:
        raise UsageError(
            f"--length {length}{whose}: --init {args.init} takes no such rows ({error}); give a smaller --length"
        ) from None
