"""The teacher's steps that a student is worth, read off the teacher's curve."""

import pytest

from mcd.report.comparison import saving
from mcd.report.rows import Estimate, MeasuredRow


def measured(steps, gen_ppl, entropy=4.0):
    estimate, varied = Estimate(gen_ppl, gen_ppl * 0.9, gen_ppl * 1.1), Estimate(entropy)
    return MeasuredRow("run", "any", steps=steps, gen_ppl=estimate, entropy=varied, nfe=float(steps))


CURVE = {4: measured(4, 400.0, 4.4), 64: measured(64, 100.0, 4.2), 256: measured(256, 110.0)}


def test_between_two_points_the_curve_is_a_line_in_logs():
    half = saving(measured(8, 200.0), CURVE)
    assert (
        half.bound == "" and half.factor.value == pytest.approx(2) and str(half.factor) == "2.0\N{MULTIPLICATION SIGN}"
    )
    assert half.teacher_steps == pytest.approx(16) and half.teacher_nfe == pytest.approx(16)
    assert half.teacher_entropy == pytest.approx(4.3)
    assert half.low.value < half.factor.value < half.high.value


def test_beyond_its_ends_there_is_only_a_bound():
    early, late = saving(measured(2, 500.0), CURVE), saving(measured(8, 90.0), CURVE)
    assert (early.bound, early.teacher_steps, str(early.factor)) == ("less than", 4, "< 2.0\N{MULTIPLICATION SIGN}")
    assert (late.bound, late.teacher_steps, str(late.factor)) == ("at least", 256, "≥ 32\N{MULTIPLICATION SIGN}")


def test_where_the_curve_rises_again_the_first_fall_counts():
    assert saving(measured(8, 105.0), CURVE).teacher_steps < 64
