"""Numbers as people read them: percent, points, sizes; a true minus sign, a dash for the unknown.

Fractions become percent here and nowhere else; files for programs keep fractions.
"""

from __future__ import annotations

from typing import Protocol

from aurac.curves.display import percent, points

__all__ = [
    "NONE",
    "count",
    "interval",
    "p_value",
    "percent",
    "points",
    "seconds",
    "signed",
    "size",
    "to",
]
NONE = "–"
MINUS = "\u2212"


class Bounded(Protocol):
    """A value with the ends of its interval, as fractions."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def interval(number: Bounded | None) -> str:
    """A value in percent with its interval in brackets."""
    if number is None:
        return NONE
    if number.low is None or number.high is None:
        return percent(number.value)
    return f"{percent(number.value)} [{percent(number.low)}, {percent(number.high)}]"


def to(low: float | None, high: float | None) -> str:
    """The two ends of an interval in percent, in a sentence."""
    return f"{percent(low)} to {percent(high)}"


def signed(number: int) -> str:
    """A whole number with its sign."""
    return f"{number:+d}".replace("-", MINUS)


def count(number: float | None) -> str:
    """A whole number in groups of three."""
    return NONE if number is None else f"{number:,.0f}".replace(",", "\u00a0")


def size(number: float | None) -> str:
    """Bytes as kB, MB or GB, with a decimal below 10."""
    if number is None:
        return NONE
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= step:
            amount = number / step
            return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:.0f} {unit}"
    return f"{number:.0f} B"


def seconds(number: float | None) -> str:
    """A duration in s or ms."""
    if number is None:
        return NONE
    return f"{number:.2g} s" if number >= 1 else f"{1000 * number:.0f} ms"


def p_value(p: float | None) -> str:
    """A p value in as many digits as it deserves."""
    if p is None:
        return NONE
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
