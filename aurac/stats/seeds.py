"""Documents crossed with training seeds: what another draw of both would give.

An arm is S checkpoints of one recipe that differ in the seed, all evaluated on the same n
documents: ``y[s, d] = μ + seed_s + document_d + rest_sd``. Seeds are never bootstrapped: with five
or fewer that covers far too little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.checks import refuse_masked
from aurac.errors import CurveError
from aurac.stats.mean import (
    Estimate,
    Layout,
    check_level,
    moments,
    show_df,
    t_quantile,
    unit_residuals,
)
from aurac.stats.mean_interval import edge_excess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

CONDITIONAL = "conditional on these checkpoints"


@dataclass(frozen=True)
class Arm:
    """What one arm adds to the variance.

    Attributes:
        seed_means: (S,) mean over documents for each seed, with the arm's sign.
        rest: ``MS_e / (S·n)``, the part of the seed means' spread that is documents; 0 for S = 1.
        rest_df: Its degrees of freedom.
    """

    seed_means: NDArray[np.float64]
    rest: float
    rest_df: float

    @property
    def seeds(self) -> int:
        """S."""
        return int(self.seed_means.size)

    @property
    def between(self) -> float:
        """``s²(seed means) / S``; 0 for a single seed, whose spread is unknown."""
        return float(self.seed_means.var(ddof=1) / self.seeds) if self.seeds > 1 else 0.0


@dataclass(frozen=True)
class Components:
    """A mean or a difference of means, taken apart into its sources of variance.

    Attributes:
        value: The estimate.
        arms: One for a mean, two for a difference.
        document: Variance over documents, of the seeds' average.
        document_df: Its degrees of freedom.
        excess: Level → what few events add to the documents' part of the squared reach, below and
            above the estimate; None where Student's t holds.
    """

    value: float
    arms: tuple[Arm, ...]
    document: float
    document_df: float
    excess: Callable[[float], tuple[float, float]] | None = None

    @property
    def conditional(self) -> bool:
        """Whether an arm has one seed, so that the claim holds for its checkpoint alone."""
        return any(arm.seeds < 2 for arm in self.arms)

    def variance(self) -> tuple[float, float]:
        """Variance of `value` and its degrees of freedom (Satterthwaite 1946).

        ``V = Σ_arms s²(seed means)/S + s²_d/n - Σ_arms MS_e/(S·n)``: the seed means' spread holds
        the documents' once more, which the last term takes out. Never below the document term.
        """
        between = [arm.between for arm in self.arms]
        rest = [arm.rest for arm in self.arms]
        total = sum(between) + self.document - sum(rest)
        if total <= self.document:
            return self.document, self.document_df
        terms = [(self.document, self.document_df)]
        terms += [(v, arm.seeds - 1) for v, arm in zip(between, self.arms, strict=True)]
        terms += [(v, arm.rest_df) for v, arm in zip(rest, self.arms, strict=True)]
        return total, satterthwaite(total, terms)


def satterthwaite(total: float, terms: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom ``total² / Σ (term²/df)`` of a sum of independent mean squares."""
    spread = sum(v * v / df for v, df in terms if v > 0 and df > 0)
    return total * total / spread if spread > 0 else float("inf")


def components(
    arms: Sequence[NDArray[np.float64]],
    signs: Sequence[int],
    layout: Layout,
    *,
    averaged: NDArray[np.float64] | None = None,
) -> Components:
    """Take a signed sum of arm means apart.

    Args:
        arms: Each (S_i, n): seeds by documents, the same documents in the same order.
        signs: +1 or -1 for each arm.
        layout: The documents' clusters and strata.
        averaged: What `over_arms` gives, where it is known already.
    """
    values = over_arms(arms, signs) if averaged is None else averaged
    found = moments(values, layout)
    return Components(
        value=float(found.mean),
        arms=tuple(_arm(arm, sign, layout) for arm, sign in zip(arms, signs, strict=True)),
        document=float(found.se) ** 2,
        document_df=float(found.df),
        excess=edge_excess(values, layout) if len(arms) == 1 else None,
    )


def over_arms(arms: Sequence[NDArray[np.float64]], signs: Sequence[int]) -> NDArray[np.float64]:
    """(n,) signed sum of the arms' averages over seeds."""
    total = signs[0] * arms[0].mean(axis=0)
    for sign, arm in zip(signs[1:], arms[1:], strict=True):
        total += sign * arm.mean(axis=0)
    return np.asarray(total)


def _arm(values: NDArray[np.float64], sign: int, layout: Layout) -> Arm:
    means = values.mean(axis=1)
    seeds = means.size
    if seeds < 2:
        return Arm(sign * means, 0.0, 0.0)
    rest = values - values.mean(axis=0) - means[:, None] + means.mean()
    squares = np.square(unit_residuals(rest, layout)).sum()
    # For independent documents this is MS_e / (S·n), MS_e = Σ rest² / ((S-1)(n-1)).
    spread = float(squares / (layout.n**2 * seeds * (seeds - 1)))
    return Arm(sign * means, spread, layout.df * (seeds - 1.0))


