"""The figure of a temperature sweep: quality against entropy."""

import math
from pathlib import Path

import numpy as np

from mcd.eval.laboratory.curves import Curve
from mcd.report.plotting import colour_of, figure


def draw_curves(curves: list[Curve], path: Path) -> None:
    """Quality against entropy: a column for each number of steps, a row for each measure, a line for each model."""
    steps, measures = sorted({curve.steps for curve in curves}), list(curves[0].points)
    titles = {
        "gen_ppl": "Gen PPL",
        "nll": "exact NLL (nats a token)",
        "tv_bigram": "bigram total variation",
        "tv_trigram": "trigram total variation",
        "tv_class_bigram": "total variation of class bigrams",
    }
    with figure(path, len(measures), len(steps), (3.4 * len(steps), 3.0 * len(measures))) as axes:
        for row, measure in enumerate(measures):
            for column, n in enumerate(steps):
                axis = axes[row * len(steps) + column]
                for i, curve in enumerate(c for c in curves if c.steps == n):
                    points = sorted(curve.points[measure], key=lambda point: (point.temperature, point.entropy.mean()))
                    y = [float(point.quality(np.ones((1, len(point.entropy))))[0]) for point in points]
                    y = [math.exp(v) for v in y] if measure == "gen_ppl" else y
                    x = [point.entropy.mean() for point in points]
                    axis.plot(x, y, "o-", color=colour_of(curve.label, i), label=curve.label)
                if measure == "gen_ppl":
                    axis.set_yscale("log")
                if row == 0:
                    axis.set_title(f"{n} steps")
                if row == len(measures) - 1:
                    axis.set_xlabel("entropy (nats)")
            axes[row * len(steps)].set_ylabel(titles[measure])
        axes[0].legend()
