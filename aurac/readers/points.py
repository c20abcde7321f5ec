"""A plain rank-accuracy table → curves without documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.curves.curve import Curve
from aurac.errors import AuracError, DataError
from aurac.readers.columns import KEYS, Key, label_of, seed_of, whole_column

if TYPE_CHECKING:
    from collections.abc import Iterator


def point_curves(source: Iterator[Any], where: str, metric: str | None) -> list[Curve]:
    """Curves of a ``rank, accuracy`` table: point values, since means carry no spread.

    Raises:
        DataError: A rank twice, no rank, a number that is no fraction, or no such metric.
    """
    found: dict[Key, dict[int, float | None]] = {}
    for batch in source:
        columns = {name: batch[name].to_pylist() for name in batch.column_names}
        ranks = whole_column(batch["rank"], "rank", where)
        for i, rank in enumerate(ranks):
            key = tuple(
                None if name not in columns or columns[name][i] is None else str(columns[name][i])
                for name in KEYS
            )
            points = found.setdefault(key, {})
            if int(rank) in points:
                raise DataError(f"{where}: {label_of(key)} has rank {rank} twice")
            value = columns["accuracy"][i]
            points[int(rank)] = None if value is None else _number(value, where)
    curves = [
        _point_curve(key, points, where)
        for key, points in found.items()
        if metric is None or key[2] in (None, metric)
    ]
    if not curves:
        raise DataError(f"{where} has no metric {metric!r}")
    return curves


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{where} has an accuracy of {value!r}", expected="a fraction") from None


def _point_curve(key: Key, points: dict[int, float | None], where: str) -> Curve:
    adapter, task, metric, seed = key
    baseline = points.pop(0, None)
    known = {rank: value for rank, value in points.items() if value is not None}
    if not known:
        raise DataError(f"{where}: {label_of(key)} has no accuracy at any rank from 1 up")
    missing = {rank: "empty in the table" for rank, value in points.items() if value is None}
    try:
        return Curve(
            tuple(known),
            tuple(known.values()),
            adapter=adapter,
            task=task,
            metric=metric,
            seed=seed_of(seed),
            baseline=baseline,
            missing=missing,
        )
    except AuracError as error:
        raise DataError(f"{where}: {label_of(key)}: {error}") from error
