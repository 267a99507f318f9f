"""Generated text against real text, as two clouds of feature vectors: the energy distance, and MAUVE.

A feature vector of a text is that of `mcd.eval.features`: by the scorer, or by a sentence encoder. Both distances say
what Gen PPL cannot: whether samples are spread as real text is. X (N, D) and Y (M, D) are float arrays.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcd.eval.bootstrap import RESAMPLES, Interval
from mcd.eval.features import Features
from mcd.eval.scorer import Text

HAS_MAUVE = importlib.util.find_spec("mauve") is not None
"""Whether the optional package mauve-text is installed."""
KMEANS_SEEDS = 5
"""Clusterings that a MAUVE is averaged over: with few samples one clustering is a lottery ticket."""


def energy_distance(X: NDArray, Y: NDArray, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| (Székely and Rizzo, 2013), unbiased, with its 95 % bootstrap interval.

    Zero in expectation when the clouds have one law, and positive otherwise; an estimate may fall a little below zero.
    Its unit is that of the features. Rows of both clouds are drawn again; a row drawn twice is no pair with itself,
    which would draw the clouds together. Raises ValueError for a cloud of fewer than two rows.
    """
    if min(len(X), len(Y)) < 2:
        raise ValueError("the energy distance needs at least two rows in each cloud")
    rng = np.random.default_rng(seed)
    between, within_x, within_y = _distances(X, Y), _distances(X, X), _distances(Y, Y)

    def statistic(w: NDArray, v: NDArray) -> NDArray:
        """The statistic for how often each row was drawn: w (R, N), v (R, M), to (R,)."""
        cross = ((w @ between) * v).sum(1) / (len(X) * len(Y))
        return 2 * cross - _mean_of_pairs(w, within_x) - _mean_of_pairs(v, within_y)

    value = float(statistic(np.ones((1, len(X))), np.ones((1, len(Y))))[0])
    w, v = (rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64) for n in (len(X), len(Y)))
    drawn = statistic(w, v)
    lo, hi = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
    return Interval(value, float(lo), float(hi))


def energy_floor(Y: NDArray, n: int, *, splits: int = 200, level: float = 0.95, seed: int = 0) -> float:
    """The distance that n further rows of real text would have to Y (M, D): a smaller one means none.

    The `level` quantile between random halves of Y, scaled from their sizes to n and M: where the laws are one, the
    distance spreads as 1/n + 1/M. Raises ValueError for fewer than four rows.
    """
    if len(Y) < 4:
        raise ValueError("the floor of the energy distance needs at least four rows")
    rng = np.random.default_rng(seed)
    D, half = _distances(Y, Y), len(Y) // 2
    left = np.zeros((splits, len(Y)))
    for row in left:
        row[rng.permutation(len(Y))[:half]] = 1.0
    right = 1.0 - left
    cross = ((left @ D) * right).sum(1) / (half * (len(Y) - half))
    quantile = np.quantile(2 * cross - _mean_of_pairs(left, D) - _mean_of_pairs(right, D), level)
    return float(quantile * (1 / n + 1 / len(Y)) / (1 / half + 1 / (len(Y) - half)))


def mauve(X: NDArray, Y: NDArray, seed: int = 0) -> Interval:
    """MAUVE (Pillutla et al., arXiv 2102.01454) of generated X against real Y by the mauve-text package: 1 is best.

    The package's defaults (min(N, M) / 10 clusters, scale 5), averaged over KMEANS_SEEDS clusterings, whose least and
    greatest are the interval's ends: they tell how much the clustering matters, not the sampling error. It depends on
    the number of texts, and the papers use thousands: compare at equal counts, and with the MAUVE of real text
    against real text (`mauve_ceiling`). Raises ModuleNotFoundError without the package.
    """
    from mauve import compute_mauve

    with _silent():  # faiss writes a warning for each clustering of few points
        values = [
            float(compute_mauve(p_features=X, q_features=Y, seed=seed * KMEANS_SEEDS + i).mauve)
            for i in range(KMEANS_SEEDS)
        ]
    return Interval(float(np.mean(values)), min(values), max(values))


def mauve_ceiling(Y: NDArray, seed: int = 0) -> float:
    """The MAUVE between two random halves of real text: the reference value for a MAUVE of about this many texts."""
    order = np.random.default_rng(seed).permutation(len(Y))
    half = len(Y) // 2
    return mauve(Y[order[:half]], Y[order[half : 2 * half]], seed).value


@dataclass(frozen=True)
class Reference:
    """Real text to compare with: its name, its cloud (M, D) and what made it, and the MAUVE that real text itself
    reaches there.

    truncated: how many of its texts are longer than the context of `by`, and were read so far.
    """

    name: str
    by: Features
    features: NDArray
    ceiling: float | None
    seed: int
    truncated: int = 0

    def row(self, texts: Sequence[Text]) -> dict[str, Any]:
        """The keys of a row of metrics.json that compare `texts` with it, by features of the same kind.

        Those of MAUVE are None without the package.
        """
        cloud = self.by.features(list(texts))
        energy = energy_distance(cloud, self.features, seed=self.seed)
        similar = mauve(cloud, self.features, self.seed) if HAS_MAUVE else None
        return {
            "energy": energy.value,
            "energy_lo": energy.lo,
            "energy_hi": energy.hi,
            "energy_floor": energy_floor(self.features, len(cloud), seed=self.seed),
            "mauve": similar.value if similar else None,
            "mauve_lo": similar.lo if similar else None,
            "mauve_hi": similar.hi if similar else None,
            "mauve_ceiling": self.ceiling,
            "features_context": self.by.context,
            "features_truncated": self.by.cut(texts),
            "reference_truncated": self.truncated,
        }


def reference_of(name: str, texts: Sequence[Text], by: Features, seed: int = 0) -> Reference:
    """The reference of real `texts`, at least four of them, read by `by`; `seed` is that of all its intervals."""
    cloud = by.features(list(texts))
    return Reference(name, by, cloud, mauve_ceiling(cloud, seed) if HAS_MAUVE else None, seed, by.cut(texts))


def _distances(X: NDArray, Y: NDArray) -> NDArray:
    """Euclidean, (N, M), by the plain differences of one row at a time: squares expanded would lose the digits."""
    return np.stack([np.sqrt(((Y - x) ** 2).sum(1)) for x in X.astype(np.float64)])


def _mean_of_pairs(w: NDArray, D: NDArray) -> NDArray:
    """The mean distance of two different rows, each drawn as often as w (R, N) says; NaN where only one was."""
    pairs = w.sum(1) ** 2 - (w**2).sum(1)
    return np.divide(((w @ D) * w).sum(1), pairs, out=np.full(len(w), np.nan), where=pairs > 0)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing that a C library writes to stdout or stderr is seen."""
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
