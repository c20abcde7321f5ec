"""Holm, and the leader after selection: oracles, and a small simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_draws import curves, items, rng
from statsmodels.stats.multitest import multipletests

from aurac.analysis.rows import Options
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats import detectable, difference, holm, interval
from aurac.stats.multiplicity import holm_levels


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


def test_holm_by_hand():
    # .01·3 = .03; .03·2 = .06; .04·1 = .04 is raised to .06.
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])


@pytest.mark.parametrize("p_values", [[5, 3], [0.1, float("nan")], [-0.1, None], ["a"]])
def test_what_is_no_p_value_is_refused(p_values):
    with pytest.raises(CurveError, match="p values"):
        holm(p_values)


def test_the_level_that_holm_tested_at_by_hand():
    # Sorted .004, .013, .03, .2: .004 <= .05/4, .013 <= .05/3 and .03 > .05/2, where it stops.
    levels = holm_levels([0.03, None, 0.004, 0.2, 0.013], 0.05)
    assert levels == [0.05 / 2, None, 0.05 / 4, 0.05 / 2, 0.05 / 3]
    assert holm_levels([0.01, 0.02], 0.05) == [0.05 / 2, 0.05]  # both rejected, the last at alpha
    assert holm_levels([0.3] * 6, 0.05) == [0.05 / 6] * 6
    p = 3.421872343443137e-08  # computed for a - b and b - a: equal but for rounding
    assert holm_levels([p, 0.5, p * (1 + 1e-15)], 0.05) == [0.05 / 3, 0.05, 0.05 / 3]
    assert holm_levels([p * (1 + 1e-15), 0.5, p], 0.05) == [0.05 / 3, 0.05, 0.05 / 3]
    assert holm_levels([], 0.05) == []


@given(st.lists(st.floats(0, 1) | st.none(), max_size=12))
def test_a_p_value_is_rejected_where_it_is_at_most_its_level(p_values):
    levels, adjusted = holm_levels(p_values, 0.05), holm(p_values)
    for p, level, after in zip(p_values, levels, adjusted, strict=True):
        if p is not None and abs(after - 0.05) > 1e-9:
            assert (p <= level) == (after <= 0.05)


def test_the_detectable_difference_is_that_of_the_level_it_was_tested_at():
    """Four equal adapters: six pairs, none significant, each tested at .05/6."""
    result = analyse(curves(rng(2), "abcd", n=300))
    assert len(result.pairs) == 6
    for row in result.pairs:
        assert row.p_holm > 0.05
        estimate = row.estimate
        assert row.to_dict()["mde"] == detectable(estimate.se, 299, 1 - 0.05 / 6)


def leader(areas):
    """What is said of the largest of adapters with these (m, n) areas of the documents."""
    rows = [
        Curve.from_outcomes((1, 2), [area, area], adapter=str(at), task="t")
        for at, area in enumerate(areas)
    ]
    [row] = analyse(rows, choices=False).best
    return row


def test_the_leaders_interval_is_bonferronis():
    areas = items(np.random.default_rng(0), 6, 200)
    result = leader(areas)
    assert result.leader == str(areas.mean(axis=1).argmax())
    alone = interval(areas[int(result.leader)], level=1 - 0.05 / 6)
    assert (result.estimate.low, result.estimate.high) == (alone.low, alone.high)
    assert result.compared == 6


def test_candidates_and_the_bound_are_those_of_the_comparisons_with_the_leader():
    areas = items(np.random.default_rng(2), 5, 300, shift=0.6)
    result = leader(areas)
    assert result.leader == "4"
    lows = {}
    for at in range(4):
        gap = difference(areas[at], areas[4], level=1 - 0.05 / 4)
        lows[at] = gap.estimate.low
    assert set(result.candidates) == {"4", *(str(at) for at, low in lows.items() if low <= 0)}
    assert result.within == max(0.0, *(-low for low in lows.values()))


def test_the_largest_of_equals_is_covered_and_stays_a_candidate():
    rng, holds, alone, kept = np.random.default_rng(4), 0, 0, 0
    for _ in range(200):
        areas = items(rng, 12, 150)
        result = leader(areas)
        plain = interval(areas[int(result.leader)])
        holds += result.estimate.low <= 0.5 <= result.estimate.high
        alone += plain.low <= 0.5 <= plain.high
        kept += "0" in result.candidates
    assert holds / 200 >= 0.92
    assert alone / 200 <= 0.91  # what selection does
    assert kept / 200 >= 0.92


def test_no_leader_is_named_at_unequal_ranks():
    a, b = curves(np.random.default_rng(10), "ab")
    result = analyse([a, b.at([1, 2])], Options(strict=False, support="common"))
    (row,) = result.best
    assert row.leader is None
    assert row.sentences == (
        "No adapter is named the best: the adapters were measured at different ranks.",
    )


def test_a_candidate_is_left_out_only_where_the_paired_comparison_agrees():
    rng = np.random.default_rng(11)
    for _ in range(20):
        result = analyse(curves(rng, "abcd", n=60))
        (row,) = result.best
        for pair in result.pairs:
            if row.leader in (pair.a, pair.b):
                other = pair.b if pair.a == row.leader else pair.a
                if other not in row.candidates:
                    assert pair.p_holm <= 0.05
