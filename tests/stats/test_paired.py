"""Paired differences: oracles, hand-worked examples, invariances."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stats_draws import rng, two
from statsmodels.stats.power import TTestPower

from aurac.errors import CurveError
from aurac.stats import detectable, difference, over_seeds
from aurac.stats.intervals import few_events, mover
from aurac.stats.mean import Layout
from aurac.stats.paired import _detectable, compare


def test_four_documents_by_hand():
    # D = 1/2, 0, 1/2, 1: mean 1/2, s² = (0 + 1/4 + 0 + 1/4)/3 = 1/6, se = √(1/24).
    # t = .5/√(1/24) = 2.449; with 3 df p = .0917. Three gains are few: MOVER is wider.
    result = difference([0, 0, 0.5, 0], [0.5, 0, 1, 1])
    assert result.estimate.value == 0.5
    assert result.estimate.se == pytest.approx(math.sqrt(1 / 24))
    assert result.p >= 0.0917
    down, up = mover(np.array([0.5, 0, 0.5, 1]), Layout(4))(0.95)
    plain = 3.18245 * math.sqrt(1 / 24)
    assert result.parts.reach(0.95) == pytest.approx((max(down, plain), max(up, plain)), rel=1e-5)
    assert result.conditional


def test_equals_scipys_paired_t_test():
    a, b = two(1)
    expected = stats.ttest_rel(b, a)
    result = difference(a, b)
    ends = expected.confidence_interval(0.95)
    assert result.p == pytest.approx(expected.pvalue)
    assert (result.estimate.low, result.estimate.high) == pytest.approx((ends.low, ends.high))


def test_clustered_pair_is_statsmodels():
    a, b = two(2)
    labels = np.repeat(np.arange(40), 5)
    import pandas as pd

    frame = pd.DataFrame({"d": b - a, "g": labels})
    model = smf.ols("d ~ 1", frame).fit(cov_type="cluster", cov_kwds={"groups": frame["g"]})
    result = difference(a, b, clusters=labels)
    assert result.estimate.se == pytest.approx(float(model.bse.iloc[0]))
    assert result.estimate.df == pytest.approx(39)


@given(st.integers(0, 2**32 - 1))
def test_a_part_common_to_both_changes_nothing(seed):
    a, b = two(seed)
    shift = rng(seed + 1).random(200) * 0.2
    one = difference(a * 0.5, b * 0.5)
    other = difference(a * 0.5 + shift, b * 0.5 + shift)
    assert other.estimate.value == pytest.approx(one.estimate.value, abs=1e-9)
    assert other.estimate.se == pytest.approx(one.estimate.se)


def test_the_same_run_twice_is_no_difference_and_no_zero_error():
    a, _ = two(3)
    result = difference(a, a)
    assert result.estimate.value == 0.0
    assert result.estimate.se is None
    assert result.p == 1.0
    assert result.mde is None
    # n = 200: at most 1 - .025^(1/200) = .01828 of the documents gain, and lose.
    assert result.estimate.high == pytest.approx(1 - 0.025 ** (1 / 200))
    assert result.estimate.low == pytest.approx(-result.estimate.high)


def test_half_of_eight_documents_that_all_fall_prove_nothing():
    """Four losses among eight documents: t alone would say p = .033."""
    a = np.array([1, 1, 1, 1, 0, 0, 1, 0.0])
    b = np.array([0, 0, 0, 0, 0, 0, 1, 0.0])
    result = difference(a, b)
    assert result.p > 0.05
    assert result.estimate.low < -0.5 < 0 < result.estimate.high


def test_few_differing_documents_by_hand():
    # 200 documents, 3 gained, none lost. Losses: 0 to 1 - .025^(1/200) = .01828. Gains: 3/200 with
    # se² = .015·.985/199, so 200 effective documents and 3 hits.
    gap = np.zeros(200)
    gap[:3] = 1
    ends = stats.beta.ppf(0.025, 3, 198), stats.beta.ppf(0.975, 4, 197)
    loss_high = 1 - 0.025 ** (1 / 200)
    down, up = mover(gap, Layout(200))(0.95)
    assert down == pytest.approx(math.hypot(0.015 - ends[0], loss_high))
    assert up == pytest.approx(ends[1] - 0.015)
    result = difference(np.zeros(200), gap)
    assert result.estimate.low == pytest.approx(0.015 - down)
    assert "MOVER" in result.estimate.method
    assert result.p == pytest.approx(0.21, abs=0.05)  # McNemar: 2/2^3 = .25


def test_small_gains_do_not_hide_that_large_losses_were_not_drawn():
    """Eight gain 1/16, sign flips say p = 2/2^8; were .5 % to lose 1, the mean would be 0."""
    gap = np.zeros(100)
    gap[:8] = 1 / 16
    result = difference(np.zeros(100), gap)
    assert result.p > 0.5
    # At most 1 - .025^(1/100) = .0362 of the documents lose, each at most 1.
    assert result.estimate.low == pytest.approx(0.005 - 0.0362, abs=0.001)


def test_enough_documents_take_students_t_and_skewed_ones_do_not():
    draw = rng(1)
    even = draw.normal(0, 0.2, 400)
    assert not few_events(even, Layout(400))
    skewed = np.where(draw.random(400) < 0.03, -1.0, 1 / 32)
    assert few_events(skewed, Layout(400))
    assert few_events(np.zeros(400), Layout(400))
    # 29 events of one side are few, 30 are not: (mean/se)² of k in n is k(n-1)/(n-k).
    gap = np.zeros(10_000)
    gap[:200] = 1
    gap[200:229] = -1
    assert few_events(gap, Layout(10_000))
    gap[200:231] = -1
    assert not few_events(gap, Layout(10_000))


def test_p_is_where_the_interval_ends_at_0():
    gap = np.zeros(150)
    gap[:14] = 0.5
    gap[14:17] = -0.25
    p = difference(np.zeros(150), gap).p
    assert 0 < p < 0.5
    assert difference(np.zeros(150), gap, level=1 - p).estimate.low == pytest.approx(0, abs=1e-9)


def test_no_draw_hangs():
    """Rounding once left .01 degrees of freedom and a special function that did not return."""
    draw = rng(351)
    a, b = ((draw.random((2, 50)) < 0.96).astype(float) for _ in range(2))
    result = difference(a, b)
    assert result.estimate.low < result.estimate.value < result.estimate.high
    assert detectable(0.1, 0.01) > 0
    same = np.tile(a[:1], (2, 1))
    assert difference(same, same).p == 1.0
    assert difference(np.ones((3, 40)), np.ones((3, 40))).p == 1.0


def test_detectable_difference_is_statsmodels():
    for n in (10, 50, 200, 1319):
        size = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
        assert detectable(1 / math.sqrt(n), n - 1) == pytest.approx(size, rel=2e-3)
    assert detectable(0.01, math.inf) == pytest.approx(0.01 * (1.959964 + 0.841621))


def test_documents_are_missing():
    with pytest.raises(CurveError, match="3 documents against 4"):
        difference([0, 1, 1], [0, 1, 1, 0])
    with pytest.raises(CurveError, match="unequal documents"):
        over_seeds([[0, 1], [1]])


def test_detectable_from_few_seeds_is_where_the_critical_value_varies():
    """Ten seeds' differences with no spread over documents: a t test of S numbers.

    D_s = 2 (s - 4.5)/1000: its mean over seeds has sd s/sqrt(10), and the power of a t test on 9
    df is statsmodels'; an estimated sd is c4(10) = .9727 of the true one on average.
    """
    shifts = (np.arange(10) - 4.5)[:, None] / 500
    a, b = np.full((10, 50), 0.5), 0.5 + shifts + np.zeros((10, 50))
    for alpha in (0.05, 0.05 / 6, 0.05 / 18):
        size = TTestPower().solve_power(nobs=10, alpha=alpha, power=0.8, alternative="two-sided")
        expected = size * shifts.std(ddof=1) / 0.9727
        parts = replace(compare(a, b, Layout(50), level=0.95, matched=True).parts, excess=None)
        assert _detectable(parts, alpha, 0.8) == pytest.approx(expected, rel=0.01)


def test_no_difference_is_detectable_where_even_1_would_be_missed():
    """Two seeds at a level of .05/20: t on one degree of freedom reaches 254 standard errors."""
    shifts = np.array([[-0.02], [0.02]])
    a, b = np.full((2, 50), 0.4), 0.5 + shifts + np.zeros((2, 50))
    result = compare(a, b, Layout(50), level=0.95, matched=True)
    assert replace(result, alpha=0.05 / 20).mde is None
