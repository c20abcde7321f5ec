"""Documents crossed with training seeds: what another draw of both would give.

A recipe group is S checkpoints that differ in the seed, all evaluated on the same n documents:
``y[s, d] = μ + seed_s + document_d + rest_sd``. Each source of variance keeps its own degrees of
freedom, by Banerjee's interval:

    reach² = t²_{n-1} · max(document - Σ rest, 0) + Σ_groups t²_{S-1} · s²(seed means) / S

with t the quantile of each term's own degrees of freedom. The squared mean over its variance is
χ²_1, whose distribution function is concave; so the chance of ``D² ≤ Σ t_i² v_i`` is at least the
average, weighed by the terms' shares of the variance, of chances that are each the level (Banerjee
1960). It holds for any number of seeds, for groups whose seeds vary differently, and for any
level, which Satterthwaite's degrees of freedom do not. Seeds are never bootstrapped.
docs/design/statistics-calibration.md compares the procedures.

Draws of the few-shot examples are crossed with the documents in the same way, with one difference:
all recipes see the same draws, so a difference is taken within each draw before its spread.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aurac.arguments import kind_of
from aurac.curves.checks import refuse_masked
from aurac.errors import CurveError
from aurac.stats.intervals import Reach, edge_excess, mean_interval, rule_of_three, skew_excess
from aurac.stats.mean import (
    Estimate,
    Layout,
    check_level,
    is_constant,
    moments,
    show_df,
    t_quantile,
    unit_residuals,
)

SMALLEST_P = 1e-15
PAIRED, INDEPENDENT = "paired by seed", "independent seeds"
"""How the seeds of two recipes are compared."""
UNEVEN = "wider or shorter near 0 and 1"  # of the method, where `Components.excess` is not None
FALSE_FLAGS = 0.05  # share of groups with a seed flagged, where seeds vary normally

Names = Sequence[Hashable]


@dataclass(frozen=True)
class SeedMeans:
    """What one recipe group adds to the variance.

    Attributes:
        seed_means: (S,) mean over documents for each seed, with the group's sign.
        rest: ``MS_e / (S·n)``, the part of the seed means' spread that is documents; 0 for S = 1.
        names: The S seeds, by which tasks are matched.
    """

    seed_means: NDArray[np.float64]
    rest: float
    names: tuple[Hashable, ...] = field(compare=False)

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
        groups: One for a mean, two for a difference.
        document: Variance over documents, of the seeds' average.
        document_df: Its degrees of freedom.
        draws: One for each task whose few-shot examples were drawn several times.
        excess: Level → what few events add to the documents' part of the squared reach of Student's
            t, below and above the estimate; None where t holds.
        paired: Whether this is a difference that was taken within each seed.
    """

    value: float
    groups: tuple[SeedMeans, ...]
    document: float
    document_df: float
    draws: tuple[SeedMeans, ...] = ()
    excess: Reach | None = field(default=None, compare=False, repr=False)
    paired: bool = False

    def __repr__(self) -> str:
        seeds = " and ".join(str(group.seeds) for group in self.groups)
        return f"Components({self.value:.4f}, se {self.se:.4f}, training seeds: {seeds})"

    @property
    def pairing(self) -> str | None:
        """How the seeds of a difference were compared; None where there are not several."""
        if self.fewest < 2:
            return None
        two = INDEPENDENT if len(self.groups) > 1 else None
        return PAIRED if self.paired else two

    @property
    def conditional(self) -> bool:
        """Whether a group has one seed, so that the claim holds for its checkpoint alone."""
        return any(group.seeds < 2 for group in self.groups)

    @property
    def fewest(self) -> int:
        """The seeds of the group that has the fewest of those with more than one; 1 without any."""
        return min((group.seeds for group in self.groups if group.seeds > 1), default=1)

    def terms(self) -> list[tuple[float, float]]:
        """Independent terms of the variance with their degrees of freedom, documents first."""
        sources = (*self.groups, *self.draws)
        documents = self.document - sum(source.rest for source in sources)
        documents = documents if documents > 1e-12 * self.document else 0.0  # rounding
        between = [(source.between, source.seeds - 1.0) for source in sources if source.seeds > 1]
        if self.draws and not documents and not any(variance for variance, _ in between):
            documents = self.document  # draws with equal means by chance: some spread was seen
        return [(documents, self.document_df), *between]

    @property
    def se(self) -> float:
        """Standard error of `value`."""
        return float(np.sqrt(sum(variance for variance, _ in self.terms())))

    def reach(self, level: float) -> tuple[float, float]:
        """How far the interval at `level` goes below and above `value`."""
        return self._reach(1.0 - level, self.terms())

    def _reach(self, alpha: float, terms: Sequence[tuple[float, float]]) -> tuple[float, float]:
        squared = sum(v * t_quantile(alpha / 2.0, df) ** 2 for v, df in terms if v > 0)
        down, up = (0.0, 0.0) if self.excess is None else self.excess(1.0 - alpha)
        return float(np.sqrt(max(squared + down, 0.0))), float(np.sqrt(max(squared + up, 0.0)))

    def p_value(self) -> float:
        """Two-sided p of no difference: 1 - the level at which the interval ends at 0."""
        from scipy.optimize import brentq

        if abs(self.value) <= 1e-12:
            return 1.0
        side, terms = (0 if self.value > 0 else 1), self.terms()

        def beyond(log_p: float) -> float:
            return abs(self.value) - self._reach(float(np.exp(log_p)), terms)[side]

        least, most = float(np.log(SMALLEST_P)), -1e-4  # at 0 the quantiles are 0 / 0
        if beyond(most) <= 0.0:
            return 1.0
        if beyond(least) >= 0.0:
            return SMALLEST_P
        return float(np.exp(brentq(beyond, least, most, xtol=1e-12)))


