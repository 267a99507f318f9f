"""Table 1: Gen PPL of five rounds of MCD, SDTT and Duo-DCD by number of steps, with teachers and reference models."""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce.scales import METHODS, ROUNDS, TEACHER_OF, Scale, text_student, text_teachers
from mcd.reproduce.text import reference_rows, shared_protocol, text_cell, write_samples

AFFORDABLE = {"mdlm": (8, 16, 32, 64, 512), "duo": (8, 32), "duo-dcd": (8, 32)}
"""Steps on two cores: a uniform model makes a call for every row and step. Other models have 8, 32 and 64 steps: with
64 tokens per row, a masked model makes at most 64 calls. Rounds 1 to 4 have 8 steps."""


def plan(scale: Scale) -> Experiment:
    """Both teachers at every number of steps, and every round of every student; CD4LM has one round."""
    models: list[tuple[str, str, int | None]] = [(scale.teachers[name], name, None) for name in ("mdlm", "duo")]
    for method in METHODS:
        rounds = (None,) if method == "cd4lm" else range(1, ROUNDS + 1)
        models += [(f"text/{method}", method, round) for round in rounds]
    cells = [
        text_cell(scale, model, steps, label, round)
        for model, label, round in models
        for steps in scale.steps
        if scale.name != "cpu" or _is_affordable(label, round, steps)
    ]
    students = [text_student(scale, method) for method in METHODS]
    return Experiment([*text_teachers(scale), *students], cells)


def _is_affordable(label: str, round: int | None, steps: int) -> bool:
    """Whether two cores measure the cell in reasonable time."""
    return steps in (AFFORDABLE.get(label, (8, 32, 64)) if round in (None, ROUNDS) else (8,))


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """Reference rows (held-out text, its words shuffled, nonsense), then the cells."""
    rows = [one.row for one in measured]
    write_samples(out / "table1_samples.md", [one for one in measured if one.cell.steps in (8, 64)], work)
    return {
        "protocol": shared_protocol(rows),
        "rows": [*reference_rows(scale, work), *rows],
        "findings": findings(measured),
    }


def findings(measured: list[MeasuredCell]) -> list[str]:
    """What the table says about the paper's claims, computed from it."""
    value = {(one.cell.label, one.cell.round, one.cell.steps): one.row for one in measured}
    said = []
    for round in (ROUNDS, ROUNDS - 1):
        steps = [n for label, r, n in value if (label, r) == ("mcd", round) and ("sdtt", ROUNDS, n) in value]
        lower = sum(value["mcd", round, n]["gen_ppl"] < value["sdtt", ROUNDS, n]["gen_ppl"] for n in steps)
        said.append(
            f"MCD round {round} has a lower Gen PPL than SDTT round {ROUNDS} at {lower} of {len(steps)} step counts"
        )
    for method in ("mcd", "sdtt", "duo-dcd"):
        teacher = TEACHER_OF[method]
        for n in sorted({n for label, round, n in value if (label, round) == (method, ROUNDS)}):
            if (teacher, None, 16 * n) in value:
                student, slow = value[method, ROUNDS, n], value[teacher, None, 16 * n]
                said.append(
                    f"{method} round {ROUNDS}, {n} steps: {student['gen_ppl']:.0f} at {student['entropy']:.3f} nats; "
                    f"teacher, {16 * n} steps: {slow['gen_ppl']:.0f} at {slow['entropy']:.3f}"
                )
    return said
