"""A study, resolved once: bases × tasks × recipes × seeds, and the adapters that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from msgspec import structs

from aurac.adapters import Adapter, Factors
from aurac.adapters.nesting import named_ranks
from aurac.curves.curve import Curve
from aurac.errors import RecipeError
from aurac.records.run import StoredRun
from aurac.runs.settings import Settings
from aurac.study.file import Cut, Primary, Search, StudyFile
from aurac.training.recipe import Recipe, family_members, make_recipe, tails

RUN, SEARCH = "run", "search"  # below the folder of a part

Point = Mapping[str, Any]  # a setting of each searched field
Chosen = Mapping[tuple[str, str], Point]  # task and recipe → what a search has chosen


class Training(NamedTuple):
    """One adapter to train.

    Attributes:
        folder: Where it is saved, below the study's.
        recipe: How it is trained, with its seed and the hash of its data.
        start: The folder of the adapter from whose cut by SVD it goes on.
    """

    folder: str
    recipe: Recipe
    start: str | None = None


@dataclass(frozen=True)
class Planned:
    """An adapter of a study: one seed of a recipe on a task, or a trial of a search.

    Attributes:
        plan: What it shares with the other seeds.
        name: Unique in its part of the study.
        recipe: How it is trained; of a family at the largest rank.
        ranks: At which it is evaluated.
        source: The adapter whose cuts are trained on.
        asked: The settings of its evaluation.
        where: `run`, or of a trial `search`.
        point: The value of each searched field.
    """

    plan: Plan
    name: str
    recipe: Recipe
    ranks: tuple[int, ...]
    source: Planned | None
    asked: Settings
    where: str
    point: Point

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
        start = before[-1].folder if before else None
        members = family_members(self.recipe, self.ranks)
        return [*before, *(Training(f"{self.folder}/{name}", x, start) for name, x in members)]

    def stored(self, run: StoredRun) -> dict[Cut, Curve]:
        """Its curves in a run that has all of its cells, as they are asked for; else none.

        Adapters are recognised by the hash of their recipe and their seed.
        """
        made = self.trainings[-1].recipe.sha256, self.recipe.seed, self.plan.family
        for adapter in run.adapters:
            by = (adapter.recipe or {}).get("sha256")
            if made != (by, adapter.seed, adapter.format == "family"):
                continue
            mine = (x for x in run.curves if (x.adapter, x.task) == (adapter.name, self.plan.task))
            whole = [x for x in mine if set(self.ranks) <= set(x.ranks) and not x.missing]
            known = {(x.basis, x.rescale): x for x in whole if run.limited(x, self.asked.limit)}
            if known.keys() >= {*self.plan.cuts}:
                return {cut: known[cut] for cut in self.plan.cuts}
        return {}


@dataclass(frozen=True)
class Plan:
    """A recipe on a task of a part: what all of its seeds and trials share.

    Attributes:
        task: lm-eval's name.
        group: The recipe's name in the study.
        name: What its adapters are called before their seeds.
        fields: Of the recipe, with its base and the hash of its data.
        seeds: Those that are trained.
        family: Whether one adapter is trained for each rank.
        source: The recipe whose cuts are trained on.
        beside: The folder of the study's file.
        asked: The settings of its evaluation, with the ranks as the study names them.
        search: How a setting is chosen.
        points: The settings that are tried; empty: there is nothing to choose.
        cuts: Those that are evaluated, the same on every task.
    """

    task: str
    group: str
    name: str
    fields: Mapping[str, Any]
    seeds: tuple[int, ...]
    family: bool
    source: Plan | None
    beside: Path
    asked: Settings
    search: Search
    points: tuple[Point, ...] = ()
    cuts: tuple[Cut, ...] = ()

    def adapter(self, seed: int, chosen: Chosen) -> Planned:
        """One seed, with the settings that were chosen for it."""
        point, ranks = chosen.get((self.task, self.group), {}), self.asked.ranks
        values = {**self.fields, **point, "name": self.name, "seed": seed}
        if source := self.source and self.source.adapter(seed, chosen):
            ((_, recipe),) = tails(source.recipe, "svd", source.ranks[-1:], values)
        else:
            recipe = make_recipe(values)
        if isinstance(ranks, str):
            ranks = named_ranks(ranks, recipe.rank)
        if ranks[-1] > recipe.rank:
            raise RecipeError(f"ranks: {ranks[-1]} is above {recipe.rank}, the recipe's rank")
        recipe, name = replace(recipe, folder=self.beside), f"{self.name}-seed{seed}"
        return Planned(self, name, recipe, ranks, source, self.asked, RUN, point)

    def trial(self, point: Point, chosen: Chosen) -> Planned:
        """The adapter on which a setting is tried."""
        made = self.adapter(self.search.seed, {**chosen, (self.task, self.group): point})
        name, of = " ".join([made.name, *words_of(point)]), self.search
        asked = structs.replace(self.asked, split=of.split, limit=of.limit)
        return replace(made, name=name, asked=asked, where=SEARCH)


class Part(NamedTuple):
    """One base and number of few-shot examples of a study: a run folder and a report.

    Attributes:
        name: Of its folder; empty where it is the only one.
        groups: Recipe → task → its plan; a recipe comes after the one that it goes on from.
        primary: The declared comparisons of which a task has both recipes.
    """

    name: str
    groups: dict[str, dict[str, Plan]]
    primary: list[Primary]


class Study(NamedTuple):
    """An experiment, as all of aurac reads it.

    Attributes:
        path: Where its file is.
        file: What this says of the whole: name, question, labels, margin, reference.
        parts: Each base with each number of few-shot examples.
    """

    path: Path
    file: StudyFile
    parts: list[Part]


def outline(recipe: Recipe) -> Adapter:
    """An adapter of a recipe with one tiny module."""
    A, B = torch.empty(recipe.rank, 1), torch.empty(1, recipe.rank)
    factors = Factors(A, B, alpha=recipe.alpha, rule=recipe.scaling)
    return Adapter(recipe.name, {"module": factors}, recipe.nesting, folded=True)


def words_of(point: Point) -> list[str]:
    """A setting as it stands in names."""
    return [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in point.items()]
