"""The file of a study: tasks × methods × learning rates × seeds, checked before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import yaml

from aurac.errors import AuracError, RecipeError
from aurac.training.recipe import Recipe, make_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator


class Documents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which documents an evaluation takes.

    Attributes:
        split: `test` or `validation`; None: the split that lm-eval evaluates.
        limit: The first so many documents; 0: all.
    """

    split: str | None = None
    limit: int = 0


class TaskPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task: what is trained on, and what is evaluated.

    Attributes:
        task: The task's name in lm-eval, or a bundled one.
        recipe: Fields of the recipe that belong to the task: data, templates, steps.
        options: Options of `aurac.compare` for the task, such as `num_fewshot` or `data`.
        validation: Documents on which learning rates are judged.
        test: Documents of the results.
    """

    task: str
    recipe: dict[str, Any]
    options: dict[str, Any] = {}
    validation: Documents = Documents(split="validation", limit=100)
    test: Documents = Documents()


class MethodPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way of training.

    Attributes:
        recipe: Fields of the recipe that belong to the method, such as `method`.
        learning_rates, seeds: Those of the method; empty: the study's.
    """

    recipe: dict[str, Any]
    learning_rates: list[float] = []
    seeds: list[int] = []


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole method section of an experiment.

    Attributes:
        name: What it is called.
        question: What it asks, one sentence for the report.
        base: Base model of every training and evaluation.
        recipe: Fields of every recipe.
        tasks, methods: By the names that tables show.
        learning_rates: Grid of the search; with one value there is no search.
        seeds: Seeds of the results.
        search_seed: Seed of the trainings of the search.
        ranks, search_ranks: As `--ranks`, for results and search.
        basis: Bases of truncation; the first is the one compared.
        rescale: Scales at inference; empty: each adapter's default, and the published one.
        margin: Loss of accuracy that a non-inferior rank may have, a fraction.
    """

    name: str
    question: str = ""
    base: str = "smollm2-135m-instruct-q4_1"
    recipe: dict[str, Any] = {}
    tasks: dict[str, TaskPlan]
    methods: dict[str, MethodPlan]
    learning_rates: list[float]
    seeds: list[int]
    search_seed: int = 42
    ranks: str = "pow2"
    search_ranks: str = "pow2"
    basis: list[str] = msgspec.field(default_factory=lambda: ["prefix"])
    rescale: list[str] = []
    margin: float = 0.02

    def rates_of(self, method: str) -> list[float]:
        """The grid of a method, ascending."""
        return sorted(self.methods[method].learning_rates or self.learning_rates)

    def seeds_of(self, method: str) -> list[int]:
        """The seeds of a method's results."""
        return self.methods[method].seeds or self.seeds


class Training(msgspec.Struct, frozen=True):
    """One adapter of a study.

    Attributes:
        task, method: Names of the study.
        recipe: How it is trained; its name is unique within the task.
        folder: Of the adapter, within the study's folder.
    """

    task: str
    method: str
    recipe: Recipe
    folder: Path


def load_study(path: str | Path) -> Study:
    """Read a study and check every recipe that it implies.

    Raises:
        RecipeError: The file cannot be read, has an unknown or missing field, or implies a recipe
            with a value out of range.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        study = msgspec.convert(content, Study, strict=False)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(
            f"{path} cannot be read ({error})", expected="a study in YAML", fix="correct the file"
        ) from error
    except msgspec.ValidationError as error:
        raise RecipeError(f"{path}: {error}", fix="correct the file") from error
    _check(study, path)
    return study


def _check(study: Study, path: Path) -> None:
    lists = {"tasks": study.tasks, "methods": study.methods, "basis": study.basis}
    for name, values in lists.items():
        if not values:
            raise RecipeError(f"{path} has no {name}", expected="at least one")
    evaluated = [plan.task for plan in study.tasks.values()]
    if len(set(evaluated)) != len(evaluated):
        raise RecipeError(
            f"{path} evaluates a task twice ({', '.join(evaluated)})",
            expected="each task once",
            fix="make another way of training a method of its own, such as one with more steps",
        )
    for method in study.methods:
        rates, seeds = study.rates_of(method), study.seeds_of(method)
        for name, values in (("learning_rates", rates), ("seeds", seeds)):
            if not values or len(set(values)) != len(values):
                raise RecipeError(
                    f"{path}: {name} = {values} of {method}", expected="each value once"
                )
    for name in (*study.tasks, *study.methods):
        if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise RecipeError(
                f"{path}: the name {name!r}", expected="letters, digits, '.', '-' and '_'"
            )
    _check_recipes(study, path)


def _check_recipes(study: Study, path: Path) -> None:
    """Make every recipe of the design, which checks it; all have the same trained rank."""
    made = [
        one
        for method in study.methods
        for one in (*searches(study, path), *results_of(study, path, method))
    ]
    for one in made:
        if one.recipe.rank != made[0].recipe.rank:
            raise RecipeError(
                f"{path}: rank {one.recipe.rank} of {one.method} and {made[0].recipe.rank} of "
                f"{made[0].method}",
                expected="one trained rank",
            )


class Point(NamedTuple):
    """One point of the design: names of the study, a learning rate and a training seed."""

    task: str
    method: str
    rate: float
    seed: int


def training(study: Study, path: Path, point: Point) -> Training:
    """The training of one point of the design; relative data are looked for beside `path`.

    Raises:
        RecipeError: A recipe field that does not exist or is out of range.
    """
    task, method, rate, seed = point
    label = f"{method}-lr{rate:g}-seed{seed}"
    fields: dict[str, Any] = {"base": study.base, **study.recipe}
    fields |= {**study.tasks[task].recipe, **study.methods[method].recipe}
    fields |= {"name": label, "learning_rate": rate, "seed": seed}
    where = f"{path}, {method} on {task},"
    try:
        recipe = replace(make_recipe(fields, where=where), folder=path.parent)
    except AuracError as error:
        raise RecipeError(f"{where} {error}", fix="correct the file") from error
    return Training(task, method, recipe, Path("adapters") / task / label)


def searches(study: Study, path: Path) -> Iterator[Training]:
    """The trainings of the search for learning rates; none for a grid of one value."""
    for task in study.tasks:
        for method in study.methods:
            rates = study.rates_of(method)
            for rate in rates if len(rates) > 1 else ():
                yield training(study, path, Point(task, method, rate, study.search_seed))


def results_of(
    study: Study, path: Path, method: str, rates: dict[str, float] | None = None
) -> Iterator[Training]:
    """The trainings of a method's results.

    Args:
        study: The study.
        path: Its file.
        method: One of its methods.
        rates: Task → learning rate, of the tasks that are wanted; by default every task with the
            first rate of the grid.
    """
    for task in study.tasks if rates is None else rates:
        rate = rates[task] if rates else study.rates_of(method)[0]
        for seed in study.seeds_of(method):
            yield training(study, path, Point(task, method, rate, seed))
