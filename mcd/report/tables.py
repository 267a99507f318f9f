"""The report's tables: what the student saved, all cells, and the protocols they were measured by."""

from collections.abc import Sequence

from mcd.report.figures import Series
from mcd.report.findings import NONE, Match, differences, number, times
from mcd.report.gather import Cell
from mcd.report.specimens import esc


def savings_table(saved: Sequence[Match]) -> str:
    """How many steps the teacher takes to the student's Gen PPL; "" where there is nothing to compare with."""
    if not saved:
        return ""
    names = ("student's steps", "Gen PPL", "entropy", "teacher's steps for it", "its entropy", "factor in steps")
    rows = []
    for m in saved:
        rows.append(
            (
                str(m.cell.steps),
                _with_interval(m.cell, "gen_ppl"),
                _entropy(m.cell.entropy),
                f"{m.sign}{number(m.teacher_steps)}",
                _entropy(m.teacher_entropy),
                f"{m.sign}{times(m.factor)} <small>{m.low} to {m.high}</small>",
                f"{m.sign}{times(m.factor_nfe)}" if m.factor_nfe else NONE,
            )
        )
    return _table((*names, "in calls"), [[_td(value) for value in row] for row in rows]) + (
        '<p class="note">How many steps the teacher takes to the same Gen PPL, read off a straight line between its '
        "measured points in log steps and log Gen PPL, up to where its curve first falls below the student's figure. "
        "≥ and &lt; mark figures beyond the teacher's measured range; small figures are the factor over the student's "
        "interval.</p>"
    )


def cells_table(series: Sequence[Series]) -> str:
    """All cells, and what differs in how they were measured."""
    cells = [cell for one in series for cell in one.cells]
    if not cells:
        return "<p>No measurements were found.</p>"
    warm = any(c.temperature not in (None, 1.0) for c in cells)
    many = len({c.run for c in cells}) > 1
    names = ["model", "run", "round", "steps", "temp.", "NFE", "Gen PPL", "entropy", "rep-4", "distinct-2", "samples"]
    names = [n for n in (*names, "tokens", "protocol") if (n != "run" or many) and (n != "temp." or warm)]
    rows = []
    for one in series:
        for c in sorted(one.cells, key=lambda c: (c.steps or 0, c.temperature or 0)):
            values = {
                "round": str(c.round or NONE),
                "steps": str(c.steps or NONE),
                "temp.": NONE if c.temperature is None else f"{c.temperature:g}",
                "NFE": number(c.nfe),
                "Gen PPL": _with_interval(c, "gen_ppl"),
                "entropy": _with_interval(c, "entropy"),
                "rep-4": NONE if c.repetition_4 is None else f"{c.repetition_4:.3f}",
                "distinct-2": NONE if c.distinct_2 is None else f"{c.distinct_2:.3f}",
                "samples": str(c.samples or NONE),
                "tokens": NONE if c.tokens is None else f"{c.tokens:,}",
                "protocol": f"<code>{esc(c.protocol.get('digest', NONE))}</code>",
            }
            row = [_td(f'<span class="dot" style="--c:var(--{one.colour})"></span>{esc(c.model)}', left=True)]
            row += [_td(esc(c.run), left=True)] if many else []
            rows.append(row + [_td(values[name]) for name in names if name in values])
    return _table(names, rows, left=("model", "run")) + (
        '<p class="note">rep-4: share of four-token strings that were said before in the same sample. distinct-2: '
        "share of different pairs among all pairs. NFE: mean network calls a sample.</p>" + _unlike(cells)
    )


def protocols_table(cells: Sequence[Cell]) -> str:
    """What all protocols share, and a row for each of what they do not."""
    stamps = {str(c.protocol.get("digest", NONE)): c.protocol for c in cells if c.protocol}
    if not stamps:
        return "<p>No measurement carries a protocol.</p>"
    values: dict[str, list] = {}
    for name in dict.fromkeys(name for stamp in stamps.values() for name in stamp if name != "digest"):
        values[name] = [stamp.get(name) for stamp in stamps.values()]
    shared = {name: v[0] for name, v in values.items() if len(set(map(str, v))) == 1 and v[0] is not None}
    differing = [name for name, v in values.items() if len(set(map(str, v))) > 1]
    facts = "".join(f"<dt>{esc(name)}</dt><dd>{esc(value)}</dd>" for name, value in shared.items())
    html = (
        "<p>A protocol is everything that moves a measured number and is not the model. Shared by all rows:</p>"
        f'<dl class="facts">{facts}</dl>'
    )
    rows = []
    for digest, stamp in stamps.items():
        models = dict.fromkeys(c.model for c in cells if str(c.protocol.get("digest", NONE)) == digest)
        row = [_td(f"<code>{esc(digest)}</code>", left=True), _td(esc(", ".join(models)), left=True)]
        rows.append(row + [_td(NONE if stamp.get(name) is None else esc(stamp[name])) for name in differing])
    names = ("protocol", "rows of", *map(esc, differing))
    return html + (_table(names, rows, left=("protocol", "rows of")) if differing else "")


def _unlike(cells: Sequence[Cell]) -> str:
    """A warning for each way in which the rows were not measured alike, else a sentence that they were."""
    alike = list({str(c.protocol): c for c in cells}.values())
    fields = dict.fromkeys(name for a in alike for b in alike for name in differences(a, b))
    parts = []
    if fields:
        told = []
        for name in fields:
            values = dict.fromkeys(str(c.protocol[name]) for c in cells if c.protocol.get(name) is not None)
            told.append(f"<b>{esc(name)}</b> ({esc(' / '.join(values))})")
        parts.append(
            f"The rows above were not all measured alike; they differ in {', '.join(told)}. Compare only rows of like "
            "protocol; the comparisons in words on this page do."
        )
    if unstamped := sum(not c.protocol for c in cells):
        parts.append(
            f"{unstamped} of {len(cells)} rows carry no protocol; what they may be compared with is not known."
        )
    if not parts:
        return '<p class="note">All rows were measured by one protocol (seed, thread count and temperature aside).</p>'
    return "".join(f'<p class="warn">{part}</p>' for part in parts)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> str:
    """`names` and `rows` are HTML."""
    head = "".join(f'<th class="l">{name}</th>' if name in left else f"<th>{name}</th>" for name in names)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _td(html: str, left: bool = False) -> str:
    return f'<td class="l">{html}</td>' if left else f"<td>{html}</td>"


def _with_interval(cell: Cell, name: str) -> str:
    value, lo, hi = (getattr(cell, name + end) for end in ("", "_lo", "_hi"))
    interval = "" if lo is None or hi is None else f" <small>[{number(lo)}, {number(hi)}]</small>"
    return number(value) + interval


def _entropy(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
