"""Curves → rows of tables: training seeds together, examples in one order."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.area import quadrature_weights
from aurac.curves.checks import only
from aurac.curves.names import cut_name
from aurac.curves.question import Key, recipes_of
from aurac.curves.same_examples import in_one_order
from aurac.errors import CurveError
from aurac.stats.estimate import Array, Components, components, minus

if TYPE_CHECKING:
    from aurac.curves.curve import Curve

Groups = Mapping[str, Sequence[str]]


@dataclass(frozen=True, eq=False)
class Row:
    """One adapter, or the training seeds of one recipe, under one cut on one task.

    Attributes:
        key: Unique in its task.
        task: Its name.
        curves: One for each of S seeds, with the same ranks, their examples in one order.
        clusters: (n,) codes of what the task's examples share; None for independent ones.
        first: Whether it is the first cut of its adapter, which needs no name of its own.
    """

    key: Key
    task: str
    curves: tuple[Curve, ...]
    clusters: Any = None
    first: bool = True

    @property
    def name(self) -> str:
        """What people call it, such as "lora" or "lora (prefix)"."""
        return self.key.adapter if self.first else f"{self.key.adapter} ({self.cut})"

    @property
    def method(self) -> str | None:
        """The training method, where all seeds have the same."""
        return only(curve.method for curve in self.curves)

    @property
    def cut(self) -> str | None:
        """How it was truncated, in words."""
        return cut_name(self.key.basis, self.key.rescale, self.method)

    @property
    def about(self) -> dict[str, Any]:
        """The cells that say which row it is."""
        return {"task": self.task, "key": self.key, "cut": self.cut}

    @property
    def seeds(self) -> int:
        """How many training seeds it has, S."""
        return len(self.curves)

    @property
    def checkpoints(self) -> tuple[Hashable, ...]:
        """(S,) adapter and seed of each curve."""
        return tuple((curve.adapter, curve.seed) for curve in self.curves)

    @property
    def trainings(self) -> tuple[Hashable, ...]:
        """(S,) seed and data order of each curve, where both are known."""
        return tuple(
            (c.seed, c.data_order) if c.seed is not None and c.data_order else None
            for c in self.curves
        )

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Ranks that all seeds have, ascending."""
        first, *others = self.curves
        return tuple(r for r in first.ranks if all(r in curve.ranks for curve in others))

    @property
    def lacks(self) -> str | None:
        """What is missing of it, so that it stands below the rows that are compared."""
        for curve in self.curves:
            of = f" of {curve.adapter}" if self.seeds > 1 else ""
            for rank, why in curve.missing.items():
                return f"rank {rank}{of} has no result: {why}"
            if not curve.ranks:
                most = f"{max(curve.fewer.values())} of {len(curve.doc_ids or ())} examples"
                return f"it was asked {most}{of}"
        return None

    @property
    def reason(self) -> str | None:
        """Why it has no area: something is missing, or it has fewer than two ranks."""
        if self.rolling:
            return "a metric such as perplexity has no AURAC"
        few = "AURAC needs two ranks that all seeds have" if self.seeds > 1 else "one rank"
        return self.lacks or (few if len(self.ranks) < 2 else None)

    @property
    def rolling(self) -> bool:
        """Whether its numbers are no fractions, so that they have no area."""
        return any(curve.rolling for curve in self.curves)

    @property
    def trained_rank(self) -> int | None:
        """The rank to which all seeds were trained; where none says it, the largest one."""
        if not any(curve.trained_rank for curve in self.curves):
            return only(max((*c.ranks, *c.missing, *c.fewer)) for c in self.curves)
        return only(curve.trained_rank for curve in self.curves)

    @property
    def examples(self) -> int | None:
        """n; None where only accuracies are known."""
        return self.curves[0].n_docs

    def accuracy(self, rank: int) -> float:
        """Mean over seeds."""
        return float(np.mean([c.accuracy[c.ranks.index(rank)] for c in self.curves]))

    def baseline(self) -> float | None:
        """Mean of the base over the curves that know it."""
        known = [c.baseline for c in self.curves if c.baseline is not None]
        return float(np.mean(known)) if known else None

    def area(self, ranks: Sequence[int], axis: Any = "log2") -> float:
        """AURAC over some of its ranks."""
        weights = quadrature_weights(ranks, axis)
        return float(weights @ [self.accuracy(rank) for rank in ranks])

    def scores(self, ranks: Sequence[int]) -> Array | None:
        """(K, S, n) scores at some ranks; None where only accuracies are known."""
        known = [(curve.ranks, curve.outcomes) for curve in self.curves]
        if any(outcomes is None for _, outcomes in known):
            return None
        each = [np.asarray(scores)[[has.index(r) for r in ranks]] for has, scores in known]
        return np.stack(each, axis=1)

    def areas(self, ranks: Sequence[int], axis: Any = "log2") -> Array | None:
        """(S, n) AURAC of each example over some ranks."""
        scores = self.scores(ranks)
        if scores is None:
            return None
        areas = np.tensordot(quadrature_weights(ranks, axis), scores, axes=1)
        return np.asarray(np.clip(areas, 0.0, 1.0))

    def base_scores(self, scores: Array) -> Array | None:
        """(S, n) scores of the base beside `scores` (S, n); None where the base is not known.

        A base of which only the mean is known is taken to be right where the adapter is wrong.
        """
        if (mean := self.baseline()) is None:
            return None
        places = np.argsort(np.argsort(scores.mean(axis=0), kind="stable"))
        worst = np.clip(mean * places.size - places, 0.0, 1.0)
        known = (curve.base_scores for curve in self.curves)
        return np.stack([worst if base is None else base for base in known])

    def parts(self, values: Array) -> Components:
        """The sources of variance of (..., S, n) numbers; tasks are matched by checkpoint."""
        return components(values, self.clusters, self.checkpoints)

    def shares_examples(self, other: Row) -> bool:
        """Whether two tasks have an example in common, as a group and one of its members do.

        An example of a group is called ``member:id``.
        """
        a, b = self.curves[0], other.curves[0]
        ours, theirs = ({*(curve.doc_ids or ())} for curve in (a, b))
        content, contents = (
            {*zip(curve.doc_ids or (), curve.doc_hashes or (), strict=False)} for curve in (a, b)
        )
        named = {f"{a.task}:{doc}" for doc in ours} & theirs
        renamed = {f"{b.task}:{doc}" for doc in theirs} & ours
        return a.task == b.task or bool(named or renamed or content & contents)


