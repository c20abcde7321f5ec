"""The tiles of a report's first screen: best AURAC, what to ship, truncation or scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.analysis.sentences import choice_sentences
from aurac.curves.display import percent, size
from aurac.show.findings import ordered
from aurac.show.render import Tile
from aurac.show.sentences import CHOICES, published_pairs, some, to, two_ways

if TYPE_CHECKING:
    from aurac.analysis.choice_rows import Choice
    from aurac.records.run import CurveRow
    from aurac.show.findings import Findings


def tiles(findings: Findings, task: str) -> tuple[Tile, ...]:
    """The numbers of the first screen: best AURAC, what to ship, scale at inference."""
    best = findings.best[task]
    if best is None:
        return ()
    parts = [_best_tile(best, findings)]
    if choice := findings.choices.get(task):
        parts.append(_choice_tile(choice, findings))
    if pairs := published_pairs(findings, task):
        first = sorted(pairs, key=lambda pair: best not in pair)[:2]
        parts += [_published_tile(*pair, findings) for pair in first]
    elif best.baseline is not None:
        parts.append(Tile("Base model", f"{percent(best.baseline)} %", ("accuracy at rank 0",)))
    return tuple(parts)


def _best_tile(best: CurveRow, findings: Findings) -> Tile:
    area = findings.leader_area(best)
    ends = "no interval" if area.low is None else f"95 % interval {to(area.low, area.high)}"
    row = findings.leader(best)
    if row and row.estimate and row.estimate.low is not None:
        ends += f", widened because the best of {row.compared} was picked"
    if best.task not in findings.leaders:
        return Tile("AURAC", f"{percent(best.area)} %", (best.label, ends))
    others = [curve for curve in findings.candidates[best.task] if curve is not best]
    tested = [curve.label for curve in others if findings.pair(best, curve)]
    rest = [curve.label for curve in others if curve.label not in tested]
    parts = [f"not significantly better than {some(tested)}"] if tested else []
    parts += [f"not tested against {some(rest)}"] if rest else []
    compared = findings.leaders[best.task].compared
    sure = "; ".join(parts) or f"shown to be the best of these {compared} rows"
    return Tile("Best AURAC", f"{percent(best.area)} %", (best.label, ends, sure))


def _published_tile(default: CurveRow, other: CurveRow, findings: Findings) -> Tile:
    """How far apart an adapter is from itself as published."""
    upper, lower = ordered((default, other))
    pair = findings.pair(upper, lower)
    known = pair.estimate if pair else None
    ends = f"95 % interval {to(known.low, known.high)}" if known else "not paired"
    size = f"{percent(upper.area - lower.area)} points"
    lines = (ends, f"{default.called}: {two_ways(default, other)}")
    return Tile(CHOICES[other.published].capitalize(), size, lines)


def _choice_tile(choice: Choice, findings: Findings) -> Tile:
    """What to ship; without a margin how to ask for it."""
    head, *rest = choice_sentences(choice, called=findings.called)
    chosen = choice.chosen
    if chosen is not None:
        title = "Recommended rank" if choice.curves == 1 else "Recommended"
        value = str(chosen.rank) if choice.curves == 1 else findings.called(chosen)
        amount = f"{size(chosen.bytes)}, " if chosen.bytes else ""
        return Tile(title, value, (f"{amount}accuracy {percent(chosen.accuracy)} %", *rest[:1]))
    if choice.declared or choice.best is None or choice.best.above_base is False:
        return Tile("Recommended", "none", (head, *rest))
    if choice.few_seeds:
        return Tile("Recommended", "none", (head.split(".")[0],))
    how = (
        "aurac report FOLDER --margin M names the smallest that is shown to be within M of the "
        "best, if any is (0.02: 2 points)."
    )
    return Tile("Recommended", "needs a margin", (how,))
