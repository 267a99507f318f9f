"""The page of a report: `template.html`, and the context it is filled with."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

import mcd
from mcd.report import figures, sweeps, texts, training
from mcd.report.claims import NONE, claims, number, tiles
from mcd.report.comparison import comparisons, differences, sign
from mcd.report.plotting import PAGE
from mcd.report.rows import MeasuredRow
from mcd.report.runs import Run, printable
from mcd.report.texts import reveal, side_by_side
from mcd.training.run_folder import flat_config

MARKER = '<meta name="generator" content="mcd">'
"""`mcd report` recognises a page of its own by this text, and may overwrite it."""
TRAJECTORIES = 4
"""Trajectories that are drawn."""


def page(runs: Sequence[Run], title: str) -> str:
    """The whole page as HTML; the same runs and title give the same bytes. All text from outside is escaped."""
    rows = [row for run in runs for row in run.measured]
    series = figures.series_of(rows)
    compared = [(one, tiles(one), claims(one), one.savings()) for one in comparisons(rows)]
    trajectories = [one for run in runs for one in run.trajectories]
    distilled = training.distilled_runs(runs)
    widest = max(distilled, key=training.last_delta, default=None)
    gap = training.last_delta(widest) if widest else 0.0
    by_round = sweeps.rounds(rows)
    return _template().render(
        title=title,
        marker=MARKER,
        version=mcd.__version__,
        colours=PAGE,
        runs=runs,
        rows=rows,
        likelihoods=[row for run in runs for row in run.likelihoods],
        compared=compared,
        series=series,
        figures=_figures(series),
        by_round=by_round,
        round_figures=[one for name in ("gen_ppl", "entropy") if (one := sweeps.rounds_figure(by_round, name))],
        frontiers=[(run, _sweeps(run, number)) for number, run in enumerate(runs) if run.frontier],
        unlike=_unlike(rows),
        protocols=_protocols(rows),
        samples=side_by_side([one for run in runs for one in run.samples]),
        trajectories=[(one, *reveal(one)) for one in trajectories[:TRAJECTORIES]],
        widest=widest,
        gap=gap,
        theory_figure=training.theory_figure(widest, gap or training.EXAMPLE_DELTA),
        with_gap=[run for run in distilled if training.has_gap(run)],
        without_gap=[run.name for run in distilled if not training.has_gap(run)],
        trained=[run for run in runs if training.loss_terms(run)],
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("mcd.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.filters |= {"number": number, "fixed": _fixed}
    environment.globals |= {"sign": sign, "flat": flat_config, "training": training, "texts": texts}
    return environment.get_template("template.html")


def _shown(value: Any) -> Any:
    """What the template writes for a value, before it is escaped."""
    return NONE if value is None else printable(value) if type(value) is str else value


def _fixed(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _figures(series: Sequence[figures.Series]) -> dict[str, Any]:
    """The figures of quality that the rows allow, by name."""

    def having(*names: str) -> list[figures.Series]:
        return [one for one in series if any(all(getattr(row, name) for name in names) for row in one.rows)]

    scored, varied, both = having("gen_ppl"), having("entropy"), having("gen_ppl", "entropy")
    drawn = {}
    if any(row.steps for one in scored for row in one.rows):
        models = [one for one in scored if one.rows[0].model not in ("shuffled", "control-topk")]
        drawn["gen_ppl"] = figures.against_steps(models, "gen_ppl", "Gen PPL against sampling steps")
    if any(row.steps for one in varied for row in one.rows):
        drawn["entropy"] = figures.against_steps(varied, "entropy", "Entropy against sampling steps")
    if both:
        drawn["frontier"] = figures.frontier(both, "Gen PPL against entropy")
    return drawn


def _sweeps(run: Run, number: int) -> list[tuple[int, list[sweeps.Line], Any]]:
    """(steps, lines, figure) of a run's temperature sweeps."""
    found = sweeps.sweeps(run.frontier)
    return [(steps, lines, sweeps.sweep_figure(lines, steps, number)) for steps, lines in found.items()]


def _unlike(rows: Sequence[MeasuredRow]) -> dict[str, list[str]]:
    """The protocol fields in which rows differ that should be alike, with their values."""
    alike = list({str(row.protocol): row for row in rows}.values())
    names = dict.fromkeys(name for a in alike for b in alike for name in differences(a, b))
    return {
        name: list(dict.fromkeys(str(value) for row in rows if (value := row.protocol.get(name)) is not None))
        for name in names
    }


def _protocols(rows: Sequence[MeasuredRow]) -> dict[str, Any]:
    """What the protocols of all rows share; and of each its digest, its models, and the fields that differ."""
    stamps = {str(row.protocol.get("digest", NONE)): row.protocol for row in rows if row.protocol}
    values = {
        name: list(dict.fromkeys(str(stamp.get(name)) for stamp in stamps.values()))
        for name in dict.fromkeys(name for stamp in stamps.values() for name in stamp if name != "digest")
    }
    models = {
        digest: dict.fromkeys(row.model for row in rows if str(row.protocol.get("digest", NONE)) == digest)
        for digest in stamps
    }
    return {
        "shared": {name: one[0] for name, one in values.items() if len(one) == 1 and one[0] != "None"},
        "differing": [name for name, one in values.items() if len(one) > 1],
        "stamps": [(digest, ", ".join(models[digest]), stamp) for digest, stamp in stamps.items()],
    }
