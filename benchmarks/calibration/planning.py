"""The power that `aurac plan` promises, on outcomes that it did not draw itself.

Documents are probit items as in a benchmark: adapter i with training seed s solves document d where
``θ_i + t_is + h_d + g_id + e_isd > 0``, with normal difficulty h, adapter's part g, seed's shift t
and noise e. What a plan assumes of them (flip rate, variances) is computed from many draws, or
estimated in a pilot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import norm

from aurac.analysis import non_inferior_rank
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats import components, difference, plan, spread_of_flips, spread_of_pilot
from aurac.stats.mean import Layout
from benchmarks.calibration.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from aurac.stats import Spread

PROMISED = 0.8
# Own and noise of `Items` with a flip rate of .155, of which 0, .49 and .74 is documents × seeds.
SHARES = {0.35: 0.0, 0.3: 0.18, 0.22: 0.27}


@dataclass(frozen=True)
class Items:
    """Two adapters (or two ranks of one) on the same documents.

    Attributes:
        own: Standard deviation of g.
        noise: Standard deviation of e.
        seed: Standard deviation of t in accuracy.
        delta: Difference of the two accuracies.
        accuracy: Of the worse one.
    """

    own: float
    noise: float
    seed: float = 0.0
    delta: float = 0.0
    accuracy: float = 0.5

    @property
    def scale(self) -> float:
        """Standard deviation of everything but the shift."""
        return float(np.sqrt(1.0 + self.own**2 + self.noise**2))

    def shifts(self) -> tuple[float, float, float]:
        """θ of the worse and the better one, and the standard deviation of t in the latent scale.

        θ is such that the accuracy averaged over t is as wanted.
        """
        slope = float(norm.pdf(norm.ppf(self.accuracy))) / self.scale
        latent = self.seed / slope
        whole = float(np.sqrt(self.scale**2 + latent**2))
        low, high = (whole * norm.ppf(p) for p in (self.accuracy, self.accuracy + self.delta))
        return float(low), float(high), latent

    def draw(
        self, rng: np.random.Generator, n: int, seeds: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Two (S, n) groups; with one seed the checkpoints are the average ones."""
        hard = rng.standard_normal(n)
        low, high, latent = self.shifts()
        latent = latent if seeds > 1 else 0.0
        groups = []
        for theta in (low, high):
            shift = theta + latent * rng.standard_normal((seeds, 1))
            rest = self.noise * rng.standard_normal((seeds, n))
            groups.append(shift + hard + self.own * rng.standard_normal(n) + rest > 0)
        return groups[0].astype(float), groups[1].astype(float)

    def flips(self, rng: np.random.Generator) -> float:
        """Share of documents that differ between two checkpoints."""
        first, second = self.draw(rng, 400_000, 1)
        return float(np.mean(first != second))

    def spread(self, rng: np.random.Generator) -> Spread:
        """What a plan is told: from a pilot so large that it has no noise of its own."""
        calm = replace(self, seed=0.0)
        groups = calm.draw(rng, 40_000, 12)
        parts = components([groups[1], groups[0]], [1, -1], Layout(40_000))
        found = spread_of_pilot(parts, 40_000, changes=groups[1][0] - groups[0][0])
        return replace(found, seed=self.seed**2, upper=None)


