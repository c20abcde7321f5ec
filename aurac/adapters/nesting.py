"""The arithmetic of nested ranks: scaling rules, the rank weights p and the usual ladder of ranks.

Sources: LoRA (arXiv 2106.09685) scales by α/r, rsLoRA (arXiv 2312.03732) by α/√r; the rank weights
are the diagonal of P in MatryoshkaLoRA (arXiv 2605.07850). Ranks are counted from 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from aurac.errors import RankError, UsageError

Rule = Literal["none", "rank", "sqrt"]
Update = Literal["prefix", "frozen"]

RULES: Final[tuple[Rule, ...]] = get_args(Rule)
UPDATES: Final[tuple[Update, ...]] = get_args(Update)


def scale(rule: Rule, alpha: float, r: int) -> float:
    """The factor in front of ``B @ A`` at rank ``r``: α (none), α/r (rank) or α/√r (sqrt)."""
    return float(alpha) / {"none": 1.0, "rank": r, "sqrt": math.sqrt(r)}[rule]


def rank_weights(
    R: int,
    nested_ranks: Sequence[int],
    weights: Sequence[float] | None,
    rule: Rule,
    alpha: float,
    own: int | None = None,
) -> NDArray[np.float64]:
    """The diagonal of P, shape (R,): ``p_i = Σ_{r in S, r ≥ i} w_r · s_r`` for i = 1..R.

    Args:
        R: The number of components that the factors have. A truncated adapter has fewer than its
            largest nested rank; its first R weights are still those of the whole sum.
        nested_ranks: S, the ranks that were trained.
        weights: w_r in the order of ``nested_ranks``; ``None`` means 1 each.
        rule: The scaling rule that gives s_r.
        alpha: The α of the rule.
        own: The trained rank of the module where others have a higher one (PEFT's
            ``rank_pattern``). At ranks above it the module stays as it is at its own.

    Raises:
        RankError: For an empty S, a duplicate or a rank below 1.
        UsageError: When there is not one finite weight for each nested rank.
    """
    ranks = check_nested_ranks(nested_ranks)
    p = np.zeros(R, dtype=np.float64)
    for r, w in zip(ranks, check_weights(ranks, weights), strict=True):
        p[:r] += w * scale(rule, alpha, min(r, own or r))
    return p


def default_nested_ranks(R: int) -> tuple[int, ...]:
    """Powers of two up to ``R``, with ``R`` itself always the last: 12 gives (1, 2, 4, 8, 12)."""
    return tuple(sorted({1 << k for k in range(R.bit_length())} | {R}))


def named_ranks(name: str, R: int) -> tuple[int, ...]:
    """The ranks `pow2` (1, 2, 4, … and R) or `all` (1 … R); another name is a UsageError."""
    if name not in ("pow2", "all"):
        raise UsageError(f"ranks {name!r} is neither pow2 nor all")
    return default_nested_ranks(R) if name == "pow2" else tuple(range(1, R + 1))


def is_rank(value: object) -> bool:
    """Whether ``value`` is a whole number of at least 1 (Python's or numpy's; no bool)."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 1


def check_nested_ranks(nested_ranks: Sequence[int]) -> tuple[int, ...]:
    """``nested_ranks`` as ascending integers, each once, at least one; else a RankError."""
    ranks = list(nested_ranks)
    if not ranks or not all(map(is_rank, ranks)) or ranks != sorted(set(ranks)):
        raise RankError(
            f"nested ranks {tuple(ranks)!r} are not ascending whole numbers from 1 on, each once"
        )
    return tuple(map(int, ranks))


def check_weights(ranks: Sequence[int], weights: Sequence[float] | None) -> tuple[float, ...]:
    """One finite, non-negative weight for each of ``ranks``, not all zero; else a UsageError.

    ``None`` means 1 each.
    """
    values = (1.0,) * len(ranks) if weights is None else tuple(map(float, weights))
    usable = all(math.isfinite(w) and w >= 0 for w in values) and any(values)
    if len(values) != len(ranks) or not usable:
        raise UsageError(
            f"weights {values!r} are not one finite number of at least 0, with one above 0, for "
            f"each of the nested ranks {tuple(ranks)!r}"
        )
    return values


def peft_alpha(rule: Rule, alpha: float, r: int) -> float:
    """The ``lora_alpha`` that makes plain PEFT, which has no rule none, scale rank ``r`` by it."""
    return alpha * r if rule == "none" else float(alpha)


def peft_scale(rule: Rule, alpha: float, r: int) -> float:
    """The factor that plain PEFT computes at rank ``r`` from :func:`peft_alpha`, rounding included.

    A live model uses this one, so that it and an exported checkpoint agree to the last bit.
    """
    return peft_alpha(rule, alpha, r) / (math.sqrt(r) if rule == "sqrt" else r)
