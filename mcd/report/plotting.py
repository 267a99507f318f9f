"""How figures look, on the page of a report (SVG) and in results/ (PNG): one style, one palette, one kind of axes.

The same drawing gives the same file, whenever it is made.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
"""Pixels an inch of a PNG."""

INK, MUTED, GRID = "#222222", "#5d6878", "#e3e7ed"

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
    "ltd": "#b8860b",
    "idlm": "#8e5bb5",
    "mmd": "#7b3294",
    "cooled": "#56b4e9",
    "text": "#222222",
}
"""One colour per method, distinct with any colour vision (Okabe and Ito's palette, and grey)."""

SPARE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
"""Colours of names that are not in `COLOURS`, in turn."""

REGIMES = {"visible": "#c9d0d9", "revealed": "#009e73", "distilled": "#e69f00"}
"""Tokens that both see, that only the teacher sees, that neither sees (paper, Figure 2: grey, green, orange)."""

SEQUENCE = ("#9ecae1", "#4292c6", "#2171b5", "#08306b")
"""Four steps of one hue, light to dark: vocabulary sizes, rounds."""

PAGE = {
    "ink": (INK, "#e6e9ee"),
    "muted": (MUTED, "#9aa5b4"),
    "grid": (GRID, "#2b323c"),
    "card": ("#ffffff", "#1a2028"),
    "teacher": (COLOURS["teacher"], "#a3adb8"),
    "cooled": (COLOURS["cooled"], "#56b4e9"),
    "tau": ("#8e5bb5", "#c39be3"),
    "round1": ("#fbd3a6", "#6e4727"),
    "round2": ("#f8b878", "#96592a"),
    "round3": ("#f29b4b", "#c06c28"),
    "round4": ("#e67d22", "#e58032"),
    "round5": (COLOURS["mcd"], "#ff9b57"),
    "text": ("#2f7d4f", "#6cc58f"),
    "shuffled": ("#98a1ad", "#7c8794"),
    "other1": ("#b8417f", "#ea85b8"),
    "other2": ("#7a7f2a", "#bcc158"),
    "other3": ("#4757c4", "#8e9cf5"),
    "other4": ("#8a5a3c", "#c99872"),
    "visible": (REGIMES["visible"], "#46505d"),
    "revealed": (REGIMES["revealed"], "#2fae86"),
    "distilled": (REGIMES["distilled"], "#d9922b"),
}
"""Colours of the page's figures, for light and dark screens: the page's CSS has a variable of each name."""

VARIABLE = {name: f"#0a0b{i:02x}" for i, name in enumerate(PAGE)}
"""Styles for drawing in an `svg`: colours that are replaced by the CSS variables."""

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.linewidth": 0.7,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
}


def _coloured(ink: str, muted: str, grid: str, background: str) -> Any:
    ticks = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), muted)
    return ticks | {"text.color": ink, "axes.facecolor": background, "figure.facecolor": background, "grid.color": grid}


_FILE = _STYLE | _coloured(INK, MUTED, GRID, "white") | {"axes.labelcolor": INK, "axes.grid": True}
_FILE |= {"svg.hashsalt": "mcd", "svg.fonttype": "path"}
_INLINE = _STYLE | _coloured(VARIABLE["ink"], VARIABLE["muted"], VARIABLE["grid"], "none")
_INLINE |= {"axes.labelcolor": VARIABLE["muted"], "axes.unicode_minus": False, "text.parse_math": False}
_INLINE |= {"svg.fonttype": "none"}


def colour_of(label: str, i: int = 0) -> str:
    """The colour of a method's name; other names get the i-th of the spare colours."""
    return COLOURS.get(label, SPARE[i % len(SPARE)])


@contextmanager
def figure(
    path: Path, rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.0, 4.0), **ratios: list[float]
) -> "Iterator[list[Axes]]":
    """The panels (row by row) of a figure, which is written when the block ends: to `path`, an .svg or a .png, and a
    .png also as an .svg beside it.

    size: width and height in inches; ratios: width_ratios, height_ratios of the panels. The style holds inside the
    block only.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_FILE):
        drawing = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(drawing)
        yield list(drawing.subplots(rows, columns, squeeze=False, gridspec_kw=ratios).flat)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            _save_png(drawing, path)
        drawing.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


def _save_png(drawing: "Figure", path: Path) -> None:
    from PIL import Image

    pixels = io.BytesIO()
    drawing.savefig(pixels, dpi=DPI, format="png")
    with Image.open(pixels) as image:  # a palette takes a third of the bytes
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def svg(draw: "Callable[[Axes], None]", alt: str, width: float = 4.9, height: float = 3.4) -> Markup:
    """One pair of axes, drawn by `draw` in the colours of `VARIABLE`, as an SVG element for the page; sizes in inches.

    alt: what the figure shows; it must differ between the figures of a page, since the ids of their parts are made from
    it. No text from outside may be drawn.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_INLINE | {"svg.hashsalt": alt}):
        drawing = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(drawing)
        draw(drawing.subplots())
        buffer = io.StringIO()
        nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.savefig(buffer, format="svg", metadata=nothing)
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"<g id=\"[^\"]*\">", "<g>", text)
    text = re.sub(r"font: ([\d.]+)px '[^;\"]*", r"font-size: \1px", text)  # the family is the page's
    for name, colour in VARIABLE.items():
        text = text.replace(colour, f"var(--{name})")
    box, drawn = re.findall(r'<svg[^>]*(viewBox="[^"]*")[^>]*>(.*)', text, flags=re.DOTALL)[0]
    head = Markup('<svg {} role="img" aria-label="{}">').format(Markup(box), alt)
    return head + Markup(re.sub(r"\n\s*", "\n", drawn).strip())


def steps_axis(axis: "Axes", steps: Iterable[int], label: str = "steps") -> None:
    """A logarithmic axis of numbers of steps, with those drawn as its ticks."""
    from matplotlib.ticker import NullFormatter, NullLocator

    axis.set_xscale("log")
    ticks = sorted(set(steps))
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(label)


def log_axis(axes: "Axes") -> None:
    """A logarithmic vertical axis whose ticks are numbers without exponents, more of them on a narrow range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    lo, hi = axes.get_ylim()
    coarse, middle, fine = (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), tuple(i / 2 for i in range(2, 20))
    axes.yaxis.set_major_locator(LogLocator(subs=coarse if hi / lo > 8 else middle if hi / lo > 2 else fine))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def share_axis(axes: "Axes", label: str = "share of tokens") -> None:
    """A vertical axis of shares, from 0 to 100 %."""
    from matplotlib.ticker import FixedLocator, PercentFormatter

    axes.set_ylim(0, 1)
    axes.set_ylabel(label)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
