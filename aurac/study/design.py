"""A study, resolved once: bases × tasks × recipes × seeds, and the adapters that follow."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aurac.adapters import Adapter, Factors
from aurac.adapters.cut import cuts_of
from aurac.adapters.nesting import named_ranks
from aurac.adapters.truncate import Basis, default_rescale
from aurac.curves.question import Key
from aurac.runs.settings import Settings
from aurac.study.file import Cut, Search, StudyFile
from aurac.training.recipe import Recipe, family_members, make_recipe, tails

if TYPE_CHECKING:
    from aurac.curves.curve import Curve
    from aurac.records.run import StoredRun

RUN, SEARCH = "run", "search"  # below the folder of a part

Point = Mapping[str, Any]  # a setting of each searched field
Chosen = Mapping[tuple[str, str], Point]  # task and recipe → what a search has chosen


@dataclass(frozen=True)
class Training:
    """One adapter to train.

    Attributes:
        folder: Where it is saved, below the study's.
        recipe: How it is trained, with its seed and the hash of its data.
        start: The folder of the adapter that it goes on from, and the basis of the cut.
    """

    folder: str
    recipe: Recipe
    start: tuple[str, Basis] | None = None


@dataclass(frozen=True)
class Planned:
    """An adapter of a study: one seed of a recipe on a task, or a trial of a search.

    Attributes:
        plan: What it shares with the other seeds.
        name: Unique in its part of the study.
        recipe: How it is trained; of a family at the largest rank.
        ranks: At which it is evaluated.
        source: The adapter whose cuts are trained on.
    """

    plan: Plan
    name: str
    recipe: Recipe
    ranks: tuple[int, ...]
    source: Planned | None = None

    @property
    def folder(self) -> str:
        """Where it is saved, below the study's folder; equal trainings share it."""
        of, kind = self.recipe, "-family" if self.plan.family else ""
        return f"adapters/{of.method}-{of.sha256[:10]}{kind}-seed{of.seed}"

    @property
    def trainings(self) -> list[Training]:
        """What is trained, in this order; of cuts that are trained on their source before."""
        if not self.plan.family:
            return [Training(self.folder, self.recipe)]
        before = self.source.trainings if self.source else []
        start: tuple[str, Basis] | None = (before[-1].folder, "svd") if before else None
        members = family_members(self.recipe, self.ranks)
        return [*before, *(Training(f"{self.folder}/{name}", x, start) for name, x in members)]

    def stored(self, run: StoredRun, where: str) -> str | None:
        """Its name in a run that has all of its cells, as they are asked for; None otherwise.

        Adapters are recognised by the hash of their recipe and their seed.
        """
        hashes = {self.recipe.sha256, self.trainings[-1].recipe.sha256}
        limit, family = self.plan.asked[where].limit, self.plan.family
        for adapter in run.adapters:
            made_by = (adapter.recipe or {}).get("sha256")
            mine = made_by in hashes and adapter.seed == self.recipe.seed
            if not mine or (adapter.format == "family") != family:
                continue
            curves = [
                c for c in run.curves if (c.adapter, c.task) == (adapter.name, self.plan.task)
            ]
            whole = [c for c in curves if self._covered(c) and run.limited(c, limit)]
            if {(c.basis, c.rescale) for c in whole}.issuperset(self.plan.cuts):
                return adapter.name
        return None

    def _covered(self, curve: Curve) -> bool:
        """Whether a curve has all ranks."""
        return set(self.ranks) <= set(curve.ranks) and not curve.missing


