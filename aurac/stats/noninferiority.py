"""The smallest non-inferior rank: one-sided paired tests against a reference rank."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.errors import CurveError
from aurac.stats.groups import RecipeGroup, group_of
from aurac.stats.intervals import mover
from aurac.stats.mean import Layout, group_sums, mean_se_df, t_quantile, zero_spread_bound
from aurac.stats.seeds import components, mean_of_seeds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FEW = 10  # differing units below which the t test gives way to an exact bound
BAD_SEEDS = 0.25  # share of seeds that lose too much which must not go unseen


@dataclass(frozen=True)
class RankTest:
    """One test of the sequence.

    Attributes:
        rank: The rank r that was tested.
        loss: Accuracy at the reference rank minus accuracy at r, over the same documents.
        upper: One-sided upper bound on that loss; 1 where the seeds are too few for any.
        passed: Whether `upper` is below the margin, which rejects ``H_r``: r is non-inferior.
        tested: Whether the sequence got here; it stops at the first failure.
        flip_rate: Share of documents whose score differs between r and the reference.
        margin_needed: The smallest margin at which the sequence would have reached and passed r.
        method: Which test.
        checkpoints: One-sided upper bound on the largest loss among the checkpoints evaluated,
            which says nothing of another seed.
    """

    rank: int
    loss: float
    upper: float
    passed: bool
    tested: bool
    flip_rate: float
    margin_needed: float
    method: str
    checkpoints: float


@dataclass(frozen=True)
class NonInferiorRank:
    """The smallest rank shown to lose less than a margin against the reference rank.

    Attributes:
        rank: The non-inferior rank; the reference itself where no smaller one passed. From one
            seed it holds for that checkpoint alone, from several for the recipe.
        reference: The rank compared with, declared beforehand.
        margin: The loss that was declared tolerable, a fraction.
        alpha: The error rate of naming any rank wrongly; the confidence is 1 - alpha.
        flip_rate: Share of documents whose score differs between `rank` and the reference.
        smallest_margin: The smallest margin at which any smaller rank would have passed.
        tests: Every rank below the reference, in the order of testing.
        conditional: Whether this holds for one checkpoint alone.
        saved: Share of the reference's bytes that truncation to `rank` saves; None if not known.
        seeds: Checkpoints evaluated.
        checkpoints: The smallest rank that is non-inferior for every one of the checkpoints
            evaluated; `rank` itself from one seed.
    """

    rank: int
    reference: int
    margin: float
    alpha: float
    flip_rate: float
    smallest_margin: float
    tests: tuple[RankTest, ...]
    conditional: bool
    saved: float | None = None
    seeds: int = 1
    checkpoints: int | None = None


def seeds_needed(alpha: float) -> int:
    """Training seeds from which a loss in one seed out of four would have shown: 11 at 0.05.

    With S seeds the chance that none of them is among the bad quarter is ``(3/4)^S``. With fewer
    no bound on the recipe's loss holds, however small the spread between the seeds happens to be.
    """
    return int(np.ceil(np.log(alpha) / np.log(1.0 - BAD_SEEDS)))


def non_inferior_rank(
    curves: Any, *, margin: float, alpha: float = 0.05, reference: int | None = None
) -> NonInferiorRank:
    """Find the smallest rank that is non-inferior to the reference rank at a margin.

    One-sided paired tests of ``H_r: p_R - p_r >= margin`` from the rank below the reference
    downward, each at full alpha, up to the first failure (a fixed sequence keeps the error rate:
    Maurer, Hothorn and Lehmacher 1995). With fewer than ten differing documents the test is the
    Clopper-Pearson bound on the share where the reference scores higher.

    From one seed the claim is of that checkpoint. From several it is of the recipe, and needs
    `seeds_needed` of them; what holds for each checkpoint by itself is told apart from it, at the
    same alpha (all must pass, so no adjustment is needed: Berger 1982).

    Args:
        curves: A `Curve` with outcomes (or what `as_curve` accepts), a list of them that are
            training seeds of one recipe, or a `RecipeGroup`.
        margin: A tolerable loss of accuracy, a fraction, declared before looking.
        alpha: Error rate.
        reference: The rank to compare with; the largest by default.

    Raises:
        CurveError: No outcomes, a margin or alpha out of range, no rank below the reference.
    """
    if not 0.0 < margin < 1.0:
        expected = "a tolerable loss of accuracy as a fraction, such as 0.02"
        raise CurveError(f"margin {margin:g}", expected=expected)
    group = curves if isinstance(curves, RecipeGroup) else group_of(curves)
    top = _checked(group, reference, alpha)
    below = [r for r in reversed(group.ranks) if r < top]
    if not below:
        raise CurveError(f"{group.first.label} has no rank below {top} to recommend")
    scores = {r: group.scores(r) for r in below}
    tests = sequence(group.scores(top), scores, group.layout, margin, alpha)
    last = next((test for test in reversed(tests) if test.tested and test.passed), None)
    each = [test.rank for test in takewhile(lambda test: test.checkpoints < margin, tests)]
    rank = last.rank if last else top
    small, large = group.first.sizes.get(rank), group.first.sizes.get(top)
    return NonInferiorRank(
        rank=rank,
        reference=top,
        margin=margin,
        alpha=alpha,
        flip_rate=last.flip_rate if last else 0.0,
        smallest_margin=tests[0].margin_needed,
        tests=tests,
        conditional=group.seeds == 1,
        saved=None if small is None or not large else 1.0 - small / large,
        seeds=group.seeds,
        checkpoints=each[-1] if each else top,
    )


@dataclass(frozen=True)
class AccurateRank:
    """The smallest rank whose accuracy is shown to be high enough.

    Attributes:
        rank: None where not even the reference is.
        minimum: The accuracy that was asked for, a fraction.
        alpha: The error rate of naming a rank wrongly.
        lowest: For each rank tested, downward from the reference, the one-sided lower bound on its
            accuracy.
    """

    rank: int | None
    minimum: float
    alpha: float
    lowest: Mapping[int, float]


def accurate_rank(
    group: RecipeGroup, *, minimum: float, alpha: float = 0.05, reference: int | None = None
) -> AccurateRank:
    """Find the smallest rank whose accuracy is shown to be at least `minimum`.

    One-sided tests of ``p_r < minimum`` downward from the reference rank, each at full alpha, up to
    the first failure: the lower end of the accuracy's interval at ``1 - 2·alpha``. A rank that
    passes here and in `non_inferior_rank` has both properties at the same alpha, since the first
    rank that lacks either must pass the test of that one (Berger 1982).

    Args:
        group: With documents.
        minimum: A fraction, declared before looking.
        alpha: Error rate.
        reference: The largest rank tested; the group's largest by default.
    """
    if not 0.0 < minimum < 1.0:
        raise CurveError(f"minimum accuracy {minimum:g}", expected="a fraction such as 0.5")
    top = _checked(group, reference, alpha)
    smallest, lowest = None, {}
    for rank in sorted((r for r in group.ranks if r <= top), reverse=True):
        estimate = mean_of_seeds(group.scores(rank), group.layout, 1.0 - 2.0 * alpha)
        lowest[rank] = 0.0 if estimate.low is None else estimate.low
        if lowest[rank] < minimum:
            break
        smallest = rank
    return AccurateRank(smallest, minimum, alpha, lowest)


def _checked(group: RecipeGroup, reference: int | None, alpha: float) -> int:
    """The reference rank."""
    if not 0.0 < alpha < 0.5:
        raise CurveError(f"alpha {alpha:g}", expected="an error rate such as 0.05")
    if reference is None and group.lost:
        raise CurveError(group.lost, expected="the rank that smaller ones are compared with")
    top = max(group.ranks) if reference is None else reference
    if top not in group.ranks:
        raise CurveError(f"reference rank {top}", expected=f"one of {group.ranks}")
    return top


def sequence(
    full: NDArray[np.float64],
    lower: dict[int, NDArray[np.float64]],
    layout: Layout,
    margin: float,
    alpha: float,
) -> tuple[RankTest, ...]:
    """The tests of a non-inferior rank, downward.

    `full` are (S, n) scores at the reference rank, `lower` those of each smaller rank in the order
    of testing.
    """
    tests: list[RankTest] = []
    alive, needed = True, 0.0
    for rank, scores in lower.items():
        loss = full - scores
        bounds = [loss_bound(row, layout, alpha) for row in loss]
        upper, method = bounds[0] if len(bounds) == 1 else recipe_bound(loss, layout, alpha)
        needed = max(needed, upper)
        passed = upper < margin
        tests.append(
            RankTest(
                rank=rank,
                loss=float(loss.mean()),
                upper=upper,
                passed=passed,
                tested=alive,
                flip_rate=float(np.mean(np.abs(loss) > 1e-12)),
                margin_needed=needed,
                method=method,
                checkpoints=max(bound for bound, _ in bounds),
            )
        )
        alive = alive and passed
    return tuple(tests)


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
