"""Intervals around one adapter: scipy, statsmodels, brute force, and hand-worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats import (
    bands,
    clustered,
    design_effect,
    interval,
    score_interval,
    standard_error,
    stratified,
)
from aurac.stats.bands import max_t
from aurac.stats.intervals import bca, bootstrap_means, effective_binomial
from aurac.stats.mean import Layout, moments


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_randomness_must_be_given():
    with pytest.raises(TypeError, match="rng"):
        interval([0.0, 1.0])


def test_the_three_regimes_are_chosen_and_named():
    values = np.zeros(400)
    values[:100] = 1
    assert interval(values, rng=rng()).method.startswith("t with 399 df")
    values[20:] = 0  # 20 documents' worth away from 0
    assert interval(values, rng=rng()).method.startswith("BCa with 9999 resamples")
    values[5:] = 0
    assert interval(values, rng=rng()).method.startswith("Clopper-Pearson at the effective")
    values[2:] = 0
    assert "unreliable: 2.0 documents" in interval(values, rng=rng()).method
    values[:] = 0
    assert "rule of three" in interval(values, rng=rng()).method


def test_bca_is_scipys():
    draw = rng(1)
    values = (draw.random(1319) < 0.015) * draw.random(1319)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, batch=500, method="BCa", rng=rng(2)
    ).confidence_interval
    width = expected.high - expected.low
    low, high = bca(values, Layout(1319), rng(3), 0.95, 20_000)
    assert low == pytest.approx(expected.low, abs=0.03 * width)
    assert high == pytest.approx(expected.high, abs=0.03 * width)


def test_bca_near_0_is_lopsided_to_the_right():
    values = np.zeros(400)
    values[:15] = 1
    found = interval(values, rng=rng())
    assert found.high - found.value > found.value - found.low > 0


def test_bca_of_the_mirror_image_is_the_mirror_image():
    values = (rng(4).random(600) < 0.03).astype(float)
    one = interval(values, rng=rng(5))
    other = interval(1 - values, rng=rng(5))
    width = one.high - one.low
    assert (1 - other.high, 1 - other.low) == pytest.approx((one.low, one.high), abs=0.05 * width)


def test_bootstrap_of_documents_is_the_brute_force_one():
    values = rng(1).random(40).round(1)
    fast = bootstrap_means(values, Layout(40), rng(2), 40_000)
    draw = rng(3)
    brute = values[draw.integers(0, 40, size=(40_000, 40))].mean(axis=1)
    # Rounded, since both are sums of tenths in another order.
    assert stats.ks_2samp(fast.round(9), brute.round(9)).pvalue > 0.001


def test_bootstrap_of_clusters_is_the_brute_force_one():
    draw = rng(1)
    labels = np.repeat(np.arange(12), draw.integers(1, 6, 12))
    values = (draw.random(labels.size) < 0.4).astype(float)
    fast = bootstrap_means(values, Layout.make(labels.size, labels), rng(2), 20_000)
    members = [values[labels == g] for g in range(12)]
    brute = [
        np.concatenate([members[g] for g in draw.integers(0, 12, 12)]).mean() for _ in range(20_000)
    ]
    assert stats.ks_2samp(fast.round(9), np.round(brute, 9)).pvalue > 0.001


def test_bootstrap_of_strata_keeps_each_stratum():
    labels = np.repeat([0, 1], [10, 30])
    values = np.where(labels == 0, 1.0, 0.0)  # no spread within: every resample is .25
    means = bootstrap_means(values, Layout.make(40, strata=labels), rng(), 500)
    np.testing.assert_allclose(means, 0.25)


def test_effective_binomial_of_0_1_scores_is_clopper_pearson():
    # se² = ā(1-ā)/(n-1) for 0/1 scores, so the effective number is n - 1.
    values = np.zeros(201)
    values[:6] = 1
    hits = 6 / 201 * 200
    low, high = effective_binomial(values, Layout(201), 0.95)
    expected = proportion_confint(hits, 200, method="beta")
    assert (low, high) == pytest.approx(expected)


def test_few_events_take_the_wider_end_on_each_side_by_hand():
    # 4 of 200 right: ā = .02, se² = .02·.98/199, t_{.975,199} = 1.97196.
    # logit(.02) = -3.89182; half = 1.97196·.0099243/.0196 = .99848: 1/(1 + e^2.89334) = .05248.
    # Clopper-Pearson of 3.98 hits in 199 has .0053 and .0506: its low end, the logit's high one.
    values = np.zeros(200)
    values[:4] = 1
    found = interval(values, rng=rng())
    low, high = proportion_confint(3.98, 199, method="beta")
    assert (low, high) == (pytest.approx(0.0053, abs=2e-4), pytest.approx(0.0506, abs=2e-4))
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(0.05248, abs=1e-5)
    mirrored = interval(1 - values, rng=rng())
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))


def test_cr1_by_hand_on_four_documents():
    # Documents 0, 1, 1, 1 in clusters {0, 1}, {1, 1}: mean 3/4; residuals -3/4, 1/4, 1/4, 1/4.
    # Sums by cluster -1/2 and 1/2; G/(G-1) = 2; √(2·(1/4 + 1/4))/4 = 1/4.
    found = clustered([0, 1, 1, 1], ["p", "p", "q", "q"])
    assert found.se == pytest.approx(0.25)
    assert found.df == 1
    assert found.low == 0.0  # t(1 df, .975) = 12.7: cut to [0, 1]
    # Without clusters: s² = (9 + 3)/16/3 = 1/4, se = √(1/4/4) = 1/4. The design effect is 1.
    assert standard_error([0, 1, 1, 1]) == pytest.approx(0.25)
    assert design_effect([0, 1, 1, 1], ["p", "p", "q", "q"]) == pytest.approx(1.0)


def test_cr1_is_statsmodels():
    draw = rng(2)
    labels = draw.integers(0, 30, 400)
    values = draw.random(400) * 0.5 + 0.5 * draw.random(30)[labels]
    model = sm.OLS(values, np.ones(400)).fit(
        cov_type="cluster", cov_kwds={"groups": labels, "use_correction": True}
    )
    # statsmodels' factor is G/(G-1)·(n-1)/(n-k), the second part 1 for a mean.
    assert clustered(values, labels).se == pytest.approx(float(model.bse[0]))


def test_singleton_clusters_are_no_clusters():
    values = rng(3).random(50)
    assert clustered(values, range(50)).se == pytest.approx(stats.sem(values))


def test_strata_by_hand_on_four_documents():
    # Strata {0, 1}, {1, 1}: residuals within -1/2, 1/2, 0, 0: squares 1/2; pooled over 4 - 2 df:
    # 1/4; se = √(1/4/4) = 1/4, which is √(G/(G-H)·Σe²)/n = √(4/2·1/2)/4 = 1/4.
    found = stratified([0, 1, 1, 1], ["x", "x", "y", "y"])
    assert found.se == pytest.approx(0.25)
    assert found.df == 2


def test_strata_are_anova_within():
    draw = rng(5)
    labels = np.repeat(np.arange(6), 20)
    values = np.clip(draw.random(120) * 0.4 + 0.1 * labels, 0, 1)
    within = sm.OLS(values, np.eye(6)[labels]).fit()
    assert stratified(values, labels).se == pytest.approx(math.sqrt(within.mse_resid / 120))
    assert stratified(values, labels).se < standard_error(values)


def test_clusters_within_strata():
    values = rng(1).random(60)
    clusters, strata = np.repeat(np.arange(20), 3), np.repeat(np.arange(4), 15)
    found = interval(values, rng=rng(), clusters=clusters, strata=strata)
    assert found.df == 16
    assert "20 clusters" in found.method
    assert "4 fixed strata" in found.method
    with pytest.raises(CurveError, match="more than one stratum"):
        interval(values, rng=rng(), clusters=strata, strata=clusters)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_unions_of_strata_add_their_sums_of_squares(seed, parts):
    # Within-stratum squares of a union of disjoint sets of strata are the sum of theirs.
    draw = rng(seed)
    values, labels = draw.random(40), draw.integers(0, 2 * parts, 40)
    first = labels < parts
    total = 0.0
    for half in (first, ~first):
        if half.sum() > 1:
            layout = Layout.make(int(half.sum()), strata=labels[half])
            if layout.df > 0:
                se = float(moments(values[half], layout).se)
                total += (se * layout.n) ** 2 * layout.df / layout.groups
    layout = Layout.make(40, strata=labels)
    whole = float(moments(values, layout).se)
    assert (whole * 40) ** 2 * layout.df / 40 == pytest.approx(total)


def test_one_stratum_is_none():
    values = rng(1).random(30)
    assert stratified(values, ["all"] * 30).se == pytest.approx(standard_error(values))


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.3))
def test_a_constant_shift_moves_the_interval(seed, shift):
    values = 0.2 + rng(seed).random(200) * 0.3
    one, other = interval(values, rng=rng()), interval(values + shift, rng=rng())
    assert other.value - one.value == pytest.approx(shift, abs=1e-9)
    assert other.se == pytest.approx(one.se)
    assert other.low - one.low == pytest.approx(shift, abs=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_order_and_names_of_clusters_never_matter(seed):
    draw = rng(seed)
    values, labels = draw.random(60), draw.integers(0, 12, 60)
    order = draw.permutation(60)
    names = draw.permutation(12)
    one = clustered(values, labels)
    other = clustered(values[order], [f"c{names[g]}" for g in labels[order]])
    assert (one.value, one.se, one.low) == pytest.approx((other.value, other.se, other.low))


def test_duplicating_every_document_in_its_cluster_changes_nothing():
    values, labels = rng(2).random(80), np.arange(80)
    twice = clustered(np.repeat(values, 2), np.repeat(labels, 2))
    assert twice.se == pytest.approx(clustered(values, labels).se)


def test_continuous_scores_and_score_interval():
    outcomes = rng(1).random((3, 300)) * 0.05
    curve = Curve.from_outcomes([1, 2, 4], outcomes)
    found = score_interval(curve, rng=rng())
    assert "Clopper-Pearson" in found.log2.method
    assert found.log2.low < found.value < found.log2.high
    assert "t interval is too short" in found.notes[0]
    points = score_interval(Curve.coerce({1: 0.1, 2: 0.2}), rng=rng())
    assert points.log2.low is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: interval([], rng=rng()), r"shape \(0,\)"),
        (lambda: interval([[0, 1]], rng=rng()), r"shape \(1, 2\)"),
        (lambda: interval(["a"], rng=rng()), "not numbers"),
        (lambda: interval([0, np.nan], rng=rng()), "nan"),
        (lambda: interval([0, 50.0], rng=rng()), "percent"),
        (lambda: interval([0, 1], rng=rng(), clusters=["a"]), "clusters of shape"),
        (lambda: interval([0, 1], rng=rng(), level=1.5), "level 1.5"),
        (lambda: clustered([0, 1], ["a", "a"]), "single cluster"),
        (lambda: design_effect([1, 1], ["a", "b"]), "without spread"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(CurveError, match=words):
        call()


def test_a_single_unit_gives_no_interval():
    assert interval([0.5], rng=rng()).low is None
    assert standard_error([0.5]) is None
    assert standard_error([0.5, 0.5]) is None


def test_pointwise_bands_are_the_intervals_of_each_rank():
    outcomes = (rng(1).random((3, 200)) < np.array([[0.3], [0.5], [0.7]])).astype(float)
    found = bands(Curve.from_outcomes([1, 2, 4], outcomes), rng=rng())
    for k in range(3):
        one = interval(outcomes[k], rng=rng())
        assert (found.low[k], found.high[k]) == pytest.approx((one.low, one.high))
    assert found.kind == "pointwise"
    assert found.method.startswith("pointwise, t with")


def test_simultaneous_bands_between_pointwise_and_bonferroni():
    outcomes = (rng(1).random((5, 300)) < 0.5).astype(float)
    layout = Layout(300)
    critical = max_t(outcomes, layout, rng(2), 0.95)
    # Five independent ranks: (2Φ(c) - 1)^5 = .95 gives c = 2.57.
    assert critical == pytest.approx(2.57, abs=0.06)
    same = max_t(np.repeat(outcomes[:1], 5, axis=0), layout, rng(2), 0.95)
    assert same == pytest.approx(stats.t.ppf(0.975, 299), abs=0.04)
    found = bands(Curve.from_outcomes([1, 2, 4, 8, 16], outcomes), rng=rng(), kind="simultaneous")
    assert found.kind == "simultaneous"
    assert "max-|t|" in found.method


def test_bands_where_a_rank_has_no_spread():
    outcomes = np.zeros((2, 100))
    outcomes[1, :50] = 1
    found = bands(Curve.from_outcomes([1, 2], outcomes), rng=rng(), kind="simultaneous")
    # Bonferroni's half of the error for the flat rank: 1 - .025^(1/100).
    assert found.high[0] == pytest.approx(1 - 0.025**0.01)
    assert found.low[0] == 0.0
    with pytest.raises(CurveError, match="bands 'both'"):
        bands(Curve.from_outcomes([1, 2], outcomes), rng=rng(), kind="both")
    with pytest.raises(CurveError, match="no per-document outcomes"):
        bands({1: 0.1, 2: 0.2}, rng=rng())
