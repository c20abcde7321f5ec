"""Plans: the formula by hand, and against simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from aurac.errors import UsageError
from aurac.stats.power import plan


def test_a_plan_by_hand():
    # Flip rate .15, difference .02: n = (.15 - .0004)·((1.96 + .8416)/.02)² = 2936, and a little
    # more for the further example.
    [row] = plan(0.02, flip_rate=0.15, seeds=(1,))
    assert 2936 < row.examples < 1.06 * 2936


def test_the_planned_number_has_the_power():
    [row] = plan(0.1, flip_rate=0.3, seeds=(1,))
    rng, n = np.random.default_rng(0), row.examples
    draws = rng.choice([1.0, -1.0, 0.0], p=[0.2, 0.1, 0.7], size=(4000, n))
    further = np.hstack([draws, np.full((4000, 1), -1.0)])
    t = further.mean(1) / (further.std(1, ddof=1) / np.sqrt(n + 1))
    assert np.mean(t > stats.t.ppf(0.975, n)) == pytest.approx(0.8, abs=0.03)


def test_seeds_and_comparisons():
    few, many = plan(0.02, flip_rate=0.15, seeds=(2, 20), seed_sd=0.01)
    assert few.examples is None  # t with one degree of freedom: no number of examples is enough
    assert many.examples > plan(0.02, flip_rate=0.15, seeds=(20,))[0].examples
    more = plan(0.02, flip_rate=0.15, seeds=(1,), comparisons=3)[0].examples
    assert more > plan(0.02, flip_rate=0.15, seeds=(1,))[0].examples


@pytest.mark.parametrize(
    "given", [{}, {"flip_rate": 0.1, "sd": 0.3}, {"flip_rate": 0.01}, {"sd": 0.3, "power": 0.2}]
)
def test_what_is_no_plan(given):
    with pytest.raises(UsageError):
        plan(0.02, **given)
