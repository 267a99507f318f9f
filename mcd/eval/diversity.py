"""Diversity of token ids: what Gen PPL cannot see.

Everywhere `ids` is (N, L) integers (tensor or array) or a list of lists, one a sample, of any lengths. All tokens
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

    It falls as samples are added, so compare it at equal counts and lengths only. 0 where there is no n-gram.
    Raises ValueError for n < 1.
    """
    gram, _, _ = _ngrams(ids, n)
    return len(np.unique(gram)) / len(gram) if len(gram) else 0.0


def repetition_n(ids: Ids, n: int) -> float:
    """The share of the n-grams of a sample that repeat an earlier one of it, averaged over samples.

    Per sample 1 - distinct / all (Welleck et al., 2020, arXiv 1908.04319, "seq-rep-n"). Samples shorter than n are
    left out; 0 when all are. Raises ValueError for n < 1.
    """
    gram, row, rows = _ngrams(ids, n)
    total = np.bincount(row, minlength=rows)
    distinct = np.bincount(_counts(row, gram)[0], minlength=rows)
    some = total > 0
    return float((1.0 - distinct[some] / total[some]).mean()) if some.any() else 0.0


def _flat(ids: Ids) -> tuple[NDArray, NDArray, int]:
    """All ids in one (T,) array, relabelled 0, 1, ...; the sample each belongs to (T,); the number of samples."""
    rows = [np.asarray(row, dtype=np.int64) for row in (ids.cpu().numpy() if isinstance(ids, Tensor) else ids)]
    row = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    return np.unique(flat, return_inverse=True)[1], row, len(rows)


def _counts(row: NDArray, label: NDArray) -> tuple[NDArray, NDArray]:
    """(sample, count) of each different (sample, label): labels are below T, so that the key fits int64."""
    width = int(label.max(initial=0)) + 1
    key, count = np.unique(row * width + label, return_counts=True)
    return key // width, count


def _ngrams(ids: Ids, n: int) -> tuple[NDArray, NDArray, int]:
    """A label for each n-gram (equal labels, equal n-grams), the sample it lies in, the number of samples."""
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
