"""Numbers as people read them: percent with one decimal, bounds rounded away from the claim."""

from __future__ import annotations

import math
from typing import Final

NONE: Final = "–"


def decimals(value: float, digits: int) -> str:
    """A number in decimals, halves away from zero.

    Differences below 1e-9 are floating-point noise: a half is one whatever its last bits are.
    """
    if not math.isfinite(value):
        return f"{value}"
    steps = 10**digits
    whole = math.floor(round(abs(value) * steps, 9) + 0.5)
    return f"{'−' if value < 0 and whole else ''}{whole / steps:.{digits}f}"


def percent(value: float | None) -> str:
    """A fraction in percent without the sign, such as "39.1"; a dash where it is not known."""
    return NONE if value is None else decimals(100 * value, 1)


def lower(value: float) -> str:
    """A lower bound in percent, rounded down."""
    return percent(math.floor(round(1000 * value, 6)) / 1000)


def upper(value: float) -> str:
    """An upper bound in percent, rounded up."""
    return percent(math.ceil(round(1000 * value, 6)) / 1000)


def interval(value: float | None, low: float | None, high: float | None, unit: str = "") -> str:
    """``39.1 [31.6, 46.7]`` in percent, or the value alone where the interval is not known."""
    ends = "" if low is None or high is None else f" [{lower(low)}, {upper(high)}]"
    return f"{percent(value)}{unit}{ends}"


def loss(value: float | None, bound: float | None) -> str:
    """A loss with its upper bound, ``1.1 (1.9)``; a gain is negative. Nothing if unknown."""
    if value is None:
        return ""
    return percent(value) if bound is None else f"{percent(value)} ({upper(bound)})"


def points(value: float) -> str:
    """A margin that somebody chose, unrounded, such as "1.25 points"."""
    text = f"{100 * value:.10g}"
    return f"{text} {'point' if text == '1' else 'points'}"


def p_value(p: float | None) -> str:
    """``.023``, ``< .001``, ``> .99``, or a dash."""
    if p is None:
        return NONE
    if p < 0.001:
        return "< .001"
    return "> .99" if p >= 0.995 else f"{p:.{3 if p < 0.1 else 2}f}".lstrip("0")


def confidence(level: float) -> str:
    """A level as "95 %"."""
    return f"{100 * level:.10g} %"


def metric_value(value: float | None) -> str:
    """A metric that is no fraction, such as a perplexity, to four digits."""
    return NONE if value is None else f"{value:.4g}"


def size(number: float | None) -> str:
    """Bytes as kB, MB or GB."""
    if number is None:
        return NONE
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= step:
            return f"{decimals(number / step, 1 if number < 9.95 * step else 0)} {unit}"
    return f"{decimals(number, 0)} B"


def counted(number: int, noun: str) -> str:
    """A number of things: "1 adapter", "3 adapters"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: list[str], most: int = 4) -> str:
    """Names as "a, b and c"; of many the first and how many more."""
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} others"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
