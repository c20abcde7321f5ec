"""What a study does: tasks × methods × learning rates × seeds, and the adapters that follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import structs

from aurac.adapters import Adapter, Factors, make_family
from aurac.adapters.methods import method_named
from aurac.adapters.truncate import BasisOption, Rescale
from aurac.errors import AuracError, RecipeError, RunFolderError
from aurac.runs.plan import Variant, ranks_of
from aurac.runs.session import variants_for
from aurac.runs.settings import TruncationOptions
from aurac.training.recipe import Recipe, family_members, make_recipe

Count = Annotated[int, msgspec.Meta(ge=0)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]  # NumPy takes no other
ADAPTERS = "adapters"
_SET = {"base", "learning_rate", "name", "seed"}  # fields of recipes that the study sets


class Documents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which documents an evaluation takes.

    Attributes:
        split: `test` or `validation`; None: the split that lm-eval evaluates.
        limit: The first so many documents; 0: all.
    """

    split: str | None = None
    limit: Count = 0


class ValidationDocuments(Documents, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the split `validation`, if no other is named."""

    split: str | None = "validation"


class MethodSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the study, a method, and a method on one task can set; the last that does counts.

    Attributes:
        learning_rates, seeds: Those of the method; empty: the study's.
        learning_rates_of: Take the rates that the search of this method chooses.
        basis, rescale: Those of the method; empty: the study's. A family has none.
    """

    learning_rates: list[float] = []
    learning_rates_of: str = ""
    seeds: list[Seed] = []
    basis: list[BasisOption] = []
    rescale: list[Rescale] = []


class MethodPlan(MethodSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way of training.

    Attributes:
        recipe: Fields of the recipe that belong to the method, such as `method`.
        label: What figures and tables call it; its name in the file by default.
        family: Train one adapter for each rank of `ranks`; together they give one curve.
    """

    recipe: dict[str, Any]
    label: str = ""
    family: bool = False


class TaskPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task: what is trained on, and what is evaluated.

    Attributes:
        task: The task's name in lm-eval, a bundled one, or a YAML file beside the study's.
        recipe: Fields of the recipe that belong to the task: data, templates, steps.
        options: Options of `aurac.compare` for the task, such as `num_fewshot` or `data`; relative
            folders in `data` are looked for beside the study's file first.
        validation: Documents on which learning rates are judged.
        test: Documents of the results.
        methods: The methods of the task, with settings of their own; empty: all of the study.
        drop_documents: Keep no text of the documents with the results, where their licence or
            size forbids it. Outcomes, and the hashes of documents and prompts, stay.
    """

    task: str
    recipe: dict[str, Any]
    options: dict[str, Any] = {}
    validation: ValidationDocuments = ValidationDocuments(limit=100)
    test: Documents = Documents()
    methods: dict[str, MethodSettings] = {}
    drop_documents: bool = False

    def documents(self, kind: str) -> Documents:
        """Those of the `search` or of the `results`."""
        return self.validation if kind == "search" else self.test

    def evaluated(self, study: Path) -> str:
        """What `aurac.compare` takes as the name of the task; `study` is the study's file."""
        beside = study.parent / self.task
        return str(beside) if beside.suffix in (".yaml", ".yml") else self.task


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole method section of an experiment.

    Attributes:
        name: What it is called.
        question: What it asks, one sentence for the report.
        base: Base model of every training and evaluation.
        recipe: Fields of every recipe.
        tasks, methods: By the names that tables show.
        learning_rates: Grid of the search, for methods that set none; with one value there is no
            search.
        seeds: Seeds of the results, likewise.
        search_seed: Seed of the trainings of the search.
        ranks, search_ranks: As `--ranks`, for results and search.
        basis: Bases of truncation, as `--basis`; the first is the one compared.
        rescale: Scales at inference, the first is the one compared; empty: each adapter's default,
            and the published one.
        primary: Pairs of methods that are the primary comparisons, each with a truncation where it
            is not the first one (`lora · svd`); `*` in the second place is each other method.
        margin: Loss of accuracy against the best rank that a smaller one may have, a fraction;
            None: no rank is recommended.
        drop_weights: Remove the weights of a task's adapters when all their cells are there.
    """

    name: str
    question: str = ""
    base: str = "smollm2-135m-instruct-q4_1"
    recipe: dict[str, Any] = {}
    tasks: dict[str, TaskPlan]
    methods: dict[str, MethodPlan]
    learning_rates: list[float] = []
    seeds: list[Seed] = []
    search_seed: Seed = 42
    ranks: str = "pow2"
    search_ranks: str = "pow2"
    basis: list[BasisOption] = msgspec.field(default_factory=lambda: ["auto"])
    rescale: list[Rescale] = []
    primary: list[tuple[str, str]] = []
    margin: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    drop_weights: bool = False

    @property
    def labels(self) -> dict[str, str]:
        """Method → what figures and tables call it."""
        return {name: plan.label or name for name, plan in self.methods.items()}

    @property
    def points(self) -> list[tuple[str, str]]:
        """Every (task, method) of the design, in the order of the file."""
        return [(task, method) for task in self.tasks for method in self.methods_of(task)]

    def methods_of(self, task: str) -> list[str]:
        """The methods that are compared on a task, in the order of the study."""
        wanted = self.tasks[task].methods
        return [name for name in self.methods if name in wanted or not wanted]

    def plain_methods(self, task: str) -> list[str]:
        """Those that are no families."""
        return [name for name in self.methods_of(task) if not self.methods[name].family]

    def plan_of(self, task: str, method: str) -> MethodPlan:
        """A method with the settings that it has on a task."""
        special = self.tasks[task].methods.get(method, MethodSettings())
        values = {name: value for name, value in structs.asdict(special).items() if value}
        if "learning_rates" in values:  # either of the two takes the place of the method's own
            values.setdefault("learning_rates_of", "")
        elif "learning_rates_of" in values:
            values["learning_rates"] = []
        return structs.replace(self.methods[method], **values)

    def rates_from(self, task: str, method: str) -> str:
        """The method whose search chooses a method's learning rates; usually itself.

        It is the one in `learning_rates_of`. A family without rates of its own takes those that
        the method with the same `recipe` has, if there is one.
        """
        plan = self.plan_of(task, method)
        if plan.learning_rates_of or plan.learning_rates or not plan.family:
            return plan.learning_rates_of or method
        same = (n for n in self.plain_methods(task) if self.methods[n].recipe == plan.recipe)
        twin = next(same, None)
        return self.rates_from(task, twin) if twin else method

    def rates_of(self, task: str, method: str) -> list[float]:
        """The grid of a method on a task, ascending."""
        source = self.rates_from(task, method)
        return sorted(self.plan_of(task, source).learning_rates or self.learning_rates)

    def seeds_of(self, task: str, method: str) -> list[int]:
        """The seeds of a method's results on a task."""
        return self.plan_of(task, method).seeds or self.seeds

    def truncation_of(self, task: str, method: str | None, *, final: bool) -> TruncationOptions:
        """Which curves of a method's adapters are drawn; None: of one that says nothing of it.

        `final` is of the results; the search has the compared curve alone.
        """
        plan = self.plan_of(task, method) if method else MethodPlan(recipe={})
        basis, rescale = plan.basis or self.basis, plan.rescale or self.rescale
        if final:
            return TruncationOptions(self.ranks, basis, rescale or None)
        first = basis[:1], rescale[:1] or None
        return TruncationOptions(self.search_ranks, *first, published=False)


class PlannedAdapter(msgspec.Struct, frozen=True):
    """An adapter, or a family of one adapter for each rank, that gives a curve.

    Attributes:
        task, method: Names of the study.
        recipe: How it is trained, for a family at the largest rank; its name is that of the curve.
        trainings: Folder within the study's → recipe: one, or for a family one for each rank.
    """

    task: str
    method: str
    recipe: Recipe
    trainings: dict[str, Recipe]

    def checkpoint(self, out: Path) -> str:
        """What `aurac.compare` takes, in the study's folder."""
        names = [recipe.name for recipe in self.trainings.values()]
        folder = out / ADAPTERS / self.task
        if names == [self.recipe.name]:
            return str(folder / self.recipe.name)
        return f"{self.recipe.name}={folder}/{{{','.join(names)}}}"


def trainings_of(adapters: Iterable[PlannedAdapter]) -> dict[str, Recipe]:
    """Folder → recipe of all that is trained, each once."""
    return {folder: r for adapter in adapters for folder, r in adapter.trainings.items()}


def planned(
    study: Study, path: Path, task: str, method: str, rate: float, seed: int
) -> PlannedAdapter:
    """The adapter or family of a method on a task, at a learning rate and a training seed.

    Where a plain method of the study trains a family's adapter of the largest rank by the same
    recipe, that one is used. Relative data are looked for beside `path`, the study's file.

    Raises:
        RecipeError: A recipe field that does not exist or is out of range.
    """
    recipe = _recipe(study, path, task, method, rate, seed)
    trained = [recipe]
    if study.methods[method].family:
        others = [
            _recipe(study, path, task, name, rate, seed) for name in study.plain_methods(task)
        ]
        known = {_as_member(other).sha256: other for other in others}
        trained = [
            known.get(member.sha256) or replace(member, name=f"{recipe.name}-{label}")
            for label, member in family_members(recipe, ranks_of(study.ranks, recipe.rank))
        ]
    return PlannedAdapter(task, method, recipe, {f"{ADAPTERS}/{task}/{r.name}": r for r in trained})


def _as_member(recipe: Recipe) -> Recipe:
    """The recipe as a family writes it: without the nested ranks that its method ignores."""
    if method_named(recipe.method).nested:
        return recipe
    [(_, member)] = family_members(recipe, [recipe.rank])
    return member


def _recipe(study: Study, path: Path, task: str, method: str, rate: float, seed: int) -> Recipe:
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


def curves_of(study: Study, adapter: PlannedAdapter, *, final: bool) -> list[Variant]:
    """The curves of the results (`final`) or of the search that are drawn of an adapter.

    It need not be trained; the `source` of its adapters is the folder of their training.

    Raises:
        UsageError: A basis and a scale that do not go together.
    """
    name, outlines = (
        adapter.recipe.name,
        [
            Adapter(
                name=recipe.name,
                modules={"module": _factors(recipe)},
                nesting=recipe.nesting,
                recipe=recipe.to_dict(),
                source=Path(folder),
            )
            for folder, recipe in adapter.trainings.items()
        ],
    )
    whole = make_family(name, outlines) if study.methods[adapter.method].family else outlines[0]
    truncation = study.truncation_of(adapter.task, adapter.method, final=final)
    return variants_for(name, whole, truncation)


def _factors(recipe: Recipe) -> Factors:
    """Those of a module of one input and one output, without numbers."""
    A, B = (torch.empty(shape, device="meta") for shape in ((recipe.rank, 1), (1, recipe.rank)))
    return Factors(A, B, recipe.alpha, recipe.scaling)


def searches(study: Study, path: Path) -> Iterator[PlannedAdapter]:
    """What the search for learning rates trains; nothing for a grid of one value."""
    for task, method in study.points:
        rates = study.rates_of(task, method) if study.rates_from(task, method) == method else ()
        for rate in rates if len(rates) > 1 else ():
            yield planned(study, path, task, method, rate, study.search_seed)


def results_of(
    study: Study, path: Path, rates: Mapping[str, Mapping[str, float]] | None = None
) -> Iterator[PlannedAdapter]:
    """What the results are made from, by task and method.

    `rates` are task → method → learning rate; where one is not known, the first of the grid counts.
    """
    for task, method in study.points:
        known = (rates or {}).get(task, {})
        rate = known.get(method) or known.get(study.rates_from(task, method))
        rate = rate or study.rates_of(task, method)[0]
        for seed in study.seeds_of(task, method):
            yield planned(study, path, task, method, rate, seed)


def chosen_adapters(
    study: Study, path: Path, rates: Mapping[str, Mapping[str, float]]
) -> list[PlannedAdapter]:
    """What the results are made from; a RunFolderError where a rate was not chosen yet."""
    for task, method in study.points:
        if method not in rates.get(task, {}):
            raise RunFolderError(
                f"{path}: no learning rate of {method} on {task} was chosen yet",
                fix="first run the study to its end",
            )
    return list(results_of(study, path, rates))
