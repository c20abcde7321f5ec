"""Prefix against SVD: one adapter cut in two ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aurac.errors import CurveError
from aurac.show.documents import seeds_of
from aurac.show.model import LEVEL, as_interval
from aurac.show.table import Cell, Table, estimate, p_value, share, table
from aurac.show.tables import rank_titles
from aurac.stats.groups import group_of, together
from aurac.stats.paired import difference_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.show.comparisons import Compared, Difference
    from aurac.show.model import CurveRow, Interval, Run


@dataclass(frozen=True)
class BasisPair:
    """One adapter cut in two ways; `difference` is None without documents to pair.

    `gaps` are prefix minus SVD at each rank that both have, with pointwise intervals.
    """

    prefix: CurveRow
    svd: CurveRow
    difference: Difference | None
    gaps: Mapping[int, Interval]

    @property
    def label(self) -> str:
        """The adapter and both scales."""
        return f"{self.prefix.adapter}, {self.prefix.scale} against {self.svd.scale}"


def basis_pairs(run: Run, task: str, compared: Compared) -> list[BasisPair]:
    """Every adapter's own prefix truncation against each of its SVD truncations on a task."""
    curves = run.of_task(task)
    pairs = []
    for svd in (curve for curve in curves if curve.basis == "svd"):
        prefixes = [c for c in curves if c.adapter == svd.adapter and c.basis == "prefix"]
        prefix = next((c for c in prefixes if c.is_default), prefixes[0] if prefixes else None)
        if prefix is not None:
            gaps = _gaps(prefix, svd)
            pairs.append(BasisPair(prefix, svd, compared.between(prefix, svd), gaps))
    return pairs


def _gaps(prefix: CurveRow, svd: CurveRow) -> dict[int, Interval]:
    seeds = seeds_of(prefix), seeds_of(svd)
    ranks = [rank for rank in prefix.ranks if rank in svd.ranks]
    if not all(seeds) or not ranks:
        return {}
    try:
        one, other = together([group_of(several).at(ranks) for several in seeds])
        gaps = {rank: difference_at(other, one, rank, LEVEL) for rank in ranks}
        return {rank: as_interval(gap.estimate) for rank, gap in gaps.items()}
    except CurveError:
        return {}


def basis_table(task: str, pairs: Sequence[BasisPair], name: str) -> Table:
    """AURAC of the same adapter cut in two ways and their paired difference."""
    rows = []
    for pair in pairs:
        gap = pair.difference
        result = "not paired" if gap is None else "not significant"
        if gap is not None and gap.significant:
            result = "prefix is better" if gap.value > 0 else "SVD is better"
        result += ", exploratory" if gap is not None and gap.exploratory else ""
        rows.append(
            (
                Cell(pair.label),
                estimate(pair.prefix.log2),
                estimate(pair.svd.log2),
                estimate(gap),
                p_value(gap.adjusted if gap else None),
                share(gap.detectable if gap else None),
                Cell(result),
            )
        )
    caption = (
        f"{task}: the same adapter cut to its first components (prefix) and by SVD: AURAC in "
        "percent, and prefix minus SVD in points over the same documents. p is adjusted (Holm) for "
        "all pairs of this report."
    )
    titles = ("prefix [95 %]", "SVD [95 %]", "difference [95 %]", "p (Holm)", "detectable")
    return table(name, caption, rows, "adapter", numeric=titles, last=("result",))


def basis_rank_table(task: str, pairs: Sequence[BasisPair], name: str) -> Table | None:
    """Prefix minus SVD at every rank."""
    ranks = sorted({rank for pair in pairs for rank in pair.gaps})
    if not ranks:
        return None
    rows = [(Cell(p.label), *(estimate(p.gaps.get(rank)) for rank in ranks)) for p in pairs]
    caption = (
        f"{task}: accuracy of the prefix minus that of the SVD, in points with 95 % intervals for "
        "each rank alone, over the same documents."
    )
    return table(name, caption, rows, "adapter", numeric=rank_titles(ranks))
