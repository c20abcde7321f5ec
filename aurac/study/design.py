"""The file of a study: recipes × seeds × tasks, and the adapters that follow from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import torch

from aurac.adapters import Adapter, Factors
from aurac.adapters.cut import sweeps_of
from aurac.adapters.nesting import default_nested_ranks
from aurac.errors import RecipeError
from aurac.runs.settings import Settings, several
from aurac.training.recipe import Recipe, family_members, make_recipe, read_yaml

if TYPE_CHECKING:
    from aurac.records.run import StoredRun

ADAPTERS = "adapters"  # below the study's folder
_OF_THE_STUDY = {"checkpoints", "tasks", "base", "ranks", "basis", "rescale", "margin", "out"}
_OPTIONS = set(Settings.__struct_fields__) - _OF_THE_STUDY
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class StudyTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is trained for a task, and how it is evaluated.

    Attributes:
        recipe: Fields of every recipe of the task, such as its training data.
        recipes: Those that are trained for the task, with fields of their own; empty: all.
        options: Options of `aurac.compare` for the task, such as `limit`.
    """

    recipe: dict[str, Any] = {}
    recipes: dict[str, dict[str, Any]] = {}
    options: dict[str, Any] = {}


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An experiment.

    Attributes:
        name: What it is called.
        question: What it asks, one sentence for the report.
        base: Base model of every training and evaluation.
        seeds: Training seeds of every recipe that names none.
        recipe: Fields of every recipe.
        recipes: Name → its fields. Besides those of `Recipe` these may be `seeds`, `family` (train
            one adapter for each rank; together they are one curve), `basis` and `rescale` (further
            cuts of its adapters, as `aurac.compare` takes them).
        tasks: lm-eval's name of a task → what is done for it.
        ranks: As `aurac.compare` takes them.
        margin, reference: The question, as `aurac.compare` takes them.
        labels: Recipe → what tables and figures call it.
        options: Options of `aurac.compare` for every task.
    """

    name: str
    question: str = ""
    base: str = "smollm2-135m-instruct-q4_1"
    seeds: tuple[int, ...] = (42,)
    recipe: dict[str, Any] = {}
    recipes: dict[str, dict[str, Any]]
    tasks: dict[str, StudyTask]
    ranks: str | list[int] = "pow2"
    margin: Fraction | None = None
    reference: str | None = None
    labels: dict[str, str] = {}
    options: dict[str, Any] = {}


@dataclass(frozen=True)
class Planned:
    """An adapter of a study: one seed of a recipe on a task.

    Attributes:
        task: lm-eval's name.
        group: The recipe's name in the study.
        name: Of the adapter, unique in the study.
        recipe: How it is trained; of a family at the largest rank.
        ranks: At which it is evaluated.
        family: Whether one adapter is trained for each rank.
        cuts: `basis` and `rescale` where they are not the default.
    """

    task: str
    group: str
    name: str
    recipe: Recipe
    ranks: tuple[int, ...]
    family: bool = False
    cuts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def trainings(self, out: Path) -> list[tuple[Path, Recipe]]:
        """Folder and recipe of each adapter that is trained."""
        folder = out / ADAPTERS / self.name
        if not self.family:
            return [(folder, self.recipe)]
        return [(folder / label, each) for label, each in family_members(self.recipe, self.ranks)]

    def stored(self, run: StoredRun, examples: int | None) -> str | None:
        """Its name in a run that has all of its cells; None where one is missing.

        Adapters are recognised by the hash of their recipe and their seed. Without a number of
        `examples` any will do.
        """
        hashes = {recipe.sha256 for _, recipe in self.trainings(Path())} | {self.recipe.sha256}
        for adapter in run.adapters:
            made_by = (adapter.recipe or {}).get("sha256")
            mine = made_by in hashes and adapter.seed == self.recipe.seed
            if not mine or (adapter.format == "family") != self.family:
                continue
            curves = {
                (c.basis, c.rescale): c
                for c in run.curves
                if (c.adapter, c.task) == (adapter.name, self.task)
                and set(self.ranks) <= set(c.ranks)
                and not c.missing
                and (not examples or len(c.doc_ids or ()) == examples)
            }
            if self.wanted <= curves.keys() and curves:
                return adapter.name
        return None

    @property
    def wanted(self) -> set[tuple[str, str]]:
        """Basis and rescale of the curves that are evaluated; empty of a family, which has one."""
        if self.family:
            return set()
        asked = (several(self.cuts.get(name, ())) for name in ("basis", "rescale"))
        sweeps = sweeps_of(self.name, _outline(self.recipe), self.ranks, *asked)
        return {(sweep.basis, sweep.rescale) for sweep in sweeps}


def _outline(recipe: Recipe) -> Adapter:
    """An adapter without weights that is cut as one of this recipe is."""
    A, B = torch.empty(recipe.rank, 1), torch.empty(1, recipe.rank)
    factors = Factors(A, B, alpha=recipe.alpha, rule=recipe.scaling)
    return Adapter(recipe.name, {"module": factors}, nesting=recipe.nesting)


def load_study(path: str | Path) -> Study:
    """Read a study and check every recipe that it implies.

    Raises:
        RecipeError: The file cannot be read, has an unknown or missing field, or implies a recipe
            with a value out of range.
    """
    path = Path(path)
    try:
        study = msgspec.convert(read_yaml(path), Study, strict=False)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{path}: {error}") from error
    for task, plan in study.tasks.items():
        if unknown := plan.recipes.keys() - study.recipes.keys():
            raise RecipeError(f"{path}: {task} has the unknown recipes {sorted(unknown)}.")
        if unknown := {*study.options, *plan.options} - _OPTIONS:
            raise RecipeError(f"{path}: options for {task} cannot have {', '.join(unknown)}.")
    planned(study, path)
    return study


def planned(study: Study, path: Path) -> list[Planned]:
    """Every adapter of a study whose file is `path`, task by task."""
    return [
        adapter
        for task, plan in study.tasks.items()
        for group in study.recipes
        if not plan.recipes or group in plan.recipes
        for adapter in _seeds(study, path, task, group)
    ]


def _seeds(study: Study, path: Path, task: str, group: str) -> Iterator[Planned]:
    plan, own = study.tasks[task], study.recipes[group]
    values = {**study.recipe, **plan.recipe, **own, **plan.recipes.get(group, {})}
    seeds = values.pop("seeds", study.seeds)
    family = values.pop("family", False)
    cuts: dict[str, Any] = {
        name: values.pop(name) for name in ("basis", "rescale") if name in values
    }
    prefix = f"{task}-" if plan.recipe or plan.recipes.get(group) else ""
    for seed in seeds:
        name = f"{prefix}{group}-seed{seed}"
        fields = {"base": study.base, **values, "name": f"{prefix}{group}", "seed": seed}
        recipe = make_recipe(fields, where=f"{path}: {group} on {task}")
        recipe = dataclasses.replace(recipe, folder=path.parent)
        ranks = _ranks(study.ranks, recipe.rank)
        yield Planned(task, group, name, recipe, ranks, family, cuts)


def _ranks(given: str | Sequence[int], rank: int) -> tuple[int, ...]:
    if given == "pow2":
        return default_nested_ranks(rank)
    if given == "all":
        return tuple(range(1, rank + 1))
    listed = given.split(",") if isinstance(given, str) else given
    return tuple(sorted(int(each) for each in listed))
