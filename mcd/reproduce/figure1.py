"""`mcd reproduce figure1`: from the Gaussian latent to the mask (paper, Figure 1), drawn from real paths."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from mcd.process.duality import calibrated_snr_root, latent_of_noise, project, u_of_noise, vp_of_snr_root
from mcd.process.schedule import LogLinear
from mcd.report.plotting import COLOURS, INK, MUTED, REGIMES, SEQUENCE, figure
from mcd.reproduce.text import SENTENCE, V, sentence_tokens

K = V + 1
MASK_ID = V
KS = (2, 32, 1024, 50_258)
MASKED = "#3b4252"
SHOWN_RIVALS = 40
"""Rivals drawn in panel a in addition to the strongest: the strongest of the others."""


def run(out: Path, draws: int = 4096, times: int = 201, seed: int = 4) -> dict[str, Any]:
    """figure1.png in `out`: one token's latent, a sentence's projection, visibility, calibration.

    draws: tokens with fresh noise at each of 21 times of panel c; times: points of the paths. Returns protocol and rows
    (one a point plotted; of panel a every tenth).
    """
    generator = torch.Generator().manual_seed(seed)
    x0, words = sentence_tokens()
    t = torch.linspace(0.0, 1.0, times, dtype=torch.float64)
    eps = torch.randn(len(x0), K, dtype=torch.float64, generator=generator)
    w = torch.stack([latent_of_noise(x0, eps, *levels(time)) for time in t])  # (T, L, K)
    visible = torch.stack([project(w_t, x0, MASK_ID) for w_t in w]) == x0
    u = u_of_noise(eps, x0)
    t_hidden = LogLinear().t_of_alpha(u)
    chosen = int((t_hidden - 0.6).abs().argmin())  # a token that is hidden halfway
    own = w[:, chosen, x0[chosen]]
    rivals = w[:, chosen].scatter(-1, x0[chosen].expand(times, 1), -torch.inf).topk(SHOWN_RIVALS + 1, -1).values
    coarse = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    share = torch.stack([_visibility(time, draws, generator) for time in coarse])
    roots = {size: calibrated_snr_root(LogLinear().alpha(t), size) for size in KS}
    with figure(out / "figure1.png", 2, 2, (10.5, 7.0)) as axes:
        _latent(axes[0], t, own, rivals, t_hidden[chosen].item(), words[chosen])
        _projection(axes[1], t, visible, t_hidden, words)
        _shares(axes[2], coarse, share)
        _calibration(axes[3], t, roots)
    rows: list[dict[str, Any]] = [
        {"panel": "a", "token": words[chosen], "t": time, "own": a, "largest_rival": b, "visible": bool(a > b)}
        for time, a, b in zip(*(x[::10].tolist() for x in (t, own, rivals[:, 0])), strict=True)
    ]
    last = torch.where(visible, t[:, None], -1.0).amax(0)
    keys = ("token", "u", "hidden_after_scalar", "last_visible_latent")
    rows += [
        {"panel": "b", **dict(zip(keys, one, strict=True))}
        for one in zip(words, u.tolist(), t_hidden.tolist(), last.tolist(), strict=True)
    ]
    rows += [
        {"panel": "c", "t": time, "visible": p, "alpha": alpha}
        for time, p, alpha in zip(*(x.tolist() for x in (coarse, share, LogLinear().alpha(coarse))), strict=True)
    ]
    finite = {size: root.clone().nan_to_num(posinf=-1.0)[::10].tolist() for size, root in roots.items()}
    rows += [
        {"panel": "d", "K": size, "t": time, "snr_root": root if root >= 0 else None}
        for size in KS
        for time, root in zip(t[::10].tolist(), finite[size], strict=True)
    ]
    protocol = {
        "sentence": SENTENCE,
        "K": K,
        "schedule": "alpha_t = 1 - (1 - 1e-3) t",
        "draws": draws,
        "times": times,
        "seed": seed,
        "entropy": "no text is sampled here",
    }
    return {"protocol": protocol, "rows": rows}


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha_tilde_t, sigma_tilde_t) of the calibrated latent at time t."""
    return vp_of_snr_root(calibrated_snr_root(LogLinear().alpha(t), K))


