"""A study, resolved once: bases × tasks × recipes × seeds, and the adapters that follow.

What cannot be resolved is refused by its key.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from msgspec import structs, to_builtins

from aurac.adapters import Adapter, Factors
from aurac.adapters.cut import cuts_of
from aurac.adapters.nesting import named_ranks
from aurac.adapters.truncate import check_cut, default_rescale
from aurac.curves.curve import Curve
from aurac.curves.question import ALL_PAIRS
from aurac.errors import DataError, RecipeError
from aurac.records.run import StoredRun
from aurac.runs.settings import Settings
from aurac.study.file import GRID, Cut, Primary, Search, StudyFile, read_study, refused_at
from aurac.training.data import identified, located_data
from aurac.training.recipe import Recipe, family_members, make_recipe, tails

RUN, SEARCH = "run", "search"  # below the folder of a part
_OF_THE_STUDY = {"checkpoints", "tasks", "base", "ranks", "basis", "rescale", "split", "groups"}
_OF_THE_STUDY |= {"margin", "reference", "device", "out"}
_OPTIONS = [name for name in Settings.__struct_fields__ if name not in _OF_THE_STUDY]

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
        folder: Where it is saved, below the study's; equal trainings share it.
        trainings: What is trained, in this order; of cuts that are trained on their source before.
        asked: The settings of its evaluation.
        where: `run`, or of a trial `search`.
        point: The value of each searched field.
    """

    plan: Plan
    name: str
    recipe: Recipe
    ranks: tuple[int, ...]
    folder: str
    trainings: tuple[Training, ...]
    asked: Settings
    where: str
    point: Point

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
            every = {each.name: each.split or 0 for each in run.tasks}
            asked = self.asked.count(self.plan.task, every.get(self.plan.task, 0))
            known = {(x.basis, x.rescale): x for x in whole if len(x.doc_ids or ()) >= asked}
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
        fields: Of the recipe, with its base, its folder and the hash of its data.
        seeds: Those that are trained.
        family: Whether one adapter is trained for each rank.
        source: The recipe whose cuts are trained on.
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
    asked: Settings
    search: Search
    points: tuple[Point, ...] = ()
    cuts: tuple[Cut, ...] = ()

    def adapter(self, seed: int, chosen: Chosen) -> Planned:
        """One seed, with the settings that were chosen for it."""
        point, ranks = chosen.get((self.task, self.group), {}), self.asked.ranks
        values = {**self.fields, **point, "name": self.name, "seed": seed}
        source = self.source and self.source.adapter(seed, chosen)
        with refused_at(" ".join([f"recipes.{self.group} on {self.task}", *words_of(point)])):
            if source:
                ((_, recipe),) = tails(source.recipe, "svd", source.ranks[-1:], values)
            else:
                recipe = make_recipe(values)
        if isinstance(ranks, str):
            ranks = named_ranks(ranks, recipe.rank)
        if ranks[-1] > recipe.rank:
            raise RecipeError(
                f"ranks: {ranks[-1]} is above {recipe.rank}, the rank of {self.group}"
            )
        kind, trainings = "-family" if self.family else "", source.trainings if source else ()
        folder = f"adapters/{recipe.method}-{recipe.sha256[:10]}{kind}-seed{seed}"
        start = trainings[-1].folder if trainings else None
        members = family_members(recipe, ranks) if self.family else [("", recipe)]
        for label, member in members:
            trainings += (Training(f"{folder}/{label}".removesuffix("/"), member, start),)
        name = f"{self.name}-seed{seed}"
        return Planned(self, name, recipe, ranks, folder, trainings, self.asked, RUN, point)

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


def load_study(path: str | Path) -> Study:
    """Read a study, and refuse by the path of its key whatever in it cannot be resolved.

    Raises:
        RecipeError: The file cannot be read, has an unknown or missing key, a value out of range,
            a name that stands for nothing, or data that are not there.
    """
    file = read_study(path := Path(path))
    with refused_at(path):
        return Study(path, file, _Resolver(path, file).parts())