def differences(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """A difference of .05 with 1 to 5 seeds in each group."""
    for seeds in (1, 2, 3, 5):
        for sd in (0.0,) if seeds == 1 else (0.0, 0.01, 0.02):
            items = Items(own=0.3, noise=0.3, seed=sd, delta=0.05)
            (row,) = plan(0.05, items.spread(rng), seeds=[seeds], power=PROMISED, rng=rng)
            where = f"difference .05, {seeds} seeds, sd {sd:g}"
            if row.documents is None:
                yield Row("plan: no number is enough", where, 0, 1.0, 1, "-", row.reason or "")
                continue
            hits = 0
            for _ in range(repetitions):
                first, second = items.draw(rng, row.documents, seeds)
                gap = difference(first, second, paired_seeds=True)
                hits += gap.p is not None and gap.p <= 0.05 and gap.estimate.value > 0
            yield _power(where, row.documents, hits, repetitions)


def flip_rates(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """A flip rate alone is given: differences and non-inferior ranks of one checkpoint."""
    for rate, delta in ((0.2, 0.05), (0.06, 0.05), (0.15, 0.03)):
        spread = spread_of_flips(rate)
        (row,) = plan(delta, spread, seeds=[1], power=PROMISED, rng=rng)
        n, hits = row.documents or 0, 0
        for _ in range(repetitions):
            gap = _flipped(rng, n, rate, delta)
            found = difference(0.5 - gap / 2, 0.5 + gap / 2)
            hits += found.p is not None and found.p <= 0.05 and found.estimate.value > 0
        yield _power(f"difference {delta:g}, flip rate {rate:g}", n, hits, repetitions)
    for rate, delta in ((0.2, 0.1), (0.1, 0.03), (0.02, 0.02), (0.01, 0.03)):
        (row,) = plan(
            delta, replace(spread_of_flips(rate), groups=1), seeds=[1], question="non-inferiority",
            power=PROMISED, rng=rng,
        )  # fmt: skip
        n, hits = row.documents or 0, 0
        for _ in range(repetitions):
            loss = _flipped(rng, n, rate, 0.0)
            curve = Curve.from_outcomes([1, 2], np.stack([0.5 - loss / 2, 0.5 + loss / 2]))
            hits += non_inferior_rank(curve, margin=delta, reference=2).rank == 1
        yield _power(f"non-inferior rank, margin {delta:g}, flip rate {rate:g}", n, hits,
                     repetitions)  # fmt: skip


def assumed_shares(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """A flip rate alone is given for several paired seeds; what is documents × seeds varies."""
    for seeds, sd in ((2, 0.0), (3, 0.0), (3, 0.01), (5, 0.0), (5, 0.01)):
        rate = Items(max(SHARES), 0.0, delta=0.05).flips(rng)
        spread = replace(spread_of_flips(rate), seed=sd**2)
        (row,) = plan(0.05, spread, seeds=[seeds], power=PROMISED, rng=rng)
        n = row.documents or 0
        for own, noise in SHARES.items():
            items, hits = Items(own, noise, seed=sd, delta=0.05), 0
            for _ in range(repetitions if n else 0):
                gap = difference(*items.draw(rng, n, seeds), paired_seeds=True)
                hits += gap.p <= 0.05 and gap.estimate.value > 0
            measured = items.spread(rng)
            share = measured.groups * measured.rest / measured.single
            where = f"difference .05, flip rate {rate:.2f}, {seeds} seeds, sd {sd:g}"
            yield Row("power of a plan for .80 from flips alone", where, n, hits / repetitions,
                      repetitions, "≥ .78", f"documents × seeds: {share:.2f}")  # fmt: skip


def _flipped(rng: np.random.Generator, n: int, rate: float, mean: float) -> NDArray[np.float64]:
    """(n,) changes of ±1 with this rate and mean."""
    draw = rng.random(n)
    gap = np.where(draw < (rate + mean) / 2, 1.0, 0.0)
    return np.where(draw > 1 - (rate - mean) / 2, -1.0, gap)


def _power(where: str, n: int, hits: int, repetitions: int) -> Row:
    return Row("power of a plan for .80", where, n, hits / repetitions, repetitions, ".75 to .85")


def pilots(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Small pilots: how often their upper limit is enough for the promised power."""
    for n, items in ((100, Items(0.3, 0.3, delta=0.05)), (100, Items(0.1, 0.05, delta=0.05))):
        needed = _needed(items, rng)
        count = max(20, repetitions // 20)
        enough = held = 0
        for _ in range(count):
            groups = items.draw(rng, n, 1)
            gap = groups[1][0] - groups[0][0]
            parts = components([groups[1], groups[0]], [1, -1], Layout(n))
            try:
                spread = spread_of_pilot(parts, n, changes=gap)
                (row,) = plan(0.05, spread, seeds=[1], power=PROMISED, rng=rng)
            except CurveError:  # the pilot rules the difference out
                continue
            enough += (row.documents or 0) >= needed
            held += row.most is None or row.most >= 0.97 * needed
        flips = f"flip rate {items.flips(rng):.2f}"
        yield Row("pilot's own number is enough", flips, n, enough / count, count, "-", "a coin")
        yield Row("number at the pilot's upper limits is enough", flips, n, held / count, count,
                  "≥ .90")  # fmt: skip


def _needed(items: Items, rng: np.random.Generator) -> float:
    """Documents that a t test needs at the true flip rate."""
    rate = items.flips(rng)

    def miss(n: float) -> float:
        reach = items.delta / np.sqrt((rate - items.delta**2) / n)
        return float(ndtr(reach - norm.ppf(0.975))) - PROMISED

    return float(brentq(miss, 2.0, 1e7))


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """All of it."""
    for part in (differences, flip_rates, assumed_shares, pilots):
        yield from part(rng, repetitions)
