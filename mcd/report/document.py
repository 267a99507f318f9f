"""The report's page: sections put together from runs; whatever the runs do not hold is said in a sentence."""

from collections.abc import Sequence

import mcd
from mcd.report import figures
from mcd.report.figures import Series
from mcd.report.findings import Lineage, Match, lineages, number, times
from mcd.report.gather import Cell, Run
from mcd.report.headline import best_match, headline, matches
from mcd.report.learning import losses_html, regimes_html, runs_html
from mcd.report.specimens import drawn, esc, shade_key, side_by_side
from mcd.report.style import CSS
from mcd.report.tables import cells_table, protocols_table, savings_table

MARKER = '<meta name="generator" content="mcd">'
"""By which `mcd report` knows a page of its own, which it may write anew."""
PAPER = "https://arxiv.org/abs/2602.00792"
TRAJECTORIES = 4  # drawn
TERMS = {
    "Gen PPL": "How surprised an independent language model, the scorer, is by the text: the perplexity it gives it. "
    "Lower reads more fluent. Alone it can be fooled: one word said for ever has the lowest of all.",
    "Entropy": "How varied the words within one sample are, in nats. Gen PPL falls cheaply when entropy falls, so the "
    "two are always read together: good is a low Gen PPL at the entropy of real text.",
    "Steps and NFE": "Steps are points of the time grid from all masked to clean. NFE counts the network calls a "
    "sample really took: a step that reveals nothing makes none, so there are at most as many calls as tokens.",
    "Intervals": "In brackets and as bands: 95 % bootstrap intervals over samples. They speak of sampling error alone, "
    "not of what another training run would give.",
    "Teacher, student, rounds": "The student starts as a copy of the teacher and learns to say at time t what the "
    "teacher would say a little later, seeing more. Each round takes the student as the new teacher, with a wider gap.",
    "Controls": "teacher-cooled: the teacher at the temperature that gives it the student's entropy. tau-only: the "
    "same training without the time gap, so only sharpening. text: held-out real text. shuffled: its words in random "
    "order. control-periodic and control-topk: nonsense at the entropy of real text, a window of text said again and "
    "again, and frequent tokens drawn blindly.",
}
LOOKS = {  # colour, marker, dashed, strong; in the order of legend and table
    "teacher": ("teacher", "o", False, False),
    "student": ("r5", "s", False, False),
    "tau-only": ("tau", "^", True, False),
    "teacher-cooled": ("cooled", "v", True, False),
    "text": ("text", "*", True, True),
    "shuffled": ("shuffled", "X", True, False),
    "control-periodic": ("other1", "P", True, False),
    "control-topk": ("other2", "D", True, False),
}


def page(runs: Sequence[Run], title: str) -> str:
    """The whole page as HTML; the same runs and title give the same bytes."""
    cells = [cell for run in runs for cell in run.cells]
    series = series_of(cells)
    sections = [
        ("findings", "What was found", _findings(cells)),
        ("figures", "Fluency and variety against steps", _figures(series)),
        ("table", "All measurements", cells_table(series)),
        ("samples", "Samples side by side", _samples(runs)),
        ("trajectory", "A text being revealed", _trajectories(runs)),
        ("learning", "What the student learns from", _learning(runs)),
        ("protocol", "Protocol, commands, environment", protocols_table(cells) + _runs(runs)),
    ]
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{heading}</h2>{html}</section>\n' for name, heading, html in sections)
    held = ", ".join(f"<code>{esc(run.name)}</code>" for run in runs)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'{MARKER}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{CSS}</style></head><body>\n"
        f'<header class="top"><h1>{esc(title)}</h1><p class="lede">A masked diffusion language model writes by '
        f'uncovering masked tokens. <a href="{PAPER}">Masked Consistency Distillation</a> teaches it to do so in fewer '
        f"steps. This page shows what that gained and what it cost.</p><nav>{links}</nav></header>\n"
        f"<main>{body}</main><footer>Made by <code>mcd report</code> {esc(mcd.__version__)} from {held}.</footer>"
        "</body></html>\n"
    )


def series_of(cells: Sequence[Cell]) -> list[Series]:
    """Lines for the figures: teacher grey-blue, the student's rounds in shades of orange, controls, others."""
    groups: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.model, cell.run, cell.round or 0), []).append(cell)
    last: dict[str, int] = {}
    for model, run, round in groups:
        if model == "student":
            last[run] = max(last.get(run, 0), round)
    rank = {model: i for i, model in enumerate(LOOKS)}
    found, others = [], 0
    for (model, run, round), group in sorted(groups.items(), key=lambda g: (rank.get(g[0][0], 99), g[0][0], g[0][2])):
        label = model + (f", round {round}" if round and model == "student" else "")
        if len({n for m, n, _ in groups if m == model}) > 1:
            label += f" ({run})"
        if model in LOOKS:
            colour, marker, dashed, strong = LOOKS[model]
            if model == "student":
                strong = round == last[run]
                colour = f"r{max(1, 5 - (last[run] - round))}"
            found.append(Series(label, colour, group, marker, dashed, strong))
        else:
            others += 1
            found.append(Series(label, f"other{(others - 1) % 4 + 1}", group, "P"))
    return found


def _findings(cells: Sequence[Cell]) -> str:
    found = lineages(cells)
    parts = []
    for one in found:
        if len(found) > 1:
            parts.append(f"<h3>{esc(one.run)}</h3>")
        saved = matches(one)
        items = (f'<li class="{finding.tone}">{esc(finding.text)}</li>' for finding in headline(one))
        parts += [_tiles(one, saved), f'<ul class="findings">{"".join(items)}</ul>', savings_table(saved)]
    if not cells:
        parts.append("<p>No metrics.json was found, so quality is left out; <code>mcd eval</code> writes one.</p>")
    elif not found:
        parts.append("<p>The measurements hold no student with a Gen PPL, so there is no comparison to make.</p>")
    terms = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in TERMS.items())
    return "".join(parts) + f'<h3>How to read the numbers</h3><dl class="terms">{terms}</dl>'


