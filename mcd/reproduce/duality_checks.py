"""The checks of the duality: each takes draws of the process and returns rows of value, expected, tolerance, pass.

The draws are real ones: K Gaussian coordinates per token, reduced to the margin Y in chunks. A check takes the K whose
theory the draws are compared with, so that a wrong K fails.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from mcd.process.duality import (
    calibrated_snr_root,
    cdf_noise_margin,
    latent_of_noise,
    noise_margin,
    project,
    u_of_noise,
    visibility_floor,
    vp_of_snr_root,
)
from mcd.process.masked import mask
from mcd.process.schedule import LogLinear

LENGTH = 8
"""Tokens per row of the draws."""
LEVEL = 1e-3
"""Chance that a statistical check fails when all is right."""
NORMAL_BOUND = float(stats.norm.isf(LEVEL / 2))
"""What the size of a standard normal number exceeds with that chance."""
CHUNK = 1 << 21
"""Noise coordinates in memory at one time: 16 MiB."""
CELLS = 10
"""Cells of u in tables of two variables."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Draws:
    """Margins Y of `x0` under K-dimensional noise; x0, y (rows, LENGTH)."""

    K: int
    x0: Tensor
    y: Tensor


@dataclass(frozen=True)
class Paths:
    """Visibility at every time of a grid, once through the latent and once through u.

    t, alpha (T,); u (n,); latent, scalar (T, n) bool.
    """

    K: int
    t: Tensor
    alpha: Tensor
    u: Tensor
    latent: Tensor
    scalar: Tensor


def sample_tokens(rows: int, K: int, generator: torch.Generator) -> Tensor:
    """(rows, LENGTH) ids of the K - 1 real tokens: a Zipf law in which every other token repeats its left neighbour.

    Tokens that depend on each other, as those of text do: u must not.
    """
    p = 1.0 / torch.arange(1, K, dtype=torch.float64)
    ids = torch.multinomial(p, rows * LENGTH, replacement=True, generator=generator).view(rows, LENGTH)
    repeats = torch.rand(rows, LENGTH, generator=generator) < 0.5
    for i in range(1, LENGTH):
        ids[:, i] = torch.where(repeats[:, i], ids[:, i - 1], ids[:, i])
    return ids


