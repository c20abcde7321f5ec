"""A study, resolved once: bases × tasks × recipes × seeds, and the adapters that follow.

What cannot be resolved is refused by its key.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
from aurac.readers.data_files import Row
from aurac.records.run import StoredRun
from aurac.runs.settings import Settings
from aurac.study.file import GRID, Primary, Search, StudyFile, Way, read_study, refused_at
from aurac.tasks.listing import is_data
from aurac.training.data import identified, located_data, render, source_rows
from aurac.training.recipe import Recipe, family_members, make_recipe

RUN, SEARCH = "run", "search"  # below the folder of a part
OVER = ("done", "diverged")  # states that need no work
_OPTIONS = {*Settings.__struct_fields__} - {"checkpoints", "tasks", "base", "ranks", "basis"}
_OPTIONS -= {"rescale", "split", "groups", "margin", "reference", "device", "out"}

Setting = Mapping[str, Any]  # a setting of each searched field


@dataclass(frozen=True)
class Job:
    """An adapter of a study: one seed of a recipe on a task, or a trial of a search.

    Attributes:
        plan: What it shares with the other seeds and trials.
        name: What it is called; unique on its task, in its part of the study.
        recipe: How it is trained; of a family the largest rank.
        ranks: At which it is evaluated.
        folder: Where it is saved, below the study's; equal trainings share it.
        trainings: Folder and recipe of what is trained: the adapter, or each one of a family.
        asked: The settings of its evaluation.
        where: `run`, or of a trial `search`.
        setting: The value of each searched field.
        state: What is left: `search`, `train`, `evaluate`, or `wait` for a search; else `done`, or
            `diverged`.
        curves: Of one that is done, that of each cut.
        why: How its training diverged.
    """

    plan: Plan
    name: str
    recipe: Recipe
    ranks: tuple[int, ...]
    folder: str
    trainings: Mapping[str, Recipe]
    asked: Settings
    where: str
    setting: Setting
    state: str = field(default="wait", compare=False)
    curves: Mapping[Way, Curve] = field(default_factory=dict, compare=False)
    why: str = field(default="", compare=False)

    def stored(self, run: StoredRun) -> dict[Way, Curve]:
        """Its curves in a run that has all of its cells, as they are asked for; else none.

        Adapters are recognised by the hash of their recipe and their seed.
        """
        made = self.recipe.sha256, self.recipe.seed, self.plan.family
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
        asked: The settings of its evaluation, with the ranks as the study names them.
        search: How a setting is chosen.
        cuts: Those that are evaluated, the same on every task.
        settings: The settings that are tried; empty: there is nothing to choose.
    """

    task: str
    group: str
    name: str
    fields: Mapping[str, Any]
    seeds: tuple[int, ...]
    family: bool
    asked: Settings
    search: Search
    cuts: tuple[Way, ...] = ()
    settings: tuple[Setting, ...] = ()

    def job(self, seed: int, setting: Setting | None = None) -> Job:
        """One seed, with the settings that were chosen for it."""
        setting, ranks = setting or {}, self.asked.ranks
        recipe = make_recipe({**self.fields, **setting, "name": self.name, "seed": seed})
        if isinstance(ranks, str):
            ranks = named_ranks(ranks, recipe.rank)
        if ranks[-1] > recipe.rank:
            raise RecipeError(f"ranks: {ranks[-1]} is above the recipe's rank {recipe.rank}")
        kind = "-family" if self.family else ""
        folder = f"adapters/{recipe.method}-{recipe.sha256[:10]}{kind}-seed{seed}"
        members = family_members(recipe, ranks) if self.family else {"": recipe}
        trainings = {f"{folder}/{at}".removesuffix("/"): of for at, of in members.items()}
        name, recipe = f"{self.name}-seed{seed}", [*trainings.values()][-1]
        return Job(self, name, recipe, ranks, folder, trainings, self.asked, RUN, setting)

    def trial(self, setting: Setting) -> Job:
        """The adapter on which a setting is tried."""
        made, of = self.job(self.search.seed, setting), self.search
        asked = structs.replace(self.asked, split=of.split, limit=of.limit)
        name = " ".join([made.name, *words_of(setting)])
        return replace(made, name=name, asked=asked, where=SEARCH)


