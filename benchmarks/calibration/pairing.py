"""Two recipes that share seeds, data and order: size, power, and detectable differences.

Outcomes are those of `study`: 400 documents, five ranks, seeds that vary by 1.1 points of AURAC.
The recipes answer most documents alike: a paired difference has a standard deviation of .22.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aurac.analysis import paired_curves
from aurac.analysis.comparisons import compare_rows
from aurac.analysis.groups import gather
from aurac.analysis.rows import Options
from aurac.curves.curve import Curve
from benchmarks.calibration.rows import Row
from benchmarks.calibration.study import CLOSE, RANKS, SHARES, STEEP, WEIGHTS, draw, moved

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

N, SD, ALIKE = 400, 0.011, 0.6
AREA = float(WEIGHTS @ STEEP)
HOLM = 0.05 / 22  # the first step of a study with 22 tests
UNSTABLE = (SD, 0.05)  # of the two recipes' seeds
DOCUMENTS = tuple(map(str, range(N)))


def recipe(
    name: str, outcomes: NDArray[np.float64], *, order: str | None, task: str
) -> list[Curve]:
    """Curves of (S, K, n) outcomes, whose recipes say that they share data and order or nothing."""
    labels = {"adapter": name, "task": task, "doc_ids": DOCUMENTS, "data_order": order}
    return [Curve.from_outcomes(RANKS, rows, seed=s, **labels) for s, rows in enumerate(outcomes)]


def pair(
    rng: np.random.Generator,
    seeds: int,
    gap: float,
    *,
    sd: float | tuple[float, ...] = SD,
    alike: float = ALIKE,
    order: str | None = "same",
    task: str = "t",
    shares: tuple[float, float, float] = CLOSE,
) -> list[list[Curve]]:
    """Two recipes whose AURAC differs by `gap`."""
    accuracy = [STEEP, moved(STEEP, AREA + gap)]
    outcomes = draw(rng, accuracy, seeds, N, sd, alike=alike, shares=shares)
    return [recipe(x, rows, order=order, task=task) for x, rows in zip("ab", outcomes, strict=True)]


def sizes(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Two equal recipes, paired by seed."""
    settings = [(f"correlation {alike:g}", SD, alike) for alike in (-1.0, 0.0, ALIKE)]
    settings.append(("one arm's seeds sd 5 points, correlation 0.6", UNSTABLE, ALIKE))
    for seeds in (3, 5):
        for name, sd, alike in settings:
            found = [paired_curves(*pair(rng, seeds, 0.0, sd=sd, alike=alike)).p
                     for _ in range(repetitions)]  # fmt: skip
            small, tail = (float(np.mean(np.array(found) <= level)) for level in (0.05, HOLM))
            yield Row("paired by seed, p ≤ .05 without a difference", f"{seeds} seeds, {name}", N,
                      small, repetitions, "≤ .055", f"p ≤ .05/22: {tail:.3f}")  # fmt: skip


def power(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """How often a difference is found, paired by seed and as independent arms."""
    settings = [(5, 0.05, CLOSE), (5, 0.05, SHARES), (5, 0.033, CLOSE), (3, 0.05, CLOSE)]
    for seeds, gap, shares in settings:
        for order, name in (("same", "paired by seed"), (None, "independent seeds")):
            rows = [
                paired_curves(*pair(rng, seeds, gap, order=order, shares=shares))
                for _ in range(repetitions)
            ]
            p = np.array([row.p if row.estimate.value > 0 else 1.0 for row in rows])
            first, three = (float(np.mean(p <= level)) for level in (HOLM, 0.05 / 3))
            target = "≥ .60" if (seeds, gap, shares, order) == (*settings[0], "same") else "–"
            noise = "" if shares == CLOSE else ", documents as unlike as in reports/study"
            setting = f"{seeds} seeds, difference {gap:g}{noise}"
            yield Row(f"power at p ≤ .05/22, {name}", setting, N, first, repetitions, target,
                      f"at .05/3: {three:.3f}")  # fmt: skip


def detectable(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Power at the mean printed detectable difference, in families of 1, 6 and 18 tests."""
    for seeds, order in ((1, None), (5, "same"), (5, None)):
        alike = ALIKE if order else 0.0  # independent arms are what the other procedure assumes
        for tests in (1, 6, 18):
            gap = 0.05
            for final in (False, False, False, True):  # the spread depends on the difference
                rows = [
                    _first_of(rng, tests, seeds, gap, alike=alike, order=order)
                    for _ in range(repetitions if final else repetitions // 5)
                ]
                hits = np.mean([p <= 0.05 / tests and value > 0 for p, value, _ in rows])
                printed = gap
                gap = float(np.mean([mde for *_, mde in rows]))
            yield Row("power at the printed detectable difference",
                      f"{tests} tests, {seeds} seeds, {'paired' if order else 'independent'}", N,
                      float(hits), repetitions, ".77 to .83", f"at {100 * printed:.2f} points",
                      )  # fmt: skip


def _first_of(
    rng: np.random.Generator, tests: int, seeds: int, gap: float, *, alike: float, order: str | None
) -> tuple[float, float, float]:
    """Unadjusted p, estimate and detectable difference of the first pair, the others being null."""
    sd = SD if seeds > 1 else 0.0
    curves = []
    for test in range(tests):
        size = gap if test == 0 else 0.0
        both = pair(rng, seeds, size, sd=sd, alike=alike, order=order, task=str(test))
        curves += [curve for group in both for curve in group]
    row = compare_rows(gather(curves), [], Options()).pairs[0]
    return row.p, row.estimate.value, row.to_dict()["mde"] or 1.0


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic; the families take long, so that fewer are made."""
    yield from sizes(rng, repetitions)
    yield from power(rng, repetitions)
    yield from detectable(rng, max(5, repetitions // 4))
