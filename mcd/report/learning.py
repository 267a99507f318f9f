"""The report on how the models were trained: the regimes of the paper's Figure 2, loss terms, commands, environment."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from mcd.objective import OBJECTIVES
from mcd.process.schedule import LogLinear, Schedule, schedule_of_config
from mcd.report import figures
from mcd.report.findings import NONE
from mcd.report.gather import Run
from mcd.report.specimens import esc
from mcd.train.run_folder import flat_config

POINTS = 300  # drawn of a training log; more are averaged
REGIMES = ("tokens_distilled", "tokens_revealed", "tokens_visible")
TERMS = {  # of stats.jsonl: colour and words
    "distillation": ("distilled", "distillation (divergence from the teacher)"),
    "reconstruction": ("revealed", "reconstruction (cross-entropy on what only the teacher sees)"),
    "cross_entropy": ("distilled", "cross-entropy of masked tokens"),
    "loss": ("teacher", "loss"),
    "valid_nelbo": ("ink", "validation NELBO"),
}
EXAMPLE_DELTA = 0.25


def regimes_html(runs: Sequence[Run]) -> str:
    """Theory of the three regimes at the widest gap found (or an example), and the counts of each distilling run."""
    distilled = [run for run in runs if any(row.keys() >= set(REGIMES) for row in run.stats)]
    main = max(distilled, key=lambda run: _gap(run, _rounds(run)[-1]), default=None)
    gap, where = EXAMPLE_DELTA, f"Drawn for δ = {EXAMPLE_DELTA:g} as an example: no run has a logged distillation."
    if main is not None and _gap(main, _rounds(main)[-1]) > 0:
        gap = _gap(main, _rounds(main)[-1])
        where = f"Drawn for δ = {gap:.3g}, the widest of {esc(main.name)} (round {_rounds(main)[-1]})."
    elif main is not None:
        where = f"Drawn for δ = {EXAMPLE_DELTA:g} as an example: the distillation found here has no time gap."
    schedule = _schedule(main)
    t, visible, revealed = _shares(schedule, gap)
    alt = "Shares of tokens distilled, revealed and visible against t, from theory"
    parts = [
        "<figure>",
        figures.regimes(t, visible, revealed, gap, alt),
        f"<figcaption><b>From the schedule.</b> {where} Times below δ, shaded, are not drawn in training.</figcaption>",
        "</figure>",
    ]
    level = [run for run in distilled if not any(row.get("tokens_revealed") for row in run.stats)]
    for run in distilled:
        if run in level:
            continue
        bars, alt = [], f"Measured shares of the regimes by round, {run.name}"
        for round in _rounds(run):
            rows = [row for row in run.stats if row.get("round") == round]
            counts = [sum(row[name] for row in rows if _is_number(row.get(name))) for name in REGIMES]
            shares = tuple(count / max(1, sum(counts)) for count in counts)
            bars.append((str(round), shares, _expected(run, round)))
        gaps = ", ".join(f"{_gap(run, round):.3g}" for round in _rounds(run))
        text = (
            f"<b>Counted in {esc(run.name)}.</b> Tokens of the logged steps; black ticks are what the schedule "
            f"predicts on average over t. δ by round: {gaps}."
        )
        parts.append(f"<figure>{figures.measured_regimes(bars, alt)}<figcaption>{text}</figcaption></figure>")
    note = ""
    if level:
        names = ", ".join(esc(run.name) for run in level)
        note = f'<p class="note">Without a time gap, so that nothing is revealed to the teacher alone: {names}.</p>'
    return f'<div class="figures">{"".join(parts)}</div>{note}'


def losses_html(runs: Sequence[Run]) -> str:
    """One figure a run of its loss terms against steps; "" where nothing was logged."""
    parts = []
    for run in runs:
        names = [name for name in TERMS if sum(_is_number(row.get(name)) for row in run.stats) > 0]
        if "distillation" in names:
            names = [name for name in names if name in ("distillation", "reconstruction")]
            names = [name for name in names if any(row.get(name) for row in run.stats)]
        if not names:
            continue
        lines = []
        for name in names:
            rows = [row for row in run.stats if _is_number(row.get(name))]
            lines.append((TERMS[name][0], *_thinned([(float(r["step"]), float(r[name])) for r in rows])))
        ends = [a["step"] for a, b in pairwise(run.stats) if a.get("round") != b.get("round")]
        key = " ".join(f'<span class="swatch" style="--c:var(--{TERMS[n][0]})">{TERMS[n][1]}</span>' for n in names)
        rounds = " Dashed lines part the rounds: each begins with the teacher replaced by the student." if ends else ""
        drawn = figures.losses(lines, ends, f"Loss terms against optimiser steps, {run.name}")
        parts.append(
            f"<figure>{drawn}<figcaption><b>{esc(run.name)}.</b> "
            f"<span class='keys'>{key}</span>{rounds}</figcaption></figure>"
        )
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def runs_html(runs: Sequence[Run]) -> str:
    """Each run's command and environment."""
    parts = []
    for run in runs:
        if not run.config and not run.environment and not run.command:
            continue
        facts = "".join(
            f"<dt>{esc(k)}</dt><dd>{esc(NONE if v is None else v)}</dd>" for k, v in run.environment.items()
        )
        body = f"<pre>{esc(run.command)}</pre>" if run.command else "<p>No command was recorded.</p>"
        body += f'<dl class="facts">{facts}</dl>' if facts else "<p>No environment was recorded.</p>"
        if run.config:
            rows = "".join(f"<tr><th>{esc(k)}</th><td>{esc(v)}</td></tr>" for k, v in flat_config(run.config).items())
            body += f"<details><summary>Full configuration</summary><table class='plain'>{rows}</table></details>"
        parts.append(f"<h3>{esc(run.name)}</h3>{body}")
    return "".join(parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rounds(run: Run) -> list[int]:
    return sorted({row["round"] for row in run.stats if isinstance(row.get("round"), int)}) or [1]


def _gap(run: Run, round: int) -> float:
    """The delta of a round (counted from 1), by the run's own objective; 0 where it has none."""
    options = dict(run.config.get("objective") or {})
    kind = OBJECTIVES.get(options.pop("name", ""))
    try:
        return float(kind(**options).schedule_of_round(round - 1).get("delta", 0.0)) if kind else 0.0
    except (TypeError, ValueError):
        return 0.0


def _schedule(run: Run | None) -> Schedule:
    try:
        return schedule_of_config(run.schedule) if run and run.schedule else LogLinear()
    except (TypeError, ValueError):
        return LogLinear()


def _shares(schedule: Schedule, delta: float, points: int = 400) -> tuple[list[float], list[float], list[float]]:
    """t in [delta, 1], and the shares of tokens visible at t, and revealed between t and t - delta."""
    t = torch.linspace(delta, 1.0, points, dtype=torch.float64)
    alpha_t, alpha_s = schedule.alpha(t), schedule.alpha((t - delta).clamp(min=0.0))
    return t.tolist(), alpha_t.tolist(), (alpha_s - alpha_t).tolist()


def _expected(run: Run, round: int) -> tuple[float, ...] | None:
    """Mean shares (distilled, revealed, visible) over t ~ U(delta, 1]; None when the objective is not known."""
    if (run.config.get("objective") or {}).get("name") not in OBJECTIVES:
        return None
    _, visible, revealed = _shares(_schedule(run), _gap(run, round))
    a, b = sum(visible) / len(visible), sum(revealed) / len(revealed)
    return 1.0 - a - b, b, a


def _thinned(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    size = math.ceil(len(points) / POINTS)
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [c[-1][0] for c in chunks], [sum(y for _, y in c) / len(c) for c in chunks]
