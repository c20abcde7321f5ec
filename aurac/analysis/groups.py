"""Recipe groups: the curves that are training seeds of one recipe, and what groups have in common.

`gather` brings the seeds of a group, and `together` several groups, into one order of the
documents (`aurac.curves.matching`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.arguments import suggestion
from aurac.curves.area import AXES, BUDGETS, Span, curve_weights, document_areas, shared_span
from aurac.curves.coerce import as_curve
from aurac.curves.display import counted
from aurac.curves.matching import align, labelled, matched, ordered_like, told_apart
from aurac.curves.names import common_name, curve_names
from aurac.errors import CurveError
from aurac.stats.mean import layout_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from aurac.curves.curve import Curve
    from aurac.stats.mean import Layout

Groups = Mapping[str, Sequence[str]]
"""Name of a group → names of the adapters in it."""


@dataclass(eq=False)
class RecipeGroup:
    """One or more curves on one task that differ in the training seed only.

    Attributes:
        name: The adapter's name, or the group's.
        task: The task; None where none is named.
        curves: S curves with the same ranks, and the same documents in the same order.
        span: The amounts of a budget that areas over it are about; None: all its curves share.
    """

    name: str
    task: str | None
    curves: tuple[Curve, ...]
    span: Span | None = None
    _areas: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    @property
    def first(self) -> Curve:
        """The first seed's curve."""
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
    def truncation(self) -> str:
        """Basis and rescale as far as known, such as "prefix · trained"."""
        return " · ".join(p for p in (self.first.basis, self.first.rescale) if p)

    @property
    def way(self) -> tuple[str, str]:
        """Its name, and its truncation."""
        return self.name, self.truncation

    @property
    def label(self) -> str:
        """Its name with its truncation."""
        return " · ".join(part for part in self.way if part)

    @property
    def has_documents(self) -> bool:
        """Whether per-document outcomes are known."""
        return all(c.outcomes is not None for c in self.curves)

    @property
    def gap(self) -> str | None:
        """Why there is no area: a missing rank, or too few; None where there is one."""
        if self.absent or len(self.ranks) > 1:
            return self.absent
        known = f"only rank {self.ranks[0]}" if self.ranks else "none"
        return f"an area needs two ranks, and there is {known}"

    @property
    def absent(self) -> str | None:
        """That a rank has no accuracy, and why; None where each has."""
        missing = next((curve.missing for curve in self.curves if curve.missing), {})
        for rank, reason in missing.items():
            return f"no accuracy at rank {rank}: {reason}"
        return None

    @property
    def lost(self) -> str | None:
        """That the largest rank has no accuracy, and why; None where it has."""
        absent = {r: why for c in self.curves for r, why in c.missing.items()}
        if not absent or (self.ranks and max(absent) < max(self.ranks)):
            return None
        return f"no accuracy at rank {max(absent)}: {absent[max(absent)]}"

    @property
    def accuracy(self) -> tuple[float, ...]:
        """(K,) mean over seeds."""
        return tuple(map(float, np.mean([c.accuracy for c in self.curves], axis=0)))

    @property
    def layout(self) -> Layout:
        """The documents' clusters and strata."""
        return layout_of(self.first)

    def areas(self, axis: str) -> NDArray[np.float64]:
        """(S, n) AURAC of every document under every seed."""
        if axis not in self._areas:
            span = self.span_on(axis)
            self._areas[axis] = np.stack([document_areas(c, axis, span) for c in self.curves])
        return self._areas[axis]

    def drawn_areas(self, axis: str) -> NDArray[np.float64] | None:
        """(N, n) the same for each draw of the few-shot examples, mean over seeds; None without."""
        span = self.span_on(axis)
        parts = [
            np.einsum("k,dkn->dn", curve_weights(c, axis, span), c.draws)
            for c in self.curves
            if c.draws is not None
        ]
        same = len(parts) == self.seeds and len({part.shape for part in parts}) == 1
        return np.mean(parts, axis=0) if same else None

    def point(self, axis: str) -> float:
        """AURAC of the mean over seeds, which needs no documents."""
        span = self.span_on(axis)
        points = [curve_weights(c, axis, span) @ np.asarray(c.accuracy) for c in self.curves]
        return float(np.mean(points))

    def span_on(self, axis: str) -> Span | None:
        """The amounts that the area is over, for a budget; None over ranks."""
        if axis in AXES:
            return None
        return self.span or shared_span(self.curves, axis)

    def over(self, span: Span) -> RecipeGroup:
        """The same group, its areas over amounts of a budget, at the ranks that it has."""
        return replace(self, curves=self.at(self.ranks).curves, span=span, _areas={})

    def scores(self, rank: int) -> NDArray[np.float64]:
        """(S, n) scores of every document under every seed at one rank."""
        rows = []
        for curve in self.curves:
            if rank not in curve.ranks:
                why = curve.missing.get(rank, "it was not evaluated")
                raise CurveError(f"{curve.label} has no accuracy at rank {rank} ({why})")
            if curve.outcomes is None:
                raise CurveError(f"{curve.label} has no per-document outcomes")
            rows.append(curve.outcomes[curve.ranks.index(rank)])
        return np.stack(rows)

    def like(self, first: Curve) -> RecipeGroup:
        """The same group with its documents in the order of a curve; refused where they differ."""
        curves = tuple(align(first, curve) for curve in self.curves)
        same = all(new is old for new, old in zip(curves, self.curves, strict=True))
        return self if same else replace(self, curves=curves, _areas={})

    def at(self, ranks: Sequence[int]) -> RecipeGroup:
        """The same group at some of its ranks."""
        if tuple(ranks) == self.ranks and self.gap is None:
            return self
        return replace(self, curves=tuple(c.at(ranks) for c in self.curves), _areas={})


