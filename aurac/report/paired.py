"""Paired differences of a run, from the documents that its cells hold.

The arithmetic is that of `aurac.stats`; this file finds the curves and words the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aurac.errors import CurveError
from aurac.report.certified import DELTA
from aurac.report.pool import seeds_of
from aurac.report.tables import ordered, percent
from aurac.stats.analysis import leaders, paired_family

if TYPE_CHECKING:
    from aurac.report.model import CurveRow, Run
    from aurac.stats.rows import BestRow, PairRow

_LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """AURAC (log2) of `first` minus that of `second` on the same documents, as fractions.

    `adjusted` is the p value after Holm, in the same family as `aurac score` prints it;
    `detectable` the smallest true difference that a single such test finds with 80 % power.
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
        """Whether the difference is significant, after Holm."""
        return self.adjusted is not None and self.adjusted <= _LEVEL

    @property
    def sentence(self) -> str:
        """The difference in points with its interval."""
        text = f"{percent(self.value)} points"
        if self.low is None or self.high is None:
            return text
        return f"{text} (paired 95 % interval {percent(self.low)} to {percent(self.high)})"


class Paired:
    """The paired differences of a run.

    They are rows of the whole analysis, and adjusted within all of it: every pair of adapters (or
    arms of several seeds) over all the tasks is one family for Holm, every pair of truncations of
    one adapter another.

    Args:
        run: What was measured.
        delta: The margin of the leaders' non-inferior ranks.

    Attributes:
        leaders: For each task the adapter with the largest AURAC, allowing for its having been
            picked; tasks with a single adapter are not there.
    """

    def __init__(self, run: Run, delta: float = DELTA) -> None:
        self.run = run
        pairs, self.leaders = _family(run, delta)
        self._known = {(p.a, p.b, p.task): p for p in pairs if p.result is not None}

    def between(self, first: CurveRow, second: CurveRow) -> Difference | None:
        """`first` minus `second`, two adapters or two truncations of one; None where not paired."""
        a, b = first.adapter, second.adapter
        if a == b:
            a, b = f"{a} · {first.inference}", f"{b} · {second.inference}"
        straight = self._known.get((b, a, first.task))
        row = straight or self._known.get((a, b, first.task))
        if row is None or row.result is None:
            return None
        estimate = row.result.estimate
        low, high, sign = estimate.low, estimate.high, 1.0
        if straight is None:
            sign = -1.0
            low, high = (None if end is None else -end for end in (high, low))
        return Difference(
            first=first,
            second=second,
            value=sign * estimate.value,
            low=low,
            high=high,
            adjusted=row.p_holm,
            detectable=row.result.mde,
            n_docs=row.n_docs or 0,
            method=estimate.method,
        )

    def against_best(self, task: str, most: int) -> list[Difference]:
        """The best default curve of a task against the next ones and its own other inferences.

        Args:
            task: One of the run's.
            most: With how many other default curves it is compared.
        """
        scored = [curve for curve in ordered(self.run.of_task(task)) if curve.log2]
        default = [curve for curve in scored if curve.is_default]
        if not default:
            return []
        best = default[0]
        own = [c for c in scored if c.adapter == best.adapter and not c.is_default]
        pairs = [self.between(best, other) for other in [*default[1 : most + 1], *own]]
        return [pair for pair in pairs if pair is not None]


def _family(run: Run, delta: float) -> tuple[list[PairRow], dict[str | None, BestRow]]:
    """Every pair of the run, b - a, and the leader of each task."""
    curves, groups = [], {}
    for row in sorted(run.curves, key=lambda curve: not curve.is_default):
        seeds = seeds_of(row) or []
        if row.members:
            groups[row.adapter] = [row.adapter]
            seeds = [replace(seed, adapter=row.adapter) for seed in seeds]
        curves += seeds
    if not curves:
        return [], {}
    try:
        pairs = paired_family(curves, groups=groups)
        return pairs, leaders(curves, pairs, groups=groups, delta=delta)
    except CurveError:  # curves that do not fit together: nothing is compared
        return [], {}
