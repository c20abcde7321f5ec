"""Training methods: the diagonal between the factors in each pass, and what follows for truncation.

A training step of every method is a list of passes. A pass computes `B · diag(p) · A x` and adds
`weight` times its loss. Sources: LoRA (arXiv 2106.09685), DyLoRA (arXiv 2210.07558), MatryoshkaLoRA
(arXiv 2605.07850), and nested losses after Matryoshka representation learning (arXiv 2205.13147).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from aurac.adapters.nesting import (
    UPDATES,
    Rule,
    Update,
    check_nested_ranks,
    check_weights,
    rank_weights,
)
from aurac.errors import RecipeError, UsageError


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of an optimizer step.

    Attributes:
        p: The diagonal between the factors, shape (R,).
        weight: The factor of its loss; those of a step should sum to 1.
        rows: The components that get a gradient.
    """

    p: NDArray[np.float64]
    weight: float = 1.0
    rows: slice = field(default_factory=lambda: slice(None))


@dataclass(frozen=True)
class TrainingSetup:
    """What a method needs to know of a training.

    Attributes:
        rank: R, the trained rank.
        ranks: S, the nested ranks, ascending; the last is R.
        weights: One number for each nested rank.
        rule: The scaling rule that gives s_r.
        alpha: The α of the rule.
        seed: The seed of everything that the method draws.
        update: DyLoRA's update, `prefix` or `frozen`.
        options: The method's own settings (`method_options` of a recipe).
    """

    rank: int
    ranks: tuple[int, ...]
    weights: tuple[float, ...]
    rule: Rule
    alpha: float
    seed: int = 0
    update: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def prefix(self, r: int) -> NDArray[np.float64]:
        """The diagonal of plain LoRA at rank r: s_r on the first r components, shape (R,)."""
        return rank_weights(self.rank, (r,), None, self.rule, self.alpha)

    def digest(self, purpose: str, step: int) -> bytes:
        """A hash of purpose, seed and step, from which a method draws.

        It is the same on every process, in a gradient-checkpoint recompute and after a resume.
        """
        return hashlib.sha256(f"{purpose} {self.seed} {step}".encode()).digest()


class Method:
    """Base class of the training methods.

    Attributes:
        name: The word in recipes and side-car files.
        title: The name with its source, for people.
        nested: Whether nested ranks are trained; otherwise S = {R}.
        options: The settings of its own, with their defaults.
    """

    name: str
    title: str
    nested: bool = True
    options: Mapping[str, Any] = {}

    def check(self, setup: TrainingSetup) -> None:
        """Raise RecipeError where `setup.options` hold a value that the method cannot use."""

    def passes(self, setup: TrainingSetup, step: int) -> Sequence[Pass]:
        """The passes of optimizer step `step`, counted from 0."""
        raise NotImplementedError

    def diagonal(self, setup: TrainingSetup) -> NDArray[np.float64] | None:  # noqa: ARG002
        """The P of all passes, shape (R,); `None` where every rank r is trained with its own s_r.

        A diagonal that is not constant is kept after truncation; otherwise the scaling rule is
        evaluated at the rank in use.
        """
        return None


class Lora(Method):
    """One rank, trained at its own scale."""

    name, title, nested = "lora", "LoRA (arXiv 2106.09685)", False

    @override
    def passes(self, setup: TrainingSetup, step: int) -> Sequence[Pass]:
        """One pass with s_R on every component."""
        return [Pass(self.diagonal(setup))]

    @override
    def diagonal(self, setup: TrainingSetup) -> NDArray[np.float64]:
        """s_R on every component."""
        return setup.prefix(setup.rank)


