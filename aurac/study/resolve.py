"""From the file of a study to its one record; what cannot be resolved is refused by its key."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import structs

from aurac.adapters.truncate import check_cut
from aurac.curves.question import ALL_PAIRS
from aurac.runs.settings import Settings
from aurac.study.design import (
    RUN,
    SEARCH,
    Part,
    Plan,
    Planned,
    Point,
    Study,
    outline,
    own_cuts,
    words_of,
)
from aurac.study.file import Cut, Reader
from aurac.training.data import located_data

_OF_THE_STUDY = {"checkpoints", "tasks", "base", "ranks", "basis", "rescale"}
_OPTIONS = set(Settings.__struct_fields__) - _OF_THE_STUDY - {"margin", "out", "split"}


def load_study(path: str | Path) -> Study:
    """Read a study, and refuse by the path of its key whatever in it cannot be resolved.

    Raises:
        RecipeError: The file cannot be read, has an unknown or missing key, a value out of range,
            or a name that stands for nothing.
    """
    return _Resolver(Path(path)).study()


class _Resolver(Reader):
    """Merges the fields of a file, and checks what they say together."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.chains: dict[str, list[str]] = {}
        depth = {name: len(self.chain(name)) for name in self.file.recipes}
        self.groups = sorted(depth, key=lambda name: depth[name])
        for name in self.groups:
            self.chains.setdefault(self.chain(name)[-1], []).append(name)
        bases, shots = self.file.base, self.file.num_fewshot
        self.bases = bases if isinstance(bases, dict) else {"": bases}
        self.shots = shots if isinstance(shots, list) else [shots]
        self.plan, self.asked = cache(self._plan), cache(self._asked)

    def study(self) -> Study:
        """The record."""
        file = self.file
        if file.reference not in (None, ALL_PAIRS):
            self.known(str(file.reference), "reference")
        for name in file.labels:
            self.known(name, f"labels.{name}")
        for name, task in self.tasks.items():
            for group in task.recipes:
                self.known(group, f"tasks.{name}.recipes.{group}")
            for i, alias in enumerate(task.bases):
                if alias not in self.bases:
                    self.refuse(f"tasks.{name}.bases[{i}]", f"there is no base {alias}")
        parts = [self._part(alias, shots) for alias in self.bases for shots in self.shots]
        self._check_primaries(parts)
        return Study(
            **{name: getattr(file, name) for name in ("name", "question", "labels", "margin")},
            path=self.path,
            reference=file.reference,
            search=self.search,
            groups=self.groups,
            chains=list(self.chains.values()),
            parts=[replace(p, primary=tuple(filter(p.compared, file.primary))) for p in parts],
        )

    def _part(self, alias: str, shots: int | None) -> Part:
        plans = [
            self.plan(alias, shots, name, group)
            for name, task in self.tasks.items()
            if not task.bases or alias in task.bases
            for group in self.groups
            if group in (task.recipes or self.groups)
        ]
        several = f"{shots}shot" if len(self.shots) > 1 else ""
        return Part("-".join(filter(None, (alias, several))), alias, tuple(plans))

    def _plan(self, alias: str, shots: int | None, task: str, group: str) -> Plan:
        """A recipe on a task, with the fields of the study, the task, the recipe and both."""
        of, source = self.tasks[task], self.sources[group]
        special = self.fields[group] | of.recipes.get(group, {})
        fields = {**self.fields[""], **of.recipe, **special, "base": self.bases[alias]}
        seeds, cuts = fields.pop("seeds", self.file.seeds), fields.pop("cuts", ())
        family = fields.pop("family", False) or source is not None
        own = self.search or of.recipe or of.recipes.get(group)
        plan = Plan(
            task=task,
            group=group,
            prefix="".join(f"{word}-" for word in (alias, task if own else "") if word),
            fields=fields,
            seeds=seeds,
            ranks=self.file.ranks,
            family=family,
            source=self.plan(alias, shots, task, source) if source else None,
            beside=self.path.parent,
            asked=self.asked(alias, shots, task),
        )
        for name in ("method", "rank", "cuts") if source else ("cuts",) if family else ():
            if name in special:
                self.refuse(self._key(task, group, name), "a family has its own")
        made = self._adapter(plan, f"recipes.{group} on {task}", plan.seeds[0], {})
        for i, cut in enumerate(cuts):
            with self.at(f"{self._key(task, group, 'cuts')}[{i}]"):
                check_cut(outline(made.recipe), *cut)
        chosen = not family and cuts or own_cuts(made.recipe, family=family)
        plan = replace(plan, cuts=tuple(dict.fromkeys(chosen)))
        if self.search is None:
            return plan
        grid = {name: each for name, each in self.search.grid.items() if name not in special}
        plan = replace(plan, grid=grid if grid or len(plan.cuts) > 1 else None)
        for point in plan.points:
            tried = f"search: {' '.join(words_of(point))} for {group} on {task}"
            trial = self._adapter(plan, tried, self.search.seed, point)
            if self.search.at != "aurac" and self.search.at not in trial.ranks:
                self.refuse("search.at", f"rank {self.search.at} is not in ranks")
        return plan

    def _adapter(self, plan: Plan, key: str, seed: int, point: Point) -> Planned:
        with self.at(key):
            made = plan.adapter(seed, {(plan.task, plan.group): point})
        if made.ranks[-1] > made.recipe.rank:
            above = f"{made.ranks[-1]} is above {made.recipe.rank}, the rank of {plan.group}"
            self.refuse("ranks", above)
        return made

    def _key(self, task: str, group: str, field: str) -> str:
        """The path of the field that counts for a recipe on a task."""
        of = self.tasks[task]
        for at, fields in (
            (f"tasks.{task}.recipes.{group}", of.recipes.get(group, {})),
            (f"recipes.{group}", self.fields[group]),
            (f"tasks.{task}.recipe", of.recipe),
        ):
            if field in fields:
                return f"{at}.{field}"
        return f"recipe.{field}"

    def _asked(self, alias: str, shots: int | None, task: str) -> dict[str, Settings]:
        """How a task is evaluated: folders as they are found beside the study."""
        options = {} if self.file.num_fewshot is None else {"num_fewshot": shots}
        beside, allowed = self.path.parent, _OPTIONS - options.keys()
        for key, given in (("", self.file.options), (f"tasks.{task}.", self.tasks[task].options)):
            if unknown := sorted(given.keys() - allowed):
                self.refuse(f"{key}options.{unknown[0]}", "this is no option here")
            options |= given
            with self.at(f"{key}options"):
                asked = Settings.of("ADAPTER", task, base=self.bases[alias], **options)
        data = {name: str(located_data(at, beside)) for name, at in asked.data.items()}
        include = asked.include_path and str(located_data(asked.include_path, beside))
        asked = structs.replace(asked, data=data, include_path=include)
        if self.search is None:
            return {RUN: asked}
        split, limit = self.search.split, self.search.limit
        return {RUN: asked, SEARCH: structs.replace(asked, split=split, limit=limit)}

    def _check_primaries(self, parts: list[Part]) -> None:
        for i, pair in enumerate(self.file.primary):
            self.known(pair.a, f"primary[{i}].a")
            self.known(pair.b, f"primary[{i}].b")
            if pair.a == pair.b:
                self.refuse(f"primary[{i}]", f"{pair.a} is compared with itself")
            plans = [plan for part in parts for plan in part.compared(pair)]
            if not plans:
                self.refuse(f"primary[{i}]", f"no task has both {pair.a} and {pair.b}")
            first: dict[str, Cut] = {}
            for plan in plans:
                cuts = ", ".join(map(" ".join, plan.cuts))
                if pair.cut not in (None, *plan.cuts):
                    wrong = f"{plan.group} is not cut by {' '.join(pair.cut or ())} on {plan.task}"
                    self.refuse(f"primary[{i}].cut", f"{wrong}, but by {cuts}")
                own = first.setdefault(plan.group, plan.cuts[0])
                if pair.cut is None and plan.grid is None and own != plan.cuts[0]:
                    self.refuse(f"primary[{i}]", f"{plan.group} has several first cuts: name one")
