"""How the figures of results/ look: one style, one colour a method, files that do not change from run to run."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
"""Pixels an inch of the saved PNG."""

COLOURS = {
    "teacher": "#7f7f7f",
    "mcd": "#d55e00",
    "sdtt": "#0072b2",
    "duo": "#8fbc8f",
    "duo-dcd": "#009e73",
    "mdlm": "#7f7f7f",
    "exact": "#222222",
    "ar": "#e69f00",
    "cd4lm": "#cc79a7",
    "cooled": "#56b4e9",
    "text": "#222222",
}
"""One colour a method, told apart with any colour vision (Okabe and Ito's palette, and grey)."""


def colour_of(label: str, i: int = 0) -> str:
    """The colour of a method's name; names of the user's own get the i-th of those left."""
    if label in COLOURS:
        return COLOURS[label]
    spare = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
    return spare[i % len(spare)]


REGIMES = {"visible": "#c9d0d9", "revealed": "#009e73", "distilled": "#e69f00"}
"""Tokens that both see, that the teacher alone sees, that neither sees (paper, Figure 2: grey, green, orange)."""

SEQUENCE = ("#9ecae1", "#4292c6", "#2171b5", "#08306b")
"""Four steps of one hue, light to dark: vocabulary sizes, rounds."""

INK, MUTED, GRID = "#222222", "#5d6878", "#e3e7ed"

_STYLE = {
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "text.color": INK,
    "svg.hashsalt": "mcd",
    "svg.fonttype": "path",
}


@contextmanager
def figure(
    path: Path, rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.0, 4.0), **ratios: list[float]
) -> "Iterator[list[Axes]]":
    """The panels (row by row) of a figure in the house style; it is written to `path` when the block ends.

    size: width and height in inches; ratios: width_ratios, height_ratios of the panels. The style holds inside the
    block only. The same drawing gives the same file: a .png (150 dpi, 256 colours) or .svg without time and versions.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        drawing = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(drawing)
        yield list(drawing.subplots(rows, columns, squeeze=False, gridspec_kw=ratios).flat)
        save(drawing, path)


def steps_axis(axis: "Axes", steps: Iterable[int], label: str = "steps") -> None:
    """A logarithmic axis of numbers of steps, with those drawn as its ticks."""
    from matplotlib.ticker import NullFormatter, NullLocator

    axis.set_xscale("log")
    ticks = sorted(set(steps))
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(label)


def save(drawing: "Figure", path: Path) -> None:
    """Write a figure as the suffix of `path` says, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        drawing.savefig(path, metadata={"Date": None, "Creator": None})
        return
    from PIL import Image

    pixels = BytesIO()
    drawing.savefig(pixels, dpi=DPI, format="png")
    with Image.open(pixels) as image:  # a palette takes a third of the bytes
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
