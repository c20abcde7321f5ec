"""Two recipe groups on the same documents: which seeds belong together, and their differences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.analysis.groups import RecipeGroup, group_of
from aurac.curves.names import curve_names
from aurac.errors import CurveError
from aurac.stats.paired import Difference, compare

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aurac.curves.curve import Curve
    from aurac.stats.mean import Layout
    from aurac.stats.seeds import Names


def two_groups(a: Any, b: Any) -> tuple[RecipeGroup, RecipeGroup]:
    """Two recipe groups to compare, each as of `group_of`, with names that tell them apart.

    Truncations of one recipe are named as in tables, others of one name `a` and `b`.
    """
    first, second = group_of(a, default="a"), group_of(b, default="b")
    if first.name != second.name:
        return first, second
    both = (first, second)
    shown = curve_names((g.name, cut) for g in both for cut in g.first.truncations)
    one, other = (shown.get(g.way) for g in both)
    if not one or not other or one == other:
        one, other = "a", "b"
    return replace(first, name=one), replace(second, name=other)


def by_seed(
    a: RecipeGroup, b: RecipeGroup, *, paired_seeds: bool | None = None
) -> tuple[list[int], list[int]] | None:
    """Places in a and in b of the curves that belong together; None: two independent arms.

    Truncations of the same checkpoints belong together, and so do checkpoints of two recipes that
    have the same seeds, each once, and for a seed the same data in the same order.

    Args:
        a: Of one task.
        b: Another.
        paired_seeds: Whether equal seeds of two recipes had the same data in the same order; None:
            as the recipes say.
    """
    if not 1 < a.seeds == b.seeds:
        return None
    left, right = ({c.seed: place for place, c in enumerate(g.curves)} for g in (a, b))
    same = {(c.adapter, c.seed): place for place, c in enumerate(b.curves)}
    if None not in (c.adapter for c in a.curves) and same.keys() == set(a.names):
        places = [same[name] for name in a.names]
        return (list(range(a.seeds)), places) if len(same) == a.seeds else None
    if None in left or left.keys() != right.keys() or len(left) < a.seeds:
        return None
    pairs = [(a.curves[left[seed]], b.curves[right[seed]]) for seed in left]
    if paired_seeds is None:
        paired_seeds = all(x.data_order and x.data_order == y.data_order for x, y in pairs)
    return (list(left.values()), [right[seed] for seed in left]) if paired_seeds else None


@dataclass(frozen=True, eq=False)
class PairedScores:
    """The (S, n) scores of two groups that were brought together, as `compare` takes them."""

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    layout: Layout
    names: tuple[Names, Names]
    draws: NDArray[np.float64] | None
    matched: bool

    def difference(self, level: float) -> Difference:
        """The mean difference b - a."""
        return compare(
            self.a,
            self.b,
            self.layout,
            level=level,
            names=self.names,
            draws=self.draws,
            matched=self.matched,
        )


def paired_areas(
    a: RecipeGroup, b: RecipeGroup, axis: str, *, paired_seeds: bool | None = None
) -> PairedScores:
    """The documents' areas of two groups that were brought together, matched `by_seed`."""
    left, right, names = a.areas(axis), b.areas(axis), (a.names, b.names)
    draws, layout = drawn_difference(a, b, axis), a.layout
    places = by_seed(a, b, paired_seeds=paired_seeds)
    if places is None:
        return PairedScores(left, right, layout, names, draws, matched=False)
    both = [tuple(dict.fromkeys(a.names[i] + b.names[j])) for i, j in zip(*places, strict=True)]
    first, second = places
    return PairedScores(left[first], right[second], layout, (both, both), draws, matched=True)


def difference_at(a: RecipeGroup, b: RecipeGroup, rank: int, level: float) -> Difference:
    """The difference b - a of the accuracy at one rank, of two groups brought together."""
    left, right, places = a.scores(rank), b.scores(rank), by_seed(a, b)
    if places is not None:
        left, right = left[places[0]], right[places[1]]
    return compare(left, right, a.layout, level=level, matched=places is not None)


def drawn_difference(a: RecipeGroup, b: RecipeGroup, axis: str) -> NDArray[np.float64] | None:
    """(N, n) difference b - a under each draw of the few-shot examples; None without draws."""
    left, right = a.drawn_areas(axis), b.drawn_areas(axis)
    if left is None and right is None:
        return None
    if left is None or right is None or left.shape != right.shape:
        raise CurveError(
            f"{a.name} and {b.name} have other draws of the few-shot examples",
            expected="the same draws for both",
        )
    return np.asarray(right - left)


def gained_and_lost(a: Curve, b: Curve) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Documents on which b scores higher, and lower, at each rank; documents in the same order."""
    if a.outcomes is None or b.outcomes is None:
        raise CurveError("no per-document outcomes to compare")
    ours, theirs = a.outcomes, b.outcomes
    if a.right is not None and b.right is not None:  # eight times less to read
        ours, theirs = a.right, b.right  # type: ignore[assignment]
    gained = tuple(int(np.count_nonzero(row)) for row in theirs > ours)
    return gained, tuple(int(np.count_nonzero(row)) for row in theirs < ours)
