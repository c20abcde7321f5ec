"""What an analysis is told, its rows, and the JSON they become."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aurac.analysis import sentences
from aurac.curves.area import BUDGETS, area_name, span_dict
from aurac.curves.display import points, show_span
from aurac.errors import CurveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aurac.curves.area import Span
    from aurac.records.decisions import Declaration
    from aurac.stats.mean import Estimate
    from aurac.stats.paired import Difference

_NOTHING: dict[str, float | None] = {"value": None, "se": None, "low": None, "high": None}


@dataclass(frozen=True)
class Options:
    """What an analysis may be told.

    Attributes:
        axis: The axis that pairs and aggregates are about.
        level: Coverage of intervals; 1 - level is the size of the tests.
        margin: A loss of accuracy against the best configuration that a smaller one may have,
            declared beforehand; None: none was declared.
        min_accuracy: Accuracy that a recommended configuration must be shown to have; None: any.
        alpha: Error rate of a recommendation.
        support: "common" compares curves with unequal ranks on those that both have.
        weigh: "tasks" or "documents": what each task weighs in an aggregate.
        reference: What stands in the place of the best: a rank, which smaller ones are compared
            with, or ``ADAPTER`` (at its largest rank) or ``ADAPTER@RANK``; None: the best itself.
        paired_seeds: Whether equal seeds of two recipes had the same data in the same order; None:
            as the recipes say.
        primary: The comparisons that were declared to be primary; None: none, one family of all.
        strict: Refuse curves that cannot be compared; else the pair says why it is empty.
    """

    axis: str = "log2"
    level: float = 0.95
    margin: float | None = None
    min_accuracy: float | None = None
    alpha: float = 0.05
    support: str | None = None
    weigh: str = "tasks"
    reference: int | str | None = None
    primary: Declaration | None = None
    strict: bool = True
    paired_seeds: bool | None = None

    def __post_init__(self) -> None:
        for name, most in (("margin", 1.0), ("min_accuracy", 1.0), ("alpha", 0.5)):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < most:
                raise CurveError(f"{name} {value:g}", expected=f"a fraction between 0 and {most:g}")


def fields_of(row: object, names: str) -> dict[str, Any]:
    """Some fields of a row, in the order of their names."""
    values = {name: getattr(row, name) for name in names.split()}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _numbers(estimate: Estimate | None) -> dict[str, float | None]:
    return estimate.to_dict() if estimate else dict(_NOTHING)


def _with_method(estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {"estimate": None, "method": None}
    return {"estimate": estimate.to_dict(), "method": estimate.method}


class Labelled:
    """A row of an adapter under a truncation, which is its default one or not."""

    adapter: str
    truncation: str
    other: bool

    @property
    def label(self) -> str:
        """The adapter, with its truncation where it is not the default one."""
        return f"{self.adapter} · {self.truncation}" if self.other else self.adapter


@dataclass(frozen=True)
class ScoreRow(Labelled):
    """AURAC of one recipe group on one task.

    `log2`, `linear` and `mean` are None with a `reason`. `other` marks a truncation that is not the
    adapter's default, `published` one that is the method's published one. Where the headline
    `axis` is a budget, `budget` is AURAC over it, at the amounts of `span`. `above_base` says of
    each rank whether it is shown to be above the base, each by itself; None without a base.
    """

    adapter: str
    task: str | None
    metric: str | None
    truncation: str
    other: bool
    ranks: tuple[int, ...]
    accuracy: tuple[float, ...]
    n_docs: int | None
    seeds: int
    baseline: float | None
    reason: str | None = None
    missing: Mapping[int, str] = field(default_factory=dict)
    log2: Estimate | None = None
    linear: Estimate | None = None
    mean: float | None = None
    drops: tuple[tuple[int, int, float], ...] = ()
    notes: tuple[str, ...] = ()
    published: bool = False
    axis: str = "log2"
    budget: Estimate | None = None
    span: Span | None = None
    above_base: Mapping[int, bool] | None = None

    @property
    def below_base(self) -> bool:
        """Whether a base is known and no rank is shown to be above it."""
        return bool(self.above_base) and not any((self.above_base or {}).values())

    def estimate(self, axis: str) -> Estimate | None:
        """AURAC on an axis; over a budget, only the one that was asked for."""
        return {"log2": self.log2, "linear": self.linear, self.axis: self.headline}[axis]

    @property
    def headline(self) -> Estimate | None:
        """AURAC on the headline axis."""
        return {"log2": self.log2, "linear": self.linear}.get(self.axis, self.budget)

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """An element of ``scores``."""
        row = {"adapter": self.label, **fields_of(self, "task ranks n_docs")}
        row |= {"log2": _numbers(self.log2), "linear": _numbers(self.linear), "mean": self.mean}
        if self.axis in BUDGETS:
            row[f"aurac_{self.axis}"] = _numbers(self.budget) | span_dict(self.span)
        if details:
            row |= fields_of(self, "metric seeds accuracy baseline reason notes")
            above = self.above_base
            row["above_base"] = above and {str(r): shown for r, shown in above.items()}
            row["drops"] = [list(drop) for drop in self.drops]
            row["method"] = self.headline.method if self.headline else None
            row["missing"] = {str(r): why for r, why in self.missing.items()}
        return row


@dataclass(frozen=True)
class PairRow:
    """A paired difference, b - a; `result` is None with a `reason`.

    Attributes:
        span: Of a budget, the amounts that both were measured at; None over ranks.
        truncations: For each way of truncating the two, +1 (b better), -1 (a better), 0 (not
            significant) or None; empty where each was truncated one way only.
        exploratory: Whether it is none of the primary comparisons; None where none was declared.
    """

    a: str
    b: str
    task: str | None
    axis: str
    ranks: tuple[int, ...] = ()
    n_docs: int | None = None
    value: float | None = None
    result: Difference | None = None
    p_holm: float | None = None
    gained: tuple[int, ...] | None = None
    lost: tuple[int, ...] | None = None
    reason: str | None = None
    span: Span | None = None
    truncations: Mapping[str, int | None] = field(default_factory=dict)
    exploratory: bool | None = None

    @property
    def p(self) -> float | None:
        """Two-sided p value before adjustment."""
        return None if self.result is None else self.result.p

    @property
    def survives(self) -> bool | None:
        """Whether the verdict is the same for every truncation; None with only one."""
        return len(set(self.truncations.values())) == 1 if self.truncations else None

    @property
    def reading(self) -> str:
        """What the comparison shows, in a few words."""
        if self.result is None:
            return "no test" if self.value is not None else "not compared"
        sign = sentences.verdict(self.result, self.p_holm, 1.0 - self.result.estimate.level)
        if sign is None:
            return "not tested" if self.p is None else "two seeds: no verdict"
        words = f"{self.b if sign > 0 else self.a} is better" if sign else "not significant"
        words += ", exploratory" if self.exploratory else ""
        return words if self.survives is not False else f"{words} (depends on the truncation)"

    @property
    def sentence(self) -> str:
        """One sentence that claims no more than the data do."""
        if self.result is None:
            where = f" on {self.task}" if self.task else ""
            if self.value is None:
                return f"{self.a} and {self.b}{where}: not compared ({self.reason})."
            value = f"{points(self.value)}, a {self.reason}"
            return f"{self.b} − {self.a}{where} is {value}.{self._over}"
        text = (
            sentences.pair_sentence(self.a, self.b, self.task, self.result, self.p_holm)
            + self._over
        )
        text += " This comparison is exploratory." if self.exploratory else ""
        if self.survives is None:
            return text
        kept = "is the same" if self.survives else "is NOT the same"
        return f"{text} The verdict {kept} for every truncation that was run."

    @property
    def _over(self) -> str:
        if self.span is None:
            return ""
        return f" It is a difference of {area_name(self.axis)}, {show_span(self.span, self.axis)}."

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """An element of ``pairs``."""
        estimate = self.result.estimate if self.result else None
        row = fields_of(self, "a b task axis p p_holm") | _numbers(estimate)
        value = row.pop("value")
        row["difference"] = self.value if estimate is None else value
        row |= span_dict(self.span)
        row["mde"] = self.result.mde if self.result else None
        row |= {} if self.exploratory is None else {"exploratory": self.exploratory}
        row["pairing"] = self.result.parts.pairing if self.result else None
        if details:
            row |= fields_of(self, "ranks n_docs gained lost reason sentence")
            row["method"] = estimate.method if estimate else None
            row["conditional"] = self.result.conditional if self.result else None
            row["survives_truncation"] = self.survives
            row["truncations"] = dict(self.truncations)
        return row


def pairings_of(rows: Iterable[PairRow]) -> dict[str, str | None]:
    """Pair → how its seeds were compared."""
    compared = (row for row in rows if row.result is not None)
    return {f"{row.b} − {row.a}": row.result.parts.pairing for row in compared if row.result}


@dataclass(frozen=True)
class AggregateRow:
    """One number for all tasks: a group's AURAC (`b` None), or a paired difference b - a."""

    a: str
    b: str | None
    tasks: tuple[str, ...]
    weigh: str
    estimate: Estimate | None = None
    reason: str | None = None
    axis: str = "log2"

    def to_dict(self) -> dict[str, Any]:
        """An element of ``aggregates`` in the detailed JSON."""
        return fields_of(self, "a b axis tasks weigh reason") | _with_method(self.estimate)