Groups = dict[str, list[Plan]]  # recipe → its plan on each task


class Study(NamedTuple):
    """An experiment, as all of aurac reads it.

    Attributes:
        path: Where its file is.
        file: What this says of the whole: name, question, labels, margin, reference.
        parts: What is done for each base with each number of few-shot examples: a run folder and a
            report, in a folder of this name; it is empty where there is one part.
    """

    path: Path
    file: StudyFile
    parts: dict[str, Groups]

    def primary(self, part: str) -> list[Primary]:
        """The declared comparisons of which a task of a part has both recipes."""
        tasks = {group: {plan.task for plan in of} for group, of in self.parts[part].items()}
        return [x for x in self.file.primary if tasks.get(x.a, set()) & tasks.get(x.b, set())]


def load_study(path: str | Path) -> Study:
    """Read a study, and refuse by the path of its key whatever in it cannot be resolved.

    Raises:
        RecipeError: The file cannot be read, has an unknown or missing key, a value out of range,
            a name that stands for nothing, or data that are not there.
    """
    file = read_study(path := Path(path))
    with refused_at(path):
        study = Study(path, file, _Resolver(path, file).parts())
        for i, pair in enumerate(file.primary):
            _check_primary(study, pair, f"primary[{i}]")
    return study


class _Resolver:
    """Merges the fields of a file, and checks what they say together.

    Attributes:
        told: The file in plain values, without what it does not set.
        rows: What data are called → their rows.
    """

    def __init__(self, path: Path, file: StudyFile) -> None:
        self.path, self.file, self.told = path, file, to_builtins(file)
        self.bases = file.base if isinstance(file.base, dict) else {"": file.base}
        self.rows = dict[tuple[str, str], list[Row]]()

    def parts(self) -> dict[str, Groups]:
        """Each base with each number of few-shot examples."""
        file, parts = self.file, dict[str, Groups]()
        _check_known("labels", file.labels, file.recipes)
        _check_known("reference", {file.reference} - {None, ALL_PAIRS}, file.recipes)
        for name, task in file.tasks.items():
            if is_data(name):
                raise RecipeError(f"tasks.{name}: a study takes no file of examples as a task")
            _check_known(f"tasks.{name}.recipes", task.recipes, file.recipes)
        shots = file.options.get("num_fewshot")
        several = [*dict.fromkeys(shots)] if shots and isinstance(shots, list) else [shots]
        for alias, few in itertools.product(self.bases, several):
            name = "-".join(filter(None, (alias, f"{few}shot" if len(several) > 1 else "")))
            parts[name] = self._groups(alias, few)
        return parts

    def _groups(self, alias: str, shots: int | None) -> Groups:
        file, groups = self.file, Groups()
        for group, (name, task) in itertools.product(file.recipes, file.tasks.items()):
            if group in (task.recipes or file.recipes):
                plans = groups.setdefault(group, [])
                plans.append(self._plan(alias, group, self._asked(alias, shots, name)))
                if plans[-1].cuts != plans[0].cuts:
                    raise RecipeError(f"recipes.{group}.cuts: {name} has others: name them")
        return groups

    def _plan(self, alias: str, group: str, asked: Settings) -> Plan:
        """A recipe on a task, with the fields of the study, the task, the recipe and both."""
        (task,) = asked.tasks
        of, own = self.told["tasks"][task], self.told["recipes"][group]
        special = own | of["recipes"].get(group, {})
        fields = self.told["recipe"] | of["recipe"] | special
        family, cuts = fields.pop("family", False), fields.pop("cuts", ())
        seeds = tuple(dict.fromkeys(fields.pop("seeds", self.file.seeds)))
        trained_for = task if self.file.search or of["recipe"] or special != own else ""
        name = "-".join(filter(None, (alias, trained_for, group)))
        fields |= {"base": self.bases[alias], "folder": self.path.parent}
        plan = Plan(task, group, name, fields, seeds, family, asked, self.file.search or Search())
        with refused_at(f"recipes.{group} on {task}"):
            recipe = plan.job(seeds[0]).recipe
            fields = {**fields, "data_sha256": self._contents(recipe)}
            for cut in cuts:
                check_cut(outline(recipe), *cut)
        if family:
            cuts = [("prefix", default_rescale(outline(recipe)))]
        cuts = tuple(dict.fromkeys(cuts or cuts_of(outline(recipe))))
        told = self.told["search"] or {}
        grid = {name: told[name] for name in told if name in GRID and name not in special}
        values = itertools.product(*grid.values())
        settings = [dict(zip(grid, each, strict=True)) for each in values]
        tried = settings if self.file.search and (grid or len(cuts) > 1) else ()
        plan = replace(plan, fields=fields, cuts=cuts, settings=tuple(tried))
        for job in map(plan.trial, plan.settings):
            _check_decided(job)
        return plan

    def _contents(self, recipe: Recipe) -> str:
        """The hash of a recipe's data, of which the first row fits its templates.

        Of data that are not there it is the one that the file names.
        """
        called = recipe.task, recipe.data
        if called not in self.rows:
            with suppress(*([DataError] if recipe.data_sha256 else [])):
                self.rows[called] = source_rows(recipe)
        if not (rows := self.rows.get(called)):
            return recipe.data_sha256
        render(recipe, rows[0], 1)
        return identified(recipe, rows).data_sha256

    def _asked(self, alias: str, shots: int | None, task: str) -> Settings:
        """How a task is evaluated: folders as they are found beside the study."""
        given = {**self.file.options, "num_fewshot": shots, **self.file.tasks[task].options}
        _check_known("options", given, _OPTIONS)
        own = {"base": self.bases[alias], "ranks": self.file.ranks}
        with refused_at(f"options of {task}"):
            asked = Settings.of("ADAPTER", task, **own, **given)
        beside, include = self.path.parent, asked.include_path
        data = {name: str(located_data(at, beside)) for name, at in asked.data.items()}
        include = include and str(located_data(include, beside))
        return structs.replace(asked, data=data, include_path=include)


