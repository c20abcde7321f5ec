"""Numbers and curves as people read them: percent, points, and what a notebook shows.

Text in HTML is escaped, and isolated (`<bdi>`) so that a name cannot turn the line around it; the
markup holds no script, no style sheet and no address.
"""

from __future__ import annotations

import base64
import html
import io
import math
from typing import TYPE_CHECKING, Any

from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Line = tuple[str, Sequence[int], Sequence[float | None]]
    """Name, ranks, accuracies (None where there is none)."""

_MOST_LINES = 12


def decimals(value: float, digits: int) -> str:
    """A number in decimals, halves away from zero.

    Differences below 1e-9 are floating-point noise: a half is one whatever its last bits are.
    """
    if not math.isfinite(value):
        return f"{value}"
    steps = 10**digits
    whole = math.floor(round(abs(value) * steps, 9) + 0.5)
    return f"{'−' if value < 0 and whole else ''}{whole / steps:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent without the sign, such as "39.1"; a dash where it is not known."""
    return "–" if value is None else decimals(100 * value, digits)


def enough(needed: float, digits: int = 1) -> str:
    """The first margin of so many decimals that is above `needed`, in points; 0 stays 0."""
    return percent(next_margin(needed, digits + 2), digits)


def next_margin(needed: float, digits: int) -> float:
    """The first fraction of so many decimals that is above `needed`; 0 stays 0."""
    steps = 10**digits
    above = math.floor(round(needed * steps, 9)) + 1  # what is needed is itself not enough
    return above / steps if needed > 0 else 0.0


def reached(shown: float) -> str:
    """A lower bound in percent, rounded down."""
    return percent(math.floor(round(shown * 1000, 9)) / 1000)


def points(value: float) -> str:
    """A difference of fractions, such as "1.6 points"."""
    text = percent(value)
    if value == round(value, 2):
        text = text.removesuffix(".0")
    return f"{text} {'point' if text in ('1', '−1') else 'points'}"


def declared(value: float) -> str:
    """A margin or difference that somebody chose, unrounded, such as "1.25 points"."""
    text = f"{100 * value:.10g}".replace("-", "−")
    return f"{text} {'point' if text in ('1', '−1') else 'points'}"


def interval(estimate: Any) -> str:
    """``39.1 [31.6, 46.7]`` in percent of what has a value, low and high; or the value alone."""
    if estimate is None or estimate.low is None:
        return percent(None if estimate is None else estimate.value)
    return f"{percent(estimate.value)} [{percent(estimate.low)}, {percent(estimate.high)}]"


def size(number: float | None) -> str:
    """Bytes as kB, MB or GB."""
    if number is None:
        return "–"
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= step:
            return f"{decimals(number / step, 1 if number < 9.95 * step else 0)} {unit}"
    return f"{decimals(number, 0)} B"


def seconds(number: float | None) -> str:
    """A duration in s or ms."""
    if number is None:
        return "–"
    return f"{number:.2g} s" if number >= 1 else f"{1000 * number:.0f} ms"


def count(number: float | None) -> str:
    """A whole number in groups of three."""
    return "–" if number is None else f"{math.floor(number + 0.5):,}".replace(",", "\u00a0")


def show_span(span: Sequence[float], axis: str) -> str:
    """Amounts of parameters or bytes, such as "611 kB and 9.8 MB" or "5 sizes from 30 to 480"."""
    show = size if axis == "bytes" else count
    if len(span) == 2:
        return f"{show(span[0])} and {show(span[1])}"
    return f"{len(span)} sizes from {show(span[0])} to {show(span[-1])}"


def sentence_case(text: str) -> str:
    """A text that begins a sentence."""
    return text[:1].upper() + text[1:]


def counted(number: int, noun: str) -> str:
    """A number of things: "1 adapter", "3 adapters"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def signed(number: int) -> str:
    """A whole number with its sign."""
    return f"{number:+d}".replace("-", "−")


def text(value: object) -> str:
    """Any text, harmless in HTML and in one line."""
    return f"<bdi>{html.escape(one_line(value))}</bdi>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; every cell is escaped."""
    cells = "".join(f"<th>{text(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{text(v)}</td>' for v in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def picture(lines: Sequence[Line], baseline: float | None = None) -> str:
    """Accuracy in percent against rank of the first twelve curves, as an image within the page."""
    drawn = [line for line in lines[:_MOST_LINES] if line[1]]
    if not drawn:
        return ""
    from matplotlib.figure import Figure  # heavy, and only notebooks draw

    figure = Figure(figsize=(4.4, 2.4), layout="constrained")
    axes = figure.subplots()
    for name, ranks, values in drawn:
        shown = [float("nan") if value is None else 100 * value for value in values]
        axes.plot(ranks, shown, marker="o", label=one_line(name).replace("$", r"\$"))
    if baseline is not None:
        axes.axhline(100 * baseline, color="grey", linestyle="--", label="base")
    ranks = sorted({rank for _, known, _ in drawn for rank in known})
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


def _described(lines: Sequence[Line]) -> str:
    """What the picture shows, for a reader who does not see it."""
    parts = []
    for name, ranks, values in lines:
        known = [(r, v) for r, v in zip(ranks, values, strict=True) if v is not None]
        if known:
            (first, a), (last, b) = known[0], known[-1]
            parts.append(
                f"{one_line(name)}: {percent(a)} % at rank {first}, {percent(b)} % at rank {last}"
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
