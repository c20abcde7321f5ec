"""The factor of rescale `fit`: the maximum of an objective over powers of two."""

from __future__ import annotations

import math

import pytest

from aurac.runs.fit import EXPONENTS, best_factor


def peak_at(exponent, tried):
    """A parabola in log2 of the factor, which keeps what it was asked."""

    def objective(factor):
        tried.append(math.log2(factor))
        return -((math.log2(factor) - exponent) ** 2)

    return objective


@pytest.mark.parametrize("exponent", [-1.3, 0.0, 2.4, 4.6, 5.2, 7.7, -4.1])
def test_the_vertex_is_found_also_beyond_the_first_grid(exponent):
    tried = []
    factor = best_factor(peak_at(exponent, tried))
    assert math.log2(factor) == pytest.approx(exponent, abs=1e-9)
    assert len(tried) == len(set(tried))  # each costs a pass over the examples
    if EXPONENTS[0] < exponent < EXPONENTS[-1] - 0.5:
        assert sorted(tried) == list(EXPONENTS)


@pytest.mark.parametrize("sign", [-1, 1])
def test_an_objective_without_a_maximum_ends_the_search(sign):
    assert best_factor(lambda factor: sign * factor) == 2.0 ** (12 * sign)


def test_a_flat_objective_keeps_the_first_factor():
    assert best_factor(lambda _: 0.0, range(3)) == 1.0
