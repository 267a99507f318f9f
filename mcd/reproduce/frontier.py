"""The comparison at equal entropy: at entropy H and N steps, the teacher cooled, SDTT, Duo-DCD, CD4LM, MCD."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcd.eval.laboratory.curves import curve_of, matched_rows, point_row
from mcd.eval.laboratory.experiment import Experiment, sampler_options
from mcd.eval.laboratory.lab import Lab
from mcd.report.curves import draw_curves
from mcd.reproduce.languages import language_cell
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
from mcd.reproduce.table1 import text_cell

TEMPERATURES = {"mdlm": (0.6, 0.75, 0.9, 1.0, 1.1), "duo": (0.75, 0.9, 1.0, 1.1), "mcd": (1.0,), "duo-dcd": (1.0,)}
TEXT_TEMPERATURES = {"mdlm": (0.7, 0.8, 0.9, 1.0, 1.1), "duo": (0.9, 1.0), "mcd": (1.0,), "duo-dcd": (1.0,)}
COOLED_STUDENT, COOLED_TEXT_STUDENT = (0.75, 1.0), (0.8, 1.0)
"""Teachers are cooled, and heated, as far as any student's entropy; students cooled to meet MCD, the sharpest."""
LANGUAGE_STEPS = (4, 8)


def plan(scale: Scale) -> Experiment:
    """Temperature sweeps of every teacher and student: on text at each number of steps, on the languages at 4 and 8."""
    runs = [*text_teachers(scale), *(text_student(scale, method) for method in METHODS)]
    models = {name: scale.teachers[name] for name in ("mdlm", "duo")} | {m: f"text/{m}" for m in METHODS}
    cells = [
        replace(text_cell(scale, model, n, label, _last_round(label)), options=sampler_options(temperature=temperature))
        for label, model in models.items()
        for n in scale.frontier_steps
        for temperature in TEXT_TEMPERATURES.get(label, COOLED_TEXT_STUDENT)
    ]
    if scale.name == "cpu":
        for language in LANGUAGES:
            runs.append(language_data(language))
            for seed in SEEDS:
                trained = {name: language_teacher(language, seed, name) for name in ("mdlm", "duo")}
                trained |= {method: language_student(language, seed, method) for method in METHODS}
                runs += trained.values()
                cells += [
                    language_cell(run.name, language, steps, label, seed, temperature=temperature)
                    for label, run in trained.items()
                    for steps in LANGUAGE_STEPS
                    for temperature in TEMPERATURES.get(label, COOLED_STUDENT)
                ]
    return Experiment(runs, cells)


def _last_round(label: str) -> int | None:
    """As Table 1 names it, so that cells of temperature 1 are one with its own."""
    return ROUNDS if label in METHODS and label != "cd4lm" else None


def run(scale: Scale, lab: Lab, out: Path) -> dict[str, Any]:
    """Points of every curve, then the rows at matched entropy."""
    groups = defaultdict(list)
    for one in lab.measure(plan(scale).cells):
        groups[one.cell.language, one.cell.seed, one.cell.steps, one.cell.label].append(one)
    curves = [curve_of(label, steps, members) for (_, _, steps, label), members in groups.items()]
    rows = [point_row(one) for members in groups.values() for one in members]
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
        "rows": rows,
        "matched": matched,
        "findings": verdicts(matched),
    }


def verdicts(matched: list[dict[str, Any]]) -> list[str]:
    """For each language (or text) and steps, each student against its own teacher at the student's entropy."""
    said = []
    groups = defaultdict(list)
    for row in matched:
        if row["entropy_of"] == f"{row['model']} at T = 1":
            groups[row["language"] or "text", row["measure"], row["steps"], row["model"]].append(row)
    for (language, measure, steps, method), rows in groups.items():
        if method in TEACHER_OF:
            reached = [row for row in rows if row["value"] is not None and row["teacher_value"] is not None]
            better = sum(row["value"] < row["teacher_value"] for row in reached)
            said.append(
                f"{language}, {steps} steps, {measure}: {method} below its cooled teacher in {better} of {len(reached)}"
            )
    return said
