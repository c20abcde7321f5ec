"""The file of a study as it is read: what may stand in it, and the path of what may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], Meta(min_length=1)]
Ranks = Annotated[tuple[Number, ...], Meta(min_length=1)]
Named = Annotated[dict[str, Any], Meta(min_length=1)]
Fraction = Annotated[float, Meta(gt=0, lt=1)]
T = TypeVar("T")
_OF_THE_STUDY = {"name", "base", "seed", "start", "folder"}
_NO_GRID = {"method", "task", "data", "data_sha256"}  # each recipe has one
_FIELDS = {
    name: kind
    for name, kind in get_type_hints(Recipe, include_extras=True).items()
    if name not in _OF_THE_STUDY
}


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
    seed: Seed = 1
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
    recipes: Named
    tasks: Named
    search: Any = None
    primary: tuple[Primary, ...] = ()
    ranks: Literal["pow2", "all"] | Ranks = "pow2"
    margin: Fraction | None = None
    reference: str | None = None
    labels: dict[str, str] = {}
    options: dict[str, Any] = {}


def _optional(kinds: dict[str, Any]) -> Any:
    """A struct all of whose fields may be left out."""
    fields = [(name, kind | UnsetType, UNSET) for name, kind in kinds.items()]
    return msgspec.defstruct("Fields", fields, kw_only=True, forbid_unknown_fields=True)


_SEARCH = get_type_hints(Search, include_extras=True)
_GRID: dict[str, Any] = {
    name: Annotated[tuple[kind, ...], Meta(min_length=1)]  # type: ignore[valid-type]
    for name, kind in _FIELDS.items()
}
_Fields = _optional({**_FIELDS, "seeds": Seeds, "cuts": Cuts, "family": bool})
_Recipe = _optional({**_FIELDS, "seeds": Seeds, "cuts": Cuts, "family": bool, "from": str})
_Search = _optional({k: v for k, v in {**_GRID, **_SEARCH}.items() if k not in {"grid", *_NO_GRID}})


class Reader:
    """A study's file, of which every value has its type.

    Attributes:
        path: Where it is.
        file: What it says; recipes, tasks and search are in the next attributes.
        common: The fields of every recipe that the file sets.
        recipes: Recipe → its fields that the file sets.
        tasks: By name.
        search: Its settings and grid.

    Raises:
        RecipeError: A key is unknown or missing, or has a value that it does not take.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = file = self._read(read_yaml(path), StudyFile, "")
        self.common = self._set(file.recipe, _Fields, "recipe")
        every = file.recipes.items()
        self.recipes = {name: self._set(x, _Recipe, f"recipes.{name}") for name, x in every}
        self.tasks = {name: self._task(x, f"tasks.{name}") for name, x in file.tasks.items()}
        self.search: Search | None = None
        if file.search is not None:
            grid = self._set(file.search, _Search, "search")
            own = {name: grid.pop(name) for name in _SEARCH if name in grid}
            self.search = Search(grid=grid, **own)

    def _task(self, given: Any, at: str) -> TaskFile:
        task = self._read(given, TaskFile, at)
        recipes = {n: self._set(x, _Fields, f"{at}.recipes.{n}") for n, x in task.recipes.items()}
        recipe = self._set(task.recipe, _Fields, f"{at}.recipe")
        return msgspec.structs.replace(task, recipe=recipe, recipes=recipes)

    def _set(self, given: Any, kind: Any, at: str) -> dict[str, Any]:
        """The fields that are set."""
        values = msgspec.structs.asdict(self._read(given, kind, at))
        return {name: value for name, value in values.items() if value is not UNSET}

    def _read(self, given: Any, kind: type[T], at: str) -> T:
        """A value of a type, with texts read as numbers: YAML has 1e-3 as a text."""
        try:
            return msgspec.convert(given, kind, strict=False)
        except msgspec.ValidationError as error:
            reason, _, below = str(error).replace("`", "").partition(" - at $")
            key = f"{at}{below}"
            if "unknown field " in reason:
                unknown = reason.partition("unknown field ")[2]
                near = get_close_matches(unknown, kind.__struct_fields__, 1)  # type: ignore[attr-defined]
                instead = f"; did you mean {near[0]}?" if near else ""
                key, reason = f"{key}.{unknown}", f"there is no such key{instead}"
            self.refuse(key.removeprefix("."), reason)

    def refuse(self, key: str, why: object) -> NoReturn:
        """Refuse what stands at a key."""
        raise RecipeError(f"{self.path}: {key or 'the file'}: {why}")

    def at(self, key: str) -> AbstractContextManager[None]:
        """Refuse under this key what is refused in the block."""
        return refused_at(self.path, key)


@contextmanager
def refused_at(path: Path, key: str) -> Iterator[None]:
    """Refuse the file of a study, under this key, for what is refused in the block."""
    try:
        yield
    except AuracError as error:
        raise RecipeError(f"{path}: {key}: {error}") from error
