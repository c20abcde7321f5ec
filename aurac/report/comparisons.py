"""Comparisons of curves on the documents that they share; `aurac.stats` computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from aurac.errors import CurveError
from aurac.readers.run import recipe_groups, regrouped
from aurac.report.bases import BasisPair, basis_pairs
from aurac.report.documents import changes, seeds_of
from aurac.report.escape import one_line
from aurac.report.groups import Group, document_groups
from aurac.report.model import (
    ALPHA,
    LEVEL,
    CurveRow,
    Interval,
    Run,
    as_interval,
    highlighted,
    labelled,
    ordered,
    scored_defaults,
)
from aurac.runs.schema import Areas
from aurac.stats import non_inferior_rank
from aurac.stats.analysis import leaders, paired_family, score_group
from aurac.stats.groups import check_groups, group_of
from aurac.stats.rows import Options
from aurac.stats.seeds import mean_of_seeds

if TYPE_CHECKING:
    from aurac.curves.area import Span
    from aurac.report.documents import Changes
    from aurac.stats import NonInferiorRank
    from aurac.stats.rows import BestRow, PairRow

Groups = Mapping[str, Sequence[str]]
Tested = tuple[CurveRow, "NonInferiorRank"]
_PAIRED = 5
_GROUP_CURVES = 4


def pooled(run: Run, groups: Groups | None = None) -> Run:
    """The run with one curve for each group of training seeds in place of its checkpoints' curves.

    A group whose checkpoints cannot be pooled (a missing rank, other documents, no documents) is
    left as it is, and the run's notes say why. `groups` are added to those of the recipes.

    Raises:
        CurveError: A group names an adapter that the run does not have, or one twice.
    """
    check_groups(groups or {}, (adapter.name for adapter in run.adapters))
    recipes = regrouped(recipe_groups(run.adapters, run.groups), groups or {})
    curves, notes = list(run.curves), list(run.notes)
    several = ((name, adapters) for name, adapters in recipes.items() if len(adapters) > 1)
    for name, adapters in several:
        others = {curve.adapter for curve in run.curves} - set(adapters)
        shown = name if name not in others else f"{name} ({len(adapters)} seeds)"
        for members in _alike(curves, adapters):
            try:
                row = _pool(shown, members, len(adapters))
            except CurveError as error:
                where = f"{one_line(name)} on {one_line(members[0].task)}"
                notes.append(f"The seeds of {where} are not pooled: {one_line(error)}.")
                continue
            left = {(member.id, member.task) for member in members[1:]}
            kept = (curve for curve in curves if (curve.id, curve.task) not in left)
            curves = [row if curve is members[0] else curve for curve in kept]
    return replace(run, curves=labelled(curves), notes=tuple(notes))


def _alike(curves: Sequence[CurveRow], adapters: Sequence[str]) -> list[list[CurveRow]]:
    alike: dict[tuple[str, ...], list[CurveRow]] = {}
    for curve in curves:
        if curve.adapter in adapters:
            key = (curve.task, curve.metric, curve.basis, curve.rescale, curve.role)
            alike.setdefault(key, []).append(curve)
    return list(alike.values())


def _pool(name: str, members: Sequence[CurveRow], expected: int) -> CurveRow:
    """The mean of the members over documents and seeds."""
    if len(members) != expected:
        raise CurveError(f"{len(members)} of {expected} checkpoints were measured")
    curves = []
    for member in members:
        seeds = seeds_of(member)
        if seeds is None:
            raise CurveError(f"the stored documents of {member.adapter} are missing or damaged")
        curves += seeds
    group = group_of(curves)
    score = score_group(group, Options())
    if score.log2 is None or score.linear is None or score.mean is None:
        raise CurveError(score.reason or "no AURAC")
    points = [mean_of_seeds(group.scores(rank), group.layout, LEVEL) for rank in group.ranks]

    def shared(column: str) -> tuple[int | None, ...]:
        each = zip(*(getattr(member, column) for member in members), strict=True)
        return tuple(values[0] if len(set(values)) == 1 else None for values in each)

    first = members[0]
    return msgspec.structs.replace(
        first,
        id=f"{name} · {first.basis} · {first.rescale} · {first.task}",
        adapter=name,
        method=first.method if len({member.method for member in members}) == 1 else None,
        accuracy=score.accuracy,
        accuracy_low=tuple(point.low for point in points),
        accuracy_high=tuple(point.high for point in points),
        parameters=shared("parameters"),
        bytes=shared("bytes"),
        cells={},
        score=Areas(
            log2=as_interval(score.log2), linear=as_interval(score.linear), mean=score.mean
        ),
        drops=list(score.drops),
        seed=None,
        members=tuple(members),
    )


@dataclass(frozen=True)
class Difference:
    """AURAC of `first` minus that of `second` on the same documents, as fractions.

    `adjusted` is the p value after Holm, in the same family as `aurac score` prints it;
    `detectable` the smallest true difference that the test finds with 80 % power at the level that
    Holm left it. Over a budget both areas are over the range of `span`.
    """

    first: CurveRow
    second: CurveRow
    value: float
    low: float | None
    high: float | None
    adjusted: float | None
    detectable: float | None
    n_docs: int
    method: str
    axis: str = "log2"
    span: Span | None = None

    @property
    def significant(self) -> bool:
        """Whether the difference is significant, after Holm."""
        return self.adjusted is not None and self.adjusted <= ALPHA


class Paired:
    """The paired differences of a run, adjusted (Holm) within the whole analysis.

    Every pair of adapters (or groups of seeds) over all the tasks is one family, every pair of
    truncations of one adapter another. `leaders` has for each task with several adapters the one
    with the largest AURAC, allowing for its having been picked.
    """

    def __init__(self, run: Run, margin: float, axis: str = "log2") -> None:
        self.run = run
        self.leaders: dict[str | None, BestRow] = {}
        pairs: list[PairRow] = []
        curves, groups = [], {}
        for row in sorted(run.curves, key=lambda curve: not curve.is_default):
            seeds = seeds_of(row) or []
            if row.members:
                groups[row.adapter] = [row.adapter]
            curves += [replace(seed, adapter=row.adapter) for seed in seeds]
        try:
            if curves:
                pairs = paired_family(curves, groups=groups, axis=axis)
                self.leaders = leaders(curves, pairs, groups=groups, margin=margin, axis=axis)
        except CurveError:  # curves that do not fit together: nothing is compared
            pairs = []
        self._known = {(p.a, p.b, p.task): p for p in pairs if p.result is not None}

    def between(self, first: CurveRow, second: CurveRow) -> Difference | None:
        """`first` minus `second`, two adapters or two truncations of one; None where not paired."""
        a, b = first.adapter, second.adapter
        if a == b:
            a, b = (f"{c.adapter} · {c.basis} · {c.rescale}" for c in (first, second))
        straight = self._known.get((b, a, first.task))
        row = straight or self._known.get((a, b, first.task))
        if row is None or row.result is None:
            return None
        estimate, sign = row.result.estimate, 1.0 if straight else -1.0
        ends = [None if end is None else sign * end for end in (estimate.low, estimate.high)]
        low, high = ends if straight else ends[::-1]
        return Difference(
            first=first,
            second=second,
            value=sign * estimate.value,
            low=low,
            high=high,
            adjusted=row.p_holm,
            detectable=row.result.mde,
            n_docs=row.n_docs or 0,
            method=estimate.method,
            axis=row.axis,
            span=row.span,
        )

    def against_best(self, task: str, most: int) -> list[Difference]:
        """The best default curve of a task against the next ones and its own other truncations."""
        scored = [curve for curve in ordered(self.run.of_task(task)) if curve.log2]
        default = [curve for curve in scored if curve.is_default]
        if not default:
            return []
        others = default[1 : most + 1]
        others += [c for c in scored if not c.is_default and c.adapter == default[0].adapter]
        pairs = (self.between(default[0], other) for other in others)
        return [pair for pair in pairs if pair is not None]


def rank_tests(curve: CurveRow, margin: float, alpha: float) -> NonInferiorRank | None:
    """The non-inferiority tests of a curve; None without documents or with a single rank."""
    seeds = seeds_of(curve)
    if not seeds or len(curve.ranks) < 2 or any(c.ranks != curve.ranks for c in seeds):
        return None
    if any(rank > max(curve.ranks) for one in seeds for rank in one.missing):
        return None
    try:
        return non_inferior_rank([one.at(one.ranks) for one in seeds], margin=margin, alpha=alpha)
    except CurveError:
        return None


@dataclass(frozen=True)
class Findings:
    """What a report says beyond the stored numbers, computed once and rendered several times."""

    margin: str  # whose margin the non-inferior ranks are about, in a sentence
    tests: Mapping[str, Tested]  # by the id of a default curve
    # By id and rank, an upper bound on what it loses, all of a task together
    joint: Mapping[str, Mapping[int, float]]
    # By task: the adapter with the largest AURAC, allowing for its having been picked; the best
    # default curve against the others; documents gained and lost; their groups; prefix against SVD
    leaders: Mapping[str | None, BestRow]
    pairs: Mapping[str, Sequence[Difference]]
    changes: Mapping[str, Sequence[Changes]]
    groups: Mapping[str, Sequence[Group]]
    bases: Mapping[str, Sequence[BasisPair]]

    def pair(self, best: CurveRow, other: CurveRow) -> Difference | None:
        """The best default curve of a task against another; None where they were not paired."""
        return next((pair for pair in self.pairs[best.task] if pair.second is other), None)

    def leader(self, curve: CurveRow) -> BestRow | None:
        """What is said of a curve as the leader of its task; None where it is not."""
        row = self.leaders.get(curve.task)
        return row if row and row.leader == curve.adapter and curve.is_default else None

    def leader_area(self, curve: CurveRow) -> Interval:
        """AURAC of a curve, of a leader with an interval that allows for its having been picked."""
        row = self.leader(curve)
        if row and row.estimate:
            return Interval(value=curve.area, low=row.estimate.low, high=row.estimate.high)
        return curve.log2 or Interval(value=curve.area)

    def recommended(self, curve: CurveRow) -> NonInferiorRank | None:
        """The tests behind a recommended rank; a leader's allow for its having been picked."""
        row = self.leader(curve)
        if row and row.recommended and row.recommended.result:
            return row.recommended.result
        known = self.tests.get(curve.id)
        return known[1] if known else None

    def tied(self, scored: Sequence[CurveRow]) -> list[CurveRow]:
        """The leader of a task's scored default curves, and all not significantly worse than it."""
        if not scored:
            return []
        row = self.leader(scored[0])
        names = set(row.candidates) if row else {scored[0].adapter}
        return [c for c in scored if c.adapter in names or c.area == scored[0].area]


