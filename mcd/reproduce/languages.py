"""All methods on languages whose truth is known, three seeds: exact likelihood, total variation, what is covered."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from mcd.checkpoints.folder import from_pretrained
from mcd.eval.laboratory.experiment import Cell, Experiment, sampler_options
from mcd.eval.laboratory.lab import Lab, MeasuredCell
from mcd.eval.laboratory.truth import likelihood_row
from mcd.report.plotting import colour_of, figure, steps_axis
from mcd.reproduce.scales import LANGUAGES, METHODS, SEEDS, Scale, language_data, language_student, language_teacher

STEPS = (2, 4, 8, 16)
NUM, LENGTH = 512, 64
TEACHERS = ("mdlm", "duo")
MEASURES = ("nll", "tv_bigram", "entropy", "bigram_entropy", "coverage", "grammatical", "nfe")


def plan(scale: Scale) -> Experiment:
    """Two teachers and four students for every language and seed, and the truth itself as a model."""
    runs, cells = [], []
    for language in LANGUAGES:
        runs.append(language_data(language))
        cells += [language_cell(f"exact:{language}", language, n, "exact", 0) for n in STEPS]
        for seed in SEEDS:
            teachers = [language_teacher(language, seed, process) for process in TEACHERS]
            students = [language_student(language, seed, method) for method in METHODS]
            runs += teachers + students
            for run, label in zip(teachers + students, TEACHERS + METHODS, strict=True):
                cells += [language_cell(run.name, language, n, label, seed) for n in STEPS]
    return Experiment(runs, cells)


def language_cell(model: str, language: str, steps: int, label: str, seed: int, **options: Any) -> Cell:
    """A cell judged by the language itself; the samples' seed is the training's."""
    return Cell(model, steps, NUM, label, None, LENGTH, sampler_options(**options), seed, language=language)


def run(scale: Scale, lab: Lab, out: Path) -> dict[str, Any]:
    """A row for each (language, method, steps): means over seeds, their spread, and the floor of each measure."""
    measured = lab.measure(plan(scale).cells)
    rows = over_seeds(measured)
    likelihoods = [
        likelihood_row(from_pretrained(str(lab.work / run.name)), language, process, int(seed))
        for run in plan(scale).trainings
        if run.command[0] == "train"
        for language, process, seed in [re.split(r"/|-s", run.name)]
    ]
    draw(rows, out / "languages.png")
    return {
        "protocol": {"samples": NUM, "length": LENGTH, "seeds": list(SEEDS)},
        "rows": rows,
        "likelihoods": likelihoods,
    }


def over_seeds(measured: list[MeasuredCell]) -> list[dict[str, Any]]:
    """Cells that differ in the seed alone, as one row: each measure's mean and standard deviation."""
    groups = defaultdict(list)
    for one in measured:
        cell = one.cell
        groups[cell.language, cell.label, cell.round, cell.steps, cell.options].append(one)
    rows = []
    for (language, label, round, steps, options), members in groups.items():
        row: dict[str, Any] = {"language": language, "model": label, "round": round, "steps": steps, **dict(options)}
        for name in MEASURES:
            values = [one.row[name] for one in members if one.row.get(name) is not None]
            if values:
                row[name] = float(np.mean(values))
                row[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(row | {"seeds": len(members), "floor": members[0].row.get("floor")})
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Exact NLL and bigram total variation against steps; a column a language, a line a method."""
    labels = ("exact", "mdlm", "duo", *METHODS)
    with figure(path, 2, len(LANGUAGES), (10.0, 5.6)) as axes:
        for column, language in enumerate(LANGUAGES):
            for axis, measure in ((axes[column], "nll"), (axes[len(LANGUAGES) + column], "tv_bigram")):
                for label in labels:
                    line = [r for r in rows if r.get("language") == language and r["model"] == label and measure in r]
                    line.sort(key=lambda row: row["steps"])
                    look: dict[str, Any] = {
                        "color": colour_of(label),
                        "linestyle": "--" if label in ("exact", "mdlm", "duo") else "-",
                    }
                    axis.plot([r["steps"] for r in line], [r[measure] for r in line], marker="o", label=label, **look)
                floor = next(r["floor"][measure] for r in rows if r.get("language") == language and r.get("floor"))
                axis.axhline(floor, color="black", linewidth=0.8, linestyle=":")
                steps_axis(axis, STEPS)
            axes[column].set_title(language)
        axes[0].set_ylabel("exact NLL (nats a token)")
        axes[len(LANGUAGES)].set_ylabel("bigram total variation")
        axes[0].legend()
