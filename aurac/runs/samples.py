"""pass@k of sampled answers, as a metric that is derived from the outcomes of the samples."""

from __future__ import annotations

import re
from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KEY = re.compile(r"pass@(\d+):(.+)")


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right.

    ``1 - C(n-c, k) / C(n, k)`` with c of n samples right (Chen et al. 2021, eq. 1, arXiv
    2107.03374).

    Args:
        correct: c, from 0 to n.
        samples: n.
        k: From 1 to n.
    """
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def metric_column(
    metrics: Mapping[str, Sequence[float]],
    samples: Mapping[str, Sequence[Sequence[float]]],
    key: str,
) -> list[float] | None:
    """The (n,) scores of documents under a metric, or under pass@k of one.

    Args:
        metrics: ``metric,filter`` to n scores.
        samples: ``metric,filter`` to n lists of K outcomes.
        key: `exact_match,strict-match`, or `pass@4:exact_match,strict-match`.

    Returns:
        None where there is no such metric, fewer than k samples, or one that is not right or wrong.
    """
    if key in metrics:
        return list(metrics[key])
    parsed = _KEY.fullmatch(key)
    outcomes = samples.get(parsed[2]) if parsed else None
    if parsed is None or outcomes is None:
        return None
    k = int(parsed[1])
    if any(len(row) < k or not {*row} <= {0.0, 1.0} for row in outcomes):
        return None
    return [pass_at_k(round(sum(row)), len(row), k) for row in outcomes]
