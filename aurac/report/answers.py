"""The answer in sentences: which adapter has the largest AURAC, and how sure that is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from aurac.report.tables import NONE, percent
from aurac.report.words import LISTED, MANY_TASKS, some

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.report.model import CurveRow, Run
    from aurac.report.paired import Difference
    from aurac.stats.rows import BestRow


def answers(
    run: Run,
    differences: Sequence[Difference],
    leaders: Mapping[str | None, BestRow] | None = None,
) -> list[str]:
    """Which adapter has the largest AURAC and how sure that is: a sentence or two for each task.

    Args:
        run: What was measured.
        differences: Paired differences of the best default curve against the others.
        leaders: The leader of each task, allowing for its having been picked.
    """
    tasks = run.task_names
    if not tasks:
        return ["This run holds no curve, so there is nothing to compare yet."]
    if len(tasks) > MANY_TASKS:
        return _many_tasks(run, differences)
    known = leaders or {}
    return [" ".join(_task_answer(run, task, differences, known.get(task))) for task in tasks]


def _task_answer(
    run: Run, task: str, differences: Sequence[Difference], leader: BestRow | None
) -> list[str]:
    scored = scored_defaults(run, task)
    if not scored:
        reasons = [c.score_reason for c in run.of_task(task) if c.score_reason]
        why = f" ({reasons[0]})" if reasons else ""
        return [f"On {task}, no adapter has an AURAC{why}."]
    best = scored[0]
    if len({curve.ranks for curve in scored}) > 1:
        return [_unequal(task, scored)]
    if len(scored) == 1:
        lines = [_alone(task, best)]
    else:
        tied = [curve for curve in scored if _value(curve) == _value(best)]
        who = some(curve.label for curve in tied)
        area = _picked(best, leader) if len(tied) == 1 else _area(best)
        lead = f"{who} {'share' if len(tied) > 1 else 'has'} the largest AURAC, {area}"
        lines = [f"On {task}, {lead} over ranks {_grid(best)}."]
        if len(tied) == 1:
            lines += [_verdict(best, scored[1], differences), *_candidates(best, leader)]
    return [*lines, *_published(run, task, best), *_unscored(run, task)]


def _alone(task: str, curve: CurveRow) -> str:
    first, last = percent(curve.accuracy[0]), percent(curve.accuracy[-1])
    return (
        f"On {task}, {curve.label} has an AURAC of {_area(curve)} over ranks {_grid(curve)}; its "
        f"accuracy is {first} % at rank {curve.ranks[0]} and {last} % at rank {curve.ranks[-1]}."
    )


def _unequal(task: str, scored: Sequence[CurveRow]) -> str:
    listed = "; ".join(f"{c.label} {_area(c)} over ranks {_grid(c)}" for c in scored[:LISTED])
    return (
        f"On {task}, the adapters were measured at different ranks, so their areas do not compare "
        f"and none is named the best: {listed}."
    )


def _unscored(run: Run, task: str) -> list[str]:
    """Default curves that could not take part, with the reason."""
    left = [c for c in run.of_task(task) if c.is_default and not c.log2]
    reasons = (f"{c.label} ({c.score_reason or 'no AURAC'})" for c in left)
    return [f"Not ranked: {some(reasons)}."] if left else []


def scored_defaults(run: Run, task: str) -> list[CurveRow]:
    """The default curves of a task that have an area, the largest first."""
    scored = [curve for curve in run.of_task(task) if curve.is_default and curve.log2]
    return sorted(scored, key=lambda c: -c.log2.value if c.log2 else 0.0)


def _area(curve: CurveRow) -> str:
    area = curve.log2
    if area is None:
        return NONE
    if area.low is None or area.high is None:
        return f"{percent(area.value)} % (no interval)"
    return f"{percent(area.value)} % (95 % interval {percent(area.low)} to {percent(area.high)})"


def _picked(curve: CurveRow, leader: BestRow | None) -> str:
    """The area of the leading curve, with the interval that allows for its having been picked."""
    if leader is None or leader.leader != curve.adapter or leader.estimate is None:
        return _area(curve)
    low, high = leader.estimate.low, leader.estimate.high
    if low is None or high is None:
        return f"{percent(_value(curve))} % (no interval)"
    return (
        f"{percent(_value(curve))} % (95 % interval {percent(low)} to {percent(high)}, widened "
        f"because the largest of {leader.compared} was picked)"
    )


def _candidates(curve: CurveRow, leader: BestRow | None) -> list[str]:
    """Which adapters may be the best, where there are more than two to ask about."""
    if leader is None or leader.leader != curve.adapter or leader.compared < 3:
        return []
    if len(leader.candidates) == 1:
        return ["All others are shown to be worse."]
    within = ""
    if leader.within:
        within = f"; none is more than {percent(leader.within)} points better than {curve.label}"
    return [f"The best may be any of {some(leader.candidates)} (95 % confidence{within})."]


def _grid(curve: CurveRow) -> str:
    if len(curve.ranks) <= 6:
        return ", ".join(map(str, curve.ranks))
    return f"{curve.ranks[0]} to {curve.ranks[-1]} ({len(curve.ranks)} of them)"


def _verdict(best: CurveRow, second: CurveRow, differences: Sequence[Difference]) -> str:
    gap = f"{percent(_value(best) - _value(second))} points"
    mine = [d for d in differences if d.first is best and d.second.is_default]
    paired = next((d for d in mine if d.second is second), None)
    if paired is None:
        return (
            f"Next is {second.label} with {percent(_value(second))} %, {gap} less; without stored "
            "documents that both answered there is no paired interval for this difference."
        )
    lead = f"It leads {second.label} ({percent(_value(second))} %) by {paired.sentence}"
    others = [d for d in mine if not d.certain]
    over = "on these documents"
    if best.members and second.members:
        over = "over documents and training seeds"
    if paired.certain and others:
        names = some(d.second.label for d in others)
        return f"{lead}, significant {over}; not so its lead over {names}."
    if paired.certain:
        return f"{lead}, significant {over}."
    seen = (
        f"; a true difference of {percent(paired.detectable)} points would have shown four times "
        "in five"
        if paired.detectable is not None
        else ""
    )
    if 2 in (best.seeds, second.seeds):
        return f"{lead}. No verdict: two seeds of a recipe do not show how much seeds vary."
    return f"{lead}, not significant {over}{seen}."


def _value(curve: CurveRow) -> float:
    return curve.log2.value if curve.log2 else 0.0


def _published(run: Run, task: str, best: CurveRow) -> list[str]:
    """The published inference beside the default one, where the choice matters."""
    lines = []
    for curve in run.of_task(task):
        if curve.role != "published" or curve.log2 is None:
            continue
        default = next((c for c in scored_defaults(run, task) if c.adapter == curve.adapter), None)
        if default is None:
            continue
        change = (
            " and would not lead"
            if default is best
            and _value(curve) < max(map(_value, scored_defaults(run, task)[1:]), default=0)
            else ""
        )
        lines.append(
            f"Under the published inference ({curve.rescale}) {curve.adapter} has "
            f"{percent(_value(curve))} %{change}: the scale used at inference is worth "
            f"{percent(abs(_value(default) - _value(curve)))} points of AURAC here."
        )
    return lines[:2]


def _many_tasks(run: Run, differences: Sequence[Difference]) -> list[str]:
    """Who leads how often, and how often that is more than chance."""
    ranked = {
        task: scored
        for task in run.task_names
        if (scored := scored_defaults(run, task)) and len({c.ranks for c in scored}) == 1
    }
    wins = Counter(scored[0].adapter for scored in ranked.values())
    ordered = sorted(wins.items(), key=lambda item: (-item[1], item[0]))
    lines = []
    if ordered:
        shown = [f"{name} on {times}" for name, times in ordered[:LISTED]]
        if len(ordered) > LISTED:
            rest = sum(times for _, times in ordered[LISTED:])
            shown.append(f"{len(ordered) - LISTED} others on {rest}")
        sure = sum(
            any(d.first is scored[0] and d.second is scored[1] and d.certain for d in differences)
            for scored in ranked.values()
            if len(scored) > 1
        )
        lines.append(
            f"Of {len(run.task_names)} tasks, the largest AURAC has {', '.join(shown)}. On {sure} "
            "of them the leader is significantly ahead of the runner-up on these documents (Holm "
            "over all pairs and tasks)."
        )
    unranked = len(run.task_names) - len(ranked)
    if unranked:
        lines.append(f"{unranked} tasks have no ranking: no score, or adapters at other ranks.")
    return lines
