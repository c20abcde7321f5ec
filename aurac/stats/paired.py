"""Two adapters on the same documents: the paired difference and what could have been detected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.area import check_axis, document_areas
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats.intervals import EDGE, effective_binomial
from aurac.stats.mean import (
    Estimate,
    Layout,
    check_level,
    group_sums,
    is_constant,
    layout_of,
    t_quantile,
    t_tail,
    zero_spread_bound,
)
from aurac.stats.seeds import (
    Components,
    as_matrix,
    components,
    describe,
    over_arms,
    t_from,
)
from aurac.stats.sign_flips import flip_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """A paired difference, b - a.

    Attributes:
        estimate: The difference of the means with its interval.
        p: Two-sided p value of no difference; None where there is no test.
        mde: Smallest true difference that a test at this level finds with 80 % power; None where
            no spread was seen.
        conditional: Whether the claim holds for these checkpoints alone (a single seed).
        parts: The sources of variance, from which tasks are aggregated.
    """

    estimate: Estimate
    p: float | None
    mde: float | None
    conditional: bool
    parts: Components


@dataclass(frozen=True)
class PairedCurves:
    """Two curves compared on the documents and ranks they share.

    Attributes:
        difference: Of their AURAC, b - a.
        axis: "log2" or "linear".
        ranks: The K ranks compared.
        gained: For each rank the documents on which b scores higher.
        lost: For each rank the documents on which b scores lower.
        n_docs: Documents in common: all of them, or the comparison is refused.
    """

    difference: Difference
    axis: str
    ranks: tuple[int, ...]
    gained: tuple[int, ...]
    lost: tuple[int, ...]
    n_docs: int


def difference(
    a: Any,
    b: Any,
    *,
    rng: np.random.Generator,
    clusters: Sequence[Any] | None = None,
    strata: Sequence[Any] | None = None,
    level: float = 0.95,
    power: float = POWER,
) -> Difference:
    """The mean difference b - a over the documents that both were evaluated on.

    Args:
        a: (n,) scores in [0, 1], or (S_a, n) for S_a training seeds.
        b: (n,) or (S_b, n), on the same documents in the same order.
        rng: Used only where few documents differ.
        clusters: n labels of what documents share.
        strata: n labels of fixed groups.
        level: Coverage of the interval, and 1 - size of the test behind `mde`.
        power: Of `mde`.

    Raises:
        CurveError: Unequal numbers of documents, or arrays of another shape.
    """
    first, second = as_matrix(a), as_matrix(b)
    if first.shape[1] != second.shape[1]:
        raise CurveError(
            f"{first.shape[1]} documents against {second.shape[1]}",
            expected="the same documents for both",
        )
    check_level(level)
    layout = Layout.make(first.shape[1], clusters, strata)
    return compare_arms(first, second, layout, rng=rng, level=level, power=power)


def compare_arms(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    layout: Layout,
    *,
    rng: np.random.Generator,
    level: float,
    power: float = POWER,
) -> Difference:
    """As `difference`, on checked (S, n) arrays and an encoded layout."""
    gap = over_arms([b, a], [1, -1])
    parts = components([b, a], [1, -1], layout, averaged=gap)
    seeds = max(a.shape[0], b.shape[0])
    if layout.df > 0 and seeds == 1:
        if is_constant(gap):
            return _all_alike(float(gap[0]), layout, parts, level)
        differing = differing_units(gap, layout)
        if differing < EDGE and differing <= layout.groups / 2:
            return _few_differ(gap, layout, parts, rng=rng, level=level, power=power)
    estimate = t_from(parts, level, layout.describe(), (-1.0, 1.0))
    if estimate.se is None or estimate.df is None:
        return Difference(estimate, None, None, parts.conditional, parts)
    p = float(2.0 * t_tail(abs(parts.value) / estimate.se, estimate.df))
    mde = detectable(estimate.se, estimate.df, level, power)
    return Difference(estimate, min(1.0, p), mde, parts.conditional, parts)


def differing_units(gap: NDArray[np.float64], layout: Layout) -> int:
    """Independent units with at least one document whose scores differ."""
    changed = np.abs(gap) > 1e-12
    if layout.clusters is None:
        return int(np.count_nonzero(changed))
    return int(np.count_nonzero(np.bincount(layout.clusters, weights=changed)))


def _few_differ(
    gap: NDArray[np.float64],
    layout: Layout,
    parts: Components,
    *,
    rng: np.random.Generator,
    level: float,
    power: float,
) -> Difference:
    plain = t_from(parts, level, layout.describe(), (-1.0, 1.0))
    low, high = gains_against_losses(gap, layout, level)
    method = (
        f"gains against losses ({differing_units(gap, layout)} units differ), "
        f"{layout.describe()}, {describe(parts)}; p by sign flips"
    )
    estimate = replace(plain, low=low, high=high, method=method)
    mde = None
    if plain.se is not None and plain.df is not None:
        mde = detectable(plain.se, plain.df, level, power)
    return Difference(estimate, sign_flip_p(gap, layout, rng), mde, parts.conditional, parts)


def gains_against_losses(
    gap: NDArray[np.float64], layout: Layout, level: float
) -> tuple[float, float]:
    """Ends for a mean difference where few documents differ, which t and BCa cover too seldom.

    The gains and the losses are means in [0, 1] with ends of their own; the ends of their
    difference follow from the squares of the distances to them (MOVER: Newcombe 1998; Zou and
    Donner 2008), with the correlation of the two.
    """
    gains, losses = np.maximum(gap, 0.0), np.maximum(-gap, 0.0)
    gain, loss = float(gains.mean()), float(losses.mean())
    gain_low, gain_high = effective_binomial(gains, layout, level)
    loss_low, loss_high = effective_binomial(losses, layout, level)
    scale = float(gains.std() * losses.std())
    correlation = -gain * loss / scale if scale > 0 else 0.0

    def distance(x: float, y: float) -> float:
        return float(np.sqrt(x * x + y * y - 2.0 * correlation * x * y))

    low = gain - loss - distance(gain - gain_low, loss_high - loss)
    high = gain - loss + distance(gain_high - gain, loss - loss_low)
    return max(-1.0, low), min(1.0, high)


def _all_alike(gap: float, layout: Layout, parts: Components, level: float) -> Difference:
    """Every document differs by the same amount, most often 0: the rule of three."""
    share = zero_spread_bound(layout, level)
    kept = gap * (1.0 - share)
    method = f"rule of three (the same difference on every document), {describe(parts)}"
    estimate = Estimate(gap, None, kept - share, min(1.0, kept + share), method, level)
    p = 1.0 if abs(gap) <= 1e-12 else 2.0 ** (1 - layout.groups)
    return Difference(
        replace(estimate, low=max(-1.0, kept - share)), p, None, parts.conditional, parts
    )


def sign_flip_p(gap: NDArray[np.float64], layout: Layout, rng: np.random.Generator) -> float:
    """Two-sided p of the sign-flip test over independent units: `aurac.stats.sign_flips`."""
    return flip_p(gap if layout.clusters is None else group_sums(gap, layout.clusters), rng)


def detectable(se: float, df: float, level: float = 0.95, power: float = POWER) -> float:
    """The smallest difference that a two-sided t test finds with `power`.

    ``ncp · se``, with the non-centrality at which a non-central t exceeds the critical value with
    that probability; for many documents ``(1.96 + 0.84) · se``.
    """
    from scipy.special import nctdtrinc

    critical = t_quantile((1 + level) / 2, df)
    normal = critical + t_quantile(power, df)
    if not df < 1e5:
        return normal * se
    exact = float(nctdtrinc(df, 1.0 - power, critical))
    # The special function gives up on some few degrees of freedom; the sum is close there.
    return (exact if np.isfinite(exact) and abs(exact / normal - 1) < 0.5 else normal) * se


def shared_ranks(a: Curve, b: Curve, support: str | None) -> tuple[int, ...]:
    """The ranks on which two curves are compared.

    Args:
        a: One curve.
        b: The other.
        support: None refuses unequal grids; "common" takes the ranks that both have.

    Raises:
        CurveError: Unequal grids without "common", or fewer than two common ranks.
    """
    if support not in (None, "common"):
        raise CurveError(f"support {support!r}", expected="None or 'common'")
    for curve in (a, b):
        if curve.missing and support is None:
            rank, reason = next(iter(curve.missing.items()))
            raise CurveError(
                f"{curve.label} has no accuracy at rank {rank} ({reason})",
                fix="compare on support='common'",
            )
    if a.ranks == b.ranks:
        return a.ranks
    if support is None:
        raise CurveError(
            f"{a.label} has ranks {_list(a.ranks)} and {b.label} has {_list(b.ranks)}",
            expected="the same ranks, since the grid changes the area",
            fix="compare on support='common'",
        )
    common = tuple(r for r in a.ranks if r in b.ranks)
    if len(common) < 2:
        raise CurveError(
            f"{a.label} and {b.label} have {len(common)} ranks in common", expected="at least 2"
        )
    return common


def _list(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))


def same_documents(a: Curve, b: Curve) -> NDArray[np.intp] | None:
    """Where each of a's documents stands in b, or None where the order is the same.

    Raises:
        CurveError: No per-document outcomes, another task or metric, other documents, or the same
            identities with other contents or prompts.
    """
    for name in ("task", "metric", "prompts"):
        left, right = getattr(a, name), getattr(b, name)
        if left is not None and right is not None and left != right:
            raise CurveError(
                f"{a.label} and {b.label} differ in {name} ({_short(left)} and {_short(right)})",
                expected="the same documents and prompts for both",
            )
    for curve in (a, b):
        if curve.outcomes is None:
            raise CurveError(f"{curve.label} has no per-document outcomes to pair")
    order = _order(a, b)
    _same_labels(a, b, order)
    return order


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:12]}…"


def _order(a: Curve, b: Curve) -> NDArray[np.intp] | None:
    left, right = a.doc_ids, b.doc_ids
    if left is right or left == right:
        if a.n_docs != b.n_docs:
            raise CurveError(
                f"{a.label} has {a.n_docs} documents and {b.label} has {b.n_docs}",
                expected="the same documents for both",
            )
        return None
    if left is None or right is None:
        raise CurveError(
            f"only one of {a.label} and {b.label} says which documents it was evaluated on",
            fix="give doc_ids to both, or to neither and keep the order the same",
        )
    unequal = set(left) ^ set(right)
    if unequal:
        raise CurveError(
            f"{a.label} and {b.label} were evaluated on different documents: {len(unequal)} are in "
            f"only one of them, {min(unequal)!r} among them",
            expected="the same documents for both",
        )
    place = {doc: i for i, doc in enumerate(right)}
    return np.array([place[doc] for doc in left], dtype=np.intp)


def _same_labels(a: Curve, b: Curve, order: NDArray[np.intp] | None) -> None:
    for name in ("doc_hashes", "clusters", "strata"):
        left, right = getattr(a, name), getattr(b, name)
        if left is right or left is None or right is None:
            continue
        if order is not None:
            right = tuple(right[i] for i in order)
        if left != right:
            where = next(i for i, (x, y) in enumerate(zip(left, right, strict=True)) if x != y)
            doc = a.doc_ids[where] if a.doc_ids else where
            raise CurveError(
                f"document {doc!r} has other {name} in {a.label} than in {b.label}",
                expected="the same documents and prompts for both",
            )


def with_labels_of(a: Curve, b: Curve, order: NDArray[np.intp] | None) -> Curve:
    """Curve a with the clusters and strata that only b has, in a's order of the documents."""
    added: dict[str, Any] = {}
    for name in ("clusters", "strata"):
        theirs = getattr(b, name)
        if getattr(a, name) is None and theirs is not None:
            added[name] = theirs if order is None else tuple(theirs[i] for i in order)
    return replace(a, **added) if added else a


