"""What an analysis is told, its rows, and the JSON they become. Names are `Named.label`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from aurac.arguments import converted, fraction
from aurac.curves.area import BUDGETS, Span, span_dict
from aurac.records.decisions import Declaration
from aurac.records.results_file import Area
from aurac.stats.mean import Estimate

if TYPE_CHECKING:
    from aurac.files import Json

Item = TypeVar("Item")
Key = TypeVar("Key")
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
        adapter: Whose configurations are recommended, as `find_groups` reads it; None: all.
        primary: The comparisons that were declared to be primary, ``"a,b"`` or several; ``*`` is
            each other adapter. None: none, one family of all.
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
    adapter: str | None = None
    primary: Declaration | str | Sequence[str | tuple[str, str]] | None = None
    strict: bool = True
    paired_seeds: bool | None = None

    def __post_init__(self) -> None:
        for name, most in (("margin", 1.0), ("min_accuracy", 1.0), ("alpha", 0.5)):
            value = getattr(self, name)
            if value is not None:
                such_as = "0.05" if name == "alpha" else "0.02"
                object.__setattr__(self, name, fraction(value, name, most, such_as))
        kinds = {"reference": int | str | None, "adapter": str | None, "paired_seeds": bool | None}
        for name, kind in kinds.items():
            object.__setattr__(self, name, converted(getattr(self, name), kind, name))


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items with the same key together, in the order in which they are met."""
    result: dict[Key, list[Item]] = {}
    for item in items:
        result.setdefault(key(item), []).append(item)
    return result


def fields_of(row: object, names: str) -> dict[str, Json]:
    """Some fields of a row, in the order of their names."""
    values = {name: getattr(row, name) for name in names.split()}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def area_record(estimate: Estimate) -> Area:
    """An estimate as `results.json` has it."""
    return Area(value=estimate.value, se=estimate.se, low=estimate.low, high=estimate.high)


def _numbers(estimate: Estimate | None) -> dict[str, float | None]:
    return estimate.to_dict() if estimate else dict(_NOTHING)


def _with_method(estimate: Estimate | None) -> dict[str, Json]:
    if estimate is None:
        return {"estimate": None, "method": None}
    return {"estimate": estimate.to_dict(), "method": estimate.method}


@dataclass(frozen=True)
class Named:
    """An adapter, or a recipe, on a task under a truncation.

    Attributes:
        other: Whether the truncation is not the adapter's default.
        label: The adapter, with its truncation where it is not its default one.
    """

    adapter: str
    task: str | None
    truncation: str
    other: bool
    label: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        name = f"{self.adapter} · {self.truncation}" if self.other else self.adapter
        object.__setattr__(self, "label", name)


@dataclass(frozen=True)
class ScoreRow(Named):
    """AURAC of one recipe group on one task.

    Attributes:
        reason: Why `log2`, `linear` and `mean` are None.
        missing: Rank → why it has no accuracy.
        drops: ``(rank, next rank, size)`` wherever accuracy falls.
        published: Whether the truncation is the published one, where that is not the default.
        axis: The headline axis; where that is a budget, `budget` is AURAC over the amounts `span`.
        above_base: Rank → whether it is shown to be above the base, each by itself; None without a
            base.
    """

    metric: str | None
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

    def __repr__(self) -> str:
        where, area = f" on {self.task}" if self.task else "", self.headline
        known = f"no AURAC, {self.reason}" if area is None else f"AURAC {area} ({self.axis})"
        return f"ScoreRow({self.label}{where}: {known})"

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

    def to_dict(self, *, details: bool = False) -> dict[str, Json]:
        """An element of ``scores``."""
        row = {
            "adapter": self.label,
            **fields_of(self, "task ranks accuracy baseline n_docs seeds"),
        }
        row |= {"log2": _numbers(self.log2), "linear": _numbers(self.linear), "mean": self.mean}
        row["reason"] = self.reason
        above = self.above_base
        row["above_base"] = None if above is None else {str(r): x for r, x in above.items()}
        if self.axis in BUDGETS:
            row[f"aurac_{self.axis}"] = _numbers(self.budget) | span_dict(self.span)
        if details:
            row |= fields_of(self, "metric notes")
            row["drops"] = [list(drop) for drop in self.drops]
            row["method"] = self.headline.method if self.headline else None
            row["missing"] = {str(r): why for r, why in self.missing.items()}
        return row


