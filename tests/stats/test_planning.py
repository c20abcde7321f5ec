"""What `aurac plan` says, against simulations of the test that it plans."""

from __future__ import annotations

import numpy as np
import pytest

from aurac.errors import UsageError
from aurac.stats.estimate import SIGNED, components, further_examples, interval, one_sided
from aurac.stats.planning import Assumptions, examples_for, examples_for_margin, seeds_for


@pytest.mark.parametrize(("difference", "tests"), [(0.06, 1), (0.08, 6)])
def test_the_examples_that_are_planned_find_the_difference_with_the_power(difference, tests):
    assumed = Assumptions(flips=0.3, tests=tests)
    n = examples_for(difference, assumed)
    gain = (0.3 + difference) / 2
    draws = np.random.default_rng(0).random((2000, 1, n))
    values = (draws < gain).astype(float) - (draws > 1 - (0.3 - gain))
    low, _ = interval(components(values), SIGNED, 0.05 / tests, further_examples(tests))
    assert np.mean(low > 0) == pytest.approx(0.8, abs=0.04)


def test_seeds_that_vary_more_than_the_difference_cannot_be_outnumbered_by_examples():
    assert examples_for(0.02, Assumptions(seeds=2, seed_sd=0.01)) is None
    # By tables of t and the normal: .01 √(2/3) (4.3027 + .8416), .01 √(2/5) (2.7764 + .8416), and
    # .01 √(2/6) (2.5706 + .8416) = .0197, the first below .02.
    assert Assumptions(seeds=3, seed_sd=0.01).least == pytest.approx(0.042003, abs=2e-6)
    assert Assumptions(seeds=5, seed_sd=0.01).least == pytest.approx(0.022883, abs=2e-6)
    assert seeds_for(0.02, Assumptions(seed_sd=0.01)) == 6
    assert examples_for(0.02, Assumptions(seeds=6, seed_sd=0.01)) is not None
    assert examples_for(0.02, Assumptions(seeds=5, seed_sd=0.01)) is None
    more, fewer = (examples_for(0.05, Assumptions(seeds=5, seed_sd=sd)) for sd in (0.01, 0.001))
    assert more > fewer


def test_the_examples_that_a_margin_needs_are_the_fewest_that_show_it():
    assert examples_for_margin(0.02) == 215
    for size in (1, 4):
        fewest = examples_for_margin(0.02, cluster=size)
        codes = [np.arange(size * n) // size for n in (fewest - 1, fewest)]
        ends = [one_sided(components(np.zeros((1, of.size)), of))[1] for of in codes]
        assert ends[0] > 0.02 >= ends[1]


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match=r"needs at least that share"):
        examples_for(0.3, Assumptions(flips=0.2))
    with pytest.raises(UsageError, match="flips 0"):
        Assumptions(flips=0.0)
