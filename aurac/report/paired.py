"""Paired differences and certified ranks of a run, from the documents that its cells hold.

The arithmetic is that of `aurac.uncertainty`; this file finds the curves and words the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aurac.analysis import paired_family
from aurac.analysis_rows import PairRow
from aurac.errors import CurveError
from aurac.readers.run import arms_of
from aurac.report.documents import with_outcomes
from aurac.report.tables import ordered, percent
from aurac.uncertainty.streams import SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.curve import Curve
    from aurac.report.model import CurveRow, Run

_LEVEL = 0.05
# Any declared tolerance gives the same losses and bounds; this one is only tested against.
_ANY_DELTA = 0.02


@dataclass(frozen=True)
class Difference:
    """AURAC (log2) of `first` minus that of `second` on the same documents, as fractions.

    `adjusted` is the p value after Holm, in the same family as `aurac score` prints it;
    `detectable` the smallest true difference that a single such test finds with 80 % power. Where
    adapters are seeds of one recipe, the difference is that of their arms, named by `names`, and
    `first` and `second` are the curves that lead them.
    """

    first: CurveRow
    second: CurveRow
    names: tuple[str, str]
    value: float
    low: float | None
    high: float | None
    adjusted: float | None
    detectable: float | None
    n_docs: int
    method: str

    @property
    def labels(self) -> tuple[str, str]:
        """What the two sides are called: an arm's name, or the curve's own label."""
        first, second = (
            curve.label if name == curve.adapter else name
            for name, curve in zip(self.names, (self.first, self.second), strict=True)
        )
        return first, second

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

    They are some rows of the whole analysis, and adjusted within all of it: every pair of adapters
    over all the tasks is one family for Holm, every pair of truncations of one adapter another.

    Args:
        run: What was measured.
        most: With how many default curves the best one of a task is compared.
    """
    arms = {member: name for name, members in arms_of_run(run).items() for member in members}
    known = _family(run)
    return {task: _against_best(run, task, most, arms, known) for task in run.task_names}


def arms_of_run(run: Run) -> dict[str, list[str]]:
    """Adapters that are seeds of one recipe, as `aurac score` finds them in the run folder."""
    return arms_of(run.adapters, run.groups)


_Pairs = dict[tuple[str, str, str | None], PairRow]


def _family(run: Run) -> _Pairs:
    """Every pair of the run that has a difference, b - a, by the names of a, b and the task."""
    rows = sorted(run.curves, key=lambda curve: not curve.is_default)
    curves = [found for curve in rows if (found := with_outcomes(curve)) is not None]
    if not curves:
        return {}
    rng = np.random.default_rng(SEED)
    try:
        pairs = paired_family(curves, rng=rng, groups=_present(arms_of_run(run), curves))
    except CurveError:  # seeds that do not fit together: nothing is compared
        return {}
    return {(pair.a, pair.b, pair.task): pair for pair in pairs if pair.found is not None}


def _present(arms: dict[str, list[str]], curves: Sequence[Curve]) -> dict[str, list[str]]:
    known = {curve.adapter for curve in curves}
    return {name: [m for m in members if m in known] for name, members in arms.items()}


def _against_best(
    run: Run, task: str, most: int, arms: dict[str, str], known: _Pairs
) -> list[Difference]:
    scored = [curve for curve in ordered(run.of_task(task)) if curve.log2]
    default = [curve for curve in scored if curve.is_default]
    if not default:
        return []
    best = default[0]
    found: dict[tuple[str, str], Difference] = {}
    for other in default[1:]:
        names = arms.get(best.adapter, best.adapter), arms.get(other.adapter, other.adapter)
        pair = _difference(best, other, names, names, known)
        if pair is not None and len(found) < most:
            found.setdefault(names, pair)
    own = [c for c in scored if c.adapter == best.adapter and not c.is_default]
    for other in own:
        name = arms.get(best.adapter, best.adapter)
        keys = f"{name} · {best.inference}", f"{name} · {other.inference}"
        pair = _difference(best, other, keys, (best.adapter, other.adapter), known)
        if pair is not None:
            found[keys] = pair
    return list(found.values())


def _difference(
    first: CurveRow,
    second: CurveRow,
    keys: tuple[str, str],
    names: tuple[str, str],
    known: _Pairs,
) -> Difference | None:
    """The row of the family that is about these two, turned so that it is first - second."""
    straight = known.get((keys[1], keys[0], first.task))
    row = straight or known.get((keys[0], keys[1], first.task))
    if row is None or row.found is None:
        return None
    estimate = row.found.estimate
    low, high, sign = estimate.low, estimate.high, 1.0
    if straight is None:
        sign = -1.0
        low, high = (None if end is None else -end for end in (high, low))
    return Difference(
        first=first,
        second=second,
        names=names,
        value=sign * estimate.value,
        low=low,
        high=high,
        adjusted=row.p_holm,
        detectable=row.found.mde,
        n_docs=row.n_docs or 0,
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
