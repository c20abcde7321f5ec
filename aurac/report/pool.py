"""Training seeds of one recipe as one curve: their mean, over documents and seeds.

Which adapters are seeds of one recipe is what their recorded recipes say, or what the reader says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from aurac.errors import CurveError
from aurac.report.documents import with_outcomes
from aurac.report.escape import one_line
from aurac.report.model import CurveRow, Interval, Run, labelled
from aurac.stats.groups import check_groups

if TYPE_CHECKING:
    from aurac.curves.curve import Curve
    from aurac.stats.groups import RecipeGroup
    from aurac.stats.mean import Estimate

Groups = Mapping[str, Sequence[str]]
_T = TypeVar("_T")


def pooled(run: Run, groups: Groups | None = None) -> Run:
    """The run with one curve for each arm in place of its checkpoints' curves.

    An arm whose checkpoints cannot be pooled (a missing rank, other documents, no documents) is
    left as it is, and the run's notes say why.

    Args:
        run: What was measured.
        groups: ``arm name -> adapter names``; added to the arms that the recipes tell of.

    Raises:
        CurveError: A group names an adapter that the run does not have, or one twice.
    """
    arms = _groups(run, groups or {})
    if not arms:
        return run
    curves, notes = list(run.curves), list(run.notes)
    for name, members in arms.items():
        others = {curve.adapter for curve in run.curves} - set(members)
        shown = name if name not in others else f"{name} ({len(members)} seeds)"
        for same in _alike(curves, members):
            try:
                row = _arm_row(shown, same, len(members))
            except CurveError as error:
                where = f"{one_line(name)} on {one_line(same[0].task)}"
                notes.append(f"The seeds of {where} are not pooled: {one_line(error)}.")
                continue
            at = curves.index(same[0])
            curves[at] = row
            curves = [curve for curve in curves if curve not in same[1:]]
    return replace(run, curves=labelled(curves), notes=tuple(notes))


def _groups(run: Run, said: Groups) -> dict[str, list[str]]:
    from aurac.readers.run import arms_of, regrouped
    from aurac.runs.schema import AdapterRecord

    check_groups(said, (str(adapter.get("name")) for adapter in run.adapters))
    adapters = [msgspec.convert(dict(adapter), AdapterRecord) for adapter in run.adapters]
    found = regrouped(arms_of(adapters, run.groups), said)
    return {name: members for name, members in found.items() if len(members) > 1}


def _alike(curves: Sequence[CurveRow], members: Sequence[str]) -> list[list[CurveRow]]:
    """The members' curves, those of one task and inference together."""
    found: dict[tuple[str, ...], list[CurveRow]] = {}
    for curve in curves:
        if curve.adapter in members:
            key = (curve.task, curve.metric, curve.basis, curve.rescale, curve.role)
            found.setdefault(key, []).append(curve)
    return list(found.values())


def _arm_row(name: str, same: Sequence[CurveRow], expected: int) -> CurveRow:
    if len(same) != expected:
        raise CurveError(f"{len(same)} of {expected} checkpoints were measured")
    arm = _arm(name, same)
    if arm.gap:
        raise CurveError(arm.gap)
    first = same[0]
    points = [over_rank(arm, at) for at in range(len(arm.ranks))]
    from aurac.curves.area import drops
    from aurac.curves.curve import Curve
    from aurac.stats.analysis import estimate_arm

    areas = {axis: _interval(estimate_arm(arm, axis, 0.95)) for axis in ("log2", "linear")}
    return replace(
        first,
        id=f"{name} · {first.inference} · {first.task}",
        adapter=name,
        method=_shared([curve.method for curve in same]),
        accuracy=arm.accuracy,
        low=tuple(point.low for point in points),
        high=tuple(point.high for point in points),
        parameters=tuple(_shared(list(column)) for column in _columns(same, "parameters")),
        bytes=tuple(_shared(list(column)) for column in _columns(same, "bytes")),
        cells={},
        log2=areas["log2"],
        linear=areas["linear"],
        mean=float(np.mean(arm.accuracy)),
        drops=drops(Curve(arm.ranks, arm.accuracy)),
        seed=None,
        members=tuple(same),
    )


def _arm(name: str, same: Sequence[CurveRow]) -> RecipeGroup:
    from aurac.stats.groups import gather

    curves = []
    for row in same:
        curve = with_outcomes(row)
        if curve is None:
            raise CurveError(f"the stored documents of {row.adapter} are missing or damaged")
        curves.append(replace(curve, adapter=name))
    return gather(curves, {name: [name]})[0]


def over_rank(arm: RecipeGroup, at: int) -> Estimate:
    """Accuracy at one rank, for another draw of documents and seeds."""
    from aurac.stats import over_seeds

    first = arm.first
    return over_seeds(_rows(arm, at), clusters=first.clusters, strata=first.strata)


def _rows(arm: RecipeGroup, at: int) -> list[object]:
    from aurac.stats.paired import same_documents

    rows: list[object] = []
    for curve in arm.curves:
        order = same_documents(arm.first, curve)
        outcomes = curve.outcomes
        if outcomes is not None:
            rows.append(outcomes[at] if order is None else outcomes[at][order])
    return rows


def _columns(same: Sequence[CurveRow], name: str) -> list[tuple[int | None, ...]]:
    return list(zip(*(getattr(curve, name) for curve in same), strict=True))


def _shared(values: Sequence[_T]) -> _T | None:
    return values[0] if len(set(values)) == 1 else None


def _interval(found: Estimate) -> Interval:
    return Interval(found.value, found.se, found.low, found.high)


def seeds_of(curve: CurveRow) -> list[Curve] | None:
    """The curve's checkpoints with their documents; None where any of them has none."""
    found = [with_outcomes(row) for row in curve.members or (curve,)]
    known = [one for one in found if one is not None]
    return known if len(known) == len(found) else None
