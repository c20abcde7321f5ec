"""AURAC over a budget: parameters or bytes of the truncated adapter in the place of its rank."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import trapezoid

import aurac
from aurac.curves.area import curve_weights, document_areas, shared_span
from aurac.curves.coerce import as_curve
from aurac.curves.curve import Curve
from aurac.errors import CurveError

# Attention only, and all linear layers: the same two accuracies at ranks of other sizes.
SMALL = Curve((1, 4), (0.2, 0.6), adapter="attention", parameters={1: 100, 4: 400})
LARGE = Curve((1, 4), (0.1, 0.5), adapter="linear", parameters={1: 200, 4: 800})


def test_the_area_over_the_amounts_that_both_have_by_hand():
    """200 and 400 are in both, half of the width each; 100 and 800 weigh nothing."""
    small = Curve((1, 2, 4), (0.2, 0.3, 0.6), parameters={1: 100, 2: 200, 4: 400})
    large = Curve((1, 2, 4), (0.1, 0.4, 0.5), parameters={1: 200, 2: 404, 4: 800})
    span = shared_span([small, large], "parameters")
    assert span == (200, 400)  # 404 is the same but for rounding, 420 would be the last one
    np.testing.assert_allclose(curve_weights(small, "parameters", span), [0, 0.5, 0.5])
    np.testing.assert_allclose(curve_weights(large, "parameters", span), [0.5, 0.5, 0])
    assert shared_span([large, small], "parameters") == span


def test_one_curve_measured_at_fewer_ranks_does_not_differ_from_itself():
    """With straight lines between the points of each it would: .5 against .4375 at 100 to 1600."""
    accuracy = dict(zip((1, 2, 4, 8, 16), (0.0, 0.4, 0.6, 0.7, 0.75), strict=True))
    amounts = {rank: 100 * rank for rank in accuracy}
    curves = [
        Curve(ranks, tuple(accuracy[r] for r in ranks), parameters=amounts)
        for ranks in ((1, 2, 4, 8, 16), (1, 4, 16))
    ]
    span = shared_span(curves, "parameters")
    assert span == (100, 400, 1600)
    one, other = (curve_weights(c, "parameters", span) @ c.accuracy for c in curves)
    assert one == other == pytest.approx(0.25 * 0.0 + 0.5 * 0.6 + 0.25 * 0.75)


def test_dense_ranks_match_their_own_amount():
    """64 and 65 differ by 1.6 %: each finds itself, and 66 none that is not taken."""
    many = Curve((62, 64, 65), (0.1, 0.2, 0.3), parameters={62: 62, 64: 64, 65: 65})
    few = Curve((64, 66), (0.2, 0.3), parameters={64: 64, 66: 66})
    assert shared_span([many, few], "parameters") == (64, 65)


def test_where_parameters_grow_with_rank_the_area_is_that_over_log2_rank():
    ranks = (1, 2, 8, 16)
    curve = Curve(ranks, (0.1, 0.5, 0.4, 0.9), parameters={r: 305_280 * r for r in ranks})
    weights = curve_weights(curve, "parameters")
    np.testing.assert_allclose(weights, aurac.quadrature_weights(ranks), atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_weights_give_the_area_of_the_curve(seed):
    """Against NumPy's trapezoidal rule over log2 of the amounts, in ascending order."""
    draw = np.random.default_rng(seed)
    ranks = range(1, int(draw.integers(3, 9)))
    amounts = draw.choice(np.arange(10, 10_000), len(ranks), replace=False)  # a family's: any order
    outcomes = draw.random((len(ranks), 7))
    curve = Curve.from_outcomes(ranks, outcomes, sizes=dict(zip(ranks, amounts, strict=True)))
    order = np.argsort(amounts)
    x = np.log2(amounts[order])
    dense = trapezoid(outcomes[order], x, axis=0) / np.ptp(x)
    np.testing.assert_allclose(document_areas(curve, "bytes"), dense, atol=1e-12)
    weights = curve_weights(curve, "bytes")
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)


def test_the_score_has_its_own_name():
    score = aurac.score(LARGE, axis="parameters")
    assert float(score) == pytest.approx(0.3)
    assert repr(score) == "Score(0.3000 AURAC over parameters, 200 and 800, ranks 1, 4)"
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
    with pytest.raises(CurveError, match="200 and 800"):  # other amounts are another area
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
            r"in common \(attention 100, 400; big 400, 900\); expected at least two at which all",
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