def components(
    groups: Sequence[NDArray[np.float64]],
    signs: Sequence[int],
    layout: Layout,
    *,
    names: Sequence[Names | None] | None = None,
    signed: bool | None = None,
    draws: NDArray[np.float64] | None = None,
) -> Components:
    """Take a signed sum of group means apart.

    Args:
        groups: Each (S_i, n): seeds by documents, the same documents in the same order.
        signs: +1 or -1 for each group.
        layout: The documents' clusters and strata.
        names: For each group its seeds, in the order of its rows; 0, 1, … by default.
        signed: Whether the documents' numbers are differences, in [-1, 1], and not scores, in
            [0, 1]; by default those of more than one group are.
        draws: (N, n) the signed sum under each draw of the few-shot examples.
    """
    labels = names or [None] * len(groups)
    signed_means = (sign * g.mean(axis=0) for sign, g in zip(signs, groups, strict=True))
    values = np.asarray(sum(signed_means))
    result = moments(values, layout)
    differences = len(groups) > 1 if signed is None else signed
    means = tuple(
        _seed_means(group, sign, layout, seeds)
        for group, sign, seeds in zip(groups, signs, labels, strict=True)
    )
    drawn = () if draws is None else (_seed_means(draws, 1, layout, None),)
    rest = sum(source.rest for source in (*means, *drawn))
    return Components(
        value=float(result.mean),
        groups=means,
        document=float(result.se) ** 2,
        document_df=float(result.df),
        draws=drawn,
        excess=skew_excess(values, layout, rest) if differences else edge_excess(values, layout),
    )


def _seed_means(
    values: NDArray[np.float64], sign: int, layout: Layout, names: Names | None
) -> SeedMeans:
    means = values.mean(axis=1)
    seeds = means.size
    labels = tuple(range(seeds) if names is None else names)
    if seeds < 2 or layout.df <= 0:
        return SeedMeans(sign * means, 0.0, labels)
    rest = values - values.mean(axis=0) - means[:, None] + means.mean()
    squares = np.square(unit_residuals(rest, layout)).sum()
    # For independent documents this is MS_e / (S·n), MS_e = Σ rest² / ((S-1)(n-1)).
    spread = float(squares / (layout.n**2 * seeds * (seeds - 1)))
    return SeedMeans(sign * means, spread, labels)


