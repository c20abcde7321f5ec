"""The file of a study as it is read: what may stand in it, and the path of what may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aurac.adapters.truncate import Basis, Rescale
from aurac.errors import AuracError, RecipeError
from aurac.training.recipe import SETTINGS, Count, Number, read_yaml

Way = tuple[Basis, Rescale]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], Meta(min_length=1)]
Named = Annotated[dict[str, Any], Meta(min_length=1)]
_OF_THE_STUDY = {"name", "base", "seed"}
_NO_GRID = {"method", "task", "data", "data_sha256"}  # each recipe has one


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What has no other keys."""


def _optional(kinds: dict[str, Any]) -> Any:
    """A struct all of whose fields may be left out."""
    fields = [(name, kind | UnsetType, UNSET) for name, kind in kinds.items()]
    return msgspec.defstruct("Fields", fields, bases=(_Strict,))


_RECIPE = {name: kind for name, kind in SETTINGS.items() if name not in _OF_THE_STUDY}
_MORE = {"seeds": Seeds, "cuts": Annotated[tuple[Way, ...], Meta(min_length=1)], "family": bool}
GRID: dict[str, Any] = {  # what a search may try values of
    name: Annotated[tuple[kind, ...], Meta(min_length=1)]  # type: ignore[valid-type]
    for name, kind in _RECIPE.items()
    if name not in _NO_GRID
}


class Fields(_optional({**_RECIPE, **_MORE})):  # type: ignore[misc]
    """Fields of recipes, of which each may be left out.

    Besides those of `Recipe` these are `seeds`, `family` (train one adapter for each rank; together
    they are one curve), and `cuts` (pairs of basis and rescale that are evaluated instead of the
    one that `aurac.compare` takes).
    """


class TaskFile(_Strict, frozen=True):
    """What is trained for a task, and how it is evaluated.

    Attributes:
        recipe: Fields of every recipe of the task, such as its training data.
        recipes: Those that are trained for the task, with fields of their own; empty: all.
        options: Options of `aurac.compare` for the task, such as `limit`.
    """

    recipe: Fields = Fields()
    recipes: dict[str, Any] = {}
    options: dict[str, Any] = {}


class Search(_optional(GRID)):  # type: ignore[misc]
    """The settings that are tried for each recipe on each task before its seeds are trained.

    Attributes:
        seed: Of the trials' training.
        split: Of the task, on which they are evaluated.
        at: What decides: `aurac`, or the accuracy at a rank.
        limit: The first so many examples of the split; 0 takes all.
    """

    seed: Seed = 1
    split: str = "validation"
    at: Literal["aurac"] | Number = "aurac"
    limit: Count = 0


class Primary(_Strict, frozen=True):
    """A comparison that is declared before the results: recipe `a` minus recipe `b`.

    Both are cut as `cut` says, a basis and a rescale. Without it each is cut its own way: with a
    search the best one on its split, else its first one.
    """

    a: str
    b: str
    cut: Way | None = None


class StudyFile(_Strict, frozen=True, kw_only=True):
    """An experiment.

    Attributes:
        name: What it is called.
        question: What it asks, one sentence for the report.
        base: Base model of every training and evaluation, or name → base of several.
        seeds: Training seeds of every recipe that names none.
        recipe: Fields of every recipe.
        recipes: Name → its fields, as `Fields`.
        tasks: lm-eval's name of a task → what is done for it.
        search: Settings that are chosen for each recipe first.
        primary: The comparisons that the study is for; they are one family.
        ranks: `pow2`, `all` or a list; AURAC is taken over these.
        margin: The question, as `aurac.compare` takes it.
        reference: The recipe with which all are compared, or `all`.
        labels: Recipe → what tables and figures call it.
        options: Options of `aurac.compare` for every task; `num_fewshot` may be several numbers.
    """

    name: str
    question: str = ""
    base: str | Annotated[dict[str, str], Meta(min_length=1)] = "smollm2-135m-instruct-q4_1"
    seeds: Seeds = (42,)
    recipe: Fields = Fields()
    recipes: Named
    tasks: Named
    search: Search | None = None
    primary: tuple[Primary, ...] = ()
    ranks: Literal["pow2", "all"] | Annotated[tuple[Number, ...], Meta(min_length=1)] = "pow2"
    margin: Annotated[float, Meta(gt=0, lt=1)] | None = None
    reference: str | None = None
    labels: dict[str, str] = {}
    options: dict[str, Any] = {}


def read_study(path: Path) -> StudyFile:
    """The file of a study, of which every value has its type."""
    content = read_yaml(path)
    with refused_at(path):
        file: StudyFile = _converted(content, StudyFile, "")
        _convert_each(file.recipes, Fields, "recipes")
        _convert_each(file.tasks, TaskFile, "tasks")
        for name, task in file.tasks.items():
            _convert_each(task.recipes, Fields, f"tasks.{name}.recipes")
    return file


def _convert_each(named: dict[str, Any], kind: Any, at: str) -> None:
    """Convert what stands at the keys that are names; msgspec's errors do not have these."""
    for name, value in named.items():
        named[name] = _converted(value, kind, f"{at}.{name}")


def _converted(given: Any, kind: Any, at: str) -> Any:
    """What stands at a key, with texts read as numbers: YAML has 1e-3 as a text.

    Raises:
        RecipeError: A key is unknown or missing, or has a value that it does not take.
    """
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        reason, _, below = str(error).replace("`", "").partition(" - at $")
        if unknown := reason.partition("unknown field ")[2]:
            below, reason = f"{below}.{unknown}", "there is no such key"
        key = f"{at}{below}".removeprefix(".") or "the file"
        raise RecipeError(f"{key}: {reason}") from error


@contextmanager
def refused_at(place: object) -> Iterator[None]:
    """Refuse under its place, a file or a key, what is refused in the block."""
    try:
        yield
    except AuracError as error:
        raise RecipeError(f"{place}: {error}") from error