@dataclass(frozen=True)
class InPlace:
    """Two truncations tested in the place of a pair's own, in the same family for Holm.

    The fields are as of `PairRow`.
    """

    verdict: int | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class PairRow:
    """A paired difference, b - a; `estimate` is None with a `reason`.

    Attributes:
        value: The difference; of curves without documents there is no more than that.
        p: Two-sided, before adjustment; None without a test.
        p_holm: Adjusted for the family.
        tests: How many tests the family has.
        detectable: The smallest true difference that the test finds with 80 % power, at the level
            that Holm's procedure left it; None where these scores leave no room for it.
        verdict: +1 where b is better, -1 where a is, 0 where neither is significantly; None without
            a test, and where two seeds are too few for a verdict.
        pairing: How seeds were compared; None where there are not several.
        conditional: Whether the claim holds for these checkpoints alone (a single seed).
        gained, lost: Documents on which b scores higher, and lower, at each rank.
        span: Of a budget, the amounts that both were measured at; None over ranks.
        truncations: For each way of truncating the two, its test in the place of this one; empty
            where each was truncated one way only.
        exploratory: Whether it is none of the primary comparisons; None where none was declared.
        reading, sentence: What it shows, in a few words and in full.
    """

    a: str
    b: str
    task: str | None
    axis: str
    ranks: tuple[int, ...] = ()
    n_docs: int | None = None
    value: float | None = None
    estimate: Estimate | None = None
    p: float | None = None
    p_holm: float | None = None
    tests: int | None = None
    detectable: float | None = None
    verdict: int | None = None
    pairing: str | None = None
    conditional: bool | None = None
    gained: tuple[int, ...] | None = None
    lost: tuple[int, ...] | None = None
    reason: str | None = None
    span: Span | None = None
    truncations: Mapping[str, InPlace] = field(default_factory=dict)
    exploratory: bool | None = None
    reading: str = ""
    sentence: str = ""

    def __repr__(self) -> str:
        where, value = f" on {self.task}" if self.task else "", self.estimate or self.value
        p = "" if self.p is None else f", p {self.p:.3g}"
        p += "" if self.p_holm is None else f", Holm {self.p_holm:.3g}"
        return f"PairRow({self.b} − {self.a}{where}: {value}{p}, {self.reading})"

    @property
    def survives(self) -> bool | None:
        """Whether the verdict is the same for every truncation; None with only one."""
        known = {each.verdict for each in self.truncations.values()}
        return len(known) == 1 if known else None

    @property
    def too_small(self) -> bool:
        """Whether no difference that the two scores leave room for would have been detected."""
        spread = self.estimate is not None and (self.estimate.se or 0.0) > 1e-12  # rounding
        return self.p is not None and self.detectable is None and spread

    def to_dict(self, *, details: bool = False) -> dict[str, Json]:
        """An element of ``pairs``."""
        row = fields_of(self, "a b task axis ranks p p_holm") | _numbers(self.estimate)
        del row["value"]
        row |= {"difference": self.value, **span_dict(self.span), "mde": self.detectable}
        row |= {} if self.exploratory is None else {"exploratory": self.exploratory}
        row |= fields_of(self, "pairing reason")
        if details:
            row |= fields_of(self, "n_docs gained lost sentence")
            row["method"] = self.estimate.method if self.estimate else None
            row["conditional"] = self.conditional
            row["survives_truncation"] = self.survives
            ways = self.truncations.items()
            row["truncations"] = {way: fields_of(each, "verdict p p_holm") for way, each in ways}
        return row


def pairings_of(rows: Iterable[PairRow]) -> dict[str, str | None]:
    """Pair → how its seeds were compared."""
    return {f"{row.b} − {row.a}": row.pairing for row in rows if row.estimate}


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

    def __repr__(self) -> str:
        name = self.a if self.b is None else f"{self.b} − {self.a}"
        known = self.estimate or f"no aggregate, {self.reason}"
        return f"AggregateRow({name} on {len(self.tasks)} tasks: {known})"

    def to_dict(self) -> dict[str, Json]:
        """An element of ``aggregates``."""
        return fields_of(self, "a b axis tasks weigh reason") | _with_method(self.estimate)