def weigh(parts: Sequence[Components], weights: Sequence[float]) -> Components:
    """A weighted sum over tasks whose documents are independent and whose seeds are the same.

    Each seed's checkpoint met every task, so seed means are added before their spread is taken.

    Raises:
        CurveError: The tasks have different numbers of seeds.
    """
    shapes = {tuple(arm.seeds for arm in part.arms) for part in parts}
    if len(shapes) != 1:
        raise CurveError("tasks with different numbers of seeds", expected="the same seeds on all")
    arms = []
    for same in zip(*(part.arms for part in parts), strict=True):
        means = np.sum([w * arm.seed_means for w, arm in zip(weights, same, strict=True)], axis=0)
        terms = [(w * w * arm.rest, arm.rest_df) for w, arm in zip(weights, same, strict=True)]
        rest = sum(v for v, _ in terms)
        arms.append(Arm(means, rest, satterthwaite(rest, terms)))
    terms = [(w * w * p.document, p.document_df) for w, p in zip(weights, parts, strict=True)]
    document = sum(v for v, _ in terms)
    value = sum(w * p.value for w, p in zip(weights, parts, strict=True))
    excesses = [(w * w, p.excess) for w, p in zip(weights, parts, strict=True) if p.excess]

    def excess(level: float) -> tuple[float, float]:
        ends = [(w * below, w * above) for w, add in excesses for below, above in [add(level)]]
        return sum(below for below, _ in ends), sum(above for _, above in ends)

    df = satterthwaite(document, terms)
    return Components(value, tuple(arms), document, df, excess if excesses else None)


def reach(parts: Components, level: float) -> tuple[float, float]:
    """How far Banerjee's interval (1960) for the mean of one arm goes below and above it.

    ``reach² = t²_{n-1} · max(document - rest, 0) + t²_{S-1} · s²(seed means)/S``, each source of
    variance with the quantile of its own degrees of freedom, and what few events add near 0 and 1.
    """
    (arm,) = parts.arms
    probability = (1.0 + level) / 2.0
    document = max(parts.document - arm.rest, 0.0)
    squared = document * t_quantile(probability, parts.document_df) ** 2 if document > 0 else 0.0
    if arm.seeds > 1 and arm.between > 0:
        squared += arm.between * t_quantile(probability, arm.seeds - 1.0) ** 2
    below, above = (0.0, 0.0) if parts.excess is None else parts.excess(level)
    return float(np.sqrt(max(squared + below, 0.0))), float(np.sqrt(max(squared + above, 0.0)))


def one_arm(parts: Components, level: float, words: str) -> Estimate:
    """The interval for the mean of one arm, inside [0, 1]."""
    se = float(np.sqrt(parts.variance()[0]))
    below, above = reach(parts, level)
    if not (np.isfinite([below, above]).all() and max(below, above) > 0):
        return Estimate(parts.value, None, None, None, f"point value (no spread), {words}", level)
    df = parts.document_df if parts.conditional else None
    method = "Banerjee's interval" if df is None else f"t with {show_df(df)} df"
    if parts.excess is not None:
        method += ", wider or shorter near 0 and 1"
    method = f"{method}, {words}, {describe(parts)}"
    low, high = max(0.0, parts.value - below), min(1.0, parts.value + above)
    return Estimate(parts.value, se if se > 0 else None, low, high, method, level, df)


def t_from(parts: Components, level: float, words: str, limits: tuple[float, float]) -> Estimate:
    """The interval from components, cut to `limits`: `one_arm`, or t for a difference."""
    if len(parts.arms) == 1:
        return one_arm(parts, level, words)
    variance, df = parts.variance()
    se = float(np.sqrt(variance))
    if not (np.isfinite(se) and se > 0 and df > 0):
        return Estimate(parts.value, None, None, None, f"point value (no spread), {words}", level)
    half = t_quantile((1 + level) / 2, df) * se
    low, high = max(limits[0], parts.value - half), min(limits[1], parts.value + half)
    method = f"t with {df:.4g} df, {words}, {describe(parts)}"
    return Estimate(parts.value, se, low, high, method, level, df)


def describe(parts: Components) -> str:
    """What the interval generalises over."""
    if all(arm.seeds < 2 for arm in parts.arms):
        return CONDITIONAL
    seeds = " and ".join(str(arm.seeds) for arm in parts.arms)
    if parts.conditional:
        return f"documents × seeds ({seeds} seeds), conditional on the single checkpoint"
    return f"documents × seeds ({seeds} seeds)"


def over_seeds(
    values: Any,
    *,
    clusters: Sequence[Any] | None = None,
    strata: Sequence[Any] | None = None,
    level: float = 0.95,
) -> Estimate:
    """The mean of one arm, for another draw of both documents and training seeds.

    Args:
        values: (S, n) scores in [0, 1]: seeds by documents.
        clusters: n labels.
        strata: n labels.
        level: Coverage.

    Raises:
        CurveError: Not a matrix, or labels of another length.
    """
    arm = as_matrix(values)
    check_level(level)
    layout = Layout.make(arm.shape[1], clusters, strata)
    return t_from(components([arm], [1], layout), level, layout.describe(), (0.0, 1.0))


def as_matrix(values: Any) -> NDArray[np.float64]:
    """(S, n) float64; a vector is one seed.

    Raises:
        CurveError: It is neither, or ragged.
    """
    refuse_masked(values, "document scores")
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise CurveError("seeds with unequal documents", expected="a (seeds, n) matrix") from None
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.size == 0:
        raise CurveError(f"scores of shape {array.shape}", expected="(seeds, documents)")
    return array
