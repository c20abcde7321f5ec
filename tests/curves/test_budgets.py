"""AURAC over a budget: parameters or bytes of the truncated adapter in the place of its rank."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import aurac
from aurac.curves.area import curve_weights, document_areas, shared_span
from aurac.curves.coerce import as_curve
from aurac.curves.curve import Curve
from aurac.errors import CurveError

# Attention only, and all linear layers: the same two accuracies at ranks of other sizes.
SMALL = Curve((1, 4), (0.2, 0.6), adapter="attention", parameters={1: 100, 4: 400})
LARGE = Curve((1, 4), (0.1, 0.5), adapter="linear", parameters={1: 200, 4: 800})


def test_the_area_over_what_both_cover_by_hand():
    """100 to 400 is two doublings: at 200 the first is at .4. The second is at .3 at 400."""
    span = shared_span([SMALL, LARGE], "parameters")
    assert span == (200, 400)
    np.testing.assert_allclose(curve_weights(SMALL, "parameters", span), [0.25, 0.75])
    np.testing.assert_allclose(curve_weights(LARGE, "parameters", span), [0.75, 0.25])
    assert curve_weights(SMALL, "parameters", span) @ SMALL.accuracy == pytest.approx(0.5)
    assert curve_weights(LARGE, "parameters", span) @ LARGE.accuracy == pytest.approx(0.2)


def test_where_parameters_grow_with_rank_the_area_is_that_over_log2_rank():
    ranks = (1, 2, 8, 16)
    curve = Curve(ranks, (0.1, 0.5, 0.4, 0.9), parameters={r: 305_280 * r for r in ranks})
    weights = curve_weights(curve, "parameters")
    np.testing.assert_allclose(weights, aurac.quadrature_weights(ranks), atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_weights_give_the_area_of_the_interpolated_curve(seed):
    """Against the integral of the straight lines in log2 on a fine grid through all points."""
    draw = np.random.default_rng(seed)
    ranks = range(1, int(draw.integers(3, 9)))
    amounts = draw.choice(np.arange(10, 10_000), len(ranks), replace=False)  # a family's: any order
    outcomes = draw.random((len(ranks), 7))
    curve = Curve.from_outcomes(ranks, outcomes, sizes=dict(zip(ranks, amounts, strict=True)))
    low, high = sorted(draw.uniform(amounts.min(), amounts.max(), 2))
    order = np.argsort(amounts)
    x = np.log2(amounts[order])
    ends = np.log2([low, high])
    grid = np.union1d(np.linspace(*ends, 1001), x[(x > ends[0]) & (x < ends[1])])
    lines = np.stack([np.interp(grid, x, column[order]) for column in outcomes.T])
    dense = ((lines[:, 1:] + lines[:, :-1]) / 2 * np.diff(grid)).sum(axis=1) / np.ptp(ends)
    np.testing.assert_allclose(document_areas(curve, "bytes", (low, high)), dense, atol=1e-12)
    weights = curve_weights(curve, "bytes", (low, high))
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)


def test_the_score_has_its_own_name():
    score = aurac.score(LARGE, axis="parameters")
    assert float(score) == pytest.approx(0.3)
    assert repr(score) == "Score(0.3000 AURAC over parameters, 200 to 800, ranks 1, 4)"
    assert score.to_dict()["aurac_parameters"]["value"] == pytest.approx(0.3)
    assert (score.to_dict()["aurac_parameters"]["from"], score.weights["parameters"]) == (
        200,
        (0.5, 0.5),
    )
    assert "aurac_parameters" not in aurac.score(LARGE).to_dict()
    assert "AURAC over parameters 30.00 %" in score._repr_html_()


def test_scores_over_different_things_are_not_compared():
    over = {axis: aurac.score(SMALL, axis=axis) for axis in ("log2", "parameters")}
    with pytest.raises(CurveError, match=r"AURAC on the log2 axis, ranks 1, 4 against AURAC over"):
        max(over.values())
    with pytest.raises(CurveError, match="200 to 800"):  # another range is another area
        sorted([aurac.score(LARGE, axis="parameters"), over["parameters"]])
    assert max(aurac.score(LARGE), aurac.score(SMALL)).value == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aurac.score({1: 0.1, 2: 0.3}, axis="parameters"), "nothing of its parameters"),
        (lambda: aurac.score(SMALL, axis="bytes"), "attention says nothing of its bytes at rank 1"),
        (lambda: aurac.score(SMALL, axis="flops"), "axis 'flops'.*'parameters' or 'bytes'"),
        (lambda: aurac.quadrature_weights([1, 2], "bytes"), "weights of ranks over bytes"),
        (lambda: Curve((1,), (0.1,), parameters={1: 0}), "parameters of 0 at rank 1"),
        (lambda: Curve((1,), (0.1,), sizes={1: 0.5}), "sizes of 0.5 at rank 1"),
        (
            lambda: aurac.score(Curve((1, 2), (0, 1), parameters={1: 9, 2: 9}), "parameters"),
            "9 parameters at rank 1 and at rank 2",
        ),
        (
            lambda: shared_span([SMALL, Curve((1, 2), (0, 1), sizes={1: 1, 2: 2})], "parameters"),
            "the curve says nothing of its parameters",
        ),
        (
            lambda: shared_span(
                [SMALL, Curve((1, 2), (0, 1), adapter="big", parameters={1: 400, 2: 900})],
                "parameters",
            ),
            r"no common range of parameters \(attention 100 to 400; big 400 to 900\)",
        ),
    ],
)
def test_what_has_no_area_over_a_budget_says_why(call, message):
    with pytest.raises(CurveError, match=message):
        call()


def test_curves_of_tables_and_results_know_their_sizes():
    frame = pd.DataFrame(
        {"rank": [1, 2], "accuracy": [0.1, 0.2], "parameters": [10, 20], "bytes": [20.0, 40.0]}
    )
    row = {"ranks": [1, 2], "accuracy": [0.1, None], "parameters": [10, 20], "bytes": [None, 40]}
    long = pd.DataFrame(
        {"rank": [1, 1, 2, 2], "doc_id": list("abab"), "score": [0, 1, 1, 1], "bytes": [7, 7, 9, 9]}
    )
    assert (as_curve(frame).parameters, as_curve(frame).sizes) == ({1: 10, 2: 20}, {1: 20, 2: 40})
    assert (as_curve(row).parameters, as_curve(row).sizes) == ({1: 10, 2: 20}, {2: 40})
    assert as_curve(long).sizes == {1: 7, 2: 9}
