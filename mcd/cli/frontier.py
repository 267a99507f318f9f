"""`mcd frontier`: temperature sweeps of models, compared at equal entropy."""

import itertools
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mcd.cli.arguments import check_out, check_seed, parse, show_dry_run
from mcd.cli.main import main as run_command
from mcd.cli.typed_options import refuse_idle
from mcd.errors import UsageError
from mcd.sampler.ancestral import Ancestral


@dataclass(frozen=True)
class FrontierArgs:
    """Draw each model at several temperatures and compare them where their entropies are equal.

    Cooling lowers Gen PPL and entropy together, so a lower Gen PPL at a lower entropy shows nothing. The first MODEL is
    the teacher that the others are held against: each is read at the entropy it has at temperature 1 (and at every
    --entropy), and so is the first one, by interpolation, with bootstrap intervals. Models of a language whose truth is
    known are judged by its exact likelihood and by the total variation of their bigrams in place of Gen PPL.

    Writes frontier.json and frontier.png; the same command goes on where it was stopped.

    Examples:
      mcd frontier demo runs/student --steps 4 8 --num 128 --out runs/frontier
      mcd frontier demo runs/mcd runs/sdtt --temperatures 0.6 0.8 1.0 1.2 --out runs/frontier
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Models: folders, hub ids, or demo."""
    out: Path
    """Folder for frontier.json, frontier.png, and the cells to go on with."""
    steps: tuple[int, ...] = (4, 8, 16)
    """Numbers of steps."""
    temperatures: tuple[float, ...] = (0.7, 0.8, 0.9, 1.0, 1.1)
    """Temperatures."""
    top_p: tuple[float, ...] = (1.0,)
    """Nuclei, each with every temperature."""
    entropy: tuple[float, ...] = ()
    """Further entropies (nats) to compare at."""
    num: int = 128
    """Samples a cell."""
    length: int | None = None
    """Tokens a row; the longest each model makes by default."""
    seed: int = 0
    """Of samples and intervals."""
    scorer: str = "smollm2"
    """Judge of text: smollm2 (offline), or a folder or hub id of a causal language model."""
    scorer_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 is twice as quick where there are bfloat16 units."""
    borders: Literal["kept", "dropped"] = "kept"
    """Where a document ends in a sample, the scorer reads its own end of text (kept), or documents run together."""
    jobs: int = 2
    """Processes, each of one thread."""
    dry_run: bool = False
    """Print what would be measured and stop."""


def main(argv: list[str]) -> int:
    args = parse(FrontierArgs, argv, "frontier")
    _check(args)
    if args.dry_run:
        grid = len(args.models) * len(args.steps) * len(args.temperatures) * len(args.top_p)
        return show_dry_run({"models": args.models, "cells": grid, "samples": grid * args.num})
    check_out(args.out, folder=True)

    from mcd.checkpoints.folder import from_pretrained
    from mcd.eval.laboratory.curves import curve_of, matched_rows, point_row
    from mcd.eval.laboratory.experiment import Cell, sampler_options
    from mcd.eval.laboratory.lab import Lab
    from mcd.files import write_json
    from mcd.report.curves import draw_curves
    from mcd.train.trained_on import language_of_model

    names = {model: model.rstrip("/").split("/")[-1] for model in args.models}
    if len(set(names.values())) < len(names):
        names = {model: model for model in args.models}
    opened = {model: from_pretrained(model) for model in args.models}
    languages = {model: language_of_model(denoiser.folder) for model, denoiser in opened.items()}
    if len(set(languages.values())) > 1:
        told = ", ".join(f"{model} of {language or 'text'}" for model, language in languages.items())
        raise UsageError(f"MODEL: are of different languages ({told}); compare those of one")
    if (language := next(iter(languages.values()))) is not None:
        why = f"models of {language} are judged by its truth, without a scorer"
        refuse_idle(argv, dict.fromkeys(("--scorer", "--scorer-precision", "--borders"), why))
    for model, denoiser in opened.items():
        if denoiser.config.process == "autoregressive":
            raise UsageError(
                f"MODEL {model}: is autoregressive and takes one step a token, so that there are no equal numbers of "
                "steps to compare at; measure it by `mcd eval` at several --temperature"
            )
        longest = denoiser.config.backbone.length
        if args.length is not None and not 1 <= args.length <= longest:
            raise UsageError(f"--length {args.length}: {model} makes 1 to {longest} tokens")
    cells = [
        Cell(
            str(Path(model).resolve()) if Path(model).is_dir() else model,
            steps,
            args.num,
            names[model],
            None,
            args.length,
            sampler_options(temperature=temperature, top_p=top_p),
            args.seed,
            None if languages[model] else args.scorer,
            args.scorer_precision,
            languages[model],
            args.borders,
        )
        for model in args.models
        for steps in args.steps
        for top_p in args.top_p
        for temperature in args.temperatures
    ]
    measured = Lab(args.out, run_command, args.jobs).measure(cells)
    curves = []
    for model in args.models:
        for steps in args.steps:
            for top_p in args.top_p:
                of_curve = [
                    one
                    for one in measured
                    if one.cell.label == names[model]
                    and one.cell.steps == steps
                    and dict(one.cell.options).get("top_p", 1.0) == top_p
                ]
                label = names[model] if len(args.top_p) == 1 else f"{names[model]} top-p {top_p}"
                curves.append(curve_of(label, steps, of_curve))
    rows = [point_row(one) for one in measured]
    matched = matched_rows(curves, entropies=args.entropy)
    draw_curves(curves, args.out / "frontier.png")
    command = f"mcd frontier {shlex.join(argv)}"
    write_json(args.out / "frontier.json", {"command": command, "rows": rows, "matched": matched})
    print_matched(matched)
    return 0


def _check(args: FrontierArgs) -> None:
    """Raise UsageError for options that would fail only after minutes of work."""
    check_seed(args.seed)
    if not args.models:
        raise UsageError("MODEL: name at least one model")
    if len(set(args.models)) < len(args.models):
        raise UsageError("MODEL: names a model twice")
    for option, value in (("--num", args.num), ("--jobs", args.jobs)):
        if value < 1:
            raise UsageError(f"{option} {value}: must be at least 1")
    if len(set(args.temperatures)) < max(2, len(args.temperatures)):
        raise UsageError("--temperatures: a curve needs at least two, all different")
    if 1.0 not in args.temperatures and not args.entropy:
        raise UsageError("--temperatures: add 1, at whose entropy models are compared, or name an --entropy")
    if not all(0.0 <= entropy < math.inf for entropy in args.entropy):
        raise UsageError(f"--entropy {' '.join(map(str, args.entropy))}: must be finite and not negative")
    if args.scorer == "none":
        raise UsageError("--scorer none: text cannot be compared without one; leave it out")
    if not args.steps or not args.top_p:
        raise UsageError("--steps, --top-p: name at least one of each")
    if 0.0 in args.temperatures:
        raise UsageError("--temperatures 0: must be positive; a greedy draw is one point, see `mcd eval --greedy`")
    for steps, temperature, top_p in itertools.product(args.steps, args.temperatures, args.top_p):
        try:
            Ancestral(steps, temperature, top_p)
        except ValueError as error:
            raise UsageError(str(error).replace("--temperature ", "--temperatures ")) from None


def print_matched(rows: list[dict[str, Any]]) -> None:
    """The rows at matched entropy as a table on the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for heading in ("model", "steps", "of", "entropy", "value", "interval", "teacher", "interval", "its T"):
        table.add_column(heading, justify="left" if heading in ("model", "of") else "right", overflow="ellipsis")

    def told(row: dict[str, Any], prefix: str) -> tuple[str, str]:
        value, lo, hi = (row[f"{prefix}{key}"] for key in ("value", "lo", "hi"))
        form = ".0f" if row["measure"] == "gen_ppl" else ".3f"
        return (
            "-" if value is None else f"{value:{form}}",
            "-" if lo is None else f"{lo:{form}}-{hi:{form}}",
        )

    short = {"gen_ppl": "PPL", "nll": "NLL", "tv_bigram": "TV-2"}
    for row in rows:
        temperature = row["teacher_temperature"]
        table.add_row(
            row["model"],
            str(row["steps"]),
            short[row["measure"]],
            f"{row['entropy']:.3f}",
            *told(row, ""),
            *told(row, "teacher_"),
            "-" if temperature is None else f"{temperature:.2f}",
        )
    Console().print(table)
