"""Numbers as people read them: percent with one decimal, bounds rounded away from the claim."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from aurac.curves.display import decimals, percent

NONE = "–"


def known(value: Any) -> bool:
    """Whether a cell of a frame holds a number."""
    return not pd.isna(value)


def rows_of(frame: pd.DataFrame) -> list[Any]:
    """The rows of a frame, whose columns are attributes."""
    return list(frame.itertuples())


def accuracy(value: Any) -> str:
    """A fraction in percent, "39.1"; a dash where there is none."""
    return percent(value) if known(value) else NONE


def lower(value: float) -> str:
    """A lower bound in percent, rounded down."""
    return percent(math.floor(round(1000 * value, 6)) / 1000)


def upper(value: float) -> str:
    """An upper bound in percent, rounded up."""
    return percent(math.ceil(round(1000 * value, 6)) / 1000)


def interval(value: Any, low: Any, high: Any) -> str:
    """``39.1 [31.6, 46.7]`` in percent, or the value alone."""
    if not (known(value) and known(low) and known(high)):
        return accuracy(value)
    return f"{percent(value)} [{lower(low)}, {upper(high)}]"


def loss(value: Any, bound: Any) -> str:
    """A loss as a change, with its upper bound: ``−1.1 (at most 1.9)``; nothing if unknown."""
    if not known(value):
        return ""
    change = decimals(-100 * value, 1)
    if float(change.replace("−", "-")) > 0:
        change = f"+{change}"
    if not known(bound):
        return change
    return f"{change} (at most {upper(bound)})" if bound > 0 else f"{change} (no loss)"


def points(value: float) -> str:
    """A margin that somebody chose, unrounded, such as "1.25 points"."""
    text = f"{100 * value:.10g}"
    return f"{text} {'point' if text == '1' else 'points'}"


def p_value(p: Any) -> str:
    """``.023``, ``< .001``, or a dash."""
    if not known(p):
        return NONE
    if p < 0.001:
        return "< .001"
    return "1" if p >= 0.995 else f"{p:.{3 if p < 0.1 else 2}f}".lstrip("0")


def confidence(level: float) -> str:
    """A level as "95 %"."""
    return f"{100 * level:.10g} %"


def metric_value(value: Any) -> str:
    """A metric that is no fraction, such as a perplexity, to four digits."""
    return f"{value:.4g}" if known(value) else NONE
