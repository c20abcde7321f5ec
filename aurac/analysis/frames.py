"""Curves → five tables that say all that is said of them: `analyse`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.analysis.gather import Groups, Row, difference, gather
from aurac.analysis.points import about, ends, points_of, recommended
from aurac.analysis.schema import Frames, Key, Record
from aurac.curves.area import quadrature_weights
from aurac.curves.checks import MEAN, check_level
from aurac.errors import UsageError
from aurac.stats.estimate import (
    FRACTION,
    SIGNED,
    Components,
    estimate,
    interval,
    over_tasks,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pandas as pd

    from aurac.curves.curve import Curve

ALL_PAIRS = "all"
MOST_ALL_PAIRS = 6  # adapters on a task of which all pairs are compared by default


@dataclass(frozen=True)
class Question:
    """What is asked of the curves.

    Attributes:
        margin: The accuracy that a smaller rank may lose, a fraction; None recommends nothing.
        reference: The row that all others are compared with; "all" compares all pairs. None does
            so too where no task has more than six rows; with more, the first row given is the
            reference, whatever the scores are.
        level: Coverage of the intervals.
        groups: Recipe → adapters that are its training seeds.
        pairs: The rows that are compared, in the place of `reference`; empty: as it says.
        family: How many comparisons the intervals and p values hold for together; None: as many as
            stand in a table.
        ranks: Those over which AURAC is taken; empty: all that the complete rows of a task have.
    """

    margin: float | None = None
    reference: str | None = None
    level: float = 0.95
    groups: Groups = field(default_factory=dict)
    pairs: tuple[tuple[Key, Key], ...] = ()
    family: int | None = None
    ranks: tuple[int, ...] = ()

    def compares(self, a: Key, b: Key, names: tuple[str, str]) -> bool:
        """Whether the difference of two rows with these names is in the table."""
        if self.pairs:
            return (a, b) in self.pairs or (b, a) in self.pairs
        return self.reference in (ALL_PAIRS, *names)

    def __post_init__(self) -> None:
        if self.margin is not None and not 0.0 < self.margin < 1.0:
            raise UsageError(f"The margin {self.margin:g} is no fraction such as 0.02.")
        check_level(self.level)


@dataclass(frozen=True, eq=False)
class Analysis(Frames):
    """All that is claimed, in five frames.

    Attributes:
        question: What was asked, and the reference that was chosen where none was asked for.
        rows: What stands behind the rows of the frames: an adapter under one cut on one task.
        ranks: Task → ranks over which AURAC is taken: those of the question that all its rows have.
        averaged: The tasks of the mean over tasks, which takes each example once: of tasks that
            share some the largest, as a group and not its members, of equal ones the first.
        tables: The frames as records, where rows are a `Key`, and None where there is nothing.
    """

    question: Question
    rows: tuple[Row, ...]
    ranks: Mapping[str, tuple[int, ...]]
    averaged: tuple[str, ...]
    tables: Mapping[str, Sequence[Record]]

    def weights(self, task: str) -> dict[str, list[float]]:
        """What each rank weighs in AURAC on both axes."""
        ranks = self.ranks[task]
        return {axis: quadrature_weights(ranks, axis).tolist() for axis in ("log2", "linear")}

    def member_areas(self, group: str, members: Iterable[str]) -> dict[str, dict[Key, float]]:
        """AURAC of each row of a group on each of its tasks, whose examples are ``member:id``."""
        found: dict[str, dict[Key, float]] = {member: {} for member in members}
        for row in self.rows:
            if row.task == group and row.complete and self.ranks[group] and row.examples:
                areas: Any = row.areas(self.ranks[group])
                for member, known in found.items():
                    mine = [doc.startswith(f"{member}:") for doc in row.curves[0].doc_ids or ()]
                    known[row.key] = float(areas[:, mine].mean())
        return found


def analyse(curves: Iterable[Curve] | pd.DataFrame, question: Question | None = None) -> Analysis:
    """Every claim about curves, in five frames.

    Args:
        curves: Of one or several tasks, or a table that `aurac.read_curves` would read.
        question: What is asked.

    Raises:
        CurveError: Curves of one task on other examples.
        UsageError: A reference that no row is called.
    """
    asked = question or Question()
    rows = gather(_curves(curves), asked.groups)
    asked = replace(asked, reference=_reference(asked, rows))
    names = {row.key: row.name for row in rows}
    every_task = dict.fromkeys(row.task for row in rows)
    tasks = [_Task([row for row in rows if row.task == t], asked.ranks) for t in every_task]
    apart = _apart(tasks)
    tables: list[_Means | _Task] = [*([_Means(apart, names)] if len(apart) > 1 else []), *tasks]
    points = {row: points_of(row, asked.level) for task in tasks for row in task.rows.values()}

    def compared(keys: Iterable[Key]) -> list[tuple[Key, Key]]:
        both = combinations(keys, 2)
        return [(a, b) for a, b in both if asked.compares(a, b, (names[a], names[b]))]

    return Analysis(
        question=asked,
        rows=tuple(points),
        ranks={task.name: task.ranks for task in tasks},
        averaged=tuple(task.name for task in apart) if len(apart) > 1 else (),
        tables={
            "scores": [
                record | ends(parts, FRACTION, asked.level) | {"seed_sd": _seed_sd(parts)}
                for table in tables
                for record, parts in table.scores.values()
            ],
            "points": [point for some in points.values() for point in some],
            "pairs": [
                record
                for table in tables
                for record in _family(table, compared(table.areas), asked)
            ],
            "rank_pairs": [
                record
                for task in tasks
                for a, b in compared(task.rows)
                for record in _at_ranks(task.rows[a], task.rows[b], asked.level)
            ],
            "recommended": [
                record for row in points for record in recommended(row, points[row], asked.margin)
            ],
        },
    )


def _curves(source: Any) -> Iterable[Curve]:
    if not hasattr(source, "columns"):
        return source  # type: ignore[no-any-return]
    from aurac.readers.table import curves_from_frame

    return curves_from_frame(source)


def _reference(asked: Question, rows: Sequence[Row]) -> str:
    """The row that all others are compared with, or `ALL_PAIRS`.

    A default one is chosen by its place and its number of tasks: intervals and p values would not
    hold for one that is chosen by its score.
    """
    if asked.pairs:
        return ALL_PAIRS
    if asked.reference is None:
        complete = [row for row in rows if row.complete]
        if max(Counter(row.task for row in complete).values(), default=0) <= MOST_ALL_PAIRS:
            return ALL_PAIRS
        return Counter(row.name for row in complete).most_common(1)[0][0]
    names = dict.fromkeys(row.name for row in rows)
    if asked.reference not in (ALL_PAIRS, *names):
        known = ", ".join(names)
        raise UsageError(f"There is no {asked.reference} to compare with; there are {known}.")
    return asked.reference


Claim = tuple[Record, Components | None]  # what is said of a row or a pair, and its variance


class _Task:
    """The rows of one task, AURAC descending, over those ranks that all complete ones have.

    Attributes:
        rows: By their keys.
        areas: AURAC of the complete ones, each with (S, n) areas of its examples, if known.
        scores: What is said of each row.
    """

    def __init__(self, rows: Sequence[Row], ranks: Sequence[int]) -> None:
        self.name = rows[0].task
        whole = [row for row in rows if row.complete]
        common = set.intersection(*(set(row.ranks) for row in whole)) if whole else set()
        common &= {*ranks} or common
        self.ranks = tuple(sorted(common)) if len(common) > 1 else ()
        areas = {r.key: (r.area(self.ranks), r.areas(self.ranks)) for r in whole if self.ranks}

        def order(row: Row) -> tuple[int, float, str]:
            if row.key in areas:
                return 0, -areas[row.key][0], row.name
            mean = sum(map(row.accuracy, row.ranks)) / max(1, len(row.ranks))
            return 1, mean if row.rolling else -mean, row.name

        self.rows = {row.key: row for row in sorted(rows, key=order)}
        self.areas = {key: areas[key] for key in self.rows if key in areas}
        self.scores = {key: self._score(row) for key, row in self.rows.items()}

    def _score(self, row: Row) -> Claim:
        area, each = self.areas.get(row.key, (None, None))
        linear = None if area is None else row.area(self.ranks, "linear")
        record = {"aurac": area, "aurac_linear": linear, "base": row.baseline()}
        record |= {"examples": row.examples, "seeds": row.seeds}
        return about(row) | record, None if each is None else row.parts(each)

    def pair(self, a: Key, b: Key) -> Claim:
        """The difference of AURAC a - b."""
        (left, ours), (right, theirs) = self.areas[a], self.areas[b]
        first, second = self.rows[a], self.rows[b]
        record: Record = {"task": self.name, "a": a, "b": b, "difference": left - right}
        record |= {"examples": first.examples, "seeds": min(first.seeds, second.seeds)}
        if ours is None or theirs is None:
            return record | {"wins": None, "losses": None}, None
        ahead = ours.mean(axis=0) - theirs.mean(axis=0)
        record |= {"wins": int(np.sum(ahead > 1e-9)), "losses": int(np.sum(ahead < -1e-9))}
        if str(a) < str(b):
            return record, difference(first, second, ours, theirs)
        return record, difference(second, first, theirs, ours)


class _Means:
    """Means over tasks of the rows that have an area on all of them, AURAC descending."""

    def __init__(self, tasks: Sequence[_Task], names: Mapping[Key, str]) -> None:
        self.tasks = tasks
        keys = [key for key in tasks[0].areas if all(key in task.areas for task in tasks)]
        means, sums = ("aurac", "aurac_linear", "base"), ("examples",)
        scores = {key: _mean([task.scores[key] for task in tasks], means, sums) for key in keys}
        self.areas = sorted(keys, key=lambda key: (-scores[key][0]["aurac"], names[key]))
        self.scores = {key: scores[key] for key in self.areas}

    def pair(self, a: Key, b: Key) -> Claim:
        """The difference a - b over tasks, in some of which b is the better one."""
        claims = [task.pair(a, b) for task in self.tasks]
        return _mean(claims, ("difference",), ("wins", "losses", "examples"))


def _apart(tasks: Sequence[_Task]) -> list[_Task]:
    """The tasks that the mean is over."""
    first = {task: next(iter(task.rows.values())) for task in tasks}
    kept: list[_Task] = []
    for task in sorted(tasks, key=lambda task: -(first[task].examples or 0)):
        shared = any(first[task].shares_examples(first[other]) for other in kept)
        if not shared and not first[task].rolling:
            kept.append(task)
    return [task for task in tasks if task in kept]


def _mean(claims: Sequence[Claim], means: Sequence[str], sums: Sequence[str]) -> Claim:
    """A claim for the mean over tasks of some columns, others added.

    Its variance is not known where a task has no examples, or shares some seeds with another.
    """
    records = [record for record, _ in claims]
    result = records[0] | {"task": MEAN, "seeds": min(record["seeds"] for record in records)}
    for name in (*means, *sums):
        values = [record[name] for record in records if record[name] is not None]
        total = sum(values) / len(records) if name in means else sum(values)
        result[name] = total if len(values) == len(records) else None
    known = [parts for _, parts in claims if parts is not None]
    return result, over_tasks(known) if len(known) == len(claims) else None


def _family(
    table: _Means | _Task, compared: Sequence[tuple[Key, Key]], asked: Question
) -> Iterator[Record]:
    """Differences of AURAC with intervals and p, adjusted for those that hold together."""
    family = asked.family or len(compared)
    for record, parts in (table.pair(a, b) for a, b in compared):
        adjusted: Record = {"low": None, "high": None, "p": None, "comparisons": family}
        if parts is not None:
            known = estimate(parts, SIGNED, asked.level, family)
            known = known if str(record["a"]) < str(record["b"]) else known.turned()
            adjusted |= {"low": known.low, "high": known.high, "p": known.p}
        yield record | adjusted


def _at_ranks(a: Row, b: Row, level: float) -> Iterator[Record]:
    """The differences of accuracy at every rank that both have, each interval alone."""
    ranks = [rank for rank in a.ranks if rank in b.ranks]
    if not ranks or a.rolling or b.rolling:
        return
    left, right = a.scores(ranks), b.scores(ranks)
    both: Any = [(None, None)] * len(ranks)
    if left is not None and right is not None:
        low, high = interval(difference(a, b, left, right), SIGNED, 1.0 - level)
        both = zip(low.tolist(), high.tolist(), strict=True)
    for rank, (low, high) in zip(ranks, both, strict=True):
        value = a.accuracy(rank) - b.accuracy(rank)
        record = {"task": a.task, "a": a.key, "b": b.key, "rank": rank}
        yield record | {"difference": value, "low": low, "high": high}


def _seed_sd(parts: Components | None) -> float | None:
    """The standard deviation over the seeds of one arm."""
    if parts is None or len(parts.seeds) != 1:
        return None
    return float(parts.seeds[0].means.std(ddof=1))
