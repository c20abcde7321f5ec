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
from aurac.curves.checks import check_level
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
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from aurac.curves.curve import Curve

MEAN = "mean over tasks"
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
    """

    margin: float | None = None
    reference: str | None = None
    level: float = 0.95
    groups: Groups = field(default_factory=dict)
    pairs: tuple[tuple[Key, Key], ...] = ()
    family: int | None = None

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
        ranks: Task → ranks over which AURAC is taken, those that all its adapters have.
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
    asked = replace(asked, reference=_reference(asked.reference, rows))
    every_task = dict.fromkeys(row.task for row in rows)
    tasks = [_Task([row for row in rows if row.task == name], asked) for name in every_task]
    apart = _apart(tasks)
    means = _Means(apart, asked) if len(apart) > 1 else None
    points = {row: points_of(row, asked.level) for task in tasks for row in task.rows}
    every: list[_Means | _Task] = [*([means] if means else []), *tasks]
    return Analysis(
        question=asked,
        rows=tuple(points),
        ranks={task.name: task.ranks for task in tasks},
        averaged=tuple(task.name for task in apart) if means else (),
        tables={
            "scores": [record for each in every for record in each.scores],
            "points": [point for some in points.values() for point in some],
            "pairs": [record for each in every for record in _family(each.pairs, asked)],
            "rank_pairs": [record for task in tasks for record in task.rank_pairs()],
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


def _reference(asked: str | None, rows: Sequence[Row]) -> str:
    """The row that all others are compared with, or `ALL_PAIRS`.

    A default one is chosen by its place and its number of tasks: intervals and p values would not
    hold for one that is chosen by its score.
    """
    if asked is None:
        complete = [row for row in rows if row.complete]
        if max(Counter(row.task for row in complete).values(), default=0) <= MOST_ALL_PAIRS:
            return ALL_PAIRS
        return Counter(row.name for row in complete).most_common(1)[0][0]
    names = dict.fromkeys(row.name for row in rows)
    if asked not in (ALL_PAIRS, *names):
        known = ", ".join(names)
        raise UsageError(f"There is no {asked} to compare with; there are {known}.")
    return asked


Pair = tuple[Record, Components | None]  # of two rows in the order of their keys


class _Task:
    """The rows of one task, AURAC descending, over the ranks that all complete ones have."""

    def __init__(self, rows: Sequence[Row], asked: Question) -> None:
        self.name, self.asked = rows[0].task, asked
        whole = [row for row in rows if row.complete]
        common = set.intersection(*(set(row.ranks) for row in whole)) if whole else set()
        self.ranks = tuple(sorted(common)) if len(common) > 1 else ()
        whole = whole if self.ranks else []
        self.area = {row.key: row.area(self.ranks) for row in whole}
        areas = {row: row.areas(self.ranks) for row in whole}
        self.areas = {row.key: values for row, values in areas.items() if values is not None}
        self.parts = {row.key: row.parts(x) for row, x in areas.items() if x is not None}
        self.rows = sorted(rows, key=self._order)
        self.scores = [self._score(row) for row in self.rows]
        both = [(a, b) for a, b in self.both() if a.key in self.area and b.key in self.area]
        self.pairs = [self._pair(a, b) for a, b in both]

    def _order(self, row: Row) -> tuple[float, float, str]:
        if (area := self.area.get(row.key)) is not None:
            return (0.0, -area, row.name)
        height = [row.accuracy(rank) for rank in row.ranks]
        return (1.0, -sum(height) / len(height) if height else 0.0, row.name)

    def _score(self, row: Row) -> Record:
        area, parts = self.area.get(row.key), self.parts.get(row.key)
        linear = None if area is None else row.area(self.ranks, "linear")
        known = {"aurac": area, "aurac_linear": linear, "base": row.baseline()}
        known |= ends(parts, FRACTION, self.asked.level) | {"seed_sd": _seed_sd(parts)}
        return about(row) | known | {"examples": row.examples, "seeds": row.seeds}

    def both(self) -> list[tuple[Row, Row]]:
        """The pairs that are compared, the better one first."""
        pairs = combinations(self.rows, 2)
        return [(a, b) for a, b in pairs if self.asked.compares(a.key, b.key, (a.name, b.name))]

    def _pair(self, a: Row, b: Row) -> Pair:
        """A difference of AURAC."""
        record: Record = {"task": self.name, "a": a.key, "b": b.key}
        record["difference"] = self.area[a.key] - self.area[b.key]
        record |= {"examples": a.examples, "seeds": min(a.seeds, b.seeds)}
        record |= {"wins": None, "losses": None}
        if a.key not in self.areas or b.key not in self.areas:
            return record, None
        ahead = self.areas[a.key].mean(axis=0) - self.areas[b.key].mean(axis=0)
        record |= {"wins": int(np.sum(ahead > 1e-9)), "losses": int(np.sum(ahead < -1e-9))}
        first, second = sorted((a, b), key=lambda row: str(row.key))
        return record, difference(first, second, *(self.areas[x.key] for x in (first, second)))

    def rank_pairs(self) -> list[Record]:
        """The differences of accuracy at every rank that both have, each interval alone."""
        result = []
        for a, b in self.both():
            ranks = [rank for rank in a.ranks if rank in b.ranks]
            if not ranks or a.rolling or b.rolling:
                continue
            left, right = a.scores(ranks), b.scores(ranks)
            both: Any = [(None, None)] * len(ranks)
            if left is not None and right is not None:
                parts = difference(a, b, left, right)
                low, high = interval(parts, SIGNED, 1.0 - self.asked.level)
                both = zip(low.tolist(), high.tolist(), strict=True)
            for rank, (low, high) in zip(ranks, both, strict=True):
                value = a.accuracy(rank) - b.accuracy(rank)
                record = {"task": self.name, "a": a.key, "b": b.key, "rank": rank}
                result.append(record | {"difference": value, "low": low, "high": high})
        return result


class _Means:
    """Means over tasks of the rows that have an area on all of them."""

    def __init__(self, tasks: Sequence[_Task], asked: Question) -> None:
        self.tasks, self.level = tasks, asked.level
        self.known = [{frozenset((r["a"], r["b"])): (r, p) for r, p in t.pairs} for t in tasks]
        names = {row.key: row.name for task in tasks for row in task.rows}
        keys = [key for key in tasks[0].area if all(key in task.area for task in tasks)]
        scores = {key: self._score(key) for key in keys}
        order = sorted(keys, key=lambda key: (-scores[key]["aurac"], names[key]))
        self.scores = [scores[key] for key in order]
        self.pairs = [
            self._pair(a, b)
            for a, b in combinations(order, 2)
            if asked.compares(a, b, (names[a], names[b]))
        ]

    def _score(self, key: Key) -> Record:
        records = [r for task in self.tasks for r in task.scores if r["key"] == key]
        parts = _together([task.parts.get(key) for task in self.tasks])
        mean = _mean(records, ("aurac", "aurac_linear", "base"), ("examples",))
        return mean | ends(parts, FRACTION, self.level) | {"seed_sd": _seed_sd(parts)}

    def _pair(self, a: Key, b: Key) -> Pair:
        """The difference a - b over tasks, in some of which b is the better one."""
        pairs = [pairs[frozenset((a, b))] for pairs in self.known]
        records = [r if r["a"] == a else _turned(r) for r, _ in pairs]
        mean = _mean(records, ("difference",), ("wins", "losses", "examples"))
        return mean, _together([parts for _, parts in pairs])


def _turned(pair: Record) -> Record:
    turned = {"a": pair["b"], "b": pair["a"], "difference": -pair["difference"]}
    return pair | turned | {"wins": pair["losses"], "losses": pair["wins"]}


def _apart(tasks: Sequence[_Task]) -> list[_Task]:
    """The tasks that the mean is over."""
    kept: list[_Task] = []
    for task in sorted(tasks, key=lambda task: -(task.rows[0].examples or 0)):
        if not any(task.rows[0].shares_examples(other.rows[0]) for other in kept):
            kept.append(task)
    return [task for task in tasks if task in kept]


def _mean(records: Sequence[Record], means: Sequence[str], sums: Sequence[str]) -> Record:
    """A record for the mean over tasks of some columns, others added."""
    result = records[0] | {"task": MEAN, "seeds": min(record["seeds"] for record in records)}
    for name in (*means, *sums):
        values = [record[name] for record in records if record[name] is not None]
        total = sum(values) / len(records) if name in means else sum(values)
        result[name] = total if len(values) == len(records) else None
    return result


def _together(parts: Sequence[Components | None]) -> Components | None:
    """Over tasks; None where one has no examples, or shares some training seeds with another."""
    known = [part for part in parts if part is not None]
    return over_tasks(known) if len(known) == len(parts) else None


def _family(pairs: Sequence[Pair], asked: Question) -> list[Record]:
    """Records with intervals and p, adjusted for the comparisons that they hold for together."""
    records, family = [], asked.family or len(pairs)
    for record, parts in pairs:
        adjusted: Record = {"low": None, "high": None, "p": None, "comparisons": family}
        if parts is not None:
            known = estimate(parts, SIGNED, asked.level, family)
            known = known if str(record["a"]) < str(record["b"]) else known.turned()
            adjusted |= {"low": known.low, "high": known.high, "p": known.p}
        records.append(record | adjusted)
    return records


def _seed_sd(parts: Components | None) -> float | None:
    """The standard deviation over the seeds of one arm."""
    if parts is None or len(parts.seeds) != 1:
        return None
    return float(parts.seeds[0].means.std(ddof=1))
