"""The smallest non-inferior rank, tested against the highest one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.errors import CurveError
from aurac.report.pool import seeds_of
from aurac.report.tables import percent, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.report.model import CurveRow
    from aurac.stats import Certificate

# The tolerance of `aurac.stats.analysis` too, where nothing else was declared before looking.
DELTA = 0.02
ALPHA = 0.05


def certificate(curve: CurveRow, delta: float = DELTA, alpha: float = ALPHA) -> Certificate | None:
    """The non-inferiority tests of a curve; None without documents or with a single rank."""
    from aurac.stats import certify

    seeds = seeds_of(curve)
    if not seeds or len(curve.ranks) < 2 or any(c.ranks != curve.ranks for c in seeds):
        return None
    try:
        return certify([one.at(one.ranks) for one in seeds], delta=delta, alpha=alpha)
    except CurveError:
        return None


def joint_bounds(
    found: Sequence[tuple[CurveRow, Certificate | None]],
) -> dict[str, dict[int, float]]:
    """Curve id → rank → upper bound on the loss, all together at 95 % (Bonferroni)."""
    known = [(curve, one) for curve, one in found if one is not None]
    tests = sum(len(one.steps) for _, one in known)
    bounds = {}
    for curve, one in known:
        joint = certificate(curve, one.delta, ALPHA / tests)
        bounds[curve.id] = {step.rank: step.upper for step in joint.steps} if joint else {}
    return bounds


def margin_note(delta: float, *, assumed: bool) -> str:
    """Whose margin the ranks of a report are about."""
    if not assumed:
        return f"The margin of {points(delta)} was given for this report."
    return (
        f"The margin of {points(delta)} is what this report assumes, since none was given: choose "
        "yours before looking, with aurac report --margin."
    )


def points(delta: float) -> str:
    """A tolerance in words."""
    return f"{100 * delta:g} point{'' if delta == 0.01 else 's'}"


def rank_sentence(
    curve: CurveRow, found: Certificate | None, who: str, *, picked_from: int = 1
) -> str:
    """At which rank to use a curve, what that costs, and how sure it is.

    Args:
        curve: The curve.
        found: Its non-inferiority tests.
        who: What the sentence calls it.
        picked_from: How many curves it was picked from as the largest; `found` allows for that.
    """
    at = {rank: i for i, rank in enumerate(curve.ranks)}
    top = curve.ranks[-1]
    full = f"{percent(curve.accuracy[-1])} %"
    if found is None:
        return f"At its highest rank, {_cost(curve, top)}, {who} has an accuracy of {full}."
    tolerance = points(found.delta)
    if found.seeds > 1 and found.smallest_delta >= 1.0:
        return _of_few_seeds(curve, found, who)
    sure = (
        f"95 % confidence, allowing for its having been picked from {picked_from}"
        if picked_from > 1
        else "95 % confidence, for this adapter alone"
    )
    if found.rank == found.reference:
        needed = percent(found.smallest_delta)
        return (
            f"The rank to use of {who} is its highest, {_cost(curve, top)}, with an accuracy of "
            f"{full}: no smaller one is non-inferior to it at a margin of {tolerance} "
            f"({sure}). That would have taken a margin of {needed} points."
        )
    small = f"{percent(curve.accuracy[at[found.rank]])} %"
    return (
        f"The smallest rank of {who} that is non-inferior at a margin of {tolerance} is "
        f"{_cost(curve, found.rank)}, with an accuracy of {small} against {full} at rank "
        f"{_cost(curve, top)} ({sure})."
    )


def _of_few_seeds(curve: CurveRow, found: Certificate, who: str) -> str:
    full = f"{percent(curve.accuracy[-1])} %"
    text = (
        f"The rank to use of {who} is its highest, {_cost(curve, curve.ranks[-1])}, with an "
        f"accuracy of {full}: {found.seeds} seeds are too few to say what a smaller one loses in "
        "another seed."
    )
    if found.checkpoints in (None, found.reference):
        return text
    return (
        f"{text} In each of these {found.seeds} checkpoints rank {found.checkpoints} loses less "
        f"than {points(found.delta)}."
    )


def _cost(curve: CurveRow, rank: int) -> str:
    amount = dict(zip(curve.ranks, curve.bytes, strict=False)).get(rank)
    return f"{rank} ({size(amount)})" if amount else str(rank)


def rings(found: Sequence[tuple[CurveRow, Certificate | None]]) -> dict[str, int]:
    """Id of a curve → its smallest non-inferior rank, where that is below the highest."""
    return {
        curve.id: certified.rank
        for curve, certified in found
        if certified is not None and certified.rank < certified.reference
    }