def _check_known(at: str, names: Collection[str | None], there: Collection[str]) -> None:
    """Refuse a name that stands for nothing."""
    for name in names:
        if name not in there:
            raise RecipeError(f"{at}: there is no {name}, only {', '.join(sorted(there))}")


def _check_decided(trial: Job) -> None:
    """Refuse a search by an area of one rank, or by a rank that is not evaluated."""
    at, ranks = trial.plan.search.at, {*trial.ranks, trial.recipe.rank}
    if at == "aurac" and len(trial.ranks) == 1:
        raise RecipeError("search.at: aurac needs two ranks: name the one that decides")
    if at not in ("aurac", *ranks):
        there = ", ".join(map(str, sorted(ranks)))
        raise RecipeError(f"search.at: {at} is not evaluated, only {there}")


def _check_primary(study: Study, pair: Primary, at: str) -> None:
    """Refuse a comparison that no part can make, or whose cut a recipe does not have."""
    there = [groups for part, groups in study.parts.items() if pair in study.primary(part)]
    if not there:
        raise RecipeError(f"{at}: no task has both {pair.a} and {pair.b}")
    for groups, name in itertools.product(there, (pair.a, pair.b)):
        if pair.cut not in (None, *(cuts := groups[name][0].cuts)):
            raise RecipeError(f"{at}.cut: {name} is cut by {', '.join(map(' '.join, cuts))}")


def outline(recipe: Recipe) -> Adapter:
    """An adapter of a recipe with one tiny module."""
    A, B = torch.empty(recipe.rank, 1), torch.empty(1, recipe.rank)
    factors = Factors(A, B, alpha=recipe.alpha, rule=recipe.scaling)
    return Adapter(recipe.name, {"module": factors}, recipe.nesting, folded=True)


def words_of(setting: Setting) -> list[str]:
    """A setting as it stands in names."""
    return [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in setting.items()]
