"""The mean of a number per document and its standard error.

Documents may be independent, fall into clusters (a shared passage), into fixed strata (a
benchmark's subjects), or into clusters within strata. Moments are vectorised over leading axes.

The standard error is CR2 with Bell and McCaffrey's degrees of freedom (2002; Pustejovsky and Tipton
2018), which for a mean have closed forms. With n_g documents in cluster g and w_g = n_g / n,

    V = Σ_g (Σ_{d in g} e_d)² / (1 - w_g) / n²
    1 / df = Σ w_g² + (Σ q_g)² - Σ q_g²,   q_g = w_g² / (1 - w_g)

and for independent documents s²/n with n - 1. Strata add: V = Σ_h (n_h/n)² V_h, with
Satterthwaite's degrees of freedom over the strata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aurac.arguments import as_fraction
from aurac.curves.checks import check_labelled, refuse_masked
from aurac.curves.curve import Curve
from aurac.errors import CurveError

NO_DOCUMENTS = "point value (no per-document outcomes)"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: The estimate itself.
        se: Its standard error; None where there is none to give.
        low: Lower end of the interval at `level`; None as `se`.
        high: Upper end.
        method: How the interval was made, or why there is none.
        level: The nominal coverage, 0.95 for a 95 % interval.
        df: Degrees of freedom of `se`; None as `se`.
    """

    value: float
    se: float | None
    low: float | None
    high: float | None
    method: str
    level: float = 0.95
    df: float | None = None

    def __str__(self) -> str:
        """The value with its interval, fractions: ``0.4675 [0.3810, 0.5540]``."""
        ends = "" if self.low is None else f" [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.value:.4f}{ends}"

    def __repr__(self) -> str:
        return f"Estimate({self}, {100 * self.level:g} %)"

    def to_dict(self) -> dict[str, float | None]:
        """The four numbers of a result file."""
        return {"value": self.value, "se": self.se, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Layout:
    """How the n documents hang together.

    Attributes:
        clusters: (n,) codes 0..G-1, or None when documents are independent.
        strata: (n,) codes 0..H-1, or None when there is one stratum.
        pooled: Strata of a single unit that were given, and were taken together.
    """

    n: int
    clusters: NDArray[np.intp] | None = None
    strata: NDArray[np.intp] | None = None
    pooled: int = 0

    @classmethod
    def make(
        cls,
        n: int,
        clusters: Sequence[Any] | NDArray[Any] | None = None,
        strata: Sequence[Any] | NDArray[Any] | None = None,
    ) -> Layout:
        """Encode labels, one per document; no cluster may span strata.

        Strata of one document (or cluster) show no spread of their own: they become one stratum.
        """
        by_cluster = _codes(clusters, n, "clusters")
        by_stratum = _codes(strata, n, "strata")
        if by_stratum is None:
            return cls(n, by_cluster)
        if by_cluster is not None:
            pairs = np.unique(np.stack([by_cluster, by_stratum]), axis=1)
            if pairs.shape[1] != by_cluster.max() + 1:
                raise CurveError(
                    "a cluster has documents in more than one stratum",
                    expected="clusters inside strata",
                    fix="give only the clusters",
                )
        single = np.bincount(cls(n, by_cluster, by_stratum).unit_strata) == 1
        alone = single[by_stratum]
        if np.count_nonzero(single) > 1:
            by_stratum = _numbered(np.where(alone, -1, by_stratum))
        return cls(n, by_cluster, by_stratum, int(np.count_nonzero(single)))

    @property
    def groups(self) -> int:
        """Independent units: clusters where there are any, else documents."""
        return self.n if self.clusters is None else int(self.clusters.max()) + 1

    @property
    def levels(self) -> int:
        """Number of strata (1 where none were given)."""
        return 1 if self.strata is None else int(self.strata.max()) + 1

    @cached_property
    def unit_strata(self) -> NDArray[np.intp]:
        """(G,) the stratum of each unit."""
        if self.strata is None:
            return np.zeros(self.groups, dtype=np.intp)
        if self.clusters is None:
            return self.strata
        codes = np.zeros(self.groups, dtype=np.intp)
        codes[self.clusters] = self.strata
        return codes

    def sizes(self) -> NDArray[np.float64]:
        """(G,) documents in each unit."""
        if self.clusters is None:
            return np.ones(self.n)
        return np.bincount(self.clusters).astype(np.float64)

    @cached_property
    def stratum_sizes(self) -> NDArray[np.float64]:
        """(H,) documents in each stratum."""
        return np.asarray(np.bincount(self.unit_strata, weights=self.sizes()), dtype=np.float64)

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """(G,) share of each unit in the documents of its stratum."""
        return np.asarray(self.sizes() / self.stratum_sizes[self.unit_strata])

    @cached_property
    def scale(self) -> NDArray[np.float64] | float:
        """What CR2 multiplies the sum of a unit's residuals by, ``1 / √(1 - w_g)``."""
        if self.strata is None and self.clusters is None:
            return float(np.sqrt(self.n / (self.n - 1.0))) if self.n > 1 else 1.0
        rest = np.where(self.shares < 1.0, 1.0 - self.shares, 1.0)
        return np.asarray(1.0 / np.sqrt(rest))

    @cached_property
    def stratum_df(self) -> NDArray[np.float64]:
        """(H,) Bell and McCaffrey's degrees of freedom; 1 for a stratum of one unit among others.

        Its residual is taken from the mean of all documents, which errs to the wide side.
        """
        if self.clusters is None:
            return np.maximum(self.stratum_sizes - 1.0, min(1.0, self.levels - 1.0))
        w, at, levels = self.shares, self.unit_strata, self.levels
        alone = w >= 1.0
        q = np.where(alone, 0.0, w * w / np.where(alone, 1.0, 1.0 - w))
        sums = [np.bincount(at, weights=v, minlength=levels) for v in (w * w, q, q * q)]
        df = 1.0 / (sums[0] + sums[1] ** 2 - sums[2])
        return np.asarray(df if levels > 1 or self.groups > 1 else df * 0.0)

    @cached_property
    def df(self) -> float:
        """Degrees of freedom where every document varies alike; 0 for a single unit."""
        if self.levels == 1:
            return float(self.stratum_df[0])
        parts = self.stratum_sizes**2 / self.stratum_df
        return float(self.n**2 / parts.sum())

    @cached_property
    def effective_groups(self) -> float:
        """Kish's number of units of equal size (1965), ``(Σ n_g)² / Σ n_g²``."""
        return float(self.n**2 / np.sum(self.sizes() ** 2))

    def __repr__(self) -> str:
        return f"Layout({self.n} documents, {self.describe()})"

    def describe(self) -> str:
        """The words that go beside an interval."""
        parts = []
        if self.clusters is not None:
            parts.append(f"CR2 over {self.groups} clusters")
        if self.strata is not None:
            parts.append(f"within {self.levels} fixed strata")
        if self.pooled:
            unit = "document" if self.clusters is None else "cluster"
            parts.append(f"{self.pooled} of one {unit} taken together")
        return ", ".join(parts) if parts else "independent documents"


@dataclass(frozen=True)
class Moments:
    """Mean, standard error and its degrees of freedom over documents, for each leading index.

    `se` is NaN where `df` is 0, which is never written to a file.
    """

    mean: NDArray[np.float64]
    se: NDArray[np.float64]
    df: NDArray[np.float64]


def _codes(labels: Any, n: int, what: str) -> NDArray[np.intp] | None:
    if labels is None:
        return None
    refuse_masked(labels, what)
    array = np.asarray(labels)
    if array.shape != (n,):
        raise CurveError(
            f"{what} of shape {array.shape} for {n} documents", expected="one label per document"
        )
    check_labelled(labels, what)
    return _numbered(array.astype(str) if array.dtype == object else array)


def _numbered(array: NDArray[Any]) -> NDArray[np.intp]:
    """Codes 0.. in the order of first appearance, so that the groups' names do not matter."""
    _, first, codes = np.unique(array, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[codes], dtype=np.intp)


def group_sums(values: NDArray[np.float64], codes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sums of `values` (..., n) over equal codes: (..., G)."""
    groups = int(codes.max()) + 1
    flat = values.reshape(-1, values.shape[-1])
    sums = np.stack([np.bincount(codes, weights=row, minlength=groups) for row in flat])
    return np.asarray(sums.reshape(*values.shape[:-1], groups), dtype=np.float64)


def residuals(values: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
    """Values (..., n) minus the mean of their stratum, or of all where it has a single unit."""
    overall = values.mean(axis=-1, keepdims=True)
    if layout.strata is None:
        return np.asarray(values - overall)
    means = group_sums(values, layout.strata) / layout.stratum_sizes
    alone = np.bincount(layout.unit_strata) == 1
    means = np.where(alone, overall, means) if alone.size > 1 else means
    return np.asarray(values - means[..., layout.strata])


def unit_residuals(values: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
    """Residuals (..., n) summed over each independent unit and scaled as CR2 does: (..., G)."""
    rest = residuals(values, layout)
    sums = rest if layout.clusters is None else group_sums(rest, layout.clusters)
    return np.asarray(sums * layout.scale)


def moments(values: NDArray[np.float64], layout: Layout) -> Moments:
    """Mean of `values` (..., n) over documents with its standard error: the module's formulas."""
    squares = np.square(unit_residuals(values, layout))
    total = squares.sum(axis=-1)
    se = np.sqrt(total) / layout.n if layout.df > 0 else np.full(np.shape(total), np.nan)
    df: NDArray[np.float64] = np.full(np.shape(total), layout.df)
    if layout.levels > 1:
        parts = np.square(group_sums(squares, layout.unit_strata)) / layout.stratum_df
        spread = parts.sum(axis=-1)
        np.divide(total**2, spread, out=df, where=spread > 0)
    return Moments(values.mean(axis=-1), np.asarray(se), df)


def mean_se_df(values: NDArray[np.float64], layout: Layout) -> tuple[float, float, float]:
    """Mean of `values` (n,), its standard error and degrees of freedom."""
    result = moments(values, layout)
    return float(result.mean), float(result.se), float(result.df)


def t_quantile(probability: float, df: float | NDArray[np.float64]) -> float:
    """Student's t quantile (normal for infinite `df`)."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if np.isinf(df) else stdtrit(df, probability))


def t_tail(statistic: Any, df: float | NDArray[np.float64]) -> Any:
    """P(T > statistic) for Student's t."""
    from scipy.special import ndtr, stdtr

    return ndtr(-np.asarray(statistic)) if np.isinf(df) else stdtr(df, -np.asarray(statistic))


def zero_spread_bound(layout: Layout, level: float) -> float:
    """Upper bound at `level` on the share of documents unlike all that were seen.

    After n documents that all scored the same, the share q of documents that would not have is at
    most ``1 - (1 - level)^(1/n)``, about 3/n at 95 %: the rule of three (Hanley and Lippman-Hand
    1983). With clusters n counts clusters, and their unequal sizes widen the bound.
    """
    sizes = layout.sizes()
    share = 1.0 - (1.0 - level) ** (1.0 / layout.groups)
    return float(min(1.0, share * sizes.max() / sizes.mean()))


def show_df(df: float) -> str:
    """Degrees of freedom as text: 1318, 4.5."""
    return f"{df:.0f}" if df >= 1000 else f"{df:.4g}"


def is_constant(values: NDArray[np.float64]) -> bool:
    """Whether all numbers are the same but for rounding."""
    return bool(np.ptp(values) <= 1e-12)


def check_level(level: float) -> None:
    """Refuse a nominal coverage that is not between 0.5 and 1."""
    if not 0.5 <= level < 1.0:
        expected = "a coverage such as 0.95, at least 0.5"
        raise CurveError(f"level {level}", expected=expected, fix=as_fraction(level))


def layout_of(curve: Curve) -> Layout:
    """How the curve's documents hang together; curves with equal labels share one encoding."""
    if curve.n_docs is None:
        raise CurveError(f"{curve.label} has no per-document outcomes")
    return _encoded(curve.n_docs, curve.clusters, curve.strata)


@lru_cache(maxsize=32)
def _encoded(n: int, clusters: tuple[str, ...] | None, strata: tuple[str, ...] | None) -> Layout:
    return Layout.make(n, clusters, strata)


@dataclass(frozen=True)
class SampleSpread:
    """Variance components of the scores of n documents with K samples each.

    ``y[d, j] = μ + document_d + sample_dj``: the samples of a document are draws of its own, so the
    spread of the documents' means, and an interval over documents, covers both sources.
    """

    samples: int  # K
    between: float  # variance of the documents' expected scores; 0 where its estimate is negative
    within: float  # variance of the samples of one document

    @property
    def share(self) -> float | None:
        """Share of sampling in the variance of the mean over documents; None without variance."""
        sampling = self.within / self.samples
        total = self.between + sampling
        return sampling / total if total > 0 else None


def spread_of_samples(scores: NDArray[np.float64]) -> SampleSpread:
    """One-way random-effects estimates from `scores` (n, K): mean squares within and between."""
    if scores.ndim != 2 or min(scores.shape) < 2:
        raise CurveError(
            f"samples of shape {scores.shape}", expected="(documents, samples), from 2"
        )
    samples = scores.shape[1]
    within = float(scores.var(axis=1, ddof=1).mean())
    means = float(scores.mean(axis=1).var(ddof=1))
    return SampleSpread(samples, max(means - within / samples, 0.0), within)
