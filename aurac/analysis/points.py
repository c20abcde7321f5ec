"""One row at each of its ranks, and which of them may be shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.analysis.schema import Advice, Point
from aurac.curves.checks import only
from aurac.curves.names import slot_rank
from aurac.stats.estimate import FRACTION, Components, estimate, one_sided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.analysis.gather import Row

NEEDED = "a recommendation needs the base, and every outcome at the trained rank"


def ends(parts: Components | None, level: float) -> dict[str, Any]:
    """The interval of a fraction, where the sources of its variance are known."""
    known = None if parts is None else estimate(parts, FRACTION, level)
    return {"low": known and known.low, "high": known and known.high}


def points_of(row: Row, level: float) -> list[Point]:
    """The row at each rank, 0 for the base first."""
    points, base = [], row.baseline()
    if base is not None:
        scores = row.curves[0].base_scores
        parts = None if scores is None else row.parts(scores[None])
        cells = row.about | _of_curves(row, 0) | ends(parts, level)
        points.append(Point(rank=0, accuracy=base, **cells))
    return [*points, *(_point(row, rank, level) for rank in row.ranks)]


def _point(row: Row, rank: int, level: float) -> Point:
    """A rank: whether it is above the base, and what it loses against the trained one (95 %)."""
    each, above, lost, bound = row.scores([rank]), None, None, None
    scores = None if each is None else each[0]
    if scores is not None and (base := row.base_scores(scores)) is not None:
        above = one_sided(row.parts(scores - base))[0] > 0.0
    reference = row.trained_rank
    if reference in row.ranks and rank < reference and not row.rolling:
        lost, full = row.accuracy(reference) - row.accuracy(rank), row.scores([reference])
        if full is not None and scores is not None:
            bound = one_sided(row.parts(full[0] - scores))[1]
    ended = ends(None if scores is None else row.parts(scores), level)
    return Point(
        rank=rank,
        accuracy=row.accuracy(rank),
        above_base=above,
        loss=lost,
        loss_bound=bound,
        bytes=only(curve.sizes.get(rank) for curve in row.curves),
        slot=slot_rank(rank) if all(curve.width for curve in row.curves) else None,
        **row.about | _of_curves(row, rank) | ended,
    )


def _of_curves(row: Row, rank: int) -> dict[str, Any]:
    """What the seeds (rank 0: the base) give together; None where it is not known of all."""
    curves = row.curves[: None if rank else 1]  # the base is that of every seed
    counts = [curve.unfinished.get(rank) for curve in curves]
    losses = [curve.nats.get(rank) for curve in curves]
    return {
        "unfinished": None if None in counts else sum(filter(None, counts)),
        "nats": None if None in losses else sum(filter(None, losses)) / len(losses),
    }


def recommended(row: Row, points: Sequence[Point], margin: float) -> Advice:
    """The rank to ship of those that pass; docs/explain/claims.md has the rule.

    A fixed sequence of one-sided tests at .05 goes down from the trained rank: the first that fails
    ends it, so that together they err as rarely as one. A rank passes where it is above the base
    and its loss is at most the margin; nothing is shipped unless the trained rank is above the
    base, which must be known.

    In vLLM all ranks of a slot take the same memory. So the largest rank is shipped of those that
    pass and take the smallest slot; where vLLM does not serve the adapter, the smallest rank.
    """
    reference = row.trained_rank
    known = row.examples is not None and row.baseline() is not None
    if not known or reference not in row.ranks:
        return Advice(margin=margin, reason=NEEDED, **row.about)
    missing = {rank for curve in row.curves for rank in curve.missing}
    passing: list[Point] = []
    ladder = [point for point in points if 0 < point.rank <= reference]
    for point in sorted(ladder, key=lambda point: -point.rank):
        bound = 0.0 if point.rank == reference else point.loss_bound
        crossed = any(point.rank < r < each.rank for each in passing[-1:] for r in missing)
        if crossed or bound is None or bound > margin or not point.above_base:
            break
        passing.append(point)
    if not passing:
        reason = f"rank {reference} is not shown to be above the base"
        return Advice(reference=reference, margin=margin, reason=reason, **row.about)
    smallest = passing[-1]
    same_slot = (point for point in passing if point.slot == smallest.slot)
    shipped = smallest if smallest.slot is None else next(same_slot)
    return Advice(
        rank=shipped.rank,
        reference=reference,
        margin=margin,
        loss=shipped.loss or 0.0,
        bound=shipped.loss_bound or 0.0,
        bytes=shipped.bytes,
        slot=shipped.slot,
        smallest_rank=smallest.rank,
        **row.about,
    )
