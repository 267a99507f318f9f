"""`mcd frontier`: temperature sweeps of models, compared at equal entropy."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mcd.app.arguments import check_out, check_seed, parse, show_dry_run
from mcd.app.errors import UsageError

if TYPE_CHECKING:
    from mcd.app.reproduce.lab import Measured
    from mcd.eval.frontier import Point


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


@dataclass(frozen=True)
class Curve:
    """One model at one number of steps: its points by measure ("gen_ppl", or "nll" and "tv_bigram" of a language)."""

    label: str
    steps: int
    language: str | None
    seed: int
    points: "dict[str, list[Point]]"

    def natural_entropy(self) -> float | None:
        """The mean entropy at temperature 1, or None where it was not drawn."""
        points = next(iter(self.points.values()))
        return next((float(point.entropy.mean()) for point in points if point.temperature == 1.0), None)


def curve_of(label: str, steps: int, members: "Sequence[Measured]") -> Curve:
    """The curve of cells that differ in temperature alone."""
    from mcd.data.language import LANGUAGES
    from mcd.eval.diversity import sample_entropies
    from mcd.eval.frontier import Point, ratio, total_variation
    from mcd.eval.language import bigram_counts

    cell = members[0].cell
    points: dict[str, list[Point]] = {}
    for one in members:
        temperature = float(dict(one.cell.options).get("temperature", 1.0))
        ids, entropy = one.arrays["ids"], sample_entropies(one.arrays["ids"])
        if cell.language is None:
            qualities = {"gen_ppl": ratio(one.arrays["nll"], one.arrays["tokens"])}
        else:
            import numpy as np
            import torch

            language, rows = LANGUAGES[cell.language](), torch.from_numpy(ids).long()
            nll = -language.log_likelihood(rows).numpy()
            law = language.ngram(2).flatten().numpy()
            qualities = {
                "nll": ratio(nll, np.full(len(ids), float(ids.shape[1]))),
                "tv_bigram": total_variation(bigram_counts(rows, language.vocab_size).numpy(), law),
            }
        for name, quality in qualities.items():
            points.setdefault(name, []).append(Point(temperature, entropy, quality))
    return Curve(label, steps, cell.language, cell.seed, points)


def point_row(one: "Measured") -> dict[str, Any]:
    """A cell of the sweep as a row."""
    return one.row | {"language": one.cell.language, **dict(one.cell.options)}


def matched_rows(curves: list[Curve], first: str | None, entropies: Sequence[float] = ()) -> list[dict[str, Any]]:
    """A row for each curve, number of steps and target entropy.

    Targets are what each curve has at temperature 1, and `entropies`. first: the label whose natural entropy is the one
    that all others are read at; None reads all at each other's. A row holds `value` (Gen PPL, NLL or total variation
    there) and that of its teacher, the first curve of the same steps (or the masked or uniform teacher by name).
    """
    import math

    from mcd.app.reproduce.scales import TEACHER_OF
    from mcd.eval.frontier import at_entropy

    rows = []
    for steps in sorted({curve.steps for curve in curves}):
        here = [curve for curve in curves if curve.steps == steps]
        by_label = {curve.label: curve for curve in here}
        for curve in here:
            teacher = by_label.get(TEACHER_OF.get(curve.label, ""), here[0])
            targets = {f"{curve.label} at T = 1": curve.natural_entropy()}
            if first is not None and first in by_label and first != curve.label:
                targets[f"{first} at T = 1"] = by_label[first].natural_entropy()
            targets |= {f"H = {entropy}": entropy for entropy in entropies}
            for name, target in targets.items():
                if target is None:
                    continue
                for measure in curve.points:
                    own = at_entropy(curve.points[measure], target)
                    cooled = at_entropy(teacher.points[measure], target)
                    scale = math.exp if measure == "gen_ppl" else float
                    rows.append(
                        {
                            "model": curve.label,
                            "language": curve.language,
                            "seed": curve.seed,
                            "steps": steps,
                            "measure": measure,
                            "entropy": target,
                            "entropy_of": name,
                            **_told("", own, scale),
                            "teacher": teacher.label,
                            **_told("teacher_", cooled, scale),
                        }
                    )
    return rows


def _told(prefix: str, match: Any, scale: Any) -> dict[str, float | None]:
    """A match as keys of a row; None where it was not reached."""
    if match is None:
        return {f"{prefix}value": None, f"{prefix}lo": None, f"{prefix}hi": None, f"{prefix}temperature": None}
    interval = match.quality
    ends = {
        f"{prefix}{name}": None if x is None else scale(x) for name, x in (("lo", interval.lo), ("hi", interval.hi))
    }
    return {f"{prefix}value": scale(interval.value), **ends, f"{prefix}temperature": match.temperature}


def draw_curves(curves: list[Curve], path: Path) -> None:
    """Quality against entropy: a column a number of steps, a row a measure, a line a model."""
    import math

    import numpy as np

    from mcd.app.reproduce.plotting import colour_of, figure

    steps, measures = sorted({curve.steps for curve in curves}), list(curves[0].points)
    titles = {"gen_ppl": "Gen PPL", "nll": "exact NLL (nats a token)", "tv_bigram": "bigram total variation"}
    with figure(path, len(measures), len(steps), (3.4 * len(steps), 3.0 * len(measures))) as axes:
        for row, measure in enumerate(measures):
            for column, n in enumerate(steps):
                axis = axes[row * len(steps) + column]
                for i, curve in enumerate(c for c in curves if c.steps == n):
                    points = sorted(curve.points[measure], key=lambda point: point.temperature)
                    y = [float(point.quality(np.ones((1, len(point.entropy))))[0]) for point in points]
                    y = [math.exp(v) for v in y] if measure == "gen_ppl" else y
                    x = [point.entropy.mean() for point in points]
                    axis.plot(x, y, "o-", color=colour_of(curve.label, i), label=curve.label)
                if measure == "gen_ppl":
                    axis.set_yscale("log")
                if row == 0:
                    axis.set_title(f"{n} steps")
                if row == len(measures) - 1:
                    axis.set_xlabel("entropy (nats)")
            axes[row * len(steps)].set_ylabel(titles[measure])
        axes[0].legend()


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
