"""Plans: the formula by hand, the promised power, pilots, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aurac.errors import CurveError
from aurac.stats import Spread, components, difference, plan, spread_of_flips, spread_of_pilot
from aurac.stats.mean import Layout
from aurac.stats.power import SimulatedStudy
from aurac.stats.spread import INTERACTION, Outcomes


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("aurac.stats.power.SEARCHED", 150)
    monkeypatch.setattr("aurac.stats.power.CHECKED", 400)


def test_plan_by_hand():
    # Flip rate .15 and Δ = .02: n = .15·((1.96 + .8416)/.02)² = 2943.
    (result,) = plan(0.02, spread_of_flips(0.15), seeds=[1])
    assert result.documents == pytest.approx(0.15 * (2.8016 / 0.02) ** 2, rel=0.15)
    assert result.power == pytest.approx(0.8, abs=0.05)
    assert result.power_se == pytest.approx(np.sqrt(result.power * (1 - result.power) / 400))
    # An interval of ± .02 on a 0/1 mean of .5: .25·(1.96/.02)² = 2401.
    (result,) = plan(0.02, Spread(0.25, groups=1), seeds=[1], question="interval")
    assert result.documents == pytest.approx(2401, rel=0.02)


def test_a_width_varies_with_the_sample():
    """Scores like a beta's: half of the samples of the formula's size are too wide."""
    (result,) = plan(0.03, Spread(0.16, groups=1), seeds=[1], question="interval")
    shape, rng = 0.5 * (0.25 / 0.16 - 1), np.random.default_rng(1)
    scores = rng.beta(shape, shape, (2000, result.documents))
    narrow = 1.96 * scores.std(axis=1, ddof=1) / np.sqrt(result.documents) <= 0.03
    assert result.power == pytest.approx(narrow.mean(), abs=0.15)
    assert 0.65 < narrow.mean() < 0.97


def test_the_formula_by_hand():
    def start(question, alpha=0.05):
        rng = np.random.default_rng(0)
        return SimulatedStudy(0.02, Spread(0.15), 1, question, alpha, rng).formula(0.8)

    assert start("difference") == pytest.approx(0.15 * (2.8016 / 0.02) ** 2, rel=0.005)
    # A certificate is one-sided: (1.645 + .8416).
    assert start("non-inferiority") == pytest.approx(0.15 * (2.4865 / 0.02) ** 2, rel=0.005)
    # Ten comparisons: alpha/10 two-sided has quantile 2.807.
    assert start("difference", 0.005) == pytest.approx(0.15 * (3.6486 / 0.02) ** 2, rel=0.005)


@pytest.mark.parametrize(
    ("question", "quantiles"), [("difference", 1.96 + 0.8416), ("non-inferiority", 1.645 + 0.8416)]
)
def test_small_differences_have_the_power_of_the_normal_approximation(question, quantiles):
    """The simulation draws a part of so many documents; their variances are those of all."""
    delta, flips = 0.002, 0.15
    documents = round(quantiles**2 * flips / delta**2)
    rng = np.random.default_rng(0)
    study = SimulatedStudy(delta, spread_of_flips(flips), 1, question, alpha=0.05, rng=rng)
    assert study.power(documents, 400) == pytest.approx(0.8, abs=0.06)  # three standard errors


@pytest.mark.parametrize("seeds", [1, 3])
def test_more_documents_than_there_can_be_are_no_plan(seeds):
    [row] = plan(0.0003, spread_of_flips(0.15), seeds=[seeds], rng=np.random.default_rng(0))
    assert row.documents is None
    assert row.reason == "more than 10,000,000 documents are needed"


def test_a_margin_takes_eleven_seeds():
    """With fewer no number of documents is enough."""
    rng = np.random.default_rng(0)
    [few] = plan(0.1, spread_of_flips(0.15), seeds=[5], question="non-inferiority", rng=rng)
    assert few.reason == "a margin takes 11 seeds at least, whatever the number of documents"
    [row] = plan(0.1, spread_of_flips(0.15), seeds=[11], question="non-inferiority", rng=rng)
    assert row.documents


def test_without_a_change_the_rule_of_three_says_when_a_rank_is_non_inferior():
    # (1 - .05)^n ≤ .05: 59 documents without a loss.
    (result,) = plan(
        0.05, Spread(0.0, groups=1, changed=0.0), seeds=[1], question="non-inferiority"
    )
    assert result.documents == pytest.approx(59, abs=3)


@pytest.mark.parametrize(("seeds", "share"), [(1, 0.0), (3, 0.0), (3, 0.75), (5, 0.0), (5, 0.75)])
def test_the_promised_power_is_there(seeds, share):
    """Binary changes drawn here, of which a share is drawn anew in each seed.

    A document keeps its change with probability k and draws another with 1 - k: two seeds share k²
    of the variance, so that 1 - k² is documents × seeds.
    """
    rng = np.random.default_rng(seeds)
    rate, delta = 0.2, 0.06
    (row,) = plan(delta, spread_of_flips(rate), seeds=[seeds], rng=rng)
    edges, hits = [(rate - delta) / 2, 1 - (rate + delta) / 2], 0
    for _ in range(300):
        once = rng.random(row.documents)
        anew = rng.random((seeds, row.documents))
        kept = rng.random(anew.shape) < np.sqrt(1 - share)
        gap = np.digitize(np.where(kept, once, anew), edges) - 1.0
        result = difference(0.5 - gap / 2, 0.5 + gap / 2, paired_seeds=seeds > 1)
        hits += result.p is not None and result.p <= 0.05 and result.estimate.value > 0
    assert hits / 300 >= 0.8 - 0.09
    if (seeds, share) in ((1, 0.0), (3, 0.75), (5, 0.0)):  # the worst case, which is planned for
        assert hits / 300 <= 0.8 + 0.09


def test_what_no_seed_has_shown_is_assumed_and_what_a_pilot_has_is_not():
    (assumed,) = plan(0.06, spread_of_flips(0.2), seeds=[3])
    flips = spread_of_flips(0.2)
    known = [plan(0.06, flips.shared(share), seeds=[3])[0] for share in (0.75, 0.0)]
    assert assumed.documents == known[0].documents > 1.1 * known[1].documents
    draw = np.random.default_rng(4)
    seen = components(draw.random((2, 3, 200)), [1, -1], Layout(200))
    assert spread_of_pilot(seen, 200).interaction == 0.0
    alone = components(draw.random((2, 1, 200)), [1, -1], Layout(200))
    assert spread_of_pilot(alone, 200).interaction == INTERACTION == flips.interaction


def test_a_pilot_paired_by_seed_has_the_variances_of_two_recipes():
    """Twice .1² of documents × seeds and twice .03² (1 - .75) of seeds that move alike."""
    draw, n, seeds = np.random.default_rng(3), 4000, 60
    alike = draw.normal(0, 0.03 * np.sqrt(0.75), (seeds, 1))
    groups = [
        0.5 + alike + draw.normal(0, 0.015, (seeds, 1)) + draw.normal(0, 0.1, (seeds, n))
        for _ in range(2)
    ]
    arms = spread_of_pilot(difference(*groups).parts, n)
    spread = spread_of_pilot(difference(*groups, paired_seeds=True).parts, n)
    assert spread.groups == arms.groups == 2
    assert spread.rest == pytest.approx(0.1**2, rel=0.1)
    assert spread.document == pytest.approx(arms.document, abs=0.002)
    assert spread.seed == pytest.approx(0.015**2, rel=0.5)
    assert arms.seed == pytest.approx(0.03**2, rel=0.5)
    assert spread.upper.seed > spread.seed
    assert "60 seeds, paired by seed" in spread.source
    (paired,) = plan(0.06, replace(spread, upper=None), seeds=[5])
    (apart,) = plan(0.06, replace(arms, upper=None), seeds=[5], paired_seeds=False)
    assert paired.documents is not None
    assert "spread between seeds stays" in apart.reason


def test_more_seeds_need_fewer_documents_and_noisier_ones_more():
    calm = Spread(0.1, seed=0.005**2, rest=0.05)
    three, five = plan(0.06, calm, seeds=[3, 5])
    assert five.documents < three.documents
    (noisy,) = plan(0.06, Spread(0.1, seed=0.012**2, rest=0.05), seeds=[5])
    assert noisy.documents > five.documents


def test_seeds_that_vary_too_much_have_no_plan():
    (row,) = plan(0.01, Spread(0.1, seed=0.05**2), seeds=[3])
    assert row.documents is None
    assert "spread between seeds stays" in row.reason


def test_the_same_generator_gives_the_same_plan():
    def planned(seed):
        return plan(0.08, spread_of_flips(0.2), seeds=[1], rng=np.random.default_rng(seed))

    assert planned(3) == planned(3)


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("changed", [None, 0.3])
def test_outcomes_have_the_assumed_spread(seeds, changed):
    # Var of the difference: (document + 2·rest/S)/n + 2·seed/S.
    spread = Spread(0.15, seed=0.01**2, rest=0.03, changed=changed)
    outcomes, rng, n = Outcomes(spread, 0.04, seeds), np.random.default_rng(1), 500
    pairs = [outcomes.pair(rng, n) for _ in range(1500)]
    gaps = np.array([second.mean() - first.mean() for first, second in pairs])
    assert gaps.mean() == pytest.approx(0.04, abs=0.003)
    expected = (0.15 + 2 * 0.03 / seeds) / n + 2 * 0.01**2 / seeds
    assert gaps.var() == pytest.approx(expected, rel=0.2)
    assert all(0 <= group.min() <= group.max() <= 1 for pair in pairs[:20] for group in pair)


def test_a_pilot_is_taken_apart():
    draw = np.random.default_rng(3)
    n, seeds = 4000, 40
    document = draw.normal(0, 0.2, n)
    groups = [
        0.5 + document * f + draw.normal(0, 0.03, (seeds, 1)) + draw.normal(0, 0.1, (seeds, n))
        for f in (1.0, 0.5)
    ]
    spread = spread_of_pilot(components(groups, [1, -1], Layout(n)), n)
    assert spread.document == pytest.approx(0.1**2, rel=0.15)  # (1 - .5)·.2
    assert spread.rest == pytest.approx(0.1**2, rel=0.1)
    assert spread.seed == pytest.approx(0.03**2, rel=0.5)
    assert spread.upper.seed > spread.seed
    one = difference(groups[0][0], groups[1][0]).parts
    single = spread_of_pilot(one, n)
    assert single.seed == single.rest == 0.0
    assert single.document == pytest.approx(0.1**2 + 2 * 0.1**2, rel=0.1)


def test_a_pilot_without_differences_bounds_them():
    same = np.tile([0.0, 1.0], 50)
    parts = components([same[None], same[None]], [1, -1], Layout(100))
    spread = spread_of_pilot(parts, 100, changes=np.zeros(100))
    # Clopper-Pearson after 0 of 100: 1 - .05^(1/100).
    assert spread.upper.changed == pytest.approx(1 - 0.05**0.01)
    with pytest.raises(CurveError, match=r"at most 0\.03 with 95 % confidence"):
        plan(0.05, spread, seeds=[1])
    (row,) = plan(0.02, spread, seeds=[1])
    assert 100 < row.documents <= row.most
    (rank,) = plan(0.04, spread, seeds=[1], question="non-inferiority")
    assert 70 <= rank.documents < rank.most


def test_a_pilots_range_holds_what_is_needed():
    # 12 of 100 documents change; what .12 needs lies between, for a pilot that saw 8 to 20 of them.
    needed = 0.12 * (2.8016 / 0.05) ** 2
    for seen in (8, 16):
        gap = np.zeros(100)
        gap[:seen] = np.tile([1.0, -1.0], 50)[:seen]
        groups = [(0.5 + side * gap / 2)[None] for side in (1, -1)]
        parts = components(groups, [1, -1], Layout(100))
        (row,) = plan(0.05, spread_of_pilot(parts, 100, changes=gap), seeds=[1])
        assert row.most > 1.2 * row.documents
        assert row.most > needed


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plan(2, Spread(0.1)), "margin 2"),
        (lambda: plan(0.1, Spread(0.1), power=0.2), "power 0.2"),
        (lambda: plan(0.1, Spread(0.1), comparisons=0), "0 comparisons"),
        (lambda: plan(0.1, Spread(0.1), question="why"), "question 'why'"),
        (lambda: plan(0.1, Spread(0.1), seeds=[0]), r"seeds \[0\]"),
        (lambda: plan(0.1, spread_of_flips(0.05)), "0.1 where 0.05 of the documents change"),
        (lambda: spread_of_flips(0), "flip rate 0"),
    ],
)
def test_plans_that_are_refused(call, words):
    with pytest.raises(CurveError, match=words):
        call()
