"""What a report says in sentences: the verdict, its numbers, the recommended rank."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from aurac.curves.display import interval, percent, points, size
from aurac.report.content import Tile
from aurac.report.escape import one_line
from aurac.report.model import published_pairs, scored_defaults

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aurac.report.comparisons import Findings
    from aurac.report.model import CurveRow, Run
    from aurac.stats import NonInferiorRank

LISTED = 5
_NO_CURVE = "This run holds no curve, so there is nothing to compare yet."


def to(low: float | None, high: float | None) -> str:
    """The two ends of an interval in percent."""
    return f"{percent(low)} to {percent(high)}"


def some(names: Iterable[str]) -> str:
    """Names each once, cut after a few."""
    listed = list(dict.fromkeys(names))
    if len(listed) <= LISTED:
        return ", ".join(listed)
    return f"{', '.join(listed[:LISTED])} and {len(listed) - LISTED} more"


def title(run: Run) -> str:
    """What was compared, in a line."""
    adapters = list(dict.fromkeys(curve.adapter for curve in run.curves))
    tasks = run.task_names
    who = ", ".join(adapters) if len(adapters) <= 4 else f"{len(adapters)} adapters"
    where = ", ".join(tasks) if len(tasks) <= 3 else f"{len(tasks)} tasks"
    return one_line(f"{who or 'no adapter'} on {where or 'no task'}", 120)


def lead(run: Run) -> str:
    """Base, ranks and documents, in a line."""
    bases = dict.fromkeys(str(c.base) for c in run.curves if c.base)
    ranks = sorted({rank for curve in run.curves for rank in curve.ranks})
    counts = sorted({curve.n_docs for curve in run.curves if curve.n_docs})
    parts = [f"base {', '.join(bases)}"] if bases else []
    if ranks:
        several = len(ranks) > 1
        parts.append(f"ranks {ranks[0]} to {ranks[-1]}" if several else f"rank {ranks[0]}")
    if counts:
        low, high = counts[0], counts[-1]
        each = " for each task" if len(run.task_names) > 1 else ""
        parts.append(f"{low if low == high else f'{low} to {high}'} documents{each}")
    return "; ".join(parts)


def verdicts(run: Run, findings: Findings) -> tuple[str, ...]:
    """The answer: a sentence for each task, or two for many tasks together."""
    if not run.task_names:
        return (_NO_CURVE,)
    if run.sequential and run.sequential.decisions:  # not what a fixed sample would say
        decided = [one.sentence for one in run.sequential.decisions]
        rest = len(decided) - LISTED
        return (*decided[:LISTED], *([f"{rest} more: see below."] if rest > 0 else []))
    if run.many_tasks:
        return tuple(_counted(run, findings))
    if len(run.task_names) == 1:
        return (_verdict(run, run.task_names[0], findings),)
    return tuple(f"{task}: {_verdict(run, task, findings)}" for task in run.task_names)


def _verdict(run: Run, task: str, findings: Findings) -> str:
    scored = scored_defaults(run, task)
    if not scored:
        reasons = [c.score_reason for c in run.of_task(task) if c.score_reason]
        return f"No adapter has an AURAC{f' ({reasons[0]})' if reasons else ''}."
    best = scored[0]
    if len({curve.ranks for curve in scored}) > 1:
        return "The adapters were measured at different ranks, so none is named the best."
    if len(scored) == 1:
        return f"{best.label} has an AURAC of {percent(best.area)} %."
    equal = [curve.label for curve in scored if curve.area == best.area]
    if len(equal) > 1:
        return f"{some(equal)} have the same AURAC, {percent(best.area)} %."
    return f"{best.label} has the largest AURAC ({percent(best.area)} %){_lead(scored, findings)}"


def _lead(scored: list[CurveRow], findings: Findings) -> str:
    """How sure the leader's lead is, to follow its AURAC."""
    best, second = scored[:2]
    pair = findings.pair(best, second)
    if pair is None:
        return (
            f", {percent(best.area - second.area)} points more than {second.label}. Without stored "
            "documents that both answered, the difference cannot be tested."
        )
    ends = "" if pair.low is None or pair.high is None else f", {to(pair.low, pair.high)}"
    ahead = f"lead over {second.label} ({percent(pair.value)} points{ends})"
    if not pair.significant:
        if 2 in (best.seeds, second.seeds):
            return f"; its {ahead} has no verdict, since two seeds do not show how much seeds vary."
        return f"; its {ahead} is not significant."
    pairs = [d for d in findings.pairs[best.task] if d.second.is_default]
    others = [d.second.label for d in pairs if not d.significant]
    if others:
        return f"; its {ahead} is significant, that over {some(others)} is not."
    rest = " and all others" if len(scored) > 2 else ""
    return f"; its {ahead}{rest} is significant."


