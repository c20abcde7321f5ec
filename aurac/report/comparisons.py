"""Comparisons of curves on the documents that they share; `aurac.stats` computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from aurac.errors import CurveError
from aurac.report.documents import cell, changes, with_outcomes
from aurac.report.escape import one_line
from aurac.report.model import (
    ALPHA,
    DELTA,
    MANY_TASKS,
    CurveRow,
    Interval,
    Run,
    best_default,
    highlighted,
    labelled,
    ordered,
)
from aurac.report.tables import percent
from aurac.stats.analysis import leaders, paired_family
from aurac.stats.groups import check_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aurac.curves.curve import Curve
    from aurac.report.documents import Changes
    from aurac.stats import NonInferiorRank
    from aurac.stats.groups import RecipeGroup
    from aurac.stats.mean import Estimate
    from aurac.stats.rows import BestRow, PairRow


Groups = Mapping[str, Sequence[str]]
_T = TypeVar("_T")


def pooled(run: Run, groups: Groups | None = None) -> Run:
    """The run with one curve for each arm in place of its checkpoints' curves.

    An arm whose checkpoints cannot be pooled (a missing rank, other documents, no documents) is
    left as it is, and the run's notes say why.

    Args:
        run: What was measured.
        groups: ``arm name -> adapter names``; added to the arms that the recipes tell of.

    Raises:
        CurveError: A group names an adapter that the run does not have, or one twice.
    """
    arms = _recipe_groups(run, groups or {})
    if not arms:
        return run
    curves, notes = list(run.curves), list(run.notes)
    for name, members in arms.items():
        others = {curve.adapter for curve in run.curves} - set(members)
        shown = name if name not in others else f"{name} ({len(members)} seeds)"
        for same in _alike(curves, members):
            try:
                row = _arm_row(shown, same, len(members))
            except CurveError as error:
                where = f"{one_line(name)} on {one_line(same[0].task)}"
                notes.append(f"The seeds of {where} are not pooled: {one_line(error)}.")
                continue
            at = curves.index(same[0])
            curves[at] = row
            curves = [curve for curve in curves if curve not in same[1:]]
    return replace(run, curves=labelled(curves), notes=tuple(notes))


def _recipe_groups(run: Run, said: Groups) -> dict[str, list[str]]:
    from aurac.readers.run import recipe_groups, regrouped
    from aurac.runs.schema import AdapterRecord

    check_groups(said, (str(adapter.get("name")) for adapter in run.adapters))
    adapters = [msgspec.convert(dict(adapter), AdapterRecord) for adapter in run.adapters]
    found = regrouped(recipe_groups(adapters, run.groups), said)
    return {name: members for name, members in found.items() if len(members) > 1}


def _alike(curves: Sequence[CurveRow], members: Sequence[str]) -> list[list[CurveRow]]:
    """The members' curves, those of one task and inference together."""
    found: dict[tuple[str, ...], list[CurveRow]] = {}
    for curve in curves:
        if curve.adapter in members:
            key = (curve.task, curve.metric, curve.basis, curve.rescale, curve.role)
            found.setdefault(key, []).append(curve)
    return list(found.values())


def _arm_row(name: str, same: Sequence[CurveRow], expected: int) -> CurveRow:
    if len(same) != expected:
        raise CurveError(f"{len(same)} of {expected} checkpoints were measured")
    arm = _arm(name, same)
    if arm.gap:
        raise CurveError(arm.gap)
    first = same[0]
    points = [over_rank(arm, rank) for rank in arm.ranks]
    from aurac.curves.area import drops
    from aurac.curves.curve import Curve
    from aurac.stats.analysis import estimate_group

    areas = {axis: _interval_of(estimate_group(arm, axis, 0.95)) for axis in ("log2", "linear")}
    return replace(
        first,
        id=f"{name} · {first.inference} · {first.task}",
        adapter=name,
        method=_shared([curve.method for curve in same]),
        accuracy=arm.accuracy,
        low=tuple(point.low for point in points),
        high=tuple(point.high for point in points),
        parameters=tuple(_shared(list(column)) for column in _columns(same, "parameters")),
        bytes=tuple(_shared(list(column)) for column in _columns(same, "bytes")),
        cells={},
        log2=areas["log2"],
        linear=areas["linear"],
        mean=float(np.mean(arm.accuracy)),
        drops=drops(Curve(arm.ranks, arm.accuracy)),
        seed=None,
        members=tuple(same),
    )


