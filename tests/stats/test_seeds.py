"""Documents crossed with training seeds, and several tasks: oracles and hand-worked examples."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from stats_draws import rng, two

from aurac.analysis.comparisons import paired_curves, paired_test
from aurac.analysis.groups import group_of
from aurac.analysis.rows import Options
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats import aggregate, components, difference, over_seeds, task_weights
from aurac.stats.mean import Layout
from aurac.stats.seeds import SeedMeans, far_seeds


def test_seeds_by_hand_on_four_documents():
    # Seeds 0,0,1,1 and 0,1,1,1: means 1/2, 3/4; s² = 1/32, /S = 1/64.
    # Documents 0, 1/2, 1, 1: mean 5/8, s² = 11/48, /n = 11/192.
    # Rest y - row - column + mean: seed 1: 0-1/2-0+5/8 = 1/8, 0-1/2-1/2+5/8 = -3/8, 1/8, 1/8;
    # squares (1+9+1+1)/64 = 12/64, twice = 3/8; MS_e = 3/8/((2-1)(4-1)) = 1/8; /(S·n) = 1/64.
    # Documents without the rest: 11/192 - 1/64 = 8/192, on 3 df; seeds 1/64 on 1 df.
    parts = components([np.array([[0, 0, 1, 1], [0, 1, 1, 1.0]])], [1], Layout(4))
    parts = replace(parts, excess=None)  # what few events add has tests of its own
    assert parts.groups[0].between == pytest.approx(1 / 64)
    assert parts.document == pytest.approx(11 / 192)
    assert parts.groups[0].rest == pytest.approx(1 / 64)
    (documents, df), (between, seeds_df) = parts.terms()
    assert (documents, df) == (pytest.approx(8 / 192), 3)
    assert (between, seeds_df) == (pytest.approx(1 / 64), 1)
    # t quantiles at .975: 3.18245 on 3 df, 12.7062 on 1.
    reach = math.sqrt(3.18245**2 * 8 / 192 + 12.7062**2 / 64)
    assert parts.reach(0.95) == pytest.approx((reach, reach), rel=1e-5)
    assert parts.se**2 == pytest.approx(8 / 192 + 1 / 64)


def test_seeds_without_rest_by_hand():
    # The same document scores plus 0, .4 by seed: no rest. Means .3, .7: s² = .08, /2 = .04.
    # Documents' averages .4, .6: s² = .02, /2 = .01. V = .05, each on 1 df.
    group = np.array([[0.2, 0.4], [0.6, 0.8]])
    parts = replace(components([group], [1], Layout(2)), excess=None)
    assert parts.se**2 == pytest.approx(0.05)
    assert parts.reach(0.95)[0] == pytest.approx(12.7062 * math.sqrt(0.05), rel=1e-5)


def test_a_seed_says_nothing_of_the_seeds_of_the_other_group():
    """One group varies by .1, the other not at all: the reach is that of one group's S - 1 df."""
    base = rng(2).random(2000) * 0.5
    a = np.tile(base, (3, 1))
    b = np.stack([base, base + 0.1, base + 0.2])
    result = difference(a, b)
    se = math.sqrt(0.1**2 / 3)
    assert result.estimate.high - result.estimate.value == pytest.approx(4.302653 * se, rel=1e-3)
    assert result.p == pytest.approx(2 * stats.t.sf(0.1 / se, 2), rel=1e-3)


def seeds_of(name: str | None, scores: np.ndarray, **labels: object) -> list[Curve]:
    """One curve at ranks 1 and 2 for each row of (S, n) scores, seed 0 first."""
    pairs = [{"seed": seed, "adapter": name} | labels for seed in range(len(scores))]
    return [Curve.from_outcomes((1, 2), [y, y], **p) for y, p in zip(scores, pairs, strict=True)]


def test_two_truncations_are_compared_within_each_checkpoint():
    """A seed moves them in opposite directions, so that their difference varies twice as much."""
    n, shift = 400, np.array([-0.04, 0.01, 0.03])[:, None]
    base = 0.3 + 0.3 * rng(5).random(n)
    a = base + shift + rng(6).normal(0, 0.03, (3, n))
    b = base - shift + rng(7).normal(0, 0.03, (3, n))
    both = seeds_of("m", a, basis="prefix"), seeds_of("m", b, basis="svd")
    pair, test = paired_curves(*both), paired_test(*map(group_of, both), Options())
    gaps = b - a
    means, average = gaps.mean(axis=1), gaps.mean(axis=0)
    rest = gaps - average - means[:, None] + gaps.mean()
    rest_variance = np.square(rest).sum() / (2 * (n - 1)) / (3 * n)
    documents = max(average.var(ddof=1) / n - rest_variance, 0.0)
    t = stats.t.ppf(0.975, [n - 1, 2])
    reach = math.sqrt(t[0] ** 2 * documents + t[1] ** 2 * means.var(ddof=1) / 3)
    parts = replace(test.result.parts, excess=None)
    assert parts.reach(0.95) == pytest.approx((reach, reach))
    # Documents hardly count here, so this is nearly the t test of the seeds' three differences.
    assert parts.p_value() == pytest.approx(stats.ttest_1samp(means, 0.0).pvalue, rel=0.01)
    assert pair.estimate.method.endswith(
        "gains and losses, the wider on each side, "
        "independent documents, documents × seeds (3 seeds, paired by seed)"
    )


