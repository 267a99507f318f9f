"""The judgement on text: every method at equal entropy, each in its best order, next to the teacher, cooled or heated.

A student that has learnt more than a temperature is below its teacher's curve. The low-discrepancy order is the best
one of masked models, for teacher and student alike; uniform models have none. `nelbo` is the control of more training:
the teacher, trained further on the data for as many steps as the students.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from mcd.eval.features import load_minilm
from mcd.eval.laboratory.curves import curves_of, matched_rows, point_row
from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.held_out import HeldOut
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.eval.mauve import energy_distance, energy_floor
from mcd.report.curves import draw_curves
from mcd.reproduce.scales import (
    JUDGED,
    ROUNDS,
    TEACHER_OF,
    Scale,
    more_training,
    text_student,
    text_teachers,
)
from mcd.reproduce.text import reference_rows, text_cell

BEST: dict[str, Any] = {"order": "low-discrepancy"}
USUAL: list[dict[str, Any]] = [BEST | {"temperature": T} for T in (0.8, 1.0)]
WAYS: dict[str, list[dict[str, Any]]] = {
    "mdlm": [BEST | {"temperature": T} for T in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)],
    "duo": [{"temperature": T} for T in (0.8, 0.9, 1.0)],
    "mdlm-iid": [{}],
    "duo-dcd": [{}],
    "ltd-greedy": [BEST | {"greedy": True}],
}
"""How each model is drawn; the others as USUAL. `mdlm-iid` is the masked teacher in the usual order."""
REAL_TEXTS = 512
"""Held-out rows with which the energy distance compares."""


def plan(scale: Scale) -> Experiment:
    """Temperature sweeps of teachers, students and control at each number of steps; the teacher also in the usual
    order."""
    trainings = [*text_teachers(scale), more_training(scale), *(text_student(scale, method) for method in JUDGED)]
    models = {name: scale.teachers[name.removesuffix("-iid")] for name in ("mdlm", "duo", "mdlm-iid")}
    models |= {name: f"text/{name.removesuffix('-greedy')}" for name in ("nelbo", *JUDGED, "ltd-greedy")}
    cells = [
        text_cell(scale, model, steps, label, _last_round(label), **way)
        for label, model in models.items()
        for steps in scale.frontier_steps
        for way in WAYS.get(label, USUAL)
    ]
    return Experiment(trainings, cells)


def _last_round(label: str) -> int | None:
    """The round as Table 1 names it, so that equal cells are drawn once."""
    return ROUNDS if label in ("mcd", "sdtt", "duo-dcd") else None


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """Held-out text, the points of every curve with their energy distance to text, and the rows at matched entropy."""
    return {"protocol": {"ways": WAYS, "usual": USUAL}} | judged(measured, scale, work, out / "frontier.png", "mcd")


def judged(
    measured: list[MeasuredCell], scale: Scale, work: Path, picture: Path, common: str | None = None
) -> dict[str, Any]:
    """The parts of a result on text without its protocol; it draws the curves. common: as of `matched_rows`."""
    curves = curves_of(measured)
    matched = matched_rows(curves, TEACHER_OF, common)
    draw_curves(curves, picture)
    return {
        "rows": [*reference_rows(scale, work), *with_energy(measured, scale, work)],
        "matched": matched,
        "findings": verdicts(matched),
    }


def with_energy(measured: list[MeasuredCell], scale: Scale, work: Path) -> list[dict[str, Any]]:
    """The points of every curve, with the energy distance of their texts to held-out text by a sentence encoder.

    `energy_floor` is what real text stays below (`mcd.eval.mauve`). The encoder was no teacher and is no scorer here;
    the bundled teacher began with its weights. Raises MissingScorer where it is not installed.
    """
    by = load_minilm()
    real = HeldOut(work / scale.text[0], scale.length, seed=0).reference(scale.text[0], REAL_TEXTS, by).features
    floor, rows = energy_floor(real, scale.num), []
    for one in measured:
        assert one.samples is not None
        lines = one.samples.read_text(encoding="utf-8").splitlines()
        found = energy_distance(by.features([json.loads(line)["text"] for line in lines]), real)
        energy = {"energy": found.value, "energy_lo": found.lo, "energy_hi": found.hi, "energy_floor": floor}
        rows.append(point_row(one) | energy)
    return rows


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
