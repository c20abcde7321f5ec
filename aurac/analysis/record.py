"""What a set of curves may claim, as one record: the rows of `analyse` and of a close look."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aurac.analysis.choice_rows import Choice, RecommendRow
    from aurac.analysis.rows import AggregateRow, BestRow, PairRow, ScoreRow
    from aurac.records.decisions import Declaration
    from aurac.stats.mean import Estimate


@dataclass(frozen=True)
class BasisRow:
    """One adapter cut to its first components (prefix) and by SVD; names are `ScoreRow.label`.

    `gaps` are prefix minus SVD at each rank that both have, with intervals for each rank alone.
    """

    task: str | None
    adapter: str
    prefix: str
    svd: str
    gaps: Mapping[int, Estimate]


@dataclass(frozen=True)
class StratumRow:
    """One curve on one group of a task's documents.

    `accuracy` is at each of its ranks; the base's is None where its scores are not known.
    """

    task: str | None
    curve: str  # `ScoreRow.label`
    stratum: str
    n_docs: int
    log2: Estimate
    accuracy: tuple[Estimate, ...]
    baseline: float | None


@dataclass(frozen=True)
class Step:
    """Documents whose score rose or fell from the rank `lower` (0: the base) to `upper`."""

    lower: int
    upper: int
    gained: int
    lost: int


@dataclass(frozen=True)
class Changes:
    """The steps of one curve; a mean over seeds counts the documents of every seed."""

    label: str  # `ScoreRow.label`
    task: str
    n_docs: int
    steps: tuple[Step, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The two ranks of each step as text; rank 0 is the base."""
        return [(str(step.lower) if step.lower else "base", str(step.upper)) for step in self.steps]


@dataclass(frozen=True)
class Budget:
    """AURAC over a budget: rows, the largest area first, and pairs.

    Each area is over the amounts of its own curve, a difference over those that both have.
    `reasons` say of a curve (task and name) why it has no area here.
    """

    axis: str
    scores: tuple[ScoreRow, ...]
    pairs: tuple[PairRow, ...] = ()
    reasons: tuple[tuple[str | None, str, str], ...] = ()


@dataclass(frozen=True)
class Closely:
    """What was seen at a close look.

    `tests` are curves, each by itself, with the bounds that hold for a task together in
    `RankTest.joint`; `checkpoints` single trainings; the rest as of their classes.
    """

    tests: tuple[RecommendRow, ...] = ()
    checkpoints: tuple[RecommendRow, ...] = ()
    strata: tuple[StratumRow, ...] = ()
    changes: tuple[Changes, ...] = ()
    bases: tuple[BasisRow, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """What a set of curves may claim.

    `variants` compares the truncations of one adapter, in one family (Holm) with `pairs`; where
    `primary` comparisons were declared, these are one family and all others another.
    `recommended` are the curves, each by itself, where a margin or an accuracy was declared;
    `choices` the configurations of each task, computed when they are asked for. `closely` is what a
    report asks beyond them, `budgets` what was asked over other axes.
    """

    scores: tuple[ScoreRow, ...]
    pairs: tuple[PairRow, ...]
    variants: tuple[PairRow, ...]
    aggregates: tuple[AggregateRow, ...]
    recommended: tuple[RecommendRow, ...]
    best: tuple[BestRow, ...]
    axis: str
    level: float
    primary: Declaration | None = None
    closely: Closely = Closely()
    budgets: tuple[Budget, ...] = ()
    choose: Callable[[], tuple[Choice, ...]] = field(default=tuple, repr=False)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """Of each task, which configuration to ship."""
        return self.choose()

    @property
    def candidates(self) -> set[tuple[str | None, str]]:
        """Task and name (`ScoreRow.label`) of the rows that may be the best of their task."""
        return {(row.task, name) for row in self.best for name in row.candidates}

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """JSON without NaN: scores, pairs, variants, best, recommended; more with `details`."""
        names = ("scores", "pairs", "variants", "recommended")
        rows = {n: [row.to_dict(details=details) for row in getattr(self, n)] for n in names}
        rows["best"] = [row.to_dict() for row in self.best]
        rows |= {"primary": to_builtins(self.primary)} if self.primary else {}
        if not details:
            return rows
        rows["aggregates"] = [row.to_dict() for row in self.aggregates]
        return {**rows, "axis": self.axis, "level": self.level}
