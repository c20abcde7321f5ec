"""The arithmetic of nested ranks: its words, and the field in which PEFT has the scale.

Scales and P of each rule are held against dense oracles where they are used.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurac.adapters.nesting import RULES, peft_alpha, peft_scale, rank_weights, scale
from aurac.errors import RankError, UsageError


@given(rule=st.sampled_from(RULES), alpha=st.floats(1e-3, 1e3), r=st.integers(1, 512))
def test_plain_peft_scales_as_the_rule_says(rule, alpha, r):
    lora_alpha = peft_alpha(rule, alpha, r)
    theirs = lora_alpha / math.sqrt(r) if rule == "sqrt" else lora_alpha / r
    assert peft_scale(rule, alpha, r) == theirs
    assert theirs == pytest.approx(scale(rule, alpha, r), rel=1e-15)


def test_p_of_a_module_of_lower_rank():
    """At ranks above its own, 2, the module stays as it is: s_1 + 2 s_2 and 2 s_2."""
    p = rank_weights(2, (1, 2, 4), None, "rank", 1.0, own=2)
    assert p.tolist() == [1 + 2 / 2, 2 / 2]
    assert rank_weights(2, (1, 2, 4), None, "rank", 1.0).tolist() == [1 + 1 / 2 + 1 / 4, 3 / 4]


@pytest.mark.parametrize("ranks", [(), (2, 2), (4, 2), (0, 1), (1.5,), (True, 2)])
def test_bad_nested_ranks(ranks):
    with pytest.raises(RankError, match="nested rank"):
        rank_weights(4, ranks, None, "sqrt", 1.0)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (float("nan"), 1.0), (0.0, 0.0)])
def test_bad_weights(weights):
    with pytest.raises(UsageError, match="weights"):
        rank_weights(4, (1, 4), weights, "sqrt", 1.0)
