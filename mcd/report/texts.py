"""Texts to read with one's own eyes: samples side by side, and texts being revealed step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mcd.report.comparison import PAPER_FACTOR
from mcd.report.runs import SampleFile, Trajectory

ROWS, STEPS, FILES = 2, 3, 4
"""Rows shown at each number of steps, numbers of steps at which teacher and student are compared, files shown where
they cannot be."""
SHADES = 8
"""Shades that say when a token was revealed."""
SNAPSHOTS = 6
LONGEST = 1600
"""Characters shown of a sample."""
TOKENS = 256
"""Tokens shown of a trajectory."""


Cards = tuple[list[tuple[SampleFile, dict[str, Any]]], bool]
"""Samples to read side by side, each with its file, and whether their row, seed and so random numbers are the same."""


@dataclass(frozen=True)
class Box:
    """The displayed form of a token; while it is masked, a grey block as wide as `text`.

    The space in front of a word stays outside, so that lines break at the same places in every state. shade: the CSS
    class of the time at which it was revealed (at `step`); "" for a token without a shade.
    """

    space: str
    text: str
    is_masked: bool = False
    shade: str = ""
    step: int = 0

    @property
    def width(self) -> int:
        """Width of the block, in characters."""
        return max(1, min(20, len(self.text)))


def side_by_side(files: Sequence[SampleFile]) -> list[Cards]:
    """Teacher and student at the same number of steps, and the teacher at 16 times as many where it was sampled.

    Without such a pair, the first files one by one.
    """
    teachers = {one.steps: one for one in reversed(files) if one.model == "teacher"}
    by_round = sorted(files, key=lambda one: one.round or 0)
    students = {one.steps: one for one in by_round if one.model == "student"}  # the last round's
    shared = sorted(steps for steps in teachers.keys() & students.keys() if steps is not None)
    if not shared:
        return [cards for one in files[:FILES] for cards in _cards([one])]
    found = []
    for steps in sorted({shared[round(i * (len(shared) - 1) / (STEPS - 1))] for i in range(STEPS)}):
        many = teachers.get(steps * PAPER_FACTOR)
        found += _cards([teachers[steps], students[steps], *([many] if many else [])])
    return found


def reveal(trajectory: Trajectory) -> tuple[list[Box], list[tuple[int, int, list[Box]]]]:
    """The last state of a trajectory, and snapshots of (step, tokens seen, boxes) before it."""
    states = trajectory.states
    final, at = states[-1]["tokens"], _revealed_at(trajectory)

    def boxes(tokens: list, step: int | None = None) -> list[Box]:
        """Shaded are the tokens revealed at `step`; all of them without one."""
        return [
            _box(token, final[i], _shade(at[i], trajectory.steps) if step in (None, at[i]) else "", at[i])
            for i, token in enumerate(tokens[:TOKENS])
        ]

    between = states[1:-1]
    if len(between) >= SNAPSHOTS:
        between = [between[round((i + 0.5) * len(between) / SNAPSHOTS - 0.5)] for i in range(SNAPSHOTS)]
    return boxes(final), [
        (state["step"], sum(token is not None for token in state["tokens"]), boxes(state["tokens"], state["step"]))
        for state in between
    ]


def _cards(files: Sequence[SampleFile]) -> list[Cards]:
    """The first rows that all files share; or, where they share none, the first of each."""
    keyed = [{(line.get("row"), line.get("seed")): line for line in one.rows} for one in files]
    shared = [key for key in keyed[0] if all(key in other for other in keyed)]
    return [
        (
            [(one, of.get(key) or one.rows[min(i, len(one.rows) - 1)]) for one, of in zip(files, keyed, strict=True)],
            bool(shared),
        )
        for i, key in enumerate((shared or list(keyed[0]))[:ROWS])
    ]


def _revealed_at(trajectory: Trajectory) -> list[int]:
    """For each token the step at which it was revealed; 0 for those that were given or are masked to the end."""
    at: list[int | None] = [None] * len(trajectory.states[0]["tokens"])
    for state in trajectory.states:
        for i, token in enumerate(state["tokens"]):
            if token is not None and at[i] is None:
                at[i] = state["step"]
    return [step or 0 for step in at]


def _shade(step: int, steps: int) -> str:
    if step <= 0:
        return "given"
    return f"shade{min(SHADES - 1, round((step - 1) / max(1, steps - 1) * (SHADES - 1)))}"


def _box(token: object, final: object, shade: str, step: int) -> Box:
    shown = str((final or "   ") if token is None else token).replace("\r", "").replace("\n", "↵")
    space = " " if shown.startswith(" ") and len(shown) > 1 else ""
    return Box(space, shown[len(space) :], token is None, shade, step)
