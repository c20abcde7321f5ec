"""Frames of an analysis as people read them: one frame of strings for each table shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from aurac.curves.area import quadrature_weights
from aurac.curves.display import decimals, size
from aurac.show.numbers import (
    NONE,
    accuracy,
    confidence,
    interval,
    known,
    loss,
    metric_value,
    p_value,
    points,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.analysis import Analysis, Row

MEAN: Final = "mean over tasks"
MARK: Final = "*"
NOT_ABOVE: Final = f"{MARK}: not shown to be above the base"


@dataclass(frozen=True)
class TaskView:
    """What an analysis says about one task, or about the mean over tasks."""

    analysis: Analysis
    task: str
    scores: pd.DataFrame
    points: pd.DataFrame
    pairs: pd.DataFrame
    rank_pairs: pd.DataFrame
    recommended: pd.DataFrame

    @property
    def names(self) -> list[str]:
        """Adapters (and their further cuts), by AURAC, then those without one."""
        return list(dict.fromkeys([*self.scores["adapter"], *self.points["adapter"]]))

    @property
    def level(self) -> float:
        """Confidence of every interval."""
        return self.analysis.question.level

    @property
    def rows(self) -> list[Row]:
        """What each of `names` is, where it was evaluated."""
        found = (self.analysis.rows.get((self.task, name)) for name in self.names)
        return [row for row in found if row is not None]

    @property
    def seeds(self) -> int:
        """The fewest training seeds of an adapter."""
        return min((int(n) for n in self.scores["seeds"] if known(n)), default=1)

    @property
    def examples(self) -> int | None:
        """Examples of the task, where their outcomes are known."""
        every = [int(n) for n in self.scores["examples"] if known(n)]
        every = every or [len(row.curves[0].doc_ids or ()) for row in self.rows if row.curves]
        return max(every, default=0) or None

    @property
    def metric(self) -> str:
        """The metric of the task."""
        return next((row.curves[0].metric or "" for row in self.rows if row.curves), "")

    @property
    def rolling(self) -> bool:
        """Whether the metric is no fraction, such as a perplexity; such a task has no AURAC."""
        return bool((self.points["accuracy"] > 1).any())

    @property
    def ranks(self) -> list[int]:
        """Every rank at which an adapter was evaluated, ascending."""
        return sorted({int(rank) for rank in self.points["rank"]} - {0})

    @property
    def shared_ranks(self) -> list[int]:
        """The ranks at which every adapter with an AURAC has an accuracy."""
        known_at = self.points[self.points["accuracy"].notna() & (self.points["rank"] > 0)]
        named = set(self.scores["adapter"][self.scores["aurac"].notna()])
        every = [set(g["rank"]) for name, g in known_at.groupby("adapter") if name in named]
        return sorted(int(rank) for rank in set.intersection(*every)) if every else []

    def of(self, name: str) -> pd.DataFrame:
        """The points of an adapter, by rank."""
        return self.points[self.points["adapter"] == name].sort_values("rank")

    def recommendation(self, name: str) -> Any:
        """The row of `Analysis.recommended` of an adapter, or None."""
        return next(self.recommended[self.recommended["adapter"] == name].itertuples(), None)


def view(analysis: Analysis, task: str) -> TaskView:
    """The rows of every frame that are about one task."""
    frames = ("scores", "points", "pairs", "rank_pairs", "recommended")
    parts = {name: getattr(analysis, name) for name in frames}
    return TaskView(analysis, task, **{k: v[v["task"] == task] for k, v in parts.items()})


def tasks_of(analysis: Analysis) -> list[str]:
    """The tasks of an analysis in their order; the mean over tasks is none of them."""
    every = [*analysis.points["task"], *analysis.scores["task"]]
    return [task for task in dict.fromkeys(every) if task != MEAN]


def ranks_table(of: TaskView, name: str) -> pd.DataFrame:
    """One adapter: each rank with its accuracy, its loss against the trained rank, its size."""
    known_points, row = of.of(name), of.analysis.rows[of.task, name]
    show = metric_value if of.rolling else accuracy
    frame = pd.DataFrame({"rank": [str(int(rank)) for rank in known_points["rank"]]})
    brackets = not of.rolling and known_points["low"].notna().any()
    values = of.metric if of.rolling else "accuracy"
    head = f"{values} [{confidence(of.level)}]" if brackets else values
    frame[head] = [
        show(p.accuracy) if of.rolling else _marked(p, interval(p.accuracy, p.low, p.high))
        for p in known_points.itertuples()
    ]
    if row.trained_rank and not of.rolling:
        frame[f"against rank {row.trained_rank}"] = [
            "" if p.rank in {0, row.trained_rank} else loss(p.loss, p.loss_bound)
            for p in known_points.itertuples()
        ]
    if known_points["bytes"].notna().any():
        frame["size"] = [size(b) if known(b) and b else NONE for b in known_points["bytes"]]
    return frame


def accuracy_table(of: TaskView, *, intervals: bool = False) -> pd.DataFrame:
    """Several adapters: base, the accuracy at each rank, AURAC; with a margin the smallest rank."""
    places = {(p.adapter, int(p.rank)): p for p in of.points.itertuples()}
    columns: dict[str, list[str]] = {"adapter": of.names}
    for rank in [0, *of.ranks]:
        cells = [places.get((name, rank)) for name in of.names]
        columns[f"r={rank}" if rank else "base"] = [_cell(of, cell, intervals) for cell in cells]
    areas = {s.adapter: s for s in of.scores.itertuples()}
    if any(known(score.aurac) for score in areas.values()):
        bracketed = of.scores["low"].notna().any()
        head = f"AURAC [{confidence(of.level)}]" if bracketed else "AURAC"
        columns[head] = [
            interval(s.aurac, s.low, s.high) if (s := areas.get(name)) else NONE
            for name in of.names
        ]
    margin = of.analysis.question.margin
    if margin is not None and len(of.recommended):
        found = [of.recommendation(name) for name in of.names]
        columns[f"within {points(margin)}"] = [
            f"r={row.rank:.0f}" if row is not None and known(row.rank) else NONE for row in found
        ]
    return pd.DataFrame({k: v for k, v in columns.items() if k != "base" or {*v} != {NONE}})


def _cell(of: TaskView, point: Any, intervals: bool) -> str:  # noqa: FBT001
    if point is None:
        return NONE
    if of.rolling:
        return metric_value(point.accuracy)
    value = (point.accuracy, point.low, point.high)
    return _marked(point, interval(*value) if intervals else accuracy(point.accuracy))


def _marked(point: Any, text: str) -> str:
    """The accuracy of a rank that is not shown to be above the base has a mark."""
    below = point.rank and point.above_base in (False, 0)
    return f"{MARK}{text}" if below and known(point.accuracy) else text


def marked(frame: pd.DataFrame) -> bool:
    """Whether an accuracy of a table is marked."""
    return any(str(cell).startswith(MARK) for column in frame for cell in frame[column])


def difference_table(of: TaskView) -> pd.DataFrame:
    """Differences of AURAC in points, winner minus loser, with interval and p."""
    rows = list(of.pairs.itertuples())
    frame = pd.DataFrame({"difference": [f"{row.a} − {row.b}" for row in rows]})
    frame["points"] = [interval(row.difference, row.low, row.high) for row in rows]
    if of.pairs["p"].notna().any():
        frame["p"] = [p_value(row.p) for row in rows]
    return frame


def rank_difference_table(of: TaskView, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Differences between adapters at each rank, in points; each interval stands alone."""
    places = {(r.a, r.b, int(r.rank)): r for r in of.rank_pairs.itertuples()}
    ranks = sorted({rank for a, b, rank in places if (a, b) in pairs})
    frame = pd.DataFrame({"difference": [f"{a} − {b}" for a, b in pairs]})
    for rank in ranks:
        cells = [places.get((a, b, rank)) for a, b in pairs]
        frame[f"r={rank}"] = [
            interval(cell.difference, cell.low, cell.high) if cell else NONE for cell in cells
        ]
    return frame


