"""Curves → five tables that say all that is said of them: `analyse`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from msgspec.structs import replace

from aurac.analysis.gather import Row, difference, gather
from aurac.analysis.points import ends, points_of, recommended
from aurac.analysis.schema import Area, Frames, Pair, RankPair, Tables
from aurac.curves.checks import MEAN
from aurac.curves.question import ALL_PAIRS, Key, Question
from aurac.errors import UsageError
from aurac.readers import curves_of
from aurac.stats.estimate import SIGNED, Components, estimate, interval, over_tasks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from aurac.curves.curve import Curve
    from aurac.records.run import StoredRun

MOST_ALL_PAIRS = 6  # adapters on a task of which all pairs are compared by default


@dataclass(frozen=True, eq=False, repr=False)
class Analysis(Frames):
    """All that is claimed, in five frames.

    Attributes:
        question: What was asked, and the reference that was chosen where none was asked for.
        rows: What stands behind the rows of the frames: an adapter under one cut on one task.
        ranks: Task → ranks over which AURAC is taken: those of the question, or those that all of
            its complete rows have; none where these are fewer than two.
        averaged: The tasks of the mean over tasks. It counts no example twice: if tasks share
            examples, the one with the most is taken. A group is taken instead of its members.
        tables: The rows of the frames, where an adapter under one cut is a `Key`.
    """

    question: Question
    rows: tuple[Row, ...]
    ranks: Mapping[str, tuple[int, ...]]
    averaged: tuple[str, ...]
    tables: Tables

    def __repr__(self) -> str:
        tasks = ", ".join(self.ranks)
        return f"Analysis({len(self.rows)} rows on {tasks}: .scores, .points, .pairs, …)"

    def member_areas(self, group: str, members: Iterable[str]) -> dict[str, dict[Key, float]]:
        """AURAC of each row of a group on each of its tasks, whose examples are ``member:id``."""
        found: dict[str, dict[Key, float]] = {member: {} for member in members}
        having = {r.key for r in self.tables.scores if r.task == group and r.aurac is not None}
        for row in self.rows:
            if row.task == group and row.key in having and row.examples:
                areas: Any = row.areas(self.ranks[group])
                for member, known in found.items():
                    mine = [doc.startswith(f"{member}:") for doc in row.curves[0].doc_ids or ()]
                    known[row.key] = float(areas[:, mine].mean())
        return found


def analyse(source: Any, question: Question | None = None) -> Analysis:
    """Every claim about curves, in five frames.

    Args:
        source: What `aurac.score` takes, or several of them in a list or under their names; a run,
            or the path of one or of a report, under its own question unless another is asked.
        question: What is asked.

    Raises:
        CurveError: It is none of these, or has curves of one task on other examples.
        UsageError: A reference or a pair of which there is no row, or a field of the question that
            chooses what is read of a run, without a run.
    """
    curves, asked = _asked(source, question)
    asked = resolved(asked, rows := gather(curves, asked.groups))
    names = {row.key: row.name for row in rows}
    every_task = dict.fromkeys(row.task for row in rows)
    tasks = [_Task([row for row in rows if row.task == t], asked.ranks) for t in every_task]
    apart = _apart(tasks)
    tables: list[_Means | _Task] = [_Means(apart, names), *tasks] if apart else [*tasks]
    level, margin = asked.level, asked.margin
    points = {row: points_of(row, level) for task in tasks for row in task.rows.values()}

    def compared(keys: Iterable[Key]) -> list[tuple[Key, Key]]:
        both = combinations(keys, 2)
        return [(a, b) for a, b in both if asked.compares(a, b, (names[a], names[b]))]

    scores = [
        replace(area, seed_sd=_seed_sd(parts), **ends(parts, level))
        for table in tables
        for area, parts in table.scores.values()
    ]
    rank_pairs = [
        pair
        for task in tasks
        for a, b in compared(key for key, row in task.rows.items() if not row.lacks)
        for pair in _at_ranks(task.rows[a], task.rows[b], level)
    ]
    return Analysis(
        question=asked,
        rows=tuple(points),
        ranks={task.name: task.ranks for task in tasks},
        averaged=tuple(task.name for task in apart),
        tables=Tables(
            scores=scores,
            points=[point for some in points.values() for point in some],
            pairs=[pair for t in tables for pair in _family(t, compared(t.areas), asked)],
            rank_pairs=rank_pairs,
            recommended=[
                recommended(row, some, margin)
                for row, some in points.items()
                if margin is not None and not row.rolling
            ],
        ),
    )


def _asked(source: Any, question: Question | None) -> tuple[Sequence[Curve], Question]:
    """The curves, and what is asked of them; a run has seeds that belong together."""
    from aurac.records.run import StoredRun, is_run, read_run

    run = source
    if isinstance(source, (str, Path)) and is_run(source):
        run = answerable(read_run(source))
    if not isinstance(run, StoredRun):
        asked = question or Question()
        for name in ("tasks", "limit", "metrics", "clusters", "rows"):
            if getattr(asked, name):
                raise UsageError(f"{name} can be asked of a run, and not of curves or a table.")
        return curves_of(source), asked
    run = run if question is None else run.under(question)
    return run.curves, run.question.but(groups=run.groups)


R = TypeVar("R", bound="StoredRun")


def answerable(run: R) -> R:
    """A run under its question, without a reference or pairs that are no rows of it."""
    try:
        resolved(run.question, gather(run.curves, run.groups))
    except UsageError:
        return run.under(run.question.but(reference=None, pairs=()))
    return run


def resolved(asked: Question, rows: Sequence[Row]) -> Question:
    """The question with the reference that is chosen where none is asked, and pairs by their keys.

    A default one is chosen by its place and its number of tasks: intervals and p values would not
    hold for one that is chosen by its score.

    Raises:
        UsageError: A reference or a pair of which there is no row.
    """
    names = {row.name: row.key for row in rows if row.ranks}

    def known(given: Key | str) -> Key:
        key = names.get(given) if isinstance(given, str) else given
        if key is None or key not in names.values():
            there = ", ".join(names)
            raise UsageError(f"There is no {given} to compare with; there are {there}.")
        return key

    if asked.pairs:
        pairs = tuple((known(a), known(b)) for a, b in asked.pairs)
        return asked.but(pairs=pairs, reference=ALL_PAIRS)
    if asked.reference is None:
        complete = [row for row in rows if row.reason is None]
        most = max(Counter(row.task for row in complete).values(), default=0)
        named = Counter(row.name for row in complete).most_common(1)
        return asked.but(reference=ALL_PAIRS if most <= MOST_ALL_PAIRS else named[0][0])
    if asked.reference != ALL_PAIRS:
        known(asked.reference)
    return asked


C = TypeVar("C", Area, Pair)
Claim = tuple[C, Components | None]  # what is said of a row or a pair, and its variance


class _Task:
    """The rows of one task, AURAC descending, over those ranks that all complete ones have.

    Attributes:
        rows: By their keys.
        areas: AURAC of the complete ones, each with (S, n) areas of its examples, if known.
        scores: What is said of each row.
    """

    def __init__(self, rows: Sequence[Row], ranks: Sequence[int]) -> None:
        self.name = rows[0].task
        whole = [row for row in rows if row.reason is None]
        common = set.intersection(*({*row.ranks} for row in whole)) if whole else set()
        self.ranks_were_asked, self.wanted = bool(ranks), tuple(sorted(ranks or common))
        self.ranks = self.wanted if len(self.wanted) > 1 else ()
        having = [row for row in whole if self.ranks and {*self.ranks} <= {*row.ranks}]
        areas = {row.key: (row.area(self.ranks), row.areas(self.ranks)) for row in having}

        def order(row: Row) -> tuple[bool, bool, float, str]:
            mean = sum(map(row.accuracy, row.ranks)) / max(1, len(row.ranks))
            best, _ = areas.get(row.key, (mean, None))
            best = best if row.rolling else -best
            return row.lacks is not None, row.key not in areas, best, row.name

        self.rows = {row.key: row for row in sorted(rows, key=order)}
        self.areas = {key: areas[key] for key in self.rows if key in areas}
        self.scores = {key: self._score(row) for key, row in self.rows.items()}

    def _score(self, row: Row) -> Claim[Area]:
        about = {"base": row.baseline(), "examples": row.examples, "seeds": row.seeds, **row.about}
        if row.key not in self.areas:
            return Area(reason=row.reason or self._lacking(row), **about), None
        area, areas = self.areas[row.key]
        reason = "the outcomes of its examples are not known" if areas is None else None
        linear = row.area(self.ranks, "linear")
        parts = None if areas is None else row.parts(areas)
        return Area(aurac=area, aurac_linear=linear, reason=reason, **about), parts

    def _lacking(self, row: Row) -> str:
        if missing := [str(rank) for rank in self.wanted if rank not in row.ranks]:
            return f"no result at rank {', '.join(missing)}"
        if self.ranks_were_asked:
            return f"rank {self.wanted[0]} alone was asked for, and AURAC needs two ranks"
        return "the rows have no two ranks in common"

    def why_not(self, key: Key) -> str:
        """Why a row is not in the mean over tasks."""
        known = self.scores.get(key)
        return (known and known[0].reason) or "it has no result"

    def pair(self, a: Key, b: Key) -> Claim[Pair]:
        """The difference of AURAC a - b."""
        (left, ours), (right, theirs) = self.areas[a], self.areas[b]
        first, second = self.rows[a], self.rows[b]
        about: dict[str, Any] = {"task": self.name, "a": a, "b": b, "difference": left - right}
        about |= {"examples": first.examples, "seeds": min(first.seeds, second.seeds)}
        if ours is None or theirs is None:
            return Pair(**about), None
        ahead = ours.mean(axis=0) - theirs.mean(axis=0)
        about |= {"wins": int(np.sum(ahead > 1e-9)), "losses": int(np.sum(ahead < -1e-9))}
        if str(a) < str(b):
            return Pair(**about), difference(first, second, ours, theirs)
        return Pair(**about), difference(second, first, theirs, ours)


class _Means:
    """Means over tasks, AURAC descending; of a row that lacks a task the reason."""

    def __init__(self, tasks: Sequence[_Task], names: Mapping[Key, str]) -> None:
        self.tasks = tasks
        keys = dict.fromkeys(key for task in tasks for key in task.rows)
        scores = {key: self._score(key) for key in keys}

        def order(key: Key) -> tuple[bool, float, str]:
            area = scores[key][0].aurac
            return area is None, -(area or 0.0), names[key]

        self.scores = {key: scores[key] for key in sorted(keys, key=order)}
        self.areas = [key for key, (area, _) in self.scores.items() if area.aurac is not None]

    def _score(self, key: Key) -> Claim[Area]:
        if lacking := [task for task in self.tasks if key not in task.areas]:
            row = next(task.rows[key] for task in self.tasks if key in task.rows)
            about = row.about | {"task": MEAN, "seeds": row.seeds}
            reason = f"{lacking[0].name}: {lacking[0].why_not(key)}"
            return Area(reason=reason, **about), None
        claims = [task.scores[key] for task in self.tasks]
        area, parts = _mean(claims, ("aurac", "aurac_linear", "base"), ("examples",))
        reasons = [one.reason for one, _ in claims if one.reason]
        reasons += [] if parts else ["its tasks have other training seeds"]
        return replace(area, reason=next(iter(reasons), None)), parts

    def pair(self, a: Key, b: Key) -> Claim[Pair]:
        """The difference a - b over tasks, in some of which b is the better one."""
        claims = [task.pair(a, b) for task in self.tasks]
        return _mean(claims, ("difference",), ("wins", "losses", "examples"))


def _apart(tasks: Sequence[_Task]) -> list[_Task]:
    """The tasks that the mean is over; none where that is a single one."""
    first = {task: next(iter(task.rows.values())) for task in tasks}
    kept: list[_Task] = []
    for task in sorted(tasks, key=lambda task: -(first[task].examples or 0)):
        shared = any(first[task].shares_examples(first[other]) for other in kept)
        if not shared and not first[task].rolling:
            kept.append(task)
    return [task for task in tasks if task in kept] if len(kept) > 1 else []


def _mean(claims: Sequence[Claim[C]], means: Sequence[str], sums: Sequence[str]) -> Claim[C]:
    """A claim for the mean over tasks of some columns, others added.

    Its variance is not known where a task has no examples, or shares some seeds with another.
    """
    rows = [row for row, _ in claims]
    result: dict[str, Any] = {"task": MEAN, "seeds": min(row.seeds for row in rows)}
    for name in (*means, *sums):
        values = [getattr(row, name) for row in rows]
        total = None if None in values else sum(values)
        result[name] = total / len(rows) if total is not None and name in means else total
    known = [parts for _, parts in claims if parts is not None]
    parts = over_tasks(known) if len(known) == len(claims) else None
    return replace(rows[0], **result), parts


def _family(
    table: _Means | _Task, compared: Sequence[tuple[Key, Key]], asked: Question
) -> Iterator[Pair]:
    """Differences of AURAC with intervals and p, adjusted for those that hold together."""
    declared = asked.family if asked.pairs and not asked.primary else None
    family = max(len(compared), declared or 0)
    for pair, parts in (table.pair(a, b) for a, b in compared):
        adjusted: dict[str, Any] = {"comparisons": family}
        if parts is not None:
            known = estimate(parts, SIGNED, asked.level, family)
            known = known if str(pair.a) < str(pair.b) else known.turned()
            adjusted |= {"low": known.low, "high": known.high, "p": known.p}
        yield replace(pair, **adjusted)


def _at_ranks(a: Row, b: Row, level: float) -> Iterator[RankPair]:
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
        value, keys = a.accuracy(rank) - b.accuracy(rank), {"a": a.key, "b": b.key}
        yield RankPair(task=a.task, rank=rank, difference=value, low=low, high=high, **keys)


def _seed_sd(parts: Components | None) -> float | None:
    """The standard deviation over the seeds of one arm."""
    if parts is None or len(parts.seeds) != 1:
        return None
    return float(parts.seeds[0].means.std(ddof=1))
