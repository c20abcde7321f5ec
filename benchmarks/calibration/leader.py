"""The adapter with the largest AURAC, bounds on losses together, and margins between adapters.

Documents are logistic items: adapter i solves document d at rank k where ``θ_ik + h_d + g_id +
e_idk > 0`` with normal difficulty h, a part g that stays from rank to rank, and logistic noise e.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aurac.analysis import margin_test, non_inferior_rank
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.stats import difference, interval
from benchmarks.calibration.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from aurac.analysis.rows import BestRow

RANKS = (1, 2, 4, 8)
HARD, OWN, NOISE = 1.5, 0.8, 0.5


def items(rng: np.random.Generator, n: int, shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, K, n) 0/1 scores for m adapters with logits `shifts` (m, K)."""
    adapters, ranks = shifts.shape
    hard = HARD * rng.standard_normal(n)
    own = OWN * rng.standard_normal((adapters, 1, n))
    noise = NOISE * rng.logistic(size=(adapters, ranks, n))
    return np.asarray(shifts[:, :, None] + hard + own + noise > 0, dtype=np.float64)


def truth(rng: np.random.Generator, shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, K) accuracies, from many documents."""
    return np.mean([items(rng, 100_000, shifts).mean(axis=2) for _ in range(8)], axis=0)


def leader(areas: NDArray[np.float64]) -> BestRow:
    """What is said of the largest of adapters with these (m, n) areas of the documents."""
    curves = [
        Curve.from_outcomes((1, 2), [area, area], adapter=str(at), task="t")
        for at, area in enumerate(areas)
    ]
    return analyse(curves, choices=False).best[0]


def equal(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Adapters that are equally good: the interval of the one that came out on top."""
    for m in (2, 6, 12, 30):
        for level, n in ((0.0, 150), (3.5, 300)):
            shifts = np.full((m, 1), level)
            value = float(truth(rng, shifts[:1])[0, 0])
            plain = picked = kept = 0
            for _ in range(repetitions):
                areas = items(rng, n, np.repeat(shifts, 4, axis=1)).mean(axis=1)
                found = leader(areas)
                alone = interval(areas[int(found.leader or 0)])
                plain += _holds(alone, value)
                picked += _holds(found.estimate, value)
                kept += "0" in found.candidates
            where = f"{m} equal adapters at {value:.2f}"
            for claim, count, target in (
                ("leader's interval, not corrected", plain, "-"),
                ("leader's interval covers", picked, "≥ .935"),
                ("an equal adapter stays a candidate", kept, "≥ .95"),
            ):
                yield Row(claim, where, n, count / repetitions, repetitions, target)


def _holds(found: object, value: float) -> bool:
    low, high = getattr(found, "low", None), getattr(found, "high", None)
    return low is not None and high is not None and low <= value <= high


def unequal(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """The best adapter is known: is it among the candidates, and does the bound on it hold?"""
    for m, n in ((3, 150), (6, 300)):
        shifts = np.repeat(np.linspace(0.0, 0.3, m)[:, None], 4, axis=1)
        values = truth(rng, shifts).mean(axis=1)
        kept = within = 0
        for _ in range(repetitions):
            found = leader(items(rng, n, shifts).mean(axis=1))
            kept += str(m - 1) in found.candidates
            gap = values.max() - values[int(found.leader or 0)]
            within += found.within is None or gap <= found.within
        where = f"{m} adapters, logits 0 to .3"
        yield Row("best adapter is a candidate", where, n, kept / repetitions, repetitions, "≥ .95")
        yield Row("bound on what beats the leader holds", where, n, within / repetitions,
                  repetitions, "≥ .95")  # fmt: skip


def losses(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Bounds of a loss table, for several adapters and ranks together."""
    for m, n in ((6, 200), (12, 400)):
        shifts = np.tile([0.0, 0.2, 0.4, 0.6], (m, 1))
        accuracy = truth(rng, shifts[:1])[0]
        joint = 0
        for _ in range(repetitions):
            curves = [Curve.from_outcomes(RANKS, one) for one in items(rng, n, shifts)]
            joint += all(_bounded(curve, accuracy, 0.05 / (4 * m)) for curve in curves)
        yield Row("bounds of a loss table hold together", f"{m} adapters × 4 ranks", n,
                  joint / repetitions, repetitions, "≥ .945")  # fmt: skip


def _bounded(curve: Curve, accuracy: NDArray[np.float64], alpha: float) -> bool:
    steps = non_inferior_rank(curve, margin=0.5, alpha=alpha).tests
    true = dict(zip(RANKS, accuracy.max() - accuracy, strict=True))
    return all(step.upper >= true[step.rank] - 1e-12 for step in steps)


def margins(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Margin tests where a is worse by exactly the margin, or better (equivalence)."""
    for n in (100, 300, 1000):
        for name, (gain, loss) in _NULLS.items():
            margin = loss[0] * loss[1] - gain[0] * gain[1]
            shown = {False: 0, True: 0}
            for _ in range(repetitions):
                gap = _gaps(rng, n, gain, loss)
                a, b = 0.5 + gap / 2.0, 0.5 - gap / 2.0
                for both in shown:
                    shown[both] += margin_test(a, b, margin=margin, both_sides=both).passed
            for both, count in shown.items():
                word = "equivalent" if both else "non-inferior"
                yield Row(f"{word} at the margin, shown wrongly", name, n, count / repetitions,
                          repetitions, "≤ .055")  # fmt: skip


# (share, size) of gains and of losses; their means differ by the margin.
_NULLS = {
    "many changes": ((0.20, 1.0), (0.23, 1.0)),
    "few changes": ((0.01, 1.0), (0.04, 1.0)),
    "losses alone": ((0.0, 1.0), (0.03, 1.0)),
    "many small gains, few large losses": ((0.5, 0.11), (0.085, 1.0)),
    "few large gains, many small losses": ((0.04, 1.0), (0.6, 0.12)),
}


def _gaps(
    rng: np.random.Generator, n: int, gain: Sequence[float], loss: Sequence[float]
) -> NDArray[np.float64]:
    """(n,) differences a - b with these shares and sizes of gains and losses."""
    draw = rng.random(n)
    gap = np.where(draw < gain[0], gain[1], 0.0)
    return np.where(draw > 1.0 - loss[0], -loss[1], gap)


def seeds(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Margin tests between two recipes with several training seeds each, at the margin."""
    margin, n = 0.03, 300
    for count in (2, 3, 5):
        for spread in (0.0, 0.02, 0.05):
            shown = 0
            for _ in range(repetitions):
                base = rng.random(n) < 0.6
                groups = []
                for shift in (-margin / 2, margin / 2):
                    means = 0.1 + (shift + rng.normal(0.0, spread, (count, 1))) / 2.0
                    up = rng.random((count, n)) < np.clip(means / 0.8, 0, 1)
                    down = rng.random((count, n)) < np.clip((0.2 - means) / 1.2, 0, 1)
                    groups.append(np.where(base, ~down, up).astype(float))
                gap = difference(groups[1], groups[0], level=0.9).estimate
                shown += gap.low is not None and gap.low > -_seed_margin(margin)
            yield Row("non-inferior at the margin, shown wrongly",
                      f"{count} seeds, sd {spread:g}", n, shown / repetitions, repetitions,
                      "≤ .055")  # fmt: skip


def _seed_margin(margin: float) -> float:
    """The difference of the groups of `seeds`: .4·up - .6·down moves by .4/.8/2 + .6/1.2/2 = .5."""
    return 0.5 * margin


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """All of it."""
    for part in (equal, unequal, losses, margins, seeds):
        yield from part(rng, repetitions)
