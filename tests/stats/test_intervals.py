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

from aurac.analysis import bands
from aurac.analysis.bands import max_t
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats import interval
from aurac.stats.intervals import binomial_ends, effective_size
from aurac.stats.mean import Layout, moments


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_regimes_are_chosen_and_named():
    values = np.zeros(400)
    values[:100] = 1
    assert interval(values).method.startswith("t with 399 df")
    values[50:] = 0  # 57 effective events: 400·p/(1 - p)
    assert interval(values).method.startswith("Clopper-Pearson at the effective size")
    values[2:] = 0
    assert "only 2.0 effective events" in interval(values).method
    values[:] = 0
    assert "rule of three" in interval(values).method


@given(st.integers(5, 400), st.integers(1, 399))
def test_the_effective_interval_of_0_1_scores_is_clopper_and_pearsons(n, hits):
    hits = min(hits, n - 1)
    values = np.zeros(n)
    values[:hits] = 1
    exact = stats.binomtest(hits, n).proportion_ci(0.95, "exact")
    result = moments(values, Layout(n))
    size = effective_size(hits / n, result.se**2, float(result.df), Layout(n), 0.95)
    assert binomial_ends(hits / n, size, 0.95) == pytest.approx((exact.low, exact.high))
    assert (exact.low, exact.high) == pytest.approx(proportion_confint(hits, n, method="beta"))


def test_few_events_take_the_wider_end_on_each_side_by_hand():
    # 4 of 200 right: ā = .02, se² = .02·.98/199, t_{.975,199} = 1.97196.
    # logit(.02) = -3.89182; half = 1.97196·.0099243/.0196 = .99848: 1/(1 + e^2.89334) = .05248.
    # Clopper-Pearson of 4 in 200 has .00548 and .05041: its low end, the logit's high one.
    values = np.zeros(200)
    values[:4] = 1
    result = interval(values)
    assert result.low == pytest.approx(0.00548, abs=1e-5)
    assert result.high == pytest.approx(0.05248, abs=1e-5)
    mirrored = interval(1 - values)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((result.low, result.high))


def test_the_largest_variance_has_a_quarter_of_an_events_weight_by_hand():
    # One document of 100 scores 1/9: ā = 1/900 and V = ā², 1 event; V_max = ā(1-ā)/99, which is
    # 9.08081 V; weight w = |1 - 2ā|/4 = .249444. V* = (V + w·V_max)/(1 + w) = 2.61337 V;
    # n* = 1 + (1-ā)/ā/2.61337 = 345.000, .383333 hits.
    values = np.zeros(100)
    values[0] = 1 / 9
    result = interval(values)
    half = stats.t.ppf(0.975, 99) * math.sqrt(2.61337) / (1 - 1 / 900)
    logit = 1 / (1 + math.exp(math.log(899) - half))
    exact = stats.beta.ppf(0.975, 1.383333, 345.0 - 0.383333)
    assert result.high == pytest.approx(max(exact, logit), rel=1e-4)
    assert result.low == pytest.approx(stats.beta.ppf(0.025, 0.383333, 345.616667), rel=1e-3)


def test_cr2_by_hand_on_four_documents():
    # Documents 0, 1, 1, 1 in clusters {0, 1}, {1, 1}: mean 3/4; residuals -3/4, 1/4, 1/4, 1/4.
    # Sums by cluster -1/2 and 1/2, shares 1/2: (1/4 + 1/4)/(1 - 1/2)/16 = 1/16, so se = 1/4.
    result = interval([0, 1, 1, 1], clusters=["p", "p", "q", "q"])
    assert result.se == pytest.approx(0.25)
    assert result.df == pytest.approx(1)
    # Without clusters: s² = (9 + 3)/16/3 = 1/4, se = √(1/4/4) = 1/4. The design effect is 1.
    assert interval([0, 1, 1, 1]).se == pytest.approx(0.25)


def brute_force_cr2(values, labels):
    """Bell and McCaffrey's matrices as they stand, for the intercept of a regression."""
    n, one = values.size, np.ones(values.size)
    hat = np.full((n, n), 1 / n)
    variance, columns = 0.0, []
    for g in np.unique(labels):
        mine = labels == g
        roots, vectors = np.linalg.eigh(np.eye(mine.sum()) - hat[np.ix_(mine, mine)])
        adjust = vectors @ np.diag(roots**-0.5) @ vectors.T
        variance += (one[mine] @ adjust @ (values - values.mean())[mine] / n) ** 2
        columns.append((np.eye(n) - hat)[:, mine] @ adjust @ one[mine] / n)
    inner = np.stack(columns) @ np.stack(columns).T
    return math.sqrt(variance), np.trace(inner) ** 2 / np.sum(inner**2)


