"""Curves of one task on the same examples, in one order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.errors import CurveError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from aurac.curves.curve import Curve


def in_one_order(curves: Sequence[Curve]) -> list[Curve]:
    """The curves with the examples of each in the order of the first one.

    Examples are the same if their `doc_ids` are, and their contents and prompts where all curves
    know them. If no curve has `doc_ids`, examples are told by their position.

    Raises:
        CurveError: The curves are on different examples, or their examples are clustered otherwise.
    """
    first = curves[0]
    for other in curves:
        both = f"{first.label} and {other.label}"
        if (first.doc_ids is None) != (other.doc_ids is None):
            raise CurveError(f"Only one of {both} says which examples it was evaluated on.")
        if first.doc_ids is None and other.n_docs != first.n_docs:
            raise CurveError(f"{both} have {first.n_docs} and {other.n_docs} examples.")
    placed = list(curves)
    if first.doc_ids is not None:
        also = [name for name in ("doc_hashes", "prompts") if all(getattr(c, name) for c in curves)]
        wanted = _identities(first, also)
        placed = [_placed(curve, _identities(curve, also), first, wanted) for curve in curves]
    clustered = [curve for curve in placed if curve.clusters is not None]
    for other in clustered[1:]:
        if other.clusters != clustered[0].clusters:
            raise CurveError(f"{clustered[0].label} and {other.label} have other clusters.")
    return placed


def _identities(curve: Curve, also: Sequence[str]) -> tuple[Hashable, ...]:
    """What tells the n examples of a curve apart."""
    columns: Any = (getattr(curve, name) for name in ("doc_ids", *also))
    return tuple(zip(*columns, strict=True))


def _placed(
    curve: Curve, own: tuple[Hashable, ...], first: Curve, wanted: tuple[Hashable, ...]
) -> Curve:
    if own == wanted:
        return curve
    place = {example: at for at, example in enumerate(own)}
    if different := place.keys() ^ {*wanted}:
        every = len(place.keys() | {*wanted})
        raise CurveError(
            f"{first.label} and {curve.label} are on different examples: {len(different)} of "
            f"{every} are in one of them alone."
        )
    return curve.in_order(np.array([place[example] for example in wanted], dtype=np.intp))
