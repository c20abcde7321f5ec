"""What a report looks at closely: single ranks of the leading curves, documents, truncations.

With many tasks only the curve that leads each task is looked at, else up to eight default ones.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from aurac.analysis.choice import recommend
from aurac.analysis.groups import together
from aurac.analysis.pairing import difference_at
from aurac.analysis.record import Advice, BasisRow, Changes, Closely, Step, StratumRow
from aurac.analysis.rows import grouped
from aurac.analysis.sentences import advice_sentence
from aurac.errors import CurveError
from aurac.stats.mean import Layout
from aurac.stats.seeds import mean_of_seeds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.analysis.choice_rows import RankRow
    from aurac.analysis.groups import RecipeGroup
    from aurac.analysis.rows import BestRow, Options, PairRow, ScoreRow
    from aurac.stats.mean import Estimate

MANY_TASKS = 4  # with more, only the leaders are looked at closely
MOST_CLOSE = 8  # default curves of a task that are looked at closely
_MOST_GROUPED = 4  # curves whose groups of documents are shown
_SAME = 1e-9  # scores closer than this are the same score written twice


def look_closely(
    groups: Sequence[RecipeGroup],
    others: Sequence[RecipeGroup],
    scores: Sequence[ScoreRow],
    best: Sequence[BestRow],
    checkpoints: Sequence[RecipeGroup],
    settings: Options,
) -> Closely:
    """Look at the leading curves of each task.

    Args:
        groups: All curves; `scores` are theirs, in the same order.
        others: Those that are not the default truncation of their adapter.
        scores: See `groups`.
        best: What is said of the leader of each task.
        checkpoints: Single trainings whose own rank is recommended, where tasks are few.
        settings: Of the analysis.
    """
    rows = {id(group): row for group, row in zip(groups, scores, strict=True)}
    tasks = list(dict.fromkeys(group.task for group in groups))
    many = len(tasks) > MANY_TASKS
    tests, strata, changes, bases = [], [], [], []
    for task in tasks:
        same = [group for group in groups if group.task == task]
        close = _closest(same, others, rows, best, many=many)
        ordered = sorted(close, key=lambda group: _place(group, rows))
        tests += _tested(same, [g for g in close if g.has_documents], others, settings)
        more = [g for g in same if g in others and g not in close and g.has_documents]
        more.sort(key=lambda group: _place(group, rows))
        rest = (
            recommend(g, settings, others=others, task=same)
            for g in more[: 0 if many else MOST_CLOSE - len(close)]
        )
        tests += [row for row in rest if row.reason is None]
        for group in ordered[:_MOST_GROUPED]:
            strata += _strata(group, rows[id(group)].label, settings.level)
        for group in close:
            changes += _changes(group, rows[id(group)].label, ends_only=many)
        bases += _bases(same, others, rows, settings.level)
    known = {(r.adapter, r.task, r.truncation): r for r in tests if r.choice.seeds == 1}
    alone = [
        known.get((group.name, group.task, group.truncation)) or recommend(group, settings)
        for group in (() if many else checkpoints)
    ]
    return Closely(
        tests=tuple(tests),
        checkpoints=tuple(row for row in alone if row.reason is None),
        strata=tuple(strata),
        changes=tuple(changes),
        bases=tuple(bases),
    )


def _place(group: RecipeGroup, rows: Mapping[int, ScoreRow]) -> tuple[float, bool, str]:
    """The place of a curve by falling area; those without one are last, in the order given."""
    row = rows[id(group)]
    if row.log2 is None:
        return 1.0, False, ""
    return -round(row.log2.value, 12), row.other, group.label


def _closest(
    groups: Sequence[RecipeGroup],
    others: Sequence[RecipeGroup],
    rows: Mapping[int, ScoreRow],
    best: Sequence[BestRow],
    *,
    many: bool,
) -> list[RecipeGroup]:
    """The curves of a task to look at: of many tasks the leader alone, else the default ones."""
    ordered = sorted((g for g in groups if g.ranks), key=lambda group: _place(group, rows))
    if many:
        scored = [g for g in ordered if rows[id(g)].log2 is not None]
        known = next((row for row in best if row.task == groups[0].task), None)
        leader = scored[0] if len(scored) == 1 else None
        if known is not None:
            leader = next((g for g in scored if rows[id(g)].label == known.leader), None)
        return [leader] if leader else []
    most = MOST_CLOSE - (bool(ordered) and ordered[0] in others)
    kept = [group for group in ordered if group not in others][:most]
    return [group for group in groups if group in kept]


def _tested(
    task: Sequence[RecipeGroup],
    groups: Sequence[RecipeGroup],
    others: Sequence[RecipeGroup],
    settings: Options,
) -> list[RankRow]:
    """The tests of each curve by itself, and bounds that hold for all of them together."""
    each = [(group, recommend(group, settings, others=others, task=task)) for group in groups]
    known = [(group, row) for group, row in each if row.reason is None]
    number = sum(len(row.tests) for _, row in known)
    result = []
    for group, row in known:
        joint = replace(settings, alpha=settings.alpha / number) if number else settings
        bounds = {test.rank: test.upper for test in recommend(group, joint).tests}
        tests = tuple(replace(test, joint=bounds.get(test.rank)) for test in row.tests)
        result.append(replace(row, tests=tests))
    return result


def _strata(group: RecipeGroup, name: str, level: float) -> list[StratumRow]:
    """A curve on each group of the task's documents, in their stored order; none without."""
    first = group.first
    strata = np.array(first.strata or ())
    names = list(dict.fromkeys(strata.tolist()))
    if len(names) < 2 or group.gap is not None or not group.has_documents:
        return []
    values = [group.areas("log2"), *(group.scores(rank) for rank in group.ranks)]
    rows = []
    for stratum in names:
        keep = strata == stratum
        clusters = np.array(first.clusters)[keep] if first.clusters else None
        layout = Layout.make(int(keep.sum()), clusters)
        area, *points = (mean_of_seeds(each[:, keep], layout, level) for each in values)
        base = None if first.base_scores is None else float(first.base_scores[keep].mean())
        rows.append(StratumRow(group.task, name, stratum, layout.n, area, tuple(points), base))
    return rows


