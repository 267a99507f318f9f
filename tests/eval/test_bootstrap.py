"""Bootstrap intervals: they cover what they should, and do the same twice."""

import numpy as np
import pytest

from mcd.eval.bootstrap import bootstrap_interval, mean_interval, ratio_interval


def test_a_mean_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    trials = rng.exponential(2.0, (400, 60))
    hits = 0
    for i, values in enumerate(trials):
        interval = mean_interval(values, resamples=400, seed=i)
        assert interval.lo is not None and interval.hi is not None
        hits += interval.lo <= 2.0 <= interval.hi
    # Percentile intervals of 60 skew values cover about 93 %; three standard errors of 400 trials are 4 %.
    assert 0.89 <= hits / len(trials) <= 0.98


def test_its_width_is_that_of_the_normal_approximation_for_many_values():
    values = np.random.default_rng(1).normal(3.0, 2.0, 4000)
    interval = mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.value == pytest.approx(values.mean())
    assert interval.lo == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.hi == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_a_ratio_is_of_sums_and_agrees_with_a_loop():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(1, 5, 30), rng.integers(1, 9, 30)
    interval = ratio_interval(x, y, resamples=200, seed=7)
    indices = np.random.default_rng(7).integers(0, 30, (200, 30))
    slow = [float(sum(x[j] for j in row) / sum(y[j] for j in row)) for row in indices]
    assert interval.value == pytest.approx(x.sum() / y.sum())
    assert [interval.lo, interval.hi] == pytest.approx(list(np.quantile(slow, [0.025, 0.975])))


def test_the_same_seed_gives_the_same_interval_whatever_the_block(monkeypatch):
    values = np.random.default_rng(3).normal(size=50)
    whole = mean_interval(values, seed=5)
    assert mean_interval(values, seed=5) == whole != mean_interval(values, seed=6)
    monkeypatch.setattr("mcd.eval.bootstrap.BLOCK", 700)
    assert mean_interval(values, seed=5) == whole


def test_one_sample_has_no_interval_and_empty_resamples_are_left_out():
    one = mean_interval([4.0])
    assert (one.value, one.lo, one.hi) == (4.0, None, None)
    some = ratio_interval([3.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    assert (some.value, some.lo, some.hi) == (3.0, 3.0, 3.0)
    assert np.isnan(ratio_interval([0.0, 0.0], [0.0, 0.0]).value)


def test_bad_requests_are_refused():
    for n, resamples, level in [(0, 10, 0.95), (5, 0, 0.95), (5, 10, 1.0)]:
        with pytest.raises(ValueError, match="need n >= 1"):
            bootstrap_interval(lambda i: i.mean(1), n, resamples=resamples, level=level)
    with pytest.raises(ValueError, match="differ in shape"):
        ratio_interval([1.0], [1.0, 2.0])
