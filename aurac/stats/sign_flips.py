"""The sign-flip test, counted exactly: no draws, and the same p value for the same data.

Under no difference each unit's difference could have had the other sign, all 2^m patterns alike.
The distribution of their sum is built unit by unit where the differences lie on a grid (they do
for 0/1 scores at ranks 1, 2, 4, …), and else met in the middle: all sums of one half of the units
against all sums of the other. Where there are too many for that, patterns are drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWN = 9999
_ON_A_GRID = 50  # differing units up to which every pattern is counted; their number must be exact
_ANYWHERE = 24  # and where the differences lie on no grid
_FINEST = 1 << 14  # cells of a grid up to which counting on it pays


def flip_p(sums: NDArray[np.float64], rng: np.random.Generator) -> float:
    """Two-sided p: the share of sign patterns whose sum is at least as far from 0 as the observed.

    Args:
        sums: (m,) difference of every unit; those that are 0 do not matter.
        rng: Used where patterns are drawn only; the observed one is then counted among them
            (Phipson and Smyth 2010).
    """
    sizes = np.abs(sums[np.abs(sums) > 1e-12])
    if sizes.size == 0:
        return 1.0
    observed = abs(float(sums.sum())) - 1e-9
    steps = _on_a_grid(sizes) if sizes.size <= _ON_A_GRID else None
    if steps is not None:
        return _counted(steps, observed / (float(sizes.sum()) / int(steps.sum())))
    if sizes.size <= _ANYWHERE:
        return _met(sizes, observed)
    flips = rng.integers(0, 2, size=(DRAWN, sizes.size), dtype=np.int8) * 2 - 1
    reached = int(np.count_nonzero(np.abs(flips @ sizes) >= observed))
    return (reached + 1) / (DRAWN + 1)


def _on_a_grid(sizes: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """The sizes as whole multiples of a common step; None where there is none worth using."""
    step = float(sizes.min())
    for size in sizes:  # Euclid's algorithm, with room for rounding
        rest = float(size)
        while rest > 1e-9:
            step, rest = rest, step % rest
            rest = 0.0 if step - rest < 1e-9 else rest
        if float(sizes.sum()) > step * _FINEST:
            return None
    steps = np.rint(sizes / step).astype(np.int64)
    return steps if np.abs(steps * step - sizes).max() < 1e-9 else None


def _counted(steps: NDArray[np.int64], observed: float) -> float:
    """As `flip_p` for whole numbers: patterns counted by their sum, one unit after the other."""
    counts = np.ones(1)
    for step in steps:
        longer = np.zeros(counts.size + 2 * int(step))
        longer[: counts.size] += counts
        longer[2 * int(step) :] += counts
        counts = longer
    total = np.arange(counts.size) - int(steps.sum())
    return float(counts[np.abs(total) >= observed - 1e-6].sum() / counts.sum())


def _met(sizes: NDArray[np.float64], observed: float) -> float:
    """As `flip_p` for any numbers, from the sums of two halves."""
    half = sizes.size // 2
    first, second = _all_sums(sizes[:half]), np.sort(_all_sums(sizes[half:]))
    above = second.size - np.searchsorted(second, observed - first, side="left")
    below = np.searchsorted(second, -observed - first, side="right")
    reached = int((above + below).sum())
    total = first.size * second.size
    return min(1.0, reached / total)


def _all_sums(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return sums
