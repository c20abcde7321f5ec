"""What a set of curves may claim, as one record: the rows of `analyse` and of a close look.

`analysis.json` is this record; `docs/analysis-schema.md` describes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from msgspec import to_builtins

from aurac.analysis.choice_rows import Choice, RankRow
from aurac.analysis.rows import AggregateRow, BestRow, PairRow, ScoreRow, fields_of
from aurac.curves.area import BUDGETS
from aurac.records.decisions import Declaration
from aurac.stats.mean import Estimate

if TYPE_CHECKING:
    from aurac.files import Json

ANALYSIS_FILE, ANALYSIS_SCHEMA = "analysis.json", 1
_OfScores = Literal["seeds", "one training", "note", "below base", "unequal ranks", "falls"]
_OfTraining = Literal["one rank each", "trained at one rank", "not cut by svd", "unknown method"]
_OfDocuments = Literal["few documents", "few events", "near ties", "samples", "draws", "limit"]
_OfCells = Literal["no base", "not the base", "missing", "failed", "no documents"]
_OfRun = Literal["task of a study", "padded", "as published", "unequal sizes"]
Code = Literal[_OfScores, _OfTraining, _OfDocuments, _OfCells, _OfRun]


@dataclass(frozen=True)
class Advice:
    """The truncation of an adapter with the largest AURAC, and what was shown of it.

    Attributes:
        use: The truncation, as ``basis · rescale``.
        value: Its AURAC on the headline axis, a fraction.
        beats: Truncations that it is significantly better than (paired, Holm over the family).
        open: Those to which the difference is not significant.
        sentence: What to use, no more surely than was shown.
    """

    adapter: str
    task: str | None
    use: str
    value: float
    axis: str
    beats: tuple[str, ...]
    open: tuple[str, ...]
    sentence: str = ""

    def to_dict(self) -> dict[str, Json]:
        """An element of ``truncations``."""
        area = f"aurac_{self.axis}" if self.axis in BUDGETS else "aurac"
        row = {**fields_of(self, "adapter task use"), area: self.value}
        return row | {"better_than": list(self.beats), "not_significant": list(self.open)}


@dataclass(frozen=True)
class BasisRow:
    """One adapter cut to its first components (prefix) and by SVD; names are `Named.label`.

    `gaps` are SVD minus prefix at each rank that both have, with intervals for each rank alone.
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
    curve: str  # `Named.label`
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

    label: str  # `Named.label`
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
class Caveat:
    """What to know before quoting a number of the analysis.

    Attributes:
        code: Of any curves: `seeds` (intervals cover documents and `seeds` trainings, which vary
            about normally), `one training` (another seed of the method is not covered), `note` (of
            the interval, or a seed far from the others), `below base` (no rank is shown to be above
            the base, whose accuracy is `baseline`), `unequal ranks` (rows of the task do not all
            compare), `falls` (accuracy falls by `size` from rank `lower` to `upper`). Of a stored
            run: `task of a study` (of the name `note`), `padded` (at `rank`, of `n_docs` answers
            `answers` are scored 0 and equal the reference but for white space or case),
            `as published` (AURAC `default` and `published` of an adapter cut both ways),
            `one rank each` (an adapter for each rank, none truncated), `trained at one rank` (and
            truncated without nesting), `not cut by svd` (those of them without that comparison),
            `unknown method`, `unequal sizes` (at `rank` the two have `small` and `large`
            parameters), `few documents` (`n_docs`), `few events` (about `events` right, or wrong),
            `near ties` (of `n_docs`, `documents` have a decision within the rounding that `note`
            names, at `rank`), `samples` and `draws` (a mean over `number`, which causes a share
            from `low` to `high` of the variance), `limit` (of the first documents), `no base`,
            `not the base` (that is no limit of small ranks), `missing` and `failed` (at `rank`),
            `no documents` (stored ones are missing, damaged, or give another accuracy).
        curves: Whom it is about: `Named.label`, or adapters. None of a failed cell is the base.
        note: In words, or why.
    """

    code: Code
    task: str | None
    curves: tuple[str, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Closely:
    """What was seen at a close look.

    `tests` are curves, each by itself, with the bounds that hold for a task together in
    `RankTest.joint`; `checkpoints` single trainings; the rest as of their classes.
    """

    tests: tuple[RankRow, ...] = ()
    checkpoints: tuple[RankRow, ...] = ()
    strata: tuple[StratumRow, ...] = ()
    changes: tuple[Changes, ...] = ()
    bases: tuple[BasisRow, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """What a set of curves may claim.

    Attributes:
        schema: Of the file.
        scores: AURAC of every curve.
        pairs: Every two adapters on a task, each in its default truncation.
        variants: Every two truncations of one adapter, in one family (Holm) with `pairs`; where
            `primary` comparisons were declared, these are one family and all others another.
        aggregates: Means over tasks.
        recommended: The curves, each by itself, where a margin or an accuracy was declared.
        best: What is said of the largest AURAC of each task.
        advice: Which truncation of an adapter to use.
        choices: The configurations of each task; none where they were not asked for.
        axis, level: Of the headline, and of intervals.
        primary: The comparisons that were declared to be primary.
        caveats: What to know before quoting a number.
        closely: What a report asks beyond these.
        budgets: AURAC over other axes, where these were asked for.
        reason: Why there is no row at all.
    """

    schema: int = ANALYSIS_SCHEMA
    scores: tuple[ScoreRow, ...] = ()
    pairs: tuple[PairRow, ...] = ()
    variants: tuple[PairRow, ...] = ()
    aggregates: tuple[AggregateRow, ...] = ()
    recommended: tuple[RankRow, ...] = ()
    best: tuple[BestRow, ...] = ()
    advice: tuple[Advice, ...] = ()
    choices: tuple[Choice, ...] = ()
    axis: str = "log2"
    level: float = 0.95
    primary: Declaration | None = None
    caveats: tuple[Caveat, ...] = ()
    closely: Closely = Closely()
    budgets: tuple[Budget, ...] = ()
    reason: str | None = None

    def __repr__(self) -> str:
        curves, pairs = f"{len(self.scores)} curves", f"{len(self.pairs)} pairs of adapters"
        ways = f", {len(self.variants)} of truncations" if self.variants else ""
        why = f", {self.reason}" if self.reason else ""
        return f"Analysis({curves}, {pairs}{ways}, {self.axis} axis{why})"

    def to_json(self) -> str:
        """The text of `analysis.json`; a ValueError where JSON cannot hold a number."""
        content = to_builtins(self, str_keys=True)
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def candidates(self) -> set[tuple[str | None, str]]:
        """Task and name (`Named.label`) of the rows that may be the best of their task."""
        return {(row.task, name) for row in self.best for name in row.candidates}

    def to_dict(self, *, details: bool = False) -> dict[str, Json]:
        """JSON without NaN; `details` are of each row."""
        content: dict[str, Json] = {"schema": self.schema, "axis": self.axis, "level": self.level}
        for name in ("scores", "pairs", "variants", "recommended"):
            content[name] = [row.to_dict(details=details) for row in getattr(self, name)]
        for name in ("best", "aggregates"):
            content[name] = [row.to_dict() for row in getattr(self, name)]
        return content | ({"primary": to_builtins(self.primary)} if self.primary else {})
