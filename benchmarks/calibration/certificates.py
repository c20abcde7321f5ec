"""Ranks against a declared rank; `choice` has those against the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aurac.analysis import non_inferior_rank
from aurac.curves.curve import Curve
from benchmarks.calibration.processes import RANKS, SHARED, SIZES, outcomes
from benchmarks.calibration.rows import Row, share

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def certificates(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """How often a rank that loses at least delta is named non-inferior, and what naive rules do."""
    settings = {
        "small ranks lose .02 exactly": np.where(np.arange(9) < 5, 0.58, 0.60),
        "one step loses .02, then .10": np.array([0.5] * 4 + [0.58] + [0.595] * 3 + [0.6]),
        "near 1, lose .02 exactly": np.where(np.arange(9) < 5, 0.97, 0.99),
        "losses only, .02 exactly": np.where(np.arange(9) < 5, 0.58, 0.60),
        "losses only, .012 of .012": np.where(np.arange(9) < 5, 0.588, 0.60),
        "slow decline to a loss of .30": np.linspace(0.30, 0.60, 9),
    }
    for name, accuracy in settings.items():
        delta = 0.012 if ".012" in name else 0.02
        shared = 1.0 if "only" in name else SHARED  # then what r solves, the full rank does
        too_much = {
            r for r, y in zip(RANKS, accuracy, strict=True) if accuracy[-1] - y >= delta - 1e-9
        }
        for n in SIZES:
            wrong = np.zeros(3)
            for _ in range(repetitions):
                scores = outcomes(rng, n, accuracy, shared=shared)
                curve = Curve.from_outcomes(RANKS, scores)
                found = non_inferior_rank(curve, margin=delta, reference=RANKS[-1])
                wrong[0] += found.rank in too_much
                wrong[1] += _not_significant(scores) in too_much
                means = scores.mean(axis=1)
                close = [r for r, y in zip(RANKS, means, strict=True) if means[-1] - y < delta]
                wrong[2] += min(close) in too_much
            rules = zip(
                ("non-inferiority test", "'not significantly different'", "point estimate"),
                wrong,
                strict=True,
            )
            for rule, count in rules:
                target = "≤ .05" if rule == "non-inferiority test" else "–"
                yield Row(
                    f"rank chosen wrongly, {rule}",
                    name,
                    n,
                    count / repetitions,
                    repetitions,
                    target,
                )


def _not_significant(scores: NDArray[np.float64]) -> int:
    """The smallest rank whose paired t test against the full rank has p > .05 (not offered)."""
    loss = scores[-1] - scores[:-1]
    se = loss.std(axis=1, ddof=1) / np.sqrt(scores.shape[1])
    same = np.abs(loss.mean(axis=1)) <= 1.96 * se
    return next((r for r, ok in zip(RANKS, same, strict=False) if ok), RANKS[-1])


def recipes(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """A recipe whose seeds lose .02 on average, by few of them or by all; margin .02."""
    for count in (2, 3, 5, 12):
        for name in ("one in four loses .08", "seed sd 0", "seed sd .02", "seed sd .05"):
            for n in SIZES[1:]:

                def once(count: int = count, name: str = name, n: int = n) -> bool:
                    seeds = _seeds(rng, count, name, n)
                    return non_inferior_rank(seeds, margin=0.02, reference=2).rank == 1

                what = "non-inferior rank of the recipe, wrong"
                setting = f"{count} seeds, {name}"
                rate = share(repetitions, once)
                yield Row(what, setting, n, rate, repetitions, "≤ .055")


def _seeds(rng: np.random.Generator, count: int, name: str, n: int) -> list[Curve]:
    """Curves at ranks 1 and 2; rank 1 loses by chance with 3 % of documents flipping each way."""
    if name.startswith("one in four"):
        losses = np.where(rng.random(count) < 0.25, 0.08, 0.0)
    else:
        losses = 0.02 + float(name.rsplit(maxsplit=1)[-1]) * rng.standard_normal(count)
    full = (rng.random((count, n)) < 0.6).astype(float)
    u = rng.random((count, n))
    fewer = np.maximum(losses, 0.0)[:, None] / 0.6 + 0.03
    more = np.maximum(-losses, 0.0)[:, None] / 0.4 + 0.03 * 0.6 / 0.4
    low = np.where(full == 1, u > fewer, u < more).astype(float)
    return [Curve.from_outcomes([1, 2], [x, y]) for x, y in zip(low, full, strict=True)]


def concentrated(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Documents in clusters of which few lose; the margin is what they lose on average."""
    for groups, size in ((20, 50), (60, 20), (200, 6)):
        labels = tuple(np.repeat(np.arange(groups), size).tolist())
        for share_bad in (0.25, 0.1, 0.05):

            def once(
                groups: int = groups,
                size: int = size,
                labels: tuple[int, ...] = labels,
                share_bad: float = share_bad,
            ) -> bool:
                bad = np.repeat(rng.random(groups) < share_bad, size)
                u, v = rng.random((2, groups * size))
                low, full = v > 0.03, v < 0.97  # 3 % flip each way
                lost = bad & (u < 0.02 / share_bad)
                low, full = low & ~lost, full | lost
                curve = Curve.from_outcomes([1, 2], [low, full], clusters=labels)
                return non_inferior_rank(curve, margin=0.02 * 0.94, reference=2).rank == 1

            what = "non-inferior rank, wrong"
            setting = f"{groups} clusters, one in {1 / share_bad:.0f} loses {0.02 / share_bad:.2g}"
            rate = share(repetitions, once)
            yield Row(what, setting, groups * size, rate, repetitions, "≤ .055")


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic."""
    yield from certificates(rng, repetitions)
    yield from recipes(rng, repetitions)
    yield from concentrated(rng, repetitions)
