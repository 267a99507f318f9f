"""The picture of a locked text at a level of noise, as SVG."""

from html import escape

from mcd.play.latent import Locked, Seen

WIDTH, LEFT = 1180, 118
_LATENT, _U, _ROWS = (8, 168), (184, 254), (268, 304)
"""The upper and lower end of the panels of the latent and of u, and the tops of the two rows of tokens."""
_RANGE = (-3.0, 9.0)
_HEIGHT, _BOX = 338, 26


def picture(one: Locked, seen: Seen) -> str:
    """Own coordinate and rivals of each token; its u against alpha; what both projections show."""
    column = (WIDTH - LEFT) / len(one.words)
    parts = [_panel(_LATENT, "latent w / σ", f"K = {one.K:,}"), _panel(_U, "u = F(Y)", "one per token")]
    line = _y(_U, seen.level.alpha, (0.0, 1.0))
    parts.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH}" y1="{line:.1f}" y2="{line:.1f}"/>')
    parts.append(f'<text class="small level" x="{LEFT - 8}" y="{line + 4:.1f}" text-anchor="end">α</text>')
    for top, name, rule in zip(_ROWS, ("P(w)", "Mask(x, u, α)"), ("largest coordinate", "u ≤ α"), strict=True):
        parts.append(f'<text x="{LEFT - 12}" y="{top + 12}" text-anchor="end">{name}</text>')
        parts.append(f'<text class="small" x="{LEFT - 12}" y="{top + 25}" text-anchor="end">{rule}</text>')
    for i, word in enumerate(one.words):
        x = LEFT + (i + 0.5) * column
        parts += _latent(x, column, seen, i)
        y, tone = _y(_U, one.u[i].item(), (0.0, 1.0)), "on" if seen.unmasked[i] else "off"
        parts.append(f'<line class="stem" x1="{x:.1f}" x2="{x:.1f}" y1="{_U[1]}" y2="{y:.1f}"/>')
        parts.append(f'<circle class="{tone}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        for top, shown in zip(_ROWS, (seen.projected[i], seen.unmasked[i]), strict=True):
            parts.append(_token(x, top, column, word, bool(shown)))
    drawn = "\n".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {_HEIGHT}" role="img" aria-label="latent, u and masks">{drawn}</svg>'


def _latent(x: float, column: float, seen: Seen, i: int) -> list[str]:
    """The dots of a token's rivals, the largest of them stronger, and its own coordinate."""
    span = min(column * 0.32, 16.0)
    parts = []
    for n, value in enumerate(seen.rivals[i].tolist()):
        at = x + (((n * 0.618034) % 1.0) * 2.0 - 1.0) * span if n else x
        parts.append(
            f'<circle class="{"rival" if n else "best"}" cx="{at:.1f}" cy="{_y(_LATENT, value, _RANGE):.1f}" '
            f'r="{4 if n == 0 else 2}"/>'
        )
    tone = "on" if seen.projected[i] else "off"
    y = _y(_LATENT, seen.own[i].item(), _RANGE)
    return [*parts, f'<circle class="{tone}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>']


def _panel(ends: tuple[int, int], name: str, about: str) -> str:
    top, bottom = ends
    return (
        f'<rect class="panel" x="{LEFT}" y="{top}" width="{WIDTH - LEFT}" height="{bottom - top}"/>'
        f'<text x="{LEFT - 12}" y="{top + 12}" text-anchor="end">{name}</text>'
        f'<text class="small" x="{LEFT - 12}" y="{top + 27}" text-anchor="end">{about}</text>'
    )


def _token(x: float, top: int, column: float, word: str, shown: bool) -> str:
    width = column - 4
    box = f'x="{x - width / 2:.1f}" y="{top}" width="{width:.1f}" height="{_BOX}" rx="4"'
    if not shown:
        return f'<rect class="hidden" {box}/>'
    text = word.strip() or "␣"
    size = min(13.0, 1.6 * width / len(text))
    return (
        f'<rect class="shown" {box}/><text x="{x:.1f}" y="{top + 17}" text-anchor="middle" '
        f'style="font-size:{size:.1f}px">{escape(text)}</text>'
    )


def _y(ends: tuple[int, int], value: float, values: tuple[float, float]) -> float:
    """The height of a value in a panel, kept within it."""
    share = (value - values[0]) / (values[1] - values[0])
    return ends[1] - min(1.0, max(0.0, share)) * (ends[1] - ends[0])
