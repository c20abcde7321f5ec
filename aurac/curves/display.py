"""Numbers as people read them: percent, bytes, counts."""

from __future__ import annotations

import math


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
    return "–" if value is None else decimals(100 * value, 1)


def size(number: float | None) -> str:
    """Bytes as kB, MB or GB."""
    if number is None:
        return "–"
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= step:
            return f"{decimals(number / step, 1 if number < 9.95 * step else 0)} {unit}"
    return f"{decimals(number, 0)} B"


def counted(number: int, noun: str) -> str:
    """A number of things: "1 adapter", "3 adapters"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


SLOT_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``--max-lora-rank`` may be: it sets aside that much for each adapter it holds."""


def slot_rank(rank: int) -> int:
    """The smallest ``--max-lora-rank`` that serves a rank; itself beyond the largest."""
    return next((step for step in SLOT_RANKS if step >= rank), rank)


def slot_bytes(rank: int, width: int) -> int:
    """What vLLM sets aside in 16 bits for an adapter whose modules have `width` in- and outputs."""
    return 2 * slot_rank(rank) * width
