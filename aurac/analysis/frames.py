"""Curves → five tables that say all that is said of them: `analyse`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from aurac.analysis.gather import Groups, Row, difference, gather
from aurac.curves.checks import check_level
from aurac.errors import UsageError
from aurac.stats.estimate import (
    FRACTION,
    SIGNED,
    Components,
    Estimate,
    estimate,
    interval,
    one_sided,
    over_tasks,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aurac.curves.curve import Curve

MEAN = "mean over tasks"
UNKNOWN = Estimate(math.nan, math.nan, math.nan, math.nan)
WHOLE = ("rank", "reference", "examples", "seeds", "comparisons", "bytes", "slot")  # integers
COLUMNS = {
    "scores": "task adapter cut aurac low high aurac_linear mean base examples seeds",
    "points": "task adapter cut rank accuracy low high above_base loss loss_bound bytes slot",
    "pairs": "task a b difference low high p comparisons examples seeds",
    "rank_pairs": "task a b rank difference low high",
    "recommended": "task adapter cut rank reference margin loss bound bytes",
}


@dataclass(frozen=True)
class Question:
    """What is asked of the curves.

    Attributes:
        margin: The accuracy that a smaller rank may lose, a fraction; None recommends nothing.
        reference: The row that all others are compared with; None compares all pairs.
        level: Coverage of the intervals.
        groups: Recipe → adapters that are its training seeds.
    """

    margin: float | None = None
    reference: str | None = None
    level: float = 0.95
    groups: Groups = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.margin is not None and not 0.0 < self.margin < 1.0:
            raise UsageError(f"The margin {self.margin:g} is no fraction such as 0.02.")
        check_level(self.level)


@dataclass(frozen=True, eq=False)
class Analysis:
    """All that is claimed, in five frames; fractions, and missing where there is nothing to say.

    Attributes:
        scores: A row for each adapter and task, AURAC descending; first the mean over tasks.
        points: A row for each rank; rank 0 is the base. `loss` and its one-sided `loss_bound` are
            against the trained rank; `slot` is what a vLLM server sets aside, in bytes.
        pairs: Differences of AURAC, the better one first; low, high and p are adjusted for the
            `comparisons` of their table.
        rank_pairs: The same pairs at each rank, each interval alone.
        recommended: Adapter → the smallest rank that is shown to lose at most the margin; without
            a rank where none may be shipped.
        rows: Task, name → what stands behind a row.
        ranks: Task → ranks over which AURAC is taken, those that all its adapters have.
        averaged: The tasks of the mean over tasks, which takes each example once: of tasks that
            share some the largest, as a group and not its members, of equal ones the first.
    """

    question: Question
    scores: pd.DataFrame
    points: pd.DataFrame
    pairs: pd.DataFrame
    rank_pairs: pd.DataFrame
    recommended: pd.DataFrame
    rows: Mapping[tuple[str, str], Row]
    ranks: Mapping[str, tuple[int, ...]]
    averaged: tuple[str, ...] = ()

    def records(self, frame: str) -> list[dict[str, Any]]:
        """A frame as JSON has it: plain numbers and texts, None where there is nothing."""
        table: pd.DataFrame = getattr(self, frame)
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        return [{str(k): getattr(v, "item", lambda v=v: v)() for k, v in r.items()} for r in rows]


def analyse(curves: Iterable[Curve] | pd.DataFrame, question: Question | None = None) -> Analysis:
    """Every claim about curves, in five frames.

    Args:
        curves: Of one or several tasks, or a table that `aurac.readers.read_curves` would read.
        question: What is asked.

    Raises:
        CurveError: Curves of one task on other examples.
        UsageError: A reference that no row is called.
    """
    asked = question or Question()
    if isinstance(curves, pd.DataFrame):
        from aurac.readers.table import curves_from_frame

        curves = curves_from_frame(curves)
    rows = gather(curves, asked.groups)
    if asked.reference is not None and asked.reference not in (row.name for row in rows):
        known = ", ".join(dict.fromkeys(row.name for row in rows))
        raise UsageError(f"There is no {asked.reference} to compare with; there are {known}.")
    tasks = [_Task(same, asked) for same in _by_task(rows)]
    apart = _apart(tasks)
    mean = _over_tasks(apart, asked)
    lists: dict[str, list[dict[str, Any]]] = {name: list(mean.get(name, [])) for name in COLUMNS}
    for task in tasks:
        lists["scores"] += task.scores()
        lists["pairs"] += _family(task.pairs(), asked)
        lists["rank_pairs"] += task.rank_pairs()
        for row in task.rows:
            points = _points(row, asked.level)
            lists["points"] += points
            lists["recommended"] += _recommended(row, points, asked.margin)
    frames = {name: _frame(lists[name], columns.split()) for name, columns in COLUMNS.items()}
    return Analysis(
        question=asked,
        rows={(row.task, row.name): row for row in rows},
        ranks={task.name: task.ranks for task in tasks},
        averaged=tuple(task.name for task in apart) if len(apart) > 1 else (),
        **frames,
    )


class _Task:
    """The rows of one task, AURAC descending, over the ranks that all complete ones have."""

    def __init__(self, rows: Sequence[Row], asked: Question) -> None:
        self.name, self.asked = rows[0].task, asked
        whole = [row for row in rows if row.complete]
        common = set.intersection(*(set(row.ranks) for row in whole)) if whole else set()
        self.ranks = tuple(sorted(common)) if len(common) > 1 else ()
        self.area = {row.name: row.area(self.ranks) for row in whole} if self.ranks else {}
        self.rows = sorted(rows, key=self._order)
        self.areas = {row.name: row.areas(self.ranks) for row in whole} if self.ranks else {}
        each = ((row, self.areas.get(row.name)) for row in rows)
        self.parts = {row.name: None if a is None else row.parts(a) for row, a in each}

    def _order(self, row: Row) -> tuple[float, float, str]:
        height = [row.accuracy(rank) for rank in row.ranks]
        area = self.area.get(row.name)
        mean = -sum(height) / len(height) if height else 0.0
        return (0.0, -area, row.name) if area is not None else (1.0, mean, row.name)

    def scores(self) -> list[dict[str, Any]]:
        result = []
        for row in self.rows:
            area, parts = self.area.get(row.name), self.parts.get(row.name)
            known = estimate(parts, FRACTION, self.asked.level) if parts else UNKNOWN
            linear = row.area(self.ranks, "linear") if area is not None else None
            about = {"task": row.task, "adapter": row.name, "cut": row.cut, "aurac": area}
            mean = (
                sum(map(row.accuracy, self.ranks)) / len(self.ranks) if area is not None else None
            )
            more = {"mean": mean, "base": row.baseline()}
            more |= {"examples": row.examples, "seeds": row.seeds}
            result.append({**about, **_ends(known), "aurac_linear": linear, **more})
        return result

    def both(self) -> list[tuple[Row, Row]]:
        """The pairs that are compared, the better one first."""
        pairs = combinations(self.rows, 2)
        reference = self.asked.reference
        return [(a, b) for a, b in pairs if reference is None or reference in (a.name, b.name)]

    def pairs(self) -> list[tuple[dict[str, Any], Components | None]]:
        """The differences of AURAC, with the sources of variance of that in the names' order."""
        result = []
        for a, b in self.both():
            if a.name not in self.area or b.name not in self.area:
                continue
            first, second = sorted((a, b), key=lambda row: row.name)
            left, right = self.areas[first.name], self.areas[second.name]
            parts = None
            if left is not None and right is not None:
                parts = difference(first, second, left, right)
            row: dict[str, Any] = {"task": self.name, "a": a.name, "b": b.name}
            row["difference"] = self.area[a.name] - self.area[b.name]
            row |= {"examples": a.examples, "seeds": min(a.seeds, b.seeds)}
            result.append((row, parts))
        return result

    def rank_pairs(self) -> list[dict[str, Any]]:
        """The differences of accuracy at every rank that both have, each interval alone."""
        result = []
        for a, b in self.both():
            ranks = [rank for rank in a.ranks if rank in b.ranks]
            if not ranks or a.rolling or b.rolling:
                continue
            left, right = a.stacked(ranks), b.stacked(ranks)
            low = high = np.full(len(ranks), np.nan)
            if left is not None and right is not None:
                alpha = 1.0 - self.asked.level
                low, high = interval(difference(a, b, left, right), SIGNED, alpha)
            for rank, start, end in zip(ranks, low, high, strict=True):
                row: dict[str, Any] = {"task": self.name, "a": a.name, "b": b.name, "rank": rank}
                row["difference"] = a.accuracy(rank) - b.accuracy(rank)
                result.append(row | {"low": start, "high": end})
        return result