def _counted(run: Run, findings: Findings) -> list[str]:
    """Which adapter leads on how many tasks, and on how many of them significantly."""
    ranked = [
        scored
        for task in run.task_names
        if (scored := scored_defaults(run, task)) and len({c.ranks for c in scored}) == 1
    ]
    wins = Counter(scored[0].adapter for scored in ranked)
    ordered = sorted(wins.items(), key=lambda item: (-item[1], item[0]))
    lines = []
    if ordered:
        shown = [f"{name} on {times}" for name, times in ordered[:LISTED]]
        if len(ordered) > LISTED:
            rest = sum(times for _, times in ordered[LISTED:])
            shown.append(f"{len(ordered) - LISTED} others on {rest}")
        leads = (findings.pair(*scored[:2]) for scored in ranked if len(scored) > 1)
        sure = sum(pair is not None and pair.significant for pair in leads)
        lines.append(
            f"Of {len(run.task_names)} tasks, the largest AURAC has {', '.join(shown)}. On {sure} "
            "of them the lead over the runner-up is significant (Holm over all pairs and tasks)."
        )
    if len(ranked) < len(run.task_names):
        unranked = len(run.task_names) - len(ranked)
        lines.append(f"{unranked} tasks have no ranking: no score, or adapters at other ranks.")
    return lines


def tiles(run: Run, task: str, findings: Findings) -> tuple[Tile, ...]:
    """The numbers of the first screen: best AURAC, recommended rank, scale at inference."""
    scored = scored_defaults(run, task)
    if not scored:
        return ()
    best = scored[0]
    parts = [_best_tile(scored, findings), _rank_tile(best, findings.recommended(best))]
    if pairs := published_pairs(run, task):
        default, other = both_curves = next((p for p in pairs if p[0] is best), pairs[0])
        both = ", ".join(f"{percent(curve.area)} % {curve.scale}" for curve in both_curves)
        change = f"{percent(abs(default.area - other.area))} points"
        parts.append(Tile("Scale at inference", change, (f"{default.adapter}: {both}",)))
    elif best.baseline is not None:
        parts.append(Tile("Base model", f"{percent(best.baseline)} %", ("accuracy at rank 0",)))
    return tuple(parts)


def _best_tile(scored: list[CurveRow], findings: Findings) -> Tile:
    best = scored[0]
    area = findings.leader_area(best)
    known = area.low is not None
    ends = f"95 % interval {to(area.low, area.high)}" if known else "no interval"
    if len(scored) == 1:
        return Tile("AURAC", f"{percent(best.area)} %", (best.label, ends))
    tied = [curve.label for curve in findings.tied(scored) if curve is not best]
    if tied:
        sure = f"not significantly better than {some(tied)}"
    elif findings.pairs[best.task]:
        sure = "significantly better than all others"
    else:
        sure = "not tested"
    return Tile("Best AURAC", f"{percent(best.area)} %", (best.label, ends, sure))


def _rank_tile(curve: CurveRow, test: NonInferiorRank | None) -> Tile:
    last = len(curve.ranks) - 1
    if test is None:
        return Tile("Highest rank", str(curve.ranks[-1]), (_at_rank(curve, last),))
    at = curve.ranks.index(test.rank)
    return Tile("Recommended rank", str(test.rank), (_at_rank(curve, at), _why(curve, test)))


def _at_rank(curve: CurveRow, at: int) -> str:
    amount = curve.bytes[at] if at < len(curve.bytes) else None
    accuracy = f"accuracy {percent(curve.accuracy[at])} %"
    return f"{size(amount)}, {accuracy}" if amount else accuracy


def _why(curve: CurveRow, test: NonInferiorRank) -> str:
    if test.seeds > 1 and test.smallest_margin >= 1.0:
        return f"{test.seeds} seeds are too few to test a smaller rank for another seed."
    if test.rank == test.reference:
        return f"No smaller rank is shown to stay within {points(test.margin)} of it."
    last = len(curve.ranks) - 1
    return (
        f"It is shown to stay within {points(test.margin)} of rank {test.reference} "
        f"({_at_rank(curve, last)})."
    )