@dataclass(frozen=True)
class BestRow:
    """The row with the largest AURAC on a task; `leader` is None with a `reason`.

    A row is an adapter in one truncation, and its name here is `ScoreRow.label`.

    Attributes:
        task: The task.
        compared: Rows that the leader was picked from.
        level: Confidence of every statement here, each for this task alone.
        leader: Its name.
        estimate: Its AURAC with an interval that allows for having been picked.
        candidates: Rows that may be the best, the leader first: all that no pair of the analysis
            (Holm) shows to be worse. A row that no pair compares with the leader is one of them
            unless the bound behind `within` shows it to be worse.
        untested: Those of them that no pair compares with the leader.
        within: How much better than the leader another row may be at most.
        reason: Why there is no leader.
        axis: What the areas are over.
        apart: Rows whose AURAC is over other ranks, and so does not compare.
        sure: Confidence of the candidates: with primary comparisons two families may err, and the
            bound too where it leaves a row out.
    """

    task: str | None
    compared: int
    level: float
    leader: str | None = None
    estimate: Estimate | None = None
    candidates: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    within: float | None = None
    reason: str | None = None
    axis: str = "log2"
    apart: tuple[str, ...] = ()
    sure: float = 0.95

    @property
    def sentences(self) -> list[str]:
        """What may be said of the leader, or why there is none."""
        return sentences.best_sentences(self)

    def to_dict(self) -> dict[str, Any]:
        """An element of ``best`` in the detailed JSON."""
        names = "task axis compared level leader candidates untested within apart reason sentences"
        return fields_of(self, names) | _with_method(self.estimate)