def gather(curves: Sequence[Curve], groups: Groups | None = None) -> list[RecipeGroup]:
    """Curves → recipe groups, in the order in which they were given.

    Curves of one adapter (or group), task, metric, basis and rescale are seeds of one recipe, in
    the order of their adapters and seeds, whichever order they were given in. The documents of all
    groups of a task are in the order of its first curve, where they are the same documents.

    Args:
        curves: At least one.
        groups: ``name -> adapter names`` for checkpoints that are seeds of one recipe.

    Raises:
        CurveError: No curves, an unknown or repeated name in `groups`, a curve that appears twice,
            or seeds with unequal ranks or documents.
    """
    if not curves:
        raise CurveError("no curves", expected="at least one")
    names = check_groups(groups or {}, (curve.adapter for curve in curves))
    members: dict[tuple[str | None, ...], list[Curve]] = {}
    for curve in curves:
        label = names.get(curve.adapter or "", curve.adapter or "adapter")
        key = (label, curve.task, curve.metric, curve.basis, curve.rescale)
        members.setdefault(key, []).append(curve)
    metrics: dict[str | None, set[str | None]] = {}
    for curve in curves:
        metrics.setdefault(curve.task, set()).add(curve.metric)
    leading: dict[tuple[str | None, str | None], Curve] = {}
    result = []
    for (name, task, metric, *_), same in members.items():
        same.sort(key=lambda c: (c.adapter or "", c.seed is None, c.seed or 0))
        seeds = _where_all_are(same)
        _check_seeds(str(name), seeds, grouped=name in (groups or {}))
        seeds[0] = ordered_like(leading.setdefault((task, metric), seeds[0]), seeds[0])
        shown = f"{task} ({metric})" if len(metrics[task]) > 1 and metric else task
        result.append(RecipeGroup(str(name), shown, matched(seeds)))
    return result


def group_of(curves: Any, default: str = "adapter") -> RecipeGroup:
    """One recipe group of a curve, or of a list of them that are its training seeds.

    Args:
        curves: What `as_curve` accepts, or a list of such.
        default: Name of the group where its first curve names no adapter; that of several is what
            their names have in common.

    Raises:
        CurveError: No curves, or they cannot be seeds of one recipe.
    """
    several = curves if isinstance(curves, (list, tuple)) else [curves]
    if not several:
        raise CurveError(f"no curves for {default}", expected="at least one")
    seeds = _where_all_are([as_curve(curve) for curve in several])
    _check_one_recipe(seeds)
    _check_seeds(seeds[0].label, seeds, grouped=True)
    names = dict.fromkeys(curve.adapter or default for curve in seeds)
    name = common_name(names) if len(names) > 1 else seeds[0].adapter or default
    return RecipeGroup(name, seeds[0].task, matched(seeds))


