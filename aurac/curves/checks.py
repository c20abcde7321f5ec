"""Checks where numbers enter: ranks are whole numbers, accuracies are fractions."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from aurac.errors import CurveError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

T = TypeVar("T")
MEAN = "mean over tasks"
MOST = 2**53  # above it a float64 is no exact whole number


def check_ranks(ranks: Iterable[Any]) -> list[int]:
    """Ranks as Python ints, in order: different whole numbers from 1 up, at least one."""
    checked = [whole_rank(rank) for rank in ranks]
    if not checked:
        raise CurveError("A curve with no ranks.")
    if min(checked) < 1:
        raise CurveError(f"Rank {min(checked)} is below 1; the base model is a curve's baseline.")
    if twice := [rank for rank in checked if checked.count(rank) > 1]:
        raise CurveError(f"Rank {twice[0]} appears twice.")
    return checked


def whole_rank(value: Any, what: str = "Rank") -> int:
    """A rank as a Python int; a string of digits is one, since JSON has no other keys."""
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    number = isinstance(value, (Integral, Real)) and not isinstance(value, (bool, np.bool_))
    if not number or not abs(value) <= MOST or int(value) != value:
        raise CurveError(f"{what} {value!r} is no whole number.")
    return int(value)


def check_level(level: float) -> None:
    """Refuse a level of intervals that is no coverage, such as 95."""
    if not 0.5 <= level < 1.0:
        raise UsageError(f"The level {level:g} is no coverage such as 0.95.")


def as_json(values: Any) -> Any:
    """What users give as JSON has it: a path as text; a range, a set or an array as a list."""

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, Iterable) else str(value)

    return msgspec.to_builtins(values, enc_hook=plain, str_keys=True)


def refused(
    error: msgspec.ValidationError, given: Mapping[str, Any], takes: Mapping[str, str] = {}
) -> UsageError:
    """What a word takes instead of what was given; msgspec names it as in "- at `$.ranks[0]`"."""
    reason, _, place = str(error).partition(" - at `$.")
    name = place.rstrip("`").partition("[")[0].partition(".")[0]
    if name not in given:
        return UsageError(str(error))
    wanted = reason.removeprefix("Expected ").partition(", got")[0]
    return UsageError(f"{name} takes {takes.get(name, wanted)}, not {given[name]!r}")


def only(values: Iterable[T]) -> T | None:
    """The value that all are; None where they differ."""
    known = set(values)
    return known.pop() if len(known) == 1 else None


def numbers(values: Any, what: str) -> NDArray[np.float64]:
    """A copy of numbers as float64; a masked one is NaN."""
    try:
        rows = values if isinstance(values, np.ndarray) else list(values)
        masked = np.ma.array(rows, dtype=np.float64, copy=True)
    except (TypeError, ValueError):
        raise CurveError(f"{what} are ragged or no numbers.") from None
    return np.asarray(masked.filled(np.nan))


def fractions(values: Any, what: str) -> NDArray[np.float64]:
    """Numbers that are fractions; others are refused, with a hint where they look like percent."""
    array = numbers(values, what)
    wrong = array[~((array >= -1e-9) & (array <= 1.0 + 1e-9))]  # NaN, too
    if wrong.size:
        percent = 10.0 < wrong.max() <= 100.0
        hint = ": they look like percent, divide them by 100" if percent else ""
        raise CurveError(f"{what} have {wrong[0]:g} among them, which is no fraction{hint}.")
    return array
