"""Training methods: what is between the factors in each pass, and what follows for truncation.

A micro-batch of every method is a list of passes. A pass computes the sum of LoRA at some ranks,
`B · diag(p) · A x` with the p of `rank_weights`. Sources: LoRA (arXiv 2106.09685), DyLoRA (arXiv
2210.07558), MatryoshkaLoRA (arXiv 2605.07850), and nested losses after Matryoshka representation
learning (arXiv 2205.13147).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aurac.adapters.nesting import (
    UPDATES,
    Rule,
    Update,
    check_nested_ranks,
    check_weights,
    named_ranks,
    rank_weights,
)
from aurac.errors import RecipeError, UsageError


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of a micro-batch.

    Attributes:
        ranks: The ranks that it sums.
        weights: w_r of each; `None` means 1.
        share: The factor of its loss; those of a micro-batch should sum to 1.
        row: The one component, from 1 on, that gets a gradient; 0 means all.
    """

    ranks: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    share: float = 1.0
    row: int = 0


@dataclass(frozen=True)
class TrainingSetup:
    """What a method needs to know of a training.

    Attributes:
        nesting: How the ranks are trained.
        seed: The seed of everything that the method draws.
        options: The method's own settings (`method_options` of a recipe).
    """

    nesting: Nesting
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def passes(self, step: int, micro_batch: int) -> Sequence[Pass]:
        """The passes of a micro-batch and of its optimizer step, both counted from 0."""
        return method_named(self.nesting.method).passes(self, step, micro_batch)

    def digest(self, number: int) -> bytes:
        """A hash of method, seed and number, from which a method draws.

        It is the same on every process, in a gradient-checkpoint recompute and after a resume.
        """
        text = f"{self.nesting.method} {self.seed} {number}"
        return hashlib.sha256(text.encode()).digest()


def _sum(setup: TrainingSetup, _step: int, _micro_batch: int) -> Sequence[Pass]:
    """One pass with the sum over all ranks between the factors."""
    return [Pass(setup.nesting.ranks, setup.nesting.weights)]


def _drawn(setup: TrainingSetup, step: int, micro_batch: int) -> Sequence[Pass]:
    """One pass with s_b on the first b components, b drawn with the chances in the weights.

    `prefix`, the baseline in MatryoshkaLoRA's code, trains all b and draws for each micro-batch;
    `frozen`, DyLoRA's own update, trains component b and draws for each optimizer step.
    """
    how, frozen = setup.nesting, setup.nesting.update == "frozen"
    edges = np.cumsum(np.asarray(how.weights) / math.fsum(how.weights))
    uniform = int.from_bytes(setup.digest(step if frozen else micro_batch)[:7], "big") / 2**56
    b = how.ranks[min(int(np.searchsorted(edges, uniform, side="right")), len(edges) - 1)]
    return [Pass((b,), row=b if frozen else 0)]


def _each(setup: TrainingSetup, step: int, _micro_batch: int) -> Sequence[Pass]:
    """One pass for each nested rank r, with s_r on the first r components.

    The loss is `Σ_r w_r · loss_r / Σ_r w_r`. With `ranks_per_step: k` only k ranks, drawn without
    replacement, are computed in a step, each weighted with |S| / k, so that the expected loss is
    the same.
    """
    how, k = setup.nesting, setup.options.get("ranks_per_step", 0)
    if not isinstance(k, int) or isinstance(k, bool) or not 0 <= k <= len(how.ranks):
        raise RecipeError(
            f"ranks_per_step is {k!r}, not 0 (every nested rank) or a number up to {len(how.ranks)}"
        )
    shares = ((r, w / math.fsum(how.weights)) for r, w in zip(how.ranks, how.weights, strict=True))
    every = [Pass((r,), share=share) for r, share in shares if share > 0]
    if not 0 < k < len(every):
        return every
    seed = int.from_bytes(setup.digest(step)[:16], "big")
    drawn = np.random.Generator(np.random.PCG64(seed)).choice(len(every), size=k, replace=False)
    return [replace(every[i], share=every[i].share * len(every) / k) for i in sorted(drawn)]


