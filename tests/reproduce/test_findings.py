"""The findings of Table 1 and the verdicts of the frontier follow from their cells."""

import math
from pathlib import Path

import numpy as np
import pytest

from mcd.eval.laboratory.experiment import Cell, sampler_options
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce.cooling import at_equal_distinct, compared
from mcd.reproduce.frontier import verdicts
from mcd.reproduce.frontier_methods import summary
from mcd.reproduce.guidance import summary as summary_of_guidance
from mcd.reproduce.guidance import surprise
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


def test_the_summary_takes_the_seeds_in_which_the_teacher_reaches_the_students_entropy():
    """The mean of the others would compare a student of three seeds with a teacher of two."""
    common = {"language": "hmm", "steps": 4, "model": "ltd"}
    matched = [
        common | {"measure": "nll", "value": v, "teacher_value": t} for v, t in ((2.0, 2.4), (2.2, 2.1), (9, None))
    ]
    matched += [common | {"measure": "tv_bigram", "value": 0.1, "teacher_value": 0.2}]
    rows = [common | {"bigram_entropy": h, "bigram_entropy_true": 1.5} for h in (1.3, 1.5)]
    (row,) = summary(matched, [*rows, common | {"model": "mdlm", "bigram_entropy": 0.0, "bigram_entropy_true": 1.5}])
    assert row == common | {
        "seeds": 2,
        "sureness": pytest.approx(-0.1),
        "nll": pytest.approx(2.1),
        "nll_teacher": pytest.approx(2.25),
        "nll_ahead": 1,
        "tv_bigram": 0.1,
        "tv_bigram_teacher": 0.2,
        "tv_bigram_ahead": 1,
    }


def of_text(label: str, gen_ppl: float, entropy_of: int, **options: float) -> MeasuredCell:
    """64 equal rows of 12 tokens, of which `entropy_of` are different: entropy log(entropy_of)."""
    row = {"gen_ppl": gen_ppl, "distinct_2": 0.1 * entropy_of, "energy": 0.0, "self_bleu": 0.0}
    ids = np.tile(np.arange(12) % entropy_of, (64, 1))
    arrays = {"ids": ids, "nll": np.full(64, 12 * np.log(gen_ppl)), "tokens": np.full(64, 12.0)}
    cell = Cell("demo", 8, 64, label, options=sampler_options(**options), scorer="s")
    return MeasuredCell(cell, row | {"model": label, "steps": 8} | options, arrays)


def test_ways_of_cooling_are_read_at_equal_entropy_and_at_equal_distinct_bigrams():
    """top-p is compared with the temperature, and ends where nothing is left out; what was not reached is None."""
    cells = [of_text("temperature", ppl, n, temperature=T) for T, ppl, n in ((0.8, 100.0, 2), (1.0, 400.0, 4))]
    cells += [of_text("top-p", 150.0, 3, top_p=0.9), of_text("ltd", 90.0, 3), of_text("ltd", 80.0, 2)]
    top_p, student, out = compared(cells)
    between = math.exp(np.interp(math.log(3), [math.log(2), math.log(4)], [math.log(100), math.log(400)]))
    assert top_p["way"] == "top-p 0.9" and top_p["temperature_value"] == pytest.approx(between)
    assert top_p["top-p_value"] is None
    assert student["value"] == pytest.approx(90.0) and student["top-p_value"] == pytest.approx(150.0)
    assert out["temperature_value"] == pytest.approx(100.0) and out["top-p_value"] is None
    points = [one.row for one in cells]
    assert at_equal_distinct(top_p, points) == {
        "temperature_at_distinct": pytest.approx(200),
        "top-p_at_distinct": None,
    }
    assert at_equal_distinct(student, points)["top-p_at_distinct"] == pytest.approx(150.0)
    assert at_equal_distinct(out, points)["top-p_at_distinct"] is None


def test_a_way_says_the_knobs_that_it_turns():
    cells = [of_text("temperature", ppl, n, temperature=T) for T, ppl, n in ((0.8, 100.0, 2), (1.0, 400.0, 4))]
    cells += [of_text("guidance", 90.0, 3, guidance=0.5), of_text("guidance", 80.0, 3, guidance=0.5, top_p=0.9)]
    cells += [of_text("ltd", 70.0, 3, temperature=0.8)]
    said = [row["way"] for row in compared(cells)]
    assert said == ["guidance 0.5", "guidance 0.5, top-p 0.9", "ltd, T = 0.8"]


def test_the_summary_of_guidance_compares_the_seeds_that_a_sweep_reaches():
    common = {"language": "hmm", "steps": 4, "way": "guidance 0.5", "measure": "nll", "model": "hmm/mdlm-s0"}
    common |= {"bigram_entropy": 2.0, "bigram_entropy_true": 1.75}
    rows = [
        common | {"value": value, "temperature_value": T, "top-p_value": p, "twice_value": 2.1}
        for value, T, p in ((2.0, 2.4, None), (2.2, 2.1, None), (3.0, None, None))
    ]
    rows.append(
        common | {"way": "top-p 0.9", "value": 1.0, "temperature_value": 1.5, "top-p_value": None, "twice_value": None}
    )
    assert summary_of_guidance(rows) == [
        {
            "language": "hmm",
            "teacher": "trained",
            "steps": 4,
            "way": "guidance 0.5",
            "measure": "nll",
            "value": pytest.approx(2.4),
            "seeds": 3,
            "sureness": 0.25,
            "temperature_own": pytest.approx(2.1),
            "temperature_value": pytest.approx(2.25),
            "temperature_seeds": 2,
            "temperature_ahead": 1,
            "top-p_own": None,
            "top-p_value": None,
            "top-p_seeds": 0,
            "top-p_ahead": 0,
            "twice_own": pytest.approx(2.4),
            "twice_value": pytest.approx(2.1),
            "twice_seeds": 3,
            "twice_ahead": 1,
        }
    ]


def test_frequent_tokens_surprise_less():
    law = np.log(np.array([0.5, 0.25, 0.25]))
    assert surprise(np.array([[0, 0]]), law) == pytest.approx(np.log(2))
    assert surprise(np.array([[0, 1]]), law) == pytest.approx(1.5 * np.log(2))
