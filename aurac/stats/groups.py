"""Arms: the curves that are training seeds of one recipe, ready to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.area import document_areas
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats.mean import (
    Layout,
    layout_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from aurac.curves.curve import Curve
    from aurac.stats.mean import Layout


def shared_ranks(a: Curve, b: Curve, support: str | None) -> tuple[int, ...]:
    """The ranks on which two curves are compared.

    Args:
        a: One curve.
        b: The other.
        support: None refuses unequal grids; "common" takes the ranks that both have.

    Raises:
        CurveError: Unequal grids without "common", or fewer than two common ranks.
    """
    if support not in (None, "common"):
        raise CurveError(f"support {support!r}", expected="None or 'common'")
    for curve in (a, b):
        if curve.missing and support is None:
            rank, reason = next(iter(curve.missing.items()))
            raise CurveError(
                f"{curve.label} has no accuracy at rank {rank} ({reason})",
                fix="compare on support='common'",
            )
    if a.ranks == b.ranks:
        return a.ranks
    if support is None:
        raise CurveError(
            f"{a.label} has ranks {_list(a.ranks)} and {b.label} has {_list(b.ranks)}",
            expected="the same ranks, since the grid changes the area",
            fix="compare on support='common'",
        )
    common = tuple(r for r in a.ranks if r in b.ranks)
    if len(common) < 2:
        raise CurveError(
            f"{a.label} and {b.label} have {len(common)} ranks in common", expected="at least 2"
        )
    return common


def _list(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))


def same_documents(a: Curve, b: Curve) -> NDArray[np.intp] | None:
    """Where each of a's documents stands in b, or None where the order is the same.

    Raises:
        CurveError: No per-document outcomes, another task or metric, other documents, or the same
            identities with other contents or prompts.
    """
    for name in ("task", "metric", "prompts"):
        left, right = getattr(a, name), getattr(b, name)
        if left is not None and right is not None and left != right:
            raise CurveError(
                f"{a.label} and {b.label} differ in {name} ({_short(left)} and {_short(right)})",
                expected="the same documents and prompts for both",
            )
    for curve in (a, b):
        if curve.outcomes is None:
            raise CurveError(f"{curve.label} has no per-document outcomes to pair")
    order = _order(a, b)
    _same_labels(a, b, order)
    return order


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:12]}…"


def _order(a: Curve, b: Curve) -> NDArray[np.intp] | None:
    left, right = a.doc_ids, b.doc_ids
    if left is right or left == right:
        if a.n_docs != b.n_docs:
            raise CurveError(
                f"{a.label} has {a.n_docs} documents and {b.label} has {b.n_docs}",
                expected="the same documents for both",
            )
        return None
    if left is None or right is None:
        raise CurveError(
            f"only one of {a.label} and {b.label} says which documents it was evaluated on",
            fix="give doc_ids to both, or to neither and keep the order the same",
        )
    unequal = set(left) ^ set(right)
    if unequal:
        raise CurveError(
            f"{a.label} and {b.label} were evaluated on different documents: {len(unequal)} are in "
            f"only one of them, {min(unequal)!r} among them",
            expected="the same documents for both",
        )
    place = {doc: i for i, doc in enumerate(right)}
    return np.array([place[doc] for doc in left], dtype=np.intp)


def _same_labels(a: Curve, b: Curve, order: NDArray[np.intp] | None) -> None:
    for name in ("doc_hashes", "clusters", "strata"):
        left, right = getattr(a, name), getattr(b, name)
        if left is right or left is None or right is None:
            continue
        if order is not None:
            right = tuple(right[i] for i in order)
        if left != right:
            where = next(i for i, (x, y) in enumerate(zip(left, right, strict=True)) if x != y)
            doc = a.doc_ids[where] if a.doc_ids else where
            raise CurveError(
                f"document {doc!r} has other {name} in {a.label} than in {b.label}",
                expected="the same documents and prompts for both",
            )


def with_labels_of(a: Curve, b: Curve, order: NDArray[np.intp] | None) -> Curve:
    """Curve a with the clusters and strata that only b has, in a's order of the documents."""
    added: dict[str, Any] = {}
    for name in ("clusters", "strata"):
        theirs = getattr(b, name)
        if getattr(a, name) is None and theirs is not None:
            added[name] = theirs if order is None else tuple(theirs[i] for i in order)
    return replace(a, **added) if added else a


