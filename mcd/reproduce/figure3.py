"""Figure 3: Gen PPL against steps, round by round, with the entropy that the paper leaves out."""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import Lab
from mcd.report.plotting import colour_of, figure, steps_axis
from mcd.reproduce import table1
from mcd.reproduce.scales import METHODS, ROUNDS, TEACHER_OF, Scale


def plan(scale: Scale) -> Experiment:
    """Table 1's: it is the same evidence."""
    return table1.plan(scale)


def run(scale: Scale, lab: Lab, out: Path) -> dict[str, Any]:
    """Two panels a method: Gen PPL and entropy of the teacher and each round."""
    measured = lab.measure(plan(scale).cells)
    rows = [one.row for one in measured if one.cell.label != "ar"]
    draw(rows, out / "figure3.png")
    return {"protocol": table1.shared_protocol(rows), "rows": rows, "findings": table1.findings(measured)}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Upper row Gen PPL, lower row entropy, against steps; a column a method, a line a round."""
    methods = [method for method in METHODS if method != "cd4lm"]
    with figure(path, 2, len(methods), (10.0, 5.6)) as axes:
        for column, method in enumerate(methods):
            above, below = axes[column], axes[len(methods) + column]
            lines = [(TEACHER_OF[method], None), *((method, round) for round in range(1, ROUNDS + 1))]
            for label, round in lines:
                cells = [row for row in rows if row["model"] == label and row["round"] == round]
                cells.sort(key=lambda row: row["steps"])
                steps = [row["steps"] for row in cells]
                look: dict[str, Any] = {"color": colour_of(label), "alpha": 0.2 + 0.8 * (round or ROUNDS) / ROUNDS}
                name = "teacher" if round is None else f"round {round}"
                above.plot(steps, [row["gen_ppl"] for row in cells], "o-", label=name, **look)
                below.plot(steps, [row["entropy"] for row in cells], "o-", **look)
            above.set(title=method, yscale="log")
            for axis, label in ((above, ""), (below, "steps")):
                steps_axis(axis, [row["steps"] for row in rows if row["model"] in (method, TEACHER_OF[method])], label)
            above.legend()
        axes[0].set_ylabel("Gen PPL")
        axes[len(methods)].set_ylabel("entropy (nats)")
