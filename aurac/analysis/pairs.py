"""Two adapters, or two recipe groups, as a row of the analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.analysis.rows import PairRow
from aurac.curves.area import check_axis
from aurac.stats.groups import group_of, together
from aurac.stats.mean import check_level
from aurac.stats.paired import compare, gained_and_lost, seed_rows

if TYPE_CHECKING:
    from aurac.stats.groups import RecipeGroup


def paired_curves(
    a: Any,
    b: Any,
    *,
    axis: str = "log2",
    level: float = 0.95,
    support: str | None = None,
    paired_seeds: bool | None = None,
) -> PairRow:
    """Compare two adapters by AURAC on the same documents, b - a.

    ``D_d = b_d - a_d`` of the documents' own areas, then the same formulas as for one adapter.

    Args:
        a: A `Curve` with outcomes, or what `as_curve` accepts; a list of them are training seeds.
        b: Another on the same documents; joined on `doc_ids`, by position where neither has any.
        axis: "log2", "linear", or a budget, "parameters" or "bytes": the areas are over the amounts
            that both were measured at.
        level: Coverage.
        support: "common" to compare curves with unequal ranks on those that both have.
        paired_seeds: As of `by_seed`: whether the difference is taken within each seed.

    Raises:
        CurveError: The two cannot be paired; says why.
    """
    check_axis(axis)
    check_level(level)
    how: dict[str, Any] = {"axis": axis, "level": level, "support": support}
    return pair_groups(group_of(a), group_of(b), **how, paired_seeds=paired_seeds)


def pair_groups(
    a: RecipeGroup,
    b: RecipeGroup,
    *,
    axis: str,
    level: float,
    support: str | None = None,
    paired_seeds: bool | None = None,
) -> PairRow:
    """As `paired_curves`, of two recipe groups."""
    first, second = together([a, b], support, axis)
    rows = seed_rows(first, second, axis, paired_seeds=paired_seeds)
    single = first.seeds == second.seeds == 1 and first.span is None
    gained, lost = gained_and_lost(first.first, second.first) if single else (None, None)
    return PairRow(
        a=a.name,
        b=b.name,
        task=a.task,
        axis=axis,
        ranks=first.ranks if first.span is None else (),
        span=first.span,
        n_docs=first.first.n_docs,
        result=compare(**rows, layout=first.layout, level=level),
        gained=gained,
        lost=lost,
    )