@dataclass(frozen=True)
class Plan:
    """A recipe on a task of a part: what all of its seeds and trials share.

    Attributes:
        task: lm-eval's name.
        group: The recipe's name in the study.
        prefix: What stands before the names of its adapters.
        fields: Of the recipe, with its base and the hash of its data.
        seeds: Those that are trained.
        ranks: As the study names them.
        family: Whether one adapter is trained for each rank.
        source: The recipe whose cuts are trained on.
        beside: The folder of the study's file.
        asked: `run`, and `search` if there is one → the settings of its evaluation.
        grid: Field → the values that are tried; None: there is nothing to choose.
        cuts: Those that are evaluated.
    """

    task: str
    group: str
    prefix: str
    fields: Mapping[str, Any]
    seeds: tuple[int, ...]
    ranks: str | tuple[int, ...]
    family: bool
    source: Plan | None
    beside: Path
    asked: Mapping[str, Settings]
    grid: Mapping[str, Sequence[Any]] | None = None
    cuts: tuple[Cut, ...] = ()

    @property
    def points(self) -> list[Point]:
        """The settings that are tried; none without a search."""
        if self.grid is None:
            return []
        values = itertools.product(*self.grid.values())
        return [dict(zip(self.grid, each, strict=True)) for each in values]

    def adapter(self, seed: int, chosen: Chosen) -> Planned:
        """One seed, with the settings that were chosen for it."""
        name, settings = f"{self.prefix}{self.group}", chosen.get((self.task, self.group), {})
        values = {**self.fields, **settings, "name": name, "seed": seed}
        before = self.source.adapter(seed, chosen) if self.source else None
        if before is None:
            recipe = make_recipe(values)
        else:
            changes = {key: value for key, value in values.items() if key not in ("method", "rank")}
            ranks = _ranks(self.ranks, before.recipe.rank)
            recipe = tails(before.recipe, "svd", ranks, changes)[-1][1]
        recipe, ranks = replace(recipe, folder=self.beside), _ranks(self.ranks, recipe.rank)
        return Planned(self, f"{name}-seed{seed}", recipe, ranks, before)

    def trial(self, seed: int, chosen: Chosen, point: Point) -> Planned:
        """The adapter on which a setting is tried."""
        made = self.adapter(seed, {**chosen, (self.task, self.group): point})
        return replace(made, name=" ".join([made.name, *words_of(point)]))


@dataclass(frozen=True)
class Part:
    """One base and number of few-shot examples of a study: a run folder and a report.

    Attributes:
        name: Of its folder; empty where it is the only one.
        alias: What the study calls the base.
        plans: Every recipe on every task, each after the one that it goes on from.
        primary: The rows of each declared comparison; the cut of one is None if a search finds it.
    """

    name: str
    alias: str
    plans: tuple[Plan, ...]
    primary: list[tuple[Key, Key]] = field(default_factory=list)

    @property
    def groups(self) -> dict[str, list[Plan]]:
        """Recipe → its plans."""
        names = dict.fromkeys(plan.group for plan in self.plans)
        return {name: [plan for plan in self.plans if plan.group == name] for name in names}


@dataclass(frozen=True)
class Study:
    """An experiment, as all of aurac reads it.

    Attributes:
        path: Where its file is.
        file: What this says of the whole: name, question, labels, margin, reference.
        search: How settings are chosen.
        parts: Each base with each number of few-shot examples.
    """

    path: Path
    file: StudyFile
    search: Search | None
    parts: list[Part]


def own_cuts(recipe: Recipe, *, family: bool) -> tuple[Cut, ...]:
    """How `aurac.compare` cuts an adapter of a recipe; each of a family as it was trained."""
    adapter = outline(recipe)
    if family:
        return (("prefix", default_rescale(adapter)),)
    return tuple(cuts_of(adapter))


def outline(recipe: Recipe) -> Adapter:
    """An adapter of a recipe with one tiny module."""
    A, B = torch.empty(recipe.rank, 1), torch.empty(1, recipe.rank)
    factors = Factors(A, B, alpha=recipe.alpha, rule=recipe.scaling)
    return Adapter(recipe.name, {"module": factors}, recipe.nesting, folded=True)


def words_of(point: Point) -> list[str]:
    """A setting as it stands in names."""
    return [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in point.items()]


def _ranks(given: str | tuple[int, ...], rank: int) -> tuple[int, ...]:
    return named_ranks(given, rank) if isinstance(given, str) else tuple(sorted(set(given)))
