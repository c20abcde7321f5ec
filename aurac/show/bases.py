"""Prefix against SVD: one adapter cut in two ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aurac.show.table import Cell, Table, estimate, p_value, share, table
from aurac.show.tables import rank_titles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.show.comparisons import Compared, Difference
    from aurac.show.model import CurveRow
    from aurac.stats.mean import Estimate


@dataclass(frozen=True)
class BasisPair:
    """One adapter cut in two ways; `difference` is None without documents to pair.

    `gaps` are prefix minus SVD at each rank that both have, with pointwise intervals.
    """

    prefix: CurveRow
    svd: CurveRow
    difference: Difference | None
    gaps: Mapping[int, Estimate]

    @property
    def label(self) -> str:
        """The adapter and both scales."""
        return f"{self.prefix.adapter}, {self.prefix.scale} against {self.svd.scale}"


def basis_pairs(task: str, compared: Compared) -> list[BasisPair]:
    """Every adapter's own prefix truncation against each of its SVD truncations on a task."""
    pairs = []
    for seen in (row for row in compared.closely.bases if row.task == task):
        prefix, svd = (compared.row(task, name) for name in (seen.prefix, seen.svd))
        pairs.append(BasisPair(prefix, svd, compared.between(prefix, svd), seen.gaps))
    return pairs


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
