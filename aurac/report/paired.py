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


@dataclass(frozen=True)
class Loss:
    """What one rank loses against the highest: `upper` bounds it at 95 %, one-sided."""

    curve: CurveRow
    rank: int
    reference: int
    loss: float
    upper: float
    flip_rate: float
    needed: float


def differences(run: Run, most: int) -> dict[str, list[Difference]]:
    """For each task its best default curve against the next ones and its own other inferences.

    All of them are one family for Holm's adjustment, over the tasks too.

    Args:
        run: What was measured.
        most: With how many default curves the best one of a task is compared.
    """
    from aurac.uncertainty import holm

    found = {task: _against_best(run, task, most) for task in run.task_names}
    adjusted = iter(holm([d.adjusted for several in found.values() for d in several]))
    return {
        task: [replace(difference, adjusted=next(adjusted)) for difference in several]
        for task, several in found.items()
    }


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
    from aurac.uncertainty import paired_curves

    mine, theirs = with_outcomes(first), with_outcomes(second)
    if mine is None or theirs is None:
        return None
    try:
        paired = paired_curves(theirs, mine, rng=np.random.default_rng(0))
    except CurveError:
        return None
    gap, estimate = paired.difference, paired.difference.estimate
    return Difference(
        first=first,
        second=second,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        adjusted=gap.p,
        detectable=gap.mde,
        n_docs=paired.n_docs,
        method=estimate.method,
    )


def losses(curve: CurveRow) -> list[Loss]:
    """For each rank below the highest: the paired loss, its bound, and the answers that change.

    Empty without documents. Which loss is tolerable has to be declared before looking; so this
    names no rank, it says which tolerance each rank would have needed.
    """
    from aurac.uncertainty import certify

    points = with_outcomes(curve)
    if points is None or len(points.ranks) < 2:
        return []
    try:
        certificate = certify(points.at(points.ranks), delta=_ANY_DELTA)
    except CurveError:
        return []
    return [
        Loss(curve, s.rank, certificate.reference, s.loss, s.upper, s.flip_rate, s.delta_needed)
        for s in certificate.steps
    ]
