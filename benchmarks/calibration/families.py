"""Any false claim in a whole report: equal adapters on two tasks, Holm over all pairs and tasks.

And what a table says of its largest AURAC: adapters in two truncations each, through `analyse`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from aurac.analysis.comparisons import verdict
from aurac.analysis.rows import Options
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.records.decisions import Declaration
from aurac.stats import difference, holm
from benchmarks.calibration.leader import RANKS, items, truth
from benchmarks.calibration.processes import Logistic
from benchmarks.calibration.rows import Row, share

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aurac.analysis.record import Analysis

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


def tables(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """The leader, the candidates and primary comparisons of adapters in two truncations each.

    The logits of the rows lie evenly between 0 and `spread`; every second row is another truncation
    of the adapter before it.
    """
    for adapters, n in ((1, 150), (3, 150), (6, 300)):
        for spread in (0.0, 0.3, 1.0):
            names = [(f"a{at // 2}", at % 2) for at in range(2 * adapters)]
            order = rng.permutation(len(names))
            shifts = np.linspace(0.0, spread, len(names))[order][:, None].repeat(len(RANKS), 1)
            values = truth(rng, shifts) @ [1 / 6, 1 / 3, 1 / 3, 1 / 6]  # log2: ends weigh half
            values = np.full_like(values, values.mean()) if spread == 0 else values
            kept = covered = wrong = 0
            for _ in range(repetitions):
                found = _analysed(items(rng, n, shifts), names)
                (best,) = found.best
                labels = [f"{a} · svd" if other else a for a, other in names]
                true = dict(zip(labels, values, strict=True))
                kept += labels[int(values.argmax())] in best.candidates
                leader = best.estimate
                covered += leader.low <= true[best.leader] <= leader.high
                wrong += _false(found, true)
            where = f"{adapters} adapters × 2 truncations, logits 0 to {spread:g}"
            for claim, count, target in (
                ("the truly best row is a candidate", kept, "≥ .95"),
                ("the interval of the largest row covers", covered, "≥ .935"),
                ("any pair named the wrong way", wrong, "≤ .055"),
            ):
                yield Row(claim, where, n, count / repetitions, repetitions, target)


def primaries(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """One declared pair, and an adapter against all others, among 6 adapters."""
    names = [(f"a{at}", 0) for at in range(6)]
    for shift, target in ((0.0, "≤ .055"), (0.5, "-")):
        shifts = np.zeros((6, len(RANKS)))
        shifts[0] = shift
        for declared in (None, ("a0", "a1"), ("a0", "*")):
            hits = 0
            for _ in range(repetitions):
                found = _analysed(items(rng, 200, shifts), names, declared)
                rows = [row for row in found.pairs if not row.exploratory]
                if shift:
                    rows = [row for row in rows if (row.a, row.b) == ("a0", "a1")]
                hits += any(row.verdict for row in rows)
            what = "all 15 pairs" if declared is None else f"primary {declared[0]}, {declared[1]}"
            claim = "a0 − a1 is found" if shift else "any primary verdict between equal adapters"
            yield Row(
                claim, f"{what}, logit {shift:g}", 200, hits / repetitions, repetitions, target
            )


def _analysed(
    scores: np.ndarray, names: list[tuple[str, int]], declared: tuple[str, str] | None = None
) -> Analysis:
    curves = [
        Curve.from_outcomes(
            RANKS, one, adapter=adapter, task="t", basis="svd" if other else "prefix",
            role="extra" if other else "default",
        )
        for (adapter, other), one in zip(names, scores, strict=True)
    ]  # fmt: skip
    primary = None if declared is None else Declaration(pairs=[declared])
    return analyse(curves, Options(primary=primary, margin=None))


def _false(found: Analysis, true: dict[str, float]) -> bool:
    """Whether a verdict names a row better that is not."""
    for row in (*found.pairs, *found.variants):
        sign = row.verdict
        a, b = (true[name.removesuffix(" · prefix")] for name in (row.a, row.b))
        if sign and sign * (b - a) <= 0:
            return True
    return False


def rows(rng: np.random.Generator, repetitions: int) -> Iterable[Row]:
    """Every line of this topic; many pairs a repetition, so that fewer are made."""
    yield from families(rng, max(1, repetitions // 3))
    yield from tables(rng, repetitions)
    yield from primaries(rng, repetitions)