class _Resolver:
    """Merges the fields of a file, and checks what they say together.

    Attributes:
        told: The file in plain values, without what it does not set.
        groups: The recipes, each after the one that it goes on from.
        hashes: What data are called → the hash of their rows.
    """

    def __init__(self, path: Path, file: StudyFile) -> None:
        self.path, self.file, self.told = path, file, to_builtins(file)
        self.groups = sorted(file.recipes, key=lambda name: "from" in self.told["recipes"][name])
        self.bases = file.base if isinstance(file.base, dict) else {"": file.base}
        shots = file.options.get("num_fewshot")
        self.shots = [*dict.fromkeys(shots)] if shots and isinstance(shots, list) else [shots]
        self.hashes = dict[tuple[str, ...], str]()

    def parts(self) -> list[Part]:
        """Each base with each number of few-shot examples."""
        file = self.file
        _check_known("labels", file.labels, file.recipes)
        _check_known("reference", {file.reference} - {None, ALL_PAIRS}, file.recipes)
        for name, own in self.told["recipes"].items():
            _check_known(f"recipes.{name}.from", {own.get("from", name)}, file.recipes)
        for name, task in file.tasks.items():
            _check_known(f"tasks.{name}.recipes", task.recipes, file.recipes)
            _check_known(f"tasks.{name}.bases", task.bases, self.bases)
        parts = [self._part(alias, shots) for alias in self.bases for shots in self.shots]
        for i, pair in enumerate(file.primary):
            _declare(pair, parts, f"primary[{i}]")
        return parts

    def _part(self, alias: str, shots: int | None) -> Part:
        tasks, several = self.file.tasks, f"{shots}shot" if len(self.shots) > 1 else ""
        part = Part("-".join(filter(None, (alias, several))), {}, [])
        there = [name for name, task in tasks.items() if alias in (task.bases or self.bases)]
        asked = {name: self._asked(alias, shots, name) for name in there}
        for group, task in itertools.product(self.groups, there):
            if group in (tasks[task].recipes or self.groups):
                plans = part.groups.setdefault(group, {})
                plans[task] = self._plan(part, alias, group, asked[task])
                if len({plan.cuts for plan in plans.values()}) > 1:
                    raise RecipeError(f"recipes.{group}.cuts: {task} has others: name them")
        return part

    def _plan(self, part: Part, alias: str, group: str, asked: Settings) -> Plan:
        """A recipe on a task, with the fields of the study, the task, the recipe and both."""
        (task,) = asked.tasks
        of, own = self.told["tasks"][task], self.told["recipes"][group]
        here = of["recipes"].get(group, {})
        layers = {"recipe": self.told["recipe"], f"tasks.{task}.recipe": of["recipe"]}
        layers |= {f"recipes.{group}": own, f"tasks.{task}.recipes.{group}": here}
        at = {name: f"{key}.{name}" for key, each in layers.items() for name in each}
        fields = {name: value for each in layers.values() for name, value in each.items()}
        start, family = fields.pop("from", None), fields.pop("family", False)
        source = part.groups.get(start, {}).get(task)
        if start and (source is None or source.source):
            raise RecipeError(f"{at['from']}: {start} is not trained from its beginning on {task}")
        for name in ("method", "rank", "cuts") if start else ("cuts",) if family else ():
            if name in own | here:
                raise RecipeError(f"{at[name]}: a family has its own")
            fields.pop(name, None)
        cuts, seeds = fields.pop("cuts", ()), fields.pop("seeds", self.file.seeds)
        seeds, search = tuple(dict.fromkeys(seeds)), self.file.search or Search()
        trained_for = task if self.file.search or of["recipe"] or here else ""
        name = "-".join(filter(None, (alias, trained_for, group)))
        fields |= {"base": self.bases[alias], "folder": self.path.parent}
        family = family or source is not None
        plan = Plan(task, group, name, fields, seeds, family, source, asked, search)
        made = plan.adapter(seeds[0], {})
        with refused_at(at["data" if made.recipe.data else "task"]):
            fields = {**fields, "data_sha256": self._contents(made.recipe)}
        outlined = outline(made.trainings[-1].recipe)
        with refused_at(at.get("cuts")):
            for cut in cuts:
                check_cut(outlined, *cut)
        if plan.family:
            cuts = [("prefix", default_rescale(outlined))]
        cuts = tuple(dict.fromkeys(cuts or cuts_of(outlined)))
        plan = replace(plan, fields=fields, cuts=cuts)
        return replace(plan, points=self._points(plan, own | here))

    def _points(self, plan: Plan, special: Collection[str]) -> tuple[Point, ...]:
        """The settings that are tried: of the fields that the recipe does not set."""
        told = self.told["search"] or {}
        grid = {name: told[name] for name in told if name in GRID and name not in special}
        if not self.file.search or not (grid or len(plan.cuts) > 1):
            return ()
        values = itertools.product(*grid.values())
        points = tuple(dict(zip(grid, each, strict=True)) for each in values)
        for point in points:
            if plan.search.at not in ("aurac", *plan.trial(point, {}).ranks):
                raise RecipeError(f"search.at: rank {plan.search.at} is not in ranks")
        return points

    def _contents(self, recipe: Recipe) -> str:
        """The hash of a recipe's data; of data that are not there the one that the file names."""
        data = recipe.task, recipe.data, recipe.data_sha256
        if data not in self.hashes:
            with suppress(*([DataError] if recipe.data_sha256 else [])):
                recipe = identified(recipe)
            self.hashes[data] = recipe.data_sha256
        return self.hashes[data]

    def _asked(self, alias: str, shots: int | None, task: str) -> Settings:
        """How a task is evaluated: folders as they are found beside the study."""
        of = {"options": {**self.file.options, "num_fewshot": shots}}
        of[f"tasks.{task}.options"] = self.file.tasks[task].options
        options: dict[str, Any] = {"base": self.bases[alias], "ranks": self.file.ranks}
        for key, given in of.items():
            _check_known(key, given, _OPTIONS)
            options |= given
            with refused_at(key):
                asked = Settings.of("ADAPTER", task, **options)
        beside, include = self.path.parent, asked.include_path
        data = {name: str(located_data(at, beside)) for name, at in asked.data.items()}
        include = include and str(located_data(include, beside))
        return structs.replace(asked, data=data, include_path=include)


