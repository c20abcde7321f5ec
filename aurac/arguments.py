"""What callers of the library give: one or several, numbers, options by name."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import lazy_loader

from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")
_CALLED: Mapping[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    type(None): "None",
}
_AS_NEAR = 0.1  # the loss of similarity to the nearest name
_OPTIONS = 0.7  # the similarity of an option that was meant
_LISTED = 8  # options in a message
_ALSO_CALLED = {
    **dict.fromkeys(("delta", "tolerance", "epsilon"), "margin"),
    **dict.fromkeys(("adapters", "adapter", "peft"), "checkpoints"),
    **dict.fromkeys(("output", "output_path", "output_dir", "folder"), "out"),
    **dict.fromkeys(("model", "base_model", "pretrained"), "base"),
    **dict.fromkeys(("overwrite", "exist_ok"), "force"),
    "model_args": "base dtype",
    **dict.fromkeys(("max_new_tokens", "max_gen_toks"), "gen_kwargs"),
    "max-rank": "require-rank",
    "r": "rank",
    **dict.fromkeys(("steps", "epochs", "learning_rate"), "set"),
    "lr": "set learning_rate learning_rates",
}


class OptionError(UsageError, TypeError):
    """An option that a function does not have."""


def several(value: Any) -> tuple[Any, ...]:
    """One or several as a tuple: a text is split at its commas, a path is one, None is none."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(part for part in map(str.strip, value.split(",")) if part)
    if isinstance(value, PathLike) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


def path_of(value: Any, what: str) -> Path:
    """The path that was given; a UsageError names `what` it should be of."""
    if not isinstance(value, (str, PathLike)):
        text = repr(value)
        given = text if len(text) <= 40 and "\n" not in text else kind_of(value)
        raise UsageError(f"{given} is no path", expected=f"the path of {what}")
    return Path(value).expanduser()


def kind_of(value: Any) -> str:
    """Its type with the article: "a str", "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def fraction(value: Any, name: str, most: float = 1.0, such_as: str = "0.02") -> float:
    """A number between 0 and `most`, both excluded.

    Raises:
        UsageError: Anything else; of a percentage it says what to write.
    """
    with contextlib.suppress(ValueError):
        known = float(_number(value))
        if 0.0 < known < most:
            return known
    expected = f"a fraction between 0 and {most:g}, such as {such_as}"
    given = f"--{name.replace('_', '-')} {value!r}"
    raise UsageError(given, expected=expected, fix=as_fraction(value, most))


def converted(value: Any, kind: Any, name: str) -> Any:
    """A value as its annotation has it: texts become numbers or several, others stay as they are.

    Args:
        value: What was given.
        kind: The annotation: numbers, texts, literals, sequences and mappings of them, unions.
        name: Of the option.

    Raises:
        UsageError: It is nothing of the kind.
    """
    try:
        return _read(value, kind)
    except ValueError:
        expected = _called(kind)
        fix = as_fraction(value) if _CALLED[float] in expected else None
        raise UsageError(f"{name}={value!r:.80}", expected=expected, fix=fix) from None


def _read(value: Any, kind: Any) -> Any:
    """The value as this kind has it; a ValueError where it is nothing of the kind."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin is bool and hasattr(value, "item"):  # NumPy's
        value = value.item()
    if origin in (Union, types.UnionType):
        for each in parts:
            with contextlib.suppress(ValueError):
                return _read(value, each)
    elif origin in (int, float):
        number = _number(value)
        if origin is float or isinstance(number, int):
            return number
    elif origin is Sequence and value is not None and not isinstance(value, Mapping):
        return tuple(_read(each, parts[0]) for each in several(value))
    elif origin is Mapping and isinstance(value, (str, Mapping)):
        given = _pair(value) if isinstance(value, str) else value
        return {key: _read(each, parts[1]) for key, each in given.items()}
    elif origin in (Path, str) and isinstance(value, (str, PathLike)):
        return Path(value).expanduser() if origin is Path else str(value)
    elif kind is Any or (value in parts if origin is Literal else isinstance(value, origin)):
        return value
    raise ValueError


