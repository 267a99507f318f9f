"""`mcd reproduce precision`: what the Gumbel race loses in float32, on a large vocabulary and on the bundled teacher.

The public MDLM code lets all V tokens and the mask run one race at every step (`mcd.process.categorical`). In float32
its uniforms end at 1 - 2^-24, so a token much less likely than the mask cannot win; with finer steps this concerns more
tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from mcd.checkpoints.folder import from_pretrained
from mcd.eval.bootstrap import mean_interval
from mcd.eval.laboratory.measure import measure_model
from mcd.eval.scorer import Scorer, load_scorer
from mcd.model.denoiser import Denoiser
from mcd.process.categorical import sample_gumbel_race
from mcd.process.timestep import descending_grid
from mcd.report.plotting import COLOURS, INK, figure
from mcd.sampler.gumbel_race import GumbelRace

V = 50_257
TAIL_RANK = 5000
"""Tokens from this rank on are the tail: p < 2e-5 of the Zipf law."""
Precision = Literal["fp32", "fp64"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp64": torch.float64}
GRID = 2.0**24
LEAST = -math.log1p(-1.0 / GRID)
"""The least denominator of the race in float32."""
RACE = {8: 1000, 32: 400, 128: 100}
"""Steps, and positions drawn by the race itself: a position costs about N / 2 races of 50,258 runners."""
GROUPED = {8: 20_000, 32: 20_000, 128: 20_000, 512: 12_000, 1024: 8000}
"""Steps, and positions drawn with tokens of equal probability as one runner: the same law at a 700th of the cost."""
TEACHER_STEPS = (32, 128, 512)


@dataclass(frozen=True)
class Zipf:
    """p proportional to 1 / rank over V tokens, constant on 71 groups of neighbours; sizes and p per token, (G,)."""

    size: Tensor
    p: Tensor

    @property
    def mass(self) -> Tensor:
        """Mass of each group, (G,)."""
        return self.size * self.p

    @property
    def group(self) -> Tensor:
        """Group of each token, (V,)."""
        return torch.repeat_interleave(torch.arange(len(self.size)), self.size.long())

    @property
    def tail(self) -> Tensor:
        """Whether a group is beyond `TAIL_RANK`, (G,)."""
        return self.size.cumsum(0) > TAIL_RANK


def zipf(vocabulary: int = V) -> Zipf:
    """The Zipf law over `vocabulary` tokens; groups widen with rank, so that each spans an equal factor of it."""
    edges = torch.logspace(0, math.log10(vocabulary + 1), 72, dtype=torch.float64).round().unique()
    size = edges.diff()
    share = torch.stack([part.sum() for part in _harmonic(vocabulary).split(size.long().tolist())])
    return Zipf(size, share / share.sum() / size)


def draw_by_race(law: Zipf, steps: int, positions: int, precision: Precision, generator: torch.Generator) -> Tensor:
    """(positions,) groups of the tokens that `steps` reverse steps of alpha_t = 1 - t draw, the real race each time."""
    group, log_p = law.group, law.p.log()[law.group]
    ids = torch.full((positions,), len(group))
    for t, s in pairwise(descending_grid(steps).tolist()):
        masked = (ids == len(group)).nonzero()[:, 0]
        ids[masked] = sample_gumbel_race(log_p.expand(len(masked), -1), 1 - t, 1 - s, DTYPES[precision], generator)
    return group[ids]


def draw_by_groups(law: Zipf, steps: int, positions: int, precision: Precision, generator: torch.Generator) -> Tensor:
    """`draw_by_race` with one runner a group: of m equal tokens only the largest uniform can win.

    On the grid j / 2^24 of float32 that maximum is drawn by inverting ((j + 1) / 2^24)^m. No approximation: the ties
    that a grid makes fall between tokens of one group, which count as one here.
    """
    size = torch.cat((law.size, torch.ones(1, dtype=torch.float64)))
    ids = torch.full((positions,), -1)
    for t, s in pairwise(descending_grid(steps)):
        masked = (ids < 0).nonzero()[:, 0]
        q = torch.cat((law.p * (t - s), s[None])).to(DTYPES[precision])
        log_u = (1.0 - torch.rand(len(masked), len(size), dtype=torch.float64, generator=generator)).log() / size
        if precision == "fp32":
            u = ((log_u.exp() * GRID).ceil() - 1.0) / GRID
            denominator = 1e-10 - (u.float() + 1e-10).log()
        else:
            denominator = -log_u
        winner = (q / denominator).argmax(-1)
        ids[masked] = torch.where(winner == len(law.p), -1, winner)
    return ids


def unigram_row(law: Zipf, groups: Tensor, seed: int) -> dict[str, Any]:
    """Entropy (nats) and tail mass of drawn tokens, with 95 % bootstrap intervals, and those of the law.

    Entropy is the plug-in one over groups: a group's tokens count as equally likely.
    """
    n, size = len(groups), law.size.numpy()
    drawn = groups.numpy()

    def entropy(indices: np.ndarray) -> float:
        share = np.bincount(drawn[indices], minlength=len(size)) / n
        seen = share > 0
        return float(-(share[seen] * np.log(share[seen] / size[seen])).sum())

    rng = np.random.default_rng(seed)
    resampled = [entropy(rng.integers(0, n, n)) for _ in range(200)]
    value = entropy(np.arange(n))
    # the plug-in entropy of a resample lies as far below that of the draws as theirs below the truth: turn it round
    hi, lo = (2 * value - np.quantile(resampled, [0.025, 0.975])).tolist()
    tail = mean_interval(law.tail[groups].double().numpy(), seed=seed)
    exact = {"entropy_exact": _entropy(law), "tail_exact": law.mass[law.tail].sum().item()}
    measured = {"entropy": value, "entropy_lo": lo, "entropy_hi": hi}
    return {**measured, "tail": tail.value, "tail_lo": tail.lo, "tail_hi": tail.hi, **exact}


def synthetic_rows(race: dict[int, int], grouped: dict[int, int], vocabulary: int, seed: int) -> list[dict[str, Any]]:
    """Rows of part (i): the race itself where it can be paid for, and the same law by groups up to 1,024 steps."""
    law, rows = zipf(vocabulary), []
    for how, draw, cells in (("race", draw_by_race, race), ("groups", draw_by_groups, grouped)):
        for steps, positions in cells.items():
            for precision in DTYPES:
                groups = draw(law, steps, positions, precision, torch.Generator().manual_seed(seed))
                cell = {"part": "synthetic", "drawn_by": how, "steps": steps, "precision": precision}
                rows.append({**cell, "positions": positions, **unigram_row(law, groups, seed)})
    return rows


def teacher_rows(
    denoiser: Denoiser, scorer: Scorer | None, steps: Sequence[int], num: int, length: int, seed: int
) -> list[dict[str, Any]]:
    """Rows of part (ii): samples of the race in both precisions, Gen PPL and entropy, and the mass below the cut.

    `cut`: the probability below which a token cannot beat a median draw of the mask at t = 1/2, in float32.
    `mass_below_cut`: how much of the model's predictions that is, over the samples of this row masked by half.
    """
    rows = []
    for n in steps:
        for precision in DTYPES:
            sampler = GumbelRace(steps=n, precision=precision)
            cell = measure_model(denoiser, sampler, scorer, num, length, seed, model="demo")
            ids = torch.tensor([one["ids"] for one in cell.samples])
            cut = cut_off(n)
            below = mass_below(denoiser, ids, cut, torch.Generator().manual_seed(seed))
            rows.append({"part": "teacher", "precision": precision, "cut": cut, "mass_below_cut": below, **cell.row})
    return rows


def cut_off(steps: int) -> float:
    """p at which p (alpha_s - alpha_t) / E_min equals (1 - alpha_s) / ln 2 for the step that starts at t = 1/2."""
    return (0.5 - 1 / steps) / math.log(2) * LEAST * steps


@torch.inference_mode()
def mass_below(denoiser: Denoiser, ids: Tensor, cut: float, generator: torch.Generator) -> float:
    """Mean mass of tokens less likely than `cut` in the predictions for `ids` (N, L) with half the tokens masked."""
    hidden = torch.rand(ids.shape, generator=generator) > 0.5
    z = torch.where(hidden, denoiser.mask_id, ids)
    t = torch.full((len(z),), 0.5)
    p = denoiser.log_x_theta(denoiser.hidden(z, t, rows=hidden.flatten().nonzero()[:, 0])).double().exp()
    return p.masked_fill(p >= cut, 0.0).sum(-1).mean().item()


def run(
    out: Path,
    race: dict[int, int] = RACE,
    grouped: dict[int, int] = GROUPED,
    vocabulary: int = V,
    teacher: str = "demo",
    teacher_steps: Sequence[int] = TEACHER_STEPS,
    num: int = 64,
    length: int = 64,
    scorer: str | None = "smollm2",
    seed: int = 0,
) -> dict[str, Any]:
    """Both parts, and precision.png in `out`. Returns protocol and rows; entropy is in every row."""
    judge = load_scorer(scorer, precision="bf16") if scorer else None
    rows = synthetic_rows(race, grouped, vocabulary, seed)
    rows += teacher_rows(from_pretrained(teacher), judge, teacher_steps, num, length, seed)
    with figure(out / "precision.png", 1, 3, (10.5, 3.3)) as axes:
        synthetic = [row for row in rows if row["part"] == "synthetic"]
        _panel(axes[0], synthetic, "entropy", "a  Zipf law, V = 50,257: entropy", "nats")
        _panel(axes[1], synthetic, "tail", f"b  mass beyond rank {TAIL_RANK:,}", "share of tokens drawn")
        _panel(
            axes[2], [row for row in rows if row["part"] == "teacher"], "entropy", "c  bundled teacher: entropy", "nats"
        )
    protocol = {
        "synthetic": f"independent positions, Zipf law over {vocabulary:,} tokens, alpha_t = 1 - t",
        "tail": f"tokens from rank {TAIL_RANK} on",
        "teacher": teacher,
        "samples": num,
        "length": length,
        "scorer": scorer,
        "scorer_precision": "bf16" if judge else None,
        "interval": "95 % bootstrap over positions or samples",
        "seed": seed,
    }
    return {"protocol": protocol, "rows": rows}


def _harmonic(vocabulary: int) -> Tensor:
    return 1.0 / torch.arange(1, vocabulary + 1, dtype=torch.float64)


def _entropy(law: Zipf) -> float:
    return -(law.mass * law.p.log()).sum().item()


def _panel(axes: Axes, rows: list[dict[str, Any]], key: str, title: str, label: str) -> None:
    for precision, colour, shift in (("fp32", COLOURS["mcd"], 1.04), ("fp64", COLOURS["sdtt"], 0.96)):
        for how, marker in (("groups", "o-"), ("race", "s")):
            cells = [row for row in rows if row["precision"] == precision and row.get("drawn_by", "groups") == how]
            if not cells:
                continue
            x = [row["steps"] * shift * (1.12 if how == "race" else 1.0) for row in cells]
            y = [row[key] for row in cells]
            spread = [[row[key] - row[f"{key}_lo"] for row in cells], [row[f"{key}_hi"] - row[key] for row in cells]]
            name = precision if how == "groups" else f"{precision}, the race itself"
            face = "white" if how == "race" else colour
            axes.errorbar(x, y, yerr=spread, fmt=marker, color=colour, elinewidth=0.9, label=name, mfc=face)
    if f"{key}_exact" in rows[0]:
        axes.axhline(rows[0][f"{key}_exact"], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="exact")
    ticks = sorted({row["steps"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(title=title, xlabel="steps N", ylabel=label)
    axes.legend(loc="best")
