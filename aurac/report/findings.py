"""What a report says beyond the stored numbers, computed once and rendered several times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aurac.report.certified import certificate, joint_bounds
from aurac.report.documents import best_default, changes
from aurac.report.paired import Paired
from aurac.report.rivals import Rival, rivals
from aurac.report.strata import groups
from aurac.report.tables import highlighted, ordered
from aurac.report.words import MANY_TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.report.documents import Changes
    from aurac.report.model import CurveRow, Run
    from aurac.report.paired import Difference
    from aurac.report.strata import Group
    from aurac.stats import Certificate
    from aurac.stats.rows import BestRow

_PAIRED = 5
_GROUP_CURVES = 4


@dataclass(frozen=True)
class Findings:
    """By task, what was found about its curves.

    Attributes:
        certificates: Id of a default curve → the curve and what is certified for it.
        joint: Id of a default curve → rank → upper bound on what it loses, all of a task together.
        leaders: The adapter with the largest AURAC, allowing for its having been picked.
        pairs: The best default curve of a task against the others.
        changes: Documents gained and lost at each rank.
        groups: The areas on groups of documents.
        rivals: Prefix against SVD.
    """

    certificates: Mapping[str, tuple[CurveRow, Certificate | None]]
    joint: Mapping[str, Mapping[int, float]]
    leaders: Mapping[str | None, BestRow]
    pairs: Mapping[str, Sequence[Difference]]
    changes: Mapping[str, Sequence[Changes]]
    groups: Mapping[str, Sequence[Group]]
    rivals: Mapping[str, Sequence[Rival]]

    def certificate(self, curve: CurveRow) -> Certificate | None:
        """The non-inferiority tests of a curve; None where nothing can be said."""
        return self.certificates.get(curve.id, (curve, None))[1]


def find(run: Run, delta: float) -> Findings:
    """Look at a run.

    Args:
        run: What was measured.
        delta: The loss against the highest rank that a non-inferior rank may have, a fraction.
    """
    large = len(run.task_names) > MANY_TASKS
    chosen = {task: _chosen(run, task, large=large) for task in run.task_names}
    paired = Paired(run, delta)
    certificates = {
        curve.id: (curve, certificate(curve, delta))
        for curves in chosen.values()
        for curve in curves
    }
    steps = {
        task: [item for c in curves if (item := changes(c, _ends(c) if large else None))]
        for task, curves in chosen.items()
    }
    return Findings(
        certificates=certificates,
        joint={
            id_: bounds
            for curves in chosen.values()
            for id_, bounds in joint_bounds([certificates[c.id] for c in curves]).items()
        },
        leaders=paired.leaders,
        pairs={task: paired.against_best(task, 1 if large else _PAIRED) for task in chosen},
        changes=steps,
        groups={t: groups(run, t, ordered(c)[:_GROUP_CURVES]) for t, c in chosen.items()},
        rivals={task: rivals(run, task, paired) for task in chosen},
    )


def _chosen(run: Run, task: str, *, large: bool) -> list[CurveRow]:
    """The curves that are looked at closely: those in colour, or only the leader."""
    leader = best_default(run, task)
    if large:
        return [leader] if leader else []
    return [curve for curve in highlighted(run, task) if curve.is_default]


def _ends(curve: CurveRow) -> tuple[int, int]:
    return curve.ranks[0], curve.ranks[-1]
