"""Boundaries of group-sequential tests by numerical integration.

The standardised statistic z of look k has the information fraction t, and ``s = z √t`` is Brownian
motion with drift θ, the expected z at ``t = 1``. The density of s among the paths that have not
stopped is carried from look to look by Gauss-Legendre quadrature (recursive integration: Armitage,
McPherson and Rowe 1969; Jennison and Turnbull 2000, chapter 19), for any unequal fractions. The
error spent by a fraction follows Hwang, Shih and DeCani (1990), as in Lan and DeMets (1983).

Throughout, `fractions` are the information fractions of the looks, ascending, the last at most 1;
`bounds` their critical values of z; `sides` 2 for boundaries at ±z, 1 for an upper one alone;
`drift` is θ; `gamma` that of the spending function: the lower, the less is spent early.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

_FAR = 9.0  # standard deviations beyond which a density is taken as 0
_NODES_PER_SD = 2.0  # nodes for one standard deviation of the next step; the error is below 1e-9
_FEWEST_NODES = 24
HIGHEST_Z = 37.0  # where the normal tail is the smallest number above 0
SMALLEST_P = 1e-15


@dataclass(frozen=True)
class Stopping:
    """What a design does under one drift: (K,) probabilities of stopping at each look."""

    upper: NDArray[np.float64]  # at the upper boundary
    lower: NDArray[np.float64]  # at the lower one; 0 for a one-sided test
    inner: NDArray[np.float64]  # for futility; the last look's is the rest


@dataclass(frozen=True)
class _Density:
    """Sub-density of s at quadrature nodes, times their weights, at the fraction `at`."""

    nodes: NDArray[np.float64]
    mass: NDArray[np.float64]
    at: float

    def above(self, bound: float, to: float, drift: float) -> float:
        """P(s > bound) at the fraction `to`."""
        step = to - self.at
        return float(self.mass @ ndtr((self.nodes + drift * step - bound) / np.sqrt(step)))

    def between(self, low: float, high: float, to: float, then: float, drift: float) -> _Density:
        """The density of s inside [low, high] at the fraction `to`, fine enough to go to `then`."""
        width = to - self.at
        mean, sd = self.nodes + drift * width, float(np.sqrt(width))
        seen = mean[self.mass > 1e-18 * self.mass.sum()]
        if seen.size:
            low, high = max(low, seen.min() - _FAR * sd), min(high, seen.max() + _FAR * sd)
        if not seen.size or high <= low:
            return _Density(np.zeros(0), np.zeros(0), to)
        finest = min(sd, float(np.sqrt(max(then - to, 1e-9))))
        count = _FEWEST_NODES + int(np.ceil(_NODES_PER_SD * (high - low) / finest))
        unit, weight = _rule(8 * -(-count // 8))
        nodes = (low + high) / 2 + (high - low) / 2 * unit
        shift = (nodes[:, None] - mean[None, :]) / sd
        values = np.exp(-0.5 * shift * shift) @ self.mass / (sd * np.sqrt(2 * np.pi))
        return _Density(nodes, values * weight * (high - low) / 2, to)


_START = _Density(np.zeros(1), np.ones(1), 0.0)
_rule = lru_cache(maxsize=64)(np.polynomial.legendre.leggauss)


def spent(fraction: float, alpha: float, gamma: float) -> float:
    """How much of `alpha` is spent by an information fraction in [0, 1].

    ``α (1 - e^{-γt}) / (1 - e^{-γ})``; γ = 0 spends in proportion to t.
    """
    if gamma == 0:
        return alpha * fraction
    return float(alpha * np.expm1(-gamma * fraction) / np.expm1(-gamma))


@lru_cache(maxsize=512)
def boundaries(fractions: tuple[float, ...], alpha: float, gamma: float) -> tuple[float, ...]:
    """Critical values of z on one side, whose error rate is `alpha` by the fraction 1."""
    return Boundary(fractions, alpha, gamma).extend([1.0] * len(fractions))


class Boundary:
    """Critical values of z on one side, look by look.

    Where few documents differ, the interval in use reaches farther than Student's, so that a look
    stops fewer paths than its critical value says. The error rate that such a look cannot spend is
    left to the later ones.
    """

    def __init__(self, fractions: Sequence[float], alpha: float, gamma: float) -> None:
        self._fractions = fractions
        self._goals = [spent(t, alpha, gamma) for t in fractions]
        self._density, self._spent, self._bounds = _START, 0.0, list[float]()

    def extend(self, factors: Sequence[float]) -> tuple[float, ...]:
        """The critical values of the first looks, as many as there are factors.

        Each says how many times as far as Student's the interval reaches, at least 1.
        """
        for factor in factors[len(self._bounds) :]:
            self._look(factor)
        return tuple(self._bounds)

    def _look(self, factor: float) -> None:
        at = len(self._bounds)
        t = self._fractions[at]
        bound = _critical(self._density, t, self._goals[at] - self._spent)
        stop = max(bound, bound * factor) * float(np.sqrt(t))
        self._spent += self._density.above(stop, t, 0.0)
        if at + 1 < len(self._fractions):
            then = self._fractions[at + 1]
            self._density = self._density.between(-np.inf, stop, t, then, 0.0)
        self._bounds.append(bound)


def _critical(density: _Density, t: float, tail: float) -> float:
    """The z that paths exceed at the fraction t, without drift, with probability `tail`."""
    if tail <= 1e-300:
        return HIGHEST_Z

    def surplus(z: float) -> float:
        return float(np.log(max(density.above(z * np.sqrt(t), t, 0.0), 1e-320) / tail))

    # The paths that are left exceed a z no more often than all paths do.
    most = float(-ndtri(min(tail, 1.0 - 1e-12)))
    least = min(most, 0.0) - 1.0
    if surplus(least) <= 0.0:  # fewer paths are left than may be stopped
        return -_FAR
    return float(brentq(surplus, least, most + 1e-9, xtol=1e-11))


def stopping(
    fractions: Sequence[float],
    bounds: Sequence[float],
    drift: float,
    sides: int,
    inner: Sequence[float] | None = None,
) -> Stopping:
    """How often and where a test stops.

    `inner` are the |z| (one-sided: z) below which it stops for futility; -inf never does.
    """
    density, looks = _START, len(fractions)
    upper, lower, futile = np.zeros(looks), np.zeros(looks), np.zeros(looks)
    for k, t in enumerate(fractions):
        root = float(np.sqrt(t))
        high = bounds[k] * root
        upper[k] = density.above(high, t, drift)
        if sides == 2:
            lower[k] = density.mass.sum() - density.above(-high, t, drift)
        left = 1.0 - upper[: k + 1].sum() - lower[: k + 1].sum() - futile[:k].sum()
        if k + 1 == looks:
            futile[k] = max(left, 0.0)
            break
        low, step = -np.inf if sides == 1 else -high, (t, fractions[k + 1], drift)
        edge = -np.inf if inner is None else inner[k] * root
        if sides == 1 or edge <= 0.0:
            density = density.between(max(low, edge) if sides == 1 else low, high, *step)
        else:
            under, over = density.between(low, -edge, *step), density.between(edge, high, *step)
            nodes, mass = np.append(under.nodes, over.nodes), np.append(under.mass, over.mass)
            density = _Density(nodes, mass, t)
        futile[k] = max(left - density.mass.sum(), 0.0)
    return Stopping(upper, lower, futile)


def predictive(fraction: float, z: float, last: float, sides: int) -> float:
    """The probability that z is beyond the boundary `last` with all documents, given z now.

    Under a flat prior for θ, whose posterior after the fraction t is normal with mean ``z/√t`` and
    variance ``1/t``, the last z has mean ``z/√t`` and variance ``(1 - t)/t`` (predictive power:
    Spiegelhalter, Freedman and Blackburn 1986).
    """
    mean, sd = z / np.sqrt(fraction), np.sqrt(max(1.0 - fraction, 1e-12) / fraction)
    other = float(ndtr((-mean - last) / sd)) if sides == 2 else 0.0
    return float(ndtr((mean - last) / sd)) + other


@lru_cache(maxsize=256)
def futility_bounds(
    fractions: tuple[float, ...], last: float, least: float, sides: int
) -> tuple[float, ...]:
    """The |z| (one-sided: z) below which `predictive` is less than `least`, for each look.

    -inf where it never is. The last look has none.
    """
    edges = []
    for t in fractions[:-1]:

        def surplus(z: float, t: float = t) -> float:
            return predictive(t, z, last, sides) - least

        floor = 0.0 if sides == 2 else -_FAR
        edges.append(-np.inf if surplus(floor) >= 0.0 else float(brentq(surplus, floor, _FAR)))
    return (*edges, -np.inf)


def sequential_p(
    fractions: Sequence[float], z: Sequence[float], gamma: float, factors: Sequence[float]
) -> float:
    """The smallest error rate at which one of the looks so far would have crossed, on one side.

    Valid at any time, since the boundaries fall as the error rate grows (Liu and Anderson 2008).
    `fractions` are those of all planned looks, `z` and `factors` (`Boundary.extend`) of the first.
    """
    made = fractions[: len(z)]

    def surplus(log_p: float) -> float:
        bounds = Boundary(made, float(np.exp(log_p)), gamma).extend(factors)
        return float(np.max(np.subtract(z, bounds)))

    least, most = float(np.log(SMALLEST_P)), float(np.log(0.49))
    if not made or surplus(most) < 0.0:
        return 1.0
    if surplus(least) >= 0.0:
        return SMALLEST_P
    return float(np.exp(brentq(surplus, least, most, xtol=1e-8)))


def median_drift(
    fractions: Sequence[float], bounds: Sequence[float], z: float, sides: int
) -> float:
    """The median-unbiased estimate of θ after stopping at the last of `fractions` with z.

    The θ under which an outcome further up, in the stage-wise ordering, has probability one half
    (Armitage 1957; Jennison and Turnbull 2000, section 8.4): crossing upward earlier is further up
    than a later look, and at one look a larger z is. `fractions` are those of the looks made,
    `bounds` those in force at the looks before the last.
    """
    naive = z / float(np.sqrt(fractions[-1]))
    if len(fractions) == 1:
        return naive

    def surplus(drift: float) -> float:
        return float(stopping(fractions, [*bounds, z], drift, sides).upper.sum()) - 0.5

    reach = 1.0
    while surplus(naive - reach) > 0.0 or surplus(naive + reach) < 0.0:
        reach *= 2.0
        if reach > 1e3:
            return naive
    return float(brentq(surplus, naive - reach, naive + reach, xtol=1e-7))


def betting_ends(
    values: NDArray[np.float64], alpha: float
) -> Callable[[float], tuple[float, float]]:
    """A confidence sequence for the mean of independent differences in [-1, 1], by betting.

    The capital of a gambler who bets that the mean is above (below) m exceeds ``1/tail`` at any
    time with probability at most `tail` if the mean is m (Ville). Bets are the predictable plug-in
    of Waudby-Smith and Ramdas (2024, section 4), truncated at half of what could be lost.

    Args:
        values: (n,) differences in the order of the documents.
        alpha: The error rate that the bets are tuned to; any other is valid as well.

    Returns:
        Tail probability → lower and upper end, each of which holds at all times at once.
    """
    x = (np.asarray(values, dtype=np.float64) + 1.0) / 2.0
    count = np.arange(1, x.size + 1)
    means = (0.5 + np.cumsum(x)) / (count + 1)
    variance = (0.25 + np.cumsum((x - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    bets = np.sqrt(2.0 * np.log(2.0 / alpha) / (before * count * np.log(count + 1.0)))

    def capital(m: float, sign: int) -> float:
        """The largest logarithm of the capital so far, of bets on a mean above (+1) or below m."""
        bound = m if sign > 0 else 1.0 - m
        stake = np.minimum(bets, 0.5 / max(bound, 1e-12))
        return float(np.max(np.cumsum(np.log1p(sign * stake * (x - m))), initial=0.0))

    def end(tail: float, sign: int) -> float:
        """The farthest m, from below (+1) or above, that is bet against successfully."""
        goal = -np.log(tail)
        safe, bad = (1.0, 0.0) if sign > 0 else (0.0, 1.0)
        if capital(bad, sign) < goal:
            return bad
        for _ in range(50):
            middle = (safe + bad) / 2
            safe, bad = (safe, middle) if capital(middle, sign) >= goal else (middle, bad)
        return bad

    return lambda tail: (2.0 * end(tail, 1) - 1.0, 2.0 * end(tail, -1) - 1.0)
