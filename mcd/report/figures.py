"""The report's figures as inline SVG: the same bytes for the same numbers, coloured by the page's CSS variables.

No text from outside is drawn in a figure; names stand in the page's own legend.
"""

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from mcd.report.gather import Cell

COLOURS = (
    "ink muted grid card teacher cooled tau r1 r2 r3 r4 r5 text shuffled other1 other2 other3 other4 "
    "visible distilled revealed"
).split()
"""CSS variables a figure may use."""

_STAND_IN = {name: f"#0a0b{i:02x}" for i, name in enumerate(COLOURS)}  # replaced by var(--name) in the SVG
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _STAND_IN["muted"],
    "axes.labelcolor": _STAND_IN["muted"],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": _STAND_IN["ink"],
    "text.parse_math": False,
    "xtick.color": _STAND_IN["muted"],
    "ytick.color": _STAND_IN["muted"],
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "grid.color": _STAND_IN["grid"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "axes.unicode_minus": False,
}


_SIZES = {"*": 9.0, "X": 6.5, "v": 6.0, "^": 6.0, "P": 6.0}  # of markers that look small beside a circle


@dataclass(frozen=True)
class Series:
    """The cells of one line: `label` for the legend (untrusted), `colour` one of COLOURS."""

    label: str
    colour: str
    cells: list[Cell]
    marker: str = "o"
    dashed: bool = False
    strong: bool = False

    @property
    def is_reference(self) -> bool:
        """Without steps: drawn as a horizontal line."""
        return all(cell.steps is None for cell in self.cells)


def curve(series: Sequence[Series], value: str, label: str, log: bool, alt: str) -> str:
    """`value` ("gen_ppl" or "entropy") of each series against steps, with its interval; the paper's Figure 3."""

    single = [one for one in series if not one.is_reference and len(one.cells) == 1]

    def draw(axes: Axes) -> None:
        steps: set[int] = set()
        for one in series:
            colour = _STAND_IN[one.colour]
            points = [(c.steps, *_interval(c, value)) for c in one.cells if getattr(c, value) is not None]
            if not points:
                continue
            if one.is_reference:
                axes.axhline(points[0][1], color=colour, linewidth=1.2, dashes=(5, 3) if one.strong else (1, 2))
                continue
            points = sorted(p for p in points if p[0] is not None)
            x, y, lo, hi = (list(column) for column in zip(*points, strict=True))
            steps |= set(x)
            if one in single:
                x = [x[0] * 2 ** (0.17 * (single.index(one) - (len(single) - 1) / 2))]
            plain = len(set(x)) == len(x)
            axes.plot(
                x,
                y,
                marker=one.marker,
                markersize=_SIZES.get(one.marker, 4.5),
                color=colour,
                linestyle=("--" if one.dashed else "-") if plain else "none",
                linewidth=2.2 if one.strong else 1.5,
                markeredgecolor=_STAND_IN["card"],
                markeredgewidth=0.6,
                zorder=4 if one.strong else 3,
            )
            if plain and len(x) > 1:
                axes.fill_between(x, lo, hi, color=colour, alpha=0.16, linewidth=0)
            else:
                axes.vlines(x, lo, hi, color=colour, linewidth=1.1, zorder=2)
        _steps_axis(axes, sorted(steps))
        axes.set_ylabel(label)
        if log:
            _log_axis(axes)
        else:
            axes.set_ylim(*_widened(*axes.get_ylim()))
            axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.grid(axis="y")

    return svg(draw, alt)


def frontier(series: Sequence[Series], alt: str) -> str:
    """Gen PPL against entropy, each cell a point; numbers beside points are steps."""

    def draw(axes: Axes) -> None:
        for one in series:
            cells = [c for c in one.cells if c.gen_ppl is not None and c.entropy is not None]
            cells.sort(key=lambda c: (c.steps or 0, c.temperature or 0))
            if not cells:
                continue
            colour = _STAND_IN[one.colour]
            points = [(*_interval(c, "entropy"), *_interval(c, "gen_ppl")) for c in cells]
            for x, x_lo, x_hi, y, y_lo, y_hi in points:
                axes.hlines(y, x_lo, x_hi, color=colour, linewidth=0.8, alpha=0.4)
                axes.vlines(x, y_lo, y_hi, color=colour, linewidth=0.8, alpha=0.4)
            axes.plot(
                [x for x, *_ in points],
                [y for *_, y, _, _ in points],
                marker=one.marker,
                markersize=_SIZES.get(one.marker, 4.5),
                color=colour,
                linewidth=1.0,
                linestyle="--" if one.dashed else "-",
                markeredgecolor=_STAND_IN["card"],
                markeredgewidth=0.6,
                zorder=4 if one.strong else 3,
            )
            for c in cells:
                if c.steps is not None and (one.strong or one.marker == "o"):
                    offset = (5, 4) if one.strong else (-5, -9)
                    axes.annotate(
                        str(c.steps),
                        (c.entropy or 0, c.gen_ppl or 0),
                        xytext=offset,
                        textcoords="offset points",
                        fontsize=7,
                        color=colour,
                        ha="left" if one.strong else "right",
                        zorder=5,
                    )
        _log_axis(axes)
        axes.set_xlabel("entropy, nats (more varied →)")
        axes.set_ylabel("Gen PPL (more fluent ↓)")
        axes.set_xlim(*_widened(*axes.get_xlim()))
        axes.grid()

    return svg(draw, alt)


