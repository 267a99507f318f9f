"""The frontier: quality against entropy as the temperature moves, read at one entropy for all.

Cooling any model lowers its Gen PPL and its entropy together, so two models are compared where their entropies are
equal. What a distillation gains over a cooled teacher is what is left then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcd.eval.bootstrap import Interval

Quality = Callable[[NDArray], NDArray]
"""Multiplicities of samples (R, N), a resample per row, to R values; lower is better."""


@dataclass(frozen=True)
class Point:
    """One set of N samples, drawn at `temperature`: entropy (N,) of each in nats, and the quality of any resample."""

    temperature: float
    entropy: NDArray
    quality: Quality


@dataclass(frozen=True)
class Match:
    """What a curve says at an entropy: the quality there with its interval, and the temperature that gets there."""

    entropy: float
    quality: Interval
    temperature: float


def ratio(top: NDArray, bottom: NDArray) -> Quality:
    """sum(top) / sum(bottom) over samples, both (N,): a pooled average such as nats per token."""
    return lambda weights: (weights @ top) / (weights @ bottom)


def total_variation(cells: NDArray, law: NDArray) -> Quality:
    """Total variation of what the samples say from a law: what they have in excess of it.

    cells (N, K): what each of N samples says K times, numbered 0 to M - 1. law (M,): the law of these; what no sample
    says may be missing, and then it sums to less than 1.
    """
    flat, each = cells.ravel(), cells.shape[1]

    def quality(weights: NDArray) -> NDArray:
        pooled = np.stack([np.bincount(flat, np.repeat(row, each), len(law)) for row in weights])
        return np.maximum(pooled / pooled.sum(1, keepdims=True) - law, 0.0).sum(1)

    return quality


class Sweep:
    """Points of one model, and what bootstrap resamples of their rows say: drawn once, for any number of targets.

    Row n of every point must be drawn from the same random numbers (row n of one seed): a resample takes the same rows
    of all points. Raises ValueError without points or where they differ in N.
    """

    def __init__(self, points: Sequence[Point], resamples: int = 300, seed: int = 0):
        if not points or len({len(point.entropy) for point in points}) > 1:
            raise ValueError("need points of one number of samples")
        n = len(points[0].entropy)
        drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
        weights = np.stack([np.ones(n), *(np.bincount(row, minlength=n) for row in drawn)]).astype(np.float64)
        self._entropy = np.stack([weights @ point.entropy / n for point in points])  # (T, 1 + R): first the samples
        self._quality = np.stack([point.quality(weights) for point in points])
        self._temperature = np.array([point.temperature for point in points])

    def at(self, target: float) -> Match | None:
        """Quality at mean entropy `target`, linear between the neighbouring points, with a 95 % bootstrap interval.

        None where `target` is outside what the points reach; the interval's ends are None where too many resamples
        (over 5 %) do not reach it.
        """
        both = zip(self._entropy.T, self._quality.T, strict=True)
        values = np.array([_interpolate(entropy, quality, target) for entropy, quality in both])
        if np.isnan(values[0]):
            return None
        resamples = len(values) - 1
        reached = values[1:][~np.isnan(values[1:])]
        lo, hi = np.quantile(reached, [0.025, 0.975]) if len(reached) >= 0.95 * resamples > 0 else (None, None)
        interval = Interval(float(values[0]), None if lo is None else float(lo), None if hi is None else float(hi))
        return Match(target, interval, float(_interpolate(self._entropy[:, 0], self._temperature, target)))


def at_entropy(points: Sequence[Point], target: float, *, resamples: int = 300, seed: int = 0) -> Match | None:
    """`Sweep.at` of points that are read once."""
    return Sweep(points, resamples, seed).at(target)


def temperature_of_entropy(
    entropy_at: Callable[[float], float], target: float, low: float = 0.5, high: float = 1.2, halvings: int = 6
) -> float:
    """The temperature in [low, high] at which `entropy_at` is closest to `target`, by bisection.

    entropy_at: mean sample entropy (nats) at a temperature, increasing in it up to sampling noise; with locked
    scalars the same u and v serve every temperature, so that noise is common and the curve smooth. At the ends of the
    interval when the target is outside.
    """
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        if entropy_at(middle) < target:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _interpolate(x: NDArray, y: NDArray, at: float) -> float:
    """y at x = at, linear between neighbours in x; NaN outside, where rounding does not count."""
    order = np.argsort(x)
    if min(abs(at - x[order[0]]), abs(at - x[order[-1]])) < 1e-9:
        at = float(np.clip(at, x[order[0]], x[order[-1]]))
    return float(np.interp(at, x[order], y[order], left=np.nan, right=np.nan))
