"""The file of a study: bases × tasks × recipes × seeds, and the adapters that follow from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import torch
from msgspec import Meta

from aurac.adapters import Adapter, Factors
from aurac.adapters.cut import sweeps_of
from aurac.adapters.nesting import default_nested_ranks
from aurac.adapters.truncate import Basis
from aurac.errors import RecipeError
from aurac.runs.settings import Settings
from aurac.training.recipe import Recipe, family_members, make_recipe, read_yaml, tails

if TYPE_CHECKING:
    from aurac.curves.curve import Curve
    from aurac.records.run import StoredRun

ADAPTERS = "adapters"  # below the study's folder
_OF_THE_STUDY = {"checkpoints", "tasks", "base", "ranks", "basis", "rescale"}
_OPTIONS = set(Settings.__struct_fields__) - _OF_THE_STUDY - {"margin", "out", "split"}
Fraction = Annotated[float, Meta(gt=0, lt=1)]
Cut = tuple[str, str]  # basis and rescale


class StudyTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is trained for a task, and how it is evaluated.

    Attributes:
        bases: Those of the study's that do the task; empty: all.
        recipe: Fields of every recipe of the task, such as its training data.
        recipes: Those that are trained for the task, with fields of their own; empty: all.
        options: Options of `aurac.compare` for the task, such as `limit`, and `num_fewshot` in a
            study that names none for all tasks.
    """

    bases: tuple[str, ...] = ()
    recipe: dict[str, Any] = {}
    recipes: dict[str, dict[str, Any]] = {}
    options: dict[str, Any] = {}


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings that are tried for each recipe on each task before its seeds are trained.

    Attributes:
        grid: Field of the recipe → values, ascending by a factor; every combination is a trial. In
            the file these fields stand beside the others.
        seed: Of the trials' training.
        split: Of the task, on which they are evaluated.
        at: What decides: `aurac`, or the accuracy at a rank.
        limit: The first so many examples of the split; 0 takes all.
    """

    grid: dict[str, tuple[float, ...]]
    seed: int = 1
    split: str = "validation"
    at: str | int = "aurac"
    limit: int = 0


class Primary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A comparison that is declared before the results: recipe `a` minus recipe `b`.

    Both are cut as `cut` says, a basis and a rescale. Without it each is cut its own way: with a
    search the best one on its split, else its first one.
    """

    a: str
    b: str
    cut: Cut | None = None


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An experiment.

    Attributes:
        name: What it is called.
        question: What it asks, one sentence for the report.
        base: Base model of every training and evaluation, or name → base of several.
        num_fewshot: Few-shot examples in each prompt, or several such numbers; None: the task's.
        seeds: Training seeds of every recipe that names none.
        recipe: Fields of every recipe.
        recipes: Name → its fields. Besides those of `Recipe` these may be `seeds`, `family` (train
            one adapter for each rank; together they are one curve), `from` (train the cuts by SVD
            of this recipe's adapters on: a family), and `cuts` (pairs of basis and rescale that are
            evaluated instead of the one that `aurac.compare` takes).
        tasks: lm-eval's name of a task → what is done for it.
        search: Settings that are chosen for each recipe first.
        primary: The comparisons that the study is for; they are one family.
        ranks: As `aurac.compare` takes them; AURAC is taken over these.
        margin, reference: The question, as `aurac.compare` takes them.
        labels: Recipe → what tables and figures call it.
        options: Options of `aurac.compare` for every task.
    """

    name: str
    question: str = ""
    base: str | dict[str, str] = "smollm2-135m-instruct-q4_1"
    num_fewshot: int | list[int] | None = None
    seeds: tuple[int, ...] = (42,)
    recipe: dict[str, Any] = {}
    recipes: dict[str, dict[str, Any]]
    tasks: dict[str, StudyTask]
    search: Search | None = None
    primary: tuple[Primary, ...] = ()
    ranks: str | list[int] = "pow2"
    margin: Fraction | None = None
    reference: str | None = None
    labels: dict[str, str] = {}
    options: dict[str, Any] = {}


@dataclass(frozen=True)
class Part:
    """One base and number of few-shot examples of a study: a run folder and a report."""

    name: str  # of its folder; empty where it is the only one
    alias: str  # what the study calls the base
    base: str
    num_fewshot: int | None


@dataclass(frozen=True)
class Training:
    """One adapter to train.

    Attributes:
        folder: Where it is saved.
        recipe: How it is trained.
        start: The folder of the adapter that it goes on from, and the basis of the cut.
    """

    folder: Path
    recipe: Recipe
    start: tuple[Path, Basis] | None = None


@dataclass(frozen=True)
class Planned:
    """An adapter of a study: one seed of a recipe on a task.

    Attributes:
        task: lm-eval's name.
        group: The recipe's name in the study.
        name: Of the adapter, unique in its part of the study.
        folder: Below `adapters`; equal trainings share it.
        recipe: How it is trained; of a family at the largest rank.
        ranks: At which it is evaluated.
        family: Whether one adapter is trained for each rank.
        cuts: Those that are evaluated; none of a family, which has one.
        source: The adapter whose cuts are trained on.
    """

    task: str
    group: str
    name: str
    folder: str
    recipe: Recipe
    ranks: tuple[int, ...]
    family: bool = False
    cuts: tuple[Cut, ...] = ()
    source: Planned | None = None

    def trainings(self, out: Path) -> list[Training]:
        """What is trained, in this order; of cuts that are trained on their source before."""
        folder = out / ADAPTERS / self.folder
        if not self.family:
            return [Training(folder, self.recipe)]
        before = self.source.trainings(out) if self.source else []
        start: tuple[Path, Basis] | None = (before[-1].folder, "svd") if before else None
        members = family_members(self.recipe, self.ranks)
        return [*before, *(Training(folder / label, each, start) for label, each in members)]

    def stored(self, run: StoredRun, limit: float | None) -> str | None:
        """Its name in a run that has all of its cells under this limit; None where one is missing.

        Adapters are recognised by the hash of their recipe and their seed.
        """
        hashes = {self.recipe.sha256, self.trainings(Path())[-1].recipe.sha256}
        for adapter in run.adapters:
            made_by = (adapter.recipe or {}).get("sha256")
            mine = made_by in hashes and adapter.seed == self.recipe.seed
            if not mine or (adapter.format == "family") != self.family:
                continue
            whole = [c for c in run.curves if (c.adapter, c.task) == (adapter.name, self.task)]
            whole = [c for c in whole if self._covered(c) and run.limited(c, limit)]
            if whole and {(c.basis, c.rescale) for c in whole}.issuperset(self.cuts):
                return adapter.name
        return None

    def _covered(self, curve: Curve) -> bool:
        """Whether a curve has all ranks."""
        return set(self.ranks) <= set(curve.ranks) and not curve.missing


def default_cuts(recipe: Recipe) -> tuple[Cut, ...]:
    """How `aurac.compare` cuts an adapter of a recipe."""
    A, B = torch.empty(recipe.rank, 1), torch.empty(1, recipe.rank)
    factors = Factors(A, B, alpha=recipe.alpha, rule=recipe.scaling)
    outline = Adapter(recipe.name, {"module": factors}, recipe.nesting, folded=True)
    return tuple((sweep.basis, sweep.rescale) for sweep in sweeps_of(recipe.name, outline))


def load_study(path: str | Path) -> Study:
    """Read a study and check every recipe that it implies.

    Raises:
        RecipeError: The file cannot be read, has an unknown or missing field, or implies a recipe
            with a value out of range.
    """
    path = Path(path)
    values = read_yaml(path)
    if isinstance(search := values.get("search"), dict):
        known = {key: search[key] for key in Search.__struct_fields__ if key in search}
        grid = {key: value for key, value in search.items() if key not in known}
        values["search"] = {"grid": grid, **known}
    try:
        study = msgspec.convert(values, Study, strict=False)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{path}: {error}") from error
    parts = parts_of(study)
    named = {name for pair in study.primary for name in (pair.a, pair.b)}
    if unknown := named - study.recipes.keys():
        recipes = ", ".join(study.recipes)
        raise RecipeError(f"{path}: primary names {', '.join(unknown)}; there are {recipes}.")
    for task, plan in study.tasks.items():
        if unknown := plan.recipes.keys() - study.recipes.keys():
            raise RecipeError(f"{path}: {task} has the unknown recipes {sorted(unknown)}.")
        if unknown := set(plan.bases) - {part.alias for part in parts}:
            raise RecipeError(f"{path}: {task} has the unknown bases {sorted(unknown)}.")
        allowed = _OPTIONS if study.num_fewshot is None else _OPTIONS - {"num_fewshot"}
        if unknown := {*study.options, *plan.options} - allowed:
            raise RecipeError(f"{path}: options for {task} cannot have {', '.join(unknown)}.")
    at = study.search.at if study.search else "aurac"
    for adapter in (each for part in parts for each in planned(study, path, part)):
        if at != "aurac" and int(at) not in adapter.ranks:
            raise RecipeError(f"{path}: the search is to decide at rank {at}, not in ranks")
    return study


def parts_of(study: Study) -> list[Part]:
    """Each base with each number of few-shot examples."""
    bases = study.base if isinstance(study.base, dict) else {"": study.base}
    shots = study.num_fewshot
    counts = shots if isinstance(shots, list) else [shots]
    return [
        Part("-".join(filter(None, (alias, f"{n}shot" if len(counts) > 1 else ""))), alias, base, n)
        for alias, base in bases.items()
        for n in counts
    ]


def tasks_of(study: Study, part: Part) -> dict[str, StudyTask]:
    """The tasks of a part."""
    return {
        task: plan
        for task, plan in study.tasks.items()
        if not plan.bases or part.alias in plan.bases
    }


def groups_of(study: Study, task: str | None = None) -> list[str]:
    """The recipes, or those of a task, each after the one that it goes on from."""
    own = study.tasks[task].recipes if task else {}
    names = [name for name in study.recipes if name in (own or study.recipes)]
    return sorted(names, key=lambda name: "from" in study.recipes[name])


def primaries_of(study: Study, part: Part) -> list[Primary]:
    """The declared comparisons of which a part has both recipes."""
    there = {group for task in tasks_of(study, part) for group in groups_of(study, task)}
    return [pair for pair in study.primary if {pair.a, pair.b} <= there]


def chains_of(study: Study) -> list[list[str]]:
    """The recipes, each with those that go on from it."""
    chains: dict[str, list[str]] = {}
    for name in groups_of(study):
        first = name
        while source := study.recipes[first].get("from"):
            first = source
        chains.setdefault(first, []).append(name)
    return list(chains.values())


Chosen = Mapping[tuple[str, str], Mapping[str, Any]]
"""Task and recipe → fields that a search has chosen."""


def planned(study: Study, path: Path, part: Part, chosen: Chosen | None = None) -> list[Planned]:
    """Every adapter of a part of the study whose file is `path`, task by task."""
    return [
        adapter_of(study, path, part, task, group, seed, chosen or {})
        for task in tasks_of(study, part)
        for group in groups_of(study, task)
        for seed in _fields(study, task, group).get("seeds", study.seeds)
    ]


def _fields(study: Study, task: str, group: str) -> dict[str, Any]:
    plan = study.tasks[task]
    own = study.recipes[group], plan.recipes.get(group, {})
    return {**study.recipe, **plan.recipe, **own[0], **own[1]}


def adapter_of(
    study: Study, path: Path, part: Part, task: str, group: str, seed: int, chosen: Chosen
) -> Planned:
    """One seed of a recipe on a task, with the fields that were chosen for it."""
    plan = study.tasks[task]
    values = {**_fields(study, task, group), **chosen.get((task, group), {})}
    values.pop("seeds", None)
    family, source = values.pop("family", False), values.pop("from", None)
    cuts = tuple((basis, rescale) for basis, rescale in values.pop("cuts", ()))
    own = study.search or plan.recipe or plan.recipes.get(group)
    prefix = "".join(f"{word}-" for word in (part.alias, task if own else "") if word)
    fields = {"base": part.base, **values, "name": f"{prefix}{group}", "seed": seed}
    before = None
    if source is None:
        recipe = make_recipe(fields, where=f"{path}: {group} on {task}")
    else:
        before = adapter_of(study, path, part, task, source, seed, chosen)
        changes = {key: value for key, value in fields.items() if key not in ("method", "rank")}
        members = tails(before.recipe, "svd", _ranks(study.ranks, before.recipe.rank), changes)
        recipe, family = members[-1][1], True
    recipe = dataclasses.replace(recipe, folder=path.parent)
    name = f"{prefix}{group}-seed{seed}"
    settings = f"{recipe.sha256[:10]}{'-family' if family else ''}"
    folder = f"{prefix}{settings}-seed{seed}" if study.search else name
    cuts = () if family else cuts or default_cuts(recipe)
    ranks = _ranks(study.ranks, recipe.rank)
    return Planned(task, group, name, folder, recipe, ranks, family, cuts, before)


def _ranks(given: str | Sequence[int], rank: int) -> tuple[int, ...]:
    if given == "pow2":
        return default_nested_ranks(rank)
    if given == "all":
        return tuple(range(1, rank + 1))
    listed = given.split(",") if isinstance(given, str) else given
    ranks = tuple(sorted(int(each) for each in listed))
    if ranks[-1] > rank:
        raise RecipeError(f"rank {ranks[-1]} of the study is above {rank}, that of a recipe")
    return ranks
