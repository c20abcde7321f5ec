"""Curves from what users have: mappings, pairs of lists, pandas objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from aurac.curves.checks import whole_rank
from aurac.curves.curve import Curve
from aurac.errors import CurveError

FORMS = (
    "give a mapping rank -> accuracy, a Series indexed by rank, a path, a run, or a DataFrame with "
    "columns rank and accuracy, or rank, example and score, or with a column for each rank."
)


def as_curve(source: Any) -> Curve:
    """A curve from a mapping, ``(ranks, values)``, a pandas Series or a wide DataFrame.

    A rank has an accuracy, (n,) scores or ``{example: score}``; rank 0 is the base model. A
    DataFrame has a column for each rank and a row for each example, or one column that is indexed
    by rank.

    Raises:
        CurveError: It is none of these, or its numbers are not a curve.
    """
    if isinstance(source, Curve):
        return source
    if hasattr(source, "columns"):
        return _from_wide(source)
    if hasattr(source, "index") and hasattr(source, "to_numpy"):
        _check_labels(source.index, column=source.name is not None)
        return _from_columns(source.index, source.to_numpy())
    if isinstance(source, Mapping):
        if source and all(isinstance(value, Mapping) for value in source.values()):
            return Curve.from_examples(source)
        return _from_columns(source, source.values())
    if is_one(source):
        return _from_columns(*source)
    raise CurveError(f"A value of type {type(source).__name__} is no curve: {FORMS}")


def is_rank(value: Any) -> bool:
    """Whether a label is a rank."""
    try:
        return whole_rank(value) >= 0
    except CurveError:
        return False


def is_one(source: Any) -> bool:
    """Whether it has the form of one curve, and not of several."""
    if isinstance(source, (Curve, Mapping)) or hasattr(source, "to_numpy"):
        return True  # pandas' objects, too
    pair = isinstance(source, (tuple, list)) and len(source) == 2 and all(map(np.iterable, source))
    if not pair or isinstance(source[0], (str, Mapping)) or hasattr(source[0], "columns"):
        return False
    return not hasattr(source[0], "to_numpy") or all(map(is_rank, source[0]))


def _from_wide(frame: Any) -> Curve:
    """A DataFrame with a row for each example; of a single row the numbers are accuracies."""
    name, columns = frame.index.name, frame.columns
    if name == "rank" and len(columns) == 1:
        return as_curve(frame.iloc[:, 0])
    rows = name in ("example", "doc_id") or (name is None and frame.index.dtype.kind in "iu")
    ranks = columns.name in (None, "rank") and all(map(is_rank, columns))
    if not (rows and ranks and frame.index.is_unique):
        names = ", ".join(map(str, columns[:6]))
        raise CurveError(f"A DataFrame with columns {names} is no curve: {FORMS}")
    _check_labels(columns, column=False)
    if len(frame) == 1:
        return _from_columns(columns, frame.iloc[0])
    return Curve.from_examples({whole_rank(rank): frame[rank].to_dict() for rank in columns})


def _check_labels(labels: Any, *, column: bool) -> None:
    """Refuse the numbers of rows, which a column of a table has in the place of ranks."""
    ordered = sorted(map(whole_rank, labels))
    counted = len(ordered) > 2 and all(a + 1 == b for a, b in pairwise(ordered))
    if counted and labels.name is None and (column or 0 in ordered):
        raise CurveError(
            f"The labels {ordered[0]} to {ordered[-1]} may be row numbers or ranks: name them "
            "'rank', as in df.set_index('rank').accuracy."
        )


def _from_columns(ranks: Iterable[Any], values: Iterable[Any]) -> Curve:
    """Ranks with accuracies, or with a row of example scores each; rank 0 is the base."""
    known, rows, base = [*map(whole_rank, ranks)], [*values], None
    if 0 in known and len(known) == len(rows):
        base = rows.pop(known.index(0))
        known.remove(0)
    if rows and all(np.iterable(row) and not isinstance(row, str) for row in rows):
        return Curve.from_outcomes(known, rows, base_scores=base)
    return Curve(tuple(known), tuple(rows), baseline=base)
