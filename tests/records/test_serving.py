"""Medians of rounds, their intervals, and differences paired by round."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import quantile_test

from aurac.records.serving import RankCost, Times, against


@pytest.mark.parametrize(
    ("n", "low", "high"),
    # Places of the ends among the sorted values, from tables of the sign test at 95 %.
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (15, 4, 12), (20, 6, 15), (25, 8, 18)],
)
def test_the_interval_is_that_of_the_sign_test(n, low, high):
    values = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    times = Times.of(values)
    assert (times.low, times.high) == (low, high)
    assert times.median == (n + 1) / 2
    assert times.rounds == values.tolist()
    ends = quantile_test(values, p=0.5).confidence_interval(0.95)
    assert (times.low, times.high) == tuple(ends)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_too_few_rounds_have_no_interval(n):
    times = Times.of([1.0] * n)
    assert (times.low, times.high) == (None, None)


def test_a_difference_is_paired_by_round():
    """Rounds that swing together hide no difference; rounds that swing apart show none."""
    slow = Times.of([1.0, 2, 3, 4, 5, 6, 7, 8])
    full = RankCost(rank=4, prefill=slow, decode=slow)

    def text(rounds):
        return against(RankCost(rank=2, prefill=slow, decode=Times.of(rounds)), full)

    assert text([one - 0.0123 for one in slow.rounds]) == "−12.3 [−12.3, −12.3] ms"
    assert text([one - 0.5 for one in reversed(slow.rounds)]) == "within noise"
    assert against(full, full) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.2345, "1234"), (0.1234, "123"), (0.01234, "12.3"), (0.001234, "1.23"), (-0.0004, "−0.40")],
)
def test_milliseconds_have_three_digits(seconds, text):
    assert Times.of([seconds]).milliseconds == text
