"""Bands around one curve: an interval at every rank, or one promise for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aurac.curves.coerce import as_curve
from aurac.errors import CurveError
from aurac.stats.intervals import mean_interval
from aurac.stats.mean import check_level, is_constant, layout_of, t_tail, unit_residuals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aurac.stats.mean import Estimate, Layout

Kind = Literal["pointwise", "simultaneous"]
DRAWS = 20_000


@dataclass(frozen=True)
class Bands:
    """Ends for each rank, and which promise they make.

    Attributes:
        ranks: K ranks.
        low: K lower ends, fractions.
        high: K upper ends.
        kind: "pointwise" covers each rank at `level`; "simultaneous" the whole curve.
        method: How the ends were made, for a figure's caption.
        level: Coverage.
    """

    ranks: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    kind: Kind
    method: str
    level: float

    def __repr__(self) -> str:
        ranks = ", ".join(map(str, self.ranks))
        return f"Bands({self.kind}, {100 * self.level:g} %, ranks {ranks})"


def bands(
    curve: Any,
    *,
    rng: np.random.Generator | None = None,
    kind: Kind = "pointwise",
    level: float = 0.95,
) -> Bands:
    """Ends of the interval at every rank of a curve.

    Args:
        curve: A `Curve` with outcomes (or what `as_curve` accepts).
        rng: For the critical value of simultaneous bands; None for the same numbers each time.
        kind: "pointwise" gives each rank the interval of `aurac.stats.interval`;
            "simultaneous" takes the (level) quantile of ``max_k |t_k|`` under the ranks' own
            correlation (Hothorn et al. 2008) and gives each rank the interval at the level which
            that is for a single t, so that the whole curve is inside.
        level: Coverage.

    Raises:
        CurveError: No outcomes, or another kind.
    """
    check_level(level)
    points = as_curve(curve)
    if points.outcomes is None:
        raise CurveError(f"{points.label} has no per-document outcomes, so no band")
    layout = layout_of(points)
    if layout.df <= 0:
        raise CurveError(f"{points.label} has {layout.groups} independent units, so no band")
    if kind == "pointwise":
        result = [mean_interval(row, layout, level) for row in points.outcomes]
        method = f"pointwise, {'; '.join(dict.fromkeys(e.method for e in result))}"
        return Bands(points.ranks, *_ends(result), kind, method, level)
    if kind != "simultaneous":
        raise CurveError(f"bands {kind!r}", expected="'pointwise' or 'simultaneous'")
    stream = np.random.default_rng(0) if rng is None else rng
    return _simultaneous(points.ranks, points.outcomes, layout, stream, level)


def _simultaneous(
    ranks: tuple[int, ...],
    outcomes: NDArray[np.float64],
    layout: Layout,
    rng: np.random.Generator,
    level: float,
) -> Bands:
    flat = np.array([is_constant(row) for row in outcomes])
    # Ranks without any spread take Bonferroni's share of the error, the others the rest of it.
    share = 1.0 - (1.0 - level) * np.mean(~flat)
    critical = max_t(outcomes[~flat], layout, rng, float(share)) if not flat.all() else 0.0
    each = 1.0 - 2.0 * float(t_tail(critical, layout.df))
    alone = 1 - (1 - level) / len(ranks)
    result = [
        mean_interval(row, layout, alone if same else each)
        for row, same in zip(outcomes, flat, strict=True)
    ]
    low, high = _ends(result)
    method = f"simultaneous, max-|t| critical value {critical:.2f}, {layout.describe()}"
    return Bands(ranks, low, high, "simultaneous", method, level)


def _ends(result: Sequence[Estimate]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    low = tuple(float(0.0 if rank.low is None else rank.low) for rank in result)
    return low, tuple(float(1.0 if rank.high is None else rank.high) for rank in result)


def max_t(
    values: NDArray[np.float64], layout: Layout, rng: np.random.Generator, level: float
) -> float:
    """The `level` quantile of ``max_k |t_k|`` for means of `values` (K, n), none constant.

    t_k are drawn together: normals with the ranks' correlation over one shared chi.
    """
    rest = unit_residuals(values, layout)
    scale = np.sqrt(np.square(rest).sum(axis=1))
    correlation = (rest @ rest.T) / np.outer(scale, scale)
    roots, vectors = np.linalg.eigh(correlation)
    factor = vectors * np.sqrt(np.maximum(roots, 0.0))
    normal = rng.standard_normal((DRAWS, len(scale))) @ factor.T
    chi = np.sqrt(rng.chisquare(layout.df, size=DRAWS) / layout.df)
    return float(np.quantile(np.abs(normal).max(axis=1) / chi, level))
