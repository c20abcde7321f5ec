"""Draws of the few-shot examples, crossed with the documents and the same for all adapters."""

from __future__ import annotations

import numpy as np
import pytest

import aurac
from aurac.analysis.comparisons import paired_curves
from aurac.analysis.groups import gather
from aurac.analysis.rows import Options
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats.mean import t_quantile


def curve(draws: np.ndarray, name: str = "a", **labels: object) -> Curve:
    """A curve at ranks 1, 2, 4 from (N, 3, n) scores."""
    docs = tuple(f"d{i}" for i in range(draws.shape[2]))
    return Curve.from_outcomes(
        (1, 2, 4), draws.mean(axis=0), draws=draws, adapter=name, task="t", doc_ids=docs, **labels
    )


def test_the_interval_is_banerjees_of_documents_and_draws():
    """By hand: reach² = t²_{n-1} max(s²/n - MS_rest/(N n), 0) + t²_{N-1} s²(draw means)/N."""
    rng = np.random.default_rng(3)
    n, draws = 120, 3
    hard, shift = rng.normal(0.5, 0.12, n), np.array([-0.06, 0.01, 0.05])
    y = np.clip(hard + shift[:, None, None] + rng.normal(0, 0.05, (draws, 3, n)), 0, 1)
    areas = np.einsum("k,dkn->dn", [0.25, 0.5, 0.25], y)
    means, mean = areas.mean(axis=1), areas.mean()
    rest = areas - areas.mean(axis=0) - means[:, None] + mean
    ms_rest = (rest**2).sum() / ((draws - 1) * (n - 1))
    documents = areas.mean(axis=0).var(ddof=1) / n - ms_rest / (draws * n)
    between = means.var(ddof=1) / draws
    reach = np.sqrt(
        t_quantile(0.975, n - 1) ** 2 * documents + t_quantile(0.975, draws - 1) ** 2 * between
    )
    (row,) = analyse([curve(y)]).scores
    assert row.log2.value == pytest.approx(mean)
    assert (row.log2.low, row.log2.high) == pytest.approx((mean - reach, mean + reach))
    assert row.log2.se == pytest.approx(np.sqrt(documents + between))
    assert "few-shot examples (3 draws)" in row.log2.method


def test_a_shift_that_all_adapters_share_is_no_part_of_their_difference():
    rng = np.random.default_rng(4)
    shared = np.array([-0.2, 0.0, 0.2])[:, None, None] + rng.uniform(0.3, 0.5, (1, 3, 200))
    a = shared + rng.normal(0, 0.02, (3, 3, 200))
    b = shared + 0.05 + rng.normal(0, 0.02, (3, 3, 200))
    pair = paired_curves(curve(a), curve(b, "b"))
    assert pair.estimate.low < 0.05 < pair.estimate.high
    assert pair.estimate.high - pair.estimate.low < 0.06
    (row, _) = analyse([curve(a), curve(b, "b")]).scores
    assert row.log2.high - row.log2.low > 0.5


def test_draws_follow_documents_and_ranks():
    draws = np.random.default_rng(1).random((2, 3, 5))
    one = curve(draws)
    assert np.array_equal(one.at((1, 4)).draws, draws[:, [0, 2]])
    places = np.array([4, 0, 3, 1, 2])
    assert np.array_equal(one.in_order(places).draws, draws[..., places])
    turned = Curve.from_outcomes((4, 2, 1), draws.mean(axis=0), draws=draws)
    assert np.array_equal(turned.draws, draws[:, ::-1])


def test_adapters_with_other_draws_are_not_paired():
    draws = np.random.default_rng(1).random((3, 3, 20))
    docs = tuple(f"d{i}" for i in range(20))
    plain = Curve.from_outcomes((1, 2, 4), draws[0], adapter="b", task="t", doc_ids=docs)
    with pytest.raises(CurveError, match="other draws of the few-shot examples"):
        paired_curves(curve(draws[:2]), curve(draws, "b"))
    for other in (curve(draws, "b"), plain):
        (row,) = analyse([curve(draws[:2]), other], Options(strict=False)).best
        assert row.leader is None
        assert "other draws" in row.reason
    (group,) = gather([plain])
    assert group.drawn_areas("log2") is None


@pytest.mark.parametrize("draws", [2, 3, 5])
def test_intervals_cover_another_draw_of_both(draws):
    """0/1 scores of 150 documents, draws of sd .05; three binomial errors below 95 %.

    Two draws show the spread so badly that only a much wider interval covers.
    """
    rng, runs, n = np.random.default_rng(7 + draws), 300, 150
    covered = paired = ignored = 0
    for _ in range(runs):
        p = np.clip(rng.beta(4, 4, n), 0, 1)
        both = rng.normal(0, 0.05, (draws, 1))
        own = rng.normal(0, 0.02, (draws, 1))
        y = [
            (rng.random((draws, n)) < np.clip(p + move, 0, 1)).astype(float)
            for move in (both, both + own)
        ]
        a, b = (
            curve(np.repeat(one[:, None], 3, axis=1), name)
            for one, name in zip(y, "ab", strict=True)
        )
        rows = analyse([a, b])
        mean, gap = rows.scores[0].log2, rows.pairs[0].estimate
        covered += mean.low <= 0.5 <= mean.high
        paired += gap.low <= 0.0 <= gap.high
        plain = Curve.from_outcomes(a.ranks, a.outcomes)
        fixed = analyse([plain]).scores[0].log2
        ignored += fixed.low <= 0.5 <= fixed.high
    assert covered / runs >= 0.912
    assert paired / runs >= 0.912
    assert ignored / runs < 0.912


def test_a_margin_test_takes_the_draws_into_account():
    """Its bounds are the paired interval at 1 - 2 alpha, as without draws."""
    rng = np.random.default_rng(8)
    hard, shift = rng.normal(0.5, 0.1, 100), np.array([-0.2, 0.0, 0.2])
    noise = rng.normal(0, 0.02, (2, 3, 3, 100))
    a = curve(np.clip(hard + noise[0], 0, 1), "a")
    b = curve(np.clip(hard + shift[:, None, None] + noise[1], 0, 1), "b")
    test = aurac.non_inferior(b, a, margin=0.05)
    paired = paired_curves(a, b, level=0.9).estimate
    bounds = test.estimate
    assert (bounds.low, bounds.high) == pytest.approx((paired.low, paired.high))
    assert not test.passed
