"""The smallest rank that is good enough: a certificate, not a missing star."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats.mean import layout_of, t_quantile
from aurac.stats.paired import differing_units, gains_against_losses, same_documents
from aurac.stats.seeds import CONDITIONAL, as_matrix, components, describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aurac.stats.mean import Layout

FEW = 10  # differing units below which the t test gives way to an exact bound


@dataclass(frozen=True)
class Step:
    """One test of the sequence.

    Attributes:
        rank: The rank r that was tested.
        loss: Accuracy at the reference rank minus accuracy at r, over the same documents.
        upper: One-sided upper bound on that loss.
        passed: Whether `upper` is below delta, which rejects ``H_r``: r is within delta.
        tested: Whether the sequence got here; it stops at the first failure.
        flip_rate: Share of documents whose score differs between r and the reference.
        delta_needed: The smallest delta at which the sequence would have reached and passed r.
        method: Which test.
    """

    rank: int
    loss: float
    upper: float
    passed: bool
    tested: bool
    flip_rate: float
    delta_needed: float
    method: str


@dataclass(frozen=True)
class Certificate:
    """The smallest rank certified to lose less than delta against the reference rank.

    Attributes:
        rank: The certified rank; the reference itself where no smaller one passed.
        reference: The rank compared with, declared beforehand.
        delta: The loss that was declared tolerable, a fraction.
        alpha: The error rate of certifying any rank wrongly.
        flip_rate: Share of documents whose score differs between `rank` and the reference.
        smallest_delta: The smallest delta that could have certified any smaller rank.
        steps: Every rank below the reference, in the order of testing.
        conditional: Whether this holds for these checkpoints alone.
        saved: Share of the reference's bytes that truncation to `rank` saves; None if not known.
    """

    rank: int
    reference: int
    delta: float
    alpha: float
    flip_rate: float
    smallest_delta: float
    steps: tuple[Step, ...]
    conditional: bool
    saved: float | None = None


def certify(
    curves: Any,
    *,
    delta: float,
    alpha: float = 0.05,
    reference: int | None = None,
) -> Certificate:
    """Certify the smallest rank that loses less than `delta` against the reference rank.

    One-sided paired tests of ``H_r: p_R - p_r >= delta`` from the rank below the reference
    downward, each at full alpha, up to the first failure (a fixed sequence keeps the error rate:
    Maurer, Hothorn and Lehmacher 1995). With fewer than ten differing documents the test is the
    Clopper-Pearson bound on the share where the reference scores higher.

    Args:
        curves: A `Curve` with outcomes (or what `Curve.coerce` accepts), or a list of them that are
            training seeds of one recipe.
        delta: Tolerable loss of accuracy, a fraction, declared before looking.
        alpha: Error rate.
        reference: The rank to compare with; the largest by default.

    Raises:
        CurveError: No outcomes, a delta or alpha out of range, no rank below the reference.
    """
    _check(delta, alpha)
    seeds = [Curve.coerce(c) for c in (curves if isinstance(curves, (list, tuple)) else [curves])]
    first = seeds[0]
    top = max(first.ranks) if reference is None else reference
    if top not in first.ranks:
        raise CurveError(f"reference rank {top}", expected=f"one of {first.ranks}")
    below = [r for r in reversed(first.ranks) if r < top]
    if not below:
        raise CurveError(f"{first.label} has no rank below {top} to recommend")
    rows = {r: _scores(seeds, r) for r in [*below, top]}
    layout = layout_of(first)
    steps = sequence(rows[top], {r: rows[r] for r in below}, layout, delta, alpha)
    passed = [step for step in steps if step.tested and step.passed]
    chosen = passed[-1] if passed else None
    rank = chosen.rank if chosen else top
    return Certificate(
        rank=rank,
        reference=top,
        delta=delta,
        alpha=alpha,
        flip_rate=chosen.flip_rate if chosen else 0.0,
        smallest_delta=steps[0].delta_needed,
        steps=steps,
        conditional=len(seeds) == 1,
        saved=_saved(first, rank, top),
    )


def _check(delta: float, alpha: float) -> None:
    if not 0.0 < delta < 1.0:
        raise CurveError(
            f"delta {delta:g}", expected="a tolerable loss of accuracy as a fraction, such as 0.02"
        )
    if not 0.0 < alpha < 0.5:
        raise CurveError(f"alpha {alpha:g}", expected="an error rate such as 0.05")


def _scores(seeds: Sequence[Curve], rank: int) -> NDArray[np.float64]:
    first = seeds[0]
    rows = []
    for curve in seeds:
        if rank not in curve.ranks:
            why = curve.missing.get(rank, "it was not evaluated")
            raise CurveError(f"{curve.label} has no accuracy at rank {rank} ({why})")
        order = same_documents(first, curve)
        if curve.outcomes is None:
            raise CurveError(f"{curve.label} has no per-document outcomes")
        row = curve.outcomes[curve.ranks.index(rank)]
        rows.append(row if order is None else row[order])
    return as_matrix(rows)


def _saved(curve: Curve, rank: int, top: int) -> float | None:
    small, large = curve.sizes.get(rank), curve.sizes.get(top)
    return None if small is None or not large else 1.0 - small / large


def sequence(
    full: NDArray[np.float64],
    lower: dict[int, NDArray[np.float64]],
    layout: Layout,
    delta: float,
    alpha: float,
) -> tuple[Step, ...]:
    """The tests of a certificate.

    Args:
        full: (S, n) scores at the reference rank.
        lower: For each smaller rank, in the order of testing, its (S, n) scores.
        layout: The documents' clusters and strata.
        delta: Tolerable loss.
        alpha: Error rate.
    """
    steps: list[Step] = []
    alive, needed = True, 0.0
    for rank, scores in lower.items():
        upper, method = loss_bound(full - scores, layout, alpha)
        needed = max(needed, upper)
        passed = upper < delta
        steps.append(
            Step(
                rank=rank,
                loss=float((full - scores).mean()),
                upper=upper,
                passed=passed,
                tested=alive,
                flip_rate=float(np.mean(np.abs(full - scores) > 1e-12)),
                delta_needed=needed,
                method=method,
            )
        )
        alive = alive and passed
    return tuple(steps)


def loss_bound(loss: NDArray[np.float64], layout: Layout, alpha: float) -> tuple[float, str]:
    """One-sided upper bound on a mean loss (S, n), with its method.

    Losses without gains are skewed, and there the t bound alone certifies wrongly up to 8 % of the
    time. The larger of it and the bound of gains against losses is taken: they agree for many
    differing documents.
    """
    average = loss.mean(axis=0)
    if differing_units(np.abs(loss).max(axis=0), layout) < FEW or layout.df <= 0:
        unit = "documents" if layout.clusters is None else "clusters"
        return exact_bound(average, layout, alpha), f"Clopper-Pearson over {unit}, {CONDITIONAL}"
    careful = gains_against_losses(average, layout, 1.0 - 2.0 * alpha)[1]
    parts = components([loss], [1], layout)
    variance, df = parts.variance()
    plain = parts.value + t_quantile(1.0 - alpha, df) * float(np.sqrt(variance))
    if careful > plain:
        return careful, f"gains against losses, {layout.describe()}, {describe(parts)}"
    return plain, f"one-sided paired t, {df:.4g} df, {layout.describe()}, {describe(parts)}"


def exact_bound(loss: NDArray[np.float64], layout: Layout, alpha: float) -> float:
    """Clopper-Pearson upper bound on the share of documents that lose, a bound on the mean loss.

    A loss is at most 1 where there is one, so its mean is at most the share. With clusters the
    share is of clusters, widened by their unequal sizes.
    """
    from scipy.special import betaincinv

    losing = loss > 1e-12
    if layout.clusters is None:
        k, widen = int(np.count_nonzero(losing)), 1.0
    else:
        k = int(np.count_nonzero(np.bincount(layout.clusters, weights=losing)))
        widen = float(layout.sizes().max() / layout.sizes().mean())
    if k >= layout.groups:
        return 1.0
    return float(min(1.0, widen * betaincinv(k + 1, layout.groups - k, 1 - alpha)))
