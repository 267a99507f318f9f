"""Figure 3: Gen PPL against steps, round by round, with the entropy that the paper leaves out."""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.lab import MeasuredCell
from mcd.report.plotting import colour_of, figure, steps_axis
from mcd.reproduce import table1
from mcd.reproduce.scales import METHODS, ROUNDS, TEACHER_OF, Scale
from mcd.reproduce.text import shared_protocol

plan = table1.plan
"""The evidence is that of Table 1."""


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """Two panels a method: Gen PPL and entropy of the teacher and each round."""
    rows = [one.row for one in measured if one.cell.label != "ar"]
    draw(rows, out / "figure3.png")
    return {"protocol": shared_protocol(rows), "rows": rows, "findings": table1.findings(measured)}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Upper row Gen PPL, lower row entropy, against steps; a column per method, a line per round."""
    methods = [method for method in METHODS if method != "cd4lm"]
    with figure(path, 2, len(methods), (10.0, 5.6)) as axes:
        for column, method in enumerate(methods):
            above, below = axes[column], axes[len(methods) + column]
            for round in (None, *range(1, ROUNDS + 1)):
                label = method if round else TEACHER_OF[method]
                cells = [row for row in rows if row["model"] == label and row["round"] == round]
                cells.sort(key=lambda row: row["steps"])
                look: dict[str, Any] = {"color": colour_of(label), "alpha": 0.2 + 0.8 * (round or ROUNDS) / ROUNDS}
                look["label"] = f"round {round}" if round else "teacher"
                for axis, measure in ((above, "gen_ppl"), (below, "entropy")):
                    axis.plot([row["steps"] for row in cells], [row[measure] for row in cells], "o-", **look)
            above.set(title=method, yscale="log")
            steps = [row["steps"] for row in rows if row["model"] in (method, TEACHER_OF[method])]
            steps_axis(above, steps, "")
            steps_axis(below, steps)
            above.legend()
        axes[0].set_ylabel("Gen PPL")
        axes[len(methods)].set_ylabel("entropy (nats)")
