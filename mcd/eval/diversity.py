"""Diversity of token ids: what Gen PPL cannot see.

Everywhere `ids` is (N, L) integers (tensor or array) or a list of lists, one per sample, of any lengths. All tokens
count, special ones too. Ratios are in [0, 1], entropy is in nats.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = Tensor | NDArray | Sequence[Sequence[int]]


def sample_entropies(ids: Ids) -> NDArray:
    """The unigram entropy of each sample, float64 (N,): -sum p log p over the shares p of its distinct tokens.

    0 for one token said for ever (and for an empty sample), log L when all L differ.
    """
    flat, row, n = _flat(ids)
    length = np.bincount(row, minlength=n)
    row, count = _counts(row, flat)
    spent = np.bincount(row, weights=count * np.log(count), minlength=n)
    safe = np.maximum(length, 1)
    return np.maximum(np.log(safe) - spent / safe, 0.0)


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
    gram, _, _ = _ngrams(ids, n)
    return len(np.unique(gram)) / len(gram) if len(gram) else 0.0


def repetitions(ids: Ids, n: int) -> NDArray:
    """The share of the n-grams of each sample that repeat an earlier one of it, float64 (N,).

    1 - distinct / all (Welleck et al., 2020, arXiv 1908.04319, "seq-rep-n"); NaN for a sample shorter than n.
    Raises ValueError for n < 1.
    """
    gram, row, rows = _ngrams(ids, n)
    total = np.bincount(row, minlength=rows)
    distinct = np.bincount(_counts(row, gram)[0], minlength=rows)
    return np.where(total > 0, 1.0 - distinct / np.maximum(total, 1), np.nan)


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
    compare it at equal counts and lengths only. Raises ValueError for fewer than two samples, and n < 1.
    """
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    if len(lengths) < 2:
        raise ValueError("self-BLEU needs at least two samples")
    log_precision = np.zeros(len(lengths))
    shared = np.zeros(len(lengths))
    for k in range(1, n + 1):
        clipped = _clipped(ids, k)
        shared = clipped if k == 1 else shared
        log_precision += np.log(np.where(clipped > 0, clipped, 0.1) / np.maximum(lengths - k + 1, 1)) / n
    nearest = _nearest_other(lengths)
    brevity = np.minimum(0.0, 1.0 - nearest / np.maximum(lengths, 1))
    return np.where(shared > 0, np.exp(log_precision + brevity), 0.0)


def _clipped(ids: Ids, n: int) -> NDArray:
    """For each sample, how many of its n-grams another sample has too: counts clipped at the most any other has."""
    gram, row, rows = _ngrams(ids, n)
    owner, label, count = _labelled_counts(row, gram)
    order = np.lexsort((-count, label))
    first = np.r_[True, label[order][1:] != label[order][:-1]] if len(order) else np.zeros(0, dtype=bool)
    most, holder, second = (np.zeros(int(label.max(initial=0)) + 1, dtype=np.int64) for _ in range(3))
    best = order[first]
    most[label[best]], holder[label[best]] = count[best], owner[best]
    runner_up = order[1:][first[:-1] & ~first[1:]]  # the one behind a first, where it is of the same n-gram
    second[label[runner_up]] = count[runner_up]
    others = np.where(holder[label] == owner, second[label], most[label])
    return np.bincount(owner, weights=np.minimum(count, others), minlength=rows)


def _nearest_other(lengths: NDArray) -> NDArray:
    """For each length the nearest among those of the other samples, the shorter of two equally near."""
    different, times = np.unique(lengths, return_counts=True)
    gap = np.abs(different[:, None] - different).astype(np.float64)
    gap[np.diag_indices(len(different))] = np.where(times > 1, 0.0, np.inf)
    return different[gap.argmin(1)][np.searchsorted(different, lengths)]


def _flat(ids: Ids) -> tuple[NDArray, NDArray, int]:
    """All ids in one (T,) array, relabelled 0, 1, ...; the sample each belongs to (T,); the number of samples."""
    rows = [np.asarray(row, dtype=np.int64) for row in (ids.cpu().numpy() if isinstance(ids, Tensor) else ids)]
    row = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    return np.unique(flat, return_inverse=True)[1], row, len(rows)


def _counts(row: NDArray, label: NDArray) -> tuple[NDArray, NDArray]:
    """(sample, count) of each different (sample, label)."""
    owner, _, count = _labelled_counts(row, label)
    return owner, count


def _labelled_counts(row: NDArray, label: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """(sample, label, count) of each different (sample, label): labels are below T, so that the key fits int64."""
    width = int(label.max(initial=0)) + 1
    key, count = np.unique(row * width + label, return_counts=True)
    return key // width, key % width, count


def _ngrams(ids: Ids, n: int) -> tuple[NDArray, NDArray, int]:
    """A label for each n-gram (equal labels mean equal n-grams), its sample, and the number of samples."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    flat, row, rows = _flat(ids)
    width = int(flat.max(initial=0)) + 1
    gram = flat
    for k in range(1, n):  # a k-gram and the token after it; labels stay below T, so nothing overflows or collides
        gram = np.unique(gram[:-1] * width + flat[k:], return_inverse=True)[1]
    start, end = row[: len(gram)], row[n - 1 :]
    inside = start == end[: len(start)]
    return gram[inside], start[inside], rows
