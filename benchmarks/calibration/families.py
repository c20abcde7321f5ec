"""Any false claim in a whole report: equal adapters on two tasks, Holm over all pairs and tasks."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from aurac.stats import difference, holm
from aurac.stats.sentences import verdict
from benchmarks.calibration.processes import Logistic
from benchmarks.calibration.rows import Row, share

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

SIZES = (100, 300)
SPREADS = (0.0, 0.3, 0.6)  # of seeds, logits: 0, .05 and .1 of AURAC


def families(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Any verdict between 3 or 6 equal adapters on 2 tasks."""
    for adapters in (3, 6):
        for seeds in (1, 2, 3, 5):
            for spread in SPREADS[:1] if seeds == 1 else SPREADS:
                for n in SIZES:
                    yield _row(rng, repetitions, adapters, seeds, (spread,) * adapters, n)
            if seeds > 1:
                mixed = (SPREADS[-1], 0.0) * (adapters // 2) + (0.0,) * (adapters % 2)
                yield _row(rng, repetitions, adapters, seeds, mixed, SIZES[-1])


def _row(
    rng: np.random.Generator,
    repetitions: int,
    adapters: int,
    seeds: int,
    spreads: tuple[float, ...],
    n: int,
) -> Row:
    model = Logistic(between=0.5)

    def once() -> bool:
        found = []
        for _ in range(2):
            ease = rng.standard_normal(n)
            groups = [replace(model, seed=s).group(rng, ease, seeds) for s in spreads]
            found += [difference(a, b) for a, b in combinations(groups, 2)]
        adjusted = holm([one.p for one in found])
        return any(verdict(one, p, 0.05) for one, p in zip(found, adjusted, strict=True))

    sd = " and ".join(dict.fromkeys(f"{s / 6:.2g}" for s in spreads))
    setting = f"{adapters} adapters × 2 tasks, {seeds} seeds, seed sd {sd}"
    return Row(
        "any verdict between equal adapters",
        setting,
        n,
        share(repetitions, once),
        repetitions,
        "≤ .055",
    )


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic; 30 pairs a repetition, so that fewer are made."""
    yield from families(rng, max(1, repetitions // 3))
