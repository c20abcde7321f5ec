"""What curves may hide between evaluated ranks, against curves that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurac.curves.curve import Curve
from aurac.stats.gaps import Gap, following, gaps, noise_limit

POW2 = (1, 2, 4, 8, 16, 32)
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "rank_choice.py"


def exact(accuracies, ranks=POW2):
    """A curve without noise: every document scores the accuracy."""
    return Curve.from_outcomes(ranks, np.repeat(np.array(accuracies)[:, None], 4, axis=1))


def departures(curve):
    return {(gap.low, gap.high): gap.departure for gap in gaps(curve)}


@settings(deadline=None)
@given(st.sampled_from([2, 4, 8]), st.floats(0.05, 0.95), st.floats(0.02, 0.1))
def test_the_room_of_a_single_kink_is_what_it_hides(low, share, slope):
    """Slope s up to the kink at `share` of a gap of width 1: the chord misses s · t · (1 - t)."""
    x = np.log2(POW2)
    departure = departures(exact(0.6 + slope * np.minimum(x - np.log2(low) - share, 0)))
    assert departure.pop((low, 2 * low)) == pytest.approx(slope * share * (1 - share))
    departure.pop((16, 32))  # the last gap has one end, and takes the kink before it for its own
    assert max(departure.values()) == pytest.approx(0, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 0.5), min_size=63, max_size=63), st.sampled_from([1, -1]))
def test_no_curve_that_bends_one_way_departs_by_more(bends, sign):
    """Concave and convex curves over all ranks 1..64, also in the last gap, which has one end."""
    x = np.log2(np.arange(1, 65))
    slopes = np.sort(bends)[::-sign]
    y = np.concatenate([[0], np.cumsum(slopes * np.diff(x))])
    y /= max(1.0, y.max())
    ranks = np.array([*POW2, 64])
    drawn = np.interp(x, np.log2(ranks), y[ranks - 1])
    for gap in gaps(exact(y[ranks - 1], tuple(ranks))):
        inside = np.arange(gap.low, gap.high - 1)
        assert np.abs(drawn - y)[inside].max() <= gap.departure + 1e-9


def test_by_hand():
    """Accuracies .2 .4 .6 .6: at 4 the slope falls from .2 to 0. In 2–4 a = 0, so nothing; in 4–8,
    the last gap, the line from 2 goes on to .7 at its middle, where the curve has .6, and to
    .6 + .2 log2(7/4) at rank 7. A step from .2 to .6 between 4 and 8 has bends of .2 at both ends.
    Ranks 1 and 16 alone say nothing.
    """
    assert departures(exact([0.2, 0.4, 0.6, 0.6], (1, 2, 4, 8))) == pytest.approx(
        {(2, 4): 0.0, (4, 8): 0.2 * np.log2(7 / 4)}
    )
    assert gaps(exact([0.2, 0.4, 0.6, 0.6], (1, 2, 4, 8)))[-1].height == pytest.approx(0.1)
    assert departures(exact([0.2, 0.2, 0.2, 0.6, 0.6], (1, 2, 4, 8, 16)))[4, 8] == pytest.approx(
        0.2
    )
    assert departures(exact([0.2, 0.3], (1, 16))) == {(1, 16): 1.0}


def test_a_bend_within_its_noise_does_not_count():
    """The oracle extends the lines of every document with `np.interp`'s inverse, by hand."""
    rng = np.random.default_rng(0)
    ranks = (1, 2, 4, 8, 16)
    verdicts = []
    for _ in range(60):
        outcomes = (rng.random((5, 80)) < np.array([0.2, 0.35, 0.5, 0.55, 0.6])[:, None]) * 1.0
        (gap,) = [g for g in gaps(Curve.from_outcomes(ranks, outcomes), 3) if g.low == 4]
        middle = (outcomes[2] + outcomes[3]) / 2
        bends = np.array(
            [
                outcomes[2] + (outcomes[2] - outcomes[1]) / 2 - middle,
                outcomes[3] - (outcomes[4] - outcomes[3]) / 2 - middle,
            ]
        )
        ratio = np.abs(bends.mean(axis=1)) / (bends.std(axis=1, ddof=1) / np.sqrt(80))
        verdicts.append(bool(np.all(ratio > noise_limit(3))))
        assert gap.clear == verdicts[-1]
    assert 0 < sum(verdicts) < 60


def test_documents_of_one_passage_count_as_one():
    """Four copies of each document, labelled as one cluster, carry no more evidence than one."""
    rng = np.random.default_rng(2)
    few = (rng.random((5, 50)) < np.array([0.2, 0.3, 0.5, 0.5, 0.6])[:, None]) * 1.0
    ranks, passages = (1, 2, 4, 8, 16), tuple(map(str, np.repeat(range(50), 4)))
    one = gaps(Curve.from_outcomes(ranks, few))
    labelled = Curve.from_outcomes(ranks, np.repeat(few, 4, axis=1), clusters=passages)
    assert [gap.clear for gap in gaps(labelled)] == [gap.clear for gap in one]
    many = Curve.from_outcomes(ranks, np.repeat(few, 4, axis=1))
    assert [gap.clear for gap in gaps(many)] != [gap.clear for gap in one]


def test_one_standard_error_for_one_curve_and_more_for_several():
    """2.22: the normal quantile that leaves .16 / 12 on one side."""
    assert noise_limit(1) == pytest.approx(1.0, abs=0.01)
    assert noise_limit(12) == pytest.approx(2.216, abs=0.001)


def test_the_middles_of_the_gaps_follow():
    wide, noisy = Gap(4, 8, 0.03, 0.03, clear=True), Gap(8, 16, 0.03, 0.03, clear=False)
    assert following([wide, noisy, Gap(16, 32, 0.02, 0.04, clear=True)]) == (6,)
    assert following([wide, noisy], 0.03) == ()
    for low in range(1, 200):
        for high in range(low + 2, low + 40):
            assert low < Gap(low, high, 0.0, 0.0, clear=True).middle < high


@pytest.mark.skipif(not BENCHMARK.exists(), reason="the benchmarks come with the sources only")
@pytest.mark.parametrize(
    ("shape", "n", "curves", "most_added", "most_missed"),
    [
        ("line", 100, 1, 1.6, 0.0),
        ("line", 300, 6, 1.2, 0.0),
        ("saturating", 1000, 1, 2.0, 0.0),
        ("kink in 8–16, at 0.5", 1000, 1, 3.5, 0.25),
        ("kink in 8–16, at 0.25", 1000, 6, 4.0, 0.2),
    ],
)
def test_few_ranks_are_added_and_few_kinks_missed(shape, n, curves, most_added, most_missed):
    """A small version of benchmarks/rank_choice.py; of eleven ranks between the powers of two."""
    from benchmarks.rank_choice import simulate

    added, missed, _, _ = simulate(shape, 16, n, curves, 30, smooth=False)
    assert added <= most_added
    assert missed <= most_missed
    assert added >= 2 * ("kink" in shape) * (1 - missed) * 0.9
