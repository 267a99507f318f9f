"""`mcd frontier`: temperature sweeps of models, compared at equal entropy."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mcd.app.arguments import check_out, check_seed, parse, show_dry_run
from mcd.app.errors import UsageError


@dataclass(frozen=True)
class FrontierArgs:
    """Draw each model at several temperatures and compare them where their entropies are equal.

    Cooling lowers Gen PPL and entropy together, so a lower Gen PPL at a lower entropy shows nothing. The first MODEL is
    the one that the others are held against: each is read at the entropies the others have at temperature 1 (and at
    --entropy), by interpolation, with bootstrap intervals. Models of a language whose truth is known are judged by its
    exact likelihood and by the total variation of their bigrams in place of Gen PPL.

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
    scorer_precision: str = "bf16"
    """fp32, or bf16: twice as quick where there are bfloat16 units."""
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

    from mcd.app.curves import curve_of, draw_curves, matched_rows, point_row
    from mcd.app.data_of import language_of
    from mcd.app.reproduce.lab import Lab
    from mcd.app.reproduce.plan import Cell, options_of
    from mcd.model.pretrained import from_pretrained
    from mcd.train.checkpoint import write_json

    names = {model: model.rstrip("/").split("/")[-1] for model in args.models}
    if len(set(names.values())) < len(names):
        names = {model: model for model in args.models}
    languages = {model: language_of(from_pretrained(model)) for model in args.models}
    cells = [
        Cell(
            str(Path(model).resolve()) if Path(model).is_dir() else model,
            steps,
            args.num,
            names[model],
            None,
            args.length,
            options_of(temperature=temperature, top_p=top_p),
            args.seed,
            None if languages[model] else args.scorer,
            args.scorer_precision,
            languages[model],
        )
        for model in args.models
        for steps in args.steps
        for top_p in args.top_p
        for temperature in args.temperatures
    ]
    measured = Lab(args.out, args.jobs).measure(cells)
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
    matched = matched_rows(curves, None, args.entropy)
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
    for option, values in (("--steps", args.steps), ("--temperatures", args.temperatures), ("--top-p", args.top_p)):
        if not values or min(values) <= 0:
            raise UsageError(f"{option} {' '.join(map(str, values))}: must be positive, and at least one")
    for option, value in (("--num", args.num), ("--jobs", args.jobs)):
        if value < 1:
            raise UsageError(f"{option} {value}: must be at least 1")
    if len(args.temperatures) < 2:
        raise UsageError("--temperatures: a curve needs at least two")


def print_matched(rows: list[dict[str, Any]]) -> None:
    """The rows at matched entropy as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "steps", "measure", "entropy", "value", "interval", "at T", "teacher there", "its T")

    def told(x: float | None, form: str = ".4g") -> str:
        return "not reached" if x is None else f"{x:{form}}"

    for row in rows:
        interval = f"{told(row['lo'])} to {told(row['hi'])}" if row["lo"] is not None else "-"
        table.add_row(
            row["model"],
            str(row["steps"]),
            row["measure"],
            f"{row['entropy']:.3f}",
            told(row["value"]),
            interval,
            told(row["temperature"], ".2f"),
            told(row["teacher_value"]),
            told(row["teacher_temperature"], ".2f"),
        )
    Console().print(table)
