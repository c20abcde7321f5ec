"""Configurations, the choice among them, and the recommended rank of one curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aurac.analysis import sentences
from aurac.analysis.rows import Labelled, fields_of

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Configuration(Labelled):
    """An adapter, cut one way, at one rank.

    Attributes:
        adapter, task, truncation, other: As of `ScoreRow`.
        rank: The rank.
        accuracy: Mean over documents and seeds; `low` to `high` holds for all configurations of the
            choice together (Bonferroni); None without documents.
        bytes: Of the truncated adapter; None where not known.
        seconds: For a document, as measured; None where not.
        above_base: Whether it is shown to be above the base, each by itself; None without a base.
        needed: The smallest margin at which it is shown to be within it of the best; None where no
            margin is enough, and of many configurations where it is not among the smallest.
        checkpoints: The same in each of the checkpoints evaluated; `needed` itself of single ones.
    """

    adapter: str
    task: str | None
    truncation: str
    other: bool
    rank: int
    accuracy: float
    low: float | None = None
    high: float | None = None
    bytes: int | None = None
    seconds: float | None = None
    above_base: bool | None = None
    needed: float | None = None
    checkpoints: float | None = None

    @property
    def name(self) -> str:
        """Label and rank in a sentence."""
        return f"{self.label} at rank {self.rank}"

    @property
    def value(self) -> float:
        """The accuracy, as of an estimate."""
        return self.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the adapter's name stands apart from its truncation."""
        names = "adapter truncation rank accuracy low high bytes above_base needed checkpoints"
        return fields_of(self, names) | {"seconds_per_document": self.seconds}


@dataclass(frozen=True)
class Choice:
    """Which configuration of a task to ship, and what was shown of it.

    Attributes:
        task: The task.
        margin: The tolerable loss against the best, declared beforehand; None: none was.
        min_accuracy: Accuracy that it must be shown to have; None: any.
        alpha: The error rate of naming a configuration that falls short of any demand.
        reference: The rank, or the configuration, that was declared in the place of the best.
        configurations: All of them, the smallest first.
        curves: Adapters and truncations that they are from.
        seeds: The most checkpoints of a curve.
        seeds_needed: Seeds from which a claim about another seed may hold.
        baseline: Accuracy of the base.
        reason: Why nothing is compared.
    """

    task: str | None
    margin: float | None
    min_accuracy: float | None
    alpha: float
    reference: int | str | None = None
    configurations: tuple[Configuration, ...] = ()
    curves: int = 1
    seeds: int = 1
    seeds_needed: int = 0
    baseline: float | None = None
    reason: str | None = None

    @property
    def declared(self) -> bool:
        """Whether a margin or an accuracy was declared; without, nothing is chosen."""
        return self.margin is not None or self.min_accuracy is not None

    def _passes(self, needed: float | None) -> bool:
        return needed is not None and (self.margin is None or needed < self.margin)

    @property
    def chosen(self) -> Configuration | None:
        """The smallest that passes: for the recipe, from single checkpoints for these."""
        passing = (c for c in self.configurations if self._passes(c.needed))
        return next(passing, None) if self.declared else None

    @property
    def in_checkpoints(self) -> Configuration | None:
        """The smallest that passes in each of the checkpoints evaluated."""
        passing = (c for c in self.configurations if self._passes(c.checkpoints))
        return next(passing, None) if self.declared else None

    @property
    def best(self) -> Configuration | None:
        """The most accurate, the smallest of several."""
        return max(self.configurations, key=lambda c: c.accuracy, default=None)

    @property
    def frontier(self) -> tuple[Configuration, ...]:
        """Those that no smaller one equals in accuracy, the smallest first."""
        kept: list[Configuration] = []
        for one in self.configurations:
            if not kept or one.accuracy > kept[-1].accuracy:
                kept.append(one)
        return tuple(kept)

    @property
    def needed(self) -> float | None:
        """The smallest margin at which any configuration is shown to be within it of the best."""
        return min((c.needed for c in self.configurations if c.needed is not None), default=None)

    @property
    def sentences(self) -> list[str]:
        """What to ship and what was shown, or why nothing is named."""
        return sentences.choice_sentences(self)

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """An element of ``choices``."""
        row = fields_of(self, "task margin min_accuracy alpha reference needed seeds reason")
        for name in ("chosen", "in_checkpoints", "best"):
            found = getattr(self, name)
            row[name] = found.to_dict() if found else None
        shown = self.configurations if details else self.frontier
        row["configurations" if details else "frontier"] = [one.to_dict() for one in shown]
        return row | {"sentences": self.sentences}


