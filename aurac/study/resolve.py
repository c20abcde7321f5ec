"""From the file of a study to its one record; what cannot be resolved is refused by its key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from msgspec import structs, to_builtins

from aurac.adapters.cut import cuts_of
from aurac.adapters.truncate import check_cut, default_rescale
from aurac.curves.question import ALL_PAIRS, Key
from aurac.errors import DataError, RecipeError
from aurac.runs.settings import Settings
from aurac.study.design import Part, Plan, Planned, Study, outline, words_of
from aurac.study.file import Cut, Search, StudyFile, read_study, refused_at
from aurac.training.data import identified, located_data
from aurac.training.recipe import Recipe

_OF_THE_STUDY = {"checkpoints", "tasks", "base", "ranks", "basis", "rescale", "split", "groups"}
_OF_THE_STUDY |= {"margin", "reference", "device", "out"}
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
    file = read_study(path := Path(path))
    with refused_at(path):
        return _Resolver(path, file, identify).study()


class _Resolver:
    """Merges the fields of a file, and checks what they say together.

    Attributes:
        told: The file in plain values, without what it does not set.
        sources: Recipe → the one of which it trains the cuts on.
        groups: The recipes, each after the one that it goes on from.
    """

    def __init__(self, path: Path, file: StudyFile, identify: Identify) -> None:
        self.path, self.file, self.identify = path, file, identify
        self.hashes, self.told = dict[tuple[str, ...], str](), to_builtins(file)
        recipes = self.told["recipes"]
        self.sources = {name: own["from"] for name, own in recipes.items() if "from" in own}
        self.groups = sorted(recipes, key=lambda name: name in self.sources)
        self.bases = file.base if isinstance(file.base, dict) else {"": file.base}
        shots = file.num_fewshot
        self.shots = [*dict.fromkeys(shots)] if isinstance(shots, list) else [shots]

    def study(self) -> Study:
        """The record."""
        self._check_names()
        parts = [self._part(alias, shots) for alias in self.bases for shots in self.shots]
        for i, pair in enumerate(self.file.primary):
            at = f"primary[{i}]"
            if pair.a == pair.b:
                raise RecipeError(f"{at}: {pair.a} is compared with itself")
            there = [self._declare(part, (pair.a, pair.b), pair.cut, at) for part in parts]
            if not any(there):
                raise RecipeError(f"{at}: no task has both {pair.a} and {pair.b}")
        return Study(self.path, self.file, parts)

    def _check_names(self) -> None:
        """Refuse what stands for no recipe and no base, and a recipe that goes on from a tail."""
        file, tasks, sources = self.file, self.file.tasks.items(), self.sources
        pairs = enumerate(file.primary)
        used = {f"recipes.{name}.from": source for name, source in sources.items()}
        used |= {f"labels.{name}": name for name in file.labels}
        used |= {f"tasks.{t}.recipes.{name}": name for t, task in tasks for name in task.recipes}
        used |= {f"primary[{i}].{side}": getattr(pair, side) for i, pair in pairs for side in "ab"}
        used |= {"reference": file.reference} if file.reference not in (None, ALL_PAIRS) else {}
        for key, name in used.items():
            if name not in self.groups:
                there = ", ".join(file.recipes)
                raise RecipeError(f"{key}: there is no recipe {name}; there are {there}")
            if key.endswith(".from") and name in sources:
                raise RecipeError(f"{key}: {name} itself goes on from another recipe")
        for t, task in tasks:
            if unknown := set(task.bases) - self.bases.keys():
                raise RecipeError(f"tasks.{t}.bases: there is no base {min(unknown)}")
            for name in task.recipes:
                if (source := sources.get(name, name)) not in task.recipes:
                    raise RecipeError(f"tasks.{t}.recipes.{name}: {source} has to be there, too")

    def _part(self, alias: str, shots: int | None) -> Part:
        several = f"{shots}shot" if len(self.shots) > 1 else ""
        plans = []
        for name, task in self.file.tasks.items():
            if alias in (task.bases or self.bases):
                asked = self._asked(alias, shots, name)
                there = [group for group in self.groups if group in (task.recipes or self.groups)]
                plans += [self._plan(alias, asked, name, group) for group in there]
        return Part("-".join(filter(None, (alias, several))), tuple(plans), [])

    def _plan(self, alias: str, asked: Settings, task: str, group: str) -> Plan:
        """A recipe on a task, with the fields of the study, the task, the recipe and both."""
        of = self.told["tasks"][task]
        layers = {"recipe": self.told["recipe"], f"tasks.{task}.recipe": of["recipe"]}
        mine = {f"recipes.{group}": self.told["recipes"][group]}
        mine[f"tasks.{task}.recipes.{group}"] = of["recipes"].get(group, {})
        layers |= mine
        at = {name: f"{key}.{name}" for key, each in layers.items() for name in each}
        fields = {name: value for each in layers.values() for name, value in each.items()}
        special = {name for each in mine.values() for name in each}
        source, family = fields.pop("from", None), fields.pop("family", False)
        seeds, cuts = fields.pop("seeds", self.file.seeds), fields.pop("cuts", ())
        own = self.file.search or of["recipe"] or of["recipes"].get(group)
        plan = Plan(
            task=task,
            group=group,
            name="-".join(filter(None, (alias, own and task, group))),
            fields={**fields, "base": self.bases[alias]},
            seeds=tuple(dict.fromkeys(seeds)),
            ranks=self.file.ranks,
            family=bool(family or source),
            source=self._plan(alias, asked, task, source) if source else None,
            beside=self.path.parent,
            asked=asked,
            search=self.file.search or Search(),
        )
        for name in ("method", "rank", "cuts") if source else ("cuts",) if family else ():
            if name in special:
                raise RecipeError(f"{at[name]}: a family has its own")
        with refused_at(f"recipes.{group} on {task}"):
            made = plan.adapter(seeds[0], {})
        _check_ranks(made)
        with refused_at(at["data" if made.recipe.data else "task"]):
            contents = self._contents(made.recipe)
        for i, cut in enumerate(cuts):
            with refused_at(f"{at['cuts']}[{i}]"):
                check_cut(outline(made.recipe), *cut)
        if plan.family:
            cuts = [("prefix", default_rescale(outline(made.trainings[-1].recipe)))]
        cuts = tuple(dict.fromkeys(cuts or cuts_of(outline(made.recipe))))
        plan = replace(plan, fields={**plan.fields, "data_sha256": contents}, cuts=cuts)
        return self._searched(plan, special)

    def _searched(self, plan: Plan, special: set[str]) -> Plan:
        """A plan with its grid: the fields that its recipe does not set."""
        grid = {name: each for name, each in plan.search.grid.items() if name not in special}
        if self.file.search and (grid or len(plan.cuts) > 1):
            plan = replace(plan, grid=grid)
        for point in plan.points:
            words = " ".join(words_of(point))
            with refused_at(f"search: {words} for {plan.group} on {plan.task}"):
                trial = plan.trial(point, {})
            _check_ranks(trial)
            if plan.search.at not in ("aurac", *trial.ranks):
                raise RecipeError(f"search.at: rank {plan.search.at} is not in ranks")
        return plan

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

    def _asked(self, alias: str, shots: int | None, task: str) -> Settings:
        """How a task is evaluated: folders as they are found beside the study."""
        options = {} if self.file.num_fewshot is None else {"num_fewshot": shots}
        beside, elsewhere = self.path.parent, _OF_THE_STUDY | options.keys()
        of = {"options": self.file.options, f"tasks.{task}.options": self.file.tasks[task].options}
        for key, given in of.items():
            for name in given:
                if name in elsewhere or name not in Settings.__struct_fields__:
                    raise RecipeError(f"{key}.{name}: this is no option here")
            options |= given
            with refused_at(key):
                asked = Settings.of("ADAPTER", task, base=self.bases[alias], **options)
        data = {name: str(located_data(at, beside)) for name, at in asked.data.items()}
        include = asked.include_path and str(located_data(asked.include_path, beside))
        return structs.replace(asked, data=data, include_path=include)

    def _declare(self, part: Part, pair: tuple[str, str], cut: Cut | None, at: str) -> bool:
        """Add the two rows of a declared comparison to a part; whether a task has both."""
        plans = [part.groups.get(name, []) for name in pair]
        tasks = set.intersection(*({plan.task for plan in each} for each in plans))
        if tasks:
            a, b = ([plan for plan in each if plan.task in tasks] for each in plans)
            part.primary.append((_row(a, cut, at), _row(b, cut, at)))
        return bool(tasks)


def _row(plans: list[Plan], cut: Cut | None, at: str) -> Key:
    """The row of a recipe in a declared comparison; without its cut where a search finds this."""
    name = plans[0].group
    for plan in plans:
        if cut not in (None, *plan.cuts):
            there = ", ".join(map(" ".join, plan.cuts))
            wrong = f"{name} is cut by {there} on {plan.task}, not by {' '.join(cut or ())}"
            raise RecipeError(f"{at}.cut: {wrong}")
    first = {cut or plan.cuts[0] for plan in plans}
    if not cut and any(plan.grid is not None for plan in plans):
        return Key(name)
    if len(first) > 1:
        raise RecipeError(f"{at}: {name} has another first cut on each task: name one")
    return Key(name, *first.pop())


def _check_ranks(made: Planned) -> None:
    if (last := made.ranks[-1]) > (rank := made.recipe.rank):
        raise RecipeError(f"ranks: {last} is above {rank}, the rank of {made.plan.group}")
