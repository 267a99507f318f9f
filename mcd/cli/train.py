"""`mcd train`: pretrain a teacher: masked diffusion, uniform diffusion, or the autoregressive baseline."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tyro import MISSING

from mcd.cli.arguments import Flat, Threads, check_out, choose, naming, parse, peek, refused, set_threads, show_dry_run
from mcd.cli.command_line import owners_of
from mcd.cli.idle_options import refuse_idle
from mcd.cli.recipes import OURS, TRAIN, ModelSize
from mcd.cli.shapes import shapes_here, shapes_of_model
from mcd.data.languages.known import LANGUAGES
from mcd.data.manifest import MANIFEST, read_manifest
from mcd.errors import UsageError
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.model.lora import LoRA
from mcd.objective import OBJECTIVES, Objective
from mcd.options import Count, Options, Positive, option_name
from mcd.training.config import TrainConfig, configuration
from mcd.training.tracking import check_trackers


@dataclass(frozen=True)
class TrainArgs(Options):
    """Train a teacher. To resume, run the same command again.

    The training loss is chosen by --method, and each method has its own options (`--method NAME --help` lists them):
    nelbo is the bound of masked diffusion (MDLM); adapt is the loss of `mcd adapt`, for a model that it made; duo is
    the bound of uniform diffusion (its curriculum is off by default); ar trains an autoregressive model.

    Examples:
      mcd train --recipe cpu --out runs/teacher
      mcd train --data data/mine --recipe cpu --minutes 30 --hidden 256 --out runs/mine
      mcd train --method duo --recipe cpu --cond-dim 64 --out runs/uniform
      mcd train --init demo --length 256 --minutes 10 --recipe cpu --out runs/longer
      mcd train --method duo --init demo --recipe sotu --out runs/uniform
    """

    out: Path
    """Run folder."""
    objective: Flat[Objective]
    data: str = "sotu"
    """A prepared folder, or text as for `mcd prepare` (prepared below the run folder's parent)."""
    recipe: str = "cpu"
    """Starting point: sotu (the bundled teacher's), cpu, or mdlm (the paper's scale)."""
    method: str = "nelbo"
    """Training loss: nelbo, adapt, duo or ar."""
    init: str | None = None
    """Continue from this model (a folder, a hub id, or demo) instead of random weights. A masked model may also start a
    uniform one (--method duo): it loses the row of its mask."""
    steps: Count | None = None
    """Optimiser steps; replaces the recipe's budget."""
    minutes: Positive | None = None
    """Minutes of training; replaces the recipe's budget."""
    vocab_size: int = 2048
    """Tokens of the BPE, when --data is text that must be prepared first."""
    threads: Threads | None = None
    """CPU threads; all cores by default. The last bits of results depend on this number."""
    lora: Flat[LoRA] = LoRA()
    size: Flat[ModelSize] = OURS
    train: Flat[TrainConfig] = TrainConfig()
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    methods = {name: kind for name, kind in OBJECTIVES.items() if not kind.distils}
    recipe = choose(peek(argv, "--recipe") or TrainArgs.recipe, TRAIN, "--recipe")
    name = peek(argv, "--method") or TrainArgs.method
    if name in OBJECTIVES and name not in methods:
        raise UsageError(f"--method {name}: is a distillation: `mcd distill {name}`")
    objective = recipe.objective(choose(name, methods, "--method"))
    default = TrainArgs(out=MISSING, objective=objective, method=name, size=recipe.size, train=recipe.train)
    args = parse(TrainArgs, argv, "train", default, owners_of(methods, "--method"))
    args = replace(args, train=args.train.resolved())
    budget = recipe.budget_of(args.steps, args.minutes)
    refuse_idle(argv, _idle_options(args))
    if args.init is None:  # before data is prepared
        _backbone(args, rows=2, length=args.train.length or DiTConfig.length)
    config = {
        "command": "train",
        "data": args.data,
        "vocab_size": args.vocab_size,
        "init": args.init,
        "threads": args.threads,
        "size": args.size.chosen() if args.init is None else None,
        **configuration(args.objective, args.train, budget, args.lora),
    }
    check_out(args.out, folder=True)
    check_trackers(args.train.track)
    if args.dry_run:
        return show_dry_run(config | _shapes(args))

    from mcd.checkpoints.folder import from_pretrained
    from mcd.cli.data_checks import check_language
    from mcd.cli.data_option import prepared
    from mcd.cli.training import train_run
    from mcd.training.launch import join
    from mcd.training.ranks import first_alone

    set_threads(args.threads)
    fabric, student = join(args.train), None
    if args.init is not None:
        with first_alone(), naming("--init", args.init):
            student = from_pretrained(args.init)
            if args.objective.process == "uniform" and student.config.process == "masked":
                student = _without_mask(student, args)
        process = student.config.process
        if not args.objective.takes(process):
            fitting = " or ".join(name for name, kind in methods.items() if kind.takes(process))
            distilling = " or ".join(name for name, kind in OBJECTIVES.items() if kind.distils and kind.takes(process))
            raise UsageError(
                f"--init {args.init}: is {process}, and --method {args.method} trains {args.objective.process} models; "
                f"continue with {f'--method {fitting}' if fitting else f'mcd distill {distilling}'}"
            )
        check_language(f"--init {args.init}", student, args.data)
        if args.train.length is not None:  # before the data is prepared
            student = _long_enough(student, args.train.length, args)
    with first_alone():
        tokenizer = None if student is None else student.folder / "tokenizer.json"  # type: ignore[operator]
        folder = prepared(args.data, args.out.parent / "data", tokenizer, args.train.length, vocab_size=args.vocab_size)
    manifest = read_manifest(folder)
    length = args.train.length or manifest["recipe"]["length"]
    if student is None:
        V, uniform = manifest["vocab_size"], args.objective.process == "uniform"
        torch.manual_seed(args.train.seed)
        backbone = _backbone(args, V if uniform else V + 1, length)
        student = Denoiser(DenoiserConfig(backbone, None if uniform else V, time_conditioned=uniform))
    else:
        student = _long_enough(student, length, args, f", the rows of --data {args.data}")
    return train_run(args, budget, student, folder, length, config, f"mcd train {shlex.join(argv)}", fabric)


def _without_mask(model: Denoiser, args: TrainArgs) -> Denoiser:
    """The model of --init as the start of a uniform one, with its tokenizer. Raises UsageError if that cannot be."""
    from mcd.checkpoints.config import tokenizer_in
    from mcd.checkpoints.unmasked import tokenizer_without, without_mask
    from mcd.cli.tokenizer_folder import tokenizer_folder
    from mcd.data.special_tokens import TOKENIZER_CONFIG
    from mcd.files import optional_object

    assert model.folder is not None and args.init is not None and model.config.mask_id is not None
    try:
        student = without_mask(model)
        tokenizer = tokenizer_without(tokenizer_in(model.folder), model.config.mask_id)
    except ValueError as error:
        raise UsageError(
            f"--init {args.init}: uniform diffusion, the process of --method {args.method}, has no mask, and this "
            f"model cannot lose its own ({error}); leave --init out"
        ) from None
    notes = optional_object(model.folder / TOKENIZER_CONFIG)
    notes.pop("mask_token", None)
    student.folder = tokenizer_folder(args.out.parent / "data", args.init, tokenizer, notes, model.folder)
    return student


def _shapes(args: TrainArgs) -> dict[str, Any]:
    """The shapes of the model of --init, or of a new one with the vocabulary that is asked for."""
    if args.init is not None:
        return shapes_of_model(args.init)
    folder, V = Path(args.data), args.vocab_size
    if args.data in LANGUAGES:
        V = LANGUAGES[args.data]().vocab_size
    elif (folder / MANIFEST).is_file():
        V = read_manifest(folder)["vocab_size"]
    return shapes_here(args.size.chosen().get("hidden", DiTConfig.hidden), V)


def _idle_options(args: TrainArgs) -> dict[str, str]:
    """The options that have no effect on what is trained, with the reason (`refuse_idle`)."""
    idle = {"--teacher-ema": "`mcd train` has no teacher", "--align": "only `mcd adapt` has a model to align with"}
    idle |= args.objective.idle_options(rounds=1)
    if args.init is not None:
        idle |= dict.fromkeys(map(option_name, args.size.chosen()), f"the network is that of --init {args.init}")
        idle["--vocab-size"] = f"the tokenizer is that of --init {args.init}"
    elif args.data in LANGUAGES or (Path(args.data) / MANIFEST).is_file():
        idle["--vocab-size"] = f"--data {args.data} has its tokens already"
    return idle


def _backbone(args: TrainArgs, rows: int, length: int) -> DiTConfig:
    """The backbone of a new model. Raises UsageError for sizes that do not go together."""
    with refused():
        causal = args.objective.process == "autoregressive"
        return DiTConfig(rows=rows, length=length, causal=causal, **args.size.chosen())


def _long_enough(student: Denoiser, length: int, args: TrainArgs, whose: str = "") -> Denoiser:
    """The model of --init, for rows of `length`. Raises UsageError where its network cannot have more positions."""
    from mcd.checkpoints.folder import lengthened

    if length <= student.config.backbone.length:
        return student
    try:
        return lengthened(student, length)
    except ValueError as error:
        raise UsageError(
            f"--length {length}{whose}: --init {args.init} takes no such rows ({error}); give a smaller --length"
        ) from None