def draw_margins(K: int, n: int, generator: torch.Generator) -> Draws:
    """About n tokens, each with K normal numbers in float64, reduced to Y chunk by chunk."""
    x0 = sample_tokens(max(2, n // LENGTH), K, generator)
    parts = x0.flatten().split(max(1, CHUNK // K))
    y = [noise_margin(torch.randn(len(k), K, dtype=torch.float64, generator=generator), k) for k in parts]
    return Draws(K, x0, torch.cat(y).view(x0.shape))


def draw_margins_by_order_statistic(K: int, n: int, generator: torch.Generator) -> Tensor:
    """(n,) draws of Y from two numbers each: the largest of K - 1 normals is Phi^-1(v^(1/(K-1))), v uniform.

    The same distribution as `draw_margins` without its K numbers per token: an extra, and no evidence about the
    projection.
    """
    log_v = (1.0 - torch.rand(n, dtype=torch.float64, generator=generator)).log() / (K - 1)
    largest = -torch.special.ndtri(-torch.expm1(log_v))
    return largest - torch.randn(n, dtype=torch.float64, generator=generator)


def draw_paths(K: int, n: int, times: int, generator: torch.Generator) -> Paths:
    """n tokens followed along one eps each over `times` times of the log-linear schedule, 0 to 1."""
    schedule, mask_id = LogLinear(), K - 1
    t = torch.linspace(0.0, 1.0, times, dtype=torch.float64)
    alpha = schedule.alpha(t)
    alpha_tilde, sigma_tilde = vp_of_snr_root(calibrated_snr_root(alpha, K))
    x0 = sample_tokens(max(1, n // LENGTH), K, generator).flatten()
    u, latent, scalar = [], [], []
    for k in x0.split(max(1, CHUNK // K)):
        eps = torch.randn(len(k), K, dtype=torch.float64, generator=generator)
        states = [
            project(latent_of_noise(k, eps, a, s), k, mask_id) for a, s in zip(alpha_tilde, sigma_tilde, strict=True)
        ]
        u.append(u_of_noise(eps, k))
        latent.append(torch.stack(states) == k)
        scalar.append(mask(k, u[-1], alpha[:, None], mask_id) == k)
    return Paths(K, t, alpha, torch.cat(u), torch.cat(latent, 1), torch.cat(scalar, 1))


def check_calibration(K: int, points: int = 400) -> list[Row]:
    """gamma -> root of the SNR -> gamma, from just above the floor to 1 - 1e-9."""
    floor = visibility_floor(K)
    x = torch.linspace(0.0, 1.0, points, dtype=torch.float64)
    # evenly spaced, and crowding towards both ends
    low, high = floor + (1 - floor) * 10 ** (-9 + 9 * x[:-1]), 1 - (1 - floor) * 10 ** (-9 + 9 * x[:-1])
    gamma = torch.cat((low, high, floor + (1 - floor) * x[1:-1]))
    before = time.perf_counter()
    root = calibrated_snr_root(gamma, K)
    seconds = time.perf_counter() - before
    error = (cdf_noise_margin(root, K) - gamma).abs().max().item()
    return [row("calibration", K, "largest |F_Y(r(gamma)) - gamma|", error, 0.0, 1e-12, n=len(gamma), seconds=seconds)]


def check_cdf(y: Tensor, K: int, check: str = "law of Y") -> list[Row]:
    """Drawn margins against F_Y of K: Kolmogorov-Smirnov distance."""
    u = cdf_noise_margin(y.flatten(), K).numpy()
    n = len(u)
    found = stats.kstest(u, "uniform")
    more = {"n": n, "p": float(found.pvalue), "critical_95": float(stats.kstwo.isf(0.05, n))}
    critical = float(stats.kstwo.isf(LEVEL, n))
    return [row(check, K, "Kolmogorov-Smirnov distance", float(found.statistic), 0.0, critical, **more)]


def check_u(draws: Draws, K: int) -> list[Row]:
    """u = F_Y(Y) of K: uniform, and independent of its neighbour, of x0 and of x0's neighbour."""
    u = cdf_noise_margin(draws.y, K)
    cell = (u * CELLS).long().clamp(max=CELLS - 1)
    counts = torch.bincount((u.flatten() * 64).long().clamp(max=63), minlength=64).double()
    rows = [chi_square_row("u uniform", K, "chi-square / dof, 64 cells", counts, 63)]
    left, right = u[:, 0::2].flatten(), u[:, 1::2].flatten()  # disjoint pairs
    n, r = len(left), torch.corrcoef(torch.stack((left, right)))[0, 1].item()
    p = float(2 * stats.norm.sf(abs(r) * math.sqrt(n)))
    rows.append(row("u of neighbours", K, "correlation", r, 0.0, NORMAL_BOUND / math.sqrt(n), n=n, p=p))
    counts = pair_counts(cell).flatten()
    rows.append(chi_square_row("u of neighbours", K, "chi-square / dof, 10 x 10 cells", counts, CELLS**2 - 1))
    if K > 2:  # of two coordinates one is the mask's: there is only one token
        octave = (draws.x0 + 1).double().log2().long()  # under Zipf's law every octave of ids has about the same mass
        for name, token in (("u and x0", octave), ("u and x0 of the neighbour", octave.roll(1, 1))):
            octaves = int(octave.max()) + 1
            counts = torch.bincount((token * CELLS + cell).flatten(), minlength=CELLS * octaves).double()
            counts = counts.view(octaves, CELLS)
            measure = "chi-square / dof, octaves x 10 cells"
            rows.append(chi_square_row(name, K, measure, counts, octaves * (CELLS - 1)))
    return rows


def check_paths(paths: Paths) -> list[Row]:
    """Latent against scalar trajectories: equal except where alpha_t < 1/K, and there in the share the floor gives."""
    K, n = paths.K, len(paths.u)
    floor = visibility_floor(K)
    bound = paths.alpha < floor
    equal = paths.latent == paths.scalar
    where = {"times": int((~bound).sum()), "times_below_floor": int(bound.sum()), "tokens": n}

    def share_row(check: str, states: Tensor, expected: float, tolerance: float, **more: Any) -> Row:
        share = states.double().mean().item()
        return row(check, K, "share of equal states", share, expected, tolerance, **where, **more)

    differ = int((~equal[~bound]).sum())
    rows = [share_row("paths equal, alpha_t >= 1/K", equal[~bound], 1.0, 0.0, differ=differ)]
    if bound.any():
        expected = 1.0 - (floor - paths.alpha[bound])
        # the times of one token depend on each other: no more than if they were all the worst one
        worst = (expected * (1 - expected)).max().item()
        slack = NORMAL_BOUND * math.sqrt(worst / n)
        differ = int((~equal[bound]).sum())
        below = share_row("paths equal, alpha_t < 1/K", equal[bound], expected.mean().item(), slack, differ=differ)
        rows.append(below)
    ruled = paths.u < paths.alpha.clamp(min=floor)[:, None]
    rows.append(share_row("latent = (u < max(alpha_t, 1/K))", paths.latent == ruled, 1.0, 0.0))
    back = int((paths.latent[1:] & ~paths.latent[:-1]).sum())
    rows.append(row("mask absorbs along one eps", K, "tokens that leave the mask", back, 0, 0, **where))
    return rows


def check_floor(draws: Draws, K: int, times: int = 1001) -> list[Row]:
    """Without signal the projection still shows one token in K; from which t on (of a grid of `times`) that binds."""
    n = draws.y.numel()
    floor, schedule = visibility_floor(K), LogLinear()
    seen = int((draws.y < 0).sum())
    p = min(1.0, float(2 * min(stats.binom.cdf(seen, n, floor), stats.binom.sf(seen - 1, n, floor))))
    slack = NORMAL_BOUND * math.sqrt(floor * (1 - floor) / n) + 1 / n
    measured = row("floor, no signal (draws)", K, "P(visible)", seen / n, floor, slack, n=n, p=p, seen=seen)
    measured["pass"] = p >= LEVEL  # exact: few may be seen
    exact = cdf_noise_margin(torch.zeros(1, dtype=torch.float64), K).item()
    rows = [measured, row("floor, no signal (quadrature)", K, "K F_Y(0)", K * exact, 1.0, 1e-13)]
    t = torch.linspace(0.0, 1.0, times, dtype=torch.float64)
    alpha = schedule.alpha(t)
    above = cdf_noise_margin(calibrated_snr_root(alpha, K), K) > alpha + 1e-9
    start = t[above].min().item() if above.any() else 1.0
    expected = min(1.0, schedule.t_of_alpha(torch.tensor(floor, dtype=torch.float64)).item())
    more = {"binds": bool(above.any()), "share_of_t": 1.0 - start}
    rows.append(row("floor binds from t on", K, "t, log-linear schedule", start, expected, 1.0 / (times - 1), **more))
    return rows


def pair_counts(cell: Tensor) -> Tensor:
    """(CELLS, CELLS) counts of disjoint neighbours' cells."""
    pairs = cell[:, 0::2] * CELLS + cell[:, 1::2]
    return torch.bincount(pairs.flatten(), minlength=CELLS**2).double().view(CELLS, CELLS)


def row(check: str, K: int, measure: str, value: float, expected: float, tolerance: float, **more: Any) -> Row:
    """One line of the table; it passes when |value - expected| <= tolerance."""
    passed = abs(value - expected) <= tolerance
    return {
        "check": check,
        "K": K,
        "measure": measure,
        "value": value,
        "expected": expected,
        "tolerance": tolerance,
        "pass": passed,
        **more,
    }


def chi_square_row(check: str, K: int, measure: str, counts: Tensor, dof: int) -> Row:
    """Pearson's statistic over its degrees of freedom; a fit that is too good fails like one that is too bad.

    Expected are equal counts (..., cells) along the last dimension.
    """
    expected = counts.mean(-1, keepdim=True)
    chi2 = ((counts - expected).square() / expected.clamp(min=1e-12)).sum().item()
    p = float(2 * min(stats.chi2.sf(chi2, dof), stats.chi2.cdf(chi2, dof)))
    slack = NORMAL_BOUND * math.sqrt(2 / dof)
    line = row(check, K, measure, chi2 / dof, 1.0, slack, n=int(counts.sum()), p=p)
    line["pass"] = p >= LEVEL
    return line
