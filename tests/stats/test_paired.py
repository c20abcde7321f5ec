"""Paired differences, Holm, seeds and aggregates: oracles, hand-worked examples, invariances."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats import (
    aggregate,
    components,
    detectable,
    difference,
    holm,
    over_seeds,
    paired_curves,
    task_weights,
)
from aurac.stats.intervals import few_events, mover
from aurac.stats.mean import Layout
from aurac.stats.sentences import pair_sentence, verdict

P = st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=12)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def two(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    draw = rng(seed)
    a = draw.random(n) * 0.5
    return a, np.clip(a + draw.normal(0.05, 0.2, n), 0, 1)


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


@given(st.integers(0, 2**32 - 1), st.integers(3, 80))
def test_relabelling_flips_the_sign(seed, n):
    draw = rng(seed)
    a, b = (draw.random((2, n)) < 0.5).astype(float)
    one, other = difference(a, b), difference(b, a)
    assert other.estimate.value == pytest.approx(-one.estimate.value)
    assert (other.estimate.low, other.estimate.high) == pytest.approx(
        (-one.estimate.high, -one.estimate.low)
    )
    assert other.p == pytest.approx(one.p)
    assert other.mde == pytest.approx(one.mde)


@given(st.integers(0, 2**32 - 1))
def test_a_part_common_to_both_changes_nothing(seed):
    a, b = two(seed)
    shift = rng(seed + 1).random(200) * 0.2
    one = difference(a * 0.5, b * 0.5)
    other = difference(a * 0.5 + shift, b * 0.5 + shift)
    assert other.estimate.value == pytest.approx(one.estimate.value, abs=1e-9)
    assert other.estimate.se == pytest.approx(one.estimate.se)


@given(st.integers(0, 2**32 - 1))
def test_order_of_documents_never_matters(seed):
    a, b = two(seed)
    order = rng(seed).permutation(a.size)
    one, other = difference(a, b), difference(a[order], b[order])
    assert one.p == pytest.approx(other.p)
    assert one.estimate.low == pytest.approx(other.estimate.low)


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


@pytest.mark.parametrize("seed", range(4))  # statsmodels takes .3 s a call: no property test
def test_holm_is_statsmodels(seed):
    draw = rng(seed)
    values = [None if draw.random() < 0.2 else float(p) for p in draw.random(12) ** 3]
    known = [p for p in values if p is not None]
    expected = iter(multipletests(known, method="holm")[1])
    for given_p, result in zip(values, holm(values), strict=True):
        assert (result is None) == (given_p is None)
        if result is not None:
            assert result == pytest.approx(next(expected))


@given(P)
def test_holm_is_monotone_and_never_smaller(values):
    result = holm(values)
    known = sorted((p, q) for p, q in zip(values, result, strict=True) if p is not None)
    assert all(p <= q <= 1 for p, q in known)
    assert [q for _, q in known] == sorted(q for _, q in known)


def test_holm_by_hand():
    # .01·3 = .03; .03·2 = .06; .04·1 = .04 is raised to .06.
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])


CURVE = {"task": "t", "doc_ids": ("a", "b", "c", "d")}
A = [[0, 0, 1, 1], [0, 1, 1, 1]]
B = [[1, 0, 1, 1], [1, 1, 1, 0]]


def test_curves_are_joined_on_their_documents():
    a = Curve.from_outcomes([1, 2], A, **CURVE)
    b = Curve.from_outcomes([1, 2], B, **CURVE)
    order = [3, 1, 0, 2]
    ids = tuple(CURVE["doc_ids"][i] for i in order)
    mixed = Curve.from_outcomes([1, 2], np.array(B)[:, order], task="t", doc_ids=ids)
    straight, joined = paired_curves(a, b), paired_curves(a, mixed)
    assert straight == joined
    # Rank 1: document a gained. Rank 2: a gained, d lost.
    assert straight.gained == (1, 1)
    assert straight.lost == (0, 1)
    # log2 areas differ by (1/2 + 1/2), 0, 0, -1/2: mean 1/8.
    assert straight.result.estimate.value == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "u"}, "differ in task"),
        ({"metric": "acc,none"}, "differ in metric"),
        ({"prompts": "ffff"}, "differ in prompts"),
        ({"doc_ids": ("a", "b", "c", "e")}, "2 are in only one of them"),
        ({"doc_ids": None}, "only one of"),
        ({"doc_hashes": ("1", "2", "3", "5")}, "'d' has other doc_hashes"),
        ({"ranks": (1, 4)}, "has ranks 1, 2 and .* has 1, 4"),
        ({"ranks": (1, 2, 4)}, "support='common'"),
        ({"outcomes": None}, "no per-document outcomes to pair"),
        ({"missing": {8: "crashed"}}, r"no accuracy at rank 8 \(crashed\)"),
    ],
)
def test_pairs_that_are_refused(change, words):
    given_a = {
        "ranks": (1, 2), "outcomes": A, "task": "t", "metric": "em,strict", "prompts": "0000",
        "doc_ids": ("a", "b", "c", "d"), "doc_hashes": ("1", "2", "3", "4"),
    }  # fmt: skip

    def made(fields: dict) -> Curve:
        fields = dict(fields)
        ranks, outcomes = fields.pop("ranks"), fields.pop("outcomes")
        if outcomes is None:
            fields = {k: v for k, v in fields.items() if not k.startswith("doc")}
            return Curve(ranks, (0.5, 0.75), **fields)
        return Curve.from_outcomes(ranks, (outcomes * 2)[: len(ranks)], **fields)

    with pytest.raises(CurveError, match=words):
        paired_curves(made(given_a), made({**given_a, **change}))


def test_common_support_is_the_shared_ranks():
    a = Curve.from_outcomes([1, 2, 4], [*A, A[0]])
    b = Curve.from_outcomes([1, 2, 8], [*B, B[0]])
    assert paired_curves(a, b, support="common").ranks == (1, 2)
    c = Curve.from_outcomes([2, 16], B)
    with pytest.raises(CurveError, match="1 ranks in common"):
        paired_curves(a, c, support="common")
    with pytest.raises(CurveError, match="support 'union'"):
        paired_curves(a, c, support="union")


def test_documents_are_missing():
    with pytest.raises(CurveError, match="3 documents against 4"):
        difference([0, 1, 1], [0, 1, 1, 0])
    with pytest.raises(CurveError, match="unequal documents"):
        over_seeds([[0, 1], [1]])


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
    arm = np.array([[0.2, 0.4], [0.6, 0.8]])
    parts = replace(components([arm], [1], Layout(2)), excess=None)
    assert parts.se**2 == pytest.approx(0.05)
    assert parts.reach(0.95)[0] == pytest.approx(12.7062 * math.sqrt(0.05), rel=1e-5)


def test_a_seed_says_nothing_of_the_seeds_of_the_other_arm():
    """One arm varies by .1, the other not at all: the reach is that of one arm's S - 1 df."""
    base = rng(2).random(2000) * 0.5
    a = np.tile(base, (3, 1))
    b = np.stack([base, base + 0.1, base + 0.2])
    result = difference(a, b)
    se = math.sqrt(0.1**2 / 3)
    assert result.estimate.high - result.estimate.value == pytest.approx(4.302653 * se, rel=1e-3)
    assert result.p == pytest.approx(2 * stats.t.sf(0.1 / se, 2), rel=1e-3)