def paired_curves(
    a: Any,
    b: Any,
    *,
    rng: np.random.Generator,
    axis: str = "log2",
    level: float = 0.95,
    support: str | None = None,
) -> PairedCurves:
    """Compare two adapters by AURAC on the same documents, b - a.

    ``D_d = b_d - a_d`` of the documents' own areas, then the same formulas as for one adapter.

    Args:
        a: A `Curve` with outcomes, or what `Curve.coerce` accepts.
        b: Another on the same documents; joined on `doc_ids`, by position where neither has any.
        rng: Used only where few documents differ.
        axis: "log2" or "linear".
        level: Coverage.
        support: "common" to compare curves with unequal ranks on those that both have.

    Raises:
        CurveError: The two cannot be paired; says why.
    """
    check_axis(axis)
    check_level(level)
    first, second = Curve.coerce(a), Curve.coerce(b)
    ranks = shared_ranks(first, second, support)
    order = same_documents(first, second)
    first, second = first.at(ranks), second.at(ranks)
    left, right = document_areas(first, axis), document_areas(second, axis)
    if order is not None:
        right = right[order]
    layout = layout_of(with_labels_of(first, second, order))
    found = compare_arms(left[None], right[None], layout, rng=rng, level=level)
    gained, lost = gained_and_lost(first, second, order)
    return PairedCurves(found, axis, ranks, gained, lost, left.size)


def gained_and_lost(
    a: Curve, b: Curve, order: NDArray[np.intp] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Documents on which b scores higher, and lower, at each of the common ranks."""
    if a.outcomes is None or b.outcomes is None:
        raise CurveError("no per-document outcomes to compare")
    ours: NDArray[Any] = a.outcomes
    theirs: NDArray[Any] = b.outcomes
    if a.right is not None and b.right is not None:  # eight times less to read
        ours, theirs = a.right, b.right
    theirs = theirs if order is None else theirs[:, order]
    gained = tuple(int(np.count_nonzero(row)) for row in theirs > ours)
    return gained, tuple(int(np.count_nonzero(row)) for row in theirs < ours)
