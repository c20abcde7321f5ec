"""One row at each of its ranks, and which of them may be shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from aurac.analysis.gather import same
from aurac.curves.display import slot_rank
from aurac.stats.estimate import FRACTION, Bounds, Components, estimate, one_sided

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aurac.analysis.gather import Row
    from aurac.analysis.schema import Record
    from aurac.stats.estimate import Array


T = TypeVar("T")
_NOTHING: Record = dict.fromkeys(("above_base", "loss", "loss_bound", "bytes", "slot"))


def about(row: Row) -> Record:
    """The cells that say which row it is."""
    return {"task": row.task, "key": row.key, "cut": row.cut}


def ends(parts: Components | None, bounds: Bounds, level: float) -> Record:
    """An interval alone."""
    known = None if parts is None else estimate(parts, bounds, level)
    return {"low": known and known.low, "high": known and known.high}


def points_of(row: Row, level: float) -> list[Record]:
    """The row at each rank, 0 for the base first."""
    points, base = [], row.baseline()
    if base is not None:
        scores = row.curves[0].base_scores
        parts = None if scores is None else row.parts(scores[None])
        points.append(dict(_NOTHING, rank=0, accuracy=base, **ends(parts, FRACTION, level)))
    for rank in row.ranks:
        each = row.scores([rank])
        scores = None if each is None else each[0]
        parts = None if scores is None else row.parts(scores)
        point = {"rank": rank, "accuracy": row.accuracy(rank), **ends(parts, FRACTION, level)}
        point["bytes"] = same(curve.sizes.get(rank) for curve in row.curves)
        point["slot"] = slot_rank(rank) if all(curve.width for curve in row.curves) else None
        points.append(_NOTHING | point | _against(row, rank, scores))
    for point in points:
        rank = point["rank"]
        curves = row.curves[: None if rank else 1]  # the base is that of every seed
        counts = _known(curve.unfinished.get(rank) for curve in curves)
        losses = _known(curve.nats.get(rank) for curve in curves)
        point["unfinished"] = sum(counts) if counts else None
        point["nats"] = sum(losses) / len(losses) if losses else None
    return [about(row) | point for point in points]


def _known(values: Iterable[T | None]) -> list[T]:
    """All values; none where one is not known."""
    every = list(values)
    known = [value for value in every if value is not None]
    return known if len(known) == len(every) else []


def _against(row: Row, rank: int, scores: Array | None) -> Record:
    """Whether a rank is above the base, and what it loses against the trained one (95 %)."""
    result: Record = {}
    if scores is not None and (base := row.base_scores(scores)) is not None:
        result["above_base"] = one_sided(row.parts(scores - base))[0] > 0.0
    reference = row.trained_rank
    if reference in row.ranks and rank < reference and not row.rolling:
        result["loss"] = row.accuracy(reference) - row.accuracy(rank)
        full = row.scores([reference])
        if full is not None and scores is not None:
            result["loss_bound"] = one_sided(row.parts(full[0] - scores))[1]
    return result


def recommended(row: Row, points: Sequence[Record], margin: float | None) -> list[Record]:
    """The smallest rank reached from the trained one down, while each rank passes.

    A fixed sequence of one-sided tests at .05: the first that fails ends it, so that together they
    err as rarely as one. A rank passes where it is above the base and its loss is at most the
    margin; nothing is shipped unless the trained rank is above the base, which must be known.
    """
    reference = row.trained_rank
    known = row.examples is not None and row.baseline() is not None
    if margin is None or not known or reference not in row.ranks:
        return []
    missing = {rank for curve in row.curves for rank in curve.missing}
    shipped: Record | None = None
    ladder = [point for point in points if 0 < point["rank"] <= reference]
    for point in sorted(ladder, key=lambda point: -point["rank"]):
        rank = point["rank"]
        bound = 0.0 if rank == reference else point["loss_bound"]
        crossed = shipped is not None and any(rank < r < shipped["rank"] for r in missing)
        if crossed or bound is None or bound > margin or not point["above_base"]:
            break
        shipped = {name: point[name] for name in ("rank", "bytes", "slot")}
        shipped |= {"loss": point["loss"] or 0.0, "bound": bound, "same_slot_rank": None}
    if shipped and shipped["slot"]:
        same_slot = [p["rank"] for p in ladder if shipped["rank"] < p["rank"] <= shipped["slot"]]
        shipped["same_slot_rank"] = max(same_slot, default=None)
    found = shipped or dict.fromkeys(("rank", "bytes", "loss", "bound", "slot", "same_slot_rank"))
    return [about(row) | {"reference": reference, "margin": margin} | found]
