"""Pages of the experiments that compare models at equal entropy."""

from collections.abc import Callable
from typing import Any

from mcd.reproduce.page_parts import Column, Row, by_steps, fixed, interval, sections, table


def _drawn(row: Row) -> str:
    if row.get("greedy"):
        return "greedy"
    said = f"{row.get('temperature', 1.0)}" + (f", top-p {row['top_p']}" if row.get("top_p", 1.0) < 1.0 else "")
    return said + (f", guidance {row['guidance']}" if row.get("guidance") else "")


_POINT: tuple[Column, ...] = (
    ("model", "{model}"),
    ("steps", "{steps}"),
    ("temperature", _drawn),
    ("NFE", "{nfe:.1f}"),
    ("Gen PPL", "{gen_ppl:,.0f} ({gen_ppl_lo:,.0f} to {gen_ppl_hi:,.0f})"),
    ("entropy", "{entropy:.3f}"),
    ("energy distance", "{energy:.4f} ({energy_lo:.4f} to {energy_hi:.4f})"),
    ("self-BLEU", "{self_bleu:.3f}"),
    ("distinct-2", "{distinct_2:.3f}"),
    ("rep-4", "{repetition_4:.4f}"),
)


def frontier(result: dict[str, Any]) -> str:
    """Students against their cooled teachers, a line for each seed, intervals in brackets."""
    columns = (
        ("on", lambda row: row["language"] or "text"),
        ("steps", "{steps}"),
        ("measure", "{measure}"),
        ("student", "{model}"),
        ("seed", "{seed}"),
        ("at entropy", "{entropy:.3f}"),
        ("student", lambda row: interval(row, "")),
        ("teacher, cooled", lambda row: f"{row['teacher']} at T = {fixed(row['teacher_temperature'], 2)}"),
        ("teacher", lambda row: interval(row, "teacher_")),
    )
    rows = result["matched"]
    own = [row for row in rows if row["entropy_of"] == f"{row['model']} at T = 1"]
    common = [row for row in rows if row["entropy_of"] == "mcd at T = 1" and row["model"] != "mcd"]
    parts = {"Each at its own entropy": table(own, *columns)}
    if common:
        parts["All at the entropy of MCD"] = table(common, *columns)
    points = [row for row in result.get("rows", []) if row.get("energy") is not None]
    return sections(parts | ({"All points": table(points, *_POINT)} if points else {}))


def frontier_languages(result: dict[str, Any]) -> str:
    """Means over seeds in the best order; then every seed in the usual order, as on the page of `frontier`."""
    return f"{_means_over_seeds(result['best']['summary'], ', in the best order')}\n{frontier(result)}"


def frontier_methods(result: dict[str, Any]) -> str:
    """Means over seeds, a table for each language; then every seed as on the page of `frontier`."""
    return f"{_means_over_seeds(result['summary'])}\n{frontier(result)}"


def _lead(own: str, other: str, ahead: str, seeds: str) -> Callable[[Row], str]:
    """Means of one's own and of the other, and in how many seeds one is ahead, from the columns of these names."""

    def cell(row: Row) -> str:
        if row.get(other) is None:
            return "not reached"
        return f"{row[own]:.3f} : {row[other]:.3f} ({row[ahead]} of {row[seeds]})"

    return cell


def _means_over_seeds(summary: list[Row], where: str = "") -> str:
    def pair(measure: str) -> Callable[[Row], str]:
        return _lead(measure, f"{measure}_teacher", f"{measure}_ahead", "seeds")

    parts = {}
    for language in dict.fromkeys(row["language"] for row in summary):
        parts[f"{language}{where}, means over seeds"] = table(
            by_steps(row for row in summary if row["language"] == language),
            ("steps", "{steps}"),
            ("student", "{model}"),
            ("NLL : cooled teacher's (ahead in)", pair("nll")),
            ("bigram TV", pair("tv_bigram")),
            ("trigram TV", pair("tv_trigram")),
            ("H(X2 given X1) less the truth's", "{sureness:+.3f}"),
        )
    return sections(parts)


