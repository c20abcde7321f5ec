"""Curves on the same examples: which they share, and one order of them."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.errors import CurveError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from aurac.curves.curve import Curve


def identities(curves: Sequence[Curve]) -> list[tuple[Hashable, ...]]:
    """What tells the n examples of each curve apart: `doc_ids`, with contents and prompts if known.

    Contents and prompts count where all curves have them. Where no curve has `doc_ids`, examples
    are told by their position.

    Raises:
        CurveError: Only some curves have `doc_ids`, or the positions are not equally many.
    """
    first = curves[0]
    for other in curves:
        both = f"{first.label} and {other.label}"
        if (first.doc_ids is None) != (other.doc_ids is None):
            raise CurveError(f"Only one of {both} says which examples it was evaluated on.")
        if first.doc_ids is None and other.n_docs != first.n_docs:
            raise CurveError(f"{both} have {first.n_docs} and {other.n_docs} examples.")
    if first.doc_ids is None:
        return [tuple(range(first.n_docs or 0))] * len(curves)
    known = [name for name in ("doc_hashes", "prompts") if all(getattr(c, name) for c in curves)]
    found: dict[Any, tuple[Hashable, ...]] = {}  # equal ones as one object
    columns = [tuple(getattr(curve, name) for name in ("doc_ids", *known)) for curve in curves]
    return [found.setdefault(each, tuple(zip(*each, strict=True))) for each in columns]


def shared(sets: Sequence[tuple[Hashable, ...]]) -> tuple[list[int], tuple[Hashable, ...]]:
    """The sets that are compared, by their places, and the examples on which they are.

    Tried are the examples of each set and those that two sets have in common. The largest product
    of examples and of the sets that have them all decides; of equal ones the more examples.

    Returns:
        The places, ascending, and the examples in the order of the first of these sets.
    """
    examples = {each: frozenset(each) for each in sets}
    counts = Counter(sets)

    def rows(tried: frozenset[Hashable]) -> int:
        return sum(counts[each] for each, own in examples.items() if tried <= own)

    both = (a & b for a, b in combinations(examples.values(), 2))
    best = max((*examples.values(), *both), key=lambda x: (rows(x) * len(x), len(x)))
    places = [place for place, each in enumerate(sets) if best <= examples[each]]
    return places, tuple(example for example in sets[places[0]] if example in best)


def on(curve: Curve, own: tuple[Hashable, ...], wanted: tuple[Hashable, ...]) -> Curve:
    """A curve on these of its examples, in this order."""
    if own is wanted or own == wanted:
        return curve
    place = {example: i for i, example in enumerate(own)}
    return curve.in_order(np.array([place[example] for example in wanted], dtype=np.intp))


def check_clusters(first: Curve, other: Curve) -> None:
    """Refuse curves whose examples, in one order, are clustered otherwise."""
    if first.clusters is None or other.clusters is None or first.clusters == other.clusters:
        return
    both = zip(first.clusters, other.clusters, strict=True)
    where = next(i for i, (x, y) in enumerate(both) if x != y)
    doc = first.doc_ids[where] if first.doc_ids else where
    raise CurveError(f"Example {doc!r} has other clusters in {first.label} than in {other.label}.")
