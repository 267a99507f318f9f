"""The page's figures: Gen PPL and entropy against steps, one against the other, the three regimes, loss terms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mcd.report.comparison import SPREAD
from mcd.report.plotting import VARIABLE, log_axis, share_axis, steps_axis, svg
from mcd.report.rows import MeasuredRow

LOOKS = {
    "teacher": ("teacher", "o", False, False),
    "student": ("round5", "s", False, False),
    SPREAD: ("other3", "D", False, False),
    "tau-only": ("tau", "^", True, False),
    "teacher-cooled": ("cooled", "v", True, False),
    "text": ("text", "*", True, True),
    "shuffled": ("shuffled", "X", True, False),
    "control-periodic": ("other1", "P", True, False),
    "control-topk": ("other2", "d", True, False),
}
"""Colour, marker, dashed and strong of each model, in the order of legend and table."""
_SIZES = {"*": 9.0, "X": 6.5, "v": 6.0, "^": 6.0, "P": 6.0}
"""Sizes of markers that look small next to a circle."""


@dataclass(frozen=True)
class Series:
    """The rows of one line: `label` for the legend (untrusted), `colour` a name of `plotting.PAGE`."""

    label: str
    colour: str
    rows: list[MeasuredRow]
    marker: str = "o"
    dashed: bool = False
    strong: bool = False

    @property
    def is_reference(self) -> bool:
        """Without steps: drawn as a horizontal line."""
        return all(row.steps is None for row in self.rows)


def series_of(rows: Sequence[MeasuredRow]) -> list[Series]:
    """One line for each model and round of each run: the teacher in grey, the student's rounds in shades of orange."""
    groups: dict[tuple[str, str, int], list[MeasuredRow]] = {}
    for row in rows:
        groups.setdefault((row.model, row.run, row.round or 0), []).append(row)
    last = {run: max(r for m, n, r in groups if (m, n) == ("student", run)) for m, run, _ in groups if m == "student"}
    order = [*LOOKS]
    found, others = [], 0
    for model, run, round in sorted(groups, key=lambda g: (order.index(g[0]) if g[0] in LOOKS else 99, g[0], g[2])):
        label = model + (f", round {round}" if round and model == "student" else "")
        if len({n for m, n, _ in groups if m == model}) > 1:
            label += f" ({run})"
        colour, marker, dashed, strong = LOOKS.get(model, (f"other{others % 4 + 1}", "P", False, False))
        others += model not in LOOKS
        if model == "student":
            colour, strong = f"round{max(1, 5 - (last[run] - round))}", round == last[run]
        found.append(Series(label, colour, groups[model, run, round], marker, dashed, strong))
    return found


def against_steps(series: Sequence[Series], value: Literal["gen_ppl", "entropy"], alt: str) -> Markup:
    """`value` of each series against steps, with its interval; Gen PPL is the paper's Figure 3.

    Models that were measured at one number of steps are drawn side by side around it.
    """
    single = [one for one in series if not one.is_reference and len(one.rows) == 1]

    def draw(axes: Axes) -> None:
        steps: set[int] = set()
        for one in series:
            colour = VARIABLE[one.colour]
            points = [(row.steps, estimate) for row in one.rows if (estimate := getattr(row, value)) is not None]
            if not points:
                continue
            if one.is_reference:
                level = points[0][1].value
                axes.axhline(level, color=colour, linewidth=1.2, dashes=(5, 3) if one.strong else (1, 2))
                continue
            points = sorted((n, e.value, *e.interval) for n, e in points if n is not None)
            x, y, lo, hi = (list(column) for column in zip(*points, strict=True))
            steps |= set(x)
            if one in single:
                x = [x[0] * 2 ** (0.17 * (single.index(one) - (len(single) - 1) / 2))]
            is_line = len(set(x)) == len(x)
            _plot(axes, one, x, y, 2.2 if one.strong else 1.5, is_line)
            if is_line and len(x) > 1:
                axes.fill_between(x, lo, hi, color=colour, alpha=0.16, linewidth=0)
            else:
                axes.vlines(x, lo, hi, color=colour, linewidth=1.1, zorder=2)
        steps_axis(axes, steps, "sampling steps")
        if value == "gen_ppl":
            axes.set_ylabel("Gen PPL (log)")
            log_axis(axes)
        else:
            axes.set_ylabel("entropy, nats")
            axes.set_ylim(*_widened(*axes.get_ylim()))
            axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.grid(axis="y")

    return svg(draw, alt)


