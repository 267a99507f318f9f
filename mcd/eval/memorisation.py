"""How much of the samples stands word for word in the text that a model was trained on, beside held-out text.

The novelty of McCoy et al. (2023, arXiv 2111.09509, RAVEN): an n-gram of a sample is copied if it occurs in the
training text. Some always do, since text repeats itself; new text by the same authors says how many. So each figure
stands next to that of as many held-out rows. A model that copies has far more than they have.

The training text may be of any size. It is read once, in parts, from memory-mapped shards, and what is kept of it are
the stretches that share an n-gram with the rows, which is a small part of it. N-grams are compared by hashes of 64
bits, whose words and base are random: for 10^9 tokens and 10^5 n-grams the chance that a figure counts one too many is
below 10^-4.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcd.eval.bootstrap import mean_interval
from mcd.eval.scorer import Text

N = 8
"""Tokens of the n-grams that are looked up; shorter runs are in any text."""
PART = 1 << 20
"""Tokens of the training text that are read together; their hashes take about 50 MB."""
NO_ID = np.array([-1], np.int32)
Rows = Sequence[Sequence[int]]


class Hashes:
    """Hashes of windows of any width, the same wherever a window stands: sum_j word(id_j) base^j modulo 2^64.

    vocab_size: ids are below it. -1 is no id, but stands for what equals nothing that is looked for.
    """

    def __init__(self, vocab_size: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.words = rng.integers(1 << 64, size=vocab_size + 1, dtype=np.uint64)  # the last one is that of -1
        self.base = int(rng.integers(1 << 63)) * 2 + 1  # odd, so that it has an inverse
        self.inverse = pow(self.base, -1, 1 << 64)

    def of(self, ids: NDArray, n: int) -> NDArray:
        """The hash of each window of n, uint64 (L - n + 1,), of ids (L,); none where the ids are fewer."""
        if len(ids) < n:
            return np.empty(0, np.uint64)
        sums = np.zeros(len(ids) + 1, np.uint64)
        np.cumsum(self.words[ids] * _powers(self.base, len(ids)), out=sums[1:])
        return (sums[n:] - sums[:-n]) * _powers(self.inverse, len(ids) - n + 1)


def _powers(base: int, count: int) -> NDArray:
    """base^0 ... base^(count - 1) modulo 2^64, uint64."""
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, out=powers)


def copies(rows: Rows, parts: Iterable[NDArray], vocab_size: int, n: int = N) -> "Copies":
    """Which n-grams of `rows` occur in a text, and the longest run of each row in it.

    parts: the text in parts of ids, each beginning with the last ids of the one before, at least as many as the longest
    row has (`overlapping`); of a longer run only what lies in one part would count. Ids are those of one tokenizer,
    below vocab_size.
    """
    hashes = Hashes(vocab_size)
    arrays = [np.asarray(row, np.int64) for row in rows]
    own = [hashes.of(row, n) for row in arrays]
    wanted = np.unique(np.concatenate(own)) if own else np.empty(0, np.uint64)
    seen, kept = np.zeros(len(wanted), bool), [NO_ID]
    for part in parts:
        at = _places(hashes.of(part, n), wanted)
        seen[at[at >= 0]] = True
        kept += [_stretches(part, np.flatnonzero(at >= 0), n), NO_ID]
    found = [seen[_places(one, wanted)] for one in own]
    return Copies(found, _longest_runs(arrays, found, np.concatenate(kept), hashes, n))


@dataclass(frozen=True)
class Copies:
    """What was found: which n-grams of each row, and the length of its longest run, (N,), 0 where it is below n."""

    found: list[NDArray]
    runs: NDArray

    def shares(self) -> NDArray:
        """The share of n-grams that were found, float64 (N,); 0 for a row without one."""
        return np.array([float(one.mean()) if len(one) else 0.0 for one in self.found])


def _places(hashes: NDArray, wanted: NDArray) -> NDArray:
    """Where each of the hashes stands among the sorted `wanted`; -1 where it does not."""
    if not len(wanted):
        return np.full(len(hashes), -1)
    at = np.searchsorted(wanted, hashes).clip(max=len(wanted) - 1)
    return np.where(wanted[at] == hashes, at, -1)


def _stretches(ids: NDArray, starts: NDArray, n: int) -> NDArray:
    """What the windows of n ids at `starts` cover, int32, with -1 behind each stretch."""
    edges = np.zeros(len(ids) + 1, np.int32)
    edges[starts] += 1
    edges[starts + n] -= 1
    covered = edges.cumsum()[:-1] > 0
    behind = np.append(False, covered[:-1])
    return np.where(covered, ids.astype(np.int32), -1)[covered | behind]


def _longest_runs(rows: list[NDArray], found: list[NDArray], text: NDArray, hashes: Hashes, n: int) -> NDArray:
    """The longest run of each row in `text`, which holds all that any of its n-grams touches.

    By halving for all rows at once: a run of m tokens has runs of all shorter lengths in it. No run is longer than the
    row's longest stretch of n-grams that were found.
    """
    low = np.array([n if one.any() else 0 for one in found], np.int64)
    high = np.array([_stretch(one) + n - 1 if one.any() else 0 for one in found], np.int64)
    while (low < high).any():
        middle = (low + high + 1) // 2
        for m in np.unique(middle[low < high]).tolist():
            there = np.unique(hashes.of(text, m))
            for i in np.flatnonzero((middle == m) & (low < high)):
                if (_places(hashes.of(rows[i], m), there) >= 0).any():
                    low[i] = m
                else:
                    high[i] = m - 1
    return low


def _stretch(found: NDArray) -> int:
    """The most True in a row."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], found, [False])).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max())


def overlapping(values: Any, overlap: int, part: int = PART) -> Iterator[NDArray]:
    """An array, perhaps of mapped files, in parts of `part` values, each behind the `overlap` values before it."""
    for start in range(0, len(values), part):
        yield np.asarray(values[max(0, start - overlap) : start + part])


@dataclass(frozen=True)
class TrainingText:
    """What a model was trained on, to look for its samples in.

    name: as it was given. parts: its ids, in parts that overlap by so many (`copies`). ids_of: a text as ids of the
    same tokenizer. held_out: rows that the model was not trained on. seed: that of the intervals.
    """

    name: str
    parts: Callable[[int], Iterable[NDArray]]
    ids_of: Callable[[Text], list[int]]
    vocab_size: int
    held_out: Rows
    seed: int = 0

    def row(self, texts: Sequence[Text]) -> dict[str, Any]:
        """The keys of a row of metrics.json that say how much of `texts` is copied, and of the held-out rows.

        copied_8: the mean share of a text's 8-grams that occur in the training text. copied_run: the mean length of the
        longest run of a text that occurs there, in tokens, 0 where it is below 8; copied_run_max: the longest of all.
        Those of the held-out rows end in `_held_out`.
        """
        rows = [*map(self.ids_of, texts), *self.held_out]
        found = copies(rows, self.parts(max(map(len, rows))), self.vocab_size)
        shares, said = found.shares(), {"copied_from": self.name, "copied_rows_held_out": len(self.held_out)}
        for suffix, part in (("", slice(len(texts))), ("_held_out", slice(len(texts), None))):
            said |= mean_interval(shares[part], seed=self.seed).keys(f"copied_{N}{suffix}")
            said |= mean_interval(found.runs[part], seed=self.seed).keys(f"copied_run{suffix}")
            said[f"copied_run_max{suffix}"] = int(found.runs[part].max())
        return said
