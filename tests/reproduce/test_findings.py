"""The findings of Table 1 and the verdicts of the frontier follow from their cells."""

from pathlib import Path

import numpy as np

from mcd.eval.laboratory.experiment import Cell
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce.frontier import verdicts
from mcd.reproduce.scales import ROUNDS
from mcd.reproduce.table1 import findings
from mcd.reproduce.text import shared_protocol


def measured(label: str, round: int | None, steps: int, gen_ppl: float) -> MeasuredCell:
    row = {"gen_ppl": gen_ppl, "entropy": 4.0, "protocol": {"scorer": "s", "seed": steps}}
    return MeasuredCell(Cell(str(Path(label)), steps, 128, label, round, scorer="s"), row, {"ids": np.zeros((1, 1))})


def test_findings_count_and_quote_the_cells():
    """Rounds are compared where both were measured, and students with 16 times the steps where a teacher was."""
    cells = [measured("mcd", ROUNDS, n, ppl) for n, ppl in ((8, 100.0), (16, 90.0), (128, 50.0))]
    cells += [measured("sdtt", ROUNDS, n, ppl) for n, ppl in ((8, 120.0), (16, 80.0), (128, 70.0))]
    cells += [measured("mcd", ROUNDS - 1, 8, 110.0), measured("mdlm", None, 128, 105.0)]
    said = findings(cells)
    assert f"MCD round {ROUNDS} has a lower Gen PPL than SDTT round {ROUNDS} at 2 of 3 step counts" in said
    assert f"MCD round {ROUNDS - 1} has a lower Gen PPL than SDTT round {ROUNDS} at 1 of 1 step counts" in said
    assert f"mcd round {ROUNDS}, 8 steps: 100 at 4.000 nats; teacher, 128 steps: 105 at 4.000" in said
    assert len([line for line in said if "teacher, 128 steps" in line]) == 2
    assert shared_protocol([one.row for one in cells[:3]]) == {"scorer": "s"}


def test_verdicts_count_students_below_their_cooled_teachers():
    """Only at a student's own entropy, and only where both were reached."""
    common = {"language": "hmm", "measure": "nll", "steps": 4, "model": "mcd", "entropy_of": "mcd at T = 1"}
    rows = [common | {"value": value, "teacher_value": other} for value, other in ((2.0, 2.1), (2.2, 2.1), (2.0, None))]
    rows.append(common | {"entropy_of": "H = 2", "value": 1.0, "teacher_value": 2.0})
    rows.append(common | {"value": None, "teacher_value": 2.0})
    assert verdicts(rows) == ["hmm, 4 steps, nll: mcd below its cooled teacher in 1 of 2"]
