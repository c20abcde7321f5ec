"""Curves on the same examples: which they share, and one order of them."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

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
    known = [name for name in ("doc_hashes", "prompts") if all(getattr(c, name) for c in curves)]
    if all(curve.doc_ids is None for curve in curves):
        for other in curves:
            if other.n_docs != first.n_docs:
                both = f"{first.label} and {other.label}"
                raise CurveError(f"{both} have {first.n_docs} and {other.n_docs} examples.")
        return [tuple(range(first.n_docs or 0))] * len(curves)
    for other in curves:
        if (first.doc_ids is None) != (other.doc_ids is None):
            both = f"{first.label} and {other.label}"
            raise CurveError(f"Only one of {both} says which examples it was evaluated on.")
    made: dict[tuple[int, ...], tuple[Hashable, ...]] = {}
    found = []
    for curve in curves:
        columns = [getattr(curve, name) for name in ("doc_ids", *known)]
        same = tuple(map(id, columns))
        if same not in made:
            made[same] = tuple(zip(*columns, strict=True))
        found.append(made[same])
    return found


def shared(sets: Sequence[tuple[Hashable, ...]]) -> tuple[list[int], tuple[Hashable, ...]]:
    """The sets that are compared, by their places, and the examples on which they are.

    Tried are the examples of each set and those that two sets have in common. The largest product
    of examples and of the sets that have them all decides; of equal ones the more examples.

    Returns:
        The places, ascending, and the examples in the order of the first of these sets.
    """
    distinct = [frozenset(each) for each in dict.fromkeys(sets)]
    both = (a & b for a, b in combinations(distinct, 2))
    having = {tried: [tried <= each for each in distinct] for tried in (*distinct, *both) if tried}
    of = [distinct.index(frozenset(each)) for each in sets]
    counts = {tried: sum(has[at] for at in of) for tried, has in having.items()}
    best = max(counts, key=lambda tried: (counts[tried] * len(tried), len(tried)))
    places = [place for place, at in enumerate(of) if having[best][at]]
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