def frontier(series: Sequence[Series], alt: str) -> Markup:
    """Gen PPL against entropy, each row a point; small numbers are steps."""

    def draw(axes: Axes) -> None:
        for one in series:
            rows = sorted(one.rows, key=lambda row: row.order)
            points = [(row.steps, row.entropy, row.gen_ppl) for row in rows if row.entropy and row.gen_ppl]
            if not points:
                continue
            colour = VARIABLE[one.colour]
            for _, x, y in points:
                axes.hlines(y.value, *x.interval, color=colour, linewidth=0.8, alpha=0.4)
                axes.vlines(x.value, *y.interval, color=colour, linewidth=0.8, alpha=0.4)
            _plot(axes, one, [x.value for _, x, _ in points], [y.value for _, _, y in points], 1.0)
            for steps, x, y in points:
                if steps is not None and (one.strong or one.marker == "o"):
                    axes.annotate(
                        str(steps),
                        (x.value, y.value),
                        xytext=(5, 4) if one.strong else (-5, -9),
                        textcoords="offset points",
                        fontsize=7,
                        color=colour,
                        ha="left" if one.strong else "right",
                        zorder=5,
                    )
        log_axis(axes)
        axes.set_xlabel("entropy, nats (more varied →)")
        axes.set_ylabel("Gen PPL (more fluent ↓)")
        axes.set_xlim(*_widened(*axes.get_xlim()))
        axes.grid()

    return svg(draw, alt)


def regimes(t: Sequence[float], visible: Sequence[float], revealed: Sequence[float], delta: float, alt: str) -> Markup:
    """Shares of a text's tokens in the three regimes of the paper's Figure 2, against the student's time t."""

    def draw(axes: Axes) -> None:
        distilled = [1.0 - a - b for a, b in zip(visible, revealed, strict=True)]
        colours = [VARIABLE[name] for name in ("distilled", "revealed", "visible")]
        axes.stackplot(t, distilled, revealed, visible, colors=colours, edgecolor=VARIABLE["card"], linewidth=0.8)
        axes.set_xlim(0, 1)
        if delta > 0.02:
            axes.axvspan(0, delta, color=VARIABLE["grid"], alpha=0.45, linewidth=0)
        axes.set_xlabel("t of the student (0 clean, 1 noise)")
        share_axis(axes)

    return svg(draw, alt, height=2.5)


def counted_regimes(rounds: Sequence[tuple[int, Sequence[float], Sequence[float] | None]], alt: str) -> Markup:
    """A bar for each (round, shares counted, shares expected or None) of distilled, revealed and visible tokens."""

    def draw(axes: Axes) -> None:
        for i, (_, shares, expected) in enumerate(rounds):
            bottom = 0.0
            for name, share in zip(("distilled", "revealed", "visible"), shares, strict=True):
                look = {"color": VARIABLE[name], "edgecolor": VARIABLE["card"], "linewidth": 0.8}
                axes.bar(i, share, bottom=bottom, width=0.62, **look)
                bottom += share
            if expected is not None:
                for level in (expected[0], expected[0] + expected[1]):
                    axes.hlines(level, i - 0.42, i + 0.42, color=VARIABLE["ink"], linewidth=1.3, zorder=5)
        axes.set_xticks(range(len(rounds)), [str(round) for round, _, _ in rounds])
        axes.set_xlim(-0.6, max(len(rounds) - 0.4, 2.6))
        axes.set_xlabel("round")
        share_axis(axes)

    return svg(draw, alt, height=2.5)


def losses(lines: Sequence[tuple[str, list[float], list[float]]], ends: Sequence[float], unit: str, alt: str) -> Markup:
    """Loss terms against optimiser steps: (colour, steps, values); vertical lines where a round ends."""

    def draw(axes: Axes) -> None:
        for colour, xs, ys in lines:
            axes.plot(xs, ys, color=VARIABLE[colour], linewidth=1.4, marker="o" if len(xs) == 1 else "")
        for end in ends:
            axes.axvline(end, color=VARIABLE["muted"], linewidth=0.7, dashes=(2, 2))
        if all(y > 0 for _, _, ys in lines for y in ys):
            log_axis(axes)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.grid(axis="y")

    return svg(draw, alt, height=2.5)


def _plot(
    axes: Axes, one: Series, x: Sequence[float], y: Sequence[float], linewidth: float, is_line: bool = True
) -> None:
    axes.plot(
        x,
        y,
        marker=one.marker,
        markersize=_SIZES.get(one.marker, 4.5),
        color=VARIABLE[one.colour],
        linestyle=("--" if one.dashed else "-") if is_line else "none",
        linewidth=linewidth,
        markeredgecolor=VARIABLE["card"],
        markeredgewidth=0.6,
        zorder=4 if one.strong else 3,
    )


def _widened(lo: float, hi: float, least: float = 0.2) -> tuple[float, float]:
    """Limits at least that far apart: chance should not look like an effect."""
    more = max(0.0, least - (hi - lo)) / 2
    return lo - more, hi + more
