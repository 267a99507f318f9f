"""The pictures of docs/concepts.md: `python docs/make_pictures.py` (seconds; needs the extra `plot`)."""

from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor

from mcd.process.duality import calibrated_snr_root, noise_margin, u_of_noise
from mcd.process.masked import coupled_pair
from mcd.process.schedule import LogLinear
from mcd.report.plotting import COLOURS, INK, MUTED, REGIMES, figure

IMAGES = Path(__file__).parent / "images"
WORDS = "The dogmas of the quiet past are inadequate to the stormy present .".split()
HIDDEN = "#3b4252"
K, S, T = 50_258, 0.35, 0.6


def main() -> None:
    x0 = torch.arange(len(WORDS))
    eps = torch.randn(len(WORDS), K, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    u = u_of_noise(eps, x0)
    with figure(IMAGES / "masking.svg", size=(7.6, 3.6)) as (axes,):
        masking(axes, u)
    with figure(IMAGES / "duality.svg", 1, 2, (9.0, 3.3)) as panels:
        duality(*panels, eps, x0, u)
    with figure(IMAGES / "regimes.svg", size=(9.0, 1.9)) as (axes,):
        regimes(axes, x0, u)


def masking(axes: Axes, u: Tensor) -> None:
    """A bar for each token: visible until alpha_t falls below its u, a mask from then on."""
    hidden_from = LogLinear().t_of_alpha(u).clamp(0.0, 1.0)
    for i, end in enumerate(hidden_from.tolist()):
        axes.barh(i, end, color=REGIMES["visible"], height=0.82)
        axes.barh(i, 1.0 - end, left=end, color=HIDDEN, height=0.82)
        axes.text(0.008, i, WORDS[i], va="center", fontsize=8.5) if end > 0.13 else None
    axes.set_yticks(range(len(WORDS)), [f"u = {value:.2f}" for value in u.tolist()])
    axes.set(ylim=(len(WORDS) - 0.4, -0.6), xlim=(0, 1), xlabel="time t: 0 is the text, 1 is all masks")
    axes.grid(False)


def duality(left: Axes, right: Axes, eps: Tensor, x0: Tensor, u: Tensor) -> None:
    """Three tokens: where the signal falls below the noise margin Y, and where alpha falls below u = F(Y)."""
    t = torch.linspace(0.002, 1.0, 400, dtype=torch.float64)
    alpha = LogLinear().alpha(t)
    root, margin = calibrated_snr_root(alpha, K), noise_margin(eps, x0)
    chosen = [int((u - level).abs().argmin()) for level in (0.15, 0.5, 0.8)]
    left.plot(t, root, color=INK, linewidth=2.0)
    left.text(0.1, 6.1, "signal r(t)", fontsize=9)
    right.plot(t, alpha, color=INK, linewidth=2.0)
    right.text(0.1, 0.95, "α(t)", fontsize=9)
    for i, name in zip(chosen, ("mcd", "cooled", "cd4lm"), strict=True):
        at = LogLinear().t_of_alpha(u[i]).item()
        for axes, value in ((left, margin[i].item()), (right, u[i].item())):
            axes.axhline(value, color=COLOURS[name], linewidth=1.3)
            axes.plot([at], [value], "o", color=COLOURS[name], markersize=7)
            axes.axvline(at, color=MUTED, linewidth=0.7, linestyle=(0, (3, 3)))
        left.text(1.0, margin[i].item() + 0.12, f"Y of “{WORDS[i]}”", ha="right", fontsize=8.5, color=COLOURS[name])
        right.text(1.0, u[i].item() + 0.02, f"u of “{WORDS[i]}”", ha="right", fontsize=8.5, color=COLOURS[name])
    left.set(title="a  Gaussian: masked when the signal falls below Y", xlabel="time t", ylim=(0, 7), xlim=(0, 1))
    right.set(title="b  masking: masked when α falls below u = F(Y)", xlabel="time t", ylim=(0, 1.03), xlim=(0, 1))


def regimes(axes: Axes, x0: Tensor, u: Tensor) -> None:
    """What student and teacher see of one trajectory, each token in the colour of its regime."""
    t, s = torch.tensor([T]), torch.tensor([S])
    pair = coupled_pair(x0[None], u[None], t, s, LogLinear(), len(WORDS))
    edges = [0.0]
    for word in WORDS:
        edges.append(edges[-1] + 0.55 + 0.13 * len(word))
    for row, masked in enumerate((pair.masked_t[0], pair.masked_s[0])):
        for i, (start, end) in enumerate(pairwise(edges)):
            kind = "distilled" if pair.masked_s[0, i] else "revealed" if pair.revealed[0, i] else "visible"
            axes.barh(row, end - start - 0.07, left=start, height=0.62, color=REGIMES[kind])
            if masked[i]:
                axes.barh(row, end - start - 0.25, left=start + 0.09, height=0.36, color=HIDDEN)
            else:
                axes.text((start + end) / 2, row, WORDS[i], ha="center", va="center", fontsize=8.5)
    axes.set_yticks([0, 1], [f"student at t = {T}", f"teacher at s = {S}"])
    axes.set(ylim=(2.3, -0.5), xlim=(0, edges[-1]))
    axes.set_xticks([])
    names = {"visible": "both see it", "revealed": "only the teacher sees it", "distilled": "neither sees it"}
    for kind, name in names.items():
        axes.plot([], [], "s", color=REGIMES[kind], markersize=8, label=name)
    axes.legend(loc="lower center", ncols=3)
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    main()
