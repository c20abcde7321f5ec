"""From the file of a study to its one record; what cannot be resolved is refused by its key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from msgspec import structs

from aurac.adapters.truncate import check_cut
from aurac.curves.question import ALL_PAIRS, Key
from aurac.errors import DataError
from aurac.runs.settings import Settings
from aurac.study.design import RUN, SEARCH, Part, Plan, Planned, Study, outline, own_cuts, words_of
from aurac.study.file import Primary, Reader
from aurac.training.data import identified, located_data
from aurac.training.recipe import Recipe

_OF_THE_STUDY = {"checkpoints", "tasks", "base", "ranks", "basis", "rescale"}
_OPTIONS = set(Settings.__struct_fields__) - _OF_THE_STUDY - {"margin", "reference", "group"}
_OPTIONS -= {"out", "split"}
Identify = Callable[[Recipe], Recipe]


def load_study(path: str | Path, identify: Identify = identified) -> Study:
    """Read a study, and refuse by the path of its key whatever in it cannot be resolved.

    Args:
        path: Its file.
        identify: Gives a recipe the hash of its data. Where they cannot be read, the hash that the
            file names is taken.

    Raises:
        RecipeError: The file cannot be read, has an unknown or missing key, a value out of range,
            a name that stands for nothing, or data that are not there.
    """
    return _Resolver(Path(path), identify).study()


class _Resolver(Reader):
    """Merges the fields of a file, and checks what they say together."""

    def __init__(self, path: Path, identify: Identify) -> None:
        super().__init__(path)
        self.identify, self.hashes = identify, dict[tuple[str, ...], str]()
        self.groups = sorted(self.recipes, key=lambda name: "from" in self.recipes[name])
        bases, shots = self.file.base, self.file.num_fewshot
        self.bases = bases if isinstance(bases, dict) else {"": bases}
        self.shots = [*dict.fromkeys(shots)] if isinstance(shots, list) else [shots]

    def study(self) -> Study:
        """The record."""
        file = self.file
        self._check_names()
        parts = [self._part(alias, shots) for alias in self.bases for shots in self.shots]
        for i, pair in enumerate(file.primary):
            there = [self._declare(part, pair, f"primary[{i}]") for part in parts]
            if not any(there):
                self.refuse(f"primary[{i}]", f"no task has both {pair.a} and {pair.b}")
        return Study(self.path, file, self.search, parts)

    def _check_names(self) -> None:
        """Refuse what stands for no recipe and no base, and a recipe that goes on from a tail."""
        file, tasks = self.file, self.tasks.items()
        sources = {name: own["from"] for name, own in self.recipes.items() if "from" in own}
        used = {f"recipes.{name}.from": source for name, source in sources.items()}
        used |= {f"labels.{name}": name for name in file.labels}
        used |= {f"tasks.{t}.recipes.{name}": name for t, task in tasks for name in task.recipes}
        used |= {
            f"primary[{i}].{x}": getattr(p, x) for i, p in enumerate(file.primary) for x in "ab"
        }
        used |= {"reference": file.reference} if file.reference not in (None, ALL_PAIRS) else {}
        for key, name in used.items():
            if name not in self.recipes:
                there = ", ".join(self.recipes)
                self.refuse(key, f"there is no recipe {name}; there are {there}")
            if key.endswith(".from") and name in sources:
                self.refuse(key, f"{name} itself goes on from another recipe")
        for t, task in tasks:
            if unknown := set(task.bases) - self.bases.keys():
                self.refuse(f"tasks.{t}.bases", f"there is no base {min(unknown)}")
            for name in task.recipes:
                if task.recipes.keys().isdisjoint({sources.get(name, name)}):
                    self.refuse(
                        f"tasks.{t}.recipes.{name}", f"{sources[name]} has to be there, too"
                    )

    def _part(self, alias: str, shots: int | None) -> Part:
        plans = []
        for name, task in self.tasks.items():
            if alias in (task.bases or self.bases):
                asked = self._asked(alias, shots, name)
                there = [group for group in self.groups if group in (task.recipes or self.groups)]
                plans += [self._plan(alias, asked, name, group) for group in there]
        several = f"{shots}shot" if len(self.shots) > 1 else ""
        return Part("-".join(filter(None, (alias, several))), alias, tuple(plans))

    def _plan(self, alias: str, asked: dict[str, Settings], task: str, group: str) -> Plan:
        """A recipe on a task, with the fields of the study, the task, the recipe and both."""
        of = self.tasks[task]
        layers = {"recipe": self.common, f"tasks.{task}.recipe": of.recipe}
        mine = {f"recipes.{group}": self.recipes[group]}
        mine[f"tasks.{task}.recipes.{group}"] = of.recipes.get(group, {})
        layers |= mine
        at = {name: f"{key}.{name}" for key, each in layers.items() for name in each}
        fields = {name: value for each in layers.values() for name, value in each.items()}
        special = {name for each in mine.values() for name in each}
        source, family = fields.pop("from", None), fields.pop("family", False)
        seeds, cuts = fields.pop("seeds", self.file.seeds), fields.pop("cuts", ())
        own = self.search or of.recipe or of.recipes.get(group)
        plan = Plan(
            task=task,
            group=group,
            prefix="".join(f"{word}-" for word in (alias, task if own else "") if word),
            fields={**fields, "base": self.bases[alias]},
            seeds=tuple(dict.fromkeys(seeds)),
            ranks=self.file.ranks,
            family=bool(family or source),
            source=self._plan(alias, asked, task, source) if source else None,
            beside=self.path.parent,
            asked=asked,
        )
        for name in ("method", "rank", "cuts") if source else ("cuts",) if family else ():
            if name in special:
                self.refuse(at[name], "a family has its own")
        with self.at(f"recipes.{group} on {task}"):
            made = plan.adapter(seeds[0], {})
        self._check_ranks(made)
        with self.at(at["data" if made.recipe.data else "task"]):
            plan = replace(plan, fields={**plan.fields, "data_sha256": self._contents(made.recipe)})
        for i, cut in enumerate(cuts):
            with self.at(f"{at['cuts']}[{i}]"):
                check_cut(outline(made.recipe), *cut)
        if plan.family or not cuts:
            cuts = own_cuts(made.trainings[-1].recipe, family=plan.family)
        plan = replace(plan, cuts=tuple(dict.fromkeys(cuts)))
        return self._searched(plan, special)

    def _searched(self, plan: Plan, special: set[str]) -> Plan:
        """A plan with its grid: the fields that its recipe does not set."""
        if (search := self.search) is None:
            return plan
        grid = {name: each for name, each in search.grid.items() if name not in special}
        plan = replace(plan, grid=grid if grid or len(plan.cuts) > 1 else None)
        for point in plan.points:
            with self.at(f"search: {' '.join(words_of(point))} for {plan.group} on {plan.task}"):
                trial = plan.trial(search.seed, {}, point)
            self._check_ranks(trial)
            if search.at not in ("aurac", *trial.ranks):
                self.refuse("search.at", f"rank {search.at} is not in ranks")
        return plan

    def _check_ranks(self, made: Planned) -> None:
        if (last := made.ranks[-1]) > (rank := made.recipe.rank):
            self.refuse("ranks", f"{last} is above {rank}, the rank of {made.plan.group}")

    def _contents(self, recipe: Recipe) -> str:
        """The hash of a recipe's data."""
        data = recipe.task, recipe.data, recipe.data_sha256
        if data not in self.hashes:
            try:
                self.hashes[data] = self.identify(recipe).data_sha256
            except DataError:
                if not recipe.data_sha256:
                    raise
                self.hashes[data] = recipe.data_sha256
        return self.hashes[data]

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

    def _declare(self, part: Part, pair: Primary, at: str) -> bool:
        """Add the two rows of a declared comparison to a part; whether a task has both."""
        both = [part.groups.get(name, []) for name in (pair.a, pair.b)]
        tasks = set.intersection(*({plan.task for plan in plans} for plans in both))
        if pair.a == pair.b:
            self.refuse(at, f"{pair.a} is compared with itself")
        if not tasks:
            return False
        keys = []
        for name, plans in zip((pair.a, pair.b), both, strict=True):
            there = {plan.task: plan.cuts for plan in plans if plan.task in tasks}
            for task, cuts in there.items():
                if pair.cut not in (None, *cuts):
                    wrong = f"{name} is cut by {', '.join(map(' '.join, cuts))} on {task}"
                    self.refuse(f"{at}.cut", f"{wrong}, not by {' '.join(pair.cut or ())}")
            first = {pair.cut or cuts[0] for cuts in there.values()}
            searched = not pair.cut and any(plan.grid is not None for plan in plans)
            if len(first) > 1 and not searched:
                self.refuse(at, f"{name} has another first cut on each task: name one")
            keys.append(Key(name) if searched else Key(name, *first.pop()))
        part.primary.append((keys[0], keys[1]))
        return True
