"""An experiment's result as a page of Markdown tables, written next to its JSON."""

from collections.abc import Callable, Iterable
from typing import Any

from mcd.table import markdown_table

Row = dict[str, Any]
Column = tuple[str, str | Callable[[Row], str]]
"""A heading, and a cell: a format string of the row's fields, or a function of the row."""

MEASURES = {
    "nll": "exact NLL",
    "tv_bigram": "bigram TV",
    "entropy": "entropy",
    "bigram_entropy": "H(X2 given X1)",
    "coverage": "coverage",
    "grammatical": "grammatical",
}
WAY = ("sampler", "score", "remasking")
CHOOSES_CALLS = ("cad", "entropy-bounded", "klass")
CHOOSES_BY = ("gamma", "threshold", "kl_threshold", "history")
"""Samplers whose network calls follow from what they draw, and the options that decide how many."""


def page(name: str, result: dict[str, Any]) -> str | None:
    """The page of experiment `name`; None where the JSON and its figure say everything."""
    if name not in _BODIES:
        return None
    findings = "".join(f"- {line}\n" for line in result.get("findings", []))
    command = f"```bash\n{result['command']}\n```\n"
    return f"# {name}\n\n{command}\n{_BODIES[name](result)}" + (f"\n{findings}" if findings else "")


def _table(rows: Iterable[Row], *columns: Column) -> str:
    cells = [[cell.format_map(row) if isinstance(cell, str) else cell(row) for _, cell in columns] for row in rows]
    return markdown_table([heading for heading, _ in columns], cells)


def _a_column_each_step(
    rows: list[Row], headings: list[str], name: Callable[[Row], tuple[str, ...]], heading: str, cell: str
) -> str:
    """A line for each name, with a column for each number of steps."""
    steps = sorted({row["steps"] for row in rows})
    lines: dict[tuple[str, ...], dict[int, Row]] = {}
    for row in rows:
        lines.setdefault(name(row), {})[row["steps"]] = row
    cells = [[*names, *(cell.format_map(at[n]) if n in at else "" for n in steps)] for names, at in lines.items()]
    return markdown_table([*headings, *(heading.format(steps=n) for n in steps)], cells)


def _sections(parts: dict[str, str]) -> str:
    return "\n".join(f"## {heading}\n\n{text}" for heading, text in parts.items())


def _gen_ppl_by_steps(result: dict[str, Any]) -> str:
    """Gen PPL / entropy at temperature 1; rows without steps, or with one step per token, use the first column."""
    rows = [row for row in result["rows"] if row.get("protocol", {}).get("temperature") in (None, 1.0)]
    first = min(row["steps"] for row in rows if row["steps"] is not None and row["model"] != "ar")
    rows = [row | {"steps": first} if row["steps"] is None or row["model"] == "ar" else row for row in rows]

    def name(row: Row) -> tuple[str]:
        return (row["model"] + (f", round {row['round']}" if row["round"] else ""),)

    return _a_column_each_step(rows, ["Gen PPL / entropy"], name, "{steps} steps", "{gen_ppl:,.0f} / {entropy:.2f}")