def defaults(groups: Sequence[RecipeGroup]) -> tuple[list[RecipeGroup], list[RecipeGroup]]:
    """Each adapter's default truncation on a task, and its other truncations.

    The default is the one whose curves have that role; the first one where none has.
    """
    chosen: dict[tuple[str, str | None], RecipeGroup] = {}
    for group in sorted(groups, key=lambda group: group.first.role != "default"):
        chosen.setdefault((group.name, group.task), group)
    default = [group for group in groups if chosen[group.name, group.task] is group]
    return default, [group for group in groups if group not in default]


def together(
    groups: Sequence[RecipeGroup], support: str | None = None, axis: str = "log2"
) -> list[RecipeGroup]:
    """Groups on the ranks and documents that they share, ready to be compared document by document.

    Args:
        groups: Of one task; the first one's order of documents is kept.
        support: As of `on_shared_axis`.
        axis: As of `on_shared_axis`.

    Returns:
        As many groups with the same ranks (or amounts of a budget), the documents in the same
        order, and the clusters and strata that any of them knows.

    Raises:
        CurveError: Ranks, documents, prompts, task or metric differ; says where.
    """
    first, *others = on_shared_axis(groups, axis, support)
    result = [first, *(group.like(first.first) for group in others)]
    firsts = [group.first for group in result]
    for place, group in enumerate(result):
        first_curve = labelled(group.first, firsts)
        if first_curve is not group.first:  # the areas stay
            result[place] = replace(group, curves=(first_curve, *group.curves[1:]))
    return result


def on_shared_axis(
    groups: Sequence[RecipeGroup], axis: str, support: str | None = None
) -> list[RecipeGroup]:
    """Groups on what they share of an axis: ranks, or amounts of a budget.

    Args:
        groups: Two or more of one task.
        axis: Over ranks all get the same ranks. Over a budget each keeps its own, and areas are
            over the amounts that all were measured at.
        support: None refuses unequal ranks and missing ones; "common" takes those that all have,
            over a budget those that each has.

    Raises:
        CurveError: There is too little in common.
    """
    firsts = [group.first for group in groups]
    _check_support(firsts, support)
    if axis not in BUDGETS:
        ranks = _shared_ranks(firsts, support)
        return [group.at(ranks) for group in groups]
    span = shared_span([curve for group in groups for curve in group.curves], axis)
    return [group.over(span) for group in groups]


_COMMON = "evaluate both at the same, or --support common of `aurac score` takes those they share"


def _shared_ranks(curves: Sequence[Curve], support: str | None) -> tuple[int, ...]:
    first = curves[0]
    other = next((curve for curve in curves if curve.ranks != first.ranks), None)
    if other is None:
        return first.ranks
    if support is None:
        shown = [", ".join(map(str, curve.ranks)) for curve in (first, other)]
        shared = set(first.ranks) & set(other.ranks)
        one, another = told_apart(first, other)
        raise CurveError(
            f"{one} has ranks {shown[0]} and {another} has {shown[1]}",
            expected="the same ranks, since the grid changes the area",
            fix=_COMMON if len(shared) > 1 else None,
        )
    common = tuple(r for r in first.ranks if all(r in curve.ranks for curve in curves))
    if len(common) < 2:
        labels = " and ".join(curve.label for curve in curves)
        raise CurveError(f"{labels} share {counted(len(common), 'rank')}", expected="at least 2")
    return common


def _check_support(curves: Sequence[Curve], support: str | None) -> None:
    if support not in (None, "common"):
        raise CurveError(f"support {support!r}", expected="None or 'common'")
    for curve in curves:
        if curve.missing and support is None:
            rank, reason = next(iter(curve.missing.items()))
            raise CurveError(
                f"{curve.label} has no accuracy at rank {rank} ({reason})",
                fix=_COMMON,
            )


