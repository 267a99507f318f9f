"""Diversity of token ids: what Gen PPL cannot see.

Everywhere `ids` is (N, L) integers (tensor or array) or a list of lists, one per sample, of any lengths. All tokens
count, special ones too. Ratios are in [0, 1], entropy is in nats.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = Tensor | NDArray | Sequence[Sequence[int]]


def sample_entropies(ids: Ids) -> NDArray:
    """The unigram entropy of each sample, float64 (N,): -sum p log p over the shares p of its distinct tokens.

    0 for one repeated token (and for an empty sample), log L when all L differ.
    """
    counts = [np.unique(row, return_counts=True)[1] for row in _rows(ids)]
    spent = np.array([sum((count * np.log(count)).tolist()) for count in counts], dtype=np.float64)
    length = np.array([max(1, int(count.sum())) for count in counts])
    return np.maximum(np.log(length) - spent / length, 0.0)


def sample_entropy(ids: Ids) -> float:
    """The mean of `sample_entropies`, Duo's entropy (arXiv 2506.10892, metrics.py). Raises ValueError for no sample."""
    entropies = sample_entropies(ids)
    if not len(entropies):
        raise ValueError("the entropy needs at least one sample")
    return float(entropies.mean())


def distinct_n(ids: Ids, n: int) -> float:
    """Different n-grams over all n-grams, of all samples together (Li et al., 2016, arXiv 1510.03055).

    It falls as samples are added, so compare it at equal counts and lengths only; it has no bootstrap interval, since
    samples drawn twice would lower it too. 0 where there is no n-gram. Raises ValueError for n < 1.
    """
    grams = [gram for row in _rows(ids) for gram in _ngrams(row, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def duplicates(ids: Ids) -> int:
    """How many samples are an earlier one again, token by token: 0, if the model has not collapsed and rows are long.

    Like `distinct_n` it depends on the number of samples.
    """
    rows = list(map(tuple, _rows(ids)))
    return len(rows) - len(set(rows))


def repetitions(ids: Ids, n: int) -> NDArray:
    """The share of the n-grams of each sample that repeat an earlier one of it, float64 (N,).

    1 - distinct / all (Welleck et al., 2020, arXiv 1908.04319, "seq-rep-n"); NaN for a sample shorter than n.
    Raises ValueError for n < 1.
    """
    rows = [_ngrams(row, n) for row in _rows(ids)]
    return np.array([1.0 - len(set(grams)) / len(grams) if grams else np.nan for grams in rows])


def repetition_n(ids: Ids, n: int) -> float:
    """The mean of `repetitions`, samples shorter than n left out; 0 when all are. Raises ValueError for n < 1."""
    each = repetitions(ids, n)
    each = each[np.isfinite(each)]
    return float(each.mean()) if len(each) else 0.0


def self_bleus(ids: Ids, n: int = 4) -> NDArray:
    """The BLEU of each sample against all the others as its references, float64 (N,): 1 for copies (Texygen,
    arXiv 1802.01886, "self-BLEU").

    BLEU (Papineni et al., 2002) of one sentence as NLTK has it: equal weights of the clipped precisions of 1- to
    n-grams, the brevity penalty of the nearest reference length (the shorter of two), and 0.1 instead of a count of
    zero ("method1"), except that a sample without a shared token has 0. Exact over all pairs in time linear in the
    tokens: an n-gram's largest and second largest counts are all its clip needs. It rises as samples are added, so
    compare it at equal counts and lengths only. Raises ValueError for fewer than two samples.
    """
    rows = _rows(ids)
    if len(rows) < 2:
        raise ValueError("self-BLEU needs at least two samples")
    lengths = np.array([len(row) for row in rows])
    log_precision, shared = np.zeros(len(rows)), np.zeros(len(rows))
    for k in range(1, n + 1):
        clipped = np.array(_clipped([Counter(_ngrams(row, k)) for row in rows]), dtype=np.float64)
        shared = clipped if k == 1 else shared
        log_precision += np.log(np.where(clipped > 0, clipped, 0.1) / np.maximum(lengths - k + 1, 1)) / n
    different = np.unique(lengths)  # ascending, so that of two equally near lengths the shorter one is taken
    single = np.bincount(lengths)[different] == 1
    gap = np.abs(lengths[:, None] - different) + np.where(single & (lengths[:, None] == different), np.inf, 0.0)
    nearest = different[gap.argmin(1)]
    brevity = np.minimum(0.0, 1.0 - nearest / np.maximum(lengths, 1))
    return np.where(shared > 0, np.exp(log_precision + brevity), 0.0)


def _clipped(counts: list[Counter[Any]]) -> list[int]:
    """For each sample, how many of its n-grams another sample has too: counts clipped at the most any other has."""
    holders = Counter(gram for count in counts for gram in count)
    shared = [{gram: times for gram, times in count.items() if holders[gram] > 1} for count in counts]
    most, second = dict[Any, int](), dict[Any, int]()  # over the samples, the two largest counts of an n-gram
    for gram, times in ((gram, times) for count in shared for gram, times in count.items()):
        largest = most.get(gram, 0)
        most[gram], second[gram] = max(largest, times), max(second.get(gram, 0), min(largest, times))
    return [
        sum(min(times, second[gram] if times == most[gram] else most[gram]) for gram, times in count.items())
        for count in shared
    ]


def _rows(ids: Ids) -> list[list[int]]:
    """The samples as lists."""
    return [list(row) for row in (ids.tolist() if isinstance(ids, Tensor | np.ndarray) else ids)]


def _ngrams(row: list[int], n: int) -> list[tuple[int, ...]]:
    """The n-grams of a sample, in order."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    return list(zip(*(row[i:] for i in range(n)), strict=False))