def _languages(result: dict[str, Any]) -> str:
    parts = {}
    for language in dict.fromkeys(row["language"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["language"] == language]
        truth = {"model": "truth, same number of samples", "steps": "", **rows[0]["floor"]}
        rows.sort(key=lambda row: (row["steps"], row["model"]))
        parts[language] = _table([truth, *rows], ("model", "{model}"), ("steps", "{steps}"), *_measures(*MEASURES))
    if result.get("likelihoods"):
        parts["Teachers"] = _table(
            result["likelihoods"],
            ("language", "{language}"),
            ("teacher", "{model}"),
            ("seed", "{seed}"),
            ("bound (nats a token)", "{valid_nelbo:.3f} ± {valid_nelbo_se:.3f}"),
            ("entropy of the language", "{entropy_true:.3f}"),
            ("gap", "{gap:+.3f}"),
        )
    return _sections(parts)


def _orders(result: dict[str, Any]) -> str:
    def name(row: Row) -> tuple[str, str]:
        return row["model"], row.get("order") or " ".join(row[key] for key in WAY if key in row)

    parts = {}
    for language in dict.fromkeys(row["language"] for row in result["rows"]):
        rows = sorted((row for row in result["rows"] if row["language"] == language), key=lambda row: row["model"])
        chooses = [row.get("sampler") in CHOOSES_CALLS for row in rows]
        parts[language] = _a_column_each_step(
            [row for row, adaptive in zip(rows, chooses, strict=True) if not adaptive],
            ["model", "order"],
            name,
            "{steps} steps: NLL / TV",
            "{nll:.3f} / {tv_bigram:.3f}",
        )
        if any(chooses):
            parts[f"{language}, samplers that choose their calls"] = _table(
                (row for row, adaptive in zip(rows, chooses, strict=True) if adaptive),
                ("model", "{model}"),
                ("sampler", "{sampler}"),
                ("options", lambda row: ", ".join(f"{key} {row[key]}" for key in CHOOSES_BY if key in row)),
                ("calls", "{nfe:.1f}"),
                ("NLL / TV", "{nll:.3f} / {tv_bigram:.3f}"),
            )
    return _sections(parts)


def _frontier(result: dict[str, Any]) -> str:
    """Students against their cooled teachers, a line for each seed, intervals in brackets."""
    columns = (
        ("on", lambda row: row["language"] or "text"),
        ("steps", "{steps}"),
        ("measure", "{measure}"),
        ("student", "{model}"),
        ("seed", "{seed}"),
        ("at entropy", "{entropy:.3f}"),
        ("student", lambda row: _interval(row, "")),
        ("teacher, cooled", lambda row: f"{row['teacher']} at T = {_fixed(row['teacher_temperature'], 2)}"),
        ("teacher", lambda row: _interval(row, "teacher_")),
    )
    rows = result["matched"]
    own = [row for row in rows if row["entropy_of"] == f"{row['model']} at T = 1"]
    common = [row for row in rows if row["entropy_of"] == "mcd at T = 1" and row["model"] != "mcd"]
    parts = {"Each at its own entropy": _table(own, *columns), "All at the entropy of MCD": _table(common, *columns)}
    points = [row for row in result.get("rows", []) if row.get("energy") is not None]
    return _sections(parts | ({"All points": _table(points, *_POINT)} if points else {}))


def _truth(result: dict[str, Any]) -> str:
    """Students of the exact denoiser against it, at half of its calls, then at equal calls."""
    columns: tuple[Column, ...] = (
        ("language", "{language}"),
        ("student", "{model}"),
        ("seed", "{seed}"),
        ("calls", "{steps}"),
        ("measure", "{measure}"),
        ("at entropy", "{entropy:.3f}"),
    )
    halved = _table(
        result["halved"],
        *columns,
        ("student", lambda row: _fixed(row["value"], 3)),
        ("exact denoiser, twice the calls", lambda row: _fixed(row["teacher_value"], 3)),
    )
    own = [row for row in result["matched"] if row["entropy_of"] == f"{row['model']} at T = 1"]
    equal = _table(
        own,
        *columns,
        ("student", lambda row: _interval(row, "")),
        ("exact denoiser", lambda row: _interval(row, "teacher_")),
    )
    return _sections({"Half of the calls": halved, "Equal calls": equal})


_POINT: tuple[Column, ...] = (
    ("model", "{model}"),
    ("steps", "{steps}"),
    ("temperature", lambda row: "greedy" if row.get("greedy") else f"{row.get('temperature', 1.0)}"),
    ("NFE", "{nfe:.1f}"),
    ("Gen PPL", "{gen_ppl:,.0f} ({gen_ppl_lo:,.0f} to {gen_ppl_hi:,.0f})"),
    ("entropy", "{entropy:.3f}"),
    ("energy distance", "{energy:.4f} ({energy_lo:.4f} to {energy_hi:.4f})"),
    ("self-BLEU", "{self_bleu:.3f}"),
    ("distinct-2", "{distinct_2:.3f}"),
    ("rep-4", "{repetition_4:.4f}"),
)


def _ablations(result: dict[str, Any]) -> str:
    def gain(row: Row) -> str:
        gains = [
            m["value"] - m["teacher_value"]
            for m in result["matched"]
            if (m["model"], m["steps"], m["measure"]) == (row["model"], row["steps"], "nll")
            and m["entropy_of"].startswith(f"{row['model']} at")
            and m["teacher_value"] is not None
        ]
        return f"{sum(gains) / len(gains):+.3f} ({len(gains)})" if gains else ""

    return _table(
        _by_steps(row for row in result["rows"] if row.get("temperature", 1.0) == 1.0),
        ("variant", "{model}"),
        ("steps", "{steps}"),
        *_measures("nll", "tv_bigram", "entropy", "bigram_entropy", "coverage"),
        ("NLL less the cooled teacher's (seeds)", gain),
    )


def _table2(result: dict[str, Any]) -> str:
    verdicts = _table(
        result["verdicts"],
        ("loss", "{loss}"),
        ("seed", "{seed}"),
        ("failed", lambda row: f"FAILED ({', '.join(row['criteria'])})" if row["failed"] else "no"),
        ("stopped at step", lambda row: str(row["stopped_at_step"] or "")),
        ("first loss", "{first_loss:.4g}"),
        ("last", "{last_loss:.4g}"),
        ("first gradient", "{first_grad_norm:.3g}"),
        ("last", "{last_grad_norm:.3g}"),
        ("bound rises by", "{nelbo_rise:+.3f}"),
    )
    measures = _measures("nll", "tv_bigram", "entropy", "coverage")
    quality = _table(_by_steps(result["rows"]), ("loss", "{model}"), ("steps", "{steps}"), *measures)
    regimes = _table(
        result["regimes"],
        ("regime", "{regime}"),
        ("seed", "{seed}"),
        ("loss", "{loss:.4g}"),
        ("norm of its gradient", "{grad_norm:.4g}"),
    )
    parts = {"After the round, without the stop": quality, "By regime, at the start": regimes}
    return f"{verdicts}\n{_sections(parts)}"


def _by_steps(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["steps"])


def _measures(*names: str) -> list[Column]:
    """Columns of means over seeds with their standard deviations."""

    def spread(name: str) -> Callable[[Row], str]:
        return lambda row: _fixed(row.get(name)) + (f" ± {sd:.3f}" if (sd := row.get(f"{name}_sd")) is not None else "")

    return [(MEASURES[name], spread(name)) for name in names]


def _interval(row: Row, prefix: str) -> str:
    value, lo, hi = (row[f"{prefix}{key}"] for key in ("value", "lo", "hi"))
    if value is None:
        return "not reached"
    form = ",.0f" if row["measure"] == "gen_ppl" else ".3f"
    return f"{value:{form}}" + (f" ({lo:{form}} to {hi:{form}})" if lo is not None else "")


def _fixed(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


_BODIES: dict[str, Callable[[dict[str, Any]], str]] = {
    "table1": _gen_ppl_by_steps,
    "table2": _table2,
    "table3": _gen_ppl_by_steps,
    "languages": _languages,
    "orders": _orders,
    "frontier": _frontier,
    "frontier_languages": _frontier,
    "truth": _truth,
    "truth_longer": _truth,
    "ablations": _ablations,
}
