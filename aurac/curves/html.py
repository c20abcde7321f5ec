"""What a notebook shows of a curve: HTML with an inline SVG.

Text is escaped, and isolated (`<bdi>`) so that a name cannot turn the line around it; the markup
holds no script, no style sheet and no address. Scores and comparisons use the same parts.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WIDTH, _HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 34
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MOST_CURVES = 12

Points = tuple[str, "Sequence[int]", "Sequence[float | None]"]
"""Name, ranks, accuracies (None where there is none)."""


def text(value: object) -> str:
    """Any text, harmless in HTML and in one line."""
    line = " ".join(str(value).split())
    return f"<bdi>{html.escape(line)}</bdi>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; every cell is escaped."""
    cells = "".join(f"<th>{text(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{text(v)}</td>' for v in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def fraction(value: float | None) -> str:
    """Four digits, or a dash."""
    return "–" if value is None else f"{value:.4f}"


def picture(curves: Sequence[Points], baseline: float | None = None) -> str:
    """Accuracy against rank on a log2 axis, as SVG.

    Args:
        curves: What is drawn, at most twelve of them.
        baseline: Accuracy of the base, a dashed grey line.
    """
    drawn = [curve for curve in curves[:_MOST_CURVES] if curve[1]]
    ranks = sorted({rank for _, own, _ in drawn for rank in own})
    if not ranks:
        return ""
    known = [y for _, _, values in drawn for y in values if y is not None]
    top = min(1.0, max([0.05, *known, baseline or 0.0]) * 1.15)
    x, y = _x(ranks), _y(top)
    parts = [*_axes(ranks, x, top, y)]
    if baseline is not None:
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(baseline):.1f}" '
            f'y2="{y(baseline):.1f}" stroke="currentColor" stroke-opacity=".5" '
            f'stroke-dasharray="3 3"><title>base: {fraction(baseline)}</title></line>'
        )
    for k, (name, own, values) in enumerate(drawn):
        parts += _line(name, own, values, x, y, k)
    label = html.escape(_words(drawn), quote=True)
    return (
        f'<svg role="img" aria-label="{label}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-size="11" font-family="sans-serif" '
        f'fill="currentColor" style="max-width:100%;height:auto">{"".join(parts)}</svg>'
    )


def _x(ranks: Sequence[int]) -> Any:
    low, high = math.log2(ranks[0]), math.log2(ranks[-1])
    span = (high - low) or 1.0
    room = _WIDTH - _LEFT - _RIGHT
    return lambda rank: _LEFT + 8 + (math.log2(rank) - low) / span * (room - 16)


def _y(top: float) -> Any:
    room = _HEIGHT - _TOP - _BOTTOM
    return lambda value: _HEIGHT - _BOTTOM - value / top * room


def _axes(ranks: Sequence[int], x: Any, top: float, y: Any) -> Iterable[str]:
    for k in range(5):
        value = top * k / 4
        yield (
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            'stroke="currentColor" stroke-opacity=".15"/>'
            f'<text x="{_LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        )
    taken = -math.inf
    for rank in ranks:
        if x(rank) - taken < 22:
            continue
        taken = x(rank)
        yield (
            f'<text x="{taken:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{rank}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text x="{middle:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">rank</text>'


def _line(
    name: str, ranks: Sequence[int], values: Sequence[float | None], x: Any, y: Any, k: int
) -> Iterable[str]:
    """The pieces between missing ranks, and a marker with its value at each rank."""
    hue, dash = _HUES[k % len(_HUES)], _DASHES[k // len(_HUES) % len(_DASHES)]
    pieces: list[list[str]] = [[]]
    for rank, value in zip(ranks, values, strict=True):
        if value is None:
            pieces.append([])
            continue
        pieces[-1].append(f"{x(rank):.1f},{y(value):.1f}")
        said = f"{html.escape(' '.join(str(name).split()))}, rank {rank}: {fraction(value)}"
        yield (
            f'<circle cx="{x(rank):.1f}" cy="{y(value):.1f}" r="3" fill="{hue}">'
            f"<title>{said}</title></circle>"
        )
    for piece in pieces:
        if len(piece) > 1:
            style = f'stroke="{hue}" stroke-width="1.8" stroke-dasharray="{dash}"'
            yield f'<polyline points="{" ".join(piece)}" fill="none" {style}/>'


def _words(curves: Sequence[Points]) -> str:
    """What the picture shows, for a reader who does not see it."""
    said = []
    for name, ranks, values in curves:
        known = [(r, v) for r, v in zip(ranks, values, strict=True) if v is not None]
        if known:
            (first, a), (last, b) = known[0], known[-1]
            said.append(f"{name}: {a:.3f} at rank {first}, {b:.3f} at rank {last}")
    return "Accuracy against rank. " + "; ".join(said)


def curve_html(curve: Any) -> str:
    """A `aurac.Curve`: what it is, its picture and its numbers."""
    facts = [
        f"{curve.n_docs} documents" if curve.n_docs is not None else "no per-document outcomes",
        curve.metric,
        f"base {curve.base}" if curve.base else None,
    ]
    points = dict(zip(curve.ranks, curve.accuracy, strict=True))
    ranks = sorted({*points, *curve.missing})
    values = [points.get(rank) for rank in ranks]
    rows = [[rank, fraction(points.get(rank)), curve.missing.get(rank, "")] for rank in ranks]
    head = ["rank", "accuracy", "missing because"]
    if not curve.missing:
        rows, head = [row[:2] for row in rows], head[:2]
    about = " · ".join(text(fact) for fact in facts if fact)
    return (
        f"<div><p><strong>{text(curve.label)}</strong> · {about}</p>"
        f"{picture([(curve.label, ranks, values)], curve.baseline)}{table(head, rows)}</div>"
    )
