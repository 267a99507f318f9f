"""Entropy, distinct-n and repetition-n against hand cases and plain Python."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcd.eval.diversity import distinct_n, duplicates, repetition_n, sample_entropies, sample_entropy, self_bleus

SAMPLES = st.lists(st.lists(st.integers(0, 50_256) | st.integers(0, 3), max_size=12), min_size=1, max_size=5)


def test_entropy_of_known_sequences():
    constant, distinct, halves = [7] * 16, list(range(100, 116)), [1, 2] * 8
    assert sample_entropies(torch.tensor([constant, distinct, halves])) == pytest.approx(
        [0.0, math.log(16), math.log(2)], abs=1e-12
    )
    assert sample_entropy([constant, distinct]) == pytest.approx(math.log(16) / 2)
    assert sample_entropy([[1, 2, 3], [5]]) == pytest.approx(math.log(3) / 2)  # rows of any length
    with pytest.raises(ValueError, match="at least one sample"):
        sample_entropy([])


def test_distinct_and_repetition_by_hand():
    row = [1, 2, 1, 2, 1]  # bigrams 12 21 12 21: two of four are new
    assert repetition_n([row], 2) == pytest.approx(0.5)
    assert distinct_n([row], 2) == pytest.approx(0.5)
    assert repetition_n([row, [4, 5, 6, 7, 8]], 2) == pytest.approx(0.25)
    assert distinct_n([row, row], 2) == pytest.approx(0.25)  # of all samples together
    assert repetition_n([row, row], 2) == pytest.approx(0.5)  # of each sample alone
    assert distinct_n([[1, 2], [3, 4]], 2) == 1.0  # 2 3 crosses samples and is no bigram
    assert repetition_n([row, [9]], 2) == pytest.approx(0.5)  # too short: left out
    assert (repetition_n([[9]], 2), distinct_n([[9]], 2)) == (0.0, 0.0)
    with pytest.raises(ValueError, match="n must be"):
        distinct_n([row], 0)


def test_duplicates_by_hand():
    assert duplicates([[1, 2], [1, 2], [2, 1], [1, 2], [1]]) == 2
    assert duplicates(torch.arange(12).view(4, 3)) == 0
    assert duplicates(torch.ones(5, 3, dtype=torch.int64)) == 4


@given(SAMPLES, st.integers(1, 5))
def test_they_agree_with_plain_python_and_stay_in_bounds(samples, n):
    grams = [[tuple(row[i : i + n]) for i in range(len(row) - n + 1)] for row in samples]
    everything = [gram for row in grams for gram in row]
    repeats = [1 - len(set(row)) / len(row) for row in grams if row]
    entropies = [-sum(c / len(row) * math.log(c / len(row)) for c in Counter(row).values()) for row in samples]
    assert distinct_n(samples, n) == pytest.approx(len(set(everything)) / max(1, len(everything)))
    assert repetition_n(samples, n) == pytest.approx(sum(repeats) / max(1, len(repeats)))
    assert sample_entropies(samples) == pytest.approx(entropies, abs=1e-12)
    assert 0.0 <= repetition_n(samples, n) <= 1.0
    assert all(0.0 <= h <= math.log(max(1, len(row))) + 1e-12 for h, row in zip(entropies, samples, strict=True))


def test_tensors_arrays_and_lists_are_the_same():
    ids = torch.randint(0, 9, (6, 40), generator=torch.Generator().manual_seed(0))
    for twin in (ids.int(), ids.numpy(), ids.tolist(), np.asarray(ids, dtype=np.int32)):
        assert sample_entropy(twin) == sample_entropy(ids)
        assert distinct_n(twin, 3) == distinct_n(ids, 3)
        assert repetition_n(twin, 3) == repetition_n(ids, 3)


def bleu(hypothesis, references, n):
    """Sentence BLEU by its definition, with NLTK's rules of clipping, brevity and smoothing ("method1")."""

    def count(row, k):
        return Counter(tuple(row[i : i + k]) for i in range(len(row) - k + 1))

    total = 0.0
    for k in range(1, n + 1):
        mine = count(hypothesis, k)
        theirs = [count(row, k) for row in references]
        clipped = sum(min(c, max(other[gram] for other in theirs)) for gram, c in mine.items())
        if k == 1 and clipped == 0:
            return 0.0
        total += math.log((clipped or 0.1) / max(1, sum(mine.values()))) / n
    nearest = min((abs(len(row) - len(hypothesis)), len(row)) for row in references)[1]
    return math.exp(total + min(0.0, 1.0 - nearest / len(hypothesis)))


@given(st.lists(st.lists(st.integers(0, 3), max_size=9), min_size=2, max_size=5), st.integers(1, 4))
def test_self_bleu_is_the_bleu_of_each_against_all_others(samples, n):
    expected = [bleu(row, samples[:i] + samples[i + 1 :], n) if row else 0.0 for i, row in enumerate(samples)]
    assert self_bleus(samples, n) == pytest.approx(expected, abs=1e-12)


def test_self_bleu_of_copies_and_of_strangers():
    row = [1, 2, 3, 4, 5, 6]
    assert self_bleus(np.array([row, row, row])) == pytest.approx([1.0] * 3)
    assert self_bleus([row, row, [7, 8, 9, 10]]) == pytest.approx([1.0, 1.0, 0.0])
    assert self_bleus([row, row[:5]])[1] == pytest.approx(math.exp(1 - 6 / 5))  # a prefix: brevity alone
    with pytest.raises(ValueError, match="at least two"):
        self_bleus([row])