def _arm(name: str, same: Sequence[CurveRow]) -> RecipeGroup:
    from aurac.stats.groups import gather

    curves = []
    for row in same:
        curve = with_outcomes(row)
        if curve is None:
            raise CurveError(f"the stored documents of {row.adapter} are missing or damaged")
        curves.append(replace(curve, adapter=name))
    return gather(curves, {name: [name]})[0]


def over_rank(arm: RecipeGroup, rank: int) -> Estimate:
    """Accuracy at one rank, for another draw of documents and seeds."""
    from aurac.stats.seeds import mean_of_seeds

    return mean_of_seeds(arm.scores(rank), arm.layout, 0.95)


def _columns(same: Sequence[CurveRow], name: str) -> list[tuple[int | None, ...]]:
    return list(zip(*(getattr(curve, name) for curve in same), strict=True))


def _shared(values: Sequence[_T]) -> _T | None:
    return values[0] if len(set(values)) == 1 else None


def _interval_of(found: Estimate) -> Interval:
    return Interval(found.value, found.se, found.low, found.high)


def seeds_of(curve: CurveRow) -> list[Curve] | None:
    """The curve's checkpoints with their documents; None where any of them has none."""
    found = [with_outcomes(row) for row in curve.members or (curve,)]
    known = [one for one in found if one is not None]
    return known if len(known) == len(found) else None


_LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """AURAC (log2) of `first` minus that of `second` on the same documents, as fractions.

    `adjusted` is the p value after Holm, in the same family as `aurac score` prints it;
    `detectable` the smallest true difference that a single such test finds with 80 % power.
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

    @property
    def certain(self) -> bool:
        """Whether the difference is significant, after Holm."""
        return self.adjusted is not None and self.adjusted <= _LEVEL

    @property
    def sentence(self) -> str:
        """The difference in points with its interval."""
        text = f"{percent(self.value)} points"
        if self.low is None or self.high is None:
            return text
        return f"{text} (paired 95 % interval {percent(self.low)} to {percent(self.high)})"


class Paired:
    """The paired differences of a run.

    They are rows of the whole analysis, and adjusted within all of it: every pair of adapters (or
    arms of several seeds) over all the tasks is one family for Holm, every pair of truncations of
    one adapter another.

    Args:
        run: What was measured.
        delta: The margin of the leaders' non-inferior ranks.

    Attributes:
        leaders: For each task the adapter with the largest AURAC, allowing for its having been
            picked; tasks with a single adapter are not there.
    """

    def __init__(self, run: Run, delta: float = DELTA) -> None:
        self.run = run
        pairs, self.leaders = _family(run, delta)
        self._known = {(p.a, p.b, p.task): p for p in pairs if p.result is not None}

    def between(self, first: CurveRow, second: CurveRow) -> Difference | None:
        """`first` minus `second`, two adapters or two truncations of one; None where not paired."""
        a, b = first.adapter, second.adapter
        if a == b:
            a, b = f"{a} · {first.inference}", f"{b} · {second.inference}"
        straight = self._known.get((b, a, first.task))
        row = straight or self._known.get((a, b, first.task))
        if row is None or row.result is None:
            return None
        estimate = row.result.estimate
        low, high, sign = estimate.low, estimate.high, 1.0
        if straight is None:
            sign = -1.0
            low, high = (None if end is None else -end for end in (high, low))
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
        )

    def against_best(self, task: str, most: int) -> list[Difference]:
        """The best default curve of a task against the next ones and its own other inferences.

        Args:
            task: One of the run's.
            most: With how many other default curves it is compared.
        """
        scored = [curve for curve in ordered(self.run.of_task(task)) if curve.log2]
        default = [curve for curve in scored if curve.is_default]
        if not default:
            return []
        best = default[0]
        own = [c for c in scored if c.adapter == best.adapter and not c.is_default]
        pairs = [self.between(best, other) for other in [*default[1 : most + 1], *own]]
        return [pair for pair in pairs if pair is not None]


def _family(run: Run, delta: float) -> tuple[list[PairRow], dict[str | None, BestRow]]:
    """Every pair of the run, b - a, and the leader of each task."""
    curves, groups = [], {}
    for row in sorted(run.curves, key=lambda curve: not curve.is_default):
        seeds = seeds_of(row) or []
        if row.members:
            groups[row.adapter] = [row.adapter]
            seeds = [replace(seed, adapter=row.adapter) for seed in seeds]
        curves += seeds
    if not curves:
        return [], {}
    try:
        pairs = paired_family(curves, groups=groups)
        return pairs, leaders(curves, pairs, groups=groups, margin=delta)
    except CurveError:  # curves that do not fit together: nothing is compared
        return [], {}


def certificate(
    curve: CurveRow, delta: float = DELTA, alpha: float = ALPHA
) -> NonInferiorRank | None:
    """The non-inferiority tests of a curve; None without documents or with a single rank."""
    from aurac.stats import non_inferior_rank

    seeds = seeds_of(curve)
    if not seeds or len(curve.ranks) < 2 or any(c.ranks != curve.ranks for c in seeds):
        return None
    try:
        return non_inferior_rank([one.at(one.ranks) for one in seeds], margin=delta, alpha=alpha)
    except CurveError:
        return None


def joint_bounds(
    found: Sequence[tuple[CurveRow, NonInferiorRank | None]],
) -> dict[str, dict[int, float]]:
    """Curve id → rank → upper bound on the loss, all together at 95 % (Bonferroni)."""
    known = [(curve, one) for curve, one in found if one is not None]
    tests = sum(len(one.tests) for _, one in known)
    bounds = {}
    for curve, one in known:
        joint = certificate(curve, one.margin, ALPHA / tests)
        bounds[curve.id] = {test.rank: test.upper for test in joint.tests} if joint else {}
    return bounds


def rings(found: Sequence[tuple[CurveRow, NonInferiorRank | None]]) -> dict[str, int]:
    """Id of a curve → its smallest non-inferior rank, where that is below the highest."""
    return {
        curve.id: certified.rank
        for curve, certified in found
        if certified is not None and certified.rank < certified.reference
    }


@dataclass(frozen=True)
class RankGap:
    """Accuracy of the prefix minus that of the SVD at one rank, with a pointwise interval."""

    rank: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Rival:
    """One adapter cut in two ways; `difference` is None without documents to pair."""

    prefix: CurveRow
    svd: CurveRow
    difference: Difference | None
    gaps: tuple[RankGap, ...]


def rivals(run: Run, task: str, paired: Paired) -> list[Rival]:
    """Every adapter's own prefix truncation against each of its SVD truncations on a task."""
    curves = run.of_task(task)
    found = []
    for svd in (curve for curve in curves if curve.basis == "svd"):
        prefix = _prefix(svd, curves)
        if prefix is not None:
            gap = paired.between(prefix, svd)
            found.append(Rival(prefix, svd, gap, _gaps(prefix, svd)))
    return found