@dataclass(frozen=True)
class BestRow:
    """The row with the largest AURAC on a task; `leader` is None with a `reason`.

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
        bounded: Rows that only this bound leaves out: no pair shows them to be worse.
        within: How much better than the leader another row may be at most.
        reason: Why there is no leader.
        axis, span: What the areas are over, and the amounts of a budget that all rows have.
        apart: Rows whose AURAC is over other ranks, and so does not compare.
        families: Of statements that the candidates rest on, each with the error ``1 - level``.
        sure: Confidence of the candidates, all families together.
    """

    task: str | None
    compared: int
    level: float
    leader: str | None = None
    estimate: Estimate | None = None
    candidates: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    bounded: tuple[str, ...] = ()
    within: float | None = None
    reason: str | None = None
    axis: str = "log2"
    span: Span | None = None
    apart: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    sure: float = 0.95
    sentences: tuple[str, ...] = ()

    def __repr__(self) -> str:
        where = f" on {self.task}" if self.task else ""
        known = f"none, {self.reason}" if self.leader is None else f"{self.leader} {self.estimate}"
        return f"BestRow(the largest AURAC{where}: {known}, {len(self.candidates)} candidates)"

    def to_dict(self) -> dict[str, Json]:
        """An element of ``best`` in the detailed JSON."""
        names = "task axis compared level leader candidates untested bounded within apart reason"
        rows = fields_of(self, f"{names} sentences") | _with_method(self.estimate)
        return rows | span_dict(self.span)


@dataclass(frozen=True)
class MarginTest:
    """Whether adapter a is non-inferior or equivalent to adapter b at a margin, on one task.

    It is true where it is passed.

    Attributes:
        margin: How much worse (equivalence: or better) a may be, a fraction.
        alpha: Error rate of saying so wrongly.
        both_sides: Whether the question is of equivalence: a may neither be worse nor better.
        estimate: Of a - b, with the interval at ``1 - 2·alpha``: each end is a one-sided bound at
            alpha.
        pairing, conditional: As of `PairRow`.
        n_docs: Documents that both were evaluated on.
        a: The adapter in question.
        b: The one that it is compared with.
        task: The task.
        axis: "log2" or "linear" of the rank, or a budget, "parameters" or "bytes".
        span: Of a budget, the amounts that both were measured at.
        sentence: The difference, its bounds and the margin.
    """

    margin: float
    alpha: float
    both_sides: bool
    estimate: Estimate
    pairing: str | None
    conditional: bool
    n_docs: int
    a: str = "a"
    b: str = "b"
    task: str | None = None
    axis: str = "log2"
    span: Span | None = None
    sentence: str = ""

    @property
    def _ends(self) -> tuple[float, float]:
        """The interval; without one everything is possible."""
        estimate = self.estimate
        unknown = estimate.low is None or estimate.high is None
        return (-1.0, 1.0) if unknown else (estimate.low, estimate.high)  # type: ignore[return-value]

    @property
    def passed(self) -> bool:
        """Whether the interval lies within the margin: its lower end, for equivalence both."""
        low, high = self._ends
        return low > -self.margin and (high < self.margin or not self.both_sides)

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        where = f" on {self.task}" if self.task else ""
        asked = "equivalent" if self.both_sides else "non-inferior"
        return (
            f"MarginTest({self.a} − {self.b}{where}: {self.estimate} "
            f"({100 * self.estimate.level:g} %), {asked} within "
            f"{self.margin:g}: {'' if self.passed else 'not '}passed, {self.n_docs} documents)"
        )

    @property
    def refuted(self) -> bool:
        """Whether the interval lies outside of the margin as a whole."""
        low, high = self._ends
        return high <= -self.margin or (self.both_sides and low >= self.margin)

    @property
    def verdict(self) -> str:
        """In a word or two: "non-inferior", "equivalent", "inferior", …, or "not shown"."""
        if self.passed:
            return "equivalent" if self.both_sides else "non-inferior"
        if not self.refuted:
            return "not shown"
        return "not equivalent" if self.both_sides else "inferior"

    def to_dict(self) -> dict[str, Json]:
        """An element of ``margin_tests``."""
        return {
            **fields_of(self, "a b task axis"),
            **span_dict(self.span),
            "question": "equivalent" if self.both_sides else "non-inferior",
            **fields_of(self, "margin alpha"),
            "difference": self.estimate.value,
            **fields_of(self.estimate, "low high level method"),
            **fields_of(self, "pairing conditional n_docs"),
            "shown": self.passed,
            **fields_of(self, "verdict sentence"),
        }