def far_seeds(group: SeedMeans) -> list[int]:
    """Places of the seeds that lie far from the others of their group.

    A seed's distance from the mean of the others, over their standard deviation times
    ``√(1 + 1/(S-1))``, is Student's t on S - 2 degrees of freedom where seeds vary normally; with
    Bonferroni over the S seeds (Grubbs 1950). With two seeds neither is the one that is off. The
    deviation is at least that of documents × seeds, so that equal others flag no small step.
    """
    means, count, far = group.seed_means, group.seeds, []
    least = float(np.sqrt(group.rest * count))
    for place in range(count if count > 2 else 0):
        others = np.delete(means, place)
        spread = max(float(others.std(ddof=1)), least) * np.sqrt(1.0 + 1.0 / others.size)
        critical = t_quantile(1.0 - FALSE_FLAGS / (2.0 * count), count - 2.0)
        if abs(means[place] - others.mean()) > critical * spread + 1e-9:
            far.append(place)
    return far


def estimate_from(
    parts: Components, level: float, about: str, limits: tuple[float, float]
) -> Estimate:
    """The interval from components, cut to `limits`."""
    down, up = parts.reach(level)
    if not np.isfinite(parts.document) or max(down, up) <= 0.0:
        return Estimate(parts.value, None, None, None, f"point value (no spread), {about}", level)
    low, high = max(limits[0], parts.value - down), min(limits[1], parts.value + up)
    several = any(source.seeds > 1 for source in (*parts.groups, *parts.draws))
    method = "Banerjee's interval" if several else f"t with {show_df(parts.document_df)} df"
    if parts.excess is not None and limits[0] == 0.0:
        method += f", {UNEVEN}"
    elif parts.excess is not None:
        method += " or MOVER interval of gains and losses, the wider on each side"
    method += f", {about}, {describe(parts)}"
    df = None if several else parts.document_df
    return Estimate(parts.value, parts.se or None, low, high, method, level, df)


def describe(parts: Components) -> str:
    """What the interval generalises over."""
    seeds = " and ".join(str(group.seeds) for group in parts.groups)
    text = "conditional on these checkpoints"
    if any(group.seeds > 1 for group in parts.groups):
        how = f", {parts.pairing}" if parts.pairing else ""
        text = f"documents × seeds ({seeds} seeds{how})"
        text += ", conditional on the single checkpoint" if parts.conditional else ""
    if parts.draws:
        counts = " and ".join(dict.fromkeys(str(draw.seeds) for draw in parts.draws))
        text += f", few-shot examples ({counts} draws)"
    return text


def over_seeds(
    values: Any,
    *,
    clusters: Sequence[Any] | None = None,
    strata: Sequence[Any] | None = None,
    level: float = 0.95,
) -> Estimate:
    """The mean of one recipe group, for another draw of both documents and training seeds.

    `values` are (S, n) scores in [0, 1], seeds by documents; the rest is as of
    `aurac.stats.intervals.interval`.

    Raises:
        CurveError: Not a matrix, or labels of another length.
    """
    scores = as_matrix(values)
    check_level(level)
    return mean_of_seeds(scores, Layout.make(scores.shape[1], clusters, strata), level)


def mean_of_seeds(
    scores: NDArray[np.float64],
    layout: Layout,
    level: float,
    draws: NDArray[np.float64] | None = None,
) -> Estimate:
    """As `over_seeds`, on checked (S, n) scores and an encoded layout; one seed is a checkpoint.

    `draws` are the (N, n) scores under each draw of the few-shot examples.
    """
    if len(scores) == 1 and draws is None:
        return mean_interval(scores[0], layout, level)
    if is_constant(scores):
        return rule_of_three(float(scores[0, 0]), layout, level)
    parts = components([scores], [1], layout, draws=draws)
    return estimate_from(parts, level, layout.describe(), (0.0, 1.0))


def as_matrix(values: Any) -> NDArray[np.float64]:
    """(S, n) float64; a vector is one seed, anything else is refused."""
    refuse_masked(values, "document scores")
    try:
        array = np.asarray(values, dtype=np.float64)
    except TypeError:
        given, expected = f"{kind_of(values)} as scores", "(n,) or (seeds, n) scores"
        fix = "of curves ask aurac.non_inferior(a, b, margin) or aurac.analysis.paired_curves(a, b)"
        raise CurveError(given, expected=expected, fix=fix) from None
    except ValueError:
        raise CurveError("seeds with unequal documents", expected="a (seeds, n) matrix") from None
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.size == 0:
        raise CurveError(f"scores of shape {array.shape}", expected="(seeds, documents)")
    return array