class Matryoshka(Method):
    """Every nested rank in every step, at the cost of LoRA."""

    name, title = "matryoshka", "MatryoshkaLoRA (arXiv 2605.07850)"

    @override
    def passes(self, setup: TrainingSetup, step: int) -> Sequence[Pass]:
        """One pass with the sum over the nested ranks between the factors."""
        return [Pass(self.diagonal(setup))]

    @override
    def diagonal(self, setup: TrainingSetup) -> NDArray[np.float64]:
        """p_i = Σ over r in S with r ≥ i of w_r · s_r."""
        return rank_weights(setup.rank, setup.ranks, setup.weights, setup.rule, setup.alpha)


class Dylora(Method):
    """One nested rank b, drawn for each step."""

    name, title = "dylora", "DyLoRA (arXiv 2210.07558)"

    @override
    def passes(self, setup: TrainingSetup, step: int) -> Sequence[Pass]:
        """One pass with s_b on the first b components; `frozen` trains component b alone."""
        b = self.drawn(setup, step)
        rows = slice(b - 1, b) if setup.update == "frozen" else slice(None)
        return [Pass(setup.prefix(b), rows=rows)]

    def drawn(self, setup: TrainingSetup, step: int) -> int:
        """The rank b of a step, drawn with the chances in `setup.weights`."""
        edges = np.cumsum(np.asarray(setup.weights) / math.fsum(setup.weights))
        uniform = int.from_bytes(setup.digest(self.name, step)[:7], "big") / 2**56
        return setup.ranks[min(int(np.searchsorted(edges, uniform, side="right")), len(edges) - 1)]


class NestedLoss(Method):
    """The weighted mean of the losses at the nested ranks, each at the scale of its own rank.

    The loss of a step is `Σ_r w_r · loss_r / Σ_r w_r`. With `ranks_per_step: k` only k ranks,
    drawn without replacement, are computed in a step, each weighted with |S| / k, so that the
    expected loss is the same. A step costs |S| (or k) passes of LoRA.
    """

    name, title = "nested_loss", "nested losses (after arXiv 2205.13147)"
    options: Mapping[str, Any] = {"ranks_per_step": 0}

    @override
    def check(self, setup: TrainingSetup) -> None:
        """`ranks_per_step` is 0 (all) or a number of nested ranks."""
        k = setup.options.get("ranks_per_step", 0)
        if not isinstance(k, int) or isinstance(k, bool) or not 0 <= k <= len(setup.ranks):
            raise RecipeError(
                f"ranks_per_step is {k!r}, not 0 (every nested rank) or a number up to "
                f"{len(setup.ranks)}"
            )

    @override
    def passes(self, setup: TrainingSetup, step: int) -> Sequence[Pass]:
        """One pass for each nested rank r of the step, with s_r on the first r components."""
        total = math.fsum(setup.weights)
        every = [(r, w / total) for r, w in zip(setup.ranks, setup.weights, strict=True) if w > 0]
        k = setup.options.get("ranks_per_step", 0)
        if not 0 < k < len(every):
            return [Pass(setup.prefix(r), weight) for r, weight in every]
        seed = int.from_bytes(setup.digest(self.name, step)[:16], "big")
        drawn = np.random.Generator(np.random.PCG64(seed)).choice(len(every), size=k, replace=False)
        share = len(every) / k
        return [Pass(setup.prefix(every[i][0]), share * every[i][1]) for i in sorted(drawn)]


METHODS: Final[Mapping[str, Method]] = {
    method.name: method for method in (Lora(), Dylora(), Matryoshka(), NestedLoss())
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

    def setup(
        self, R: int, rule: Rule, alpha: float, seed: int, options: Mapping[str, object]
    ) -> TrainingSetup:
        """What the method needs to know of a training of rank R."""
        return TrainingSetup(R, self.ranks, self.weights, rule, alpha, seed, self.update, options)

    def diagonal(self, R: int, rule: Rule, alpha: float) -> NDArray[np.float64] | None:
        """The P of the training at rank R, shape (R,), see `Method.diagonal`."""
        return method_named(self.method).diagonal(self.setup(R, rule, alpha, 0, {}))