@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_cr2_and_its_degrees_of_freedom_are_bell_and_mccaffreys(seed, groups):
    draw = rng(seed)
    labels = np.concatenate([np.arange(groups), draw.integers(0, groups, 40) ** 2 % groups])
    values = draw.random(labels.size)
    result = moments(values, Layout.make(labels.size, labels))
    se, df = brute_force_cr2(values, labels)
    assert float(result.se) == pytest.approx(se)
    assert float(result.df) == pytest.approx(df)


def test_equal_clusters_have_cr1_and_one_df_less_than_clusters():
    labels = np.repeat(np.arange(30), 5)
    values = rng(2).random(150) * 0.5 + 0.5 * rng(3).random(30)[labels]
    model = sm.OLS(values, np.ones(150)).fit(
        cov_type="cluster", cov_kwds={"groups": labels, "use_correction": True}
    )
    # statsmodels' factor is G/(G-1)·(n-1)/(n-k), the second part 1 for a mean.
    result = interval(values, clusters=labels)
    assert result.se == pytest.approx(float(model.bse[0]))
    assert result.df == pytest.approx(29)


def test_singleton_clusters_are_no_clusters():
    values = rng(3).random(50)
    assert interval(values, clusters=range(50)).se == pytest.approx(stats.sem(values))


def test_strata_by_hand():
    # Strata {0, 1}, {1, 1, 1, 0}: s² = 1/2 and 1/4; (2/6)²·(1/2)/2 + (4/6)²·(1/4)/4 = 1/18 = V.
    # The two terms are equal, on 1 and 3 df: V²/(V²/4·(1 + 1/3)) = 3.
    result = interval([0, 1, 1, 1, 1, 0], strata=[*"xxyyyy"])
    assert result.se == pytest.approx(math.sqrt(1 / 18))
    assert result.df == pytest.approx(3)


def test_strata_are_welch_and_satterthwaites():
    # The mean of two strata of unequal size is a weighted mean of two independent means.
    draw = rng(5)
    labels = np.repeat([0, 1], [20, 60])
    values = np.clip(draw.random(80) * np.where(labels == 0, 0.8, 0.3), 0, 1)
    x, y = values[labels == 0] * 20 / 80, values[labels == 1] * 60 / 80
    welch = stats.ttest_ind(x, -y, equal_var=False)
    result = interval(values, strata=labels)
    assert result.value / result.se == pytest.approx(welch.statistic)
    assert result.df == pytest.approx(welch.df)


@given(st.integers(0, 2**32 - 1))
def test_strata_of_one_document_are_one_stratum(seed):
    draw = rng(seed)
    values = draw.random(40)
    labels = np.concatenate([np.arange(20), np.repeat([100, 101], 10)])
    result = interval(values, strata=labels)
    pooled = interval(values, strata=np.where(labels < 20, -1, labels))
    assert (result.se, result.df) == pytest.approx((pooled.se, pooled.df))
    assert "within 3 fixed strata, 20 of one document taken together" in result.method


def test_a_single_stratum_of_one_document_counts_from_the_mean_of_all():
    # Strata {1}, {0, 0, 1}: mean 1/2; (1 - 1/2)² + (3/2)·(1/9 + 1/9 + 4/9) = 1/4 + 1; /16.
    result = interval([1, 0, 0, 1], strata=[*"xyyy"])
    assert result.se == pytest.approx(math.sqrt(1.25 / 16))
    assert "1 of one document" in result.method
    # One document in all, or one cluster, says nothing.
    assert interval([0.5, 0.7], strata=["x", "x"], clusters=["a", "a"]).low is None


def test_strata_show_less_spread_than_their_differences_would():
    labels = np.repeat(np.arange(6), 20)
    values = np.clip(rng(5).random(120) * 0.4 + 0.1 * labels, 0, 1)
    assert interval(values, strata=labels).se < interval(values).se