@dataclass(frozen=True)
class Method:
    """A training method.

    Attributes:
        title: Its name with the source, for people.
        passes: The passes of a micro-batch, see `TrainingSetup.passes`.
        nested: Whether nested ranks are trained; otherwise S = {R}.
        options: The names of its own settings.
    """

    title: str
    passes: Callable[[TrainingSetup, int, int], Sequence[Pass]] = _sum
    nested: bool = True
    options: frozenset[str] = frozenset()

    @property
    def summed(self) -> bool:
        """Whether every pass sums all ranks, with one P; else each r is trained with its s_r.

        A P that is not constant is kept after truncation.
        """
        return self.passes is _sum


METHODS: Final[Mapping[str, Method]] = {
    "lora": Method("LoRA (arXiv 2106.09685)", nested=False),
    "dylora": Method("DyLoRA (arXiv 2210.07558)", _drawn),
    "matryoshka": Method("MatryoshkaLoRA (arXiv 2605.07850)"),
    "nested_loss": Method(
        "nested losses (after arXiv 2205.13147)", _each, options=frozenset({"ranks_per_step"})
    ),
}


def method_named(name: str) -> Method:
    """The method of that name; a UsageError where there is none."""
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}, only {', '.join(METHODS)}")
    return METHODS[name]


@dataclass(frozen=True)
class Nesting:
    """How the ranks were trained.

    Attributes:
        method: ``lora`` (S = {R}), ``matryoshka`` (every nested rank in every step), ``dylora``
            (one nested rank drawn per step) or ``nested_loss`` (a loss for each nested rank).
        ranks: S, ascending.
        weights: One per nested rank: w_r of the sum for ``matryoshka``, of the losses for
            ``nested_loss``, the odds of being drawn for ``dylora``.
        update: For ``dylora`` which rows learn: ``prefix`` (1..b) or ``frozen`` (only b).
    """

    method: str
    ranks: tuple[int, ...]
    weights: tuple[float, ...] = ()
    update: Update | None = None

    def __post_init__(self) -> None:
        method_named(self.method)
        if self.update not in (None, *UPDATES):
            raise UsageError(f"there is no update {self.update!r}, only {' and '.join(UPDATES)}")
        ranks = check_nested_ranks(self.ranks)
        object.__setattr__(self, "ranks", ranks)
        object.__setattr__(self, "weights", check_weights(ranks, self.weights or None))

    @classmethod
    def make(
        cls, method: str, R: int, ranks: Sequence[int], weights: Sequence[float], update: Update
    ) -> Nesting:
        """That of a training of rank R; no weights are all 1.

        No ranks are 1, 2, 4, … and R; of update `frozen`, which trains no other rows, all.
        """
        if not method_named(method).nested:
            return cls(method, (R,))
        frozen = method == "dylora" and update == "frozen"
        chosen = tuple(ranks) or named_ranks("all" if frozen else "pow2", R)
        return cls(method, chosen, tuple(weights), update if method == "dylora" else None)

    def whole(self, R: int) -> Pass:
        """The pass of the whole adapter: all nested ranks where they are summed, else R."""
        summed = method_named(self.method).summed
        return Pass(self.ranks, self.weights) if summed else Pass((R,))

    def diagonal(
        self, R: int, rule: Rule, alpha: float, own: int | None = None
    ) -> NDArray[np.float64] | None:
        """The P of all passes, see `rank_weights`; ``None`` where they differ."""
        method = method_named(self.method)
        if not method.summed:
            return None
        ranks, weights = (self.ranks, self.weights) if method.nested else ((R,), None)
        return rank_weights(R, ranks, weights, rule, alpha, own)
