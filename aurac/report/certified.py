"""The smallest rank that is good enough: certified against the highest one, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.errors import CurveError
from aurac.report.pool import seeds_of
from aurac.report.tables import percent, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.report.model import CurveRow
    from aurac.uncertainty import Certificate

# What `aurac recommend` tolerates too, where nothing else was declared before looking.
DELTA = 0.02


def certificate(curve: CurveRow, delta: float = DELTA) -> Certificate | None:
    """What is certified for a curve; None without documents or with a single rank."""
    from aurac.uncertainty import certify

    seeds = seeds_of(curve)
    if not seeds or len(curve.ranks) < 2 or any(c.ranks != curve.ranks for c in seeds):
        return None
    try:
        return certify([one.at(one.ranks) for one in seeds], delta=delta)
    except CurveError:
        return None


def points(delta: float) -> str:
    """A tolerance in words."""
    return f"{100 * delta:g} point{'' if delta == 0.01 else 's'}"


def rank_sentence(curve: CurveRow, found: Certificate | None) -> str:
    """At which rank to use a curve, what that costs, and how sure it is."""
    at = {rank: i for i, rank in enumerate(curve.ranks)}
    top = curve.ranks[-1]
    full = f"{percent(curve.accuracy[-1])} %"
    if found is None:
        return f"At its highest rank, {_cost(curve, top)}, its accuracy is {full}."
    tolerance = points(found.delta)
    if found.rank == found.reference:
        needed = percent(found.smallest_delta)
        return (
            f"At rank {_cost(curve, top)} its accuracy is {full}; no smaller rank is certified to "
            f"lose less than {tolerance} of it (that would have taken a tolerance of {needed})."
        )
    small = f"{percent(curve.accuracy[at[found.rank]])} %"
    return (
        f"Its smallest rank certified to lose less than {tolerance} is {_cost(curve, found.rank)}, "
        f"with {small} against {full} at rank {_cost(curve, top)}."
    )


def _cost(curve: CurveRow, rank: int) -> str:
    amount = dict(zip(curve.ranks, curve.bytes, strict=False)).get(rank)
    return f"{rank} ({size(amount)})" if amount else str(rank)


def rings(found: Sequence[tuple[CurveRow, Certificate | None]]) -> dict[str, int]:
    """Id of a curve → its certified rank, where that is below the highest."""
    return {
        curve.id: certified.rank
        for curve, certified in found
        if certified is not None and certified.rank < certified.reference
    }
