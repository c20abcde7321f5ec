"""Frames of an analysis as people read them: one frame of strings for each table shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from aurac.analysis import Question, analyse
from aurac.analysis.frames import MEAN
from aurac.curves.area import quadrature_weights
from aurac.curves.display import decimals, size, slot
from aurac.errors import UsageError
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
    rows_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.analysis import Analysis, Row
    from aurac.records.run import StoredRun

FRAMES: Final = ("scores", "points", "pairs", "rank_pairs", "recommended")
MOST_PAIRS: Final = 15
MARK: Final = "*"
NOT_ABOVE: Final = f"{MARK}: not shown to be above the base"
SLOT: Final = "vLLM slot"


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
        return max((int(n) for n in self.scores["examples"] if known(n)), default=None)

    @property
    def metric(self) -> str:
        """The metric of the task."""
        return next((row.curves[0].metric or "" for row in self.rows), "")

    @property
    def rolling(self) -> bool:
        """Whether the metric is no fraction, such as a perplexity; such a task has no AURAC."""
        return any(row.curves[0].rolling for row in self.rows)

    @property
    def ranks(self) -> list[int]:
        """Every rank at which an adapter was evaluated, ascending."""
        return sorted({int(rank) for rank in self.points["rank"]} - {0})

    @property
    def shared_ranks(self) -> list[int]:
        """The ranks that AURAC is over: those that every adapter has."""
        return list(self.analysis.ranks.get(self.task, ()))

    def of(self, name: str) -> pd.DataFrame:
        """The points of an adapter, by rank."""
        return self.points[self.points["adapter"] == name].sort_values("rank")

    def recommendation(self, name: str) -> Any:
        """The row of `Analysis.recommended` of an adapter, or None."""
        return next(iter(rows_of(self.recommended[self.recommended["adapter"] == name])), None)


def view(analysis: Analysis, task: str) -> TaskView:
    """The rows of every frame that are about one task."""
    parts = {name: getattr(analysis, name) for name in FRAMES}
    return TaskView(analysis, task, **{k: v[v["task"] == task] for k, v in parts.items()})


def relabelled(analysis: Analysis, labels: Mapping[str, str]) -> Analysis:
    """The analysis with other names of adapters; their further cuts follow."""
    if not labels:
        return analysis

    def called(name: str) -> str:
        adapter, comma, cut = name.partition(", ")
        return labels.get(name) or labels.get(adapter, adapter) + comma + cut

    names = {name for _, name in analysis.rows} | {*analysis.scores["adapter"]}
    unknown = [
        old for old in labels if old not in {name.partition(", ")[0] for name in names} | names
    ]
    if unknown:
        raise UsageError(f"no adapter of the run is called {unknown[0]}")
    if len({*map(called, names)}) < len(names):
        raise UsageError("two adapters would have the same label")

    def frame(name: str) -> pd.DataFrame:
        one: pd.DataFrame = getattr(analysis, name)
        columns = [column for column in ("adapter", "a", "b") if column in one]
        return one.assign(**{column: one[column].map(called) for column in columns})

    question = analysis.question
    if question.reference is not None:
        question = replace(question, reference=called(question.reference))
    return replace(
        analysis,
        question=question,
        rows={(task, called(name)): row for (task, name), row in analysis.rows.items()},
        scores=frame("scores"),
        points=frame("points"),
        pairs=frame("pairs"),
        rank_pairs=frame("rank_pairs"),
        recommended=frame("recommended"),
    )


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
        for p in rows_of(known_points)
    ]
    if row.trained_rank and not of.rolling:
        frame[f"against rank {row.trained_rank}"] = [
            "" if p.rank in {0, row.trained_rank} else loss(p.loss, p.loss_bound)
            for p in rows_of(known_points)
        ]
    if known_points["bytes"].notna().any():
        frame["size"] = [size(b) if known(b) and b else NONE for b in known_points["bytes"]]
    if known_points["slot"].notna().any():
        frame[SLOT] = [
            slot(int(p.rank), p.slot) if known(p.slot) and p.rank else NONE
            for p in rows_of(known_points)
        ]
    return frame


def accuracy_table(of: TaskView, *, intervals: bool = False) -> pd.DataFrame:
    """Several adapters: base, the accuracy at each rank, AURAC; with a margin the smallest rank."""
    places = {(p.adapter, int(p.rank)): p for p in rows_of(of.points)}
    columns: dict[str, list[str]] = {"adapter": of.names}
    for rank in [0, *of.ranks]:
        cells = [places.get((name, rank)) for name in of.names]
        columns[f"r={rank}" if rank else "base"] = [_cell(of, cell, intervals) for cell in cells]
    areas = {s.adapter: s for s in rows_of(of.scores)}
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
        columns[within(margin)] = [
            f"r={row.rank:.0f}" if row is not None and known(row.rank) else NONE for row in found
        ]
    return pd.DataFrame({k: v for k, v in columns.items() if k != "base" or {*v} != {NONE}})


def within(margin: float) -> str:
    """The head of the column of smallest ranks."""
    return f"within {points(margin).partition(' ')[0]}"


def notes(frame: pd.DataFrame, margin: float | None) -> list[str]:
    """What a mark and a column of a table mean, where it has them."""
    found = []
    if margin is not None and within(margin) in frame:
        found.append(
            f"{within(margin)}: the smallest rank shown to lose at most {points(margin)} against "
            "the trained rank"
        )
    if any(str(cell).startswith(MARK) for column in frame for cell in frame[column]):
        found.append(NOT_ABOVE)
    if SLOT in frame:
        found.append(
            f"{SLOT}: the smallest --max-lora-rank that serves it, and the memory it takes"
        )
    return found


def _cell(of: TaskView, point: Any, intervals: bool) -> str:  # noqa: FBT001
    if point is None:
        return NONE
    if of.rolling:
        return metric_value(point.accuracy)
    value = (point.accuracy, point.low, point.high)
    return _marked(point, interval(*value) if intervals else accuracy(point.accuracy))


def _marked(point: Any, text: str) -> str:
    """The accuracy of a rank that is not shown to be above the base has a mark."""
    above = point.above_base
    return f"{MARK}{text}" if known(above) and not above else text


def shown_pairs(of: TaskView) -> pd.DataFrame:
    """The differences of a table: all of few adapters, of many those of the leader."""
    if len(of.pairs) <= MOST_PAIRS or of.analysis.question.reference is not None:
        return of.pairs
    return of.pairs[(of.pairs["a"] == of.names[0]) | (of.pairs["b"] == of.names[0])]


def difference_table(of: TaskView) -> pd.DataFrame:
    """Differences of AURAC in points, winner minus loser, with interval and p."""
    rows = rows_of(shown_pairs(of))
    frame = pd.DataFrame({"difference": [f"{row.a} − {row.b}" for row in rows]})
    frame["points"] = [interval(row.difference, row.low, row.high) for row in rows]
    if of.pairs["p"].notna().any():
        frame["p"] = [p_value(row.p) for row in rows]
    return frame


def rank_difference_table(of: TaskView, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Differences between adapters at each rank, in points; each interval stands alone."""
    places = {(r.a, r.b, int(r.rank)): r for r in rows_of(of.rank_pairs)}
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
    means = {s.adapter: s for s in rows_of(of.scores)}
    frame[f"mean AURAC [{confidence(of.level)}]"] = [
        interval(means[name].aurac, means[name].low, means[name].high) for name in of.names
    ]
    for task in analysis.averaged:
        areas = known_areas[known_areas["task"] == task].set_index("adapter")["aurac"]
        frame[task] = [accuracy(areas.get(name)) for name in of.names]
    return frame


def member_table(run: StoredRun, of: TaskView, labels: Mapping[str, str]) -> pd.DataFrame | None:
    """AURAC of each adapter on each task of a group."""
    curves = run.member_curves(of.task)
    if not curves:
        return None
    there = {curve.adapter for curve in curves}
    groups = {n: [a for a in some if a in there] for n, some in of.analysis.question.groups.items()}
    each = relabelled(analyse(curves, Question(level=of.level, groups=groups)), labels).scores
    each = each[each["task"] != MEAN]
    wide = each.pivot_table(index="task", columns="adapter", values="aurac", sort=False)
    wide = wide[[name for name in of.names if name in wide]]
    return wide.map(accuracy).reset_index().rename_axis(columns=None)


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
