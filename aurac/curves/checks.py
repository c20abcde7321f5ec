"""Checks that curves and tables share: ranks are whole numbers, accuracies are fractions."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.arguments import several
from aurac.errors import AuracError, CurveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray


def check_ranks(ranks: Any) -> list[int]:
    """One or several ranks as Python ints, in order: different whole numbers from 1 up."""
    checked: list[int] = []
    for value in several(ranks):
        rank = whole_rank(value)
        if rank < 1:
            fix = "leave the base model out, or give it as the baseline of a Curve"
            raise CurveError(f"rank {rank}", expected="ranks from 1 up", fix=fix)
        if rank in checked:
            raise CurveError(f"rank {rank} appears twice", expected="different ranks")
        checked.append(rank)
    if not checked:
        raise CurveError("no ranks", expected="at least one rank")
    return checked


def whole_rank(value: Any) -> int:
    """A rank as a Python int; a string of digits is one, since JSON has no other keys."""
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    if not _is_whole(value):
        raise CurveError(f"rank {value!r}", expected="a whole number")
    return int(value)


def _is_whole(value: Any) -> bool:
    number = isinstance(value, (Integral, Real)) and not isinstance(value, (bool, np.bool_))
    return number and float(value).is_integer()


def check_amounts(values: Mapping[Any, Any], what: str) -> dict[int, int]:
    """``rank -> amount`` of parameters or bytes, as Python ints; each a whole number from 1 up."""
    for rank, value in values.items():
        if not _is_whole(value) or value < 1:
            raise CurveError(f"{what} of {value!r} at rank {rank}", expected="a number from 1 up")
    return {int(rank): int(value) for rank, value in values.items()}


def check_ends(columns: Iterable[str], where: str, error: type[AuracError] = CurveError) -> None:
    """Refuse one end of the intervals of accuracies without the other."""
    ends = {"low", "high"}.intersection(columns)
    if len(ends) == 1:
        raise error(
            f"{where} has a column {ends.pop()} alone",
            expected="low and high, the ends of 95 % intervals, or neither",
        )


def is_missing(label: Any) -> bool:
    """Whether a label is none: empty text, None, NaN, NaT, pandas' NA."""
    if label is None or isinstance(label, str):
        return not label
    same = label == label  # noqa: PLR0124 - NaN is not itself, and NA is neither
    return not isinstance(same, (bool, np.bool_)) or not bool(same)


def check_labelled(labels: Iterable[Any], what: str) -> None:
    """Refuse labels of documents some of which are missing."""
    missing = [is_missing(label) for label in labels]
    if any(missing):
        raise CurveError(
            f"{sum(missing)} of {len(missing)} documents have no label in {what}",
            expected="one for each document",
            fix="give each a label, one of its own where it shares nothing",
        )


def refuse_masked(values: Any, what: str) -> None:
    """Refuse numpy arrays, or lists of them, with masked entries, which numpy would read."""
    parts = values if isinstance(values, (list, tuple)) else (values,)
    masked = sum(int(np.ma.getmaskarray(part).sum()) for part in parts if np.ma.isMA(part))
    if masked:
        raise CurveError(
            f"{masked} masked values in {what}",
            expected="a value for every document",
            fix="leave those documents out, at every rank, or give them a value",
        )


def fractions(values: Iterable[Any], what: str) -> list[float]:
    """Numbers as Python floats; one that is not finite or outside [0, 1] is refused."""
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        raise CurveError(f"{what} that are not numbers", expected="fractions in [0, 1]") from None
    check_unit_interval(np.asarray(numbers, dtype=np.float64), what)
    return numbers


def check_unit_interval(values: NDArray[np.float64], what: str) -> None:
    """Refuse numbers that are not fractions, and say so where they look like percent."""
    if values.size == 0:
        return
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        shown = values[~np.isfinite(values)].ravel()[0]
        raise CurveError(f"{what} with {shown}", expected="finite fractions in [0, 1]")
    if high > 1.0 + 1e-9:
        percent = 10.0 < high <= 100.0
        raise CurveError(
            f"{what} up to {high:g} ({'looks like percent' if percent else 'above 1'})",
            expected="fractions in [0, 1]",
            fix="divide by 100" if percent else None,
        )
    if low < -1e-9:
        raise CurveError(f"{what} down to {low:g}", expected="fractions in [0, 1]")
