"""Numbers and names as people read them, in every figure, table and sentence alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Container


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


def slot(rank: int, number: float) -> str:
    """The slot of a rank, which takes so many bytes: "8: 4.9 MB"."""
    return f"{slot_rank(rank)}: {size(number)}"


def cut_name(basis: str | None, rescale: str | None, method: str | None = None) -> str | None:
    """A truncation in words: "svd", "prefix", "prefix, with P", "svd · fit"; None if unknown."""
    if basis is None:
        return rescale
    if rescale == "trained":
        return f"{basis}, with P"
    if rescale == "rule" and method == "matryoshka":
        return f"{basis}, without P"
    own = "keep" if basis == "svd" else "rule"
    return basis if rescale in (None, own) else f"{basis} · {rescale}"


def common_name(names: Collection[str], taken: Container[str] = ()) -> str:
    """The name of a recipe: what the names of its seeds begin with, or all of them."""
    first, last = min(names), max(names)
    same = (i for i, (x, y) in enumerate(zip(first, last, strict=False)) if x != y)
    shared = first[: next(same, len(first))].rstrip("-_ ./0123456789")
    for ending in ("seed", "-s", "_s"):
        shared = shared.removesuffix(ending).rstrip("-_ ./")
    return shared if shared and shared not in taken else " + ".join(names)
