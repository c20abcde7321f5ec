"""What an analysis is told, its rows, and the JSON they become."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aurac.stats.sentences import certificate_sentence, pair_sentence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aurac.stats.mean import Estimate
    from aurac.stats.noninferiority import Certificate
    from aurac.stats.paired import Difference


_NOTHING: dict[str, float | None] = {"value": None, "se": None, "low": None, "high": None}


@dataclass(frozen=True)
class Options:
    """What an analysis may be told.

    Attributes:
        axis: The axis that pairs and aggregates are about.
        level: Coverage of intervals; 1 - level is the size of the tests.
        delta: The margin: a loss of accuracy that a smaller rank may have, declared beforehand.
        alpha: Error rate of the non-inferiority tests.
        support: "common" compares curves with unequal ranks on those that both have.
        weigh: "tasks" or "documents": what each task weighs in an aggregate.
        reference: Rank that they compare with; None: the largest of each curve.
        strict: Refuse curves that cannot be compared; else the pair says why it is empty.
    """

    axis: str = "log2"
    level: float = 0.95
    delta: float = 0.02
    alpha: float = 0.05
    support: str | None = None
    weigh: str = "tasks"
    reference: int | None = None
    strict: bool = True


@dataclass(frozen=True)
class ScoreRow:
    """AURAC of one arm on one task; `log2`, `linear` and `mean` are None with a `reason`."""

    adapter: str
    task: str | None
    metric: str | None
    truncation: str
    variant: bool
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

    @property
    def label(self) -> str:
        """The adapter, with its truncation where it is a variant."""
        return f"{self.adapter} · {self.truncation}" if self.variant else self.adapter

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """An element of ``scores``."""
        row: dict[str, Any] = {
            "adapter": self.label,
            "task": self.task,
            "ranks": list(self.ranks),
            "n_docs": self.n_docs,
            "log2": self.log2.to_dict() if self.log2 else dict(_NOTHING),
            "linear": self.linear.to_dict() if self.linear else dict(_NOTHING),
            "mean": self.mean,
        }
        if details:
            row |= {
                "metric": self.metric,
                "seeds": self.seeds,
                "accuracy": list(self.accuracy),
                "baseline": self.baseline,
                "method": self.log2.method if self.log2 else None,
                "reason": self.reason,
                "missing": {str(r): why for r, why in self.missing.items()},
                "drops": [list(drop) for drop in self.drops],
                "notes": list(self.notes),
            }
        return row


@dataclass(frozen=True)
class PairRow:
    """A paired difference, b - a; `result` is None with a `reason`.

    Attributes:
        truncations: For each way of truncating the two, +1 (b better), -1 (a better), 0 (neither
            shown) or None; empty where each was truncated one way only.
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
    truncations: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def p(self) -> float | None:
        """Two-sided p value before adjustment."""
        return None if self.result is None else self.result.p

    @property
    def survives(self) -> bool | None:
        """Whether the verdict is the same for every truncation; None with only one."""
        return len(set(self.truncations.values())) == 1 if self.truncations else None

    @property
    def sentence(self) -> str:
        """One sentence that claims no more than the data do."""
        if self.result is None:
            where = f" on {self.task}" if self.task else ""
            if self.value is None:
                return f"{self.a} and {self.b}{where}: not compared ({self.reason})."
            return f"{self.b} - {self.a}{where} = {self.value:+.3f}, a {self.reason}."
        text = pair_sentence(self.a, self.b, self.task, self.result, self.p_holm)
        if self.survives is None:
            return text
        kept = "is the same" if self.survives else "is NOT the same"
        return f"{text} The verdict {kept} for every truncation that was run."

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """An element of ``pairs``."""
        estimate = self.result.estimate if self.result else None
        row: dict[str, Any] = {
            "a": self.a,
            "b": self.b,
            "task": self.task,
            "axis": self.axis,
            "difference": estimate.value if estimate else self.value,
            "se": estimate.se if estimate else None,
            "low": estimate.low if estimate else None,
            "high": estimate.high if estimate else None,
            "p": self.p,
            "p_holm": self.p_holm,
            "mde": self.result.mde if self.result else None,
        }
        if details:
            row |= {
                "ranks": list(self.ranks),
                "n_docs": self.n_docs,
                "gained": None if self.gained is None else list(self.gained),
                "lost": None if self.lost is None else list(self.lost),
                "method": estimate.method if estimate else None,
                "reason": self.reason,
                "conditional": self.result.conditional if self.result else None,
                "survives_truncation": self.survives,
                "truncations": dict(self.truncations),
                "sentence": self.sentence,
            }
        return row


