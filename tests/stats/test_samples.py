"""Samples within documents: variance components, pass@k, and intervals that cover."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from aurac.errors import CurveError
from aurac.records.cell import metric_column, pass_at_k
from aurac.stats import difference, interval
from aurac.stats.mean import spread_of_samples


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(n):
    for correct in range(n + 1):
        outcomes = [1] * correct + [0] * (n - correct)
        for k in range(1, n + 1):
            subsets = list(combinations(outcomes, k))
            share = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k(correct, n, k) == pytest.approx(share)


def test_pass_at_k_is_unbiased():
    """Over all 2^5 outcomes of five samples with p = .3 the mean is 1 - .7^k."""
    for k in (1, 2, 5):
        mean = 0.0
        for bits in range(32):
            correct = bits.bit_count()
            mean += 0.3**correct * 0.7 ** (5 - correct) * pass_at_k(correct, 5, k)
        assert mean == pytest.approx(1 - 0.7**k)


def test_pass_at_k_is_a_metric_of_outcomes_that_are_right_or_wrong():
    samples = {"acc,none": [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "f1,none": [[0.5, 1, 0], [1, 1, 1]]}
    metrics = {"acc,none": [1 / 3, 0.0]}
    assert metric_column(metrics, samples, "acc,none") == [1 / 3, 0.0]
    assert metric_column(metrics, samples, "pass@2:acc,none") == pytest.approx([2 / 3, 0.0])
    assert metric_column(metrics, samples, "pass@4:acc,none") is None
    assert metric_column(metrics, samples, "pass@2:f1,none") is None
    assert metric_column(metrics, {}, "pass@1:acc,none") is None


def test_components_by_hand():
    """Means .5, 1, 0: variance .25; within (.5, 0, 0) / 3 = 1/6; between .25 - 1/12 = 1/6."""
    spread = spread_of_samples(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    assert (spread.within, spread.between) == pytest.approx((1 / 6, 1 / 6))
    assert spread.share == pytest.approx((1 / 12) / 0.25)
    assert spread_of_samples(np.ones((3, 2))).share is None
    with pytest.raises(CurveError, match="samples of shape"):
        spread_of_samples(np.ones((3, 1)))


def test_intervals_over_documents_cover_both_sources():
    """2 and 8 samples of 200 documents, p_d of a beta with mean .3; three binomial errors of 95 %.

    The paired samples share random numbers, as the engine's do.
    """
    rng, n, runs = np.random.default_rng(5), 200, 400
    for samples in (2, 8):
        covered = paired = 0
        shares = []
        for _ in range(runs):
            p = rng.beta(0.6, 1.4, n)[:, None]
            draws = rng.random((n, samples))
            a, b = draws < p, draws < 0.8 * p
            mean = interval(a.mean(axis=1))
            gap = difference(a.mean(axis=1), b.mean(axis=1))
            covered += mean.low <= 0.3 <= mean.high
            paired += gap.estimate.low <= -0.06 <= gap.estimate.high
            shares.append(spread_of_samples(a.astype(float)).share)
        assert 0.918 <= covered / runs <= 0.98
        assert 0.918 <= paired / runs <= 0.98
        # Var p_d = .3 * .7 / 3 = .07, within E p (1 - p) = .14.
        assert np.mean(shares) == pytest.approx(
            (0.14 / samples) / (0.07 + 0.14 / samples), abs=0.02
        )