def find(run: Run, margin: float, note: str) -> Findings:
    """Look at a run."""
    close = {  # looked at closely: the curves in colour, or only the leader
        task: scored_defaults(run, task)[:1]
        if run.many_tasks
        else [curve for curve in highlighted(run, task) if curve.is_default]
        for task in run.task_names
    }
    paired = Paired(run, margin)
    tests: dict[str, Tested] = {}
    joint: dict[str, Mapping[int, float]] = {}
    for curves in close.values():
        tested = {c.id: (c, test) for c in curves if (test := rank_tests(c, margin, ALPHA))}
        tests |= tested
        number = sum(len(test.tests) for _, test in tested.values())  # Bonferroni
        for curve, _ in tested.values():
            bounds = rank_tests(curve, margin, ALPHA / number)
            joint[curve.id] = {one.rank: one.upper for one in bounds.tests} if bounds else {}
    large = run.many_tasks
    return Findings(
        margin=note,
        tests=tests,
        joint=joint,
        leaders=paired.leaders,
        pairs={task: paired.against_best(task, 1 if large else _PAIRED) for task in close},
        changes={
            task: [item for c in curves if (item := changes(c, ends_only=large))]
            for task, curves in close.items()
        },
        groups={
            task: document_groups(ordered(curves)[:_GROUP_CURVES]) for task, curves in close.items()
        },
        bases={task: basis_pairs(run, task, paired) for task in close},
    )
