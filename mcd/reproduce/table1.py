"""Table 1: Gen PPL of five rounds of MCD, SDTT and Duo-DCD by number of steps, with teachers and yardsticks."""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.experiment import Cell, Experiment
from mcd.eval.laboratory.lab import Lab, MeasuredCell
from mcd.reproduce.references import reference_rows
from mcd.reproduce.samples import write_specimens
from mcd.reproduce.scales import METHODS, ROUNDS, TEACHER_OF, Scale, text_student, text_teachers

BETWEEN = {"mcd": (8, 16, 32, 64), "sdtt": (8, 16, 32, 64), "duo-dcd": (8, 32)}
"""Steps of rounds 1 to 4 on two cores: with 64 tokens a row, a masked model makes at most 64 calls."""
MOST_UNIFORM = 128
"""Most steps of uniform models on two cores: each is a call for every row."""


def plan(scale: Scale) -> Experiment:
    """Both teachers at every number of steps, and every round of every student; CD4LM has one round."""
    runs = [*text_teachers(scale), *(text_student(scale, method) for method in METHODS)]
    cells = [
        text_cell(scale, scale.teachers[name], steps, name)
        for name in ("mdlm", "duo")
        for steps in scale.steps
        if _is_affordable(scale, name, None, steps)
    ]
    for method in METHODS:
        for round in [None] if method == "cd4lm" else range(1, ROUNDS + 1):
            steps = [n for n in scale.steps if _is_affordable(scale, method, round, n)]
            cells += [text_cell(scale, f"text/{method}", n, method, round) for n in steps]
    if scale.name == "cpu":
        cells.append(text_cell(scale, "text/ar", scale.length, "ar"))
    return Experiment(runs, cells)


def _is_affordable(scale: Scale, label: str, round: int | None, steps: int) -> bool:
    if scale.name != "cpu":
        return True
    if round not in (None, ROUNDS) and steps not in BETWEEN[label]:
        return False
    return label not in ("duo", "duo-dcd") or steps <= MOST_UNIFORM


def text_cell(scale: Scale, model: str, steps: int, label: str, round: int | None = None, judge: int = 0) -> Cell:
    """A cell of text, scored as the scale says."""
    return Cell(
        model,
        steps,
        scale.num,
        label,
        round,
        scale.length,
        scorer=scale.judges[judge],
        scorer_precision=scale.scorer_precision,
    )


def run(scale: Scale, lab: Lab, out: Path) -> dict[str, Any]:
    """Measure the cells; reference rows (held-out text, its words shuffled, nonsense) come first."""
    measured = lab.measure(plan(scale).cells)
    rows = [one.row for one in measured]
    write_specimens(out / "table1_samples.md", [one for one in measured if one.cell.steps in (8, 64)], lab.work)
    return {
        "protocol": shared_protocol(rows),
        "rows": [*reference_rows(lab, scale), *rows],
        "findings": findings(measured),
    }


def shared_protocol(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields of the protocol in which all rows agree."""
    first = rows[0]["protocol"]
    return {key: value for key, value in first.items() if all(row["protocol"].get(key) == value for row in rows)}


def findings(measured: list[MeasuredCell]) -> list[str]:
    """What the table says to the paper's claims, computed from it."""
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
