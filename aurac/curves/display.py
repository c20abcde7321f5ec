"""Numbers and curves as people read them: percent, points, and what a notebook shows.

Accuracies are fractions everywhere else. Text in HTML is escaped, and isolated (`<bdi>`) so that a
name cannot turn the line around it; the markup holds no script, no style sheet and no address.
"""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MOST_CURVES = 12

Points = tuple[str, "Sequence[int]", "Sequence[float | None]"]
"""Name, ranks, accuracies (None where there is none)."""


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent without the sign, such as "39.1"; a dash where it is not known."""
    if value is None:
        return "–"
    text = f"{100 * value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def points(value: float) -> str:
    """A difference of fractions, such as "1.6 points"."""
    text = percent(value)
    if value == round(value, 2):
        text = text.removesuffix(".0")
    return f"{text} {'point' if text in ('1', '−1') else 'points'}"


def text(value: object) -> str:
    """Any text, harmless in HTML and in one line."""
    return f"<bdi>{html.escape(_line(value))}</bdi>"


def _line(value: object) -> str:
    return " ".join(str(value).split())


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; every cell is escaped."""
    cells = "".join(f"<th>{text(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{text(v)}</td>' for v in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def picture(curves: Sequence[Points], baseline: float | None = None) -> str:
    """Accuracy in percent against rank on a log2 axis, as an image within the page.

    Args:
        curves: What is drawn, at most twelve of them.
        baseline: Accuracy of the base, a dashed grey line.
    """
    drawn = [curve for curve in curves[:_MOST_CURVES] if curve[1]]
    if not drawn:
        return ""
    from matplotlib.figure import Figure  # heavy, and only notebooks draw

    figure = Figure(figsize=(4.4, 2.4), layout="constrained")
    axes = figure.subplots()
    for name, ranks, values in drawn:
        shown = [float("nan") if value is None else 100 * value for value in values]
        axes.plot(ranks, shown, marker="o", label=_line(name).replace("$", r"\$"))
    if baseline is not None:
        axes.axhline(100 * baseline, color="grey", linestyle="--", label="base")
    ranks = sorted({rank for _, own, _ in drawn for rank in own})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.minorticks_off()
    axes.set(xlabel="rank", ylabel="accuracy (%)", ylim=(0, None))
    if len(drawn) > 1 or baseline is not None:
        axes.legend(fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    data = base64.b64encode(image.getvalue()).decode("ascii")
    label = html.escape(_described(drawn), quote=True)
    return f'<img alt="{label}" src="data:image/png;base64,{data}" style="max-width:100%">'


def _described(curves: Sequence[Points]) -> str:
    """What the picture shows, for a reader who does not see it."""
    parts = []
    for name, ranks, values in curves:
        known = [(r, v) for r, v in zip(ranks, values, strict=True) if v is not None]
        if known:
            (first, a), (last, b) = known[0], known[-1]
            parts.append(
                f"{_line(name)}: {percent(a)} % at rank {first}, {percent(b)} % at rank {last}"
            )
    return "Accuracy against rank. " + "; ".join(parts)


def curve_html(curve: Any) -> str:
    """A `aurac.Curve`: what it is, its picture and its numbers."""
    facts = [
        f"{curve.n_docs} documents" if curve.n_docs is not None else "no per-document outcomes",
        curve.metric,
        f"base {curve.base}" if curve.base else None,
    ]
    known = dict(zip(curve.ranks, curve.accuracy, strict=True))
    ranks = sorted({*known, *curve.missing})
    rows = [[rank, percent(known.get(rank)), curve.missing.get(rank, "")] for rank in ranks]
    head = ["rank", "accuracy (%)", "missing because"]
    if not curve.missing:
        rows, head = [row[:2] for row in rows], head[:2]
    about = " · ".join(text(fact) for fact in facts if fact)
    drawn = picture([(curve.label, ranks, [known.get(rank) for rank in ranks])], curve.baseline)
    return (
        f"<div><p><strong>{text(curve.label)}</strong> · {about}</p>"
        f"{drawn}{table(head, rows)}</div>"
    )


def score_html(score: Any) -> str:
    """A `aurac.Score`: AURAC on both axes with intervals, the weights, and what to know."""
    rows = []
    for axis, area in (("log2", score.log2), ("linear", score.linear)):
        ends = "–" if area.low is None else f"{percent(area.low)} to {percent(area.high)}"
        name = f"{axis}{' (headline)' if axis == score.axis else ''}"
        rows.append([name, percent(area.value, 2), ends, area.method])
    rows.append(["mean over ranks", percent(score.mean, 2), "–", ""])
    weights = [
        [rank, percent(y), f"{score.weights['log2'][k]:.3f}", f"{score.weights['linear'][k]:.3f}"]
        for k, (rank, y) in enumerate(zip(score.ranks, score.accuracy, strict=True))
    ]
    level = f"{100 * score.estimate.level:g} % interval"
    drops = [f"falls by {points(size)} from rank {r} to {s}" for r, s, size in score.drops]
    notes = "".join(f"<li>{text(note)}</li>" for note in [*score.notes, *drops])
    return (
        f"<div><p><strong>AURAC {percent(score.value, 2)} %</strong></p>"
        f"{table(['axis', 'AURAC (%)', level, 'interval by'], rows)}"
        f"{picture([('accuracy', score.ranks, score.accuracy)])}"
        f"{table(['rank', 'accuracy (%)', 'weight, log2', 'weight, linear'], weights)}"
        f"{f'<ul>{notes}</ul>' if notes else ''}</div>"
    )
