"""A row of text while it is written, as HTML: each token in the colour of the step in which it became what it is."""

from dataclasses import dataclass, replace
from html import escape

from torch import Tensor

from mcd.api.results import State

SHADES = 8
"""Colours, from the first step to the last."""


@dataclass(frozen=True)
class Canvas:
    """A row after `step` of `steps` steps.

    tokens: each one's share of the text, None where nothing is written. since: the step in which each became what it
    is, 0 for what stood there at the start. given: whether the template gave it.
    """

    steps: int
    given: tuple[bool, ...]
    ids: tuple[int, ...] = ()
    tokens: tuple[str | None, ...] = ()
    since: tuple[int, ...] = ()
    step: int = -1

    def after(self, state: State) -> "Canvas":
        """The canvas after the next state, of which it takes the first row."""
        ids, step = tuple(state.ids[0].tolist()), self.step + 1
        before = zip(ids, self.ids, self.since, strict=True) if self.ids else ()
        since = tuple(was if new == old else step for new, old, was in before) or (0,) * len(ids)
        return replace(self, ids=ids, tokens=tuple(state.tokens[0]), since=since, step=step)

    def html(self) -> str:
        """The row as spans; white space is kept."""
        rows = zip(self.tokens, self.given, self.since, strict=True)
        return "".join(_span(text, given, step, self.steps) for text, given, step in rows)


def canvas_of(ids: Tensor, blank_id: int, steps: int) -> Canvas:
    """The canvas of a row that is to be written, ids (L,), before its first state."""
    return Canvas(steps, tuple((ids != blank_id).tolist()))


def shade(step: int, steps: int) -> int:
    """The number of the colour of a step, 1 to `steps`."""
    return round((step - 1) / max(1, steps - 1) * (SHADES - 1))


def legend() -> str:
    """What the colours say."""
    tones = "".join(f'<span class="tok s{i}">&nbsp;&nbsp;&nbsp;</span>' for i in range(SHADES))
    return (
        f'<div class="legend">first step {tones} last step &emsp;plain: given &emsp;'
        '<span class="blank"></span> not written yet</div>'
    )


def _span(text: str | None, given: bool, step: int, steps: int) -> str:
    if text is None:
        return '<span class="blank"></span>'
    word = text.lstrip(" ")
    space, shown = text[: len(text) - len(word)], escape(word)
    if given:
        return space + shown
    tone, said = (f"s{shade(step, steps)}", f"step {step}") if step else ("noise", "noise")
    return f'{space}<span class="tok {tone}" title="{said}">{shown}</span>'
