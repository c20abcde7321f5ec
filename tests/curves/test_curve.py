"""Curves: what is kept, what is sorted, and every number that is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurac.curves.curve import Curve
from aurac.curves.names import common_name, cut_name
from aurac.curves.same_examples import in_one_order
from aurac.errors import CurveError
from aurac.readers import curves_of

FOUR = [[0, 1, 1, 0], [1, 1, 1, 0]]


def test_unsorted_ranks_are_sorted_with_their_rows():
    curve = Curve.from_outcomes([4, 1], FOUR)
    assert (curve.ranks, curve.accuracy) == ((1, 4), (0.75, 0.5))
    np.testing.assert_array_equal(curve.outcomes, FOUR[::-1])


def test_values_are_frozen_and_the_callers_array_is_not():
    mine = np.array(FOUR, dtype=np.float64)
    curve = Curve.from_outcomes([1, 2], mine, base_scores=[0, 0, 1, 1], sizes={1: 10})
    mine[0, 0] = 1.0
    assert curve.outcomes[0, 0] == 0.0
    for array in (curve.outcomes, curve.base_scores):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
    other = pickle.loads(pickle.dumps(curve))
    np.testing.assert_array_equal(other.outcomes, curve.outcomes)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({1: 0.1, 2.5: 0.2}, "ank 2.5"),
        ({"a": 0.1, 2: 0.2}, "ank 'a'"),
        ({True: 0.1, 2: 0.2}, "ank True"),
        ({0: 0.1}, "no ranks"),
        ({1: 0.2, "1": 0.3}, "twice"),
        ({1: float("inf"), 2: 0.2}, "inf"),
        ({1: 31.0, 2: 35.0}, "look like percent"),
        ({1: 1.2, 2: 0.3}, "have 1.2 among them, which is no fraction"),
        ({1: -0.2, 2: 0.3}, "have -0.2"),
        ({1: "high", 2: 0.3}, "no numbers"),
        ({}, "no ranks"),
        ({1: [0, 1, 1], 2: [0, 1]}, "ragged"),
        ({1: [], 2: []}, "not \\(ranks, examples\\)"),
        ({1: np.ma.masked_equal([0, 1], 0), 2: [0, 1]}, "example scores have nan"),
    ],
)
def test_refusals_name_what_was_given(given, words):
    with pytest.raises(CurveError, match=words) as caught:
        curves_of(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"doc_ids": ("a", "b")}, "2 doc_ids for 4 examples"),
        ({"doc_ids": ("a", "a", "b", "c")}, "'a' appears twice"),
        ({"clusters": ("a", "", "b", None)}, "2 of 4 examples have no label in clusters"),
        ({"base_scores": [0, 1]}, r"shape \(2,\) for 4 examples"),
        ({"base_scores": [0, 1, 1, 50]}, "percent"),
        ({"seed": 1.5}, r"Seed 1\.5 is no whole number"),
    ],
)
def test_labels_and_scores_have_to_fit(labels, words):
    with pytest.raises(CurveError, match=words):
        Curve.from_outcomes([1, 2], FOUR, **labels)


def test_a_mapping_is_a_curve_and_rank_0_its_base():
    np.testing.assert_array_equal(curves_of({2: FOUR[1], 1: FOUR[0]})[0].outcomes, FOUR)
    [curve] = curves_of({"0": 0.1, "1": 0.2, "4": 0.3})  # the keys of JSON
    assert (curve.ranks, curve.accuracy, curve.baseline) == ((1, 4), (0.2, 0.3), 0.1)
    assert curves_of({0: [0, 1], 1: [1, 1], 2: [0, 1]})[0].base_scores.tolist() == [0, 1]


def test_examples_by_name_are_those_of_every_rank():
    named = Curve.from_examples({0: {"x": 1}, 2: {"b": 1, "a": 0}, 1: {"a": 1, "b": 1}})
    assert (named.doc_ids, named.outcomes.tolist()) == (("b", "a"), [[1, 1], [1, 0]])
    assert (named.baseline, named.base_scores) == (1.0, None)
    with pytest.raises(CurveError, match="anks 1 and 2 have different examples"):
        Curve.from_examples({1: {"a": 1, "b": 0}, 2: {"a": 1, "c": 0}})


def test_at_selects_ranks_and_leaves_missing_ones_behind():
    curve = Curve.from_outcomes([1, 2], FOUR, missing={4: "out of memory"}, sizes={1: 1, 2: 2})
    part = curve.at([2])
    assert (part.ranks, part.accuracy, part.missing) == ((2,), (0.75,), {})
    with pytest.raises(CurveError, match="no rank 4"):
        curve.at([4])


@given(st.permutations(range(4)))
def test_examples_are_brought_into_one_order(order):
    first = Curve.from_outcomes(
        [1, 2], FOUR, doc_ids=("a", "b", "c", "d"), clusters=("x", "x", "y", "y"),
        base_scores=[0, 1, 0, 1],
    )  # fmt: skip
    other = first.in_order(np.array(order))
    _, same = in_one_order([first, other])
    assert (same.doc_ids, same.clusters) == (first.doc_ids, first.clusters)
    np.testing.assert_array_equal(same.outcomes, first.outcomes)
    np.testing.assert_array_equal(same.base_scores, first.base_scores)
    assert same.baseline == first.baseline


@pytest.mark.parametrize(
    ("first", "other", "said"),
    [
        ({"doc_ids": "abcd"}, {"doc_ids": "abce"}, "2 of 5"),
        ({"doc_ids": "abcd", "prompts": "wxyz"}, {"doc_ids": "abcd", "prompts": "wx!!"}, "4 of 6"),
        ({"doc_ids": "abcd", "prompts": "wxyz"}, {"doc_ids": "abcd"}, None),
    ],
)
def test_an_example_is_its_identity_content_and_prompt(first, other, said):
    curves = [
        Curve.from_outcomes([1, 2], FOUR, **{n: tuple(x) for n, x in labels.items()})
        for labels in (first, other)
    ]
    if said is None:
        assert in_one_order(curves) == curves
        return
    with pytest.raises(CurveError, match=f"on different examples: {said} are in one of them alone"):
        in_one_order(curves)


def test_a_curve_may_have_no_rank_if_it_says_why():
    curve = Curve.from_outcomes([], np.zeros((0, 4)), fewer={2: 1})
    assert (curve.ranks, curve.n_docs, curve.accuracy) == ((), 4, ())
    with pytest.raises(CurveError, match="no ranks"):
        Curve.from_outcomes([], np.zeros((0, 4)))


def test_examples_without_names_are_told_by_their_place():
    one, two = Curve.from_outcomes([1, 2], FOUR), Curve.from_outcomes([1], [[0, 1]])
    with pytest.raises(CurveError, match="have 4 and 2 examples"):
        in_one_order([one, two])
    others = [Curve.from_outcomes([1, 2], FOUR, clusters=tuple(x)) for x in ("xxyy", "xyyy")]
    with pytest.raises(CurveError, match="other clusters"):
        in_one_order(others)
    with pytest.raises(CurveError, match="Only one of"):
        in_one_order([one, Curve.from_outcomes([1, 2], FOUR, doc_ids=tuple("abcd"))])


def test_what_cuts_and_recipes_are_called():
    curve = Curve.from_outcomes([1, 2], FOUR, adapter="lora", basis="svd", rescale="keep", task="t")
    assert repr(curve) == "Curve(lora, svd on t: {1: 0.5, 2: 0.75}, 4 examples)"
    assert cut_name("svd", "fit") == "svd · fit"
    assert cut_name("prefix", "rule", "dylora") == "prefix"
    assert cut_name("prefix", "rule", "matryoshka") == "prefix without P"
    assert cut_name("prefix", "trained", "matryoshka") == "prefix rescaled"
    assert cut_name(None, None) is None
    assert common_name(["lora-s1", "lora-s2"]) == "lora"
    assert common_name(["a", "b"]) == "a + b"
    assert common_name(["lora-s1", "lora-s2"], taken={"lora"}) == "lora-s1 + lora-s2"
