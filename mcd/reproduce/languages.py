"""All methods on languages whose truth is known, three seeds: exact likelihood, total variation, coverage."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from mcd.checkpoints.folder import from_pretrained
from mcd.data.languages import known
from mcd.eval.laboratory.curves import Curve, curves_of, matched_rows
from mcd.eval.laboratory.experiment import Cell, Experiment, sampler_options
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.eval.likelihood import nelbo
from mcd.model.denoiser import Denoiser
from mcd.report.curves import draw_curves
from mcd.report.plotting import colour_of, figure, steps_axis
from mcd.reproduce.scales import LANGUAGES, METHODS, SEEDS, Scale, language_data, language_student, language_teacher

STEPS = (2, 4, 8, 16)
NUM, LENGTH = 512, 64
TEACHERS = ("mdlm", "duo")
MEASURES = ("nll", "tv_bigram", "entropy", "bigram_entropy", "coverage", "grammatical", "nfe")


def plan(scale: Scale) -> Experiment:
    """Two teachers and four students for every language and seed, and the truth itself as a model."""
    trainings, cells = [], []
    for language in LANGUAGES:
        trainings.append(language_data(language))
        cells += language_cells(f"exact:{language}", language, STEPS, "exact", 0)
        for seed in SEEDS:
            trained = {name: language_teacher(language, seed, name) for name in TEACHERS}
            trained |= {method: language_student(language, seed, method) for method in METHODS}
            trainings += trained.values()
            for label, training in trained.items():
                cells += language_cells(training.name, language, STEPS, label, seed)
    return Experiment(trainings, cells)


def language_cells(
    model: str,
    language: str,
    steps: Sequence[int],
    label: str,
    seed: int,
    temperatures: Sequence[float] = (1.0,),
    **options: Any,
) -> list[Cell]:
    """Cells measured by the language itself, at all steps and temperatures; the samples' seed is that of the
    training."""
    return [
        Cell(model, n, NUM, label, None, LENGTH, sampler_options(temperature=T, **options), seed, language=language)
        for n in steps
        for T in temperatures
    ]


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """A row for each (language, method, steps): means over seeds, their spread, and the floor of each measure."""
    rows = over_seeds(measured)
    likelihoods = [
        likelihood_row(from_pretrained(str(work / language_teacher(language, seed, name).name)), language, name, seed)
        for language in LANGUAGES
        for seed in SEEDS
        for name in TEACHERS
    ]
    draw(rows, out / "languages.png")
    return {
        "protocol": {"samples": NUM, "length": LENGTH, "seeds": list(SEEDS)},
        "rows": rows,
        "likelihoods": likelihoods,
    }


def matched_by_language(
    measured: Sequence[MeasuredCell],
    out: Path,
    name: str,
    teacher_of: Mapping[str, str] = MappingProxyType({}),
    common: str | None = None,
) -> tuple[list[Curve], list[dict[str, Any]]]:
    """The curves of some cells, and their rows at matched entropy (`matched_rows`), each language and seed by itself.
    Draws the curves of the first seed, to NAME_LANGUAGE.png."""
    curves, matched = curves_of(measured), []
    for domain in dict.fromkeys((curve.language, curve.seed) for curve in curves):
        here = [curve for curve in curves if (curve.language, curve.seed) == domain]
        matched += matched_rows(here, teacher_of, common)
        language, seed = domain
        if seed == SEEDS[0]:
            draw_curves(here, out / f"{name}_{language}.png")
    return curves, matched


def likelihood_row(denoiser: Denoiser, name: str, model: str, seed: int, rows: int = 2048) -> dict[str, Any]:
    """A model's bound on fresh text of the language, next to the language's own entropy, nats per token."""
    language, length = known.LANGUAGES[name](), denoiser.config.backbone.length
    x0 = language.sample_rows(rows, length, torch.Generator().manual_seed(1_000_003 + seed))
    entropy, error = language.entropy(length)
    bound = nelbo(denoiser, list(x0.split(64)), seed)
    said = {"model": model, "language": name, "seed": seed, **bound}
    return said | {"entropy_true": entropy, "entropy_true_se": error, "gap": bound["valid_nelbo"] - entropy}


def over_seeds(measured: list[MeasuredCell]) -> list[dict[str, Any]]:
    """Cells that differ only in the seed, as one row: each measure's mean and standard deviation."""
    groups = defaultdict(list)
    for one in measured:
        cell = one.cell
        groups[cell.language, cell.label, cell.round, cell.steps, cell.options].append(one.row)
    rows = []
    for (language, label, round, steps, options), members in groups.items():
        row: dict[str, Any] = {"language": language, "model": label, "round": round, "steps": steps, **dict(options)}
        for name in MEASURES:
            values = [member[name] for member in members if member.get(name) is not None]
            if values:
                row[name] = float(np.mean(values))
                row[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(row | {"seeds": len(members), "floor": members[0].get("floor")})
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Exact NLL and bigram total variation against steps; a column per language, a line per method."""
    with figure(path, 2, len(LANGUAGES), (10.0, 5.6)) as axes:
        for column, language in enumerate(LANGUAGES):
            here = sorted((row for row in rows if row.get("language") == language), key=lambda row: row["steps"])
            floor = next(row["floor"] for row in here if row.get("floor"))
            for axis, measure in ((axes[column], "nll"), (axes[len(LANGUAGES) + column], "tv_bigram")):
                for label in ("exact", *TEACHERS, *METHODS):
                    points = [(row["steps"], row[measure]) for row in here if row["model"] == label and measure in row]
                    look: dict[str, Any] = {"color": colour_of(label), "linestyle": "-" if label in METHODS else "--"}
                    axis.plot(*zip(*points, strict=True), marker="o", label=label, **look)
                axis.axhline(floor[measure], color="black", linewidth=0.8, linestyle=":")
                steps_axis(axis, STEPS)
            axes[column].set_title(language)
        axes[0].set_ylabel("exact NLL (nats per token)")
        axes[len(LANGUAGES)].set_ylabel("bigram total variation")
        axes[0].legend()