def test_seed_components_are_the_two_way_anova():
    draw = rng(4)
    arm = draw.random((4, 30)) * 0.3 + draw.random((4, 1)) * 0.2 + draw.random(30) * 0.5
    import pandas as pd

    frame = pd.DataFrame(
        [(s, d, arm[s, d]) for s in range(4) for d in range(30)], columns=["s", "d", "y"]
    )
    model = smf.ols("y ~ C(s) + C(d)", frame).fit()
    result = components([arm], [1], Layout(30))
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
    assert "documents × seeds (3 and 2 seeds)" in both.estimate.method
    assert both.estimate.se >= mixed.estimate.se * 0.5


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_identical_seeds_leave_the_document_error(seed, count):
    a, _ = two(seed)
    assert over_seeds(np.stack([a] * count)).se == pytest.approx(over_seeds(a).se)


@settings(deadline=None)  # a busy machine is not a failure
@given(st.integers(0, 2**32 - 1))
def test_seed_order_never_matters(seed):
    arm = rng(seed).random((4, 25))
    assert over_seeds(arm).low == pytest.approx(over_seeds(arm[::-1]).low)


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
def test_one_arm_of_seeds_takes_banerjees_interval(seeds):
    """Each source of variance has the t quantile of its own degrees of freedom."""
    draw = rng(seeds)
    level = 0.4 + 0.08 * draw.standard_normal(seeds)
    arm = (draw.random((seeds, 300)) < level[:, None]).astype(float)
    rest = arm - arm.mean(axis=0) - arm.mean(axis=1, keepdims=True) + arm.mean()
    rest = np.square(rest).sum() / ((seeds - 1) * 299) / (seeds * 300)
    between = arm.mean(axis=1).var(ddof=1) / seeds
    documents = max(arm.mean(axis=0).var(ddof=1) / 300 - rest, 0)
    t = stats.t.ppf(0.975, [299, seeds - 1])
    result = over_seeds(arm)
    reach = math.sqrt(t**2 @ [documents, between])
    assert result.high == pytest.approx(min(1.0, result.value + reach))
    assert result.method.startswith("Banerjee's interval, independent documents")


