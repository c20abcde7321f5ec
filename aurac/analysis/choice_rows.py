"""Configurations, the choice among them, and the recommended rank of one curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from aurac.analysis.rows import Named, fields_of

if TYPE_CHECKING:
    from aurac.files import Json


@dataclass(frozen=True)
class Configuration(Named):
    """An adapter, cut one way, at one rank.

    Attributes:
        rank: The rank.
        accuracy: Mean over documents and seeds; `low` to `high` holds for all configurations of the
            choice together (Bonferroni); None without documents.
        bytes: Of the truncated adapter; None where not known.
        seconds: For a document, as measured; None where not.
        above_base: Whether it is shown to be above the base, each by itself; None without a base.
        needed: The smallest margin at which it is shown to be within it of the best; None where no
            margin is enough or an accuracy alone is asked for, and of many configurations where it
            is not among the smallest.
        checkpoints: The same in each of the checkpoints evaluated; `needed` itself of single ones.
        least: Where an accuracy is demanded, that which the choice shows it to have at least; else
            left out.
    """

    rank: int
    accuracy: float
    low: float | None = None
    high: float | None = None
    bytes: int | None = None
    seconds: float | None = None
    above_base: bool | None = None
    needed: float | None = None
    checkpoints: float | None = None
    least: float | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"Configuration({self.name}: accuracy {self.accuracy:.4f}, needed {self.needed})"

    @property
    def name(self) -> str:
        """Label and rank in a sentence."""
        return f"{self.label} at rank {self.rank}"

    @property
    def value(self) -> float:
        """The accuracy, as of an estimate."""
        return self.accuracy

    def to_dict(self) -> dict[str, Json]:
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
        seeds_needed: Seeds from which a claim about another seed may hold, where bad runs are at
            least one in four; `rare_seeds_needed` where they are one in ten.
        baseline: Accuracy of the base.
        reason: Why nothing is compared.
        chosen: The smallest that passes: for the recipe, from single checkpoints for these. None
            where none does, or no margin and no accuracy was declared.
        in_checkpoints: The smallest that passes in each of the checkpoints evaluated.
        best: The most accurate, the smallest of several.
        frontier: Those that no other one as small equals in both accuracy and `needed`.
        needed: The smallest margin at which any is shown to be within it of the best.
        sentences: What to ship and what was shown, or why nothing is named.
        against: What sentences call a declared configuration; else left out.
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
    rare_seeds_needed: int = 0
    baseline: float | None = None
    reason: str | None = None
    chosen: Configuration | None = None
    in_checkpoints: Configuration | None = None
    best: Configuration | None = None
    frontier: tuple[Configuration, ...] = ()
    needed: float | None = None
    sentences: tuple[str, ...] = ()
    against: str | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"Choice({' '.join(self.sentences)})"

    @property
    def declared(self) -> bool:
        """Whether a margin or an accuracy was declared; without, nothing is chosen."""
        return self.margin is not None or self.min_accuracy is not None

    @property
    def few_seeds(self) -> bool:
        """Whether no margin is enough because several checkpoints are fewer than `seeds_needed`.

        A reference needs 0 against itself, and an accuracy alone asks for no number of seeds.
        """
        asked = self.margin is not None or self.min_accuracy is None
        shown = any(each.needed for each in self.configurations)
        return asked and not shown and 1 < self.seeds < self.seeds_needed

    def to_dict(self, *, details: bool = False) -> dict[str, Json]:
        """An element of ``choices``."""
        row = fields_of(self, "task margin min_accuracy alpha reference needed seeds reason")
        for name in ("chosen", "in_checkpoints", "best"):
            known = getattr(self, name)
            row[name] = known.to_dict() if known else None
        shown = self.configurations if details else self.frontier
        row["configurations" if details else "frontier"] = [each.to_dict() for each in shown]
        return row | {"sentences": list(self.sentences)}


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
        joint: As `upper`, for all ranks of the curves that a report tests together; None in a row
            of `recommended`.
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
class RankRow(Named):
    """The smallest rank of one curve that a user may ship: its choice, by itself.

    Attributes:
        choice: Among the ranks of this curve.
        best: The most accurate rank, or the declared one.
        tests: Every rank but a declared one, from the largest downward; none where nothing can be
            tested.
        flip_rate: Share of documents whose score differs between `rank` and `best`.
        smallest_margin: The smallest margin at which a rank below `best` passes (any rank, where
            `best` is not of this curve); None where no margin is enough.
        saved: Share of the bytes at the largest rank that `rank` saves; None if not known.
        sentence: What was shown, in a sentence or several.
    """

    choice: Choice
    best: int | None = None
    tests: tuple[RankTest, ...] = ()
    flip_rate: float = 0.0
    smallest_margin: float | None = None
    saved: float | None = None
    sentence: str = ""

    def __repr__(self) -> str:
        return f"RankRow({self.sentence})"

    @property
    def rank(self) -> int | None:
        """The smallest rank that passes every test; None where no rank does, or none is tested.

        From one seed it holds for that checkpoint alone, from several for the recipe.
        """
        return self.choice.chosen.rank if self.choice.chosen else None

    @property
    def reason(self) -> str | None:
        """Why nothing can be tested."""
        return self.choice.reason

    @property
    def seeds(self) -> int:
        """Checkpoints evaluated."""
        return self.choice.seeds

    @property
    def conditional(self) -> bool:
        """Whether this holds for one checkpoint alone."""
        return self.seeds == 1

    @property
    def checkpoints(self) -> int | None:
        """The smallest rank that passes in every one of the checkpoints evaluated."""
        return self.choice.in_checkpoints.rank if self.choice.in_checkpoints else None

    def to_dict(self, *, details: bool = False) -> dict[str, Json]:
        """An element of ``recommended``; the rank is None where none passes or is tested."""
        row: dict[str, Json] = {"adapter": self.label, **fields_of(self, "task rank")}
        row |= {"margin": self.choice.margin, "alpha": self.choice.alpha}
        if details and self.reason is None:
            row["reference"] = self.choice.reference
            row |= fields_of(self, "best flip_rate conditional saved seeds checkpoints")
            row["smallest_margin"] = self.smallest_margin
            names = "rank loss upper passed margin_needed flip_rate method checkpoints"
            row["steps"] = [fields_of(test, names) for test in self.tests]
        if details:
            row["min_accuracy"] = self.choice.min_accuracy
            row |= fields_of(self, "reason sentence")
        return row
