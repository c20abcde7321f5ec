"""Paired differences and certified ranks of a run, from the documents that its cells hold.

The arithmetic is that of `aurac.uncertainty`; this file finds the curves and words the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from aurac.errors import CurveError
from aurac.report.documents import with_outcomes
from aurac.report.tables import ordered, percent

if TYPE_CHECKING:
    from aurac.report.model import CurveRow, Run

_LEVEL = 0.05
# Any declared tolerance gives the same losses and bounds; this one is only tested against.
_ANY_DELTA = 0.02


@dataclass(frozen=True)
class Difference:
    """AURAC (log2) of `first` minus that of `second` on the same documents, as fractions.

    `adjusted` is the p value after Holm over all differences of the report; `detectable` the
    smallest true difference that a single such test finds with 80 % power.
    """

    first: CurveRow
    second: CurveRow
    value: float
    low: float | None
    high: float | None
    adjusted: float | None
    detectable: float | None
    n_docs: int
    method: str

    @property
    def certain(self) -> bool:
        """Whether the difference is beyond chance, after Holm."""
        return self.adjusted is not None and self.adjusted < _LEVEL

    @property
    def sentence(self) -> str:
        """The difference in points with its interval."""
        text = f"{percent(self.value)} points"
        if self.low is None or self.high is None:
            return text
        return f"{text} (paired 95 % interval {percent(self.low)} to {percent(self.high)})"


class Paired:
    """The paired differences of a run.

    Args:
        run: What was measured.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def between(self, first: CurveRow, second: CurveRow) -> Difference | None:
        return _difference(first, second)

    def against_best(self, task: str, most: int) -> list[Difference]:
        return _against_best(self.run, task, most)


def _against_best(run: Run, task: str, most: int) -> list[Difference]:
    scored = [curve for curve in ordered(run.of_task(task)) if curve.log2]
    default = [curve for curve in scored if curve.is_default]
    if not default:
        return []
    best = default[0]
    own = [c for c in scored if c.adapter == best.adapter and not c.is_default]
    pairs = [_difference(best, other) for other in [*default[1 : most + 1], *own]]
    return [pair for pair in pairs if pair is not None]


def _difference(first: CurveRow, second: CurveRow) -> Difference | None:
    from aurac.report.pool import seeds_of
    from aurac.arms import gather
    from dataclasses import replace as rep
    from aurac.analysis import compare_pair, Options

    mine, theirs = seeds_of(first), seeds_of(second)
    if mine is None or theirs is None:
        return None
    try:
        a = gather([rep(c, adapter="a") for c in mine], {"a": ["a"]})[0]
        b = gather([rep(c, adapter="b") for c in theirs], {"b": ["b"]})[0]
        row = compare_pair(b, a, np.random.default_rng(0), Options())
    except CurveError:
        return None
    gap, estimate = row.found, row.found.estimate
    return Difference(
        first=first,
        second=second,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        adjusted=gap.p,
        detectable=gap.mde,
        n_docs=row.n_docs,
        method=estimate.method,
    )
