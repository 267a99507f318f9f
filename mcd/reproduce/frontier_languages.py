"""The comparison at equal entropy on languages of known law: the teacher cooled, SDTT, Duo-DCD, CD4LM, MCD.

In the usual order, in which the paper draws, and in the best one, where the teacher needs fewer calls.
"""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.curves import point_row
from mcd.eval.laboratory.experiment import Cell, Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce.frontier import BEST, verdicts
from mcd.reproduce.frontier_methods import TEMPERATURES as WIDE
from mcd.reproduce.frontier_methods import summary
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
IN_BEST_ORDER = {"mdlm": WIDE} | {method: (1.0,) for method in METHODS if TEACHER_OF[method] == "mdlm"}
"""The masked models; a uniform one has no order of revealing."""
STEPS_IN_BEST_ORDER = (1, 2, 4, 8)


def plan(scale: Scale) -> Experiment:
    """Temperature sweeps of every teacher and student, on each language and seed, in both orders."""
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
            for label, temperatures in IN_BEST_ORDER.items():
                model = trained[label].name
                cells += language_cells(model, language, STEPS_IN_BEST_ORDER, label, seed, temperatures, **BEST)
    return Experiment(trainings, cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """Points of every curve, then the rows at matched entropy; `best` has those of the best order, and their means."""
    usual = [one for one in measured if not _in_best_order(one.cell)]
    best = [one for one in measured if _in_best_order(one.cell)]
    _, matched = matched_by_language(usual, out, "frontier", TEACHER_OF, "mcd")
    _, matched_best = matched_by_language(best, out, "frontier_best", TEACHER_OF)
    rows = [point_row(one) for one in best]
    return {
        "protocol": {"temperatures": TEMPERATURES, "in_best_order": IN_BEST_ORDER, "seeds": list(SEEDS)},
        "rows": [point_row(one) for one in usual],
        "matched": matched,
        "findings": verdicts(matched),
        "best": {
            "rows": rows,
            "matched": matched_best,
            "summary": summary(matched_best, rows),
            "findings": verdicts(matched_best),
        },
    }


def _in_best_order(cell: Cell) -> bool:
    return dict(cell.options).items() >= BEST.items()
