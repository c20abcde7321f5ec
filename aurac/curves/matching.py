"""Curves on the same examples: one order of them, by identity and, where known, content."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aurac.errors import CurveError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aurac.curves.curve import Curve


def align(first: Curve, other: Curve) -> Curve:
    """The other curve with its examples in the order of the first.

    Examples are matched by `doc_ids`, by position where neither curve has any.

    Raises:
        CurveError: No examples, another task or metric, other examples, or the same identities
            with other contents or prompts.
    """
    if first is other:
        return other
    both = f"{first.label} and {other.label}"
    places = _places(first, other, both)
    for name in ("task", "metric", "prompts"):
        left, right = getattr(first, name), getattr(other, name)
        if left is not None and right is not None and left != right:
            raise CurveError(f"{both} differ in {name} ({left:.40} and {right:.40}).")
    ordered = other if places is None else other.in_order(places)
    for name in ("doc_hashes", "clusters"):
        left, right = getattr(first, name), getattr(ordered, name)
        if left is None or right is None or left == right:
            continue
        where = next(i for i, (x, y) in enumerate(zip(left, right, strict=True)) if x != y)
        doc = first.doc_ids[where] if first.doc_ids else where
        raise CurveError(
            f"Example {doc!r} has other {name} in {first.label} than in {other.label}."
        )
    return ordered


def _places(first: Curve, other: Curve, both: str) -> NDArray[np.intp] | None:
    """Where each of the first curve's examples stands in the other; None for the same order."""
    left, right = first.doc_ids, other.doc_ids
    if left == right:
        if first.n_docs == other.n_docs:
            return None
        raise CurveError(f"{both} have {first.n_docs} and {other.n_docs} examples.")
    if left is None or right is None:
        raise CurveError(f"Only one of {both} says which examples it was evaluated on.")
    if unequal := set(left) ^ set(right):
        raise CurveError(
            f"{both} were evaluated on different examples: {len(unequal)} are in only one of "
            f"them, {min(unequal)!r} among them."
        )
    place = {doc: i for i, doc in enumerate(right)}
    return np.array([place[doc] for doc in left], dtype=np.intp)