def test_seeds_of_two_adapters_are_two_groups():
    scores = 0.3 + 0.3 * rng(5).random((2, 50))
    for a, b in (("m", "lora"), (None, None)):
        groups = group_of(seeds_of(a, scores)), group_of(seeds_of(b, scores))
        parts = paired_test(*groups, Options()).result.parts
        assert [group.seeds for group in parts.groups] == [2, 2]


def test_seed_components_are_the_two_way_anova():
    draw = rng(4)
    group = draw.random((4, 30)) * 0.3 + draw.random((4, 1)) * 0.2 + draw.random(30) * 0.5
    import pandas as pd

    frame = pd.DataFrame(
        [(s, d, group[s, d]) for s in range(4) for d in range(30)], columns=["s", "d", "y"]
    )
    model = smf.ols("y ~ C(s) + C(d)", frame).fit()
    result = components([group], [1], Layout(30))
    assert result.groups[0].rest == pytest.approx(model.mse_resid / (4 * 30))


def test_one_seed_is_conditional_and_many_are_not():
    a, b = two(5)
    many = np.clip(np.stack([b, b + 0.02, b - 0.03]), 0, 1)
    assert difference(a, b).conditional
    mixed = difference(a, many)
    assert mixed.conditional
    assert "conditional on the single checkpoint" in mixed.estimate.method
    both = difference(np.stack([a, a * 0.9]), many)
    assert not both.conditional
    assert "documents × seeds (3 and 2 seeds, independent seeds)" in both.estimate.method
    assert both.estimate.se >= mixed.estimate.se * 0.5


@settings(deadline=None)  # the first call loads scipy
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_identical_seeds_leave_the_document_error(seed, count):
    a, _ = two(seed)
    assert over_seeds(np.stack([a] * count)).se == pytest.approx(over_seeds(a).se)


def test_aggregate_of_two_tasks_by_hand():
    # Independent documents: se of the mean of two = √(se1² + se2²)/2; weighed by documents 1:3
    # = √(se1² + 9·se2²)/4.
    x, y = rng(1).random(100), rng(2).random(300)
    parts = {
        "x": components([x[None]], [1], Layout(100)),
        "y": components([y[None]], [1], Layout(300)),
    }
    sizes = {"x": 100, "y": 300}
    se1, se2 = stats.sem(x), stats.sem(y)
    same = aggregate(parts, sizes)
    assert same.value == pytest.approx((x.mean() + y.mean()) / 2)
    assert same.se == pytest.approx(math.hypot(se1, se2) / 2)
    # Welch's df.
    welch = (se1**2 + se2**2) ** 2 / (se1**4 / 99 + se2**4 / 299)
    assert same.df == pytest.approx(welch)
    assert "2 tasks weighing the same" in same.method
    sized = aggregate(parts, sizes, by="documents")
    assert sized.value == pytest.approx(np.concatenate([x, y]).mean())
    assert sized.se == pytest.approx(math.hypot(se1, 3 * se2) / 4)


def test_a_missing_task_gives_no_aggregate():
    part = components([rng(1).random((1, 50))], [1], Layout(50))
    with pytest.raises(CurveError, match="no result on gsm8k"):
        aggregate({"arc": part, "gsm8k": None}, {"arc": 50, "gsm8k": 0})
    with pytest.raises(CurveError, match="weighed by 'size'"):
        task_weights({"a": 1}, "size")
    with pytest.raises(CurveError, match="no tasks"):
        task_weights({})


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_one_group_of_seeds_takes_banerjees_interval(seeds):
    """Each source of variance has the t quantile of its own degrees of freedom."""
    draw = rng(seeds)
    level = 0.4 + 0.08 * draw.standard_normal(seeds)
    group = (draw.random((seeds, 300)) < level[:, None]).astype(float)
    rest = group - group.mean(axis=0) - group.mean(axis=1, keepdims=True) + group.mean()
    rest = np.square(rest).sum() / ((seeds - 1) * 299) / (seeds * 300)
    between = group.mean(axis=1).var(ddof=1) / seeds
    documents = max(group.mean(axis=0).var(ddof=1) / 300 - rest, 0)
    t = stats.t.ppf(0.975, [299, seeds - 1])
    result = over_seeds(group)
    reach = math.sqrt(t**2 @ [documents, between])
    assert result.high == pytest.approx(min(1.0, result.value + reach))
    assert result.method.startswith("Banerjee's interval, independent documents")


