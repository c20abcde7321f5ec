"""What a run was declared to ask, and what one that chose by its results decided."""

from __future__ import annotations

from typing import Literal

import msgspec

EACH = "*"
BEFORE, AFTER = "before the run had outcomes", "after outcomes existed"

UNDECLARED = "No primary comparison was declared, so all are exploratory and one family (Holm)."


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """The primary comparisons, and when they were declared.

    Attributes:
        pairs: Names of two each: an adapter, a group of seeds, or one of them with a truncation,
            `lora · svd` or `lora · svd · keep`. `*` in the second place is each other adapter.
        declared: When, in words.
    """

    pairs: list[tuple[str, str]]
    declared: str = "when the file was read"

    @property
    def sentence(self) -> str:
        """What was declared, and when."""
        named = (f"{a} and {'each other adapter' if b == EACH else b}" for a, b in self.pairs)
        return (
            f"Primary comparisons: {'; '.join(named)}; declared {self.declared}. All others are "
            "exploratory. p values are adjusted (Holm) within each of these two families."
        )


class LookRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One look of a sequential test: documents so far, z, and the values in force.

    `boundary` holds on the side of z, `opposite` on the other one; null where no answer is there.
    `futility` is the |z| below which the test stops without an answer; null where it does not.
    """

    documents: int
    z: float
    boundary: float
    futility: float | None = None
    opposite: float | None = None


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a sequential run found out about one question.

    Attributes:
        question: `difference` (b - a), `margin` (is b at most `margin` worse than a), `rank` (is
            the rank at most `margin` worse than the adapter's largest) or `width`.
        task, a, b: What is compared; of a rank or a width `b` is null.
        rank: Of a rank question.
        verdict: `superior`, `inferior`, `non-inferior`, `futile`, `not significant`, `not shown`,
            `width reached`, `width not reached`, or `continue` where a budget of time ended.
        documents, of: Documents that the verdict is based on, and within the budget.
        look, looks: The look at which it stopped, and planned looks.
        z, boundary: At that look; null of a width.
        p, p_adjusted: Sequential p value, and after Holm's procedure over all questions.
        estimate: Median-unbiased estimate after stopping.
        mean: Plain mean over the same documents.
        low, high, level: Repeated confidence interval.
        predictive: Probability that all documents would have given an answer, when it stopped.
        path: All looks.
        sentence: All of it in words.
    """

    question: Literal["difference", "margin", "rank", "width"]
    task: str
    a: str
    b: str | None = None
    rank: int | None = None
    verdict: str
    documents: int
    of: int
    look: int
    looks: int
    z: float | None = None
    boundary: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    estimate: float | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    level: float
    predictive: float | None = None
    path: list[LookRecord] = []
    sentence: str = ""


class SequentialRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a run that stopped early was designed, and what it decided.

    Attributes:
        until: `decided` or `width=…`, as given.
        alpha, margin, gamma, futility: Of the design.
        budget: Most documents of each task, or seconds; null: all documents.
        order_seed: Of the random order of the documents.
        documents: Task → documents that were evaluated when it stopped.
        decisions: One for each question.
        notes: What to know about it.
    """

    until: str
    alpha: float
    margin: float | None = None
    gamma: float
    futility: float
    budget: str | None = None
    order_seed: int
    documents: dict[str, int] = {}
    decisions: list[DecisionRecord] = []
    notes: list[str] = []


class GapRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks between two neighbours of a curve that were not evaluated.

    Attributes:
        low, high: The neighbours.
        departure: How far the curve may lie from the straight line between them, a fraction.
        adapter, task: The curve: of the compared ones that with the largest departure.
        noise: Whether that is above the margin, by bends no larger than their noise.
    """

    low: int
    high: int
    departure: float
    adapter: str
    task: str
    noise: bool = False


class RankChoice(msgspec.Struct, frozen=True, kw_only=True):
    """How the ranks of a run with `--ranks auto` were chosen.

    Attributes:
        margin: Departure from the straight line between two ranks that is tolerable, a fraction.
        limit: How many standard errors a bend of a curve must have to count.
        added: Ranks that were added to the powers of two.
        gaps: What was not evaluated.
        sentences: All of it in words, and AURAC over the powers of two alone.
    """

    margin: float
    limit: float
    added: list[int] = []
    gaps: list[GapRecord] = []
    sentences: list[str] = []