def _prefix(svd: CurveRow, curves: Sequence[CurveRow]) -> CurveRow | None:
    """The adapter's default prefix curve, else any."""
    mine = [c for c in curves if c.adapter == svd.adapter and c.basis == "prefix"]
    return next((c for c in mine if c.is_default), mine[0] if mine else None)


def _gaps(prefix: CurveRow, svd: CurveRow) -> tuple[RankGap, ...]:
    from aurac.stats.groups import group_of, together
    from aurac.stats.paired import compare

    seeds = seeds_of(prefix), seeds_of(svd)
    ranks = [rank for rank in prefix.ranks if rank in svd.ranks]
    if not all(seeds) or not ranks:
        return ()
    gaps = []
    try:
        mine, theirs = together([group_of(several).at(ranks) for several in seeds])
        for rank in ranks:
            scores = theirs.scores(rank), mine.scores(rank)
            gap = compare(*scores, mine.layout, level=0.95).estimate
            gaps.append(RankGap(rank, gap.value, gap.low, gap.high))
    except CurveError:
        return ()
    return tuple(gaps)


@dataclass(frozen=True)
class Group:
    """One curve on one group of a task's documents.

    Attributes:
        name: The group's.
        n_docs: Its documents.
        curve: Whose numbers these are.
        log2: AURAC over these documents.
        accuracy: At each rank of the curve.
        baseline: The base's accuracy; None where its cell was not kept.
    """

    name: str
    n_docs: int
    curve: CurveRow
    log2: Interval
    accuracy: tuple[Interval, ...]
    baseline: float | None


