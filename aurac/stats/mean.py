"""The mean of a number per document, its standard error, and the t interval around it.

The leaf that `integrate` and `uncertainty` both stand on: documents may be independent, fall into
clusters (a shared passage), into fixed strata (a benchmark's subjects), or into clusters within
strata. Everything is vectorised over leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.errors import CurveError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NO_DOCUMENTS = "point value (no per-document outcomes)"
ONE_DOCUMENT = "point value (a single document has no spread)"


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

    def to_dict(self) -> dict[str, float | None]:
        """The four numbers of a result file."""
        return {"value": self.value, "se": self.se, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Layout:
    """How the documents hang together: cluster and stratum codes, or None.

    Attributes:
        n: Documents.
        clusters: (n,) codes 0..G-1, or None when documents are independent.
        strata: (n,) codes 0..H-1, or None when there is one stratum.
    """

    n: int
    clusters: NDArray[np.intp] | None = None
    strata: NDArray[np.intp] | None = None

    @classmethod
    def make(
        cls,
        n: int,
        clusters: Sequence[Any] | NDArray[Any] | None = None,
        strata: Sequence[Any] | NDArray[Any] | None = None,
    ) -> Layout:
        """Encode labels, one per document.

        Raises:
            CurveError: There is not one label per document, or a cluster spans strata.
        """
        layout = cls(n, _codes(clusters, n, "clusters"), _codes(strata, n, "strata"))
        if layout.clusters is not None and layout.strata is not None:
            pairs = np.unique(np.stack([layout.clusters, layout.strata]), axis=1)
            if pairs.shape[1] != layout.groups:
                raise CurveError(
                    "a cluster has documents in more than one stratum",
                    expected="clusters inside strata",
                    fix="give only the clusters",
                )
        return layout

    @property
    def groups(self) -> int:
        """Independent units: clusters where there are any, else documents."""
        return self.n if self.clusters is None else int(self.clusters.max()) + 1

    @property
    def levels(self) -> int:
        """Number of strata (1 where none were given)."""
        return 1 if self.strata is None else int(self.strata.max()) + 1

    @property
    def df(self) -> int:
        """Degrees of freedom of the variance: units minus strata."""
        return self.groups - self.levels

    def sizes(self) -> NDArray[np.float64]:
        """(G,) documents in each unit."""
        if self.clusters is None:
            return np.ones(self.n)
        return np.bincount(self.clusters).astype(np.float64)

    def describe(self) -> str:
        """The words that go beside an interval."""
        parts = []
        if self.clusters is not None:
            parts.append(f"CR1 over {self.groups} clusters")
        if self.strata is not None:
            parts.append(f"within {self.levels} fixed strata")
        return ", ".join(parts) if parts else "independent documents"


@dataclass(frozen=True)
class Moments:
    """Mean and standard error over documents, for each leading index.

    Attributes:
        mean: (...) means.
        se: (...) standard errors; NaN where `df` is 0 (internal: never written to a file).
        df: Degrees of freedom.
    """

    mean: NDArray[np.float64]
    se: NDArray[np.float64]
    df: int


def _codes(labels: Any, n: int, what: str) -> NDArray[np.intp] | None:
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.dtype == object:
        array = array.astype(str)
    if array.shape != (n,):
        raise CurveError(
            f"{what} of shape {array.shape} for {n} documents", expected="one label per document"
        )
    _, first, codes = np.unique(array, return_index=True, return_inverse=True)
    # Numbered as they first appear, so that other names for the same groups give the same codes.
    return np.asarray(np.argsort(np.argsort(first))[codes], dtype=np.intp)


def group_sums(values: NDArray[np.float64], codes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sums of `values` (..., n) over equal codes: (..., G)."""
    groups = int(codes.max()) + 1
    flat = values.reshape(-1, values.shape[-1])
    sums = np.stack([np.bincount(codes, weights=row, minlength=groups) for row in flat])
    return np.asarray(sums.reshape(*values.shape[:-1], groups), dtype=np.float64)


def residuals(values: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
    """Values (..., n) minus the mean of their stratum (of all, where there are no strata)."""
    if layout.strata is None:
        return np.asarray(values - values.mean(axis=-1, keepdims=True))
    means = group_sums(values, layout.strata) / np.bincount(layout.strata)
    return np.asarray(values - means[..., layout.strata])


def unit_residuals(values: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
    """Residuals (..., n) summed over each independent unit: (..., G)."""
    rest = residuals(values, layout)
    return rest if layout.clusters is None else group_sums(rest, layout.clusters)


def moments(values: NDArray[np.float64], layout: Layout) -> Moments:
    """Mean over documents with its standard error.

    The variance of the mean is ``G/(G-H) · Σ_g (Σ_{d in g} e_d)² / n²`` with e the residuals within
    strata, G independent units and H strata: for independent documents that is ``s²/n``; for
    clusters it is CR1 (Liang and Zeger 1986 with the small-sample factor); for strata the variance
    is pooled within them.

    Args:
        values: (..., n) one number per document.
        layout: The documents' clusters and strata.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = np.square(unit_residuals(values, layout)).sum(axis=-1)
        factor = np.float64(layout.groups) / np.float64(layout.df)
        se = np.sqrt(sums * factor) / layout.n
    if layout.df <= 0:
        se = np.full(np.shape(se), np.nan)
    return Moments(values.mean(axis=-1), np.asarray(se), layout.df)


def t_quantile(probability: float, df: float) -> float:
    """Student's t quantile (normal for infinite `df`)."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if np.isinf(df) else stdtrit(df, probability))


def t_tail(statistic: Any, df: float) -> Any:
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


def rule_of_three(constant: float, layout: Layout, level: float) -> Estimate:
    """The interval for documents that all scored `constant`: never a standard error of 0."""
    share = zero_spread_bound(layout, level)
    low, high = constant * (1.0 - share), constant + (1.0 - constant) * share
    return Estimate(constant, None, low, high, "rule of three (all documents score alike)", level)


def t_estimate(values: NDArray[np.float64], layout: Layout, level: float) -> Estimate:
    """The t interval for the mean of `values` (n,), inside [0, 1].

    Constant data take the rule of three instead; one independent unit gives no interval.
    """
    found = moments(values, layout)
    value, se = float(found.mean), float(found.se)
    if layout.df <= 0:
        return Estimate(value, None, None, None, _no_spread(layout), level)
    if is_constant(values):
        return rule_of_three(float(values[0]), layout, level)
    half = t_quantile((1.0 + level) / 2.0, found.df) * se
    method = f"t with {found.df} df, {layout.describe()}"
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Estimate(value, se, low, high, method, level, found.df)


def is_constant(values: NDArray[np.float64]) -> bool:
    """Whether all numbers are the same but for rounding."""
    return bool(np.ptp(values) <= 1e-12)


def edge_count(values: NDArray[np.float64]) -> float:
    """Expected documents away from the nearer end: ``n · min(ā, 1 - ā)``."""
    mean = float(values.mean())
    return values.size * min(mean, 1.0 - mean)


def _no_spread(layout: Layout) -> str:
    if layout.n == 1:
        return ONE_DOCUMENT
    return f"point value ({layout.groups} independent units in {layout.levels} strata)"


def check_level(level: float) -> None:
    """Refuse a nominal coverage that is none.

    Raises:
        CurveError: `level` is not between 0.5 and 1.
    """
    if not 0.5 <= level < 1.0:
        raise CurveError(f"level {level}", expected="a coverage such as 0.95, at least 0.5")