def _by_task(rows: Sequence[Row]) -> list[list[Row]]:
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    return list(tasks.values())


def _apart(tasks: Sequence[_Task]) -> list[_Task]:
    """The tasks that the mean is over."""
    kept: list[_Task] = []
    for task in sorted(tasks, key=lambda task: -(task.rows[0].examples or 0)):
        if not any(task.rows[0].shares_examples(other.rows[0]) for other in kept):
            kept.append(task)
    return [task for task in tasks if task in kept]


def _over_tasks(tasks: Sequence[_Task], asked: Question) -> dict[str, list[dict[str, Any]]]:
    """Scores and differences of the rows that have an area on all of several tasks."""
    if len(tasks) < 2:
        return {}
    scores = []
    for name in tasks[0].area:
        rows = [[r for r in task.scores() if r["adapter"] == name] for task in tasks]
        if all(name in task.area for task in tasks):
            means = _mean([row[0] for row in rows], ("aurac", "aurac_linear", "mean", "base"))
            known = _together([task.parts[name] for task in tasks])
            ends = _ends(estimate(known, FRACTION, asked.level) if known else UNKNOWN)
            scores.append(means | ends)
    scores.sort(key=lambda row: (-row["aurac"], row["adapter"]))
    order = [row["adapter"] for row in scores]
    every = [{frozenset((r["a"], r["b"])): (r, parts) for r, parts in t.pairs()} for t in tasks]
    pairs = []
    for a, b in combinations(order, 2):
        if asked.reference in (None, a, b):
            same = [pairs_of[frozenset((a, b))] for pairs_of in every]
            signs = [1 if row["a"] == a else -1 for row, _ in same]
            turned = [
                row | {"a": a, "b": b, "difference": sign * row["difference"]}
                for (row, _), sign in zip(same, signs, strict=True)
            ]
            pairs.append((_mean(turned, ("difference",)), _together([parts for _, parts in same])))
    return {"scores": scores, "pairs": _family(pairs, asked)}