def cooling(result: dict[str, Any]) -> str:
    """Each way at equal entropy; on text also at equal distinct bigrams, and all points."""
    known = [row for row in result["compared"] if row["language"] is not None]
    parts = {"Text": _ways_on_text(result)}
    for language in dict.fromkeys(row["language"] for row in known):
        parts[f"{language}, exact denoiser"] = table(
            (row for row in known if row["language"] == language),
            *_WAY,
            ("measure", "{measure}"),
            ("value", "{value:.3f}"),
            ("temperature, at that entropy", _sweep("temperature")),
            ("top-p", _sweep("top-p")),
            ("H(X2 given X1)", "{bigram_entropy:.3f}"),
        )
    return sections(parts | {"All points on text": _points_on_text(result, *_POINT)})


_WAY: tuple[Column, ...] = (("steps", "{steps}"), ("way", "{way}"), ("entropy", "{entropy:.3f}"))


def _sweep(name: str) -> Callable[[Row], str]:
    return lambda row: interval(row, f"{name}_")


def _ways_on_text(result: dict[str, Any]) -> str:
    return table(
        (row for row in result["compared"] if row["language"] is None),
        *_WAY,
        ("Gen PPL", "{value:,.0f}"),
        ("temperature, at that entropy", _sweep("temperature")),
        ("top-p", _sweep("top-p")),
        ("distinct-2", "{distinct_2:.3f}"),
        *(
            (heading, lambda row, key=f"{name}_at_distinct": "" if row[key] is None else f"{row[key]:,.0f}")
            for heading, name in (("temperature, at that distinct-2", "temperature"), ("top-p", "top-p"))
        ),
    )


def _points_on_text(result: dict[str, Any], *columns: Column) -> str:
    return table((row for row in result["rows"] if row.get("energy") is not None), *columns)


def guidance(result: dict[str, Any]) -> str:
    """Each way on text, means over seeds on languages, and all points on text."""

    def ahead(name: str) -> Callable[[Row], str]:
        return _lead(*(f"{name}_{key}" for key in ("own", "value", "ahead", "seeds")))

    parts = {"Text": _ways_on_text(result)}
    for language, kind in dict.fromkeys((row["language"], row["teacher"]) for row in result["summary"]):
        parts[f"{language}, {kind} teacher, means over seeds"] = table(
            (row for row in result["summary"] if (row["language"], row["teacher"]) == (language, kind)),
            ("steps", "{steps}"),
            ("way", "{way}"),
            ("measure", "{measure}"),
            ("value", "{value:.3f}"),
            ("guidance : temperature, at its entropy (ahead in)", ahead("temperature")),
            ("top-p", ahead("top-p")),
            ("temperature, in twice the calls", ahead("twice")),
            ("H(X2 given X1) less the truth's", "{sureness:+.3f}"),
        )
    points = _points_on_text(result, *_POINT, ("-log p(x given masks)", "{surprise:.3f}"))
    note = f"The tokens of held-out text have {result['surprise_of_text']:.3f} nats of -log p(x given masks).\n\n"
    return sections(parts | {"All points on text": note + points})


def truth(result: dict[str, Any]) -> str:
    """Students of the exact denoiser against it, at half of its calls, then at equal calls."""
    columns: tuple[Column, ...] = (
        ("language", "{language}"),
        ("student", "{model}"),
        ("seed", "{seed}"),
        ("calls", "{steps}"),
        ("measure", "{measure}"),
        ("at entropy", "{entropy:.3f}"),
    )
    halved = table(
        result["halved"],
        *columns,
        ("student", lambda row: fixed(row["value"], 3)),
        ("exact denoiser, twice the calls", lambda row: fixed(row["teacher_value"], 3)),
    )
    own = [row for row in result["matched"] if row["entropy_of"] == f"{row['model']} at T = 1"]
    equal = table(
        own,
        *columns,
        ("student", lambda row: interval(row, "")),
        ("exact denoiser", lambda row: interval(row, "teacher_")),
    )
    return sections({"Half of the calls": halved, "Equal calls": equal})
