"""Energy distance and MAUVE against laws whose distance is known, plain loops, and each other's order."""

import math

import numpy as np
import pytest

from mcd.eval import mauve as clouds
from mcd.eval.mauve import HAS_MAUVE, energy_distance, energy_floor, mauve, mauve_ceiling, reference_of
from mcd.eval.scorer import Scorer


def cloud(seed, n=60, shift=0.0, D=6):
    return np.random.default_rng(seed).normal(size=(n, D)) + shift


def test_the_distance_agrees_with_plain_loops_over_pairs():
    X, Y = cloud(0, 7), cloud(1, 5, shift=0.4)

    def mean(A, B):
        pairs = [(i, j) for i in range(len(A)) for j in range(len(B)) if A is not B or i != j]
        return sum(math.dist(A[i], B[j]) for i, j in pairs) / len(pairs)

    expected = 2 * mean(X, Y) - mean(X, X) - mean(Y, Y)
    assert energy_distance(X, Y).value == pytest.approx(expected, rel=1e-12)
    assert energy_distance(X + 3.0, Y + 3.0).value == pytest.approx(expected, rel=1e-9)  # only differences count


@pytest.mark.heavy
def test_it_is_unbiased_zero_between_clouds_of_one_law():
    values = [energy_distance(cloud(2 * i, 20), cloud(2 * i + 1, 30), resamples=1).value for i in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(200)
    assert min(values) < 0 < max(values)


def test_known_value_in_one_dimension():
    """For N(0, 1) and N(m, 1): E|X - Y| is that of a folded normal of mean m and variance 2."""
    m = 1.5
    folded = 2 / math.sqrt(math.pi) * math.exp(-(m**2) / 4) + m * math.erf(m / 2)
    expected = 2 * (folded - 2 / math.sqrt(math.pi))
    found = energy_distance(cloud(0, 1500, D=1), cloud(1, 1500, shift=m, D=1), resamples=200)
    assert found.lo is not None and found.hi is not None and found.lo < expected < found.hi
    assert found.value == pytest.approx(expected, rel=0.15)


@pytest.mark.heavy
def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """The truth is the distance of far larger clouds. 100 intervals of 95 %: fewer than 85 would be a wrong interval,
    such as one from rows drawn twice that count as pairs at distance zero."""
    truth = energy_distance(cloud(1000, 1500), cloud(1001, 1500, shift=0.5), resamples=1).value
    intervals = [energy_distance(cloud(i, 40), cloud(i + 500, 40, shift=0.5), resamples=200) for i in range(100)]
    assert sum(one.lo < truth < one.hi for one in intervals) >= 85


@pytest.mark.heavy
@pytest.mark.parametrize("n, M", [(60, 60), (16, 128), (128, 32)])
def test_the_floor_tells_one_law_from_another(n, M):
    """Samples of the same law pass it one time in twenty, whatever the two counts; 40 pairs of clouds."""
    passed = 0
    for i in range(40):
        Y = cloud(2 * i, M)
        passed += energy_distance(cloud(2 * i + 1, n), Y, resamples=1).value > energy_floor(Y, n, seed=i)
    assert passed <= 7  # P(more) is below 0.003 at 5 %


def test_the_floor_sees_a_shift():
    floor = energy_floor(cloud(0), len(cloud(1)))
    assert energy_distance(cloud(1, shift=0.5), cloud(0)).value > floor


def test_what_is_too_small_is_refused_and_seeds_are_kept():
    with pytest.raises(ValueError, match="at least two rows"):
        energy_distance(cloud(0, 1), cloud(1))
    with pytest.raises(ValueError, match="at least four rows"):
        energy_floor(cloud(0, 3), 3)
    assert energy_distance(cloud(0), cloud(1), seed=3) == energy_distance(cloud(0), cloud(1), seed=3)
    assert energy_distance(cloud(0), cloud(1), seed=3) != energy_distance(cloud(0), cloud(1), seed=4)
    two = energy_distance(cloud(0, 2), cloud(1, 2))  # half of the resamples have no pair: left out
    assert two.lo is not None and math.isfinite(two.lo)


class Digits(Scorer):
    """A scorer whose features of a text are its length and its count of a's."""

    def features(self, texts):
        return np.array([[len(text), text.count("a")] for text in texts], dtype=np.float64)


class Letters:
    """Tokens are letters; nothing is put in front."""

    bos_token_id = eos_token_id = pad_token_id = None

    def get_vocab(self):
        return {"a": 0, "b": 1}

    def __call__(self, texts, add_special_tokens, split_special_tokens, truncation, max_length):
        return {"input_ids": [["ab".index(letter) for letter in text][:max_length] for text in texts]}


def test_a_reference_compares_texts_and_says_what_real_text_shows(monkeypatch):
    monkeypatch.setattr(clouds, "HAS_MAUVE", False)
    rng = np.random.default_rng(0)

    def texts(share, n=40):
        return ["".join(rng.choice(["a", "b"], p=[share, 1 - share], size=20 + i % 5)) for i in range(n)]

    scorer = Digits("digits", None, Letters(), "fp32", 22)
    made = reference_of("abba", texts(0.5), scorer)
    assert made.name == "abba" and made.features.shape == (40, 2)
    near, far = made.row(texts(0.5)), made.row(texts(0.9))
    assert near["energy"] < near["energy_floor"] < far["energy_lo"] < far["energy"] < far["energy_hi"]
    assert made.truncated == 8 == near["reference_truncated"] == near["features_truncated"]  # those of 24 letters
    assert near["features_context"] == 22
    assert [near[key] for key in ("mauve", "mauve_lo", "mauve_hi", "mauve_ceiling")] == [None] * 4


@pytest.mark.heavy
@pytest.mark.skipif(not HAS_MAUVE, reason="needs the extra mauve")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mauve_puts_one_law_near_one_and_another_near_nothing(capfd):
    near, far = mauve(cloud(0), cloud(1)), mauve(cloud(0, shift=2.0), cloud(1))
    assert near.value > 0.8 > 0.2 > far.value
    assert near.lo is not None and near.hi is not None and near.lo <= near.value <= near.hi
    assert mauve(cloud(0), cloud(1)) == near and mauve_ceiling(cloud(1)) > 0.7
    assert capfd.readouterr() == ("", "")
