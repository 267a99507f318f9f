"""The part of the report to read with one's own eyes: samples side by side, and texts being revealed."""

import html
import re
from collections.abc import Sequence

from mcd.report.gather import Samples, Trajectory

SHADES = 8  # of the time at which a token was revealed
SNAPSHOTS = 6
LONGEST = 1600  # characters of a sample that are shown
TOKENS = 256  # of a trajectory that are drawn
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def esc(text: object) -> str:
    """Untrusted text as HTML, for content and attributes; control characters and lone surrogates made visible."""
    return html.escape(_CONTROLS.sub("\ufffd", str(text)), quote=True)


def title_of(samples: Samples | Trajectory) -> str:
    """ "student, round 5, 8 steps"."""
    round = f", round {samples.round}" if isinstance(samples, Samples) and samples.round else ""
    steps = "" if samples.steps is None else f", {samples.steps} step{'s' if samples.steps != 1 else ''}"
    return f"{samples.model}{round}{steps}"


def side_by_side(files: Sequence[Samples], rows: int = 2, counts: int = 3, factor: int = 16) -> str:
    """Teacher and student at the same row and seed at up to `counts` numbers of steps, as HTML; "" without samples."""
    teachers = {f.steps: f for f in reversed(files) if f.model == "teacher"}
    students: dict[int | None, Samples] = {}
    for one in files:
        if one.model == "student" and (one.round or 0) >= (
            students[one.steps].round or 0 if one.steps in students else 0
        ):
            students[one.steps] = one
    shared = sorted(steps for steps in teachers.keys() & students.keys() if steps is not None)
    if not shared:
        parts = [_columns([one], rows) for one in files[:4]]
        return "\n".join(parts)
    chosen = sorted({shared[round(i * (len(shared) - 1) / max(1, counts - 1))] for i in range(counts)})
    parts = []
    for steps in chosen:
        columns = [teachers[steps], students[steps]]
        if steps * factor in teachers:
            columns.append(teachers[steps * factor])
        parts.append(_columns(columns, rows))
    return "\n".join(parts)


def _columns(columns: Sequence[Samples], rows: int) -> str:
    keyed = [{(row.get("row"), row.get("seed")): row for row in one.rows} for one in columns]
    keys = [key for key in keyed[0] if all(key in other for other in keyed)][:rows]
    note = ""
    if not keys:
        keys = list(keyed[0])[:rows]
        note = (
            '<p class="note">These files share no row and seed, so their texts are not drawn from the same scalars.</p>'
        )
    parts = [note]
    for i, (row, seed) in enumerate(keys):
        cards = []
        for one, rows_of in zip(columns, keyed, strict=True):
            line = rows_of.get((row, seed)) or one.rows[min(i, len(one.rows) - 1)]
            text = line["text"]
            more = " …" if len(text) > LONGEST else ""
            nfe = f" · {line['nfe']} calls" if isinstance(line.get("nfe"), int) else ""
            kind = one.model if one.model in ("teacher", "student") else "other"
            cards.append(
                f'<figure class="sample {kind}"><figcaption>{esc(title_of(one))}<span>row {esc(line.get("row"))}, seed '
                f"{esc(line.get('seed'))}{nfe}</span></figcaption><blockquote>{esc(text[:LONGEST])}{more}</blockquote></figure>"
            )
        parts.append(f'<div class="samples n{len(cards)}">{"".join(cards)}</div>')
    return "\n".join(parts)


def revealed_at(trajectory: Trajectory) -> list[int | None]:
    """For each token the step at which it was revealed: 0 for given ones, None for those never revealed."""
    at: list[int | None] = [None] * len(trajectory.states[0]["tokens"])
    for state in trajectory.states:
        for i, token in enumerate(state["tokens"]):
            if token is not None and at[i] is None:
                at[i] = state["step"]
    return at


def drawn(trajectory: Trajectory) -> str:
    """A trajectory as HTML: the last state, each token shaded by when it was revealed, then snapshots on the way."""
    at = revealed_at(trajectory)
    final = trajectory.states[-1]["tokens"]
    boxes = [_box(token, _shade(step or 0, trajectory.steps), step) for token, step in zip(final, at, strict=True)]
    more = f'<p class="note">The first {TOKENS} of {len(final)} tokens.</p>' if len(final) > TOKENS else ""
    shots = [_snapshot(trajectory, state, final, at) for state in _spread(trajectory.states)]
    return (
        f"<h3>{esc(title_of(trajectory))} <small>row {trajectory.row}, seed {trajectory.seed}</small></h3>{more}"
        f'<div class="drawn">{"".join(boxes[:TOKENS])}</div><div class="snapshots">{"".join(shots)}</div>'
    )


def shade_key() -> str:
    """The legend of the shades."""
    shades = "".join(f'<span class="tok k{i}">&nbsp;&nbsp;&nbsp;</span>' for i in range(SHADES))
    return f'<p class="key">revealed first {shades} revealed last</p>'


def _shade(step: int, steps: int) -> str:
    if step <= 0:
        return "given"
    return f"k{min(SHADES - 1, round((step - 1) / max(1, steps - 1) * (SHADES - 1)))}"


def _spread(states: list[dict]) -> list[dict]:
    """Some of the states after the start, evenly in the number of tokens newly seen, the last one left out."""
    between = states[1:-1]
    if len(between) < SNAPSHOTS:
        return between
    return [between[round((i + 0.5) * len(between) / SNAPSHOTS - 0.5)] for i in range(SNAPSHOTS)]


def _snapshot(trajectory: Trajectory, state: dict, final: list, at: list[int | None]) -> str:
    seen = sum(token is not None for token in state["tokens"])
    spans = []
    for i, token in enumerate(state["tokens"][:TOKENS]):
        shade = _shade(at[i] or 0, trajectory.steps) if at[i] == state["step"] else None
        spans.append(_box(token, shade, at[i], final[i]))
    caption = f"step {state['step']} of {trajectory.steps} · {seen} of {len(state['tokens'])} tokens"
    return f"<figure><figcaption>{caption}</figcaption><p>{''.join(spans)}</p></figure>"


def _box(token: object, shade: str | None, step: int | None, final: object = None) -> str:
    """A token in its shade, or without one; a grey block as wide as `final` while it is masked.

    The space before a word stays outside, so that lines break at the same places in every state.
    """
    shown = str((final or "   ") if token is None else token).replace("\r", "").replace("\n", "↵")
    space = " " if shown.startswith(" ") and len(shown) > 1 else ""
    shown = shown[len(space) :]
    if token is None:
        return f'{space}<span class="hidden" style="--n:{max(1, min(20, len(shown)))}"></span>'
    return space + (
        esc(shown) if shade is None else f'<span class="tok {shade}" title="step {step}">{esc(shown)}</span>'
    )
