"""`mcd reproduce figure2`: one u per token couples what teacher and student see (paper, Figure 2); a real sentence."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes

from mcd.process.masked import CoupledPair, coupled_pair
from mcd.process.schedule import LogLinear
from mcd.process.timestep import sample_u
from mcd.report.plotting import INK, MUTED, REGIMES, figure
from mcd.reproduce.text import SENTENCE, V, sentence_tokens

MEANING = {
    "visible": "both see it:\nno loss",
    "revealed": "teacher alone sees it:\ncross-entropy",
    "distilled": "neither sees it:\ndivergence",
}
MASK = "▒▒▒"


def run(out: Path, t: float = 0.7, delta: float = 0.25, draws: int = 20_000, seed: int = 3) -> dict[str, Any]:
    """figure2.png in `out`: locked trajectories, the two views of the sentence, the share of each regime over t.

    delta is larger than in training (1/512 to 1/32) so that a sentence shows all three regimes; draws: tokens behind
    each point of the shares. Returns protocol and rows.
    """
    generator = torch.Generator().manual_seed(seed)
    x0, words = sentence_tokens()
    u = sample_u(1, len(x0), generator)
    pair = coupled_pair(x0[None], u, torch.tensor([t]), torch.tensor([t - delta]), LogLinear(), V)
    regimes = regimes_of(pair)[0]
    rows: list[dict[str, Any]] = [
        {"panel": "a", "token": word, "u": value, "regime": regime, "sees_t": z_t != V, "sees_s": z_s != V}
        for word, value, regime, z_t, z_s in zip(
            words, u[0].tolist(), regimes, pair.z_t[0].tolist(), pair.z_s[0].tolist(), strict=True
        )
    ]
    shares = regime_shares(delta, draws, generator)
    ratios = [1.5, 1.45, 1.45]
    with figure(out / "figure2.png", 1, 3, (12.0, 0.24 * len(words) + 1.0), width_ratios=ratios) as axes:
        _trajectories(axes[0], words, u[0].tolist(), regimes, t, delta)
        _views(axes[1], words, rows)
        _shares(axes[2], shares, t, delta)
    protocol = {
        "sentence": SENTENCE,
        "t": t,
        "delta": delta,
        "schedule": "alpha_t = 1 - (1 - 1e-3) t",
        "draws": draws,
        "seed": seed,
        "entropy": "no text is sampled here",
    }
    return {"protocol": protocol, "rows": rows + shares}


def regimes_of(pair: CoupledPair) -> list[list[str]]:
    """The name of each token's regime: visible, revealed or distilled; one list per row."""
    names = ("visible", "revealed", "distilled")  # by the number of views it is masked in
    return [[names[n] for n in row] for row in (pair.masked_t.long() + pair.masked_s.long()).tolist()]


def regime_shares(delta: float, draws: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """Measured and exact share of each regime at 25 times t from delta to 1."""
    rows, schedule = [], LogLinear()
    x0 = torch.zeros(1, draws, dtype=torch.int64)
    for t in torch.linspace(delta, 1.0, 25)[:, None]:
        s = (t - delta).clamp(min=0.0)
        pair = coupled_pair(x0, sample_u(1, draws, generator), t, s, schedule, V)
        alpha_t, alpha_s = schedule.alpha(t).item(), schedule.alpha(s).item()
        measured = {
            "visible": (~pair.masked_t).double().mean().item(),
            "revealed": pair.revealed.double().mean().item(),
            "distilled": pair.masked_s.double().mean().item(),
        }
        exact = {"visible": alpha_t, "revealed": alpha_s - alpha_t, "distilled": 1.0 - alpha_s}
        rows.append({"panel": "c", "t": t.item(), **measured, **{f"{name}_exact": p for name, p in exact.items()}})
    return rows


def _trajectories(axes: Axes, words: list[str], u: list[float], regimes: list[str], t: float, delta: float) -> None:
    for i, (value, regime) in enumerate(zip(u, regimes, strict=True)):
        end = LogLinear().t_of_alpha(torch.tensor(value)).item()
        axes.barh(i, end, color=REGIMES[regime], height=0.78)
        axes.barh(i, 1 - end, left=end, color="white", edgecolor=MUTED, linewidth=0.5, hatch="////", height=0.78)
    for time, name in ((t, "t (student)"), (t - delta, "s (teacher)")):
        axes.axvline(time, color=INK, linewidth=1.4)
        axes.text(time, -0.75, name, ha="center", va="bottom", fontsize=8)
    axes.set_yticks(range(len(words)), words)
    axes.set(xlim=(0, 1), ylim=(len(words) - 0.5, -0.6), xlabel="time (hatched: masked)")
    axes.set_title("a  locked trajectories, one u per token", pad=18)
    axes.grid(False)


def _views(axes: Axes, words: list[str], rows: list[dict[str, Any]]) -> None:
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(len(words) - 0.5, -0.6))
    columns = ((0.14, "teacher sees z(s)", "sees_s"), (0.52, "student sees z(t)", "sees_t"))
    for x, heading, key in columns:
        axes.text(x, -0.75, heading, ha="center", va="bottom", fontsize=8)
        for i, row in enumerate(rows):
            box = {"boxstyle": "round,pad=0.16", "facecolor": REGIMES[row["regime"]], "edgecolor": "none", "alpha": 0.5}
            axes.text(x, i, row["token"] if row[key] else MASK, ha="center", va="center", fontsize=8, bbox=box)
    axes.text(0.86, -0.75, "loss", ha="center", va="bottom", fontsize=8)
    for i, row in enumerate(rows):
        loss = {"visible": "none", "revealed": "CE", "distilled": "KL"}[row["regime"]]
        axes.text(0.86, i, loss, ha="center", va="center", fontsize=8)
    axes.set_title("b  the two views", pad=18)


def _shares(axes: Axes, shares: list[dict[str, Any]], t: float, delta: float) -> None:
    times = [row["t"] for row in shares]
    bottom = [0.0] * len(shares)
    for name in ("distilled", "revealed", "visible"):
        top = [b + row[f"{name}_exact"] for b, row in zip(bottom, shares, strict=True)]
        axes.fill_between(times, bottom, top, color=REGIMES[name], alpha=0.75, linewidth=0)
        dots = [b + row[name] for b, row in zip(bottom, shares, strict=True)]
        if name != "visible":
            axes.plot(times, dots, "o", color=INK, markersize=2.6)
        bottom = top
    axes.axvline(t, color=INK, linewidth=1.4)
    axes.set(xlim=(delta, 1), ylim=(0, 1), xlabel="t of the student (dots: measured)", ylabel="share of tokens")
    axes.set_title(f"c  the three regimes, δ = {delta:g}", pad=18)
    axes.text(delta + 0.03, 0.93, MEANING["visible"], ha="left", va="center", fontsize=8.5)
    axes.text(0.97, 0.07, MEANING["distilled"], ha="right", va="center", fontsize=8.5)
    along = {"rotation": 45, "rotation_mode": "anchor", "transform_rotates_text": True}
    middle = 0.5 * (delta + t)
    axes.text(middle, middle - delta / 2, MEANING["revealed"], ha="center", va="center", fontsize=8.5, **along)
