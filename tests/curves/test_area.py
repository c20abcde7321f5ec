"""AURAC against values worked out by hand, scipy's integrator, and its own laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from aurac import score
from aurac.curves.area import quadrature_weights
from aurac.errors import CurveError

CURVES = st.dictionaries(st.integers(1, 1024), st.floats(0, 1), min_size=2, max_size=10)


def test_weights_by_hand():
    # log2 over 1, 2, 4: intervals of 1 out of 2: ends 1/4, middle 1/2.
    np.testing.assert_allclose(quadrature_weights([1, 2, 4], "log2"), [0.25, 0.5, 0.25])
    # linear: intervals 1 and 2 out of 3: 1/6, (1+2)/6, 2/6.
    np.testing.assert_allclose(quadrature_weights([1, 2, 4], "linear"), [1 / 6, 1 / 2, 1 / 3])
    doubling = [2**i for i in range(9)]
    # The share of the top two ranks of 1..256: (64/2 + 128/2 + 128/2) / 255 ≈ .627.
    assert quadrature_weights(doubling, "linear")[-2:].sum() == pytest.approx(160 / 255)


@pytest.mark.parametrize(
    ("ranks", "axis", "words"),
    [
        ([4], "log2", "two ranks"),
        ([4, 2], "log2", "ascending"),
        ([1, 2], "bytes", "neither 'log2' nor 'linear'"),
    ],
)
def test_weights_that_would_be_wrong_are_refused(ranks, axis, words):
    with pytest.raises(CurveError, match=words):
        quadrature_weights(ranks, axis)


@given(CURVES, st.sampled_from(["log2", "linear"]))
def test_weights_are_a_distribution_and_give_the_area(points, axis):
    weights = quadrature_weights(sorted(points), axis)
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1)
    x = np.sort(np.array(list(points), dtype=float))
    y = np.array([points[int(r)] for r in x])
    x = np.log2(x) if axis == "log2" else x
    area = integrate.trapezoid(y, x) / (x[-1] - x[0])
    assert score(points, axis=axis).value == pytest.approx(area, abs=1e-12)
