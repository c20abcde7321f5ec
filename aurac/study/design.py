"""What a study does: tasks × methods × learning rates × seeds."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import structs

from aurac.adapters.truncate import BasisOption, Rescale  # noqa: TC001 - msgspec reads the hints
from aurac.runs.settings import TruncationOptions

Count = Annotated[int, msgspec.Meta(ge=0)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]  # NumPy takes no other


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
    validation: ValidationDocuments = ValidationDocuments(limit=100)
    test: Documents = Documents()
    methods: dict[str, MethodSettings] = {}
    drop_documents: bool = False

    def documents(self, kind: str) -> Documents:
        """Those of the `search` or of the `results`."""
        return self.validation if kind == "search" else self.test


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

    def methods_of(self, task: str) -> list[str]:
        """The methods that are compared on a task, in the order of the study."""
        wanted = self.tasks[task].methods
        return [name for name in self.methods if name in wanted or not wanted]

    def plan_of(self, task: str, method: str) -> MethodPlan:
        """A method with the settings that it has on a task."""
        special = self.tasks[task].methods.get(method, MethodSettings())
        values = {name: getattr(special, name) for name in special.__struct_fields__}
        values = {name: value for name, value in values.items() if value}
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
        plain = [n for n in self.methods_of(task) if not self.methods[n].family]
        twin = next((n for n in plain if self.methods[n].recipe == plan.recipe), None)
        return self.rates_from(task, twin) if twin else method

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


def points_of(study: Study) -> list[tuple[str, str]]:
    """Every (task, method) of the design."""
    return [(task, method) for task in study.tasks for method in study.methods_of(task)]
