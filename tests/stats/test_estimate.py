"""The one rule: its formulas against independent ones, and what must hold for any numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aurac.stats.estimate import (
    FRACTION,
    SIGNED,
    components,
    estimate,
    further_examples,
    interval,
    minus,
    over_tasks,
)

DIFFERENCES = st.lists(st.sampled_from([-1.0, -0.25, 0.0, 0.0, 0.5, 1.0]), min_size=2, max_size=60)
rng = np.random.default_rng


def test_the_interval_is_students_with_one_example_more_at_each_end():
    x = rng(0).choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=100)
    found = estimate(components(x[None]))
    for value, end, sign in ((-1.0, found.low, -1), (1.0, found.high, 1)):
        y = np.append(x, value)
        se = y.std(ddof=1) / np.sqrt(y.size)
        assert end == pytest.approx(y.mean() + sign * stats.t.ppf(0.975, 100) * se)
    y = np.append(x, -1.0)
    assert found.p == pytest.approx(stats.ttest_1samp(y, 0.0).pvalue)
    assert found.value == pytest.approx(x.mean())


def test_a_family_counts_more_further_examples_and_multiplies_p():
    x = rng(0).choice([0.0, 1.0], p=[0.9, 0.1], size=(1, 200))
    one, ten = estimate(components(x)), estimate(components(x), tests=10)
    single = estimate(components(x), level=0.995, further=further_examples(10))
    assert (ten.low, ten.high) == pytest.approx((single.low, single.high))
    assert ten.p == pytest.approx(10 * single.p)
    assert ten.low < one.low < one.high < ten.high


@settings(deadline=None)
@given(DIFFERENCES, st.integers(1, 12), st.sampled_from([None, 2, 5]), st.integers(1, 3))
def test_p_and_the_interval_agree_and_turn_with_the_difference(values, tests, size, seeds):
    x = np.array([np.roll(values, shift) for shift in range(seeds)])
    clusters = None if size is None else np.arange(x.shape[1]) // size
    found = estimate(components(x, clusters), tests=tests)
    assert (found.p < 0.05) == (found.low > 0.0 or found.high < 0.0)
    assert -1.0 <= found.low <= found.value <= found.high <= 1.0
    turned = estimate(components(-x, clusters), tests=tests)
    assert (found.low, found.high, found.p) == pytest.approx((-turned.high, -turned.low, turned.p))


def test_unequal_clusters_have_cr2_and_bell_mccaffrey_degrees_of_freedom():
    codes = np.repeat(np.arange(6), [1, 2, 3, 5, 8, 13])
    x = rng(3).normal(0.2, 0.1, codes.size)
    further = 0.8 * 8.5  # of (1 + 4 + 9 + 25 + 64 + 169) / 32
    sizes = np.append(np.bincount(codes), further)
    sums = np.append(np.bincount(codes, x), -further)
    total = sizes.sum()
    mean, weights = sums.sum() / total, sizes / (1 - sizes / total) / total**2
    variance = np.sum((sums - mean * sizes) ** 2 * weights / sizes)
    # the variance as a quadratic form in the clusters' independent errors, √n_g z_g
    residuals = np.eye(7) - np.outer(np.sqrt(sizes), np.sqrt(sizes)) / total
    form = residuals @ np.diag(weights) @ residuals
    df = np.trace(form) ** 2 / np.trace(form @ form)
    low, _ = interval(components(x[None], codes), SIGNED, 0.05)
    assert float(low) == pytest.approx(mean - stats.t.ppf(0.975, df) * np.sqrt(variance))


def test_equal_means_of_two_seeds_are_no_sign_that_seeds_do_not_vary():
    x = np.zeros((2, 100))
    x[0, :10] = x[1, 10:20] = 1.0  # both .1
    assert estimate(components(x)).p > 0.01
    assert estimate(components(x.mean(axis=0, keepdims=True))).p < 1e-3


def test_arms_get_a_share_of_welchs_degrees_beyond_the_largest_of_their_own():
    draw = rng(3)
    a, b = draw.random((2, 400)) + np.array([[0.0], [0.1]]), draw.random((4, 400))
    variances = [x.mean(axis=1).var(ddof=1) / len(x) + 1 / (12 * 400**2 * len(x)) for x in (a, b)]
    welch = sum(variances) ** 2 / (variances[0] ** 2 / 1 + variances[1] ** 2 / 3)
    more = max(welch - 3, 0.0) / 3
    examples = np.append(a.mean(axis=0) - b.mean(axis=0), -1.0)
    inside = 0.0
    for x in (a, b):
        rest = x - x.mean(axis=0) - x.mean(axis=1, keepdims=True) + x.mean()
        inside += np.sum(rest**2) / (399 * (len(x) - 1)) / (len(x) * 400)
    terms = [(examples.var(ddof=1) / 401 - inside, 400), (variances[0], 1 + more),
             (variances[1], 3 + more)]  # fmt: skip
    reach = np.sqrt(sum(v * stats.t.ppf(0.975, df) ** 2 for v, df in terms))
    found = estimate(minus(components(a), components(b)))
    assert found.low == pytest.approx(examples.mean() - reach, abs=1e-5)


def test_tasks_are_averaged_within_each_checkpoint_and_matched_by_name():
    draw = rng(4)
    one, two = draw.random((3, 200)), draw.random((3, 100))
    names = ("x", "y", "z")
    first = components(one, names=names)
    same = estimate(over_tasks([first, components(two, names=names)]))
    moved = estimate(over_tasks([first, components(two[[2, 0, 1]], names=("z", "x", "y"))]))
    assert moved == pytest.approx(same)
    assert same.value == pytest.approx((one.mean() + two.mean()) / 2)
    assert over_tasks([first, components(two, names=("x", "y", "w"))]) is None
    assert over_tasks([first, components(two[:1])]) is None


def test_leading_axes_are_estimated_at_once():
    x = rng(7).random((4, 2, 30))
    low, high = interval(components(x), FRACTION, 0.05)
    for i in range(4):
        each = estimate(components(x[i]), FRACTION)
        assert (low[i], high[i]) == pytest.approx((each.low, each.high))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_without_spread_an_interval_is_as_wide_as_the_rule_of_three_says(value):
    found = estimate(components(np.full((1, 300), value)), FRACTION)
    width = found.high - found.low
    assert 3 / 300 * 0.9 < width < 3 / 300 * 1.1
    assert value in (found.low, found.high)
