"""Figures over several runs: temperature sweeps of `mcd frontier`, and Gen PPL and entropy round by round."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mcd.report.plotting import VARIABLE, log_axis, svg
from mcd.report.rows import Estimate, MeasuredRow

COLOURS = ("teacher", "round5", "other3", "text", "other1", "other2", "cooled", "other4")
"""Of lines, in turn: names of `plotting.PAGE`."""


@dataclass(frozen=True)
class Line:
    """A line of a figure: its label for the legend (untrusted), a colour, and rows in their order."""

    label: str
    colour: str
    rows: list[MeasuredRow]


def sweeps(rows: Sequence[MeasuredRow]) -> dict[int, list[Line]]:
    """For each number of steps, a line for each model, of its rows with Gen PPL and entropy by temperature."""
    drawn = [row for row in rows if row.gen_ppl and row.entropy and row.steps]
    colours = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(dict.fromkeys(row.model for row in drawn))}
    found: dict[int, list[Line]] = {}
    for steps in sorted({row.steps for row in drawn if row.steps}):
        for model, colour in colours.items():
            own = [row for row in drawn if (row.steps, row.model) == (steps, model)]
            if own:
                line = Line(model, colour, sorted(own, key=lambda row: row.temperature or 1.0))
                found.setdefault(steps, []).append(line)
    return found


def sweep_figure(lines: Sequence[Line], steps: int, number: int) -> Markup:
    """Gen PPL against entropy; each point is a temperature. number: tells figures of the same steps apart."""

    def draw(axes: Axes) -> None:
        for line in lines:
            points = [(row.entropy, row.gen_ppl) for row in line.rows if row.entropy and row.gen_ppl]
            colour = VARIABLE[line.colour]
            for x, y in points:
                axes.vlines(x.value, *y.interval, color=colour, linewidth=0.8, alpha=0.4)
            axes.plot([x.value for x, _ in points], [y.value for _, y in points], "o-", color=colour, markersize=4)
        log_axis(axes)
        axes.set_xlabel("entropy, nats (more varied \u2192)")
        axes.set_ylabel("Gen PPL (more fluent \u2193)")
        axes.grid()

    return svg(draw, f"Gen PPL against entropy at {steps} steps, sweep {number}")


def rounds(rows: Sequence[MeasuredRow]) -> list[Line]:
    """For each run whose student was measured after several rounds, its rows by round, at the number of steps that has
    the most rounds, the smallest of these."""
    found = []
    students = [row for row in rows if row.model == "student" and row.round and row.steps]
    for run in dict.fromkeys(row.run for row in students):
        own = [row for row in students if row.run == run]
        counts = {steps: len({row.round for row in own if row.steps == steps}) for steps in {row.steps for row in own}}
        best = min(counts, key=lambda steps: (-counts[steps], steps or 0))
        if counts[best] > 1:
            chosen = {row.round: row for row in own if row.steps == best}
            colour = COLOURS[1:][len(found) % (len(COLOURS) - 1)]
            label = f"{run}, {best} step{'s' * (best != 1)}"
            found.append(Line(label, colour, [chosen[n] for n in sorted(chosen, key=lambda n: n or 0)]))
    return found


def rounds_figure(lines: Sequence[Line], value: Literal["gen_ppl", "entropy"]) -> Markup | None:
    """`value` against the round, with its interval; None where no row has it."""
    drawn: list[tuple[str, list[tuple[int, Estimate]]]] = []
    for line in lines:
        points = [(row.round or 0, one) for row in line.rows if (one := getattr(row, value)) is not None]
        drawn += [(VARIABLE[line.colour], points)] if points else []
    if not drawn:
        return None

    def draw(axes: Axes) -> None:
        for colour, points in drawn:
            x, y = [n for n, _ in points], [one.value for _, one in points]
            lo, hi = zip(*(one.interval for _, one in points), strict=True)
            axes.plot(x, y, "o-", color=colour)
            axes.fill_between(x, lo, hi, color=colour, alpha=0.16, linewidth=0)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if value == "gen_ppl":
            log_axis(axes)
        axes.set_ylabel({"gen_ppl": "Gen PPL (log)", "entropy": "entropy, nats"}[value])
        axes.grid(axis="y")

    return svg(draw, f"{value} round by round")
