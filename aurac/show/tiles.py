"""The tiles of a report's first screen: best AURAC, what to ship, truncation or scale."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aurac.analysis.sentences import choice_sentences, show_p
from aurac.curves.display import percent, size
from aurac.curves.names import some
from aurac.show.findings import ordered, scale
from aurac.show.render import Tile
from aurac.show.sentences import published_pairs, to, two_ways

if TYPE_CHECKING:
    from aurac.analysis.choice_rows import Choice
    from aurac.records.run import CurveRow
    from aurac.show.findings import Findings


def tiles(findings: Findings, task: str) -> tuple[Tile, ...]:
    """The numbers of the first screen: best AURAC, what to ship, truncation and scale."""
    best = findings.best[task]
    if best is None:
        return ()
    choice = findings.choices.get(task)
    parts = [replace(_best_tile(best, findings), top=choice is None or choice.chosen is None)]
    if choice:
        parts.append(_choice_tile(choice, findings))
    if ways := _two_ways(findings, task):
        first = sorted(ways, key=lambda pair: best not in pair)[:2]
        parts += [_ways_tile(*pair, findings) for pair in first]
    elif best.baseline is not None:
        parts.append(Tile("Base model", f"{percent(best.baseline)} %", ("accuracy at rank 0",)))
    return tuple(parts)


def _best_tile(best: CurveRow, findings: Findings) -> Tile:
    area = findings.leader_area(best)
    ends = "no interval" if area.low is None else f"95 % interval {to(area.low, area.high)}"
    row = findings.leader(best)
    if row and row.estimate and row.estimate.low is not None:
        ends += f", widened for the best of {row.compared}"
    if best.task not in findings.leaders:
        return Tile("AURAC", f"{percent(best.area)} %", (best.label, ends))
    others = [curve for curve in findings.candidates[best.task] if curve is not best]
    tested = [curve.label for curve in others if findings.pair(best, curve)]
    rest = [curve.label for curve in others if curve.label not in tested]
    parts = [f"not significantly better than {some(tested)}"] if tested else []
    parts += [f"may be as good, not tested against it: {some(rest)}"] if rest else []
    compared = f"shown to be the best of these {findings.leaders[best.task].compared} rows"
    sure = "; ".join(parts) or compared
    return Tile("Best AURAC", f"{percent(best.area)} %", (best.label, ends, sure))


def _two_ways(findings: Findings, task: str) -> list[tuple[CurveRow, CurveRow]]:
    """Adapters as compared and as published, and by SVD and by prefix."""
    pairs = published_pairs(findings, task)
    bases = (row for row in findings.analysis.closely.bases if row.task == task)
    more = ((findings.row(task, row.svd), findings.row(task, row.prefix)) for row in bases)
    ways = [pairs, [pair for pair in more if pair not in pairs]]
    return [x for each in ways for x in sorted(each, key=lambda pair: -max(c.area for c in pair))]


def _ways_tile(first: CurveRow, second: CurveRow, findings: Findings) -> Tile:
    """How far apart an adapter is from itself under another truncation or scale."""
    upper, lower = ordered((first, second))
    pair = findings.pair(upper, lower)
    known = pair.estimate if pair else None
    ends = f"95 % interval {to(known.low, known.high)}" if known else "not paired"
    if pair and pair.verdict == 0 and pair.p_holm is not None:
        ends += f", not significant (adjusted p {show_p(pair.p_holm)})"
    title = "Scale at inference" if first.basis == second.basis else "Truncation"
    if title == "Truncation" and scale(first) != scale(second):
        title += " and scale"
    gap = f"{percent(upper.area - lower.area)} points"
    return Tile(title, gap, (ends, f"{first.called}: {two_ways(first, second)}"))


def _choice_tile(choice: Choice, findings: Findings) -> Tile:
    """What to ship; without a margin how to ask for it."""
    head, *rest = choice_sentences(replace(choice, task=None), called=findings.called)
    chosen = choice.chosen
    if chosen is not None:
        title = "Recommended rank" if choice.curves == 1 else "Recommended"
        value = str(chosen.rank) if choice.curves == 1 else findings.called(chosen)
        amount = f"{size(chosen.bytes)}, " if chosen.bytes else ""
        shown = f"{amount}accuracy {percent(chosen.accuracy)} %"
        return Tile(title, value, (shown, *rest[:1]), top=True)
    if choice.declared or choice.best is None or choice.best.above_base is False:
        return Tile("Recommended", "none", (head, *rest))
    if choice.few_seeds:
        return Tile("Recommended", "none", (head.split(".")[0],))
    how = "names the smallest configuration that is shown to be within M of the best."
    command, when = "aurac report FOLDER --margin M", "Choose M before you see results."
    return Tile("Recommended", "needs a margin", (how, when), command)
