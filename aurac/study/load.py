"""Reads the file of a study and checks it before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from aurac.analysis.primary import check_pairs
from aurac.engine import EngineOptions
from aurac.errors import AuracError, RecipeError
from aurac.runs.plan import ranks_of
from aurac.runs.settings import Execution, ModelOptions
from aurac.study.design import Study, points_of
from aurac.study.trainings import curves_of, results_of, searches
from aurac.tasks.options import TaskOptions
from aurac.training.recipe import read_yaml

_CHOSEN = {
    "base",
    "device",
    "held_out",
    "limit",
    "retry_failed",
    "shard",
    "split",
}  # options of `compare` that the study sets


def load_study(path: str | Path) -> Study:
    """Read a study and check every recipe that it implies.

    Raises:
        RecipeError: The file cannot be read, has an unknown or missing field, or implies a recipe
            with a value out of range.
    """
    path = Path(path)
    content = read_yaml(path)
    try:
        study = msgspec.convert(content, Study, strict=False)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{path}: {error}", fix="correct the file") from error
    _check(study, path)
    return study


def _check(study: Study, path: Path) -> None:
    lists = {"tasks": study.tasks, "methods": study.methods, "basis": study.basis}
    for name, values in lists.items():
        if not values:
            raise RecipeError(f"{path} has no {name}", expected="at least one")
    for task, plan in study.tasks.items():
        _check_options(f"{path}, {task}: options", plan.options)
        if unknown := plan.methods.keys() - study.methods.keys():
            raise RecipeError(
                f"{path}: {task} has the methods {', '.join(sorted(unknown))}",
                expected=f"some of {', '.join(study.methods)}",
            )
    evaluated = [plan.task for plan in study.tasks.values()]
    if len(set(evaluated)) != len(evaluated):
        raise RecipeError(
            f"{path} evaluates a task twice ({', '.join(evaluated)})",
            expected="each task once",
            fix="make another way of training a method of its own, such as one with more steps",
        )
    try:
        check_pairs(study.primary, study.methods)
    except AuracError as error:
        raise RecipeError(f"{path}: primary: {error}") from error
    for task, method in points_of(study):
        _check_method(study, f"{path}, {task}:", task, method)
    for name in (study.name, *study.tasks, *study.methods):
        if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise RecipeError(
                f"{path}: the name {name!r}", expected="letters, digits, '.', '-' and '_'"
            )
    _check_recipes(study, path)


def _check_options(where: str, options: Mapping[str, Any]) -> None:
    names = {"Mapping": Mapping, "Sequence": Sequence, "Path": str}  # as in YAML
    kinds = (TaskOptions, ModelOptions, EngineOptions, Execution)
    hints = {n: hint for kind in kinds for n, hint in get_type_hints(kind, localns=names).items()}
    if unknown := sorted(options.keys() - (hints.keys() - _CHOSEN)):
        expected = f"some of {', '.join(sorted(hints.keys() - _CHOSEN))}"
        raise RecipeError(f"{where} {', '.join(unknown)}", expected=expected)
    for name, value in options.items():
        try:
            msgspec.convert(value, hints[name])
        except msgspec.ValidationError as error:
            raise RecipeError(f"{where} {name} = {value!r}: {error}", fix="correct it") from error


def _check_method(study: Study, where: str, task: str, method: str) -> None:
    plan, source = study.plan_of(task, method), study.plan_of(task, method).learning_rates_of
    searched = [name for name in study.methods_of(task) if name != method]
    if source and (source not in searched or study.rates_from(task, source) != source):
        raise RecipeError(
            f"{where} learning_rates_of = {source!r} of {method}",
            expected="another method on this task that has learning rates of its own",
        )
    if source and plan.learning_rates:
        raise RecipeError(
            f"{where} learning_rates and learning_rates_of of {method}", expected="one of the two"
        )
    if plan.family and (plan.basis or plan.rescale):
        raise RecipeError(
            f"{where} basis or rescale of the family {method}",
            expected="neither: each adapter of a family is evaluated as it was trained",
        )
    rates, seeds = study.rates_of(task, method), study.seeds_of(task, method)
    for name, values in (("learning_rates", rates), ("seeds", seeds)):
        if not values:
            raise RecipeError(
                f"{where} no {name} of {method}", expected=f"`{name}` of the method or the study"
            )
        if len({f"{value:g}" for value in values}) != len(values):
            raise RecipeError(
                f"{where} {name} = {values} of {method}",
                expected="each value once" if name == "seeds" else "values that differ in 6 digits",
            )
    for other in study.methods_of(task):
        if other == method:
            return
        two = study.methods[method], study.methods[other]
        shared = set(rates) & set(study.rates_of(task, other))
        if two[0].recipe == two[1].recipe and shared and not any(one.family for one in two):
            raise RecipeError(
                f"{where} {other} and {method} train the same adapters",
                expected="other recipes or learning rates",
                fix="make further `basis` and `rescale` settings of one method",
            )


def _check_recipes(study: Study, path: Path) -> None:
    """Make every recipe and curve of the design, which checks them; all have one trained rank."""
    tried, found = list(searches(study, path)), list(results_of(study, path))
    R = found[0].recipe.rank
    for spec in (study.ranks, study.search_ranks):
        try:
            ranks = ranks_of(spec, R)
        except AuracError as error:
            raise RecipeError(f"{path}: ranks {spec}: {error}") from error
        if len(ranks) < 2 or not 1 <= min(ranks) <= max(ranks) <= R:
            raise RecipeError(
                f"{path}: ranks {spec}", expected=f"two or more, from 1 to the trained rank {R}"
            )
    for one in (*tried, *found):
        if one.recipe.rank != R:
            raise RecipeError(
                f"{path}: rank {one.recipe.rank} of {one.method} and {R} of {found[0].method}",
                expected="one trained rank",
            )
        for final in (True, one not in tried):
            try:
                curves_of(study, one, final=final)
            except AuracError as error:
                raise RecipeError(f"{path}, {one.method}: {error}") from error
