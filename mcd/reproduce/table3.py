"""Table 3: round 1 of MCD and SDTT at a model about five times larger."""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.curves import curves_of, matched_rows
from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce.scales import Scale, text_data, text_student
from mcd.reproduce.text import shared_protocol, text_cell, write_samples

STUDENTS = ("mcd", "sdtt")
COOLED_STEPS, COOLER = (8, 32), (0.9, 0.95)
"""Numbers of steps at which the teacher is also cooled, and its temperatures there."""


def plan(scale: Scale) -> Experiment:
    """The larger teacher and its students of one round."""
    teacher = scale.teachers["large"]
    models = {"mdlm-large": teacher} | {f"{method}-large": f"large/{method}" for method in STUDENTS}
    cells = [
        text_cell(scale, model, steps, label, judge=1)
        for label, model in models.items()
        for steps in scale.steps
        if scale.name != "cpu" or steps in (8, 32, 64)
    ]
    cells += [
        text_cell(scale, teacher, steps, "mdlm-large", judge=1, temperature=temperature)
        for steps in COOLED_STEPS
        for temperature in COOLER
    ]
    return Experiment(text_data(scale) + [text_student(scale, method, "large", rounds=1) for method in STUDENTS], cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """The cells; `findings` say by how much each student's Gen PPL differs from the teacher's."""
    rows = [one.row for one in measured]
    write_samples(out / "table3_samples.md", [one for one in measured if one.cell.steps in (8, 64)], work)
    value = {(one.cell.label, one.cell.steps): one.row["gen_ppl"] for one in measured if not one.cell.options}
    said = [
        f"{n} steps: MCD changes the teacher's Gen PPL by {value['mcd-large', n] / value['mdlm-large', n] - 1:+.0%}, "
        f"SDTT by {value['sdtt-large', n] / value['mdlm-large', n] - 1:+.0%}"
        for n in sorted({one.cell.steps for one in measured})
    ]
    matched = matched_rows([curve for curve in curves_of(measured) if curve.steps in COOLED_STEPS])
    for row in matched:
        cooled = "not reached" if row["teacher_value"] is None else f"{row['teacher_value']:.0f}"
        said.append(
            f"{row['steps']} steps, at entropy {row['entropy']:.3f}: {row['model']} {row['value']:.0f}, "
            f"teacher cooled {cooled}"
        )
    return {"matched": matched, "protocol": shared_protocol(rows), "rows": rows, "findings": said}
