"""Controls: what they are made of, that the knob meets the entropy asked for."""

import math
from collections import Counter

import numpy as np
import pytest

from mcd.eval.control import CONTROLS, periodic, top_k, tuned
from mcd.eval.diversity import sample_entropies, sample_entropy

LENGTH = 60


@pytest.fixture(scope="module")
def stream():
    """5000 tokens with frequencies as of words, ids up to 1000."""
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, 201)
    return rng.permutation(1000)[rng.choice(200, p=p / p.sum(), size=5000)]


def test_a_period_is_the_first_k_different_tokens_from_some_place_of_the_stream(stream):
    looped = np.concatenate((stream, stream))
    for row in periodic(stream, 12, 8, LENGTH, seed=1).tolist():
        period = row[:12]
        assert row == (period * 5) and len(set(period)) == 12
        starts = np.flatnonzero(stream == period[0])
        firsts = (list(dict.fromkeys(looped[i : i + 300].tolist()))[:12] for i in starts)
        assert period in list(firsts)
    assert sample_entropies(periodic(stream, 12, 8, LENGTH, seed=1)) == pytest.approx([math.log(12)] * 8)


def test_rows_depend_on_seed_and_row_alone(stream):
    for control in CONTROLS.values():
        rows = control(stream, 9, 6, LENGTH, 1)
        assert rows.shape == (6, LENGTH)
        assert (control(stream, 9, 3, LENGTH, 1) == rows[:3]).all()
        assert (control(stream, 9, 6, LENGTH, 2) != rows).any(axis=1).all()


def test_top_k_draws_the_most_frequent_as_often_as_the_stream_has_them(stream):
    common = Counter(stream.tolist()).most_common(5)
    rows = top_k(stream, 5, 400, 50, seed=0)
    n, total = rows.size, sum(count for _, count in common)
    found = Counter(rows.flatten().tolist())
    assert sum(found.values()) == n and found.keys() <= {token for token, _ in common}
    chi_square = sum((found[token] - n * c / total) ** 2 / (n * c / total) for token, c in common)
    assert chi_square < 25.0  # 4 degrees of freedom: the 1 - 5e-5 quantile


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("target", [1.0, 2.0, 2.8])
def test_the_knob_meets_the_entropy_as_nearly_as_a_whole_number_can(stream, name, target):
    found = tuned(CONTROLS[name], stream, target, 16, LENGTH, seed=0)
    assert found.entropy == pytest.approx(sample_entropy(found.ids)) == pytest.approx(target, abs=0.35 / target)
    every = [sample_entropy(CONTROLS[name](stream, k, 16, LENGTH, 0)) for k in range(1, 61)]
    assert abs(found.entropy - target) < min(abs(entropy - target) for entropy in every) + 0.02


def test_ends_and_faults(stream):
    assert tuned(periodic, stream, 0.0, 4, LENGTH, 0).k == 1
    assert tuned(periodic, stream, 99.0, 4, LENGTH, 0).entropy == pytest.approx(math.log(LENGTH))
    assert (tuned(periodic, np.full(50, 7), 1.0, 2, LENGTH, 0).ids == 7).all()
    with pytest.raises(ValueError, match="held-out tokens"):
        tuned(periodic, np.zeros(0, dtype=np.int64), 1.0, 2, LENGTH, 0)
