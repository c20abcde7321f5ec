"""What a report says in sentences: the answer, the recommended rank, the caveats of the run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from aurac.report.comparisons import seeds_of
from aurac.report.model import MANY_TASKS, scored_defaults
from aurac.report.tables import NONE, percent, points, size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from aurac.report.comparisons import Difference
    from aurac.report.model import CurveRow, Run
    from aurac.stats import NonInferiorRank
    from aurac.stats.rows import BestRow


LISTED = 5


def some(names: Iterable[str]) -> str:
    """Names each once, cut after a few."""
    listed = list(dict.fromkeys(names))
    if len(listed) <= LISTED:
        return ", ".join(listed)
    return f"{', '.join(listed[:LISTED])} and {len(listed) - LISTED} more"


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
    return [*lines, *_published_inference(run, task, best), *_unscored(run, task)]


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


def _published_inference(run: Run, task: str, best: CurveRow) -> list[str]:
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


def margin_note(delta: float, *, assumed: bool) -> str:
    """Whose margin the ranks of a report are about."""
    if not assumed:
        return f"The margin of {points(delta)} was given for this report."
    return (
        f"The margin of {points(delta)} is what this report assumes, since none was given: choose "
        "yours before looking, with aurac report --margin."
    )


def rank_sentence(
    curve: CurveRow, found: NonInferiorRank | None, who: str, *, picked_from: int = 1
) -> str:
    """At which rank to use a curve, what that costs, and how sure it is.

    Args:
        curve: The curve.
        found: Its non-inferiority tests.
        who: What the sentence calls it.
        picked_from: How many curves it was picked from as the largest; `found` allows for that.
    """
    at = {rank: i for i, rank in enumerate(curve.ranks)}
    top = curve.ranks[-1]
    full = f"{percent(curve.accuracy[-1])} %"
    if found is None:
        return f"At its highest rank, {_cost(curve, top)}, {who} has an accuracy of {full}."
    tolerance = points(found.margin)
    if found.seeds > 1 and found.smallest_margin >= 1.0:
        return _of_few_seeds(curve, found, who)
    sure = (
        f"95 % confidence, allowing for its having been picked from {picked_from}"
        if picked_from > 1
        else "95 % confidence, for this adapter alone"
    )
    if found.rank == found.reference:
        needed = percent(found.smallest_margin)
        return (
            f"The rank to use of {who} is its highest, {_cost(curve, top)}, with an accuracy of "
            f"{full}: no smaller one is non-inferior to it at a margin of {tolerance} "
            f"({sure}). That would have taken a margin of {needed} points."
        )
    small = f"{percent(curve.accuracy[at[found.rank]])} %"
    return (
        f"The smallest rank of {who} that is non-inferior at a margin of {tolerance} is "
        f"{_cost(curve, found.rank)}, with an accuracy of {small} against {full} at rank "
        f"{_cost(curve, top)} ({sure})."
    )


def _of_few_seeds(curve: CurveRow, found: NonInferiorRank, who: str) -> str:
    full = f"{percent(curve.accuracy[-1])} %"
    text = (
        f"The rank to use of {who} is its highest, {_cost(curve, curve.ranks[-1])}, with an "
        f"accuracy of {full}: {found.seeds} seeds are too few to say what a smaller one loses in "
        "another seed."
    )
    if found.checkpoints in (None, found.reference):
        return text
    return (
        f"{text} In each of these {found.seeds} checkpoints rank {found.checkpoints} loses less "
        f"than {points(found.margin)}."
    )


def _cost(curve: CurveRow, rank: int) -> str:
    amount = dict(zip(curve.ranks, curve.bytes, strict=False)).get(rank)
    return f"{rank} ({size(amount)})" if amount else str(rank)


# Below this many expected documents at the nearer end a reader is told how the interval was made.
_FEW_EVENTS = 30
_FEW_DOCUMENTS = 200
# Reading every cell of a larger run only to check it would take minutes.
_CHECKED = 50


def caveats(run: Run) -> list[str]:
    """What a reader has to know before quoting a number of this run."""
    checks = (
        _seeds,
        _scale,
        _never_nested,
        _unknown_method,
        _grids,
        _small,
        _rough,
        _near_ties,
        _limited,
        _drops,
        _baselines,
        _missing,
        _failures,
        _without_documents,
        _bands,
    )
    return [line for check in checks for line in check(run)]


def _seeds(run: Run) -> Iterator[str]:
    several = {curve.adapter: curve.seeds for curve in run.curves if curve.members}
    single = {curve.adapter for curve in run.curves if not curve.members and curve.ranks}
    if several:
        counts = ", ".join(f"{name} {n}" for name, n in several.items())
        few = (
            " Two seeds of a recipe do not show how much seeds vary, and three little."
            if min(several.values()) < 4
            else ""
        )
        yield (
            f"Over training seeds as well as documents: {counts}. Their intervals and differences "
            f"hold for another draw of both.{few}"
        )
    if single:
        who = f"{some(single)}: conditional" if several else "Conditional"
        yield (
            f"{who} on these checkpoints: the intervals cover the choice of documents. They do not "
            "say how another training run of the same method, with another seed, would have done."
        )
    yield from run.notes


def _scale(run: Run) -> Iterator[str]:
    published = [c for c in run.curves if c.role == "published" and c.log2]
    pairs = [
        (default, curve)
        for curve in published
        for default in scored_defaults(run, curve.task)
        if default.adapter == curve.adapter
    ]
    for default, curve in pairs[:LISTED]:
        if default.log2 and curve.log2:
            yield (
                f"The scale after truncation matters. On {curve.task}, {curve.adapter} has an "
                f"AURAC of {percent(default.log2.value)} % with {default.rescale} and "
                f"{percent(curve.log2.value)} % with {curve.rescale}, the published inference. Say "
                "which one you quote."
            )
    if len(pairs) > LISTED:
        yield f"{len(pairs) - LISTED} further adapters and tasks also have both in the tables."


def _never_nested(run: Run) -> Iterator[str]:
    cut = [
        curve.adapter
        for curve in run.curves
        if curve.method == "lora" and curve.basis == "prefix" and curve.is_default and curve.ranks
        if curve.trained_rank is None or curve.ranks[0] < curve.trained_rank
    ]
    if not cut:
        return
    rivals = {curve.adapter for curve in run.curves if curve.basis == "svd"}
    absent = " Its natural rival, truncation by SVD, is not in this run."
    yield (
        f"{some(cut)}: trained at one rank only. Taking a prefix of its components is not what its "
        f"training prepared it for.{'' if set(cut) <= rivals else absent}"
    )


def _unknown_method(run: Run) -> Iterator[str]:
    names = [curve.adapter for curve in run.curves if curve.method is None]
    if names:
        yield (
            f"{some(names)}: the checkpoint does not say how it was trained, so it is shown "
            "without a method, with the scaling that its own configuration gives."
        )


def _grids(run: Run) -> Iterator[str]:
    unequal = {
        task: len(grids)
        for task in run.task_names
        if len(grids := {curve.ranks for curve in run.of_task(task) if curve.log2}) > 1
    }
    if unequal:
        yield (
            f"More than one set of ranks on {some(unequal)}. The same curve has another area over "
            "another range: AURACs compare only between rows with the same ranks."
        )


def _small(run: Run) -> Iterator[str]:
    few = {c.task: c.n_docs for c in run.curves if c.n_docs and c.n_docs < _FEW_DOCUMENTS}
    if few:
        smallest = min(few.values())
        yield (
            f"Few documents: {some(f'{task} ({n})' for task, n in few.items())}. With {smallest} "
            f"the accuracy at one rank is known to about ±{percent(0.98 / smallest**0.5, 0)} "
            "points at worst."
        )


def _rough(run: Run) -> Iterator[str]:
    near = [
        curve.label
        for curve in run.curves
        if curve.log2 and curve.n_docs
        if curve.n_docs * min(curve.log2.value, 1 - curve.log2.value) < _FEW_EVENTS
    ]
    if near:
        yield (
            f"{some(near)}: few documents are right (or wrong). The interval, or over seeds the "
            "documents' part of it, is on each side the wider of Clopper and Pearson's and of "
            "Student's t on the logit; results.json names it."
        )


def _near_ties(run: Run) -> Iterator[str]:
    """The curve and rank of each task with the largest share of near ties, from one in fifty on."""
    dtypes = {str(p.get("dtype")) for p in run.provenance if p.get("dtype")}
    worst: dict[str, tuple[float, CurveRow, int, int]] = {}
    for curve in run.curves:
        for rank, count in zip(curve.ranks, curve.near_ties, strict=False):
            share = (count or 0) / (curve.n_docs or 1)
            if share > max(worst.get(curve.task, (0.02,))[0], 0.02):
                worst[curve.task] = (share, curve, rank, count or 0)
    for task, (_, curve, rank, count) in list(worst.items())[:LISTED]:
        yield (
            f"On {task}, up to {count} of {curve.n_docs} documents ({curve.label}, rank {rank}) "
            f"hold a token or choice that was decided within the rounding of "
            f"{' and '.join(dtypes)}: on another machine some of these answers can come out "
            "otherwise. --dtype float32 has fewer."
        )


def _limited(run: Run) -> Iterator[str]:
    limited = [f"{t.get('name')} ({t['limit']})" for t in run.tasks if t.get("limit")]
    if limited:
        yield (
            f"Evaluated on a limited number of documents: {some(limited)}. A limit takes the first "
            "documents of a task, which is not a random sample of it."
        )


def _drops(run: Run) -> Iterator[str]:
    falls = [(size, c, a, b) for c in run.curves for a, b, size in c.drops]
    if not falls:
        return
    size, curve, lower, upper = max(falls, key=lambda fall: fall[0])
    falling = len({id(fall[1]) for fall in falls})
    where = "1 curve falls" if falling == 1 else f"{falling} curves fall"
    yield (
        f"Higher is not always better: {where} somewhere as the rank grows. The largest drop is "
        f"{percent(size)} points, {curve.label} on {curve.task} from rank {lower} to {upper}."
    )


def _baselines(run: Run) -> Iterator[str]:
    absent = {c.task: c.baseline_reason for c in run.curves if c.baseline is None and c.ranks}
    if absent:
        why = dict.fromkeys(
            reason or "the base model was not evaluated" for reason in absent.values()
        )
        yield f"No base line on {some(absent)} ({some(why)})."


def _missing(run: Run) -> Iterator[str]:
    holes = [(c, rank, why) for c in run.curves for rank, why in c.missing.items()]
    for curve, rank, why in holes[:LISTED]:
        yield f"{curve.label} on {curve.task}, rank {rank}: missing ({why}). It is not filled in."
    if len(holes) > LISTED:
        yield f"{len(holes) - LISTED} more cells are missing; points.csv has the reasons."


def _failures(run: Run) -> Iterator[str]:
    known = {(c.adapter, c.task, str(rank)) for c in run.curves for rank in c.missing}
    rest = [
        failure
        for failure in run.failures
        if (failure.get("adapter"), failure.get("task"), str(failure.get("rank"))) not in known
    ]
    for failure in rest[:LISTED]:
        who, rank = failure.get("adapter") or "the base model", failure.get("rank")
        yield f"{who} on {failure.get('task')}, rank {rank}: failed ({failure.get('reason')})."
    if len(rest) > LISTED:
        yield f"{len(rest) - LISTED} more cells failed; results.json lists them."


def _without_documents(run: Run) -> Iterator[str]:
    if len(run.curves) > _CHECKED:
        return
    absent = [c.label for c in run.curves if c.ranks and seeds_of(c) is None]
    if absent:
        yield (
            f"{some(absent)}: the stored documents are missing, damaged, or do not average to the "
            "accuracies of results.json, so nothing here is paired with them."
        )


def _bands(run: Run) -> Iterator[str]:
    if any(low is not None for curve in run.curves for low in curve.low):
        yield (
            "Bands are pointwise 95 % intervals: each holds for its own rank, not for the whole "
            "curve. Adapters answer the same documents, so overlapping bands do not show that two "
            "are equal."
        )