def _check_known(at: str, names: Collection[str | None], there: Collection[str]) -> None:
    """Refuse a name that stands for nothing."""
    for name in names:
        if name not in there:
            raise RecipeError(f"{at}: there is no {name}, only {', '.join(there)}")


def _declare(pair: Primary, parts: Sequence[Part], at: str) -> None:
    """Add a declared comparison to each part that has both of its recipes on a task."""
    if pair.a == pair.b:
        raise RecipeError(f"{at}: {pair.a} is compared with itself")
    of = [[part.groups.get(name, {}).keys() for name in (pair.a, pair.b)] for part in parts]
    there = [part for part, (a, b) in zip(parts, of, strict=True) if a & b]
    if not there:
        raise RecipeError(f"{at}: no task has both {pair.a} and {pair.b}")
    for part in there:
        part.primary.append(pair)
        for name in (pair.a, pair.b):
            cuts = next(iter(part.groups[name].values())).cuts
            if pair.cut not in (None, *cuts):
                raise RecipeError(f"{at}.cut: {name} is cut by {', '.join(map(' '.join, cuts))}")


def outline(recipe: Recipe) -> Adapter:
    """An adapter of a recipe with one tiny module."""
    A, B = torch.empty(recipe.rank, 1), torch.empty(1, recipe.rank)
    factors = Factors(A, B, alpha=recipe.alpha, rule=recipe.scaling)
    return Adapter(recipe.name, {"module": factors}, recipe.nesting, folded=True)


def words_of(point: Point) -> list[str]:
    """A setting as it stands in names."""
    return [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in point.items()]
