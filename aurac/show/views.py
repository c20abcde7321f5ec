"""An analysis as people read it: tables of texts, a row by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aurac.curves.checks import MEAN
from aurac.curves.metrics import TOKENS, WHOLE
from aurac.curves.numbers import (
    NONE,
    confidence,
    interval,
    loss,
    metric_value,
    p_value,
    percent,
    size,
)
from aurac.curves.question import ALL_PAIRS
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aurac.analysis import Analysis, Row
    from aurac.analysis.schema import Advice, Pair, Point
    from aurac.curves.question import Key
    from aurac.show.tabular import Columns

MOST_BARS: Final = 3
MARK: Final = "*"
LOSS: Final = "loss (at most)"
SLOT: Final = "vLLM rank"
SMALLEST: Final = "smallest"
NATS: Final = "Mean loss of a token in nats"
OWN: Final = {f"{TOKENS},none": "Token accuracy", f"{WHOLE},none": "Whole completions"}
"""What the metrics of a user's own examples are called."""


def names_of(analysis: Analysis, labels: Mapping[str, str] | None = None) -> dict[Key, str]:
    """What rows are called, where adapters have other names in `labels`; their cuts follow."""
    labels, names = labels or {}, dict[Any, str]()
    for old in labels:
        if all(old not in (row.name, row.key.adapter) for row in analysis.rows):
            known = ", ".join(dict.fromkeys(row.key.adapter for row in analysis.rows))
            raise UsageError(f"no adapter of the run is called {old}, but {known}")
    for row in analysis.rows:
        adapter, cut = row.key.adapter, row.name[len(row.key.adapter) :]
        names[row.key] = labels.get(row.name) or labels.get(adapter, adapter) + cut
    if len({*names.values()}) < len(names):
        raise UsageError("two adapters would have the same label")
    return names


class View:
    """What an analysis says about one task, or about the mean over tasks.

    Attributes:
        names: What rows are called; their own names by default.
        scores, points, pairs, rank_pairs, recommended: The rows of the frames.
        rows, keys: What was evaluated, by AURAC.
        level: Confidence of every interval.
        seeds: The fewest training seeds of an adapter.
        examples: Those of the task, where their outcomes are known.
        metric: Of the task; `rolling` where it is no fraction, such as a perplexity.
        measure: What is shown: an accuracy, a score of one's own examples, or that metric.
        ranks, shared_ranks: At which an adapter was evaluated, and those that AURAC is over.
    """

    def __init__(
        self, analysis: Analysis, task: str, names: Mapping[Key, str] | None = None
    ) -> None:
        self.analysis, self.task = analysis, task
        self.names = names or names_of(analysis)
        tables = analysis.tables
        self.scores = [row for row in tables.scores if row.task == task]
        self.points = [row for row in tables.points if row.task == task]
        self.pairs = [row for row in tables.pairs if row.task == task]
        self.rank_pairs = {(r.a, r.b, r.rank): r for r in tables.rank_pairs if r.task == task}
        self.recommended = {row.key: row for row in tables.recommended if row.task == task}
        self.rows: dict[Key, Row] = {row.key: row for row in analysis.rows if row.task == task}
        self.keys = [record.key for record in self.scores]
        self.level = analysis.question.level
        self.seeds = min((record.seeds for record in self.scores), default=1)
        counts = (record.examples for record in self.scores)
        self.examples: int | None = max(filter(None, counts), default=None)
        self.metric = next((row.curves[0].metric or "" for row in self.rows.values()), "")
        self.rolling = any(row.rolling for row in self.rows.values())
        self.measure = self.metric if self.rolling else OWN.get(self.metric, "Accuracy")
        self.ranks = sorted({record.rank for record in self.points} - {0})
        self.shared_ranks = list(analysis.ranks.get(task, ()))

    @property
    def reference(self) -> Key | None:
        """The row that all others are compared with; None where all pairs are compared."""
        name = self.analysis.question.reference
        rows = self.analysis.rows if name != ALL_PAIRS else ()
        return next((row.key for row in rows if row.name == name), None)

    @property
    def shipped(self) -> Advice | None:
        """What to ship of the only adapter, where a margin was asked for and it has a rank."""
        record = self.recommended.get(self.keys[0]) if len(self.keys) == 1 else None
        return record if record and record.rank else None

    @property
    def bars(self) -> bool:
        """Whether a figure shows intervals: of all of few adapters, or of none."""
        few = len(self.keys) <= MOST_BARS and not self.rolling
        return few and any(point.low is not None for point in self.points)

    @property
    def some_ranks(self) -> str:
        """The ranks that AURAC is over, where they are not all; else nothing."""
        apart = not self.rolling and self.shared_ranks and self.ranks != self.shared_ranks
        why = "" if self.analysis.question.ranks else ", which all have"
        return f"{', '.join(map(str, self.shared_ranks))}{why}" if apart else ""

    def of(self, key: Key) -> list[Point]:
        """The points of a row, by rank."""
        return [record for record in self.points if record.key == key]

    def shows(self, pair: Pair) -> bool:
        """Whether a difference is significant."""
        return pair.p is not None and pair.p < 1 - self.level

    def value(self, point: Point | None, *, bounds: bool = True) -> str:
        """A point in its cell; one that is not shown to be above the base has a mark."""
        if point is None or self.rolling:
            return metric_value(point.accuracy if point else None)
        ends = (point.low, point.high) if bounds else (None, None)
        mark = MARK if point.above_base is False else ""
        return f"{mark}{interval(point.accuracy, *ends)}"


