"""From the file of a study to its one record; what cannot be resolved is refused by its key."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs, to_builtins

from aurac.adapters.cut import cuts_of
from aurac.adapters.truncate import check_cut, default_rescale
from aurac.curves.question import ALL_PAIRS
from aurac.errors import DataError, RecipeError
from aurac.runs.settings import Settings
from aurac.study.design import Part, Plan, Point, Study, outline, words_of
from aurac.study.file import Primary, Search, StudyFile, read_study, refused_at
from aurac.training.data import identified, located_data
from aurac.training.recipe import Recipe

_OPTIONS = {*Settings.__struct_fields__} - {
    *("checkpoints", "tasks", "base", "ranks", "basis", "rescale", "split", "groups"),
    *("margin", "reference", "device", "out"),
}


def load_study(path: str | Path) -> Study:
    """Read a study, and refuse by the path of its key whatever in it cannot be resolved.

    Raises:
        RecipeError: The file cannot be read, has an unknown or missing key, a value out of range,
            a name that stands for nothing, or data that are not there.
    """
    file = read_study(path := Path(path))
    with refused_at(path):
        return _Resolver(path, file).study()


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
        shots = file.num_fewshot
        self.shots = [*dict.fromkeys(shots)] if isinstance(shots, list) else [shots]
        self.hashes = dict[tuple[str, ...], str]()

    def study(self) -> Study:
        """The record."""
        self._check_names()
        parts = [self._part(alias, shots) for alias in self.bases for shots in self.shots]
        for i, pair in enumerate(self.file.primary):
            _declare(pair, parts, f"primary[{i}]")
        return Study(self.path, self.file, parts)

    def _check_names(self) -> None:
        """Refuse what stands for no recipe and no base."""
        file, used = self.file, dict[str, str]()
        for i, pair in enumerate(file.primary):
            used |= {f"primary[{i}].a": pair.a, f"primary[{i}].b": pair.b}
        for name, task in file.tasks.items():
            used |= {f"tasks.{name}.recipes.{group}": group for group in task.recipes}
            if unknown := set(task.bases) - self.bases.keys():
                raise RecipeError(f"tasks.{name}.bases: there is no base {min(unknown)}")
        used |= {f"labels.{name}": name for name in file.labels}
        if file.reference not in (None, ALL_PAIRS):
            used["reference"] = file.reference
        for group, own in self.told["recipes"].items():
            used[f"recipes.{group}.from"] = own.get("from", group)
        for key, name in used.items():
            if name not in file.recipes:
                there = ", ".join(file.recipes)
                raise RecipeError(f"{key}: there is no recipe {name}; there are {there}")

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
        seeds, cuts = fields.pop("seeds", self.file.seeds), fields.pop("cuts", ())
        trained_for = task if self.file.search or of["recipe"] or here else ""
        plan = Plan(
            task=task,
            group=group,
            name="-".join(filter(None, (alias, trained_for, group))),
            fields={**fields, "base": self.bases[alias]},
            seeds=tuple(dict.fromkeys(seeds)),
            family=family or source is not None,
            source=source,
            beside=self.path.parent,
            asked=asked,
            search=self.file.search or Search(),
        )
        with refused_at(f"recipes.{group} on {task}"):
            made = plan.adapter(seeds[0], {})
        with refused_at(at["data" if made.recipe.data else "task"]):
            fields = {**plan.fields, "data_sha256": self._contents(made.recipe)}
        outlined = outline(made.trainings[-1].recipe)
        for i, cut in enumerate(cuts):
            with refused_at(f"{at['cuts']}[{i}]"):
                check_cut(outlined, *cut)
        if plan.family:
            cuts = [("prefix", default_rescale(outlined))]
        cuts = tuple(dict.fromkeys(cuts or cuts_of(outlined)))
        plan = replace(plan, fields=fields, cuts=cuts)
        return replace(plan, points=self._points(plan, own | here))

    def _points(self, plan: Plan, special: Mapping[str, Any]) -> tuple[Point, ...]:
        """The settings that are tried: of the fields that the recipe does not set."""
        grid = {name: each for name, each in plan.search.grid.items() if name not in special}
        if not self.file.search or not (grid or len(plan.cuts) > 1):
            return ()
        values = itertools.product(*grid.values())
        points = tuple(dict(zip(grid, each, strict=True)) for each in values)
        for point in points:
            words = " ".join(words_of(point))
            with refused_at(f"search: {words} for {plan.group} on {plan.task}"):
                trial = plan.trial(point, {})
            if plan.search.at not in ("aurac", *trial.ranks):
                raise RecipeError(f"search.at: rank {plan.search.at} is not in ranks")
        return points

    def _contents(self, recipe: Recipe) -> str:
        """The hash of a recipe's data; of data that are not there the one that the file names."""
        data = recipe.task, recipe.data, recipe.data_sha256
        if data not in self.hashes:
            try:
                self.hashes[data] = identified(recipe).data_sha256
            except DataError:
                if not recipe.data_sha256:
                    raise
                self.hashes[data] = recipe.data_sha256
        return self.hashes[data]

    def _asked(self, alias: str, shots: int | None, task: str) -> Settings:
        """How a task is evaluated: folders as they are found beside the study."""
        options: dict[str, Any] = {} if shots is None else {"num_fewshot": shots}
        allowed, beside = _OPTIONS - options.keys(), self.path.parent
        of = {"options": self.file.options, f"tasks.{task}.options": self.file.tasks[task].options}
        for key, given in of.items():
            for name in given.keys() - allowed:
                raise RecipeError(f"{key}.{name}: this is no option here")
            options |= given
            with refused_at(key):
                base, ranks = self.bases[alias], self.file.ranks
                asked = Settings.of("ADAPTER", task, base=base, ranks=ranks, **options)
        data = {name: str(located_data(at, beside)) for name, at in asked.data.items()}
        include = asked.include_path and str(located_data(asked.include_path, beside))
        return structs.replace(asked, data=data, include_path=include)


def _declare(pair: Primary, parts: Sequence[Part], at: str) -> None:
    """Add a declared comparison to each part that has both of its recipes on a task."""
    if pair.a == pair.b:
        raise RecipeError(f"{at}: {pair.a} is compared with itself")
    tasks = [{*part.groups.get(pair.a, ())} & {*part.groups.get(pair.b, ())} for part in parts]
    if not any(tasks):
        raise RecipeError(f"{at}: no task has both {pair.a} and {pair.b}")
    for part in itertools.compress(parts, tasks):
        part.primary.append(pair)
        for name in (pair.a, pair.b):
            cuts = next(iter(part.groups[name].values())).cuts
            if pair.cut not in (None, *cuts):
                there = ", ".join(map(" ".join, cuts))
                raise RecipeError(f"{at}.cut: {name} is cut by {there}")