def gained_and_lost(
    a: Curve, b: Curve, order: NDArray[np.intp] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Documents on which b scores higher, and lower, at each of the common ranks."""
    if a.outcomes is None or b.outcomes is None:
        raise CurveError("no per-document outcomes to compare")
    ours: NDArray[Any] = a.outcomes
    theirs: NDArray[Any] = b.outcomes
    if a.right is not None and b.right is not None:  # eight times less to read
        ours, theirs = a.right, b.right
    theirs = theirs if order is None else theirs[:, order]
    gained = tuple(int(np.count_nonzero(row)) for row in theirs > ours)
    return gained, tuple(int(np.count_nonzero(row)) for row in theirs < ours)


Groups = Mapping[str, Sequence[str]]


# The clusters, strata and number of the documents → how they hang together.
Layouts = dict[tuple[Any, ...], "Layout"]


@dataclass(eq=False)
class RecipeGroup:
    """One or more curves on one task that differ in the training seed only.

    Attributes:
        name: The adapter's name, or the group's.
        task: The task; None where none is named.
        curves: S curves with the same ranks and documents.
        layouts: Shared by the arms of an analysis, so that labels are encoded once.
    """

    name: str
    task: str | None
    curves: tuple[Curve, ...]
    layouts: Layouts = field(default_factory=dict, repr=False)
    _areas: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    @property
    def first(self) -> Curve:
        """The curve whose document order the arm follows."""
        return self.curves[0]

    @property
    def seeds(self) -> int:
        """S."""
        return len(self.curves)

    @property
    def names(self) -> tuple[tuple[str | None, int | None], ...]:
        """(S,) adapter and seed of each curve, by which tasks are matched."""
        return tuple((c.adapter, c.seed) for c in self.curves)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of all its curves."""
        return self.first.ranks

    @property
    def variant(self) -> str:
        """How it was truncated, in a word: basis and rescale as far as known."""
        return " · ".join(p for p in (self.first.basis, self.first.rescale) if p)

    @property
    def has_documents(self) -> bool:
        """Whether per-document outcomes are known."""
        return all(c.outcomes is not None for c in self.curves)

    @property
    def gap(self) -> str | None:
        """Why there is no area: a missing rank, or too few; None where there is one."""
        for curve in self.curves:
            if curve.missing:
                rank, reason = next(iter(curve.missing.items()))
                return f"no accuracy at rank {rank}: {reason}"
        return None if len(self.ranks) > 1 else f"an area needs two ranks and there is {self.ranks}"

    @property
    def accuracy(self) -> tuple[float, ...]:
        """(K,) mean over seeds."""
        return tuple(map(float, np.mean([c.accuracy for c in self.curves], axis=0)))

    def layout(
        self, other: RecipeGroup | None = None, order: NDArray[np.intp] | None = None
    ) -> Layout:
        """The documents' clusters and strata, with those that only the `other` of a pair knows.

        `order` says where each document stands in the other, as `same_documents` does.
        """
        first = self.first if other is None else with_labels_of(self.first, other.first, order)
        key = (first.clusters, first.strata, first.n_docs)
        if key not in self.layouts:
            self.layouts[key] = layout_of(first)
        return self.layouts[key]

    def areas(self, axis: str) -> NDArray[np.float64]:
        """(S, n) AURAC of every document under every seed, in the first curve's order."""
        if axis not in self._areas:
            rows = []
            for curve in self.curves:
                order = same_documents(self.first, curve)
                row = document_areas(curve, axis)
                rows.append(row if order is None else row[order])
            self._areas[axis] = np.stack(rows)
        return self._areas[axis]

    def at(self, ranks: Sequence[int]) -> RecipeGroup:
        """The same arm at some of its ranks."""
        if tuple(ranks) == self.ranks and self.gap is None:
            return self
        return RecipeGroup(
            self.name, self.task, tuple(c.at(ranks) for c in self.curves), self.layouts
        )


def gather(curves: Sequence[Curve], groups: Groups | None = None) -> list[RecipeGroup]:
    """Curves → arms, in the order in which they were given.

    Curves of one adapter (or group), task, metric, basis and rescale are seeds of one arm, in the
    order of their adapters and seeds, whichever order they were given in.

    Args:
        curves: At least one.
        groups: ``arm name -> adapter names`` for checkpoints that are seeds of one recipe.

    Raises:
        CurveError: No curves, an unknown or repeated name in `groups`, a curve that appears twice,
            or seeds with unequal ranks or documents.
    """
    if not curves:
        raise CurveError("no curves", expected="at least one")
    names = check_groups(groups or {}, (curve.adapter for curve in curves))
    result: dict[tuple[str | None, ...], list[Curve]] = {}
    for curve in curves:
        name = names.get(curve.adapter or "", curve.adapter or "adapter")
        key = (name, curve.task, curve.metric, curve.basis, curve.rescale)
        result.setdefault(key, []).append(curve)
    several = _several_metrics(curves)
    layouts: Layouts = {}
    arms = []
    for (arm, task, metric, *_), members in result.items():
        members.sort(key=lambda c: (c.adapter or "", c.seed is None, c.seed or 0))
        _check_seeds(str(arm), members, grouped=arm in (groups or {}))
        for other in members[1:]:
            if members[0].outcomes is not None:
                order = same_documents(members[0], other)
                members[0] = with_labels_of(members[0], other, order)
        shown = f"{task} ({metric})" if task in several and metric else task
        arms.append(RecipeGroup(str(arm), shown, tuple(members), layouts))
    return arms


def check_groups(groups: Groups, known: Iterable[str | None]) -> dict[str, str]:
    """Adapter → the group it is in.

    Raises:
        CurveError: A group names an adapter that is not there, or two name the same.
    """
    names: dict[str, str] = {}
    known = set(known)
    for group, members in groups.items():
        for member in members:
            if member not in known:
                raise CurveError(
                    f"group {group} names {member!r}",
                    expected=f"one of {', '.join(sorted(str(k) for k in known))}",
                )
            if member in names:
                raise CurveError(f"{member!r} is in two groups, {names[member]} and {group}")
            names[member] = group
    return names


def _several_metrics(curves: Sequence[Curve]) -> set[str | None]:
    metrics: dict[str | None, set[str | None]] = {}
    for curve in curves:
        metrics.setdefault(curve.task, set()).add(curve.metric)
    return {task for task, result in metrics.items() if len(result) > 1}


def _check_seeds(name: str, members: Sequence[Curve], *, grouped: bool) -> None:
    first = members[0]
    seeds = [c.seed for c in members]
    if len(members) > 1 and not grouped and (None in seeds or len(set(seeds)) < len(seeds)):
        raise CurveError(
            f"{first.label} appears {len(members)} times",
            expected="one curve for each adapter and task, or different seeds",
            fix="name the adapters apart, or give each its seed",
        )
    for other in members[1:]:
        if other.ranks != first.ranks:
            raise CurveError(
                f"the seeds of {name} have ranks {first.ranks} and {other.ranks}",
                expected="the same ranks for every seed",
            )
        if first.outcomes is not None:
            same_documents(first, other)
        elif len(members) > 1 and other.outcomes is not None:
            raise CurveError(f"only some seeds of {name} have per-document outcomes")
