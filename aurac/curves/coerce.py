"""A curve from a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aurac.curves.checks import whole_rank
from aurac.curves.curve import Curve
from aurac.errors import CurveError


def as_curve(source: Any) -> Curve:
    """A curve as it is, or one of a mapping from ranks to accuracies or to (n,) scores.

    Rank 0 is the base model.

    Raises:
        CurveError: It is none of these, or its numbers are not a curve.
    """
    if isinstance(source, Curve):
        return source
    if not isinstance(source, Mapping):
        raise CurveError(
            f"A value of type {type(source).__name__} is no curve: give a mapping rank -> accuracy "
            "or rank -> scores, a DataFrame with columns rank and accuracy, or rank, example and "
            "score, a path, or a run."
        )
    ranks, rows, base = [*map(whole_rank, source)], [*source.values()], None
    if 0 in ranks:
        base = rows.pop(at := ranks.index(0))
        ranks.pop(at)
    if rows and all(np.iterable(row) and not isinstance(row, str) for row in rows):
        return Curve.from_outcomes(ranks, rows, base_scores=base)
    return Curve(tuple(ranks), tuple(rows), baseline=base)