def _number(value: Any) -> Any:
    """A number, also one of numpy or written as text; a ValueError for anything else."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return int(value)
        return float(value)
    value = value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError
    return value


def _pair(text: str) -> dict[str, str]:
    """``NAME=VALUE``; a ValueError for another text."""
    name, _, value = map(str.strip, text.partition("="))
    if not name or not value:
        raise ValueError
    return {name: value}


def as_fraction(value: object, most: float = math.inf) -> str | None:
    """What to write, below `most`, in the place of a percentage, of points or a decimal comma."""
    found = re.fullmatch(r"\s*(\d+)(?:([.,])(\d+))?\s*(%|pp|points?)?\s*", str(value))
    if found is None:
        return None
    number, comma = float(f"{found[1]}.{found[3] or 0}"), found[2] == ","
    percent = bool(found[4]) or (1 < number <= 100 and not comma)
    number = number / 100 if percent else number
    return f"give {number:g}" if (percent or comma) and number < most else None


def _called(kind: Any) -> str:
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_called, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is Sequence:
        return f"several, each {_called(parts[0])}"
    if origin is Mapping:
        return f"a mapping to {_called(parts[1])}"
    return _CALLED.get(origin, getattr(origin, "__name__", "something else"))


def alike(name: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """At most three known names that are spelled nearly as `name`, the nearest first."""
    from difflib import SequenceMatcher, get_close_matches  # as slow as the rest of this module

    near = get_close_matches(name, list(known), n=3, cutoff=cutoff)
    scores = [SequenceMatcher(None, each, name).ratio() for each in near]
    return [each for each, score in zip(near, scores, strict=True) if score >= scores[0] - _AS_NEAR]


def nearest(name: str, known: Iterable[str], mark: str = "", cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant, or several, each after a `mark`."""
    names = list(dict.fromkeys(known))
    also = [each for each in _ALSO_CALLED.get(name, "").split() if each in names]
    meant = also or alike(name, names, cutoff)
    return " or ".join(f"{mark}{each}" for each in meant) or None


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """The nearest known name as what to do next; None where none is near."""
    near = nearest(name, known)
    return f"did you mean {near}?" if near else None


def check_names(
    given: Iterable[str], known: Iterable[str], what: str, also: Mapping[str, str] | None = None
) -> None:
    """Refuse options that are not known, with where they belong, the nearest name or some names.

    Raises:
        OptionError: One is not; it is a TypeError, too.
    """
    names = list(known)
    for name in given:
        if name not in names:
            fix = (also or {}).get(name)
            near = nearest(name, names, cutoff=_OPTIONS)
            some = [*names[:_LISTED], *(["…"] if len(names) > _LISTED else [])]
            expected = None if fix else near or f"some of {', '.join(some)}"
            raise OptionError(f"{what} has no option {name}", expected=expected, fix=fix)


def keywords(
    kinds: type = object, also: Mapping[str, str] | None = None, **defaults: Any
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make the `**options` of a function part of its signature, and refuse unknown ones.

    Args:
        kinds: A TypedDict of the options.
        also: What may be taken for an option → how to give it instead.
        **defaults: Name of an option → its default, for editors and `help`.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        hints = {name: kinds.__annotations__[name].__forward_arg__ for name in defaults}
        more = [
            inspect.Parameter(name, own[0].KEYWORD_ONLY, default=default, annotation=hints[name])
            for name, default in defaults.items()
        ]
        names = [p.name for p in (*own, *more) if p.name != "self"]

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            check_names(kwargs, names, function.__name__, also)
            return function(*args, **kwargs)

        call.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return call

    return decorate


def public(package: str, file: str) -> tuple[Callable[[str], Any], Any, list[str]]:
    """As `lazy_loader.attach_stub`; unknown names and options are refused with the nearest."""
    load, listed, names = lazy_loader.attach_stub(package, file)

    def found(name: str) -> Any:
        if name not in names:
            near = suggestion(name, names)
            hint = f"; {near}" if near else ""
            raise AttributeError(f"{package} has no attribute {name!r}{hint}")
        value = load(name)
        if isinstance(value, types.FunctionType) and not hasattr(value, "__signature__"):
            value = keywords()(value)
            value.__module__ = package  # where it is pickled from
            setattr(sys.modules[package], name, value)
        return value

    return found, listed, names