def _visibility(t: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """The share of n tokens that the projection shows at t, each with noise of its own."""
    x0 = torch.randint(0, V, (n,), generator=generator)
    eps = torch.randn(n, K, dtype=torch.float64, generator=generator)
    return (project(latent_of_noise(x0, eps, *levels(t)), x0, MASK_ID) == x0).double().mean()


def _latent(axes: Axes, t: Tensor, own: Tensor, rivals: Tensor, end: float, word: str) -> None:
    axes.plot(t, rivals[:, 1:], color=MUTED, linewidth=0.4, alpha=0.45)
    axes.plot(t, rivals[:, 0], color=INK, label=f"largest of the {K - 1:,} rivals (40 more in grey)")
    axes.plot(t, own, color=COLOURS["mcd"], linewidth=2.2, label=f"coordinate of the true token, “{word}”")
    axes.fill_between([0, end], 0, 1.9, color=REGIMES["visible"], alpha=0.35, linewidth=0)
    axes.vlines(end, 0.0, 1.9, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set(ylim=(0.0, 2.6), xlim=(0, 1))
    axes.text(end - 0.015, 1.7, "visible", ha="right", fontsize=8.5)
    axes.text(end + 0.015, 1.7, "mask", ha="left", fontsize=8.5)
    axes.legend(loc="upper left")
    axes.set(title="a  one latent path: own coordinate against its rivals", xlabel="t", ylabel="coordinate of w")


def _projection(axes: Axes, t: Tensor, visible: Tensor, t_hidden: Tensor, words: list[str]) -> None:
    for i in range(len(words)):
        end = float(t[visible[:, i]].max()) if visible[:, i].any() else 0.0
        axes.barh(i, end, color=REGIMES["visible"], height=0.8)
        axes.barh(i, 1 - end, left=end, color=MASKED, height=0.8)
    axes.plot(t_hidden, range(len(words)), "o", color=COLOURS["mcd"], markersize=4.5, markeredgecolor="white")
    axes.set_yticks(range(len(words)), words)
    axes.set_ylim(len(words) + 1.9, -0.7)
    axes.grid(False)
    axes.plot([], [], "s", color=REGIMES["visible"], label="visible")
    axes.plot([], [], "s", color=MASKED, label="mask")
    axes.plot([], [], "o", color=COLOURS["mcd"], label=r"$\gamma$ = u, u = F(Y)")
    axes.legend(loc="lower center", ncols=3)
    axes.set(title="b  projection of every token along its path", xlabel="t", xlim=(0, 1))


def _shares(axes: Axes, t: Tensor, share: Tensor) -> None:
    axes.plot(t, LogLinear().alpha(t), color=INK, label=r"$\gamma$, the masking schedule")
    axes.plot(t, share, "o", color=COLOURS["mcd"], label="shown by the projection, fresh noise at each t")
    axes.legend(loc="lower left")
    axes.set(title="c  P(visible) over time", xlabel="t", ylabel="share of tokens", xlim=(0, 1.01), ylim=(0, 1.03))


def _calibration(axes: Axes, t: Tensor, roots: dict[int, Tensor]) -> None:
    for (size, root), colour in zip(roots.items(), SEQUENCE, strict=True):
        finite = torch.isfinite(root)
        axes.plot(t[finite], root[finite], color=colour, label=f"K = {size:,}")
    axes.legend(loc="upper right", ncols=2)
    axes.set(
        title=r"d  calibrated latent: √SNR that gives $\gamma$", xlabel="t", ylabel="√SNR", xlim=(0, 1), ylim=(0, 8.6)
    )
