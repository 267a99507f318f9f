"""Reading curves at one entropy: exact on curves that are known, and honest about what was not reached."""

import numpy as np
import pytest

from mcd.eval.equal_entropy import Point, at_entropy, ratio, total_variation


def curve(temperatures, n=200, seed=0, slope=3.0, noise=0.05):
    """Samples whose entropy is the temperature (and noise) and whose quality is slope times their entropy."""
    wobble = noise * np.random.default_rng(seed).standard_normal(n)
    return [Point(T, T + wobble, ratio(slope * (T + wobble) * 10, np.full(n, 10.0))) for T in temperatures]


@pytest.mark.parametrize("target", [0.75, 0.9, 1.05])
def test_a_straight_curve_is_read_exactly(target):
    """Quality is a function of entropy alone here: every resample agrees, whatever rows it took."""
    match = at_entropy(curve([0.6, 0.8, 1.0, 1.2]), target)
    assert match.quality.value == pytest.approx(3.0 * target)
    assert match.quality.lo == pytest.approx(3.0 * target) == pytest.approx(match.quality.hi)
    assert match.temperature == pytest.approx(target, abs=0.02)


def test_the_order_of_the_points_does_not_matter():
    points = curve([0.6, 0.8, 1.0, 1.2])
    assert at_entropy(points, 0.9) == at_entropy(points[::-1], 0.9)


def test_a_curve_of_one_point_is_read_at_that_point():
    """However its mean is rounded; without neighbours there is no interval."""
    point = Point(1.0, np.random.default_rng(0).random(128), ratio(np.full(128, 2.0), np.ones(128)))
    match = at_entropy([point], float(point.entropy.mean()) * (1 + 1e-15))
    assert match is not None and match.quality.value == 2.0 and match.quality.lo is None
    assert at_entropy([point], float(point.entropy.mean()) + 1e-3) is None


def test_nothing_is_extrapolated():
    points = curve([0.6, 0.8])
    assert at_entropy(points, 1.5) is None and at_entropy(points, 0.1) is None
    edge = at_entropy(points, float(points[1].entropy.mean()))
    assert edge is not None and edge.quality.lo is None  # half of the resamples stay below


@pytest.mark.heavy
def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Quality with noise of its own, around a known value at the matched entropy."""
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        points = []
        for T in (0.8, 1.0):
            entropy = T + 0.01 * rng.standard_normal(100)
            points.append(Point(T, entropy, ratio(2.0 * T + 0.5 * rng.standard_normal(100), np.ones(100))))
        interval = at_entropy(points, 0.9, seed=seed).quality
        covered += interval.lo <= 1.8 <= interval.hi
    assert 88 <= covered <= 99


def test_total_variation_is_that_of_the_pooled_counts():
    cells = np.array([[0, 0, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0]])
    quality = total_variation(cells, np.array([0.5, 0.5]))
    weights = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(quality(weights), [0.0, 7 / 8 - 0.5, 0.5])
    unsaid = total_variation(cells, np.array([0.3, 0.2]))  # half of the law is of what no sample says
    np.testing.assert_allclose(unsaid(weights), [0.5, 7 / 8 - 0.3, 0.7])


def test_points_must_be_of_the_same_rows():
    with pytest.raises(ValueError, match="one number of samples"):
        at_entropy([*curve([0.6], n=10), *curve([0.8], n=11)], 0.7)
    with pytest.raises(ValueError, match="one number of samples"):
        at_entropy([], 0.7)