def test_clusters_within_strata():
    values = rng(1).random(60)
    clusters, strata = np.repeat(np.arange(20), 3), np.repeat(np.arange(4), 15)
    result = interval(values, clusters=clusters, strata=strata)
    layout = Layout.make(60, clusters, strata)
    assert layout.df == pytest.approx(16)
    assert 4 <= result.df <= 16
    assert "20 clusters" in result.method
    assert "4 fixed strata" in result.method
    with pytest.raises(CurveError, match="more than one stratum"):
        interval(values, clusters=strata, strata=clusters)


def test_one_stratum_is_none():
    values = rng(1).random(30)
    assert interval(values, strata=["all"] * 30).se == pytest.approx(interval(values).se)


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.3))
def test_a_constant_shift_moves_the_interval(seed, shift):
    values = 0.2 + rng(seed).random(200) * 0.3
    one, other = interval(values), interval(values + shift)
    assert other.value - one.value == pytest.approx(shift, abs=1e-9)
    assert other.se == pytest.approx(one.se)
    assert other.low - one.low == pytest.approx(shift, abs=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_order_and_names_of_clusters_never_matter(seed):
    draw = rng(seed)
    values, labels = draw.random(60), draw.integers(0, 12, 60)
    order = draw.permutation(60)
    names = draw.permutation(12)
    one = interval(values, clusters=labels)
    other = interval(values[order], clusters=[f"c{names[g]}" for g in labels[order]])
    assert (one.value, one.se, one.low) == pytest.approx((other.value, other.se, other.low))


def test_duplicating_every_document_in_its_cluster_changes_nothing():
    values, labels = rng(2).random(80), np.arange(80)
    twice = interval(np.repeat(values, 2), clusters=np.repeat(labels, 2))
    assert twice.se == pytest.approx(interval(values, clusters=labels).se)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: interval([]), r"shape \(0,\)"),
        (lambda: interval([[0, 1]]), r"shape \(1, 2\)"),
        (lambda: interval(["a"]), "not numbers"),
        (lambda: interval([0, np.nan]), "nan"),
        (lambda: interval([0, 50.0]), "percent"),
        (lambda: interval([0, 1], clusters=["a"]), "clusters of shape"),
        (lambda: interval([0, 1], level=1.5), "level 1.5"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(CurveError, match=words):
        call()


def test_a_single_unit_gives_no_interval():
    assert interval([0.5]).low is None
    assert interval([0, 1], clusters=["a", "a"]).low is None
    assert interval([0.5, 0.5]).se is None


def test_pointwise_bands_are_the_intervals_of_each_rank():
    outcomes = (rng(1).random((3, 200)) < np.array([[0.3], [0.5], [0.7]])).astype(float)
    result = bands(Curve.from_outcomes([1, 2, 4], outcomes))
    for k in range(3):
        one = interval(outcomes[k])
        assert (result.low[k], result.high[k]) == pytest.approx((one.low, one.high))
    assert result.kind == "pointwise"
    assert "; t with 199 df" in result.method


def test_simultaneous_bands_between_pointwise_and_bonferroni():
    outcomes = (rng(1).random((5, 300)) < 0.5).astype(float)
    layout = Layout(300)
    critical = max_t(outcomes, layout, rng(2), 0.95)
    # Five independent ranks: (2Φ(c) - 1)^5 = .95 gives c = 2.57.
    assert critical == pytest.approx(2.57, abs=0.06)
    same = max_t(np.repeat(outcomes[:1], 5, axis=0), layout, rng(2), 0.95)
    assert same == pytest.approx(stats.t.ppf(0.975, 299), abs=0.04)
    result = bands(Curve.from_outcomes([1, 2, 4, 8, 16], outcomes), kind="simultaneous")
    assert result.kind == "simultaneous"
    assert "max-|t|" in result.method


def test_bands_where_a_rank_has_no_spread():
    outcomes = np.zeros((2, 100))
    outcomes[1, :50] = 1
    result = bands(Curve.from_outcomes([1, 2], outcomes), kind="simultaneous")
    # Bonferroni's half of the error for the flat rank: 1 - .025^(1/100).
    assert result.high[0] == pytest.approx(1 - 0.025**0.01)
    assert result.low[0] == 0.0
    with pytest.raises(CurveError, match="bands 'both'"):
        bands(Curve.from_outcomes([1, 2], outcomes), kind="both")
    with pytest.raises(CurveError, match="no per-document outcomes"):
        bands({1: 0.1, 2: 0.2})
