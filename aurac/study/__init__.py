"""Studies: one file becomes trained adapters, evaluations, tables and a report.

The file is read and checked here, before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from aurac.adapters.truncate import BasisOption, Rescale
from aurac.analysis.primary import check_pairs
from aurac.arguments import path_of, suggestion
from aurac.engine import EngineOptions
from aurac.errors import AuracError, RecipeError
from aurac.runs.plan import ranks_of
from aurac.runs.settings import Execution, ModelOptions
from aurac.study.design import (
    Study,
    TaskPlan,
    curves_of,
    results_of,
    searches,
)
from aurac.study.execution import run_study
from aurac.study.plan import Progress, plan_study
from aurac.study.summary import summarise
from aurac.tasks.options import TaskOptions
from aurac.training.recipe import read_yaml

__all__ = ["Progress", "Study", "load_study", "plan_study", "run_study", "summarise"]

_WORDS = {  # of msgspec
    "Object contains unknown": "unknown",
    "Object missing required": "no",
    "`array`": "a list",
    "`object`": "a mapping",
}
# options of `compare` that the study sets
_CHOSEN = {"base", "device", "held_out", "limit", "retry_failed", "shard", "split"}


def load_study(path: str | Path) -> Study:
    """Read a study and check every recipe that it implies.

    Raises:
        RecipeError: The file cannot be read, has an unknown or missing field, or implies a recipe
            with a value out of range.
        UsageError: Something else than a path.
    """
    path = path_of(path, "a study's file")
    values = read_yaml(path)
    if isinstance(values, dict) and "method" in values and "tasks" not in values:
        raise RecipeError(
            f"{path} is a recipe, not a study", fix=f"train it: `aurac train {path} --out FOLDER`"
        )
    try:
        study = msgspec.convert(values, Study, strict=False)
    except msgspec.ValidationError as error:
        given, fix = _wrong(str(error), values)
        raise RecipeError(f"{path}: {given}", fix=fix) from error
    _check_names(study, path)
    for task, plan in study.tasks.items():
        _check_options(f"{path}, {task}: options", plan)
    for task, method in study.points:
        _check_method(study, f"{path}, {task}:", task, method)
    _check_recipes(study, path)
    return study


def _wrong(error: str, values: Any) -> tuple[str, str]:
    """What is wrong with a field or its value, in words of YAML, and what to do."""
    error, kind = _placed(error, values)
    for said, word in _WORDS.items():
        error = error.replace(said, word)
    given = re.sub(r" - at `\$\.?(.*)`$", r" (at \1)", error).replace(" (at )", "")
    if listed := re.search(r"Invalid enum value .*\.(basis|rescale)\[", error):
        words = get_args(BasisOption if listed[1] == "basis" else Rescale)
        return given, f"give some of {', '.join(words)}"
    name = (re.findall("unknown field `(.+?)`", error) or [""])[0]
    if listed := re.search(r"Expected a list.* \(at (\w+)", given):
        item = "[a, b]" if listed[1] == "primary" else "a, b"
        return given, f"write a list: {listed[1]}: [{item}]"
    if not name:
        return given, "correct the file"
    fields = kind.__struct_fields__
    return given, suggestion(name, fields) or f"give some of {', '.join(fields)}"


def _placed(error: str, values: Any) -> tuple[str, Any]:
    """An error of msgspec with the names that it has as `[...]`, and the type of what is there."""
    kind: Any = Study
    place = re.search(r" - at `\$(\S+)`$", error)
    for field, named in re.findall(r"\.(\w+)(\[\.\.\.\])?", place[1] if place else ""):
        hint, values = get_type_hints(kind)[field], values[field]
        kind = (get_args(hint) or (hint,))[-1]
        if named:
            name = next(name for name in values if not _is(values[name], kind))
            error, values = error.replace(named, f".{name}", 1), values[name]
    return error, kind


def _is(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _refuse(wrong: object, given: str, expected: str, fix: str | None = None) -> None:
    if wrong:
        raise RecipeError(given, expected=expected, fix=fix)


def _check_names(study: Study, path: Path) -> None:
    for name in ("tasks", "methods", "basis"):
        _refuse(not getattr(study, name), f"{path} has no {name}", "at least one")
    for name in (study.name, *study.tasks, *study.methods):
        fine = re.fullmatch(r"[\w.-]*[^\W_][\w.-]*", name)
        _refuse(not fine, f"{path}: the name {name!r}", "letters, digits, '.', '-' and '_'")
    for task, plan in study.tasks.items():
        unknown = sorted(plan.methods.keys() - study.methods.keys())
        given = f"{path}: {task} has the methods {', '.join(unknown)}"
        _refuse(unknown, given, f"some of {', '.join(study.methods)}")
    labels = list(study.labels.values())
    twice = sorted({label for label in labels if labels.count(label) > 1})
    _refuse(twice, f"{path}: methods with the label {', '.join(twice)}", "a label for each")
    try:
        check_pairs(study.primary, study.methods)
    except AuracError as error:
        raise RecipeError(f"{path}: primary: {error.text}") from error


def _check_options(where: str, plan: TaskPlan) -> None:
    names = {"Mapping": Mapping, "Sequence": Sequence, "Path": str}  # as in YAML
    kinds = (TaskOptions, ModelOptions, EngineOptions, Execution)
    hints = {n: hint for kind in kinds for n, hint in get_type_hints(kind, localns=names).items()}
    known = sorted(hints.keys() - _CHOSEN)
    unknown = sorted(plan.options.keys() - set(known))
    _refuse(unknown, f"{where} {', '.join(unknown)}", f"some of {', '.join(known)}")
    for name, value in plan.options.items():
        try:
            msgspec.convert(value, hints[name])
        except msgspec.ValidationError as error:
            raise RecipeError(f"{where} {name} = {value!r}: {error}", fix="correct it") from error


def _check_method(study: Study, where: str, task: str, method: str) -> None:
    plan = study.plan_of(task, method)
    source, others = plan.learning_rates_of, [m for m in study.methods_of(task) if m != method]
    _refuse(
        source and (source not in others or study.rates_from(task, source) != source),
        f"{where} learning_rates_of = {source!r} of {method}",
        "another method on this task that has learning rates of its own",
    )
    given = f"{where} learning_rates and learning_rates_of of {method}"
    _refuse(source and plan.learning_rates, given, "one of the two")
    _refuse(
        plan.family and (plan.basis or plan.rescale),
        f"{where} basis or rescale of the family {method}",
        "neither: each adapter of a family is evaluated as it was trained",
    )
    rates, seeds = study.rates_of(task, method), study.seeds_of(task, method)
    for name, values, expected in (
        ("learning_rates", rates, "values that differ in 6 digits"),
        ("seeds", seeds, "each value once"),
    ):
        given = f"{where} no {name} of {method}"
        _refuse(not values, given, f"`{name}` of the method or the study")
        twice = len({f"{value:g}" for value in values}) != len(values)
        _refuse(twice, f"{where} {name} = {values} of {method}", expected)
    plain = () if plan.family else study.plain_methods(task)
    for other in takewhile(lambda name: name != method, plain):
        shared = set(rates) & set(study.rates_of(task, other))
        _refuse(
            shared and study.methods[other].recipe == plan.recipe,
            f"{where} {other} and {method} train the same adapters",
            "other recipes or learning rates",
            "make further `basis` and `rescale` settings of one method",
        )


def _check_recipes(study: Study, path: Path) -> None:
    """Make every recipe and curve of the design, which checks them; all have one trained rank."""
    tried, final = list(searches(study, path)), list(results_of(study, path))
    R = final[0].recipe.rank
    for spec in (study.ranks, study.search_ranks):
        try:
            ranks = ranks_of(spec, R)
        except AuracError as error:
            raise RecipeError(f"{path}: ranks {spec}: {error.text}") from error
        outside = len(ranks) < 2 or not 1 <= min(ranks) <= max(ranks) <= R
        given, expected = f"{path}: ranks {spec}", f"two or more, from 1 to the trained rank {R}"
        _refuse(outside, given, expected)
    for adapter in (*tried, *final):
        rank, method = adapter.recipe.rank, adapter.method
        given = f"{path}: rank {rank} of {method} and {R} of {final[0].method}"
        _refuse(rank != R, given, "one trained rank")
        try:
            curves_of(study, adapter, final=True)
            if adapter in tried:
                curves_of(study, adapter, final=False)
        except AuracError as error:
            raise RecipeError(f"{path}, {method}: {error.text}") from error
