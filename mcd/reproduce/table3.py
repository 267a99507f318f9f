"""Table 3: round 1 of MCD and SDTT at a model about five times larger."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mcd.eval.laboratory.curves import curve_of, matched_rows
from mcd.eval.laboratory.experiment import Experiment, sampler_options
from mcd.eval.laboratory.lab import Lab
from mcd.reproduce.samples import write_specimens
from mcd.reproduce.scales import Scale, text_data, text_student
from mcd.reproduce.table1 import shared_protocol, text_cell

STUDENTS = ("mcd", "sdtt")
COOLED_STEPS, COOLER = (8, 32), (0.9, 0.95)
"""Where the teacher is cooled too, and to what temperatures."""


def plan(scale: Scale) -> Experiment:
    """The larger teacher and its students of one round."""
    runs = text_data(scale) + [text_student(scale, method, "large", rounds=1) for method in STUDENTS]
    models = [(scale.teachers["large"], "mdlm-large"), *((f"large/{m}", f"{m}-large") for m in STUDENTS)]
    cells = [
        text_cell(scale, model, steps, label, judge=1)
        for model, label in models
        for steps in scale.steps
        if scale.name != "cpu" or steps != 128  # no more calls than 64 tokens need
    ]
    cells += [
        replace(
            text_cell(scale, scale.teachers["large"], steps, "mdlm-large", judge=1),
            options=sampler_options(temperature=T),
        )
        for steps in COOLED_STEPS
        for T in COOLER
    ]
    return Experiment(runs, cells)


def run(scale: Scale, lab: Lab, out: Path) -> dict[str, Any]:
    """Measure the cells; `findings` say by how much each student's Gen PPL differs from the teacher's."""
    measured = lab.measure(plan(scale).cells)
    rows = [one.row for one in measured]
    write_specimens(out / "table3_samples.md", [one for one in measured if one.cell.steps in (8, 64)], lab.work)
    value = {(one.cell.label, one.cell.steps): one.row["gen_ppl"] for one in measured if not one.cell.options}
    steps = sorted({one.cell.steps for one in measured})
    said = [
        f"{n} steps: MCD changes the teacher's Gen PPL by {value['mcd-large', n] / value['mdlm-large', n] - 1:+.0%}, "
        f"SDTT by {value['sdtt-large', n] / value['mdlm-large', n] - 1:+.0%}"
        for n in steps
    ]
    curves = [
        curve_of(label, n, [one for one in measured if (one.cell.label, one.cell.steps) == (label, n)])
        for n in COOLED_STEPS
        for label in ("mdlm-large", *(f"{method}-large" for method in STUDENTS))
    ]
    matched = matched_rows(curves)
    for row in matched:
        there = "not reached" if row["teacher_value"] is None else f"{row['teacher_value']:.0f}"
        said.append(
            f"{row['steps']} steps, at entropy {row['entropy']:.3f}: {row['model']} {row['value']:.0f}, "
            f"teacher cooled {there}"
        )
    return {"matched": matched, "protocol": shared_protocol(rows), "rows": rows, "findings": said}
