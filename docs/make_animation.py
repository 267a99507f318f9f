"""The animation at the top of the README: a teacher and its few-step student write, one frame for each network call.

mcd distill mcd --teacher demo --out runs/student
python docs/make_animation.py demo runs/student
"""

import argparse
from dataclasses import dataclass
from html import escape
from pathlib import Path

import mcd

OUT = Path(__file__).parent / "images" / "writing.svg"
COLUMNS, CELL, LINE, LEFT, TOP = 48, 7.8, 21, 14, 44
CALL, END = 0.22, 4.0
"""Seconds of a network call in the animation, and of the finished text."""
SHADES = ("#cfe0f2", "#dbe5ee", "#eae6da", "#f6e3c2", "#fcd8a3", "#fcc47d", "#f8ab54", "#f0912f")


@dataclass(frozen=True)
class Token:
    """A piece of text, at a column of a line, written by the n-th network call of `calls`."""

    text: str
    column: int
    line: int
    call: int


def written(model: str, steps: int, seed: int, length: int) -> tuple[list[Token], int]:
    """The tokens of row 0, laid out in lines of `COLUMNS` characters, and its network calls."""
    states = list(mcd.load(model).stream(steps=steps, seed=seed, length=length))
    first: dict[int, int] = {}
    for state in states:
        for i, text in enumerate(state.tokens[0]):
            if text is not None:
                first.setdefault(i, state.nfe[0])
    tokens, column, line = [], 0, 0
    for i, share in enumerate(states[-1].tokens[0]):
        text = " ".join((share or "").split())
        starts_word = (share or "").startswith((" ", "\n")) and column > 0
        if column + starts_word + len(text) > COLUMNS:
            column, line, starts_word = 0, line + 1, False
        column += starts_word
        if text:
            tokens.append(Token(text, column, line, first[i]))
        column += len(text)
    return tokens, states[-1].nfe[0]


def panel(title: str, tokens: list[Token], calls: int, left: float, total: float) -> str:
    """The title and the tokens of a model; each appears with its call and stays until the animation begins anew."""
    shown = [f'<text class="title" x="{left:.0f}" y="24">{escape(title)}</text>']
    for token in tokens:
        x, y, width = left + token.column * CELL, TOP + token.line * LINE, len(token.text) * CELL
        shade = SHADES[round((token.call - 1) / max(1, calls - 1) * (len(SHADES) - 1))]
        share = token.call * CALL / total
        shown.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width - 1:.1f}" height="16" rx="3" fill="#cfd5dd"/>'
            f'<g><animate attributeName="opacity" values="0;0;1;1" keyTimes="0;{share:.4f};{share:.4f};1" '
            f'dur="{total:.2f}s" repeatCount="indefinite"/>'
            f'<rect x="{x:.1f}" y="{y}" width="{width - 1:.1f}" height="16" rx="3" fill="{shade}"/>'
            f'<text x="{x:.1f}" y="{y + 12.5}" textLength="{width - 1:.1f}" lengthAdjust="spacingAndGlyphs">'
            f"{escape(token.text)}</text></g>"
        )
    return "\n".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("--steps", type=int, nargs=2, default=(64, 4), help="of the teacher and the student")
    parser.add_argument("--length", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    drawn = [
        (name, *written(model, steps, args.seed, args.length))
        for name, model, steps in zip(("teacher", "student"), (args.teacher, args.student), args.steps, strict=True)
    ]
    total = max(calls for *_, calls in drawn) * CALL + END
    width = COLUMNS * CELL + 2 * LEFT
    height = TOP + LINE * (1 + max(token.line for _, tokens, _ in drawn for token in tokens)) + 8
    panels = "\n".join(
        panel(f"{name}: {calls} network calls", tokens, calls, LEFT + n * width, total)
        for n, (name, tokens, calls) in enumerate(drawn)
    )
    OUT.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * width:.0f} {height}" width="{2 * width:.0f}">\n'
        "<style>text { font: 13px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #1c232b } "
        ".title { font-weight: bold; font-size: 14px }</style>\n"
        f'<rect width="100%" height="100%" rx="8" fill="#ffffff"/>\n{panels}\n</svg>\n',
        encoding="utf-8",
    )
    print(f"{OUT}: {OUT.stat().st_size:,} bytes, {total:.1f} s")


if __name__ == "__main__":
    main()
