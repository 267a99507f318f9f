"""The comparison at equal entropy on languages of known law: the teacher cooled, SDTT, Duo-DCD, CD4LM, MCD."""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.curves import point_row
from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce.frontier import verdicts
from mcd.reproduce.languages import TEACHERS, language_cells, matched_by_language
from mcd.reproduce.scales import (
    LANGUAGES,
    METHODS,
    SEEDS,
    TEACHER_OF,
    Scale,
    language_data,
    language_student,
    language_teacher,
)

TEMPERATURES = {"mdlm": (0.6, 0.75, 0.9, 1.0, 1.1), "duo": (0.75, 0.9, 1.0, 1.1), "mcd": (1.0,), "duo-dcd": (1.0,)}
COOLED_STUDENT = (0.75, 1.0)
"""Teachers are cooled, and heated, as far as any student's entropy; students are cooled to meet MCD, the sharpest."""
STEPS = (4, 8)


def plan(scale: Scale) -> Experiment:
    """Temperature sweeps of every teacher and student, on each language and seed, in the usual order."""
    trainings, cells = [], []
    for language in LANGUAGES:
        trainings.append(language_data(language))
        for seed in SEEDS:
            trained = {name: language_teacher(language, seed, name) for name in TEACHERS}
            trained |= {method: language_student(language, seed, method) for method in METHODS}
            trainings += trained.values()
            for label, training in trained.items():
                temperatures = TEMPERATURES.get(label, COOLED_STUDENT)
                cells += language_cells(training.name, language, STEPS, label, seed, temperatures)
    return Experiment(trainings, cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """Points of every curve, then the rows at matched entropy."""
    _, matched = matched_by_language(measured, out, "frontier", TEACHER_OF, "mcd")
    return {
        "protocol": {"temperatures": TEMPERATURES},
        "rows": [point_row(one) for one in measured],
        "matched": matched,
        "findings": verdicts(matched),
    }