@dataclass(frozen=True)
class RankTest:
    """What was tested of one rank of a curve.

    Attributes:
        rank: The rank.
        loss: Accuracy of the best rank (or of the declared reference) minus its own.
        upper: One-sided upper bound at ``1 - alpha`` on the loss against the best, whichever it is;
            1 where the seeds are too few for any.
        passed: Whether `margin_needed` is below the margin.
        flip_rate: Share of documents whose score differs from that at the best rank.
        margin_needed: The smallest margin at which the rank passes; None where none is enough.
        method: Which test gave `upper`.
        checkpoints: As `upper`, of the largest loss among the checkpoints evaluated.
        joint: As `upper`, where it holds for all ranks of the curves that a report tests together.
    """

    rank: int
    loss: float
    upper: float
    passed: bool
    flip_rate: float
    margin_needed: float | None
    method: str
    checkpoints: float
    joint: float | None = None


@dataclass(frozen=True)
class NonInferiorRank:
    """The smallest rank of a curve that is shown to lose less than a margin against the best.

    Attributes:
        rank: It; None where no rank is shown to. From one seed it holds for that checkpoint alone,
            from several for the recipe.
        reference: The rank or configuration that was declared in the place of the best rank.
        best: The most accurate rank, or the declared one.
        margin: The loss that was declared tolerable, a fraction; None: none was.
        alpha: The error rate of naming any rank wrongly.
        flip_rate: Share of documents whose score differs between `rank` and `best`.
        smallest_margin: The smallest margin at which a rank below `best` passes; None where no
            margin is enough.
        tests: Every rank but a declared one, from the largest downward.
        conditional: Whether this holds for one checkpoint alone.
        saved: Share of the bytes at the largest rank that `rank` saves; None if not known.
        seeds: Checkpoints evaluated.
        checkpoints: The smallest rank that passes in every one of the checkpoints evaluated.
    """

    rank: int | None
    reference: int | str | None
    best: int | None
    margin: float | None
    alpha: float
    flip_rate: float
    smallest_margin: float | None
    tests: tuple[RankTest, ...]
    conditional: bool
    saved: float | None = None
    seeds: int = 1
    checkpoints: int | None = None


@dataclass(frozen=True)
class RecommendRow(Labelled):
    """The smallest rank of one curve that a user may ship: its choice, by itself.

    Attributes:
        adapter, task, truncation, other: As of `ScoreRow`.
        choice: Among the ranks of this curve.
        result: The tests against the best rank; None with a reason.
        sizes: Rank → bytes, where known.
        published: Whether the truncation is the published one, where that is not the default.
    """

    adapter: str
    task: str | None
    truncation: str
    other: bool
    choice: Choice
    result: NonInferiorRank | None = None
    published: bool = False
    sizes: Mapping[int, int] = field(default_factory=dict)

    @property
    def rank(self) -> int | None:
        """The smallest rank that passes every test; None where no rank does, or none is tested."""
        return self.choice.chosen.rank if self.choice.chosen else None

    @property
    def tests(self) -> tuple[RankTest, ...]:
        """Those of its ranks; none where nothing can be tested."""
        return self.result.tests if self.result else ()

    @property
    def reason(self) -> str | None:
        """Why nothing can be tested."""
        return self.choice.reason

    @property
    def sentence(self) -> str:
        """What was shown, in a sentence or several."""
        where = f"{self.label} on {self.task}" if self.task else self.label
        if self.reason is not None:
            return f"{where}: no rank can be tested ({self.reason})."
        return f"{where}: {' '.join(sentences.choice_sentences(self.choice, own=True))}"

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """An element of ``recommended``; the rank is None where none passes or is tested."""
        result = self.result
        row: dict[str, Any] = {"adapter": self.label, **fields_of(self, "task rank")}
        row |= {"delta": self.choice.margin, "alpha": self.choice.alpha}
        if details and result:
            names = "reference best flip_rate conditional saved seeds checkpoints"
            row |= fields_of(result, names) | {"smallest_delta": result.smallest_margin}
            names = "rank loss upper passed flip_rate method checkpoints"
            row["steps"] = [
                {"delta_needed": test.margin_needed, **fields_of(test, names)}
                for test in result.tests
            ]
        if details:
            row["min_accuracy"] = self.choice.min_accuracy
            row |= {"reason": self.reason, "sentence": self.sentence}
        return row
