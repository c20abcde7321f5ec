"""The adapters that a study trains, and the curves that are drawn of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import torch

from aurac.adapters import Adapter, Factors, make_family
from aurac.adapters.methods import method_named
from aurac.errors import AuracError, RecipeError, RunFolderError
from aurac.runs.plan import ranks_of
from aurac.runs.session import variants_for
from aurac.study.design import points_of
from aurac.training.recipe import Recipe, family_members, make_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aurac.runs.plan import Variant
    from aurac.study.design import Study

ADAPTERS = Path("adapters")
_SET = {"base", "learning_rate", "name", "seed"}  # fields of recipes that the study sets


class Training(msgspec.Struct, frozen=True):
    """One training of a study.

    Attributes:
        task: Name of the study.
        recipe: How the adapter is trained; its name is unique within the task.
        folder: Of the adapter, within the study's folder.
    """

    task: str
    recipe: Recipe
    folder: Path


class PlannedAdapter(msgspec.Struct, frozen=True):
    """An adapter, or a family of one adapter for each rank, that gives a curve.

    Attributes:
        task, method: Names of the study.
        recipe: How it is trained, for a family at the largest rank; its name is that of the curve.
        trainings: One, or for a family one for each rank.
    """

    task: str
    method: str
    recipe: Recipe
    trainings: tuple[Training, ...]

    def checkpoint(self, out: Path) -> str:
        """What `aurac.compare` takes, in the study's folder."""
        names = [one.folder.name for one in self.trainings]
        if names == [self.recipe.name]:
            return str(out / self.trainings[0].folder)
        return f"{self.recipe.name}={out / ADAPTERS / self.task}/{{{','.join(names)}}}"


class Point(NamedTuple):
    """One point of the design: names of the study, a learning rate and a training seed."""

    task: str
    method: str
    rate: float
    seed: int


def planned(study: Study, path: Path, point: Point) -> PlannedAdapter:
    """The adapter or family of one point of the design.

    Where a plain method of the study trains a family's adapter of the largest rank by the same
    recipe, that one is used.

    Args:
        study: The study.
        path: Its file; relative data are looked for beside it.
        point: The point.

    Raises:
        RecipeError: A recipe field that does not exist or is out of range.
    """
    task, method = point.task, point.method
    recipe = _recipe(study, path, point)
    if not study.methods[method].family:
        return PlannedAdapter(task, method, recipe, (_training(task, recipe),))
    plain = [name for name in study.methods_of(task) if not study.methods[name].family]
    others = [_recipe(study, path, point._replace(method=name)) for name in plain]
    known = {_as_member(other).sha256: other for other in others}
    members = [
        known.get(member.sha256) or replace(member, name=f"{recipe.name}-{label}")
        for label, member in family_members(recipe, ranks_of(study.ranks, recipe.rank))
    ]
    return PlannedAdapter(task, method, recipe, tuple(_training(task, one) for one in members))


def _as_member(recipe: Recipe) -> Recipe:
    """The recipe as a family writes it: without the nested ranks that its method ignores."""
    if method_named(recipe.method).nested:
        return recipe
    [(_, member)] = family_members(recipe, [recipe.rank])
    return member


def curves_of(study: Study, one: PlannedAdapter, *, final: bool) -> list[Variant]:
    """The curves that are drawn of an adapter, which need not be trained.

    Args:
        study: The study.
        one: The adapter or family; the `source` of its adapters is the folder of their training.
        final: Of the results, not of the search.

    Raises:
        UsageError: A basis and a scale that do not go together.
    """
    outlines = [_outline(training) for training in one.trainings]
    family = study.methods[one.method].family
    adapter = make_family(one.recipe.name, outlines) if family else outlines[0]
    return variants_for(
        one.recipe.name, adapter, study.truncation_of(one.task, one.method, final=final)
    )


def _outline(training: Training) -> Adapter:
    """An adapter as it will be trained, with one module and without numbers."""
    recipe = training.recipe
    A, B = (torch.empty(shape, device="meta") for shape in ((recipe.rank, 1), (1, recipe.rank)))
    return Adapter(
        name=recipe.name,
        modules={"module": Factors(A, B, recipe.alpha, recipe.scaling)},
        nesting=recipe.nesting,
        recipe=recipe.to_dict(),
        source=training.folder,
    )


def _training(task: str, recipe: Recipe) -> Training:
    return Training(task, recipe, ADAPTERS / task / recipe.name)


def _recipe(study: Study, path: Path, point: Point) -> Recipe:
    task, method, rate, seed = point
    where = f"{path}, {method} on {task},"
    values = {**study.recipe, **study.tasks[task].recipe, **study.methods[method].recipe}
    if own := sorted(_SET & values.keys()):
        raise RecipeError(
            f"{where} a recipe with {', '.join(own)}",
            expected="`base`, `learning_rates` and `seeds` beside `recipe`",
        )
    values |= {"name": f"{method}-lr{rate:g}-seed{seed}", "learning_rate": rate, "seed": seed}
    try:
        return replace(make_recipe({**values, "base": study.base}), folder=path.parent)
    except AuracError as error:
        fix = (error.fix or "correct the file").partition(" or with --set")[0]
        raise RecipeError(f"{where} {error.given}", expected=error.expected, fix=fix) from error


def searches(study: Study, path: Path) -> Iterator[PlannedAdapter]:
    """What the search for learning rates trains; nothing for a grid of one value."""
    for task, method in points_of(study):
        rates = study.rates_of(task, method) if study.rates_from(task, method) == method else ()
        for rate in rates if len(rates) > 1 else ():
            yield planned(study, path, Point(task, method, rate, study.search_seed))


def results_of(
    study: Study, path: Path, rates: Mapping[str, Mapping[str, float]] | None = None
) -> Iterator[PlannedAdapter]:
    """What the results are made from, by task and method.

    Args:
        study: The study.
        path: Its file.
        rates: Task → method → learning rate; where one is not known, the first of the grid counts.
    """
    for task, method in points_of(study):
        known = (rates or {}).get(task, {})
        rate = known.get(method) or known.get(study.rates_from(task, method))
        rate = rate or study.rates_of(task, method)[0]
        for seed in study.seeds_of(task, method):
            yield planned(study, path, Point(task, method, rate, seed))


def chosen_adapters(
    study: Study, path: Path, rates: Mapping[str, Mapping[str, float]]
) -> dict[str, list[PlannedAdapter]]:
    """Method → its adapters and families on all tasks, for the rates that were chosen.

    Raises:
        RunFolderError: No rate was chosen yet for a method on a task.
    """
    for task, method in points_of(study):
        if method not in rates.get(task, {}):
            raise RunFolderError(
                f"{path}: no learning rate of {method} on {task} was chosen yet",
                fix="first run the study to its end",
            )
    adapters: dict[str, list[PlannedAdapter]] = {method: [] for method in study.methods}
    for one in results_of(study, path, rates):
        adapters[one.method].append(one)
    return adapters
