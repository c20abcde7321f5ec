"""The file of a study: tasks × methods × learning rates × seeds, checked before anything runs."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import torch
import yaml
from msgspec import structs

from aurac.adapters import Adapter, Factors, make_family
from aurac.adapters.methods import method_named
from aurac.adapters.truncate import Basis, Rescale  # noqa: TC001 - msgspec reads the hints
from aurac.engine import EngineOptions
from aurac.errors import AuracError, RecipeError, RunFolderError
from aurac.runs.plan import ranks_of
from aurac.runs.session import variants_for
from aurac.runs.settings import Execution, ModelOptions, TruncationOptions
from aurac.tasks.options import TaskOptions
from aurac.training.recipe import Recipe, family_members, make_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aurac.runs.plan import Variant

ADAPTERS = Path("adapters")
_SET = {"base", "learning_rate", "name", "seed", "sweep"}  # fields of recipes that the study sets
_CHOSEN = {"base", "device", "held_out", "limit", "shard", "split"}  # and options of `compare`
Count = Annotated[int, msgspec.Meta(ge=0)]


class Documents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which documents an evaluation takes.

    Attributes:
        split: `test` or `validation`; None: the split that lm-eval evaluates.
        limit: The first so many documents; 0: all.
    """

    split: str | None = None
    limit: Count = 0


class MethodSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the study, a method, and a method on one task can set; the last that does counts.

    Attributes:
        learning_rates, seeds: Those of the method; empty: the study's.
        learning_rates_of: Take the rates that the search of this method chooses.
        basis, rescale: Those of the method; empty: the study's. A family has none.
    """

    learning_rates: list[float] = []
    learning_rates_of: str = ""
    seeds: list[Count] = []
    basis: list[Basis] = []
    rescale: list[Rescale] = []


class MethodPlan(MethodSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way of training.

    Attributes:
        recipe: Fields of the recipe that belong to the method, such as `method`.
        family: Train one adapter for each rank of `ranks`; together they give one curve.
    """

    recipe: dict[str, Any]
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
    validation: Documents = Documents(split="validation", limit=100)
    test: Documents = Documents()
    methods: dict[str, MethodSettings] = {}
    drop_documents: bool = False


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
        rescale: Scales at inference, the first is the one compared; empty: each adapter's default,
            and the published one.
        margin: Loss of accuracy that a non-inferior rank may have, a fraction.
        drop_weights: Remove the weights of a task's adapters when all their cells are there.
    """

    name: str
    question: str = ""
    base: str = "smollm2-135m-instruct-q4_1"
    recipe: dict[str, Any] = {}
    tasks: dict[str, TaskPlan]
    methods: dict[str, MethodPlan]
    learning_rates: list[float]
    seeds: list[Count]
    search_seed: Count = 42
    ranks: str = "pow2"
    search_ranks: str = "pow2"
    basis: list[Basis] = msgspec.field(default_factory=lambda: ["prefix"])
    rescale: list[Rescale] = []
    margin: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.02
    drop_weights: bool = False

    def methods_of(self, task: str) -> list[str]:
        """The methods that are compared on a task, in the order of the study."""
        wanted = self.tasks[task].methods
        return [name for name in self.methods if name in wanted or not wanted]

    def plan_of(self, task: str, method: str) -> MethodPlan:
        """A method with the settings that it has on a task."""
        special = self.tasks[task].methods.get(method, MethodSettings())
        values = {name: getattr(special, name) for name in special.__struct_fields__}
        return structs.replace(self.methods[method], **{k: v for k, v in values.items() if v})

    def rates_from(self, task: str, method: str) -> str:
        """The method whose search chooses a method's learning rates; usually itself.

        It is the one in `learning_rates_of`. A family without rates of its own takes those of the
        method that has the same `recipe`, if there is one.
        """
        plan = self.plan_of(task, method)
        if plan.learning_rates_of or plan.learning_rates or not plan.family:
            return plan.learning_rates_of or method
        plain = [n for n in self.methods_of(task) if not self.methods[n].family]
        return next((n for n in plain if self.methods[n].recipe == plan.recipe), method)

    def rates_of(self, task: str, method: str) -> list[float]:
        """The grid of a method on a task, ascending."""
        source = self.rates_from(task, method)
        return sorted(self.plan_of(task, source).learning_rates or self.learning_rates)

    def seeds_of(self, task: str, method: str) -> list[int]:
        """The seeds of a method's results on a task."""
        return self.plan_of(task, method).seeds or self.seeds

    def truncation_of(self, task: str, method: str | None, *, final: bool) -> TruncationOptions:
        """Which curves of a method's adapters are drawn; the search has the compared one alone.

        Args:
            task: The task.
            method: The method; None: one that says nothing of it.
            final: Of the results, not of the search.
        """
        plan = self.plan_of(task, method) if method else MethodPlan(recipe={})
        basis, rescale = plan.basis or self.basis, plan.rescale or self.rescale
        if final:
            return TruncationOptions(self.ranks, basis, rescale or None)
        first = basis[:1], rescale[:1] or None
        return TruncationOptions(self.search_ranks, *first, published=False)


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


def points_of(study: Study) -> list[tuple[str, str]]:
    """Every (task, method) of the design."""
    return [(task, method) for task in study.tasks for method in study.methods_of(task)]


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
    for task, method in points_of(study):
        _check_method(study, f"{path}, {task}:", task, method)
    for name in (*study.tasks, *study.methods):
        if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise RecipeError(
                f"{path}: the name {name!r}", expected="letters, digits, '.', '-' and '_'"
            )
    _check_recipes(study, path)


def _check_options(where: str, options: Mapping[str, Any]) -> None:
    kinds = (TaskOptions, ModelOptions, EngineOptions, Execution)
    known = {field.name for kind in kinds for field in fields(kind)} - _CHOSEN
    if unknown := sorted(options.keys() - known):
        expected = f"some of {', '.join(sorted(known))}"
        raise RecipeError(f"{where} {', '.join(unknown)}", expected=expected)
    if not isinstance(data := options.get("data", {}), dict):
        raise RecipeError(f"{where} data = {data!r}", expected="a mapping, {TASK: FOLDER}")


def _check_method(study: Study, where: str, task: str, method: str) -> None:
    plan, source = study.plan_of(task, method), study.plan_of(task, method).learning_rates_of
    searched = [name for name in study.methods_of(task) if name != method]
    if source and (source not in searched or study.rates_from(task, source) != source):
        raise RecipeError(
            f"{where} learning_rates_of = {source!r} of {method}",
            expected="a method of the study that has a search of its own",
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
        if not values or len(set(values)) != len(values):
            raise RecipeError(f"{where} {name} = {values} of {method}", expected="each value once")


def _check_recipes(study: Study, path: Path) -> None:
    """Make every recipe of the design, which checks it; all have the same trained rank."""
    made = [*searches(study, path), *results_of(study, path)]
    for one in made:
        try:
            curves_of(study, one, final=True)
        except AuracError as error:
            raise RecipeError(f"{path}, {one.method}: {error}") from error
        if one.recipe.rank != made[0].recipe.rank:
            raise RecipeError(
                f"{path}: rank {one.recipe.rank} of {one.method} and {made[0].recipe.rank} of "
                f"{made[0].method}",
                expected="one trained rank",
            )
    R = made[0].recipe.rank
    for spec in (study.ranks, study.search_ranks):
        ranks = ranks_of(spec, R)
        if len(ranks) < 2 or not 1 <= min(ranks) <= max(ranks) <= R:
            raise RecipeError(
                f"{path}: ranks {spec}", expected=f"two or more, from 1 to the trained rank {R}"
            )


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
