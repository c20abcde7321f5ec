"""Curves on the same documents: one order of them, one set of cluster and stratum labels.

Documents are matched here and nowhere else, by identity and, where known, content and prompts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.errors import CurveError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aurac.curves.curve import Curve


def told_apart(first: Curve, other: Curve) -> tuple[str, str]:
    """The labels of two curves, for a message; of two without names "the curve" and "another"."""
    return first.label, "another" if other.label == first.label else other.label


def align(first: Curve, other: Curve) -> Curve:
    """The other curve with its documents in the order of the first.

    Documents are matched by `doc_ids`, by position where neither curve has any.

    Raises:
        CurveError: No per-document outcomes, another task or metric, other documents, or the same
            identities with other contents or prompts.
    """
    for name in ("task", "metric", "prompts"):
        left, right = getattr(first, name), getattr(other, name)
        if left is not None and right is not None and left != right:
            shown = (text if len(text) <= 40 else f"{text[:12]}…" for text in (left, right))
            raise CurveError(
                f"{' and '.join(told_apart(first, other))} differ in {name} "
                f"({' and '.join(shown)})",
                expected="the same documents and prompts for both",
            )
    for curve in (first, other):
        if curve.outcomes is None:
            raise CurveError(f"{curve.label} has no per-document outcomes to pair")
    places = _places(first, other)
    ordered = other if places is None else other.in_order(places)
    _check_labels(first, ordered)
    return ordered


def _places(first: Curve, other: Curve) -> NDArray[np.intp] | None:
    """Where each of the first curve's documents stands in the other; None for the same order."""
    left, right = first.doc_ids, other.doc_ids
    same, (one, another) = "the same documents for both", told_apart(first, other)
    if left is right or left == right:
        if first.n_docs == other.n_docs:
            return None
        counts = f"{one} has {first.n_docs} documents and {another} has {other.n_docs}"
        raise CurveError(counts, expected=same)
    both = f"{one} and {another}"
    if left is None or right is None:
        raise CurveError(
            f"only one of {both} says which documents it was evaluated on",
            fix="give doc_ids to both, or to neither and keep the order the same",
        )
    if unequal := set(left) ^ set(right):
        raise CurveError(
            f"{both} were evaluated on different documents: {len(unequal)} are in only one of "
            f"them, {min(unequal)!r} among them",
            expected=same,
        )
    place = {doc: i for i, doc in enumerate(right)}
    return np.array([place[doc] for doc in left], dtype=np.intp)


def _check_labels(first: Curve, other: Curve) -> None:
    """Refuse documents with other contents or other groups than in the first curve."""
    for name in ("doc_hashes", "clusters", "strata"):
        left, right = getattr(first, name), getattr(other, name)
        if left is right or left is None or right is None or left == right:
            continue
        where = next(i for i, (x, y) in enumerate(zip(left, right, strict=True)) if x != y)
        doc = first.doc_ids[where] if first.doc_ids else where
        raise CurveError(
            f"document {doc!r} has other {name} in {first.label} than in {other.label}",
            expected="the same documents and prompts for both",
        )


def ordered_like(first: Curve, other: Curve) -> Curve:
    """The other curve in the first one's order; as it is where their documents differ."""
    if first is other or first.outcomes is None or other.outcomes is None:
        return other
    try:
        return align(first, other)
    except CurveError:  # whoever compares the two is told
        return other


def labelled(first: Curve, others: Sequence[Curve]) -> Curve:
    """The first curve, with the clusters and strata that only others on its documents know."""
    lacking: dict[str, Any] = {}
    for name in ("clusters", "strata"):
        known = (labels for other in others if (labels := getattr(other, name)) is not None)
        if getattr(first, name) is None and (labels := next(known, None)) is not None:
            lacking[name] = labels
    return replace(first, **lacking) if lacking else first


def matched(seeds: Sequence[Curve]) -> tuple[Curve, ...]:
    """Seeds with their documents in the first one's order; the first has all known labels."""
    first = seeds[0]
    if len(seeds) == 1 or first.outcomes is None:
        return tuple(seeds)
    others = [align(first, other) for other in seeds[1:]]
    return (labelled(first, others), *others)