def check_groups(groups: Groups, known: Iterable[str | None]) -> dict[str, str]:
    """Adapter → the group it is in; refused where it is not there, or in two of them."""
    names: dict[str, str] = {}
    known = set(known)
    for group, members in groups.items():
        if group in known and group not in members:
            raise CurveError(
                f"group {group} has the name of an adapter that is not in it",
                fix="give the group another name with --group NAME=A,B",
            )
        for member in members:
            if member not in known:
                listed = ", ".join(sorted(map(str, known)))
                raise CurveError(f"group {group} names {member!r}", expected=f"one of {listed}")
            if member in names:
                raise CurveError(f"{member!r} is in two groups, {names[member]} and {group}")
            names[member] = group
    return names


def _where_all_are(seeds: list[Curve]) -> list[Curve]:
    """Seeds at the ranks that failed for none of them; a curve keeps why it lacks others.

    Seeds that were planned for different ranks stay as they are.
    """
    planned = {frozenset((*curve.ranks, *curve.missing)) for curve in seeds}
    common = set.intersection(*(set(curve.ranks) for curve in seeds))
    if len(planned) > 1 or not common or all(set(c.ranks) == common for c in seeds):
        return seeds
    return [replace(curve.at(common), missing=curve.missing) for curve in seeds]


def _check_one_recipe(seeds: Sequence[Curve]) -> None:
    """Refuse a list of curves as seeds that has two truncations, or one checkpoint twice."""
    cuts = dict.fromkeys(f"{c.basis} · {c.rescale}" for c in seeds if c.basis and c.rescale)
    given = f"training seeds cut {' and '.join(cuts)}" if len(cuts) > 1 else ""
    named = Counter((c.adapter, c.seed, c.accuracy) for c in seeds if c.adapter)
    if not given and named and max(named.values()) > 1:
        given = f"training seeds with {named.most_common(1)[0][0][0]} twice"
    if given:
        expected = "each checkpoint once, all truncated alike"
        raise CurveError(given, expected=expected, fix="take those with curve.role == 'default'")


def _check_seeds(name: str, seeds: Sequence[Curve], *, grouped: bool) -> None:
    first = seeds[0]
    numbers = [c.seed for c in seeds]
    if len(seeds) > 1 and not grouped and (None in numbers or len(set(numbers)) < len(numbers)):
        raise CurveError(
            f"{first.label} appears {len(seeds)} times",
            expected="one curve for each adapter and task, or different seeds",
            fix="name the adapters apart, give each its seed, or name each source once",
        )
    for other in seeds[1:]:
        if other.ranks != first.ranks:
            raise CurveError(
                f"the seeds of {name} have ranks {first.ranks} and {other.ranks}",
                expected="the same ranks for every seed",
            )
        if first.outcomes is None and other.outcomes is not None:
            raise CurveError(f"only some seeds of {name} have per-document outcomes")


def find_groups(
    name: str,
    default: Sequence[RecipeGroup],
    every: Sequence[RecipeGroup],
    what: str,
    expected: str = "one of ",
) -> list[RecipeGroup]:
    """The group of each task that has a name: an adapter's default truncation, or a truncation.

    Args:
        name: The adapter, the name in tables, or a label as far as it is unique.
        default: Each adapter's default truncation.
        every: These and the others.
        what: What was named, for the error.
        expected: What stands before the names that there are, for the error.

    Raises:
        CurveError: No group of this name, or several truncations.
    """
    shown = curve_names(group.way for group in every)
    found = [g for g in default if g.name == name]
    if found:
        return found  # their truncations may differ from task to task
    found = [g for g in every if shown.get(g.way) == name]
    found = found or [g for g in every if f"{g.label} · ".startswith(f"{name} · ")]
    if len({group.label for group in found}) != 1:
        names = [] if found else [g.name for g in default]  # each is its default truncation
        names += [shown.get(g.way, g.label.removesuffix(" · ")) for g in found or every]
        fix = None if found else suggestion(name.partition("@")[0], names)
        raise CurveError(what, expected=f"{expected}{', '.join(dict.fromkeys(names))}", fix=fix)
    return found
