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


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_interval_is_students_with_one_example_more_at_each_end():
    x = rng().choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=100)
    found = estimate(components(x[None]))
    for value, end, sign in ((-1.0, found.low, -1), (1.0, found.high, 1)):
        y = np.append(x, value)
        se = y.std(ddof=1) / np.sqrt(y.size)
        assert end == pytest.approx(y.mean() + sign * stats.t.ppf(0.975, 100) * se)
    y = np.append(x, -1.0)
    assert found.p == pytest.approx(stats.ttest_1samp(y, 0.0).pvalue)
    assert found.value == pytest.approx(x.mean())


def test_a_family_counts_more_further_examples_and_multiplies_p():
    x = rng().choice([0.0, 1.0], p=[0.9, 0.1], size=(1, 200))
    one, ten = estimate(components(x)), estimate(components(x), tests=10)
    single = estimate(components(x), level=0.995, further=further_examples(10))
    assert (ten.low, ten.high) == pytest.approx((single.low, single.high))
    assert ten.p == pytest.approx(10 * single.p)
    assert ten.low < one.low < one.high < ten.high


@settings(deadline=None)
@given(DIFFERENCES, st.integers(1, 12), st.sampled_from([None, 2, 5]), st.integers(1, 3))
def test_p_is_below_005_exactly_where_the_interval_excludes_0(values, tests, size, seeds):
    x = np.array([np.roll(values, shift) for shift in range(seeds)])
    clusters = None if size is None else np.arange(x.shape[1]) // size
    found = estimate(components(x, clusters), tests=tests)
    assert (found.p < 0.05) == (found.low > 0.0 or found.high < 0.0)
    assert -1.0 <= found.low <= found.value <= found.high <= 1.0


@given(DIFFERENCES)
def test_turning_a_difference_round_turns_its_interval(values):
    x = np.array([values])
    one, other = estimate(components(x)), estimate(components(-x))
    assert (one.low, one.high, one.p) == pytest.approx((-other.high, -other.low, other.p))


def test_clusters_of_one_example_are_independent_examples():
    x = rng().random((1, 50))
    alone = estimate(components(x), FRACTION)
    assert estimate(components(x, np.arange(50)), FRACTION) == pytest.approx(alone)


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


def test_seeds_add_their_own_variance_with_their_own_degrees_of_freedom():
    draw = rng(1)
    n, seeds = 400, 3
    x = draw.random((seeds, n)) < (0.5 + np.array([[-0.1], [0.0], [0.1]]))
    x = x.astype(float)
    means, average = x.mean(axis=1), x.mean(axis=0)
    rest = x - average - means[:, None] + means.mean()
    inside = np.sum(rest**2) / ((n - 1) * (seeds - 1)) / (seeds * n)
    between = means.var(ddof=1) / seeds + 1 / (12 * n**2 * seeds)
    y = np.append(average, 0.0)
    documents = max(y.var(ddof=1) / y.size - inside, 0.0)
    t = stats.t.ppf(0.975, [n, seeds - 1])
    low = y.mean() - np.sqrt(t[0] ** 2 * documents + t[1] ** 2 * between)
    assert estimate(components(x), FRACTION).low == pytest.approx(max(low, 0.0), abs=1e-6)


def test_equal_means_of_two_seeds_are_no_sign_that_seeds_do_not_vary():
    x = np.zeros((2, 100))
    x[0, :10] = x[1, 10:20] = 1.0  # both .1
    assert estimate(components(x)).p > 0.01
    assert estimate(components(x.mean(axis=0, keepdims=True))).p < 1e-3


def test_two_arms_add_their_seeds_and_pairing_does_not():
    draw = rng(2)
    level = np.array([[0.3], [0.5], [0.7]])  # of each seed, the same in both recipes
    a = (draw.random((3, 500)) < level + 0.1).astype(float)
    b = (draw.random((3, 500)) < level).astype(float)
    paired = estimate(components(a - b))
    arms = estimate(minus(components(a), components(b)))
    assert paired.value == pytest.approx(arms.value)
    assert arms.high - arms.low > 2 * (paired.high - paired.low)


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


def test_other_checkpoints_on_another_task_are_independent_of_the_first():
    level = np.array([[0.4], [0.5], [0.6]])
    one, two = (rng(s).random((3, 400)) < level for s in (1, 2))
    one, two = one.astype(float), two.astype(float)
    same = over_tasks([components(x, names="abc") for x in (one, two)])
    other = over_tasks([components(one, names="abc"), components(two, names="def")])
    assert len(same.seeds) == 1
    assert [arm.variance for arm in other.seeds] == pytest.approx(
        [x.mean(axis=1).var(ddof=1) / 3 / 4 for x in (one, two)], rel=1e-3
    )
    assert np.diff(interval(other, FRACTION, 0.05), axis=0) < np.diff(
        interval(same, FRACTION, 0.05), axis=0
    )


def test_one_seed_has_the_variance_of_the_examples_alone():
    one, two = rng(5).random((1, 300)), rng(6).random((1, 300))
    both = over_tasks([components(one), components(two)])
    low, high = interval(both, FRACTION, 0.05)
    ends = [np.append(x, 0.0) for x in (one, two)]
    se = np.sqrt(sum(y.var(ddof=1) / y.size for y in ends)) / 2
    t = (np.mean([y.mean() for y in ends]) - float(low)) / se
    assert t == pytest.approx(1.964, abs=0.01)  # about 600 degrees of freedom
    assert float(high) > both.value


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