def test_two_seeds_that_differ_say_little():
    """With one degree of freedom t reaches 12.7 standard errors; Satterthwaite hides that."""
    group = np.zeros((2, 1000))
    group[0, :300] = 1
    group[1, 100:500] = 1
    result = over_seeds(group)
    # between = (.05² + .05²)/2 = .0025: one degree of freedom carries nearly all of the variance.
    assert result.high - result.value == pytest.approx(12.7 * 0.05, rel=0.15) or result.high == 1.0
    assert result.low == 0.0


def test_seeds_are_shared_over_tasks():
    # Seed 2 is .1 better on both tasks: the aggregate's seed spread does not average out.
    base = rng(3).random((2, 200)) * 0.5
    groups = [np.stack([row, row + 0.1]) for row in base]
    parts = {str(i): components([group], [1], Layout(200)) for i, group in enumerate(groups)}
    total = aggregate(parts, dict.fromkeys(parts, 200))
    assert total.se**2 > 0.1**2 / 2 / 2  # s² = .1²/2, over S = 2
    one = components([groups[0]], [1], Layout(200))
    two_seeds = {"0": one, "1": components([base[:1]], [1], Layout(200))}
    with pytest.raises(CurveError, match="other seeds on 1"):
        aggregate(two_seeds, {"0": 200, "1": 200})


def test_seeds_of_tasks_are_matched_by_name():
    # Seed x is .1 better than y on both tasks; task 1 lists y first.
    base = rng(3).random((2, 200)) * 0.5
    first = components([np.stack([base[0] + 0.1, base[0]])], [1], Layout(200), names=["xy"])
    swapped = components([np.stack([base[1], base[1] + 0.1])], [1], Layout(200), names=["yx"])
    same = components([np.stack([base[1] + 0.1, base[1]])], [1], Layout(200), names=["xy"])
    sizes = {"0": 200, "1": 200}
    expected = aggregate({"0": first, "1": same}, sizes)
    result = aggregate({"0": first, "1": swapped}, sizes)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    other = components([np.stack([base[1], base[1] + 0.1])], [1], Layout(200), names=["xz"])
    with pytest.raises(CurveError, match=r"other seeds on 1 \(x, z\) than on 0 \(x, y\)"):
        aggregate({"0": first, "1": other}, sizes)
    twice = components([np.stack([base[1], base[1] + 0.1])], [1], Layout(200), names=["xx"])
    with pytest.raises(CurveError, match="other seeds"):
        aggregate({"0": first, "1": twice}, sizes)


def far(*means: float, rest: float = 0.0) -> list[int]:
    return far_seeds(SeedMeans(np.array(means), rest, tuple(range(len(means)))))


def test_a_seed_far_from_the_others_by_hand():
    # The others .5, .51, .52, .53: mean .515, sd .01291, times √1.25 = .01443. Student's t on 3 df
    # at 1 - .05/10 is 5.841, so that a fifth seed is far beyond .515 - .0843 = .4307.
    others = [0.5, 0.51, 0.52, 0.53]
    assert far(0.43, *others) == [0]
    assert far(*others, 0.4315) == []
    assert far(0.1, 0.9) == []  # of two, neither
    assert far(0.3, 0.3, 0.3) == []
    # t on 1 df at 1 - .05/6 is 38.19: .01 is beyond 38.19 · √1.5 · √(3 · rest) up to rest 1.5e-8.
    assert far(0.3, 0.3, 0.31, rest=1.4e-8) == [2]
    assert far(0.3, 0.3, 0.31, rest=1.6e-8) == []


@pytest.mark.parametrize("count", [3, 5, 11])
def test_a_normal_seed_is_flagged_in_one_group_of_twenty(count):
    draw, groups = rng(8), 4000
    flagged = sum(bool(far(*draw.normal(0.5, 0.01, count))) for _ in range(groups))
    assert flagged / groups == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / groups))


def test_a_far_seed_is_noted_beside_its_score():
    scores = np.full((5, 60), 0.5) + np.array([0, 0.01, -0.01, 0.005, -0.3])[:, None]
    (row,) = analyse(seeds_of("m", scores)).scores
    (note,) = row.notes
    assert note == (
        "seed 4 lies far from the others (20.0 %, they 49.0 to 51.0 %): intervals and tests over "
        "seeds assume that seeds vary about normally"
    )
