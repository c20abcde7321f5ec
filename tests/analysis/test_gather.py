"""Rows: seeds of a recipe, one order of the examples, and which seeds are paired."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from aurac.analysis import Question, analyse
from aurac.analysis.gather import difference, gather
from aurac.curves.curve import Curve
from aurac.errors import CurveError

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


def test_two_arms_of_seeds_share_the_degrees_that_welch_adds():
    """By hand: examples, and an arm of each recipe with its share; both ranks score alike."""
    n, shares = 40, {"a": (0.9, 0.6, 0.7), "b": (0.2, 0.5, 0.3)}
    outcomes = {
        name: np.array([np.roll(np.arange(n) < share * n, at) for at, share in enumerate(some)])
        for name, some in shares.items()
    }
    rows = [row.astype(float) for name in "ab" for row in outcomes[name]]
    curves = [
        Curve.from_outcomes([1, 2], [row, row], adapter="aaabbb"[at], seed=at, task="t")
        for at, row in enumerate(rows)
    ]
    further = np.append(np.mean(rows[:3], axis=0) - np.mean(rows[3:], axis=0), -1.0)
    spread, arms = further.var(ddof=1) / (n + 1), []
    for some in (np.array(rows[:3]), np.array(rows[3:])):
        means = some.mean(axis=1)
        rest = some - some.mean(axis=0) - means[:, None] + means.mean()
        spread -= (rest**2).sum() / (1 - 1 / n) / (n**2 * 3 * 2)
        arms.append((means.var(ddof=1) + 1 / (12 * n**2)) / 3)
    welch = sum(arms) ** 2 / sum(v**2 / 2 for v in arms)
    df = 2 + (welch - 2) / 3
    assert 2.2 < df < 3
    squares = spread * stats.t.ppf(0.975, n) ** 2
    squares += sum(v * stats.t.ppf(0.975, df) ** 2 for v in arms)
    pair = analyse(curves).pairs.iloc[0]
    assert (pair.a, pair.low) == ("a", pytest.approx(further.mean() - np.sqrt(squares)))


def test_the_interval_of_clusters_of_one_size_is_students_of_their_means():
    """With a further cluster of their size at each end; by single examples it is shorter."""
    curve = made("a", clusters=tuple(str(at // 4) for at in range(20)))
    outcomes = np.repeat([[0.0, 1.0, 1.0, 0.0, 1.0]], 4, axis=1)
    curve = replace(curve, outcomes=np.repeat(outcomes, 2, axis=0))
    [score] = analyse([curve]).tables.scores
    for end, value, sign in ((score.low, 0.0, -1), (score.high, 1.0, 1)):
        means = np.append([0.0, 1.0, 1.0, 0.0, 1.0], value)
        reach = stats.t.ppf(0.975, 5) * means.std(ddof=1) / np.sqrt(6)
        assert end == pytest.approx(np.clip(means.mean() + sign * reach, 0.0, 1.0))
    [alone] = analyse([replace(curve, clusters=None)]).tables.scores
    assert alone.high - alone.low < 0.7 * (score.high - score.low)


def test_the_trained_rank_is_that_of_all_seeds_or_the_largest_measured():
    assert gather([made("a", trained_rank=64)], {})[0].trained_rank == 64
    assert gather([made("a")], {})[0].trained_rank == 2
    both = gather([made("a", 1, trained_rank=2), made("a", 2, trained_rank=4)], {})
    assert both[0].trained_rank is None


def test_curves_of_one_task_are_on_the_same_examples():
    """Of another adapter, or of another seed, one example is another one."""
    for name, seed in (("b", 1), ("a", 2)):
        other = made(name, seed, doc_ids=(*map(str, range(19)), "x"))
        with pytest.raises(CurveError, match="on different examples: 2 of 21 are in one of them"):
            analyse([made("a", 1), other])


def test_a_row_that_lacks_something_stands_below_and_is_in_no_difference():
    """Of a recipe one seed lacks a rank; of another adapter fewer examples were asked."""
    lacking = replace(made("a", 2).at([1]), missing={2: "memory"})
    look = replace(made("look"), ranks=(), outcomes=np.zeros((0, 20)), fewer={1: 4, 2: 4})
    known = analyse([look, lacking, made("a", 1), made("b"), made("c")])
    assert {*known.scores.adapter[:2]} == {"b", "c"}
    reasons = known.scores.set_index("adapter").reason
    assert reasons["a"] == "rank 2 of a has no result: memory"
    assert reasons["look"] == "it was asked 4 of 20 examples"
    assert {*known.pairs.a, *known.pairs.b} == {"b", "c"}
    assert {*known.rank_pairs.a, *known.rank_pairs.b} == {"b", "c"}


def test_a_later_look_at_a_seed_leaves_its_recipe_as_it_is():
    look = replace(made("a3"), ranks=(), outcomes=np.zeros((0, 20)), fewer={1: 4, 2: 4})
    rows = gather([made("a1"), made("a2"), look], {"a": ["a1", "a2", "a3"]})
    assert [(row.name, row.seeds, row.lacks is None) for row in rows] == [
        ("a", 2, True), ("a3", 1, False),
    ]  # fmt: skip


def test_a_rank_that_a_row_lacks_is_its_reason():
    for ranks, reason in (
        ((1, 2, 64), "no result at rank 64"),
        ((2,), "rank 2 alone was asked for, and AURAC needs two ranks"),
    ):
        scores = analyse([made("a"), made("b")], Question(ranks=ranks)).scores
        assert scores.aurac.isna().all()
        assert {*scores.reason} == {reason}