def ranks_table(of: View, key: Key) -> Columns:
    """One adapter: each rank with its accuracy, its loss against the trained rank, its size."""
    known = of.of(key)
    head = of.metric if of.rolling else of.measure.lower()
    head += bracketed(of.level, (p.low for p in known))
    columns = {"rank": [str(p.rank) for p in known]}
    if (record := of.recommended.get(key)) and record.rank:
        marks = {record.smallest_rank: SMALLEST, record.rank: "yes"}
        columns["ship"] = [marks.get(p.rank, "") for p in known]
    columns[head] = [of.value(point) for point in known]
    if any(p.loss is not None for p in known):
        columns[LOSS] = [loss(p.loss, p.loss_bound) or NONE for p in known]
    further: dict[str, Callable[[Any], str]] = {"unfinished": str, "bytes": size, "slot": str}
    for name, said in further.items():
        values = [getattr(point, name) for point in known]
        if any(values):
            cells = [NONE if value is None else said(value) for value in values]
            columns[{"bytes": "size", "slot": SLOT}.get(name, name)] = cells
    return columns


def bracketed(level: float, lows: Any) -> str:
    """What the head of a column says of the intervals below it, where there are any."""
    return f" [{confidence(level)}]" if any(low is not None for low in lows) else ""


def accuracy_table(of: View, *, bounds: bool = False) -> Columns:
    """Several adapters: AURAC, the base, and the accuracy at each rank."""
    columns = {"adapter": [of.names[key] for key in of.keys]}
    if any(record.aurac is not None for record in of.scores):
        head = f"AURAC{bracketed(of.level, (r.low for r in of.scores))}"
        columns[head] = [interval(r.aurac, r.low, r.high) for r in of.scores]
    return columns | _at_ranks(of, lambda point: of.value(point, bounds=bounds))


def _at_ranks(of: View, said: Callable[[Point | None], str]) -> Columns:
    """A column for the base and each rank at which something is known of an adapter."""
    places = {(point.key, point.rank): point for point in of.points}
    columns = {
        f"r={rank}" if rank else "base": [said(places.get((key, rank))) for key in of.keys]
        for rank in [0, *of.ranks]
    }
    return {head: cells for head, cells in columns.items() if {*cells} != {NONE}}


def nats_table(of: View) -> Columns:
    """The mean loss of a token in nats at each rank; empty where it is not known."""
    losses = _at_ranks(of, lambda point: metric_value(point.nats if point else None))
    return {"adapter": [of.names[key] for key in of.keys], **losses} if losses else {}


def difference_table(of: View, *, counts: bool = False) -> Columns:
    """Differences of AURAC in points, winner minus loser; `counts`: also wins and losses."""
    records = of.pairs
    columns = {"difference": [f"{of.names[r.a]} − {of.names[r.b]}" for r in records]}
    columns["points"] = [interval(r.difference, r.low, r.high) for r in records]
    if any(record.p is not None for record in records):
        columns["p"] = [p_value(record.p) for record in records]
    if counts and all(record.wins is not None for record in records):
        columns["wins"] = [f"{record.wins:,}" for record in records]
        columns["losses"] = [f"{record.losses:,}" for record in records]
    return columns


def rank_difference_table(of: View, pairs: Sequence[tuple[Key, Key]]) -> Columns:
    """Differences between adapters at each rank, in points; each interval stands alone."""
    columns = {"difference": [f"{of.names[a]} − {of.names[b]}" for a, b in pairs]}
    for rank in sorted({rank for a, b, rank in of.rank_pairs if (a, b) in pairs}):
        cells = [of.rank_pairs.get((a, b, rank)) for a, b in pairs]
        columns[f"r={rank}"] = [
            interval(cell.difference, cell.low, cell.high) if cell else NONE for cell in cells
        ]
    return columns


def overview_table(of: View) -> Columns:
    """The mean AURAC over tasks of each adapter, and its AURAC on each of them."""
    tables = {(r.task, r.key): r.aurac for r in of.analysis.tables.scores}
    columns = {"adapter": [of.names[key] for key in of.keys]}
    head = f"mean AURAC{bracketed(of.level, (r.low for r in of.scores))}"
    columns[head] = [interval(r.aurac, r.low, r.high) for r in of.scores]
    for task in of.analysis.averaged:
        columns[task] = [percent(tables.get((task, key))) for key in of.keys]
    return columns


def member_table(of: View, members: Sequence[str]) -> Columns:
    """AURAC of each adapter on each task of a group."""
    areas = of.analysis.member_areas(of.task, members)
    keys = [key for key in of.keys if any(key in known for known in areas.values())]
    columns = {of.names[key]: [percent(known.get(key)) for known in areas.values()] for key in keys}
    return {"task": list(areas), **columns}


def mean_view(analysis: Analysis, names: Mapping[Key, str] | None = None) -> View | None:
    """The mean over tasks of several adapters, where there is one."""
    of = View(analysis, MEAN, names)
    return of if of.pairs else None