def _changes(group: RecipeGroup, name: str, *, ends_only: bool) -> list[Changes]:
    """Documents gained and lost from each rank to the next, the base first where it is known.

    With `ends_only` from the lowest to the highest rank.
    """
    if not group.has_documents:
        return []
    parts = []
    for curve in group.curves:
        kept = list(zip(curve.ranks, np.asarray(curve.outcomes), strict=True))
        if ends_only:
            kept = [kept[0], kept[-1]]
        elif curve.base_scores is not None:
            kept = [(0, curve.base_scores), *kept]
        steps = []
        for (lower, before), (upper, after) in pairwise(kept):
            rises = after - before
            counts = np.count_nonzero(rises > _SAME), np.count_nonzero(rises < -_SAME)
            steps.append(Step(lower, upper, *map(int, counts)))
        parts.append(steps)
    if len({len(steps) for steps in parts}) > 1 or not parts[0]:
        return []
    steps = [
        Step(same[0].lower, same[0].upper, sum(s.gained for s in same), sum(s.lost for s in same))
        for same in zip(*parts, strict=True)
    ]
    return [Changes(name, str(group.task), group.seeds * (group.first.n_docs or 0), tuple(steps))]


def _bases(
    groups: Sequence[RecipeGroup],
    others: Sequence[RecipeGroup],
    rows: Mapping[int, ScoreRow],
    level: float,
) -> list[BasisRow]:
    """Each adapter's own prefix truncation against each of its SVD truncations on a task."""
    result = []
    for svd in (group for group in groups if group.first.basis == "svd"):
        prefixes = [g for g in groups if g.name == svd.name and g.first.basis == "prefix"]
        prefix = next((g for g in prefixes if g not in others), prefixes[0] if prefixes else None)
        if prefix is not None:
            names = rows[id(prefix)].label, rows[id(svd)].label
            result.append(BasisRow(svd.task, svd.name, *names, _gaps(prefix, svd, level)))
    return result


def _gaps(prefix: RecipeGroup, svd: RecipeGroup, level: float) -> dict[int, Estimate]:
    ranks = [rank for rank in prefix.ranks if rank in svd.ranks]
    if not (prefix.has_documents and svd.has_documents and ranks):
        return {}
    try:
        first, second = together([group.at(ranks) for group in (prefix, svd)])
        return {rank: difference_at(first, second, rank, level).estimate for rank in ranks}
    except CurveError:
        return {}


def truncation_advice(
    scores: Sequence[ScoreRow], variants: Sequence[PairRow], axis: str
) -> tuple[Advice, ...]:
    """One for every adapter and task that was truncated in several ways and scored in two."""
    pairs = {(row.a, row.b, row.task): row for row in variants}
    scored = (row for row in scores if row.log2 is not None)
    ways = grouped(scored, lambda row: (row.adapter, row.task))
    return tuple(_advice(rows, pairs, axis) for rows in ways.values() if len(rows) > 1)


def _advice(
    rows: Sequence[ScoreRow], pairs: Mapping[tuple[str, str, str | None], PairRow], axis: str
) -> Advice:
    known = ((row.truncation, row.estimate(axis)) for row in rows)
    values = {name: area.value for name, area in known if area is not None}
    top = max(rows, key=lambda row: round(values[row.truncation], 12))
    equal = [name for name, value in values.items() if abs(value - values[top.truncation]) < _SAME]
    shown: dict[bool, list[str]] = {True: [], False: []}
    for row in (row for row in rows if row is not top):
        a, b = (f"{each.adapter} · {each.truncation}" for each in (row, top))
        pair = pairs.get((a, b, row.task)) or pairs.get((b, a, row.task))
        better = pair is not None and pair.verdict == (1 if pair.b == b else -1)
        shown[better].append(row.truncation)
    advice = Advice(
        adapter=top.adapter,
        task=top.task,
        use=top.truncation,
        value=values[top.truncation],
        axis=axis,
        beats=tuple(shown[True]),
        open=tuple(shown[False]),
    )
    return replace(advice, sentence=advice_sentence(advice, equal))