def difference(a: Row, b: Row, left: Array, right: Array) -> Components:
    """The sources of variance of a - b, from their (..., S, n) numbers.

    Over tasks a and b stay in one order, whichever is the better one. Seeds are paired where
    truncations of the same checkpoints are compared, or recipes with the same seeds that had for
    each seed the same data in the same order; else there are two arms.
    """
    places = _pairing(a, b)
    if places is None:
        return minus(a.parts(left), b.parts(right))
    names = [(a.checkpoints[i], b.checkpoints[j]) for i, j in places]
    first, second = zip(*places, strict=True)
    paired = left[..., [*first], :] - right[..., [*second], :]
    return components(paired, a.clusters, names)


def _pairing(a: Row, b: Row) -> list[tuple[int, int]] | None:
    """The places of the seeds that belong together: one checkpoint, or one seed and its data."""
    for ours, theirs in ((a.checkpoints, b.checkpoints), (a.trainings, b.trainings)):
        same = None not in ours and len({*theirs}) == b.seeds and {*ours} == {*theirs}
        if same and 1 < a.seeds == b.seeds:
            return [(place, theirs.index(seed)) for place, seed in enumerate(ours)]
    return None


def gather(curves: Iterable[Curve], groups: Groups) -> list[Row]:
    """The rows, task by task in the order of their curves.

    Curves of one adapter or recipe, task, metric and cut are seeds, in the order of their names.
    A seed of which only fewer examples were asked, at every rank, is a row by itself.

    Args:
        curves: Of one or several tasks.
        groups: Recipe → adapters that are its seeds.

    Raises:
        CurveError: A curve appears twice, or curves of one task are on other examples.
        UsageError: A group names an adapter of which there is no curve, or one of another group.
    """
    every = list(curves)
    recipes = recipes_of(groups, dict.fromkeys(curve.adapter or "" for curve in every))
    tasks = [task for task, _ in {(curve.task, curve.metric) for curve in every}]
    members: dict[tuple[str, Key], list[Curve]] = {}
    first: dict[str, Key] = {}
    for curve in every:
        name = curve.adapter or "adapter"
        name = recipes.get(name, name) if curve.ranks or curve.missing else name
        task = curve.task or "task"
        if tasks.count(curve.task) > 1 and curve.metric:
            task = f"{task} ({curve.metric})"
        key = Key(name, curve.basis, curve.rescale)
        first.setdefault(name, key)
        members.setdefault((task, key), []).append(curve)
    rows = []
    for (task, key), seeds in members.items():
        seeds.sort(key=lambda c: (c.adapter or "", c.seed is None, c.seed or 0))
        for one, other in pairwise(seeds):
            if (one.adapter, one.seed) == (other.adapter, other.seed):
                seed = "" if one.seed is None else f", seed {one.seed},"
                which = f"{one.adapter or 'the adapter'}{seed} on {task}"
                raise CurveError(f"There are two curves of {which} under one cut.")
        rows.append(Row(key, task, tuple(seeds), first=key == first[key.adapter]))
    each_task = dict.fromkeys(row.task for row in rows)
    return [row for t in each_task for row in _on_same_examples([r for r in rows if r.task == t])]


def _on_same_examples(rows: Sequence[Row]) -> list[Row]:
    """The rows of a task with their examples in one order, and their clusters.

    Rows of which only accuracies are known stay as they are.
    """
    known = [c for row in rows for c in row.curves if c.doc_ids or c.outcomes is not None]
    if not known:
        return [*rows]
    placed = dict(zip(known, in_one_order(known), strict=True))
    codes = next((c.cluster_codes for c in placed.values() if c.clusters is not None), None)
    curves = (tuple(placed.get(curve, curve) for curve in row.curves) for row in rows)
    return [replace(row, curves=c, clusters=codes) for row, c in zip(rows, curves, strict=True)]