def groups(run: Run, task: str, curves: Sequence[CurveRow]) -> list[Group]:
    """The groups of a task in their stored order, for each of the curves; empty without strata."""
    members = run.task(task).get("members") or []
    found: list[Group] = []
    for curve in curves:
        seeds = seeds_of(curve) if curve.log2 else None
        if seeds and seeds[0].strata and len(set(seeds[0].strata)) > 1:
            found += _of_curve(curve, seeds, members)
    return found


def _of_curve(curve: CurveRow, seeds: Sequence[Curve], members: Sequence[Any]) -> list[Group]:
    from aurac.stats.groups import group_of

    strata = seeds[0].strata or ()
    group = group_of(list(seeds))
    areas = group.areas("log2")
    points = [group.scores(rank) for rank in curve.ranks]
    base = cell((curve.members or (curve,))[0], 0)
    below = None if base is None else np.array(list(base.scores.values()))
    names = list(dict.fromkeys(strata))
    by_index = names == [str(at) for at in range(len(members))]
    found = []
    for at, name in enumerate(names):
        here = np.array([stratum == name for stratum in strata])
        known = below is not None and below.size == here.size
        found.append(
            Group(
                name=str(members[at]) if by_index else name,
                n_docs=int(here.sum()),
                curve=curve,
                log2=_group_estimate(areas[:, here]),
                accuracy=tuple(_group_estimate(rows[:, here]) for rows in points),
                baseline=float(below[here].mean()) if known and below is not None else None,
            )
        )
    return found


def _group_estimate(values: NDArray[np.float64]) -> Interval:
    from aurac.stats import over_seeds

    found = over_seeds(values)
    return Interval(found.value, found.se, found.low, found.high)


_PAIRED = 5
_GROUP_CURVES = 4


@dataclass(frozen=True)
class Findings:
    """By task, what was found about its curves.

    Attributes:
        certificates: Id of a default curve → the curve and what is certified for it.
        joint: Id of a default curve → rank → upper bound on what it loses, all of a task together.
        leaders: The adapter with the largest AURAC, allowing for its having been picked.
        pairs: The best default curve of a task against the others.
        changes: Documents gained and lost at each rank.
        groups: The areas on groups of documents.
        rivals: Prefix against SVD.
    """

    certificates: Mapping[str, tuple[CurveRow, NonInferiorRank | None]]
    joint: Mapping[str, Mapping[int, float]]
    leaders: Mapping[str | None, BestRow]
    pairs: Mapping[str, Sequence[Difference]]
    changes: Mapping[str, Sequence[Changes]]
    groups: Mapping[str, Sequence[Group]]
    rivals: Mapping[str, Sequence[Rival]]

    def certificate(self, curve: CurveRow) -> NonInferiorRank | None:
        """The non-inferiority tests of a curve; None where nothing can be said."""
        return self.certificates.get(curve.id, (curve, None))[1]


def find(run: Run, delta: float) -> Findings:
    """Look at a run.

    Args:
        run: What was measured.
        delta: The loss against the highest rank that a non-inferior rank may have, a fraction.
    """
    large = len(run.task_names) > MANY_TASKS
    chosen = {task: _chosen(run, task, large=large) for task in run.task_names}
    paired = Paired(run, delta)
    certificates = {
        curve.id: (curve, certificate(curve, delta))
        for curves in chosen.values()
        for curve in curves
    }
    steps = {
        task: [item for c in curves if (item := changes(c, _ends(c) if large else None))]
        for task, curves in chosen.items()
    }
    return Findings(
        certificates=certificates,
        joint={
            id_: bounds
            for curves in chosen.values()
            for id_, bounds in joint_bounds([certificates[c.id] for c in curves]).items()
        },
        leaders=paired.leaders,
        pairs={task: paired.against_best(task, 1 if large else _PAIRED) for task in chosen},
        changes=steps,
        groups={t: groups(run, t, ordered(c)[:_GROUP_CURVES]) for t, c in chosen.items()},
        rivals={task: rivals(run, task, paired) for task in chosen},
    )


def _chosen(run: Run, task: str, *, large: bool) -> list[CurveRow]:
    """The curves that are looked at closely: those in colour, or only the leader."""
    leader = best_default(run, task)
    if large:
        return [leader] if leader else []
    return [curve for curve in highlighted(run, task) if curve.is_default]


def _ends(curve: CurveRow) -> tuple[int, int]:
    return curve.ranks[0], curve.ranks[-1]
