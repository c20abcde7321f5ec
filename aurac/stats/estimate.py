"""One rule for every claim: the mean of a number for each example, its interval and its test.

An AURAC, a difference of two, an accuracy minus the base's and a loss are all such means. The
interval is Student's t over examples, with further examples as far out as a value can be:

    N = n + k,  m and v the mean and variance (N - 1) of the n values and k times e,
    lower end  m - t(N - 1, 1 - α/2) √(v/N)  with e the smallest value, upper end with the largest

so that rare large losses that balance many small gains, and values near 0 and 1, need no rule of
their own. k is 1; in a family of c comparisons, at α/c, it is 1 + ln(c)/3, since the tails of t
are the less exact the farther out they are. The test is the same statement: p < α exactly where
the interval at 1 - α excludes 0.

Clusters of sizes n_g, w_g = n_g / n, have the CR2 variance with Bell and McCaffrey's degrees of
freedom (2002; Pustejovsky and Tipton 2018), which for a mean have closed forms,

    V = Σ_g (Σ_{d in g} e_d)² / (1 - w_g) / n²
    1 / df = Σ w_g² + (Σ q_g)² - Σ q_g²,   q_g = w_g² / (1 - w_g)

and further clusters replace the further examples. Such a cluster has Σ n_g² / n examples, or for a
difference .8 of that, and at least one.

Training seeds are crossed with examples; each source of variance keeps its degrees of freedom
(Banerjee 1960), which A arms raise together towards Welch's (1947):

    reach² = t²_{n-1} · max(examples - Σ rest, 0) + Σ_arms t²_{df} · V,   V = s²(seed means) / S
    df = S - 1 + max(0, (Σ V)² / Σ (V² / (S - 1)) - max (S - 1)) / (A + 1)

Welch's alone errs in .10 at .05 where one of two arms has two seeds that vary more.
docs/design/statistics-calibration.md has promised beside measured error rates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Term = tuple[Array, Any]  # a variance and its degrees of freedom

SMALLEST_P = 1e-15


class Bounds(NamedTuple):
    """Smallest and largest value; relative size of an added cluster."""

    low: float
    high: float
    cluster: float


SIGNED = Bounds(-1.0, 1.0, 0.8)  # of a difference
FRACTION = Bounds(0.0, 1.0, 1.0)  # of an accuracy or an AURAC


class Estimate(NamedTuple):
    """A mean with its interval; p is two-sided, of a mean of 0."""

    value: float
    low: float
    high: float
    p: float

    def turned(self) -> Estimate:
        """Of a difference with the other sign."""
        return Estimate(-self.value, -self.high, -self.low, self.p)


@dataclass(frozen=True)
class Examples:
    """The examples of one task, in G independent units: the examples themselves or clusters.

    Attributes:
        sums: (..., G) sum of the values over each unit.
        sizes: (G,) examples in each unit.
    """

    sums: Array
    sizes: Array

    def moments(self, value: float, cluster: float, further: float) -> tuple[Array, Array, float]:
        """Mean, its variance and degrees of freedom with `further` units of that value.

        A further unit is a cluster that has so much of the size of an example's, on average.
        """
        n = float(self.sizes.sum())
        size = max(1.0, cluster * float(np.square(self.sizes).sum()) / n)
        total = n + further * size
        mean = (self.sums.sum(axis=-1) + further * size * value) / total
        shares, share = self.sizes / total, size / total
        rest = self.sums - mean[..., None] * self.sizes
        squares = np.square(rest) @ (1.0 / (1.0 - shares))
        squares += further * np.square(size * (value - mean)) / (1.0 - share)
        q, one = shares**2 / (1.0 - shares), share**2 / (1.0 - share)
        sums = (
            np.sum(x) + further * y for x, y in ((shares**2, share**2), (q, one), (q**2, one**2))
        )
        plain, root, square = sums
        return mean, squares / total**2, float(1.0 / (plain + root**2 - square))


@dataclass(frozen=True)
class Seeds:
    """The training seeds of one arm, or of two whose differences are taken within each seed.

    Attributes:
        means: (..., S) mean over the examples for each seed.
        rest: (...) what of the means' variance, over S, is examples × seeds.
        names: S keys of checkpoints, by which tasks are matched.
        rounding: Variance of a number that is rounded to a multiple of 1/n, as means of 0 and 1
            are: with two seeds and few examples equal means are no sign of equal seeds.
    """

    means: Array
    rest: Array
    names: tuple[Hashable, ...]
    rounding: float

    @property
    def count(self) -> int:
        """S."""
        return int(self.means.shape[-1])

    @property
    def variance(self) -> Array:
        """``s²(means) / S``."""
        return np.asarray((self.means.var(axis=-1, ddof=1) + self.rounding) / self.count)


@dataclass(frozen=True)
class Components:
    """A mean with its sources of variance.

    Attributes:
        value: (...) the mean over tasks, seeds and examples.
        examples: Those of each task; tasks weigh alike.
        seeds: Independent arms; of a single checkpoint none.
    """

    value: Array
    examples: tuple[Examples, ...]
    seeds: tuple[Seeds, ...] = ()


def components(
    values: Array, clusters: NDArray[np.intp] | None = None, names: Sequence[Hashable] = ()
) -> Components:
    """Of `values` (..., S, n) for S seeds and n examples.

    Args:
        values: Scores, or differences that are taken within each example and seed.
        clusters: (n,) codes 0..G-1 of what examples share; None for independent ones.
        names: S keys of the seeds' checkpoints, by which tasks are matched; by default none is
            that of another task.
    """
    seeds, n = values.shape[-2:]
    average = values.mean(axis=-2)
    units = Examples(*_units(average, clusters))
    arms: tuple[Seeds, ...] = ()
    if seeds > 1:
        means = values.mean(axis=-1)
        rest = (
            values - average[..., None, :] - means[..., None] + means.mean(axis=-1)[..., None, None]
        )
        sums, sizes = _units(rest, clusters)
        squares = np.square(sums) @ (1.0 / (1.0 - np.minimum(sizes / n, 0.5)))
        spread = squares.sum(axis=-1) / (n**2 * seeds * (seeds - 1))
        keys = tuple(names) or tuple(object() for _ in range(seeds))
        arms = (Seeds(means, spread, keys, 1.0 / (12.0 * n**2)),)
    return Components(average.mean(axis=-1), (units,), arms)


def minus(a: Components, b: Components) -> Components:
    """The difference a - b of two arms with independent seeds, on the same examples."""
    pairs = zip(a.examples, b.examples, strict=True)
    examples = tuple(Examples(x.sums - y.sums, x.sizes) for x, y in pairs)
    return Components(a.value - b.value, examples, (*a.seeds, *b.seeds))


def over_tasks(parts: Sequence[Components]) -> Components | None:
    """The mean over tasks: within each seed first, where a seed's checkpoint met several tasks.

    None where only some of the tasks share their checkpoints, or have several seeds.
    """
    arms: dict[frozenset[Hashable], list[Seeds]] = {}
    for arm in (arm for part in parts for arm in part.seeds):
        arms.setdefault(frozenset(arm.names), []).append(arm)
    apart = sum(map(len, arms)) == len(frozenset().union(*arms))
    if not apart or len({len(part.seeds) for part in parts}) > 1:
        return None
    value = np.mean([part.value for part in parts], axis=0)
    examples = tuple(x for part in parts for x in part.examples)
    return Components(value, examples, tuple(_together(a, len(parts)) for a in arms.values()))


def _together(same: Sequence[Seeds], tasks: int) -> Seeds:
    """What the checkpoints of one arm, on some of the `tasks`, add to the mean over all."""
    names = same[0].names
    means = [arm.means[..., [arm.names.index(name) for name in names]] for arm in same]
    rest = np.sum([arm.rest for arm in same], axis=0) / tasks**2
    rounding = sum(arm.rounding for arm in same) / tasks**2
    return Seeds(np.sum(means, axis=0) / tasks, rest, names, rounding)


def estimate(
    parts: Components,
    bounds: Bounds = SIGNED,
    level: float = 0.95,
    tests: int = 1,
    further: float | None = None,
) -> Estimate:
    """A mean with its interval at `level` and p, both adjusted for `tests` by Bonferroni.

    Args:
        parts: The mean and its sources of variance.
        bounds: The smallest and largest value that an example can have.
        level: Coverage of the intervals of all `tests` at once.
        tests: How many differences stand in one table.
        further: Further examples; None: as many as `tests` need.
    """
    further = further_examples(tests) if further is None else further
    low, high = interval(parts, bounds, (1.0 - level) / tests, further)
    value = float(parts.value)
    p = 1.0
    if value != 0.0:
        p = _p_value(parts, bounds, bounds.low if value > 0 else bounds.high, further)
    return Estimate(value, float(low), float(high), min(1.0, tests * p))


def further_examples(tests: int) -> float:
    """How many extra worst-case examples are added for `tests` comparisons."""
    return 1.0 + float(np.log(tests)) / 3.0


def interval(
    parts: Components, bounds: Bounds, alpha: float | Array, further: float = 1.0
) -> tuple[Array, Array]:
    """Both ends (...) of the interval at 1 - `alpha`, which may be an array, cut to `bounds`."""
    mean, terms = _terms(parts, bounds, bounds.low, further)
    low = np.maximum(mean - _reach(terms, alpha), bounds.low)
    mean, terms = _terms(parts, bounds, bounds.high, further)
    return low, np.minimum(mean + _reach(terms, alpha), bounds.high)


def one_sided(parts: Components) -> tuple[float, float]:
    """Both ends of a difference, each by itself at 95 %: with two further examples."""
    low, high = interval(parts, SIGNED, 0.10, further=2.0)
    return float(low), float(high)


def _units(values: Array, clusters: NDArray[np.intp] | None) -> tuple[Array, Array]:
    """Sums over each unit (..., G), and the units' sizes."""
    if clusters is None:
        return values, np.ones(values.shape[-1])
    order = np.argsort(clusters, kind="stable")
    sizes = np.bincount(clusters)
    starts = np.cumsum(sizes) - sizes
    return np.add.reduceat(values[..., order], starts, axis=-1), sizes.astype(np.float64)


