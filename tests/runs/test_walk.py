"""How a process walks over cells that it shares: nothing is missed, and looks are few."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurac.runs.walk import after, leaps, pause_after


def walked(free, seed=0):
    """The places that a walk over these (free or not) gives."""
    walk, found = leaps(len(free), random.Random(seed)), []
    place = next(walk, None)
    while place is not None:
        found.append(place)
        place = after(walk, free=free[place])
    return found


@given(st.integers(0, 50))
def test_alone_every_place_is_visited_in_order(count):
    assert walked([True] * count) == list(range(count))


@given(st.lists(st.booleans(), max_size=200), st.integers(0, 99))
def test_places_ascend_and_a_free_one_is_followed_by_its_neighbour(free, seed):
    found = walked(free, seed)
    assert found == sorted(set(found))
    assert set(found) <= set(range(len(free)))
    for place, following in itertools.pairwise(found):
        if free[place]:
            assert following == place + 1
    if free:
        assert found[0] == 0


@pytest.mark.parametrize("held", [10, 100, 1000, 10_000])
def test_looks_grow_with_the_logarithm_of_what_others_hold(held):
    """The first free place lies behind `held` others."""
    looks = []
    for seed in range(50):
        found = walked([False] * held + [True] * 50 * held, seed)
        looks.append(next(i for i, place in enumerate(found) if place >= held) + 1)
    # Leaps of up to twice as far each time: each is about half of its bound on average.
    assert max(looks) <= 3 * math.log2(held) + 3
    assert min(looks) >= math.log2(held) / 2


def test_pauses_grow_to_a_bound_that_grows_with_what_is_left():
    def longest(held):
        pause = None
        for _ in range(20):
            pause = pause_after(pause, held)
        return pause

    assert pause_after(None, 5) == 0.1
    assert pause_after(0.1, 5) == 0.2
    assert longest(5) == 2.0
    assert longest(100) == 10.0
    assert longest(10_000) == 60.0
