"""`mcd reproduce duality`: Section 3 of the paper checked by experiment, as one table and one figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes

from mcd.process.duality import calibrated_snr_root, cdf_noise_margin, visibility_floor
from mcd.process.schedule import LogLinear
from mcd.report.plotting import GRID, INK, MUTED, SEQUENCE, figure
from mcd.reproduce import duality_checks as checks
from mcd.reproduce.duality_checks import Draws, Paths, Row

DRAWS = {2: 262_144, 32: 262_144, 1024: 262_144, 50_258: 40_960}
"""K, and the tokens drawn with K normal numbers each; the largest K takes most of the time."""
PATHS = {2: 16_384, 32: 16_384, 1024: 4096, 50_258: 512}
"""K, and the tokens followed through the latent over `TIMES` times."""
TIMES = 65
EXTRA = 200_000
"""Draws of the order-statistic extra."""


def run(
    out: Path,
    draws: Mapping[int, int] = DRAWS,
    paths: Mapping[int, int] = PATHS,
    times: int = TIMES,
    extra: int = EXTRA,
    seed: int = 0,
) -> dict[str, Any]:
    """All checks for every K of `draws`, and duality.png in `out`. Returns protocol and rows as JSON takes them."""
    rows: list[Row] = []
    drawn, followed = [], []
    for K, n in draws.items():
        generator = torch.Generator().manual_seed(seed)
        rows += checks.check_calibration(K)
        drawn.append(checks.draw_margins(K, n, generator))
        rows += checks.check_cdf(drawn[-1].y, K)
        shortcut = checks.draw_margins_by_order_statistic(K, extra, generator)
        rows += checks.check_cdf(shortcut, K, "law of Y (extra: two numbers a token)")
        rows += checks.check_u(drawn[-1], K)
        followed.append(checks.draw_paths(K, paths[K], times, generator))
        rows += checks.check_paths(followed[-1])
        rows += checks.check_floor(drawn[-1], K)
    _draw(out / "duality.png", drawn, followed)
    protocol = {
        "schedule": "alpha_t = 1 - (1 - 1e-3) t",
        "K": "all coordinates, the mask's included",
        "draws": {str(K): draws[K] for K in draws},
        "paths": {str(K): paths[K] for K in draws},
        "times": times,
        "extra": extra,
        "tokens": f"Zipf, every other one a copy of its left neighbour, rows of {checks.LENGTH}",
        "precision": "float64",
        "level": checks.LEVEL,
        "statistical_rows": sum("p" in row for row in rows),
        "seed": seed,
        "entropy": "no text is sampled here",
    }
    return {"protocol": protocol, "rows": rows}


def _draw(path: Path, drawn: list[Draws], followed: list[Paths]) -> None:
    colours: dict[int, str] = dict(zip((one.K for one in drawn), SEQUENCE, strict=False))
    with figure(path, 2, 3, (10.5, 6.2)) as axes:
        _calibration(axes[0], colours)
        _law(axes[1], drawn, colours)
        _uniform(axes[2], drawn, colours)
        _independent(axes[3], drawn[-1])
        _agreement(axes[4], followed, colours)
        _floor(axes[5], drawn, colours)


def _calibration(axes: Axes, colours: dict[int, str]) -> None:
    for K, colour in colours.items():
        floor = visibility_floor(K)
        gamma = floor + (1 - floor) * torch.linspace(1e-6, 1 - 1e-4, 300, dtype=torch.float64)
        root = calibrated_snr_root(gamma, K)
        axes.plot(root, gamma, color=colour, label=f"K = {K:,}")
    axes.set(
        title=r"a  calibration: $\gamma$ = F(r), r = √SNR", xlabel="r", ylabel=r"$\gamma$ = P(visible)", xlim=(0, 8.5)
    )
    axes.legend(loc="lower right")


def _law(axes: Axes, drawn: list[Draws], colours: dict[int, str]) -> None:
    y = torch.linspace(-5, 9, 281, dtype=torch.float64)
    for one in drawn:
        axes.plot(y, cdf_noise_margin(y, one.K), color=colours[one.K])
        ordered = one.y.flatten().sort().values
        share = torch.linspace(0.01, 0.99, 15, dtype=torch.float64)
        marks = ordered[(share * len(ordered)).long()]
        axes.plot(marks, share, "o", color=colours[one.K], markeredgecolor="white", markeredgewidth=0.5)
    axes.plot([], [], color=MUTED, label="quadrature")
    axes.plot([], [], "o", color=MUTED, label="drawn")
    axes.set(title=r"b  law of Y = max$_{j\neq k}$ ε$_j$ - ε$_k$", xlabel="Y", ylabel="distribution function")
    axes.legend(loc="upper left")


def _uniform(axes: Axes, drawn: list[Draws], colours: dict[int, str]) -> None:
    for one in drawn:
        u = cdf_noise_margin(one.y.flatten(), one.K).sort().values
        n = len(u)
        i = torch.linspace(0, n - 1, 1500).long()
        axes.plot(u[i], ((i + 0.5) / n - u[i]) * n**0.5, color=colours[one.K], linewidth=1.0)
    for sign in (-1, 1):
        axes.axhline(sign * 1.358, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.text(0.5, 1.45, "95 % critical value of the largest", ha="center", fontsize=8)
    axes.set(title="c  u = F(Y) is uniform", xlabel="u", ylabel="√n (drawn share below u, less u)", ylim=(-1.8, 1.8))


def _independent(axes: Axes, one: Draws) -> None:
    counts = checks.pair_counts((cdf_noise_margin(one.y, one.K) * checks.CELLS).long().clamp(max=checks.CELLS - 1))
    even = counts.sum() / checks.CELLS**2
    image = axes.imshow(
        ((counts - even) / even.sqrt()).T.numpy(), origin="lower", extent=(0, 1, 0, 1), cmap="PuOr", vmin=-4, vmax=4
    )
    axes.figure.colorbar(image, ax=axes, shrink=0.85, label="standard deviations from even")
    axes.grid(False)
    title = f"d  u of neighbours, K = {one.K:,}"
    axes.set(title=title, xlabel="u of token i", ylabel="u of token i + 1")


def _agreement(axes: Axes, followed: list[Paths], colours: dict[int, str]) -> None:
    for one in followed:
        axes.plot(one.t, (one.latent == one.scalar).double().mean(1), "o", color=colours[one.K], markersize=3)
        t = torch.linspace(0, 1, 1000, dtype=torch.float64)
        law = 1 - (visibility_floor(one.K) - LogLinear().alpha(t)).clamp(min=0)
        axes.plot(t, law, color=colours[one.K], linewidth=1.0)
        if law[-1] < 0.999:
            axes.text(0.985, law[-1].item() - 0.03, f"K = {one.K}", ha="right", va="center", fontsize=8)
    axes.set(title="e  latent state = scalar state", xlabel="t", ylabel="share of tokens", ylim=(0.4, 1.04))
    axes.text(0.03, 0.5, "dots: measured\nlines: 1 - (1/K - $\\gamma$) below the floor", fontsize=8)


def _floor(axes: Axes, drawn: list[Draws], colours: dict[int, str]) -> None:
    gamma = torch.logspace(-6, 0, 200, dtype=torch.float64)
    axes.plot(gamma, gamma, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="scalar rule")
    for one in drawn:
        axes.plot(gamma, gamma.clamp(min=visibility_floor(one.K)), color=colours[one.K])
        levels = torch.logspace(-5.5, -0.2, 12, dtype=torch.float64)
        shown = (one.y.flatten() < calibrated_snr_root(levels, one.K)[:, None]).double().mean(1)
        axes.plot(
            levels[shown > 0], shown[shown > 0], "o", color=colours[one.K], markeredgecolor="white", markeredgewidth=0.5
        )
    axes.axvspan(1e-6, 1e-3, color=GRID, alpha=0.6, linewidth=0)
    axes.text(1.3e-6, 1.05, "below α₁ = 0.001", fontsize=8, va="top")
    axes.set(xscale="log", yscale="log", xlim=(1e-6, 1), ylim=(1e-6, 1.4))
    axes.set(title="f  the floor 1/K", xlabel=r"$\gamma$ asked for", ylabel="P(visible) of the projection")
    axes.legend(loc="lower right")
