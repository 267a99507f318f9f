"""How the runs were trained: how much of the text the student learns from, and their losses (paper, Figure 2)."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from markupsafe import Markup

from mcd.objective import OBJECTIVES, Objective
from mcd.process.schedule import LogLinear, schedule_of_config
from mcd.report import figures
from mcd.report.runs import Run
from mcd.table import is_number

POINTS = 300
"""Points drawn of a training log; more are averaged."""
REGIMES = ("tokens_distilled", "tokens_revealed", "tokens_visible")
TERMS = {
    "distillation": ("distilled", "distillation (divergence from the teacher)"),
    "reconstruction": ("revealed", "reconstruction (cross-entropy on what only the teacher sees)"),
    "cross_entropy": ("distilled", "cross-entropy of masked tokens"),
    "alignment": ("revealed", "alignment (1 - cosine to the autoregressive network)"),
    "loss": ("teacher", "loss"),
    "valid_nelbo": ("ink", "validation NELBO"),
    "reward": ("distilled", "reward of drawn rows"),
}
"""Terms of stats.jsonl that are drawn: colour and words."""
EXAMPLE_DELTA = 0.25


def distilled_runs(runs: Sequence[Run]) -> list[Run]:
    """Runs whose log counts the tokens of the three regimes."""
    return [run for run in runs if any(row.keys() >= set(REGIMES) for row in run.stats)]


def has_gap(run: Run) -> bool:
    """Whether the teacher saw more than the student: by the schedule, since few tokens may happen to show none, or, of
    a method that is not known, by what was counted."""
    return any(delta(run, round) for round in rounds(run)) or any(row.get("tokens_revealed") for row in run.stats)


def rounds(run: Run) -> list[int]:
    """The logged rounds, counted from 1."""
    return sorted({row["round"] for row in run.stats if isinstance(row.get("round"), int)}) or [1]


def delta(run: Run, round: int) -> float:
    """The gap t - s of a round, by the run's own objective; 0 where it has none."""
    kind, options = _objective(run)
    try:
        return float(kind(**options).schedule_of_round(round - 1).get("delta", 0.0)) if kind else 0.0
    except (TypeError, ValueError):
        return 0.0


def last_delta(run: Run) -> float:
    """The gap of the last logged round."""
    return delta(run, rounds(run)[-1])


def theory_figure(run: Run | None, gap: float) -> Markup:
    """The shares of the three regimes that the run's schedule predicts."""
    alt = "Shares of tokens distilled, revealed and visible against t, from theory"
    return figures.regimes(*_shares(run, gap), gap, alt)


def counted_figure(run: Run) -> Markup:
    """The shares that a distilling run counted, by round, and what its schedule predicts."""
    bars = []
    for round in rounds(run):
        rows = [row for row in run.stats if row.get("round") == round]
        tokens = [sum(row[name] for row in rows if is_number(row.get(name))) for name in REGIMES]
        bars.append((round, [count / max(1, sum(tokens)) for count in tokens], _expected(run, round)))
    return figures.counted_regimes(bars, f"Measured shares of the regimes by round, {run.name}")


def loss_terms(run: Run) -> list[str]:
    """The names in `TERMS` that are drawn of a run; of a distillation, the two parts of its loss, or its reward alone:
    the loss of a policy gradient says nothing of progress.
    """
    names = [name for name in TERMS if any(is_number(row.get(name)) for row in run.stats)]
    if "reward" in names:
        return ["reward"]
    if "distillation" not in names:
        return names
    parts = ("distillation", "reconstruction")
    return [name for name in names if name in parts and any(row.get(name) for row in run.stats)]


def round_ends(run: Run) -> list[int]:
    """The last logged step of each round but the last."""
    return [a["step"] for a, b in pairwise(run.stats) if a.get("round") != b.get("round")]


def renews_teacher(run: Run) -> bool:
    """Whether each round of a run begins with the student in the place of the teacher; False where its method is not
    known."""
    kind, _ = _objective(run)
    return kind is not None and kind.snapshots


def losses_figure(run: Run) -> Markup:
    """The loss terms of a run against steps."""
    lines, unit = [], "reward" if loss_terms(run) == ["reward"] else "nats per position"
    for name in loss_terms(run):
        points = [(float(row["step"]), float(row[name])) for row in run.stats if is_number(row.get(name))]
        lines.append((TERMS[name][0], *_thinned(points)))
    return figures.losses(lines, round_ends(run), unit, f"Loss terms against optimiser steps, {run.name}")


def validation(run: Run) -> str:
    """The last validation of a run in words; "" where it had none."""
    rows = [row for row in run.stats if is_number(row.get("valid_nelbo"))]
    if not rows:
        return ""
    per_byte = rows[-1].get("valid_bpb")
    more = f", {per_byte:.3f} bits per byte" if is_number(per_byte) else ""
    return f"Validation at step {rows[-1]['step']}: {rows[-1]['valid_nelbo']:.3f} nats per token{more}."


def _objective(run: Run) -> tuple[type[Objective] | None, dict[str, Any]]:
    """The class of the run's objective (None when it is not known) and its options."""
    recorded = run.config.get("objective")
    options = dict(recorded) if isinstance(recorded, dict) else {}
    return OBJECTIVES.get(str(options.pop("name", ""))), options


def _shares(run: Run | None, gap: float) -> tuple[list[float], list[float], list[float]]:
    """t in [gap, 1], and the shares of tokens visible at t and revealed between t and t - gap, by its schedule."""
    try:
        schedule = schedule_of_config(run.schedule) if run and run.schedule else LogLinear()
    except (TypeError, ValueError):
        schedule = LogLinear()
    t = torch.linspace(gap, 1.0, 400, dtype=torch.float64)
    alpha_t, alpha_s = schedule.alpha(t), schedule.alpha((t - gap).clamp(min=0.0))
    return t.tolist(), alpha_t.tolist(), (alpha_s - alpha_t).tolist()


def _expected(run: Run, round: int) -> tuple[float, float, float] | None:
    """Mean shares (distilled, revealed, visible) over t ~ U(delta, 1]; None when the objective is not known."""
    if _objective(run)[0] is None:
        return None
    _, visible, revealed = _shares(run, delta(run, round))
    a, b = sum(visible) / len(visible), sum(revealed) / len(revealed)
    return 1.0 - a - b, b, a


def _thinned(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    size = math.ceil(len(points) / POINTS)
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [chunk[-1][0] for chunk in chunks], [sum(y for _, y in chunk) / len(chunk) for chunk in chunks]
