"""Percentile bootstrap intervals (Efron and Tibshirani, 1993, chapter 13), seeded and vectorised over resamples."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
BLOCK = 4_000_000  # indices drawn at one time: 32 MB


@dataclass(frozen=True)
class Interval:
    """A statistic of the samples themselves and the ends of its interval, None where the samples are too few."""

    value: float
    lo: float | None
    hi: float | None

    def keys(self, name: str) -> dict[str, float | None]:
        """The keys of a row: `name`, `name_lo` and `name_hi`."""
        return {name: self.value, f"{name}_lo": self.lo, f"{name}_hi": self.hi}


def bootstrap_interval(
    statistic: Callable[[NDArray], NDArray],
    n: int,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile interval of `statistic` over n samples drawn again with replacement.

    `statistic` maps indices (R, n) to R values, one per resample; values that are not finite are left out. The interval
    shows sampling error alone and is a little narrow for n under about 30. For n = 1 its ends are None.
    Raises ValueError for n < 1, resamples < 1 or a level outside (0, 1).
    """
    if n < 1 or resamples < 1 or not 0.0 < level < 1.0:
        raise ValueError(f"need n >= 1, resamples >= 1, 0 < level < 1, not n={n}, resamples={resamples}, level={level}")
    value = float(statistic(np.arange(n)[None])[0])
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // n)
    counts = [min(rows, resamples - done) for done in range(0, resamples, rows)]
    values = np.concatenate([statistic(rng.integers(0, n, (count, n))) for count in counts])
    values = values[np.isfinite(values)]
    if n == 1 or not values.size:
        return Interval(value, None, None)
    lo, hi = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(value, float(lo), float(hi))


def mean_interval(values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The 95 % interval of the mean of `values` (n,), one per sample."""
    x = np.asarray(values, dtype=np.float64)
    return bootstrap_interval(lambda i: x[i].mean(1), len(x), resamples=resamples, seed=seed)


def ratio_interval(
    numerator: ArrayLike, denominator: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The 95 % interval of sum(numerator) / sum(denominator), both (n,): an average weighted by length.

    The value is NaN when the denominators sum to 0. Raises ValueError when the two differ in length.
    """
    x, y = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"numerator and denominator differ in shape: {x.shape} and {y.shape}")

    def ratio(i: NDArray) -> NDArray:
        below = y[i].sum(1)
        return np.divide(x[i].sum(1), below, out=np.full_like(below, np.nan), where=below != 0)

    return bootstrap_interval(ratio, len(x), resamples=resamples, seed=seed)
