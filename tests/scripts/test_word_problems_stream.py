"""Random choices: pinned by hand from SHA-256, fair, and without the standard generators."""

from __future__ import annotations

import hashlib
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from scripts.word_problems.stream import Stream


def test_words_are_sha256_in_counter_mode():
    stream = Stream("key")
    expected = b"".join(hashlib.sha256(f"key/{i}".encode()).digest() for i in range(2))
    # Four big-endian 64-bit words a block, in the order of the bytes.
    assert b"".join(stream.word().to_bytes(8, "big") for _ in range(8)) == expected


@given(st.text(max_size=8), st.integers(1, 10**6))
def test_below_stays_below(key, n):
    assert 0 <= Stream(key).below(n) < n


@given(st.text(max_size=8), st.lists(st.integers(), max_size=12))
def test_a_shuffle_is_a_permutation_and_leaves_the_input_alone(key, items):
    before = list(items)
    assert Counter(Stream(key).shuffled(items)) == Counter(items)
    assert items == before


def test_choices_are_uniform():
    stream = Stream("fair")
    counts = Counter(stream.between(3, 8) for _ in range(6000))
    assert set(counts) == set(range(3, 9))
    # 1000 expected each, sd 29: five standard deviations.
    assert all(abs(count - 1000) < 145 for count in counts.values())


def test_all_orders_of_three_are_equally_likely():
    stream = Stream("orders")
    counts = Counter(tuple(stream.shuffled("abc")) for _ in range(6000))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 145 for count in counts.values())
