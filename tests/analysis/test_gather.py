"""Rows: seeds of a recipe, one order of the examples, and which seeds are paired."""

from __future__ import annotations

import numpy as np
import pytest

from aurac.analysis import Question, analyse
from aurac.analysis.gather import difference, gather
from aurac.curves.curve import Curve

DRAW = np.random.default_rng(0)


def made(adapter: str, seed: int | None = None, **labels) -> Curve:
    outcomes = DRAW.integers(0, 2, (2, 20)).astype(float)
    labels = {"task": "t", "doc_ids": tuple(map(str, range(20)))} | labels
    return Curve.from_outcomes([1, 2], outcomes, adapter=adapter, seed=seed, **labels)


def test_seeds_of_one_adapter_or_of_a_group_are_one_row():
    curves = [made("a", 2), made("a", 1), made("b", 0), made("c", 0)]
    rows = gather(curves, {"recipe": ["b", "c"]})
    assert [(row.name, row.seeds) for row in rows] == [("a", 2), ("recipe", 2)]
    assert [curve.seed for curve in rows[0].curves] == [1, 2]
    assert rows[1].accuracy(1) == pytest.approx((curves[2].accuracy[0] + curves[3].accuracy[0]) / 2)


def test_examples_are_joined_by_identity_and_not_by_place():
    first = made("a")
    order = np.random.default_rng(1).permutation(20)
    other = Curve.from_outcomes(
        [1, 2], first.outcomes[:, order], adapter="b", task="t", doc_ids=tuple(map(str, order))
    )
    pairs = analyse([first, other]).pairs
    assert pairs.difference[0] == 0.0
    assert (pairs.low[0], pairs.high[0]) == pytest.approx((-pairs.high[0], pairs.high[0]))
    assert pairs.high[0] < 0.25  # the same answers: no spread but the further example


def test_a_seed_without_its_outcomes_stands_beside_others_that_have_them():
    seed = made("a", 2)
    mixed = [made("a", 1), Curve((1, 2), seed.accuracy, adapter="a", seed=2, task="t"), made("b")]
    rows = gather(mixed, {})
    assert [(row.name, row.seeds) for row in rows] == [("a", 2), ("b", 1)]


def test_clusters_that_one_curve_knows_hold_for_its_task():
    clusters = tuple(str(i // 5) for i in range(20))
    one, other = made("a"), made("b", clusters=clusters)
    alone, known = analyse([one, made("b")]), analyse([one, other])
    assert known.rows[0].clusters is not None
    assert alone.rows[0].clusters is None


@pytest.mark.parametrize(
    ("left", "right", "arms"),
    [
        (["a"], ["b"], 0),
        ([("a", 1), ("a", 2)], [("b", 2), ("b", 1)], 1),  # the same seeds and data order
        ([("a", 1), ("a", 2)], [("b", 1), ("b", 3)], 2),
        ([("a", 1), ("a", 2)], [("b", 1), ("b", 2), ("b", 3)], 2),
        ([("a", None), ("c", None)], [("b", None), ("d", None)], 2),
    ],
)
def test_seeds_are_paired_by_seed_and_never_by_place(left, right, arms):
    def row(names, name):
        same = [made(*(n if isinstance(n, tuple) else (n,)), data_order="x") for n in names]
        return gather(same, {name: sorted({c.adapter for c in same})})[0]

    a, b = row(left, "one"), row(right, "two")
    parts = difference(a, b, a.areas((1, 2)), b.areas((1, 2)))
    assert len(parts.seeds) == arms
    if arms == 1:  # seed 1 with seed 1
        means = [c.accuracy for c in (*a.curves, *b.curves)]
        first = np.mean(means[0]) - np.mean(means[2])
        assert [c.seed for c in (*a.curves, *b.curves)] == [1, 2, 1, 2]
        assert parts.seeds[0].means[0] == pytest.approx(first)


def test_the_trained_rank_is_that_of_all_seeds_or_the_largest_measured():
    assert gather([made("a", trained_rank=64)], {})[0].trained_rank == 64
    assert gather([made("a")], {})[0].trained_rank == 2
    both = gather([made("a", 1, trained_rank=2), made("a", 2, trained_rank=4)], {})
    assert both[0].trained_rank is None


def test_a_seed_on_other_examples_is_left_out_and_said():
    """Of three seeds one lacks half of the examples: 2 × 20 is more than 3 × 10."""
    half = Curve.from_outcomes(
        [1, 2], np.ones((2, 10)), adapter="a", seed=3, task="t",
        doc_ids=tuple(map(str, range(10))),
    )  # fmt: skip
    [row] = gather([made("a", 1), made("a", 2), half], {})
    assert ([curve.seed for curve in row.curves], row.examples) == ([1, 2], 20)
    assert row.left_out == ("a, seed 3 on t has 10 of 20 examples",)


def test_a_row_on_fewer_examples_stands_below_the_others():
    look = Curve.from_outcomes(
        [1, 2], np.ones((2, 4)), adapter="look", task="t", doc_ids=tuple("0123")
    )
    known = analyse([look, made("a"), made("b")])
    assert known.scores.adapter.tolist()[-1] == "look"
    assert known.scores.examples.tolist() == [20, 20, 4]
    assert (
        {*known.pairs.a, *known.pairs.b} == {"a", "b"} == {*known.rank_pairs.a, *known.rank_pairs.b}
    )
    assert known.rows[-1].outside == "4 of 20 examples"


def test_a_rank_that_a_row_lacks_is_its_reason():
    known = analyse([made("a"), made("b")], Question(ranks=(1, 2, 64)))
    assert known.scores.aurac.isna().all()
    assert {*known.scores.reason} == {"no result at rank 64"}
    known = analyse([made("a"), made("b")], Question(ranks=(64,)))
    assert {*known.scores.reason} == {"no result at rank 64"}
    known = analyse([made("a"), made("b")], Question(ranks=(2,)))
    assert {*known.scores.reason} == {"rank 2 alone was asked for, and AURAC needs two ranks"}