def _terms(
    parts: Components, bounds: Bounds, value: float, further: float
) -> tuple[Array, list[Term]]:
    """The mean with further examples of a value; variances with their degrees of freedom."""
    each = [examples.moments(value, bounds.cluster, further) for examples in parts.examples]
    count = len(each)
    mean = np.mean([m for m, _, _ in each], axis=0)
    variance, df = _added([(v / count**2, df) for _, v, df in each])
    if not parts.seeds:
        return mean, [(variance, df)]
    inside = np.sum([arm.rest for arm in parts.seeds], axis=0)
    return mean, [(np.maximum(variance - inside, 0.0), df), *_arms(parts.seeds)]


def _arms(seeds: Sequence[Seeds]) -> list[Term]:
    """Each arm's variance; each gets a share of Welch's degrees beyond the largest of their own."""
    own = [(arm.variance, arm.count - 1.0) for arm in seeds]
    _, welch = _added(own)
    more = np.maximum(welch - max(df for _, df in own), 0.0) / (len(own) + 1)
    return [(variance, df + more) for variance, df in own]


def _added(terms: Sequence[Term]) -> Term:
    """The sum of independent variances with Satterthwaite's degrees of freedom."""
    if len(terms) == 1:
        return terms[0]
    total = np.sum([v for v, _ in terms], axis=0)
    spread = np.sum([v * v / df for v, df in terms], axis=0)
    return total, np.where(spread > 0, total**2 / np.where(spread > 0, spread, 1.0), 1.0)


def _reach(terms: Sequence[Term], alpha: float | Array) -> Array:
    from scipy.special import stdtrit

    squares = [v * np.square(stdtrit(df, np.divide(alpha, 2.0))) for v, df in terms]
    return np.asarray(np.sqrt(np.sum(squares, axis=0)))


def _p_value(parts: Components, bounds: Bounds, value: float, further: float) -> float:
    """The α at which the interval's end on the side of 0 is 0."""
    from scipy.special import stdtr

    mean, terms = _terms(parts, bounds, value, further)
    if mean * value >= 0.0:
        return 1.0
    if len(terms) == 1:
        variance, df = terms[0]
        return max(SMALLEST_P, 2.0 * float(stdtr(df, -abs(mean) / np.sqrt(variance))))

    def beyond(log_p: float) -> float:
        return float(abs(mean) - _reach(terms, float(np.exp(log_p))))

    least, most = float(np.log(SMALLEST_P)), -1e-9
    if beyond(least) >= 0.0:
        return SMALLEST_P
    if beyond(most) <= 0.0:  # a mean of rounding errors
        return 1.0
    from scipy.optimize import brentq  # takes a while, and is only needed with training seeds

    return float(np.exp(brentq(beyond, least, most, xtol=1e-12)))
