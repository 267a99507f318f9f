"""An experiment's result as a page of Markdown tables, written next to its JSON."""

from collections.abc import Callable
from typing import Any

from mcd.reproduce.frontier_pages import cooling, frontier, frontier_languages, frontier_methods, guidance, truth
from mcd.reproduce.page_parts import Column, Row, a_column_each_step, by_steps, fixed, sections, table

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


def _gen_ppl_by_steps(result: dict[str, Any]) -> str:
    """Gen PPL / entropy at temperature 1; rows without steps, or with one step per token, use the first column."""
    rows = [row for row in result["rows"] if row.get("protocol", {}).get("temperature") in (None, 1.0)]
    first = min(row["steps"] for row in rows if row["steps"] is not None and row["model"] != "ar")
    rows = [row | {"steps": first} if row["steps"] is None or row["model"] == "ar" else row for row in rows]

    def name(row: Row) -> tuple[str]:
        return (row["model"] + (f", round {row['round']}" if row["round"] else ""),)

    return a_column_each_step(rows, ["Gen PPL / entropy"], name, "{steps} steps", "{gen_ppl:,.0f} / {entropy:.2f}")


def _languages(result: dict[str, Any]) -> str:
    parts = {}
    for language in dict.fromkeys(row["language"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["language"] == language]
        as_many = {"model": "truth, same number of samples", "steps": "", **rows[0]["floor"]}
        rows.sort(key=lambda row: (row["steps"], row["model"]))
        parts[language] = table([as_many, *rows], ("model", "{model}"), ("steps", "{steps}"), *_measures(*MEASURES))
    if result.get("likelihoods"):
        parts["Teachers"] = table(
            result["likelihoods"],
            ("language", "{language}"),
            ("teacher", "{model}"),
            ("seed", "{seed}"),
            ("bound (nats a token)", "{valid_nelbo:.3f} ± {valid_nelbo_se:.3f}"),
            ("entropy of the language", "{entropy_true:.3f}"),
            ("gap", "{gap:+.3f}"),
        )
    return sections(parts)


def _orders(result: dict[str, Any]) -> str:
    def name(row: Row) -> tuple[str, str]:
        return row["model"], row.get("order") or " ".join(row[key] for key in WAY if key in row)

    parts = {}
    for language in dict.fromkeys(row["language"] for row in result["rows"]):
        rows = sorted((row for row in result["rows"] if row["language"] == language), key=lambda row: row["model"])
        chooses = [row.get("sampler") in CHOOSES_CALLS for row in rows]
        parts[language] = a_column_each_step(
            [row for row, adaptive in zip(rows, chooses, strict=True) if not adaptive],
            ["model", "order"],
            name,
            "{steps} steps: NLL / TV",
            "{nll:.3f} / {tv_bigram:.3f}",
        )
        if any(chooses):
            parts[f"{language}, samplers that choose their calls"] = table(
                (row for row, adaptive in zip(rows, chooses, strict=True) if adaptive),
                ("model", "{model}"),
                ("sampler", "{sampler}"),
                ("options", lambda row: ", ".join(f"{key} {row[key]}" for key in CHOOSES_BY if key in row)),
                ("calls", "{nfe:.1f}"),
                ("NLL / TV", "{nll:.3f} / {tv_bigram:.3f}"),
            )
    return sections(parts)


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

    return table(
        by_steps(row for row in result["rows"] if row.get("temperature", 1.0) == 1.0),
        ("variant", "{model}"),
        ("steps", "{steps}"),
        *_measures("nll", "tv_bigram", "entropy", "bigram_entropy", "coverage"),
        ("NLL less the cooled teacher's (seeds)", gain),
    )


def _table2(result: dict[str, Any]) -> str:
    verdicts = table(
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
    quality = table(by_steps(result["rows"]), ("loss", "{model}"), ("steps", "{steps}"), *measures)
    regimes = table(
        result["regimes"],
        ("regime", "{regime}"),
        ("seed", "{seed}"),
        ("loss", "{loss:.4g}"),
        ("norm of its gradient", "{grad_norm:.4g}"),
    )
    parts = {"After the round, without the stop": quality, "By regime, at the start": regimes}
    return f"{verdicts}\n{sections(parts)}"


def _measures(*names: str) -> list[Column]:
    """Columns of means over seeds with their standard deviations."""

    def spread(name: str) -> Callable[[Row], str]:
        return lambda row: fixed(row.get(name)) + (f" ± {sd:.3f}" if (sd := row.get(f"{name}_sd")) is not None else "")

    return [(MEASURES[name], spread(name)) for name in names]


_BODIES: dict[str, Callable[[dict[str, Any]], str]] = {
    "table1": _gen_ppl_by_steps,
    "table2": _table2,
    "table3": _gen_ppl_by_steps,
    "languages": _languages,
    "orders": _orders,
    "frontier": frontier,
    "frontier_languages": frontier_languages,
    "frontier_methods": frontier_methods,
    "mmd": frontier,
    "cooling": cooling,
    "guidance": guidance,
    "truth": truth,
    "truth_longer": truth,
    "ablations": _ablations,
}
