"""Which procedure for two groups of seeds? Exact sizes, without drawing anything.

With many documents the document term is known, and what is left to chance is the difference and the
two groups' between-seed mean squares, each a multiple of χ² on S - 1 df. A test that rejects beyond
a threshold h of these mean squares has size ``E[2 Φ(-h / sd)]``, a sum over their quantiles. The
variance is 1 for documents, of which the share `rest` is seed × document noise, and ρ for seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, gammaincinv, ndtr, ndtri, stdtrit

from benchmarks.calibration.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

Array = NDArray[np.float64]
Threshold = Callable[[float, int, Array, Array, float], Array]
RATIOS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e4)  # ρ
RESTS = (0.1, 0.5, 0.9)

_U = expit(np.linspace(-16, 16, 61))
_W = np.outer(_U * (1 - _U), _U * (1 - _U))
WEIGHTS = _W / _W.sum()


def _t(alpha: float, df: float | Array) -> Array:
    return np.asarray(-stdtrit(df, alpha / 2))


def satterthwaite(alpha: float, df: int, a: Array, b: Array, rest: float) -> Array:
    """T with Satterthwaite's df of V = B + document - Σ rest, which is at least the document."""
    total = np.maximum(a + b + 1 - rest, 1.0)
    return _t(alpha, np.minimum((a + b + 1 - rest) ** 2 / ((a**2 + b**2) / df), 1e6)) * np.sqrt(
        total
    )


def pooled(alpha: float, df: int, a: Array, b: Array, rest: float) -> Array:
    """The same variance with 2(S - 1) df at most."""
    total = np.maximum(a + b + 1 - rest, 1.0)
    return _t(alpha, 2 * df) * np.sqrt(total)


def separate(alpha: float, df: int, a: Array, b: Array, rest: float) -> Array:
    """The same variance with S - 1 df."""
    return _t(alpha, df) * np.sqrt(np.maximum(a + b + 1 - rest, 1.0))


def cochran(alpha: float, df: int, a: Array, b: Array, rest: float) -> Array:
    """Cochran's (1964) average of the terms' quantiles, weighed by the terms."""
    document, between = 1 - rest, a + b
    quantile = (-ndtri(alpha / 2) * document + _t(alpha, df) * between) / (document + between)
    return quantile * np.sqrt(document + between)


def banerjee(alpha: float, df: int, a: Array, b: Array, rest: float) -> Array:
    """Banerjee's (1960) sum of squares, which aurac uses."""
    return np.sqrt(ndtri(alpha / 2) ** 2 * (1 - rest) + _t(alpha, df) ** 2 * (a + b))


CANDIDATES: tuple[Threshold, ...] = (satterthwaite, pooled, separate, cochran, banerjee)


def _mean_squares(df: int, ratio: float, first: float, rest: float) -> tuple[Array, Array]:
    """Both groups' mean squares at the quantiles; `first`: the first group's share of the seeds."""
    chi = gammaincinv(df / 2, _U) * 2 / df
    a = (ratio * first + rest / 2) * chi[:, None]
    b = (ratio * (1 - first) + rest / 2) * chi[None]
    return a, b


def worst_size(test: Threshold, seeds: int, alpha: float, first: float) -> float:
    """The largest size over all ratios of seeds to documents, as a multiple of alpha."""
    sizes = []
    for rest in RESTS:
        for ratio in RATIOS:
            squares = _mean_squares(seeds - 1, ratio, first, rest)
            h = test(alpha, seeds - 1, *squares, rest)
            sizes.append(float((WEIGHTS * 2 * ndtr(-h / np.sqrt(1 + ratio))).sum()))
    return max(sizes) / alpha


def detectable(test: Threshold, seeds: int, alpha: float, ratio: float) -> float:
    """The difference found with power .8, in standard errors of the documents; rest .5."""
    h = test(alpha, seeds - 1, *_mean_squares(seeds - 1, ratio, 0.5, 0.5), 0.5)

    def lacking(delta: float) -> float:
        return float((WEIGHTS * ndtr((delta - h) / np.sqrt(1 + ratio))).sum()) - 0.8

    return float(brentq(lacking, 0.0, 1e6))


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:  # noqa: ARG001
    """Every line of this topic: nothing is drawn."""
    for test in CANDIDATES:
        for seeds in (2, 3, 5):
            for alpha in (0.05, 0.0083, 0.0017):
                equal, one = (worst_size(test, seeds, alpha, first) for first in (0.5, 1.0))
                found = (detectable(test, seeds, alpha, ratio) for ratio in (0.0, 0.3))
                note = (
                    f"{equal:.2f} where both groups vary alike, {one:.2f} where one does; finds "
                    f"{' and '.join(f'{delta:.1f}' for delta in found)} se at ρ 0 and .3"
                )
                what = f"candidate {test.__name__}, worst size / α"
                setting = f"{seeds} seeds, α {alpha:g}"
                yield Row(what, setting, 0, max(equal, one), 0, "≤ 1", note)