def _mean(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """A row for the mean over tasks of some columns, the examples added."""
    result = rows[0] | {"task": MEAN, "seeds": min(row["seeds"] for row in rows)}
    for name in columns:
        values = [row[name] for row in rows]
        result[name] = None if None in values else sum(values) / len(values)
    counts = [row["examples"] for row in rows]
    result["examples"] = None if None in counts else sum(counts)
    return result


def _together(parts: Sequence[Components | None]) -> Components | None:
    """Over tasks; None where one has no examples, or shares some training seeds with another."""
    known = [part for part in parts if part is not None]
    return over_tasks(known) if len(known) == len(parts) else None


def _family(
    pairs: Sequence[tuple[dict[str, Any], Components | None]], asked: Question
) -> list[dict[str, Any]]:
    """Rows with intervals and p, adjusted for as many comparisons as stand in the table."""
    count, rows = len(pairs), []
    for row, parts in pairs:
        known = estimate(parts, SIGNED, asked.level, count) if parts else UNKNOWN
        known = known if row["a"] < row["b"] else known.turned()
        rows.append({**row, **_ends(known), "p": known.p, "comparisons": count})
    return rows


def _points(row: Row, level: float) -> list[dict[str, Any]]:
    """One adapter's ranks, 0 for the base first."""
    about: dict[str, Any] = {"task": row.task, "adapter": row.name, "cut": row.cut}
    points = []
    if (base := row.baseline()) is not None:
        scores = row.curves[0].base_scores
        known = UNKNOWN
        if scores is not None:
            known = estimate(row.parts(scores[None]), FRACTION, level)
        points.append(about | {"rank": 0, "accuracy": base} | _ends(known))
    for rank in row.ranks:
        scores = row.scores(rank)
        known = estimate(row.parts(scores), FRACTION, level) if scores is not None else UNKNOWN
        point = about | {"rank": rank, "accuracy": row.accuracy(rank)} | _ends(known)
        sizes = {"bytes": row.bytes(rank), "slot": row.slot(rank)}
        points.append(point | _against(row, rank) | sizes)
    return points


def _against(row: Row, rank: int) -> dict[str, Any]:
    """Whether a rank is above the base, and what it loses against the trained one (95 %)."""
    result: dict[str, Any] = {}
    above = row.above_base(rank)
    if above is not None:
        result["above_base"] = one_sided(row.parts(above))[0] > 0.0
    reference = row.trained_rank
    if reference in row.ranks and rank < reference and not row.rolling:
        result["loss"] = row.accuracy(reference) - row.accuracy(rank)
        full, scores = row.scores(reference), row.scores(rank)
        if full is not None and scores is not None:
            result["loss_bound"] = one_sided(row.parts(full - scores))[1]
    return result


def _recommended(
    row: Row, points: Sequence[dict[str, Any]], margin: float | None
) -> list[dict[str, Any]]:
    """The smallest rank reached from the trained one down, while each rank passes.

    A fixed sequence of one-sided tests at .05: the first that fails ends it, so that together they
    err as rarely as one. A rank passes where it is above the base and its loss is at most the
    margin; nothing is shipped unless the trained rank is above the base.
    """
    reference = row.trained_rank
    if margin is None or row.examples is None or reference not in row.ranks:
        return []
    shipped, gone = None, {r for curve in row.curves for r in curve.missing}
    ladder = [point for point in points if point["rank"] <= reference]
    for point in sorted(ladder, key=lambda point: -point["rank"]):
        rank = point["rank"]
        small = rank == reference or point.get("loss_bound", math.inf) <= margin
        crossed = shipped is not None and any(rank < r < shipped["rank"] for r in gone)
        if rank == 0 or crossed or not small or point.get("above_base") is False:
            break
        shipped = point
    result = {key: points[0][key] for key in ("task", "adapter", "cut")}
    result |= {"reference": reference, "margin": margin}
    if shipped is not None:
        whole = shipped["rank"] == reference
        loss, bound = (0.0, 0.0) if whole else (shipped["loss"], shipped["loss_bound"])
        result |= {"rank": shipped["rank"], "loss": loss, "bound": bound}
        result["bytes"] = shipped["bytes"]
    return [result]


def _ends(known: Estimate) -> dict[str, float]:
    return {"low": known.low, "high": known.high}


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(columns))
    for name in columns:
        if name in WHOLE:
            frame[name] = frame[name].astype("Int64")
        elif name == "above_base":
            frame[name] = frame[name].astype("boolean")
        elif name not in ("task", "adapter", "cut", "a", "b"):
            frame[name] = frame[name].astype("float64")
    return frame
