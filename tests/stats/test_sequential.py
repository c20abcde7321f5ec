"""Sequential comparisons: boundaries against published values, decisions against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from aurac.errors import CurveError
from aurac.stats.boundaries import (
    Boundary,
    betting_ends,
    boundaries,
    median_drift,
    predictive,
    sequential_p,
    stopping,
)
from aurac.stats.design import GAMMA, Design, Series, document_order, width_reached
from aurac.stats.sequential import decide, smallest_rank

TWENTY = tuple((k + 1) / 20 for k in range(20))


@pytest.fixture
def rng():
    return np.random.default_rng(20)


def equal(looks):
    return tuple((k + 1) / looks for k in range(looks))


def gaps(rng, n, gain, loss=0.1):
    """Differences of which a share `gain` are +1 and `loss` are -1."""
    draw = rng.random(n)
    return (draw < gain).astype(float) - (draw > 1 - loss)


# rpact 3.0, tests/testthat/test-f_design_group_sequential.R (one-sided designs).
@pytest.mark.parametrize(
    ("fractions", "alpha", "gamma", "expected"),
    [
        ((0.2, 0.4, 1.0), 0.03, 0.0, (2.5121443, 2.4228747, 2.0280392)),
        ((0.2, 0.4, 1.0), 0.07, -1.0, (2.364813, 2.1928805, 1.5660474)),
    ],
)
def test_hwang_shih_decani_bounds_are_those_of_rpact(fractions, alpha, gamma, expected):
    assert boundaries(fractions, alpha, gamma) == pytest.approx(expected, abs=2e-6)


def test_twenty_looks_of_hwang_shih_decani():
    bounds = boundaries(TWENTY, 0.025, -2.0)
    assert bounds[:7] == pytest.approx((3.33, 3.28, 3.22, 3.13, 3.08, 3.00, 2.94), abs=0.02)
    assert bounds[-1] == pytest.approx(2.207, abs=5e-4)


# Jennison and Turnbull (2000), tables 2.1 (Pocock's C_P) and 2.3 (O'Brien and Fleming's C_B).
@pytest.mark.parametrize(
    ("looks", "pocock", "obrien"), [(2, 2.178, 1.977), (5, 2.413, 2.040), (10, 2.555, 2.087)]
)
def test_classical_designs_have_their_size(looks, pocock, obrien):
    t = equal(looks)
    for bounds in ([pocock] * looks, [obrien / np.sqrt(x) for x in t]):
        result = stopping(t, bounds, 0.0, 2)
        assert result.upper.sum() + result.lower.sum() == pytest.approx(0.05, abs=1e-4)


# Armitage, McPherson and Rowe (1969), table 2: repeated tests at .05.
@pytest.mark.parametrize(("looks", "size"), [(2, 0.083), (5, 0.142), (10, 0.193), (20, 0.248)])
def test_looking_often_at_one_level_errs_often(looks, size):
    result = stopping(equal(looks), [1.959964] * looks, 0.0, 2)
    assert result.upper.sum() + result.lower.sum() == pytest.approx(size, abs=6e-4)


def test_crossing_unequal_looks_agrees_with_the_joint_normal_distribution():
    t, bounds, drift = np.array([0.1, 0.13, 0.7]), np.array([2.0, 2.2, 1.9]), 1.5
    covariance = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    normal = multivariate_normal(drift * np.sqrt(t), covariance, abseps=1e-9, maxpts=2_000_000)
    below = normal.cdf(bounds, lower_limit=[-12.0] * 3)
    inside = normal.cdf(bounds, lower_limit=-bounds)
    assert stopping(t, bounds, drift, 1).upper.sum() == pytest.approx(1 - below, abs=1e-6)
    assert stopping(t, bounds, drift, 2).inner.sum() == pytest.approx(inside, abs=1e-6)


def test_power_and_documents_of_the_default_design():
    """Those of the issue's simulation at γ = -2; the default's are less than .03 from .9."""
    drifts = (0.0, 3.2415, 6.483)
    for gamma, expected in {
        -2.0: ((0.050, 0.703), (0.869, 0.611), (1.0, 0.259)),
        GAMMA: ((0.049, 0.714), (0.874, 0.624), (1.0, 0.268)),
    }.items():
        results = [Design(gamma=gamma).expected(drift) for drift in drifts]
        assert np.array(results) == pytest.approx(np.array(expected), abs=3e-3)


def test_predictive_probability_agrees_with_simulation(rng):
    theta = 0.8 / np.sqrt(0.4) + rng.standard_normal(200_000) / np.sqrt(0.4)
    last = 0.8 * np.sqrt(0.4) + 0.6 * theta + np.sqrt(0.6) * rng.standard_normal(200_000)
    for sides in (1, 2):
        beyond = (np.abs(last) if sides == 2 else last) >= 2.2
        assert predictive(0.4, 0.8, 2.2, sides) == pytest.approx(beyond.mean(), abs=0.005)


def test_boundaries_fall_as_the_error_rate_grows():
    rows = np.array([boundaries(TWENTY, a, -2.0) for a in (1e-6, 1e-3, 0.01, 0.05, 0.3)])
    assert (np.diff(rows, axis=0) < 0).all()


def test_sequential_p_is_the_level_at_which_a_look_just_crosses():
    z, factors = [1.0, 2.9, 2.0], [1.5, 1.2, 1.0]
    p = sequential_p(TWENTY, z, -2.0, factors)
    assert Boundary(TWENTY, p, -2.0).extend(factors)[1] == pytest.approx(2.9, abs=1e-6)
    more = [*factors, 1.0, 1.0]
    assert sequential_p(TWENTY, [*z, 0.0, -1.0], -2.0, more) == pytest.approx(p, abs=1e-9)
    assert sequential_p(TWENTY, [-x for x in z], -2.0, factors) == 1.0


def test_what_a_look_cannot_spend_is_left_to_the_later_ones(rng):
    """Of paths that stop only at the farther values, the looks stop 2.5 % all the same."""
    t, factors = equal(5), [2.0, 1.5, 1.2, 1.0, 1.0]
    bounds = Boundary(t, 0.025, -2.0).extend(factors)
    z = np.cumsum(rng.standard_normal((400_000, 5)) * np.sqrt(0.2), axis=1) / np.sqrt(t)
    crossed = (z >= np.multiply(bounds, factors)).any(axis=1).mean()
    assert crossed == pytest.approx(0.025, abs=0.0012)
    assert (np.array(bounds[1:]) < boundaries(t, 0.025, -2.0)[1:]).all()
    never = Boundary(t, 0.025, -2.0).extend([10.0, 10.0, 10.0, 10.0, 1.0])
    assert never[-1] == pytest.approx(1.959964, abs=1e-4)  # the test on all documents alone


def test_few_differing_documents_leave_more_to_the_last_look(rng):
    family = {
        share: Series(np.where(rng.random(400) < share, rng.choice([-1.0, 1.0], 400), 0.0), 400)
        for share in (0.03, 0.6)
    }
    decisions = {
        share: decide(Design(futility=0.0), {0: series})[0] for share, series in family.items()
    }
    few, many = (decision.path[-1].boundary for decision in decisions.values())
    assert few < 2.1
    assert 2.14 < many < 2.18
    path = decide(Design(margin=0.2), {0: family[0.03]})[0].path
    expected = boundaries(TWENTY, 0.05, GAMMA)[: len(path)]
    assert [look.boundary for look in path] == pytest.approx(expected)  # a margin passes none on


def test_the_estimate_after_stopping_is_median_unbiased(rng):
    t, drift = equal(5), 2.5
    bounds = np.array(boundaries(t, 0.025, -2.0))
    s = np.cumsum(rng.standard_normal((1500, 5)) * np.sqrt(0.2) + drift * 0.2, axis=1)
    z = s / np.sqrt(t)
    stops = np.where((np.abs(z) >= bounds).any(1), (np.abs(z) >= bounds).argmax(1), 4)
    last = z[np.arange(1500), stops]
    made = zip(stops, last, strict=True)
    estimates = [median_drift(t[: k + 1], bounds[:k], end, 2) for k, end in made]
    assert np.mean(np.array(estimates) > drift) == pytest.approx(0.5, abs=0.04)
    assert np.mean(last / np.sqrt(np.array(t)[stops]) > drift) > 0.53
    assert median_drift((0.2,), (), 2.0, 2) == pytest.approx(2.0 / np.sqrt(0.2))


def test_a_large_difference_is_decided_early_and_the_same_from_more_documents(rng):
    values = gaps(rng, 1000, 0.4)
    early = decide(Design(), {0: Series(values[:400], 1000)})[0]
    assert early.verdict == "superior"
    assert early.documents < 300
    assert early.low > 0.0
    assert early.low <= early.estimate <= early.high
    assert early.p_adjusted == early.p <= 0.05
    assert decide(Design(), {0: Series(values, 1000)})[0] == early
    assert decide(Design(), {0: Series(-values, 1000)})[0].verdict == "inferior"


def test_a_run_goes_on_where_it_was_until_it_is_decided(rng):
    values, seen, decision = gaps(rng, 1000, 0.2), 0, None
    for _ in range(20):
        decision = decide(Design(), {0: Series(values[:seen], 1000)})[0]
        if decision.decided:
            break
        assert decision.needs > seen
        seen = decision.needs
    assert decision == decide(Design(), {0: Series(values, 1000)})[0]
    assert seen == decision.documents


def test_no_difference_is_futile_or_not_significant(rng):
    decision = decide(Design(), {0: Series(gaps(rng, 1000, 0.1), 1000)})[0]
    assert decision.verdict == "futile"
    assert decision.predictive < 0.02
    patient = decide(Design(futility=0.0), {0: Series(gaps(rng, 1000, 0.1), 1000)})[0]
    assert (patient.verdict, patient.documents) == ("not significant", 1000)


def test_documents_that_all_agree_never_decide():
    decision = decide(Design(), {0: Series(np.zeros(200), 200)})[0]
    assert decision.verdict == "futile"
    assert decision.low < 0 < decision.high


def test_few_differing_documents_are_not_trusted():
    values = np.zeros(200)
    values[[1, 4, 7]] = 1.0
    decision = decide(Design(futility=0.0), {0: Series(values[:20], 200)})[0]
    assert decision.verdict == "continue"


@pytest.mark.parametrize("one_sided", [False, True])
def test_a_margin_is_decided_for_and_against(rng, one_sided):
    design = Design(margin=0.1, one_sided=one_sided)
    same = decide(design, {0: Series(gaps(rng, 1000, 0.1), 1000)})[0]
    worse = decide(design, {0: Series(gaps(rng, 1000, 0.05, 0.4), 1000)})[0]
    assert same.verdict == "non-inferior"
    assert same.low > -0.1
    assert worse.verdict == ("futile" if one_sided else "inferior")
    assert worse.documents < 300


def test_holm_over_pairs_decides_as_its_adjusted_p_values_say(rng):
    family = {
        name: Series(gaps(rng, 500, gain), 500)
        for name, gain in (("a", 0.3), ("b", 0.16), ("c", 0.1), ("d", 0.1))
    }
    decisions = decide(Design(), family)
    alone = {name: decide(Design(), {name: series})[name] for name, series in family.items()}
    for name, decision in decisions.items():
        shown = decision.verdict in {"superior", "inferior"}
        assert shown == (decision.p_adjusted <= 0.05)
        assert decision.documents >= alone[name].documents or not shown
    assert decisions["a"].verdict == "superior"
    assert decisions["a"].path[0].boundary > alone["a"].path[0].boundary


def test_futility_reckons_with_the_answers_of_stronger_questions():
    """With a third of the error rate the weaker one has no chance; with all of it, it has one."""

    def signs(up):
        return np.repeat([1.0, -1.0], [up, 180 - up])

    design = Design(looks=(0.9, 1.0))
    names = {"strong": signs(102), "weak": signs(95), "weaker": signs(88)}
    family = {name: Series(values, 200) for name, values in names.items()}
    looks = {name: one.path[0] for name, one in decide(design, family).items()}
    assert looks["strong"].boundary == pytest.approx(looks["weak"].boundary, abs=0.01)
    edges = [looks[name].futility for name in names]
    assert edges == sorted(edges, reverse=True)
    assert len(set(edges)) == 3


def test_open_questions_wait_for_each_other_and_decided_ones_for_none(rng):
    large, none = gaps(rng, 1000, 0.25), gaps(rng, 1000, 0.1)
    first = decide(Design(), {"x": Series(large, 1000), "y": Series(none[:100], 1000)})
    assert [len(d.path) for d in first.values()] == [2, 2]
    few = decide(Design(), {"x": Series(large, 1000), "y": Series(none, 1000)})["x"].documents
    rest = decide(Design(), {"x": Series(large[:few], 1000), "y": Series(none, 1000)})
    assert rest["x"].documents == few
    assert rest["y"].decided


def test_type_one_error_and_coverage_hold_on_discrete_outcomes(rng):
    wrong = covered = 0
    for _ in range(200):
        decision = decide(Design(futility=0.0), {0: Series(gaps(rng, 60, 0.1), 60)})[0]
        wrong += decision.verdict in {"superior", "inferior"}
        covered += decision.low <= 0.0 <= decision.high
    assert wrong <= 18  # 10 expected at .05; more than 18 have probability .01
    assert covered >= 182


def test_the_smallest_rank_asks_only_for_what_the_sequence_needs(rng):
    design = Design(margin=0.1, one_sided=True)
    fine, bad = gaps(rng, 1000, 0.05, 0.05), gaps(rng, 1000, 0.02, 0.4)
    start = smallest_rank(design, 16, (8, 4, 2), {})
    assert (start.rank, start.asks) == (16, 8)
    after = smallest_rank(design, 16, (8, 4, 2), {8: Series(fine, 1000)})
    assert (after.rank, after.asks) == (8, 4)
    losses = {8: Series(fine, 1000), 4: Series(bad, 1000), 2: Series(fine, 1000)}
    end = smallest_rank(design, 16, (8, 4, 2), losses)
    assert (end.rank, end.asks) == (8, None)
    assert set(end.decisions) == {8, 4}


def test_clusters_and_strata_count_at_every_look(rng):
    each = np.repeat(gaps(rng, 50, 0.3), 10)
    clusters = [str(i // 10) for i in range(500)]
    plain = decide(Design(), {0: Series(each, 500)})[0]
    clustered = decide(Design(), {0: Series(each, 500, clusters=clusters)})[0]
    assert abs(clustered.path[0].z) < abs(plain.path[0].z)
    strata = ["s", "t"] * 250
    assert decide(Design(), {0: Series(each, 500, strata=strata)})[0].path


def test_betting_intervals_hold_at_all_times_and_find_large_differences(rng):
    missed = 0
    for _ in range(150):
        low, high = betting_ends(gaps(rng, 300, 0.1), 0.05)(0.025)
        missed += not low <= 0.0 <= high
    assert missed <= 15
    decision = decide(Design(anytime=True), {0: Series(gaps(rng, 1000, 0.4), 1000)})[0]
    assert decision.verdict == "superior"
    assert decision.low > 0
    assert decision.documents < 500


def test_width_is_reached_where_the_interval_is_narrow_enough(rng):
    values = (rng.random(5000) < 0.5).astype(float)
    assert not width_reached(values[:20], 0.9)
    assert not width_reached(values[:1000], 0.04)
    assert width_reached(values, 0.04)
    with pytest.raises(CurveError, match="width 0"):
        width_reached(values, 0.0)


def test_the_order_is_seeded_keeps_clusters_and_samples_strata_in_proportion():
    order = document_order(300, 7)
    assert sorted(order) == list(range(300))
    assert (order == document_order(300, 7)).all()
    assert (order != document_order(300, 8)).any()
    clusters = [i // 5 for i in range(300)]
    labels = np.array(clusters)[document_order(300, 1, clusters=clusters)]
    assert np.count_nonzero(np.diff(labels)) == 59
    strata = np.array(["a"] * 200 + ["b"] * 100)
    ordered = strata[document_order(300, 1, strata=list(strata))]
    shares = np.cumsum(ordered == "a") - np.arange(1, 301) * 2 / 3
    assert np.abs(shares).max() <= 1.0 + 1e-9


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Design(margin=0.0), "margin 0"),
        (lambda: Design(margin=-0.1), "margin -0.1"),
        (lambda: Design(alpha=0.9), "alpha 0.9"),
        (lambda: Design(looks=(0.5, 0.2, 1.0)), "looks"),
        (lambda: Design(one_sided=True), "margin"),
        (lambda: Design(futility=0.7), "futility"),
        (lambda: Series(np.zeros(5), 5), "budget of 5"),
        (lambda: Series(np.full(30, 2.0), 30), "differences"),
        (
            lambda: decide(Design(anytime=True), {0: Series(np.zeros(9), 90, clusters=["a"] * 9)}),
            "clusters",
        ),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(CurveError, match=words):
        make()
