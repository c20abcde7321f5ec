"""The file of a study as it is read: what may stand in it, and the path of what may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_type_hints

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aurac.adapters.truncate import Basis, Rescale
from aurac.errors import AuracError, RecipeError
from aurac.training.recipe import Count, Number, Recipe, read_yaml

Cut = tuple[Basis, Rescale]
Cuts = Annotated[tuple[Cut, ...], Meta(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**32)], ...], Meta(min_length=1)]
Ranks = Annotated[tuple[Number, ...], Meta(min_length=1)]
Fraction = Annotated[float, Meta(gt=0, lt=1)]
T = TypeVar("T")
_OF_THE_STUDY = {"name", "base", "seed", "start", "folder"}
_FIELDS = {
    name: kind
    for name, kind in get_type_hints(Recipe, include_extras=True).items()
    if name not in _OF_THE_STUDY
}


def _optional(name: str, kinds: dict[str, Any]) -> Any:
    """A struct all of whose fields may be left out."""
    fields = [(key, kind | UnsetType, UNSET) for key, kind in kinds.items()]
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)


_Fields = _optional("_Fields", {**_FIELDS, "seeds": Seeds, "cuts": Cuts, "family": bool})
_Grid = _optional(
    "_Grid",
    {
        name: Annotated[tuple[kind, ...], Meta(min_length=1)]
        for name, kind in _FIELDS.items()
        if name != "method"
    },
)


class TaskFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is trained for a task, and how it is evaluated.

    Attributes:
        bases: Those of the study's that do the task; empty: all.
        recipe: Fields of every recipe of the task, such as its training data.
        recipes: Those that are trained for the task, with fields of their own; empty: all.
        options: Options of `aurac.compare` for the task, such as `limit`, and `num_fewshot` in a
            study that names none for all tasks.
    """

    bases: tuple[str, ...] = ()
    recipe: Any = {}
    recipes: dict[str, Any] = {}
    options: dict[str, Any] = {}


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings that are tried for each recipe on each task before its seeds are trained.

    Attributes:
        grid: Field of the recipe → values; every combination is a trial. In the file these fields
            stand beside the others.
        seed: Of the trials' training.
        split: Of the task, on which they are evaluated.
        at: What decides: `aurac`, or the accuracy at a rank.
        limit: The first so many examples of the split; 0 takes all.
    """

    grid: dict[str, tuple[Any, ...]]
    seed: int = 1
    split: str = "validation"
    at: Literal["aurac"] | Number = "aurac"
    limit: Count = 0


class Primary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A comparison that is declared before the results: recipe `a` minus recipe `b`.

    Both are cut as `cut` says, a basis and a rescale. Without it each is cut its own way: with a
    search the best one on its split, else its first one.
    """

    a: str
    b: str
    cut: Cut | None = None


class StudyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An experiment.

    Attributes:
        name: What it is called.
        question: What it asks, one sentence for the report.
        base: Base model of every training and evaluation, or name → base of several.
        num_fewshot: Few-shot examples in each prompt, or several such numbers; None: the task's.
        seeds: Training seeds of every recipe that names none.
        recipe: Fields of every recipe.
        recipes: Name → its fields. Besides those of `Recipe` these may be `seeds`, `family` (train
            one adapter for each rank; together they are one curve), `from` (train the cuts by SVD
            of this recipe's adapters on: a family), and `cuts` (pairs of basis and rescale that are
            evaluated instead of the one that `aurac.compare` takes).
        tasks: lm-eval's name of a task → what is done for it.
        search: Settings that are chosen for each recipe first.
        primary: The comparisons that the study is for; they are one family.
        ranks: `pow2`, `all` or a list; AURAC is taken over these.
        margin: The question, as `aurac.compare` takes it.
        reference: The recipe with which all are compared, or `all`.
        labels: Recipe → what tables and figures call it.
        options: Options of `aurac.compare` for every task.
    """

    name: str
    question: str = ""
    base: str | Annotated[dict[str, str], Meta(min_length=1)] = "smollm2-135m-instruct-q4_1"
    num_fewshot: Count | Annotated[list[Count], Meta(min_length=1)] | None = None
    seeds: Seeds = (42,)
    recipe: Any = {}
    recipes: Annotated[dict[str, Any], Meta(min_length=1)]
    tasks: Annotated[dict[str, Any], Meta(min_length=1)]
    search: Any = None
    primary: tuple[Primary, ...] = ()
    ranks: Literal["pow2", "all"] | Ranks = "pow2"
    margin: Fraction | None = None
    reference: str | None = None
    labels: dict[str, str] = {}
    options: dict[str, Any] = {}


class Reader:
    """A study's file, of which every value has its type.

    Attributes:
        path: Where it is.
        file: What it says; its recipes and tasks are in the next attributes.
        fields: Recipe → its fields that the file sets; under "" those of every recipe.
        sources: Recipe → the recipe that it goes on from.
        tasks: By name.
        search: Its settings and grid.

    Raises:
        RecipeError: A key is unknown or missing, or has a value that it does not take.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.search, self.sources = path, None, dict[str, Any]()
        self.file = file = self.read(read_yaml(path), StudyFile, "")
        self.fields = {"": self._fields(file.recipe, "recipe")}
        for name, given in file.recipes.items():
            if isinstance(given, dict):
                self.sources[name] = given.pop("from", None)
            self.fields[name] = self._fields(given, f"recipes.{name}")
        self.tasks = {name: self._task(each, f"tasks.{name}") for name, each in file.tasks.items()}
        if isinstance(given := file.search, dict):
            own = {key: given.pop(key) for key in Search.__struct_fields__ if key in given}
            self.search = self.read(
                {**own, "grid": self._set(given, _Grid, "search")}, Search, "search"
            )
        elif given is not None:
            self.refuse("search", "there are no fields with their values")

    def _task(self, given: Any, at: str) -> TaskFile:
        task = self.read(given, TaskFile, at)
        recipes = {n: self._fields(each, f"{at}.recipes.{n}") for n, each in task.recipes.items()}
        recipe = self._fields(task.recipe, f"{at}.recipe")
        return msgspec.structs.replace(task, recipe=recipe, recipes=recipes)

    def _fields(self, given: Any, at: str) -> dict[str, Any]:
        return self._set(given, _Fields, at)

    def _set(self, given: Any, kind: Any, at: str) -> dict[str, Any]:
        """The fields that are set."""
        values = msgspec.structs.asdict(self.read(given, kind, at))
        return {name: value for name, value in values.items() if value is not UNSET}

    def read(self, given: Any, kind: type[T], at: str) -> T:
        """A value of a type, with texts read as numbers: YAML has 1e-3 as a text."""
        try:
            return msgspec.convert(given, kind, strict=False)
        except msgspec.ValidationError as error:
            reason, _, below = str(error).partition(" - at `$")
            key = f"{at}{below.rstrip('`')}"
            if "unknown field `" in reason:
                unknown = reason.split("`")[1]
                near = get_close_matches(unknown, kind.__struct_fields__, 1)  # type: ignore[attr-defined]
                instead = f"; did you mean {near[0]}?" if near else ""
                key, reason = f"{key}.{unknown}", f"there is no such key{instead}"
            self.refuse(key.removeprefix("."), reason.replace("`", ""))

    def refuse(self, key: str, why: object) -> NoReturn:
        """Refuse what stands at a key."""
        raise RecipeError(f"{self.path}: {key}: {why}")

    @contextmanager
    def at(self, key: str) -> Iterator[None]:
        """Refuse under this key what is refused in the block."""
        try:
            yield
        except AuracError as error:
            self.refuse(key, error)

    def known(self, name: str, key: str) -> None:
        """Refuse the name of a recipe that there is not."""
        if name not in self.file.recipes:
            self.refuse(key, f"there is no recipe {name}; there are {', '.join(self.file.recipes)}")

    def chain(self, name: str) -> list[str]:
        """A recipe, the one that it goes on from, and so on."""
        chain = [name]
        while source := self.sources[chain[-1]]:
            key = f"recipes.{chain[-1]}.from"
            self.known(source, key)
            if source in chain:
                self.refuse(key, f"{source} goes on from itself")
            chain.append(source)
        return chain