@dataclass(frozen=True)
class AggregateRow:
    """One number for all tasks: an arm's AURAC (`b` None), or a paired difference b - a."""

    a: str
    b: str | None
    tasks: tuple[str, ...]
    weigh: str
    estimate: Estimate | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """An element of ``aggregates`` in the detailed JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "tasks": list(self.tasks),
            "weigh": self.weigh,
            "estimate": self.estimate.to_dict() if self.estimate else None,
            "method": self.estimate.method if self.estimate else None,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class RecommendRow:
    """The smallest non-inferior rank of an arm; `certificate` is None with a `reason`."""

    adapter: str
    task: str | None
    truncation: str
    variant: bool
    delta: float
    alpha: float
    certificate: Certificate | None = None
    reason: str | None = None

    @property
    def label(self) -> str:
        """The adapter, with its truncation where it is a variant."""
        return f"{self.adapter} · {self.truncation}" if self.variant else self.adapter

    @property
    def sentence(self) -> str:
        """One sentence on what was shown."""
        if self.certificate is None:
            return f"{self.label}: no rank can be tested ({self.reason})."
        return certificate_sentence(self.label, self.task, self.certificate)

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """An element of ``recommended``; the rank is None where nothing can be tested."""
        result = self.certificate
        row: dict[str, Any] = {
            "adapter": self.label,
            "task": self.task,
            "rank": result.rank if result else None,
            "delta": self.delta,
            "alpha": self.alpha,
        }
        if details:
            extra = asdict(result) if result else {}
            row |= {k: v for k, v in extra.items() if k not in row}
            row |= {"reason": self.reason, "sentence": self.sentence}
        return row


@dataclass(frozen=True)
class BestRow:
    """The adapter with the largest AURAC on a task; `leader` is None with a `reason`.

    Attributes:
        task: The task.
        compared: Adapters that the leader was picked from.
        level: Confidence of every statement here, each for this task alone.
        leader: Its name.
        estimate: Its AURAC with an interval that allows for having been picked.
        candidates: Adapters that may be the best, the leader first: all that are not shown to be
            worse than it, neither here nor (Holm) in the paired comparisons.
        within: How much better than the leader another of them may be at most.
        recommended: The leader's smallest non-inferior rank, at alpha divided by `compared`.
        reason: Why there is no leader.
    """

    task: str | None
    compared: int
    level: float
    leader: str | None = None
    estimate: Estimate | None = None
    candidates: tuple[str, ...] = ()
    within: float | None = None
    recommended: RecommendRow | None = None
    reason: str | None = None

    @property
    def sentences(self) -> list[str]:
        """What may be said of the leader, or why there is none."""
        where = f" on {self.task}" if self.task else ""
        if self.leader is None or self.estimate is None:
            return [f"No adapter is named the best{where}: {self.reason}."]
        result = self.estimate
        ends = "no interval"
        if result.low is not None and result.high is not None:
            ends = f"{self.level:.0%} interval {result.low:.3f} to {result.high:.3f}"
        lead = (
            f"{self.leader} has the largest AURAC{where}, {result.value:.3f} ({ends}, widened "
            f"because the largest of {self.compared} was picked)."
        )
        if len(self.candidates) == 1:
            sure = f"It is the best of them ({self.level:.0%} confidence)."
        else:
            sure = f"The best may be any of {', '.join(self.candidates)} ({self.level:.0%}"
            sure += " confidence that no other is"
            if self.within:
                sure += f", and that none beats {self.leader} by more than {self.within:.3f}"
            sure += ")."
        return [lead, sure, *self._rank_sentence()]

    def _rank_sentence(self) -> list[str]:
        row = self.recommended
        result = row.certificate if row else None
        if row is None or result is None:
            return []
        adjusted = f"alpha {row.alpha:.2g}, since it was picked from {self.compared}"
        if result.rank == result.reference:
            rank = f"No rank of {self.leader} below {result.reference} is shown to be non-inferior"
        else:
            rank = f"Rank {result.rank} of {self.leader} is non-inferior to rank {result.reference}"
        return [f"{rank} at a margin of {result.delta:g} ({adjusted})."]

    def to_dict(self) -> dict[str, Any]:
        """An element of ``best`` in the detailed JSON."""
        row = asdict(replace(self, estimate=None, recommended=None))
        row["candidates"] = list(self.candidates)
        row["estimate"] = self.estimate.to_dict() if self.estimate else None
        row["method"] = self.estimate.method if self.estimate else None
        row["recommended"] = self.recommended.to_dict() if self.recommended else None
        row["sentences"] = self.sentences
        return row


@dataclass(frozen=True)
class Analysis:
    """What a set of curves may claim."""

    scores: tuple[ScoreRow, ...]
    pairs: tuple[PairRow, ...]
    variants: tuple[PairRow, ...]
    aggregates: tuple[AggregateRow, ...]
    recommended: tuple[RecommendRow, ...]
    best: tuple[BestRow, ...]
    axis: str
    level: float

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """JSON without NaN: ``scores``, ``pairs``, ``recommended``, and more with `details`."""
        content: dict[str, Any] = {
            "scores": [row.to_dict(details=details) for row in self.scores],
            "pairs": [row.to_dict(details=details) for row in self.pairs],
            "recommended": [row.to_dict(details=details) for row in self.recommended],
        }
        if details:
            content |= {
                "variants": [row.to_dict(details=True) for row in self.variants],
                "aggregates": [row.to_dict() for row in self.aggregates],
                "best": [row.to_dict() for row in self.best],
                "axis": self.axis,
                "level": self.level,
            }
        return content
