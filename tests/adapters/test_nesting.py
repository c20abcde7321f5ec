"""The arithmetic of nested ranks, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aurac.adapters.nesting import (
    RULES,
    default_nested_ranks,
    peft_alpha,
    peft_scale,
    rank_weights,
    scale,
)
from aurac.errors import RankError, UsageError


def test_scale_by_hand():
    # alpha 16 at rank 4: none 16; rank 16/4 = 4; sqrt 16/2 = 8
    assert scale("none", 16, 4) == 16
    assert scale("rank", 16, 4) == 4
    assert scale("sqrt", 16, 4) == 8


def test_rank_weights_by_hand_sqrt():
    # S = {1, 2, 4}, alpha 1: s = 1, 1/√2, 1/2. Component 1 is in all three ranks, 2 in {2, 4},
    # 3 and 4 in {4}.
    h = 1 / math.sqrt(2)
    expected = [1 + h + 0.5, h + 0.5, 0.5, 0.5]
    np.testing.assert_allclose(rank_weights(4, (1, 2, 4), None, "sqrt", 1.0), expected, rtol=1e-15)


def test_rank_weights_by_hand_rank_rule_with_weights():
    # S = {1, 3}, w = {2, 3}, alpha 6: s_1 = 6, s_3 = 2. p_1 = 2·6 + 3·2 = 18, p_2 = p_3 = 3·2 = 6.
    np.testing.assert_array_equal(rank_weights(3, (1, 3), (2, 3), "rank", 6.0), [18, 6, 6])


def test_a_truncated_adapter_keeps_the_whole_sum():
    whole = rank_weights(8, (1, 2, 4, 8), None, "sqrt", 2.0)
    np.testing.assert_array_equal(rank_weights(4, (1, 2, 4, 8), None, "sqrt", 2.0), whole[:4])


@pytest.mark.parametrize(
    ("R", "expected"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (12, (1, 2, 4, 8, 12)),
        (16, (1, 2, 4, 8, 16)),
        (17, (1, 2, 4, 8, 16, 17)),
    ],
)
def test_default_nested_ranks(R, expected):
    assert default_nested_ranks(R) == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    ranks=st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True).map(sorted),
    rule=st.sampled_from(RULES),
    alpha=st.floats(0.1, 64),
)
def test_weights_fall_and_the_last_is_the_last_scale(ranks, rule, alpha):
    p = rank_weights(ranks[-1], ranks, None, rule, alpha)
    assert (np.diff(p) <= 1e-12).all()
    assert p[-1] == pytest.approx(scale(rule, alpha, ranks[-1]))
    # the first component takes part in every rank
    assert p[0] == pytest.approx(sum(scale(rule, alpha, r) for r in ranks))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rule=st.sampled_from(RULES), alpha=st.floats(1e-3, 1e3), r=st.integers(1, 512))
def test_plain_peft_scales_as_the_rule_says(rule, alpha, r):
    lora_alpha = peft_alpha(rule, alpha, r)
    theirs = lora_alpha / math.sqrt(r) if rule == "sqrt" else lora_alpha / r
    assert peft_scale(rule, alpha, r) == theirs
    assert theirs == pytest.approx(scale(rule, alpha, r), rel=1e-15)


@pytest.mark.parametrize("ranks", [(), (2, 2), (4, 2), (0, 1), (1.5,), (True, 2)])
def test_bad_nested_ranks(ranks):
    with pytest.raises(RankError, match="nested rank"):
        rank_weights(4, ranks, None, "sqrt", 1.0)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (float("nan"), 1.0), (0.0, 0.0)])
def test_bad_weights(weights):
    with pytest.raises(UsageError, match="weights"):
        rank_weights(4, (1, 4), weights, "sqrt", 1.0)
