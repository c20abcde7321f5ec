"""The analysis of a run, by the rows that its report shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import msgspec

from aurac.analysis.analyse import analyse, pool
from aurac.analysis.primary import declaration
from aurac.analysis.record import Closely
from aurac.analysis.rows import BestRow
from aurac.curves.coerce import as_curve
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.records.reader import recipe_groups, regrouped
from aurac.records.schema import Areas
from aurac.show.bases import BasisPair, basis_pairs
from aurac.show.documents import seeds_of
from aurac.show.groups import Group, shown_groups
from aurac.show.model import (
    ALPHA,
    LEVEL,
    CurveRow,
    Interval,
    Run,
    as_interval,
    labelled,
    scored,
    unequal_documents,
)
from aurac.stats.groups import check_groups
from aurac.terminal import one_line

if TYPE_CHECKING:
    from aurac.analysis.choice_rows import Choice, Configuration, RecommendRow
    from aurac.analysis.record import Analysis, Changes
    from aurac.analysis.rows import PairRow
    from aurac.curves.area import Span
    from aurac.stats.paired import Difference as PairedDifference

Groups = Mapping[str, Sequence[str]]
Tested = tuple[CurveRow, "RecommendRow"]
_PAIRED = 5


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
    score, points = pool(curves)
    if score.log2 is None or score.linear is None or score.mean is None:
        raise CurveError(score.reason or "no AURAC")

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
        score_notes=list(score.notes),
        seed=None,
        members=tuple(members),
    )


@dataclass(frozen=True)
class Difference:
    """AURAC of `first` minus that of `second` on the same documents, as fractions.

    `adjusted` is the p value after Holm, in the same family as `aurac score` prints it;
    `detectable` the smallest true difference that the test finds with 80 % power at the level that
    Holm left it. Over a budget both areas are over `span`.
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
    pairing: str | None = None  # how seeds were compared
    exploratory: bool | None = None

    @property
    def reading(self) -> str:
        """Whether it is significant, in words."""
        words = "significant" if self.significant else "not significant"
        return f"{words}, exploratory" if self.exploratory else words

    @property
    def significant(self) -> bool:
        """Whether the difference is significant, after Holm."""
        return self.adjusted is not None and self.adjusted <= ALPHA

    def reversed(self) -> Difference:
        """`second` minus `first`."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        first, second = self.second, self.first
        return replace(self, first=first, second=second, value=-self.value, low=low, high=high)


class Compared:
    """The analysis of a run, by the rows that the report shows.

    `analysis` is None where the curves do not fit together; `reason` says why.
    """

    def __init__(self, run: Run, margin: float | None, axes: Sequence[str] = ()) -> None:
        self.analysis: Analysis | None = None
        self.reason = "no curve is stored"
        self._rows: dict[tuple[str | None, str], CurveRow] = {}
        curves, groups = curves_of(run.curves)
        for row in sorted(run.curves, key=lambda curve: not curve.is_default):
            for name in (row.adapter, row.full_name):
                self._rows.setdefault((row.task, name), row)
        try:
            if curves:
                names = (curve.adapter for curve in curves)
                how: dict[str, Any] = {"margin": margin, "strict": False}
                how["primary"] = declaration((), run.primary, names, {}, finished=True)
                how |= {"checkpoints": checkpoints_of(run), "budgets": axes}
                self.analysis = analyse(curves, groups=groups, **how)
        except CurveError as error:
            self.reason = str(error)

    @property
    def closely(self) -> Closely:
        """What was seen at a close look."""
        return self.analysis.closely if self.analysis else Closely()

    def row(self, task: str | None, name: str) -> CurveRow:
        """The row that the analysis calls by this name."""
        return self._rows[task, name]

    def choices(self) -> Mapping[str | None, Choice]:
        """What to ship on each task."""
        return {row.task: row for row in (self.analysis.choices if self.analysis else ())}

    def called(self, one: Configuration) -> str:
        """A configuration by the label of its row."""
        return f"{self.row(one.task, one.label).label} at rank {one.rank}"

    def above_base(self) -> Mapping[str, Mapping[int, bool]]:
        """By the id of a row: whether each rank is shown to be above the base."""
        scores = self.analysis.scores if self.analysis else ()
        known = ((self.row(row.task, row.label), row.above_base) for row in scores)
        return {curve.id: above for curve, above in known if above is not None}

    def leaders(self) -> Mapping[str | None, BestRow]:
        """What is said of the largest AURAC of each task."""
        return {row.task: row for row in (self.analysis.best if self.analysis else ())}

    @cached_property
    def pairs(self) -> list[Difference]:
        """Every pair that was tested: the one with the larger AURAC minus the other."""
        known = self.analysis
        return self.differences((*known.pairs, *known.variants)) if known else []

    def differences(self, pairs: Iterable[PairRow]) -> list[Difference]:
        """Those of the pairs that were tested, the row with the larger AURAC minus the other."""
        tested = (self._difference(pair) for pair in pairs if pair.result is not None)
        return [pair if pair.value >= 0 else pair.reversed() for pair in tested]

    def _difference(self, pair: PairRow) -> Difference:
        result = cast("PairedDifference", pair.result)
        return Difference(
            first=self.row(pair.task, pair.b),
            second=self.row(pair.task, pair.a),
            value=result.estimate.value,
            low=result.estimate.low,
            high=result.estimate.high,
            adjusted=pair.p_holm,
            detectable=result.mde,
            n_docs=pair.n_docs or 0,
            method=result.estimate.method,
            axis=pair.axis,
            span=pair.span,
            pairing=result.parts.pairing,
            exploratory=pair.exploratory,
        )

    def between(self, first: CurveRow, second: CurveRow) -> Difference | None:
        """`first` minus `second`; None where the two were not tested."""
        straight = self._by_rows.get((id(first), id(second)))
        turned = self._by_rows.get((id(second), id(first)))
        return straight or (turned.reversed() if turned else None)

    @cached_property
    def _by_rows(self) -> dict[tuple[int, int], Difference]:
        return {(id(pair.first), id(pair.second)): pair for pair in self.pairs}


def curves_of(rows: Sequence[CurveRow]) -> tuple[list[Curve], dict[str, list[str]]]:
    """The curves of rows, with documents where there are any, default truncations first; groups."""
    curves, groups = list[Curve](), {}
    for row in sorted(rows, key=lambda curve: not curve.is_default):
        seeds = seeds_of(row) or ([as_curve(row.record)] if row.record and row.ranks else [])
        if row.members:
            groups[row.adapter] = [row.adapter]
        curves += [replace(seed, adapter=row.adapter) for seed in seeds]
    return curves, groups


def checkpoints_of(run: Run) -> list[Curve]:
    """Single trainings in their default truncation, with the documents of all of their ranks."""
    rows = [row for curve in run.curves if curve.is_default for row in curve.members or (curve,)]
    known = ((row, curve) for row in rows for curve in seeds_of(row) or ())
    return [curve for row, curve in known if curve.ranks == row.ranks]


@dataclass(frozen=True)
class Findings:
    """What a report says beyond the stored numbers, computed once and rendered several times."""

    margin: float | None  # that was declared for recommendations
    choices: Mapping[str | None, Choice]  # by task: which configuration to ship
    called: Callable[[Configuration], str]  # what the page calls one
    above_base: Mapping[str, Mapping[int, bool]]  # by the id of a curve and by rank
    tests: Mapping[str, Tested]  # by the id of a curve that is looked at, each by itself
    # By adapter and task: the recommended rank of a single training
    own: Mapping[tuple[str, str | None], RecommendRow]
    # By id and rank, an upper bound on what it loses, all of a task together
    joint: Mapping[str, Mapping[int, float]]
    # By task: what is said of the largest AURAC; its row, where one is named; the rows that may be
    # the best; the pairs on the page; documents gained and lost; their groups; prefix against SVD
    leaders: Mapping[str | None, BestRow]
    best: Mapping[str, CurveRow | None]
    candidates: Mapping[str, Sequence[CurveRow]]
    pairs: Mapping[str, Sequence[Difference]]
    changes: Mapping[str, Sequence[Changes]]
    groups: Mapping[str, Sequence[Group]]
    bases: Mapping[str, Sequence[BasisPair]]
    compared: Compared

    @property
    def tested(self) -> Sequence[Difference]:
        """Every pair that was tested."""
        return self.compared.pairs

    def pair(self, best: CurveRow, other: CurveRow) -> Difference | None:
        """The leader of a task against another row; None where they were not tested."""
        return self.compared.between(best, other)

    def leader(self, curve: CurveRow) -> BestRow | None:
        """What is said of a curve as the leader of its task; None where it is not."""
        return self.leaders.get(curve.task) if self.best[curve.task] is curve else None

    def leader_area(self, curve: CurveRow) -> Interval:
        """AURAC of a curve, of a leader with an interval that allows for its having been picked."""
        row = self.leader(curve)
        if row and row.estimate and row.estimate.low is not None:
            return Interval(value=curve.area, low=row.estimate.low, high=row.estimate.high)
        return curve.log2 or Interval(value=curve.area)

    def below_base(self, curve: CurveRow) -> bool:
        """Whether no rank of a curve is shown to be above a base that is known."""
        above = self.above_base.get(curve.id)
        return bool(above) and not any(above.values()) if above else False


def find(run: Run, margin: float | None, axes: Sequence[str] = ()) -> Findings:
    """Look at a run."""
    compared, large = Compared(run, margin, axes), run.many_tasks
    leaders = {task: _leader(run, task, compared) for task in run.task_names}
    candidates = {
        task: [compared.row(task, name) for name in row.candidates] if row else scored(run, task)
        for task, row in leaders.items()
    }
    best = {task: next(iter(rows), None) for task, rows in candidates.items()}
    seen = compared.closely
    tested = [(compared.row(row.task, row.label), row) for row in seen.tests]
    changes: dict[str, list[Changes]] = {task: [] for task in run.task_names}
    for item in seen.changes:
        label = compared.row(item.task, item.label).label
        changes[item.task].append(replace(item, label=label))
    return Findings(
        margin=margin,
        choices=compared.choices(),
        called=compared.called,
        above_base=compared.above_base(),
        tests={curve.id: (curve, row) for curve, row in tested},
        own={(row.adapter, row.task): row for row in seen.checkpoints},
        joint={
            curve.id: {test.rank: test.joint for test in row.tests if test.joint is not None}
            for curve, row in tested
        },
        leaders={task: row for task, row in leaders.items() if row},
        best=best,
        candidates=candidates,
        pairs={
            task: _shown(compared, best[task], candidates[task], 1 if large else _PAIRED)
            for task in run.task_names
        },
        changes=changes,
        groups=shown_groups(run.task_names, compared),
        bases={task: basis_pairs(task, compared) for task in run.task_names},
        compared=compared,
    )


def _leader(run: Run, task: str, compared: Compared) -> BestRow | None:
    """What is said of the largest AURAC of a task; None where one row or none has an AURAC."""
    rows = scored(run, task)
    if len(rows) < 2:
        return None
    if documents := unequal_documents(rows):
        return BestRow(task, len(rows), LEVEL, reason=f"the rows are of {documents} documents")
    known = compared.leaders().get(task)
    return known or BestRow(task, len(rows), LEVEL, reason=compared.reason)


def _shown(
    compared: Compared, best: CurveRow | None, candidates: Sequence[CurveRow], most: int
) -> list[Difference]:
    """The pairs that a page has room for, with those that its first sentences rely on.

    They are the leader's, those of its adapter's default truncation with other adapters, and for
    each row that is worse than another but not than the leader one that shows it.
    """
    if best is None:
        return []
    pairs = [pair for pair in compared.pairs if pair.first.task == best.task]
    own = [pair for pair in pairs if pair.first is best or pair.second is best]
    own = [pair if pair.first is best else pair.reversed() for pair in own]
    own.sort(key=lambda pair: -pair.second.area)
    others = [pair for pair in own if pair.second.adapter != best.adapter]
    shown = [*others[:most], *(pair for pair in own if pair not in others)]
    if not best.is_default:
        default = [p for p in pairs if p.first.adapter == best.adapter and p.first.is_default]
        shown += [p for p in default if p.second.adapter != best.adapter][:most]
    settled = {*(c.id for c in candidates), *(p.second.id for p in own if p.significant)}
    for pair in pairs:
        if pair.significant and pair.second.id not in settled:
            settled.add(pair.second.id)
            shown += [pair] if pair not in shown else []
    return shown
