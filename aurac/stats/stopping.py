"""Sequential questions beside pairs: the smallest rank, a width, and the order of the documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.errors import CurveError
from aurac.stats.design import Decision
from aurac.stats.intervals import interval
from aurac.stats.mean import Layout
from aurac.stats.sequential import decide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from aurac.stats.design import Design, Series

LEAST_FOR_WIDTH = 30


@dataclass(frozen=True)
class RankDecision:
    """The smallest non-inferior rank, as far as the documents so far say."""

    rank: int  # the smallest shown to be non-inferior so far; the reference where none is
    asks: int | None  # the rank whose documents are needed next; None when decided
    decisions: Mapping[int, Decision]  # of each rank that was looked at, from the largest down

    @property
    def decided(self) -> bool:
        """Whether the sequence has ended."""
        return self.asks is None


def smallest_rank(
    design: Design, reference: int, ranks: Sequence[int], losses: Mapping[int, Series]
) -> RankDecision:
    """Go down the ranks while each is shown to be non-inferior to the reference.

    A fixed sequence of tests at full alpha, each of them sequential: a rank is asked about only
    when every larger one has passed, and the sequence ends at the first that does not (Maurer,
    Hothorn and Lehmacher 1995; Glimm, Maurer and Bretz 2010).

    `ranks` are those below the reference, in descending order; `losses` are for each rank with
    documents the scores at the rank minus those at the reference.
    """
    passed, decisions = reference, dict[int, Decision]()
    for rank in ranks:
        if rank in losses:
            decisions[rank] = decide(design, {rank: losses[rank]})[rank]
        if rank not in losses or not decisions[rank].decided:
            return RankDecision(passed, rank, decisions)
        if decisions[rank].verdict != "non-inferior":
            break
        passed = rank
    return RankDecision(passed, None, decisions)


def width_reached(
    values: NDArray[np.float64],
    width: float,
    *,
    level: float = 0.95,
    clusters: Sequence[Any] | None = None,
    strata: Sequence[Any] | None = None,
) -> bool:
    """Whether the interval for the mean of `values` (n,) in [0, 1] is at most `width` wide.

    Stopping at the first such look keeps the coverage (Chow and Robbins 1965), with the guard
    against a variance that is too small by chance: `LEAST_FOR_WIDTH` units, and ``1/n`` added to
    the variance of a document.

    Raises:
        CurveError: A width that is not above 0 and below 1.
    """
    if not 0.0 < width < 1.0:
        raise CurveError(f"width {width:g}", expected="a fraction such as 0.02 for two points")
    layout = Layout.make(values.size, clusters, strata)
    if layout.groups < LEAST_FOR_WIDTH:
        return False
    estimate = interval(values, level=level, clusters=clusters, strata=strata)
    if estimate.low is None or estimate.high is None or estimate.se is None:
        return False
    wider = np.sqrt(1.0 + 1.0 / (layout.n * estimate.se) ** 2)  # s² + 1/n in the place of s²
    return bool((estimate.high - estimate.low) * wider <= width)


def document_order(
    count: int,
    seed: int,
    *,
    clusters: Sequence[Any] | None = None,
    strata: Sequence[Any] | None = None,
) -> NDArray[np.intp]:
    """A random order of documents whose every beginning is a fair sample of them.

    Clusters stay together. Strata are sampled in proportion: every beginning has the share of each,
    but for less than one document.

    Returns (count,) places of the documents, in the order of evaluation.
    """
    rng = np.random.default_rng(seed)
    layout = Layout.make(count, clusters)
    units = np.arange(count) if layout.clusters is None else layout.clusters
    order = np.argsort(rng.permutation(layout.groups)[units], kind="stable")
    if strata is None:
        return order
    codes = np.unique(np.asarray(strata), return_inverse=True)[1][order]
    where = np.empty(count)
    for code, size in enumerate(np.bincount(codes)):
        where[codes == code] = (np.arange(size) + rng.random()) / size
    return order[np.argsort(where, kind="stable")]
