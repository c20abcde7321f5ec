"""Numbers as people read them: percent, points, sizes; a true minus sign, a dash for the unknown.

Fractions become percent here and nowhere else; files for programs keep fractions.
"""

from __future__ import annotations

from aurac.curves.display import interval, percent, points, seconds, size

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


def to(low: float | None, high: float | None) -> str:
    """The two ends of an interval in percent, in a sentence."""
    return f"{percent(low)} to {percent(high)}"


def signed(number: int) -> str:
    """A whole number with its sign."""
    return f"{number:+d}".replace("-", MINUS)


def count(number: float | None) -> str:
    """A whole number in groups of three."""
    return NONE if number is None else f"{number:,.0f}".replace(",", "\u00a0")


def p_value(p: float | None) -> str:
    """A p value in as many digits as it deserves."""
    if p is None:
        return NONE
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
