"""An experiment's result as a page of Markdown tables, written beside its JSON."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Rows = list[dict[str, Any]]


def page(name: str, result: dict[str, Any]) -> str | None:
    """The page of experiment `name`; None where the JSON and its figure say it all."""
    make = _PAGES.get(name)
    if make is None:
        return None
    said = "".join(f"- {line}\n" for line in result.get("findings", []))
    command = f"```bash\n{result['command']}\n```\n"
    return f"# {name}\n\n{command}\n{make(result)}" + (f"\n{said}" if said else "")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _by_steps(rows: Rows) -> str:
    """Gen PPL / entropy: a line a model and round, a column a number of steps."""
    steps = sorted({row["steps"] for row in rows if row["steps"] is not None and row["model"] != "ar"})
    lines = []
    for key in dict.fromkeys((row["model"], row["round"]) for row in rows):
        cells = {row["steps"]: row for row in rows if (row["model"], row["round"]) == key}
        name = key[0] + (f", round {key[1]}" if key[1] else "")
        if set(cells) <= {None} or key[0] == "ar":
            (row,) = cells.values()
            lines.append([name, _ppl(row), *[""] * (len(steps) - 1)])
        else:
            lines.append([name, *(_ppl(cells[n]) if n in cells else "" for n in steps)])
    return table(["Gen PPL / entropy", *(f"{n} steps" for n in steps)], lines)


def _ppl(row: dict[str, Any]) -> str:
    return f"{row['gen_ppl']:,.0f} / {row['entropy']:.2f}"


def _tables_of_text(result: dict[str, Any]) -> str:
    return _by_steps([row for row in result["rows"] if row.get("protocol", {}).get("temperature") in (None, 1.0)])


def _languages(result: dict[str, Any]) -> str:
    parts = []
    names = ("nll", "tv_bigram", "entropy", "bigram_entropy", "coverage", "grammatical")
    for language in dict.fromkeys(row["language"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["language"] == language]
        floor = next(row["floor"] for row in rows)
        lines = [["truth, same number of samples", "", *(_number(floor.get(name)) for name in names)]]
        lines += [
            [row["model"], str(row["steps"]), *(_spread(row, name) for name in names)]
            for row in sorted(rows, key=lambda row: (row["steps"], row["model"]))
        ]
        headings = ["model", "steps", "exact NLL", "bigram TV", "entropy", "H(X2 given X1)", "coverage", "grammatical"]
        parts.append(f"## {language}\n\n{table(headings, lines)}")
    if result.get("likelihoods"):
        lines = [
            [
                row["language"],
                row["model"],
                str(row["seed"]),
                f"{row['valid_nelbo']:.3f} ± {row['valid_nelbo_se']:.3f}",
                f"{row['entropy_true']:.3f}",
                f"{row['gap']:+.3f}",
            ]
            for row in result["likelihoods"]
        ]
        headings = ["language", "teacher", "seed", "bound (nats a token)", "entropy of the language", "gap"]
        parts.append(f"## Teachers\n\n{table(headings, lines)}")
    return "\n".join(parts)


def _orders(result: dict[str, Any]) -> str:
    parts = []
    steps = sorted({row["steps"] for row in result["rows"]})
    for language in dict.fromkeys(row["language"] for row in result["rows"]):
        lines = []
        for model in ("exact", "mdlm"):
            rows = [row for row in result["rows"] if (row["language"], row["model"]) == (language, model)]
            for way in dict.fromkeys(_way(row) for row in rows):
                cells = {row["steps"]: row for row in rows if _way(row) == way}
                lines.append([model, way, *(f"{cells[n]['nll']:.3f} / {cells[n]['tv_bigram']:.3f}" for n in steps)])
        parts.append(f"## {language}\n\n{table(['model', 'order', *(f'{n} steps: NLL / TV' for n in steps)], lines)}")
    return "\n".join(parts)


def _way(row: dict[str, Any]) -> str:
    return row.get("order") or " ".join(row[key] for key in ("sampler", "score") if key in row)


def _matched(rows: Rows, entropy_of: Callable[[dict[str, Any]], bool]) -> str:
    """Students against their cooled teachers, a line each, intervals in brackets; seeds apart."""
    lines = []
    for row in rows:
        if not entropy_of(row):
            continue
        lines.append(
            [
                row["language"] or "text",
                str(row["steps"]),
                row["measure"],
                row["model"],
                str(row["seed"]),
                f"{row['entropy']:.3f}",
                _interval(row, ""),
                f"{row['teacher']} at T = {_number(row['teacher_temperature'], '.2f')}",
                _interval(row, "teacher_"),
            ]
        )
    headings = ["on", "steps", "measure", "student", "seed", "at entropy", "student", "teacher, cooled", "teacher"]
    return table(headings, lines)


def _frontier(result: dict[str, Any]) -> str:
    own = _matched(result["matched"], lambda row: row["entropy_of"] == f"{row['model']} at T = 1")
    common = _matched(result["matched"], lambda row: row["entropy_of"] == "mcd at T = 1" and row["model"] != "mcd")
    return f"## Each at its own entropy\n\n{own}\n## All at the entropy of MCD\n\n{common}"


def _ablations(result: dict[str, Any]) -> str:
    names = ("nll", "tv_bigram", "entropy", "bigram_entropy", "coverage")
    lines = []
    for row in sorted(result["rows"], key=lambda row: row["steps"]):
        if row.get("temperature", 1.0) == 1.0:
            gains = [
                m["value"] - m["teacher_value"]
                for m in result["matched"]
                if (m["model"], m["steps"], m["measure"]) == (row["model"], row["steps"], "nll")
                and m["entropy_of"].startswith(f"{row['model']} at")
                and m["teacher_value"] is not None
            ]
            gain = f"{sum(gains) / len(gains):+.3f} ({len(gains)})" if gains else ""
            lines.append([row["model"], str(row["steps"]), *(_spread(row, name) for name in names), gain])
    headings = ["variant", "steps", "exact NLL", "bigram TV", "entropy", "H(X2 given X1)", "coverage"]
    return table([*headings, "NLL less the cooled teacher's (seeds)"], lines)


def _table2(result: dict[str, Any]) -> str:
    verdicts = [
        [
            row["loss"],
            str(row["seed"]),
            f"FAILED ({', '.join(row['criteria'])})" if row["failed"] else "no",
            str(row["stopped_at_step"] or ""),
            f"{row['first_loss']:.4g}",
            f"{row['last_loss']:.4g}",
            f"{row['first_grad_norm']:.3g}",
            f"{row['last_grad_norm']:.3g}",
            f"{row['nelbo_rise']:+.3f}",
        ]
        for row in result["verdicts"]
    ]
    quality = [
        [row["model"], str(row["steps"]), *(_spread(row, name) for name in ("nll", "tv_bigram", "entropy", "coverage"))]
        for row in sorted(result["rows"], key=lambda row: row["steps"])
    ]
    regimes = [
        [row["regime"], str(row["seed"]), f"{row['loss']:.4g}", f"{row['grad_norm']:.4g}"] for row in result["regimes"]
    ]
    headings = [
        "loss",
        "seed",
        "failed",
        "stopped at step",
        "first loss",
        "last",
        "first gradient",
        "last",
        "bound rises by",
    ]
    return (
        f"{table(headings, verdicts)}\n## After the round, without the stop\n\n"
        f"{table(['loss', 'steps', 'exact NLL', 'bigram TV', 'entropy', 'coverage'], quality)}\n"
        f"## By regime, at the start\n\n{table(['regime', 'seed', 'loss', 'norm of its gradient'], regimes)}"
    )


def _number(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else f"{value:{form}}"


def _spread(row: dict[str, Any], name: str) -> str:
    """A mean over seeds with its standard deviation."""
    if row.get(name) is None:
        return ""
    spread = row.get(f"{name}_sd")
    return f"{row[name]:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def _interval(row: dict[str, Any], prefix: str) -> str:
    value, lo, hi = (row[f"{prefix}{key}"] for key in ("value", "lo", "hi"))
    if value is None:
        return "not reached"
    form = ",.0f" if row["measure"] == "gen_ppl" else ".3f"
    return f"{value:{form}}" + (f" ({lo:{form}} to {hi:{form}})" if lo is not None else "")


_PAGES: dict[str, Callable[[dict[str, Any]], str]] = {
    "table1": _tables_of_text,
    "table2": _table2,
    "table3": _tables_of_text,
    "languages": _languages,
    "orders": _orders,
    "frontier": _frontier,
    "ablations": _ablations,
}
