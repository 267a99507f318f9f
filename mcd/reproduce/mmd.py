"""MMD on text: its student next to the cooled teacher at equal entropy, in the best order, up to 16 calls.

The method is slow to learn at this scale (docs/mmd.md), so it stands alone and not in `frontier`.
"""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce.frontier import BEST, USUAL, judged
from mcd.reproduce.scales import Scale, text_data, text_student
from mcd.reproduce.text import text_cell

STEPS = (2, 4, 8, 16)
TEACHER: list[dict[str, Any]] = [BEST | {"temperature": T} for T in (0.7, 0.8, 0.9, 1.0)]


def plan(scale: Scale) -> Experiment:
    """The student, and the temperature sweep of its teacher."""
    student = text_student(scale, "mmd")
    cells = [
        text_cell(scale, model, steps, label, **way)
        for label, model, ways in (("mdlm", scale.teachers["mdlm"], TEACHER), ("mmd", student.name, USUAL))
        for steps in STEPS
        for way in ways
    ]
    return Experiment([*text_data(scale), student], cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """As in `frontier`."""
    protocol = {"teacher": TEACHER, "student": USUAL, "order": BEST["order"]}
    return {"protocol": protocol} | judged(measured, scale, work, out / "mmd.png")
