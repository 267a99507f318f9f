"""How the runs were trained: how much of the text the student learns from, and their losses (paper, Figure 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from markupsafe import Markup

from mcd.objective import OBJECTIVES
from mcd.process.schedule import LogLinear, Schedule, schedule_of_config
from mcd.report import figures
from mcd.report.runs import Run

POINTS = 300
"""Points drawn of a training log; more are averaged."""
REGIMES = ("tokens_distilled", "tokens_revealed", "tokens_visible")
TERMS = {
    "distillation": ("distilled", "distillation (divergence from the teacher)"),
    "reconstruction": ("revealed", "reconstruction (cross-entropy on what only the teacher sees)"),
    "cross_entropy": ("distilled", "cross-entropy of masked tokens"),
    "loss": ("teacher", "loss"),
    "valid_nelbo": ("ink", "validation NELBO"),
}
"""Terms of stats.jsonl that are drawn: colour and words."""
EXAMPLE_DELTA = 0.25


@dataclass(frozen=True)
class Theory:
    """The shares that the schedule predicts for a gap `delta`, of a round of `run`; without a gap, of an example."""

    figure: Markup
    delta: float
    run: Run | None
    round: int


@dataclass(frozen=True)
class Counts:
    """The shares of the logged tokens of a run, by round."""

    figure: Markup
    run: Run
    deltas: list[float]


@dataclass(frozen=True)
class Losses:
    """The loss terms of a run: (colour, words) of each line."""

    figure: Markup
    run: Run
    lines: list[tuple[str, str]]
    has_rounds: bool


def distilled_runs(runs: Sequence[Run]) -> list[Run]:
    """Runs whose log counts the tokens of the three regimes."""
    return [run for run in runs if any(row.keys() >= set(REGIMES) for row in run.stats)]


def has_gap(run: Run) -> bool:
    """Whether some tokens were revealed to the teacher alone."""
    return any(row.get("tokens_revealed") for row in run.stats)


def theory(runs: Sequence[Run]) -> Theory:
    """The three regimes at the widest gap of the runs, or at an example's."""
    run = max(distilled_runs(runs), key=lambda run: _delta(run, _rounds(run)[-1]), default=None)
    last = _rounds(run)[-1] if run else 1
    found = _delta(run, last) if run else 0.0
    delta = found if found > 0 else EXAMPLE_DELTA
    alt = "Shares of tokens distilled, revealed and visible against t, from theory"
    drawing = figures.regimes(*_shares(_schedule(run), delta), delta, alt)
    return Theory(drawing, found, run, last)


def counts(run: Run) -> Counts:
    """What a distilling run counted, and what its schedule predicts."""
    bars = []
    for round in _rounds(run):
        rows = [row for row in run.stats if row.get("round") == round]
        tokens = [sum(row[name] for row in rows if _is_number(row.get(name))) for name in REGIMES]
        bars.append((round, [count / max(1, sum(tokens)) for count in tokens], _expected(run, round)))
    drawing = figures.counted_regimes(bars, f"Measured shares of the regimes by round, {run.name}")
    return Counts(drawing, run, [_delta(run, round) for round in _rounds(run)])


def losses(run: Run) -> Losses | None:
    """The loss terms of a run against steps; None where nothing was logged."""
    names = [name for name in TERMS if any(_is_number(row.get(name)) for row in run.stats)]
    if "distillation" in names:
        terms = ("distillation", "reconstruction")
        names = [name for name in names if name in terms and any(row.get(name) for row in run.stats)]
    if not names:
        return None
    lines = []
    for name in names:
        points = [(float(row["step"]), float(row[name])) for row in run.stats if _is_number(row.get(name))]
        lines.append((TERMS[name][0], *_thinned(points)))
    ends = [a["step"] for a, b in pairwise(run.stats) if a.get("round") != b.get("round")]
    drawing = figures.losses(lines, ends, f"Loss terms against optimiser steps, {run.name}")
    return Losses(drawing, run, [TERMS[name] for name in names], bool(ends))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rounds(run: Run) -> list[int]:
    return sorted({row["round"] for row in run.stats if isinstance(row.get("round"), int)}) or [1]


def _delta(run: Run, round: int) -> float:
    """The gap t - s of a round (counted from 1), by the run's own objective; 0 where it has none."""
    kind, options = _objective(run)
    try:
        return float(kind(**options).schedule_of_round(round - 1).get("delta", 0.0)) if kind else 0.0
    except (TypeError, ValueError):
        return 0.0


def _objective(run: Run) -> tuple[type | None, dict[str, Any]]:
    """The class of the run's objective (None when it is not known) and its options."""
    recorded = run.config.get("objective")
    options = dict(recorded) if isinstance(recorded, dict) else {}
    return OBJECTIVES.get(str(options.pop("name", ""))), options


def _schedule(run: Run | None) -> Schedule:
    try:
        return schedule_of_config(run.schedule) if run and run.schedule else LogLinear()
    except (TypeError, ValueError):
        return LogLinear()


def _shares(schedule: Schedule, delta: float) -> tuple[list[float], list[float], list[float]]:
    """t in [delta, 1], and the shares of tokens visible at t, and revealed between t and t - delta."""
    t = torch.linspace(delta, 1.0, 400, dtype=torch.float64)
    alpha_t, alpha_s = schedule.alpha(t), schedule.alpha((t - delta).clamp(min=0.0))
    return t.tolist(), alpha_t.tolist(), (alpha_s - alpha_t).tolist()


def _expected(run: Run, round: int) -> tuple[float, float, float] | None:
    """Mean shares (distilled, revealed, visible) over t ~ U(delta, 1]; None when the objective is not known."""
    if _objective(run)[0] is None:
        return None
    _, visible, revealed = _shares(_schedule(run), _delta(run, round))
    a, b = sum(visible) / len(visible), sum(revealed) / len(revealed)
    return 1.0 - a - b, b, a


def _thinned(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    size = math.ceil(len(points) / POINTS)
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [chunk[-1][0] for chunk in chunks], [sum(y for _, y in chunk) / len(chunk) for chunk in chunks]
