"""What callers of the library give: one or several, numbers, options by name."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from aurac.errors import CurveError, OptionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")
_NAMES: Mapping[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    type(None): "None",
}


def several(value: Any) -> tuple[Any, ...]:
    """One or several as a tuple: a text is split at its commas, a path is one, None is none."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(part for part in map(str.strip, value.split(",")) if part)
    if isinstance(value, PathLike) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


def number(value: Any, name: str, expected: str = "a number") -> Any:
    """A real number as it is, and one that is written as text.

    Raises:
        UsageError: It is neither; text in percent is told what fraction it is.
    """
    value = value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
    if _is_number(value):
        return value
    text = value.strip() if isinstance(value, str) else ""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    raise UsageError(f"{name}={value!r}", expected=expected, fix=_as_fraction(text))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not _fits(value, bool)


def _as_fraction(text: object) -> str | None:
    """What to write in the place of a text in percent."""
    try:
        return f"give {float(str(text).removesuffix('%')) / 100:g}" if "%" in str(text) else None
    except ValueError:
        return "give a fraction"


def fraction(value: Any, name: str, most: float = 1.0, such_as: str = "0.02") -> float:
    """A number between 0 and `most`, both excluded.

    Raises:
        CurveError: Anything else.
    """
    expected = f"a fraction between 0 and {most:g}, such as {such_as}"
    try:
        known = float(number(value, name, expected))
    except UsageError as error:
        raise CurveError(error.given, expected=error.expected, fix=error.fix) from None
    if not 0.0 < known < most:
        raise CurveError(f"{name} {known:g}", expected=expected)
    return known


def converted(value: Any, kind: Any, name: str) -> Any:
    """A value as its annotation has it: texts become numbers or several, others stay as they are.

    Args:
        value: What was given.
        kind: The annotation: numbers, texts, literals, sequences and mappings of them, unions.
        name: Of the option.

    Raises:
        UsageError: It is nothing of the kind.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for each in kinds:
        if _fits(value, each):
            return value
    for each in kinds:
        made = _made(value, each, name)
        if made is not None and _fits(made, each):
            return made
    expected, shown = " or ".join(map(_called, kinds)), f"{value!r:.80}"
    raise UsageError(f"{name}={shown}", expected=expected, fix=_as_fraction(value))


def _fits(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind) or kind, get_args(kind)
    fits = kind is Any
    if origin is Literal:
        fits = isinstance(value, str) and value in parts
    elif origin is Sequence:
        plain = isinstance(value, (list, tuple))
        fits = plain and all(_fits(each, parts[0]) for each in value)
    elif origin is Mapping:
        known = isinstance(value, Mapping)
        fits = known and all(_fits(each, parts[1]) for each in value.values())
    elif not fits:
        known = isinstance(value, origin) and isinstance(value, bool) == (origin is bool)
        fits = known or (origin is float and _is_number(value))
    return fits


def _made(value: Any, kind: Any, name: str) -> Any:
    """What a value may mean as this kind; None where that is nothing."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (int, float) and not isinstance(value, (list, tuple)):
        try:
            return number(value, name)
        except UsageError:
            return None
    if origin is Sequence and value is not None and not isinstance(value, Mapping):
        return tuple(converted(each, parts[0], name) for each in several(value))
    if origin is Mapping and isinstance(value, (str, Mapping)):
        given = dict(value) if isinstance(value, Mapping) else _pairs(value)
        return given and {key: converted(each, parts[1], name) for key, each in given.items()}
    if origin is Path and isinstance(value, str):
        return Path(value).expanduser()
    return str(value) if origin is str and isinstance(value, PathLike) else None


def _pairs(text: str) -> dict[str, str] | None:
    """``NAME=VALUE``; None for another text."""
    name, sign, value = map(str.strip, text.partition("="))
    return {name: value} if sign and name and value else None


def _called(kind: Any) -> str:
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is Sequence:
        return f"several, each {_called(parts[0])}"
    if origin is Mapping:
        return f"a mapping to {_called(parts[1])}"
    return _NAMES.get(origin, getattr(origin, "__name__", "something else"))


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse options that are not known, with the nearest name.

    Raises:
        OptionError: One is not; it is a TypeError, too.
    """
    import difflib  # takes as long as the rest of this module

    names = list(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            expected = f"{near[0]}" if near else f"some of {', '.join(names)}"
            raise OptionError(f"{what} has no option {name}", expected=expected)


def keywords(**defaults: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make the `**options` of a function part of its signature, and refuse unknown ones.

    Args:
        **defaults: Name of an option → its default, for editors and `help`.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        kind = inspect.Parameter.KEYWORD_ONLY
        more = [inspect.Parameter(name, kind, default=x) for name, x in defaults.items()]
        names = [p.name for p in (*own, *more)]

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            check_names(kwargs, names, function.__name__)
            return function(*args, **kwargs)

        call.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return call

    return decorate