def overview_table(analysis: Analysis) -> pd.DataFrame:
    """The mean AURAC over tasks of each adapter, and its AURAC on each task."""
    of, known_areas = view(analysis, MEAN), analysis.scores
    frame = pd.DataFrame({"adapter": of.names})
    means = {s.adapter: s for s in of.scores.itertuples()}
    frame[f"mean AURAC [{confidence(of.level)}]"] = [
        interval(means[name].aurac, means[name].low, means[name].high) for name in of.names
    ]
    for task in tasks_of(analysis):
        areas = known_areas[known_areas["task"] == task].set_index("adapter")["aurac"]
        frame[task] = [accuracy(areas.get(name)) for name in of.names]
    return frame


def linear_table(of: TaskView) -> pd.DataFrame:
    """AURAC over log2 of the rank, and over the rank itself."""
    rows = of.scores[of.scores["aurac"].notna()]
    return pd.DataFrame(
        {
            "adapter": rows["adapter"],
            "AURAC": rows["aurac"].map(accuracy),
            "on a linear axis": rows["aurac_linear"].map(accuracy),
        }
    )


def weight_table(ranks: Sequence[int]) -> pd.DataFrame:
    """What each rank weighs in AURAC, in percent; a row adds up to 100."""
    frame = pd.DataFrame({"axis": ["log2", "linear"]})
    both = [quadrature_weights(ranks, "log2"), quadrature_weights(ranks, "linear")]
    for at, rank in enumerate(ranks):
        frame[f"r={rank}"] = [decimals(100 * float(weights[at]), 1) for weights in both]
    return frame
