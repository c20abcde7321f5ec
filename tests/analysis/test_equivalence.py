"""Margin tests between adapters: by hand, and small simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from stats_draws import curves, items

import aurac
from aurac.analysis import margin_test
from aurac.analysis.equivalence import margin_tests
from aurac.analysis.rows import Options
from aurac.curves.curve import Curve
from aurac.errors import CurveError, UsageError
from aurac.stats import difference
from aurac.stats.mean import Layout
from aurac.stats.noninferiority import skewed_ends


def test_a_margin_is_the_interval_at_twice_alpha():
    rng = np.random.default_rng(5)
    a, b = items(rng, 2, 400)
    result = margin_test(a, b, margin=0.1)
    bound = difference(b, a, level=0.9).estimate
    assert result.estimate.low <= bound.low
    assert result.estimate.low == pytest.approx(bound.low, abs=0.002)
    assert result.passed
    assert not result.refuted
    close = margin_test(a, b, margin=1e-6, both_sides=True)
    assert not close.passed


def test_skewed_ends_move_outward_only():
    gap = np.r_[np.full(50, 0.1), np.full(5, -1.0), np.zeros(45)]
    low, high = skewed_ends(gap, Layout(100), 0.05)
    half = stats.t.ppf(0.95, 99) * stats.sem(gap)
    assert low < gap.mean() - half
    assert high == pytest.approx(gap.mean() + half)


@pytest.mark.parametrize("loss", [(0.04, 1.0), (0.085, 1.0)])
def test_at_the_margin_it_is_seldom_shown(loss):
    # Few or many gains of .11 against losses of 1: the t bound alone errs in 7 to 10 %.
    rng, wrong = np.random.default_rng(6), 0
    margin = loss[0] - 0.5 * 0.11
    margin, share = (margin, 0.5) if margin > 0 else (loss[0], 0.0)
    for _ in range(600):
        draw = rng.random(200)
        gap = np.where(draw < share, 0.11, 0.0)
        gap = np.where(draw > 1 - loss[0], -1.0, gap)
        wrong += margin_test(0.5 + gap / 2, 0.5 - gap / 2, margin=margin).passed
    assert wrong / 600 <= 0.055 + 3 * np.sqrt(0.055 * 0.945 / 600)


def test_adapters_are_tested_as_curves_and_lists_of_seeds():
    rng = np.random.default_rng(7)
    a, b, c, d = curves(rng, "abcd", task="t")
    row = aurac.non_inferior(a, b, margin=0.1)
    assert (row.verdict, row.a, row.b, row.task) == ("non-inferior", "a", "b", "t")
    assert aurac.equivalent(a, b, margin=0.1).verdict == "equivalent"
    assert "a is non-inferior to b on t: AURAC (log2) a − b is " in row.sentence
    seeds = aurac.non_inferior([a, b], [c, d], margin=0.1)
    assert not seeds.conditional
    assert "over documents and training seeds" in seeds.sentence
    shuffled = Curve.from_outcomes(
        [1, 2, 4], b.outcomes[:, ::-1], adapter="b", task="t", doc_ids=b.doc_ids[::-1]
    )
    again = aurac.non_inferior(a, shuffled, margin=0.1)
    assert again.estimate.low == pytest.approx(row.estimate.low)


def test_clusters_widen_a_margin_test():
    rng = np.random.default_rng(8)
    base = (rng.random(40) < 0.5).repeat(5).astype(float)
    flips = (rng.random(40) < 0.2).repeat(5)
    rows = [base, np.where(flips, 1 - base, base)]
    bounds = []
    for clusters in (None, tuple(np.arange(40).repeat(5))):
        a, b = (
            Curve.from_outcomes([1, 2], [row, row], adapter=name, clusters=clusters)
            for name, row in zip("ab", rows, strict=True)
        )
        bounds.append(aurac.non_inferior(b, a, margin=0.1).estimate)
    assert bounds[1].high - bounds[1].low > 1.5 * (bounds[0].high - bounds[0].low)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a, b: aurac.non_inferior(a, b, margin=0), UsageError, "margin=0"),
        (lambda a, b: aurac.non_inferior(a, b, margin=0.1, alpha=0.5), UsageError, "alpha=0.5"),
        (lambda a, b: aurac.non_inferior(a, b.at([1, 2]), 0.1), CurveError, "the same ranks"),
        (lambda a, b: aurac.non_inferior({1: 0.2, 2: 0.3}, b, 0.1), CurveError, "no per-document"),
        (lambda a, b: margin_tests([a, b], "a", "x", 0.1, Options()), CurveError, "no adapter 'x'"),
        (lambda a, b: margin_tests([a, b], "a", "a", 0.1, Options()), CurveError, "against itself"),
    ],
)
def test_margin_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call(*curves(np.random.default_rng(9), "ab", n=50))
