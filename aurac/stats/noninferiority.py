"""Which configurations lose less than a margin against the best: bounds, and the procedure.

A configuration is one rank of one curve. With accuracies mu, c is not within the margin d of the
best where ``mu_j - mu_c >= d`` for some j. One of the references j is the best, so c is shown to be
within d when that hypothesis falls for every j, each tested as if j were known to be the best (a
partition: Hsu 1996; intersection-union: Berger 1982): no adjustment over j. Over c the error rate
is shared. Most of it goes to the curves alike, each tested from its largest rank downward up to the
first failure (a fixed sequence: Maurer, Hothorn and Lehmacher 1995). The rest is for every
configuration alone (a fallback: Wiens 2003), so that a large rank that is worse than the smaller
ones does not hide them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aurac.stats.intervals import mover
from aurac.stats.mean import (
    Layout,
    group_sums,
    mean_se_df,
    t_quantile,
    unit_residuals,
    zero_spread_bound,
)
from aurac.stats.seeds import components

FEW = 10  # differing units below which the t test gives way to an exact bound
BAD_SEEDS = 0.25  # share of seeds that lose too much which must not go unseen
ALONE = 0.2  # of the error rate is for every configuration alone, the rest for the curves
EXACT = 64  # configurations up to which the margin that each needs is computed


def seeds_needed(alpha: float, share: float = BAD_SEEDS) -> int:
    """Training seeds from which a loss in a share of the seeds would have shown.

    With S seeds the chance that none of them is among the bad ones is ``(1 - share)^S``: at 0.05 it
    takes 11 seeds for one in four and 29 for one in ten. With fewer no bound on the recipe's loss
    holds, however small the spread between the seeds happens to be.
    """
    return int(np.ceil(np.log(alpha) / np.log(1.0 - share)))


@dataclass(frozen=True, eq=False)
class Candidate:
    """A configuration to be tested: (S, n) scores of its checkpoints, and what these are called.

    Two are compared checkpoint by checkpoint where the names are the same, else every checkpoint of
    one with every one of the other.
    """

    scores: NDArray[np.float64]
    checkpoints: tuple[Hashable, ...] = (None,)

    def loss(self, reference: Candidate) -> tuple[NDArray[np.float64], bool]:
        """(S, n) what it loses against another, and whether each row is one training seed."""
        ours, theirs = self.checkpoints, reference.checkpoints
        if len(ours) == len(theirs) == 1:
            return reference.scores - self.scores, True
        if set(ours) == set(theirs) and len(set(ours)) == len(ours) == len(theirs):
            return reference.scores[[theirs.index(name) for name in ours]] - self.scores, True
        every = reference.scores[:, None] - self.scores[None]
        return every.reshape(-1, every.shape[-1]), False


@dataclass(frozen=True)
class Bound:
    """One-sided upper bounds on a loss.

    Attributes:
        recipe: For another draw of documents and, from several checkpoints, of training seeds; 1
            where the seeds are too few for any.
        checkpoints: On the largest loss among the checkpoints evaluated.
        method: How `recipe` was made.
    """

    recipe: float
    checkpoints: float
    method: str


def bound(candidate: Candidate, reference: Candidate, layout: Layout, alpha: float) -> Bound:
    """Bounds on what a configuration loses against another on the same documents."""
    loss, seeds = candidate.loss(reference)
    each = [loss_bound(row, layout, alpha) for row in loss]
    most = max(upper for upper, _ in each)
    if len(each) == 1:
        return Bound(most, most, each[0][1])
    if not seeds:
        return Bound(1.0, most, "no bound for another seed: the checkpoints are not of one seed")
    upper, method = recipe_bound(loss, layout, alpha)
    return Bound(upper, most, method)


@dataclass(eq=False)
class Procedure:
    """The smallest margin at which each configuration is shown to be within it of the best.

    Attributes:
        curves: The configurations of each curve, from the largest rank downward.
        references: Those of which one is the best; none where only `met` is asked.
        layout: The documents' clusters and strata.
        alpha: The error rate of naming any configuration wrongly.
        met: Whether the other demands on a configuration are shown at an error rate: for the
            recipe, and in each checkpoint.
    """

    curves: Sequence[Sequence[Candidate]]
    references: Sequence[Candidate]
    layout: Layout
    alpha: float
    met: Callable[[Candidate, float], tuple[bool, bool]]
    _met: dict[tuple[int, float], tuple[bool, bool]] = field(default_factory=dict)

    @property
    def levels(self) -> tuple[float, float]:
        """Error rate of a test along a curve, and of one alone."""
        if len(self.curves) == len(self.references) == 1 and not any(
            each is self.references[0] for each in self.curves[0][1:]
        ):
            return self.alpha, 0.0  # the sequence begins at what all are compared with
        alone = ALONE * self.alpha / sum(map(len, self.curves))
        return (1.0 - ALONE) * self.alpha / len(self.curves) + alone, alone

    def margins(self, limit: float | None) -> list[NDArray[np.float64] | None]:
        """For each curve (K, 2) the margins for the recipe and for each of the checkpoints.

        Of many configurations None stands for a curve of which none is below `limit`, nor the
        smallest of all.
        """
        order = sorted(self.references, key=lambda candidate: -float(candidate.scores.mean()))
        first = [self._curve(curve, order[:1]) for curve in self.curves]  # no larger than the whole
        few, smallest = sum(map(len, self.curves)) <= EXACT, np.inf
        result: list[NDArray[np.float64] | None] = [None] * len(first)
        for at in sorted(range(len(first)), key=lambda at: float(first[at].min())):
            if not few and first[at].min() >= max(limit or 0.0, smallest):
                break
            whole = np.maximum(first[at], self._curve(self.curves[at], order[1:]))
            result[at], smallest = whole, min(smallest, float(whole[:, 0].min()))
        return result

    def _curve(
        self, curve: Sequence[Candidate], references: Sequence[Candidate]
    ) -> NDArray[np.float64]:
        """(K, 2) the margins that the configurations of a curve need against all references."""
        along, alone = self.levels
        upper = self._uppers(curve, references, along)
        needed = reached = np.maximum.accumulate(upper, axis=0)
        hidden = (reached > upper).any(axis=(1, 2))  # behind a larger rank that is worse
        if alone and hidden.any():
            places = np.flatnonzero(hidden).tolist()
            needed = reached.copy()
            by_itself = self._uppers([curve[at] for at in places], references, alone)
            needed[places] = np.minimum(reached[places], by_itself)
        return np.asarray(needed.max(axis=1))

    def _uppers(
        self, curve: Sequence[Candidate], references: Sequence[Candidate], alpha: float
    ) -> NDArray[np.float64]:
        """(K, J, 2) bounds on the losses; infinite where another demand is not met."""
        result = np.zeros((len(curve), max(len(references), 1), 2))
        for at, candidate in enumerate(curve):
            met = self.met(candidate, alpha)
            if any(met) and references:
                result[at] = uppers(candidate, references, self.layout, alpha)
            result[at, :, np.logical_not(met)] = np.inf
        return result


def uppers(
    candidate: Candidate, references: Sequence[Candidate], layout: Layout, alpha: float
) -> NDArray[np.float64]:
    """(J, 2) the two bounds of `bound` against each reference; 0 against itself."""
    result = np.zeros((len(references), 2))
    losses = [candidate.loss(reference) for reference in references]
    bounds = upper_bounds(np.concatenate([loss for loss, _ in losses]), layout, alpha)
    ends = np.cumsum([len(loss) for loss, _ in losses])
    for at, each in enumerate(np.split(bounds, ends[:-1])):
        loss, seeds = losses[at]
        if references[at] is candidate:
            continue
        result[at] = each.max()
        if len(each) > 1:
            result[at, 0] = recipe_bound(loss, layout, alpha)[0] if seeds else 1.0
    return result


def upper_bounds(losses: NDArray[np.float64], layout: Layout, alpha: float) -> NDArray[np.float64]:
    """(R,) `loss_bound` of each row (R, n); of independent 0/1 documents from counts, at once.

    With shares p of losses and q of gains Student's reach is
    ``t · √((p + q - (p - q)²) / (n - 1))``, and MOVER joins Clopper and Pearson's ends for p and q,
    correlated by ``-√(pq / ((1 - p)(1 - q)))``.
    """
    from scipy.special import betaincinv

    n = layout.n
    lost, gained = ((losses == sign).sum(axis=1) for sign in (1.0, -1.0))
    whole = np.array_equal(lost + gained, np.count_nonzero(losses, axis=1))
    if layout.clusters is not None or layout.strata is not None or n < 2 or not whole:
        return np.array([loss_bound(row, layout, alpha)[0] for row in losses])
    p, q = lost / n, gained / n
    most = np.where(lost < n, betaincinv(lost + 1.0, np.maximum(n - lost, 0.5), 1.0 - alpha), 1.0)
    least = np.where(gained, betaincinv(np.maximum(gained, 0.5), n - gained + 1.0, alpha), 0.0)
    odds = p * q / np.maximum((1.0 - p) * (1.0 - q), 1e-300)
    up, down = most - p, q - least
    careful = np.sqrt(up**2 + down**2 + 2.0 * np.sqrt(odds) * up * down)
    se = np.sqrt(np.maximum(p + q - (p - q) ** 2, 0.0) / (n - 1.0))
    plain = t_quantile(1.0 - alpha, n - 1.0) * se
    return np.where(lost + gained < FEW, most, p - q + np.maximum(plain, careful))


def _units(marked: NDArray[np.bool_], layout: Layout) -> int:
    """Independent units with at least one of the marked documents."""
    counts = marked if layout.clusters is None else np.bincount(layout.clusters, weights=marked)
    return int(np.count_nonzero(counts))


def loss_bound(loss: NDArray[np.float64], layout: Layout, alpha: float) -> tuple[float, str]:
    """One-sided upper bound on the mean loss (n,) of one checkpoint, with its method.

    Losses without gains are skewed, and there the t bound alone errs up to 8 % of the time. The
    larger of it and the MOVER bound of gains and losses is taken: they agree for many differing
    documents. Few differing documents take an exact bound. Clusters that were not drawn may lose
    all: with G of them a share of ``1 - alpha^(1/G)`` could have gone unseen.
    """
    if _units(np.abs(loss) > 1e-12, layout) < FEW or layout.df <= 0:
        unit = "documents" if layout.clusters is None else "clusters"
        return exact_bound(loss, layout, alpha), f"Clopper-Pearson over {unit}"
    mean, se, df = mean_se_df(loss, layout)
    plain = t_quantile(1.0 - alpha, df) * se
    careful = mover(loss, layout)(1.0 - 2.0 * alpha)[1]
    unseen = unseen_clusters(loss, layout, alpha)
    if unseen > max(plain, careful):
        return mean + unseen, f"unseen clusters, {layout.describe()}"
    if careful > plain:
        return mean + careful, f"MOVER of gains and losses, {layout.describe()}"
    return mean + plain, f"paired t, {df:.4g} df, {layout.describe()}"


def unseen_clusters(loss: NDArray[np.float64], layout: Layout, alpha: float) -> float:
    """What clusters worse than all that were drawn may add to the mean loss."""
    if layout.clusters is None:
        return 0.0
    worst = float((group_sums(loss, layout.clusters) / layout.sizes()).max())
    return zero_spread_bound(layout, 1.0 - alpha) * (1.0 - worst)


def recipe_bound(loss: NDArray[np.float64], layout: Layout, alpha: float) -> tuple[float, str]:
    """One-sided upper bound on the mean loss (S, n) over another draw of seeds and documents."""
    seeds, needed = loss.shape[0], seeds_needed(alpha)
    if seeds < needed:
        return 1.0, f"no bound for another seed from {seeds}: at least {needed} are needed"
    parts = components([loss], [1], layout, signed=True)
    level, between = 1.0 - 2.0 * alpha, parts.groups[0].between
    # Few seeds that lose much are as skewed as few documents that do.
    skew = mover(loss.mean(axis=1), Layout(seeds), unseen=False)(level)[1] ** 2
    further = max(skew - t_quantile(1.0 - alpha, seeds - 1.0) ** 2 * between, 0.0)
    upper = parts.value + float(np.sqrt(parts.reach(level)[1] ** 2 + further))
    average, _ = loss_bound(loss.mean(axis=0), layout, alpha)
    method = f"Banerjee's bound with MOVER over seeds, {layout.describe()}, {seeds} seeds"
    return max(upper, average), method


def exact_bound(loss: NDArray[np.float64], layout: Layout, alpha: float) -> float:
    """Clopper-Pearson upper bound on the share of documents that lose, a bound on the mean loss.

    A loss is at most 1 where there is one, so its mean is at most the share. With clusters the
    share is of clusters, widened by their unequal sizes.
    """
    from scipy.special import betaincinv

    k, sizes = _units(loss > 1e-12, layout), layout.sizes()
    if k >= layout.groups:
        return 1.0
    widen = sizes.max() / sizes.mean()
    return float(min(1.0, widen * betaincinv(k + 1, layout.groups - k, 1 - alpha)))


def skewed_ends(gap: NDArray[np.float64], layout: Layout, alpha: float) -> tuple[float, float]:
    """One-sided t bounds for the mean of `gap` (n,), moved outward by its skewness.

    ``κ3 (1 + 2t²) / (6 se²)`` with κ3 the third cumulant of the mean (Johnson 1978): against many
    small gains and few large losses the t bound errs in 6 to 7 % at 300 to 1,000 documents.
    Clusters that were not drawn may differ by 1 (`unseen_clusters`).
    """
    mean, se, df = mean_se_df(gap, layout)
    if not se > 0.0:
        return mean, mean
    t = t_quantile(1.0 - alpha, df)
    cumulant = float(np.sum(unit_residuals(gap, layout) ** 3)) / layout.n**3
    shift = cumulant * (1.0 + 2.0 * t * t) / (6.0 * se * se)
    below, above = (unseen_clusters(side, layout, alpha) for side in (-gap, gap))
    return (
        mean - max(t * se - min(shift, 0.0), below),
        mean + max(t * se + max(shift, 0.0), above),
    )