def test_two_seeds_that_differ_say_little():
    """With one degree of freedom t reaches 12.7 standard errors; Satterthwaite hides that."""
    arm = np.zeros((2, 1000))
    arm[0, :300] = 1
    arm[1, 100:500] = 1
    result = over_seeds(arm)
    # between = (.05² + .05²)/2 = .0025: one degree of freedom carries nearly all of the variance.
    assert result.high - result.value == pytest.approx(12.7 * 0.05, rel=0.15) or result.high == 1.0
    assert result.low == 0.0


def test_seeds_are_shared_over_tasks():
    # Seed 2 is .1 better on both tasks: the aggregate's seed spread does not average out.
    base = rng(3).random((2, 200)) * 0.5
    arms = [np.stack([row, row + 0.1]) for row in base]
    parts = {str(i): components([arm], [1], Layout(200)) for i, arm in enumerate(arms)}
    total = aggregate(parts, dict.fromkeys(parts, 200))
    assert total.se**2 > 0.1**2 / 2 / 2  # s² = .1²/2, over S = 2
    one = components([arms[0]], [1], Layout(200))
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


def test_sentences_claim_no_more_than_the_data():
    a, b = two(6)
    result = difference(a, b)
    assert verdict(result, result.p, 0.05) == 1
    text = pair_sentence("lora", "dylora", "gsm8k", result, result.p)
    assert text.startswith("dylora is better than lora on gsm8k by 5.7 points (95 % interval")
    assert "; significant, Holm p " in text
    assert "conditional on these checkpoints" in text
    same = difference(a, a[::-1])
    text = pair_sentence("lora", "dylora", None, same, 1.0)
    assert "is not significant (Holm p = 1.000), conditional" in text
    assert re.search(r"the test detects \d\.\d points or more \(80 % power\)", text)
    assert verdict(same, 1.0, 0.05) == 0
    text = pair_sentence("lora", "dylora", None, result, 0.2)
    assert "although this pair's own interval leaves 0 out" in text


def test_two_seeds_give_no_verdict_rather_than_a_wrong_one():
    draw = rng(8)
    a, b = draw.random((2, 2, 300)) < 0.5
    result = difference(a.astype(float), b.astype(float))
    assert verdict(result, result.p, 0.05) is None
    assert "no verdict, since two seeds" in pair_sentence("a", "b", None, result, result.p)
