"""The comparison at equal entropy: at entropy H and N steps, the teacher cooled, SDTT, Duo-DCD, CD4LM, MCD."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from mcd.eval.laboratory.curves import curves_of, matched_rows, point_row
from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.report.curves import draw_curves
from mcd.reproduce.languages import TEACHERS, language_cells
from mcd.reproduce.scales import (
    LANGUAGES,
    METHODS,
    ROUNDS,
    SEEDS,
    TEACHER_OF,
    Scale,
    language_data,
    language_student,
    language_teacher,
    text_student,
    text_teachers,
)
from mcd.reproduce.text import text_cell

TEMPERATURES = {"mdlm": (0.6, 0.75, 0.9, 1.0, 1.1), "duo": (0.75, 0.9, 1.0, 1.1), "mcd": (1.0,), "duo-dcd": (1.0,)}
TEXT_TEMPERATURES = {"mdlm": (0.7, 0.8, 0.9, 1.0, 1.1), "duo": (0.9, 1.0), "mcd": (1.0,), "duo-dcd": (1.0,)}
COOLED_STUDENT, COOLED_TEXT_STUDENT = (0.75, 1.0), (0.8, 1.0)
"""Teachers are cooled, and heated, as far as any student's entropy; students are cooled to meet MCD, the sharpest."""
LANGUAGE_STEPS = (4, 8)


def plan(scale: Scale) -> Experiment:
    """Temperature sweeps of every teacher and student: on text at each number of steps, on the languages at 4 and 8."""
    trainings = [*text_teachers(scale), *(text_student(scale, method) for method in METHODS)]
    models = {name: scale.teachers[name] for name in TEACHERS} | {method: f"text/{method}" for method in METHODS}
    cells = [
        text_cell(scale, model, steps, label, _last_round(label), temperature=temperature)
        for label, model in models.items()
        for steps in scale.frontier_steps
        for temperature in TEXT_TEMPERATURES.get(label, COOLED_TEXT_STUDENT)
    ]
    for language in LANGUAGES if scale.name == "cpu" else ():
        trainings.append(language_data(language))
        for seed in SEEDS:
            trained = {name: language_teacher(language, seed, name) for name in TEACHERS}
            trained |= {method: language_student(language, seed, method) for method in METHODS}
            trainings += trained.values()
            for label, training in trained.items():
                temperatures = TEMPERATURES.get(label, COOLED_STUDENT)
                cells += language_cells(training.name, language, LANGUAGE_STEPS, label, seed, temperatures)
    return Experiment(trainings, cells)


def _last_round(label: str) -> int | None:
    """The round as Table 1 names it, so that cells of temperature 1 are those of Table 1."""
    return ROUNDS if label in METHODS and label != "cd4lm" else None


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """Points of every curve, then the rows at matched entropy."""
    curves = curves_of(measured)
    matched = []
    for domain in dict.fromkeys((curve.language, curve.seed) for curve in curves):
        matched += matched_rows([c for c in curves if (c.language, c.seed) == domain], TEACHER_OF, "mcd")
    draw_curves([curve for curve in curves if curve.language is None], out / "frontier.png")
    for language in LANGUAGES:
        of_language = [curve for curve in curves if curve.language == language and curve.seed == SEEDS[0]]
        if of_language:
            draw_curves(of_language, out / f"frontier_{language}.png")
    return {
        "protocol": {"temperatures": TEMPERATURES, "text_temperatures": TEXT_TEMPERATURES},
        "rows": [point_row(one) for one in measured],
        "matched": matched,
        "findings": verdicts(matched),
    }


def verdicts(matched: list[dict[str, Any]]) -> list[str]:
    """For each language (or text) and steps, each student against its own teacher at the student's entropy."""
    groups = defaultdict(list)
    for row in matched:
        if row["entropy_of"] == f"{row['model']} at T = 1" and row["model"] in TEACHER_OF:
            groups[row["language"] or "text", row["measure"], row["steps"], row["model"]].append(row)
    said = []
    for (language, measure, steps, method), rows in groups.items():
        reached = [row for row in rows if row["value"] is not None and row["teacher_value"] is not None]
        better = sum(row["value"] < row["teacher_value"] for row in reached)
        said.append(
            f"{language}, {steps} steps, {measure}: {method} below its cooled teacher in {better} of {len(reached)}"
        )
    return said