def _tiles(one: Lineage, saved: Sequence[Match]) -> str:
    """A few large numbers, as HTML."""
    tiles = []
    if saved:
        best = best_match(saved)
        tiles.append(
            (best.sign + times(best.factor), f"saved in steps at equal Gen PPL (student at {best.cell.steps})")
        )
        if best.factor_nfe:
            tiles.append((best.sign + times(best.factor_nfe), "saved in network calls at the same point"))
    few = min((N for N in one.student if N in one.teacher), default=min(one.student))
    student, teacher = one.student[few], one.teacher.get(few)
    beside = f"the teacher's is {number(teacher.gen_ppl)}" if teacher else "the teacher's was not measured there"
    tiles.append((number(student.gen_ppl), f"Gen PPL at {few} steps; {beside}"))
    if student.entropy is not None:
        beside = f"; the teacher's is {teacher.entropy:.2f}" if teacher and teacher.entropy is not None else ""
        tiles.append((f"{student.entropy:.2f}", f"nats of entropy at {few} steps{beside}"))
    boxes = "".join(f'<div class="tile"><b>{large}</b><span>{small}</span></div>' for large, small in tiles)
    return f'<div class="tiles">{boxes}</div>'


def _figures(series: Sequence[Series]) -> str:
    scored = [s for s in series if any(c.gen_ppl is not None for c in s.cells)]
    varied = [s for s in series if any(c.entropy is not None for c in s.cells)]
    both = [s for s in series if any(c.gen_ppl is not None and c.entropy is not None for c in s.cells)]
    parts = []
    if any(c.steps for s in scored for c in s.cells):
        shown = [s for s in scored if s.cells[0].model not in ("shuffled", "control-topk")]
        drawing = figures.curve(shown, "gen_ppl", "Gen PPL (log)", True, "Gen PPL against sampling steps")
        text = (
            "<b>Gen PPL against steps</b>, both logarithmic (the paper's Figure 3). Lower is more fluent. Models "
            "measured at one number of steps are drawn side by side around it. The dashed line is real held-out text: "
            "a model below it does not write better, only safer."
        )
        parts.append(f"<figure>{drawing}<figcaption>{text}</figcaption></figure>")
    if any(c.steps for s in varied for c in s.cells):
        drawing = figures.curve(varied, "entropy", "entropy, nats", False, "Entropy against sampling steps")
        text = (
            "<b>Entropy against steps.</b> A model that lies lower here has paid for its Gen PPL with less varied "
            "words; models to be compared should lie level."
        )
        parts.append(f"<figure>{drawing}<figcaption>{text}</figcaption></figure>")
    if both:
        drawing = figures.frontier(both, "Gen PPL against entropy")
        text = (
            "<b>The frontier.</b> Every cell by both measures; small figures are steps, thin crosses intervals. Down "
            "is more fluent, right is more varied. A move down and to the left is a trade that a lower temperature "
            "offers without training; down without going left, or right without going up, is a better model."
        )
        parts.append(f'<figure class="wide">{drawing}<figcaption>{text}</figcaption></figure>')
    if not parts:
        return "<p>There are no measurements to draw.</p>"
    missing = "" if scored else "<p>No scorer was used, so there is no Gen PPL to draw.</p>"
    keys = ""
    for s in series:
        dash = " dash" if s.dashed else ""
        keys += f'<span class="swatch{dash}" style="--c:var(--{s.colour})">{esc(s.label)}</span>'
    return f'{missing}<div class="legend">{keys}</div><div class="figures">{"".join(parts)}</div>'


def _samples(runs: Sequence[Run]) -> str:
    files = [one for run in runs for one in run.samples]
    if not files:
        return "<p>No samples_*.jsonl was found, so there are no texts to read.</p>"
    return (
        "<p>Texts of the same row and seed share the random scalars that say when each position is revealed and which "
        "quantile is drawn there, so differences come from the model and the number of steps.</p>" + side_by_side(files)
    )


def _trajectories(runs: Sequence[Run]) -> str:
    found = [one for run in runs for one in run.trajectories][:TRAJECTORIES]
    if not found:
        return "<p>No trajectory.jsonl was found, so none is drawn.</p>"
    return (
        "<p>One text from all masked to done. Each token is shaded by the step that revealed it, and grey blocks are "
        "still masked. Tokens revealed in the same step are drawn without seeing one another: that is what makes few "
        "steps hard.</p>" + shade_key() + "".join(drawn(one) for one in found)
    )


def _learning(runs: Sequence[Run]) -> str:
    intro = (
        "<p>Training hides tokens by one random threshold each, shared by two times: the student sees the text at t, "
        "the teacher at the earlier s = t &minus; δ, where less is hidden (the paper's Figure 2). So every token falls "
        'into one of three regimes:</p><p class="keys">'
        '<span class="swatch" style="--c:var(--visible)">visible to both: nothing to learn</span>'
        '<span class="swatch" style="--c:var(--revealed)">revealed to the teacher only: learn the real token</span>'
        '<span class="swatch" style="--c:var(--distilled)">hidden from both: learn the teacher\'s prediction</span></p>'
    )
    return intro + regimes_html(runs) + (losses_html(runs) or "<p>No stats.jsonl was found, so no loss is drawn.</p>")


def _runs(runs: Sequence[Run]) -> str:
    return runs_html(runs) or "<p>No run.json was found, so commands and environment are not known.</p>"