def details(run: Run, task: str, findings: Findings) -> list[str]:
    """What stands behind the verdict of a task."""
    scored = scored_defaults(run, task)
    unscored = [c for c in run.of_task(task) if c.is_default and not c.log2]
    left = some(f"{c.label} ({c.score_reason or 'no AURAC'})" for c in unscored)
    lines = [f"Without an AURAC: {left}."] if unscored and scored else []
    if not scored:
        return lines
    best = scored[0]
    if len({curve.ranks for curve in scored}) > 1:
        listed = "; ".join(
            f"{c.label} {percent(c.area)} % over ranks {_grid(c)}" for c in scored[:LISTED]
        )
        return [f"AURAC over different ranks does not compare: {listed}.", *lines]
    area, leader, ends = findings.leader_area(best), findings.leader(best), ""
    if area.low is not None:
        wide = f", widened because the best of {leader.compared} was picked" if leader else ""
        ends = f" (95 % interval {to(area.low, area.high)}{wide})"
    head = f"{best.label}: AURAC {percent(best.area)} %{ends}, log2 axis, ranks {_grid(best)}."
    lines.insert(0, head)
    pair = next((d for d in findings.pairs[task] if d.second.is_default), None)
    if pair is not None and not pair.significant and pair.detectable is not None:
        over = "documents and seeds" if best.members else "documents"
        lines.append(
            f"With these {over} the test detects differences of {percent(pair.detectable)} points "
            "or more (80 % power)."
        )
    if leader and len(leader.candidates) > 1:
        within = f", by at most {percent(leader.within)} points" if leader.within else ""
        others = some(name for name in leader.candidates if name != best.adapter)
        lines.append(f"{others} may be better than {best.label}{within} (95 % confidence).")
    return [*lines, *_published(run, task, scored), *_rank_details(best, findings)]


def _grid(curve: CurveRow) -> str:
    if len(curve.ranks) <= 6:
        return ", ".join(map(str, curve.ranks))
    return f"{curve.ranks[0]} to {curve.ranks[-1]} ({len(curve.ranks)} of them)"


def _published(run: Run, task: str, scored: list[CurveRow]) -> list[str]:
    lines = []
    for default, curve in published_pairs(run, task)[:2]:
        beaten = default is scored[0] and any(curve.area < c.area for c in scored[1:])
        lines.append(
            f"As published (without P), {curve.adapter} has an AURAC of {percent(curve.area)} %"
            f"{' and is not the best' if beaten else ''}: the scale at inference changes "
            f"{percent(abs(default.area - curve.area))} points."
        )
    return lines


def _rank_details(best: CurveRow, findings: Findings) -> list[str]:
    test, leader = findings.recommended(best), findings.leader(best)
    sentence = rank_sentence(best, test)
    if test is None:
        return [sentence]
    if test.rank == test.reference and test.smallest_margin < 1.0:
        needed = percent(test.smallest_margin)
        sentence += f" A margin of {needed} points would have been needed for one."
    lines = [sentence]
    if leader and leader.compared > 1:
        among = f"{leader.compared} adapters (95 % confidence)"
        lines.append(f"The test allows for the choice among {among}.")
    return [*lines, findings.margin]


def rank_sentence(curve: CurveRow, test: NonInferiorRank | None) -> str:
    """Which rank of a curve to use, what it costs, and what was shown."""
    top = curve.ranks[-1]
    if test is None:
        return f"At rank {top}: {_at_rank(curve, len(curve.ranks) - 1)}."
    at = curve.ranks.index(test.rank)
    text = f"Use rank {test.rank} ({_at_rank(curve, at)}). {_why(curve, test)}"
    if test.seeds > 1 and test.smallest_margin >= 1.0 and test.checkpoints not in (None, top):
        text += (
            f" In each of these {test.seeds} checkpoints, rank {test.checkpoints} loses less than "
            f"{points(test.margin)}."
        )
    return text


def margin_note(margin: float, *, assumed: bool) -> str:
    """Whose margin the ranks of a report are about."""
    if assumed:
        advice = "Choose yours before you look: aurac report --margin."
        return f"No margin was given, so {points(margin)} is assumed. {advice}"
    return f"The margin of {points(margin)} was given for this report."


def area_sentence(curve: CurveRow) -> str:
    """AURAC of a curve with its interval, or why there is none."""
    return f"{interval(curve.log2)} %" if curve.log2 else curve.score_reason or "not known"


GLOSSARY = {
    "AURAC": "area under the rank-accuracy curve divided by its width: a weighted mean of the "
    "accuracies. On the log2 axis, the headline, each doubling of the rank counts alike; on the "
    "linear axis the highest ranks dominate.",
    "prefix, SVD": "two ways to cut an adapter to rank r: its first r components, or the best "
    "approximation of its update of rank r.",
    "with the trained P, as published (without P)": "MatryoshkaLoRA trains B · P · A with a fixed "
    "diagonal P; its published inference leaves P out. The two are different functions.",
    "rank 0, base": "the model without an adapter.",
    "interval": "the 95 % confidence interval, over documents (and training seeds where there are "
    "several).",
    "significant": "p below 0.05 in the paired test on the same documents, after Holm's correction "
    "for all pairs of this report.",
    "non-inferior, margin": "shown by a one-sided paired test to lose less than the margin against "
    "the highest rank (5 % error).",
    "detectable": "the smallest true difference that the test, at the level that Holm's correction "
    "left it, finds four times in five.",
    "point": "a difference of one percent of the documents.",
}