def regimes(t: Sequence[float], visible: Sequence[float], revealed: Sequence[float], delta: float, alt: str) -> str:
    """Shares of a text's tokens in the three regimes of the paper's Figure 2, against the student's time t."""

    def draw(axes: Axes) -> None:
        distilled = [1.0 - a - b for a, b in zip(visible, revealed, strict=True)]
        colours = [_STAND_IN[name] for name in ("distilled", "revealed", "visible")]
        axes.stackplot(t, distilled, revealed, visible, colors=colours, edgecolor=_STAND_IN["card"], linewidth=0.8)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        if delta > 0.02:
            axes.axvspan(0, delta, color=_STAND_IN["grid"], alpha=0.45, linewidth=0)
        axes.set_xlabel("t of the student (0 clean, 1 noise)")
        _percent_axis(axes)

    return svg(draw, alt, height=2.5)


def measured_regimes(rounds: Sequence[tuple[str, tuple[float, ...], tuple[float, ...] | None]], alt: str) -> str:
    """Bars of (name, shares counted, shares expected or None): distilled, revealed, visible; ticks where expected."""

    def draw(axes: Axes) -> None:
        for i, (_, shares, expected) in enumerate(rounds):
            bottom = 0.0
            for name, share in zip(("distilled", "revealed", "visible"), shares, strict=True):
                edge = _STAND_IN["card"]
                axes.bar(i, share, bottom=bottom, color=_STAND_IN[name], width=0.62, edgecolor=edge, linewidth=0.8)
                bottom += share
            if expected is not None:
                for level in (expected[0], expected[0] + expected[1]):
                    axes.hlines(level, i - 0.42, i + 0.42, color=_STAND_IN["ink"], linewidth=1.3, zorder=5)
        axes.set_xticks(range(len(rounds)), [name for name, _, _ in rounds])
        axes.set_xlim(-0.6, max(len(rounds) - 0.4, 2.6))
        axes.set_ylim(0, 1)
        axes.set_xlabel("round")
        _percent_axis(axes)

    return svg(draw, alt, height=2.5)


def losses(lines: Sequence[tuple[str, list[float], list[float]]], ends: Sequence[float], alt: str) -> str:
    """Loss terms against optimiser steps: (colour, steps, values); vertical lines where a round ends."""

    def draw(axes: Axes) -> None:
        positive = all(y > 0 for _, _, ys in lines for y in ys)
        for colour, xs, ys in lines:
            axes.plot(xs, ys, color=_STAND_IN[colour], linewidth=1.4, marker="o" if len(xs) == 1 else "")
        for end in ends:
            axes.axvline(end, color=_STAND_IN["muted"], linewidth=0.7, dashes=(2, 2))
        if positive:
            _log_axis(axes)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("nats a position")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")

    return svg(draw, alt, height=2.5)


def svg(draw: Callable[[Axes], None], alt: str, width: float = 4.9, height: float = 3.4) -> str:
    """One pair of axes, drawn by `draw`, as an SVG element to put into HTML; inches. `alt` says what it shows, and must
    differ between the figures of a page: the ids of their parts are made from it.
    """
    style: Any = {**_STYLE, "svg.hashsalt": alt}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        buffer = io.StringIO()
        empty: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=empty)
    return _inline(buffer.getvalue(), alt)


def _inline(text: str, alt: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<g id=\"[^\"]*\">", "<g>", text)
    text = re.sub(r"font: ([\d.]+)px '[^;\"]*", r"font-size: \1px", text)
    head = re.match(r"<svg[^>]*>", text)
    assert head is not None
    box = re.search(r'viewBox="[^"]*"', head[0])
    assert box is not None
    text = f'<svg {box[0]} role="img" aria-label="{html.escape(alt)}">' + text[head.end() :]
    for name, colour in _STAND_IN.items():
        text = text.replace(colour, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", text).strip()


def _interval(cell: Cell, value: str) -> tuple[float, float, float]:
    middle, lo, hi = (getattr(cell, value + end) for end in ("", "_lo", "_hi"))
    return middle, middle if lo is None else lo, middle if hi is None else hi


def _widened(lo: float, hi: float, least: float = 0.2) -> tuple[float, float]:
    """Limits at least so far apart: chance should not look like an effect."""
    more = max(0.0, least - (hi - lo)) / 2
    return lo - more, hi + more


def _steps_axis(axes: Axes, steps: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(steps)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("sampling steps")


def _log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    lo, hi = axes.get_ylim()
    coarse, middle, fine = (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), tuple(i / 2 for i in range(2, 20))
    subs = coarse if hi / lo > 8 else middle if hi / lo > 2 else fine
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _percent_axis(axes: Axes) -> None:
    axes.set_ylabel("share of tokens")
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
