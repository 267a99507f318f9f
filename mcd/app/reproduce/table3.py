"""Table 3: round 1 of MCD and SDTT at a model about five times larger."""

from pathlib import Path
from typing import Any

from mcd.app.reproduce.lab import Lab
from mcd.app.reproduce.plan import Plan
from mcd.app.reproduce.samples import write_specimens
from mcd.app.reproduce.scales import Scale, text_data, text_student
from mcd.app.reproduce.table1 import shared_protocol, text_cell

STUDENTS = ("mcd", "sdtt")


def plan(scale: Scale) -> Plan:
    """The larger teacher and its students of one round."""
    runs = text_data(scale) + [text_student(scale, method, "large", rounds=1) for method in STUDENTS]
    models = [(scale.teachers["large"], "mdlm-large"), *((f"large/{m}", f"{m}-large") for m in STUDENTS)]
    cells = [
        text_cell(scale, model, steps, label, judge=1)
        for model, label in models
        for steps in scale.steps
        if scale.name != "cpu" or steps != 128  # no more calls than 64 tokens need
    ]
    return Plan(runs, cells)


def run(scale: Scale, lab: Lab, out: Path) -> dict[str, Any]:
    """Measure the cells; `findings` say by how much each student's Gen PPL differs from the teacher's."""
    measured = lab.measure(plan(scale).cells)
    rows = [one.row for one in measured]
    write_specimens(out / "table3_samples.md", [one for one in measured if one.cell.steps in (8, 64)], lab.work)
    value = {(one.cell.label, one.cell.steps): one.row["gen_ppl"] for one in measured}
    steps = sorted({one.cell.steps for one in measured})
    said = [
        f"{n} steps: MCD changes the teacher's Gen PPL by {value['mcd-large', n] / value['mdlm-large', n] - 1:+.0%}, "
        f"SDTT by {value['sdtt-large', n] / value['mdlm-large', n] - 1:+.0%}"
        for n in steps
    ]
    return {"protocol": shared_protocol(rows), "rows": rows, "findings": said}
