"""Seeds of two recipes, or truncations of the same checkpoints, are matched by key."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stats_draws import rng

import aurac
from aurac.analysis import paired_curves
from aurac.analysis.comparisons import paired_test
from aurac.analysis.groups import group_of, together
from aurac.analysis.pairing import by_seed, difference_at
from aurac.analysis.rows import Options
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats import difference

N, SEEDS = 120, (3, 5, 8, 9)
BOTH = st.permutations(range(len(SEEDS)))


def recipe(name: str, draw: int, **labels: object) -> list[Curve]:
    """Four seeds that move all recipes alike, each of the same data in the same order."""
    hard, shift = rng(0).random(N), np.array([-0.2, 0.05, 0.1, 0.3])
    noise = rng(draw).random((len(SEEDS), 2, N))
    scores = np.clip(0.2 + 0.3 * hard + shift[:, None, None] + 0.1 * noise, 0, 1)
    fields = {"adapter": name, "task": "t", "data_order": "same", "basis": "prefix", **labels}
    return [
        Curve.from_outcomes((1, 2), rows, seed=seed, doc_ids=tuple(map(str, range(N))), **fields)
        for seed, rows in zip(SEEDS, scores, strict=True)
    ]


A, B = recipe("a", 1), recipe("b", 2)
PAIRS = {
    "two recipes": (A, B),
    "two truncations": (A, recipe("a", 3, basis="svd", data_order=None)),
    "independent": (A, recipe("b", 2, data_order="other")),
}


def test_recipes_of_the_same_data_and_order_are_paired_by_seed():
    row = paired_curves(A, B)
    areas = [np.stack([c.outcomes.mean(axis=0) for c in curves]) for curves in (A, B)]
    expected = difference(*areas, paired_seeds=True)
    assert row.p == expected.p
    # Seeds move both alike, so that little of their spread is left in the difference.
    arms = difference(*areas)
    assert row.estimate.se < 0.2 * arms.estimate.se
    assert row.to_dict()["pairing"] == "paired by seed"
    assert "(4 seeds, paired by seed)" in row.estimate.method
    assert "training seeds (paired by seed; assumes that seeds vary about normally)" in row.sentence
    two = paired_curves(*PAIRS["independent"])
    assert two.p == arms.p
    assert two.to_dict()["pairing"] == "independent seeds"
    assert "(independent seeds; assumes" in two.sentence


def test_a_difference_at_one_rank_is_taken_within_each_checkpoint():
    _, svd = PAIRS["two truncations"]
    gap = difference_at(*together([group_of(A), group_of(svd[::-1])]), 2, 0.95)
    rows = [np.stack([curve.outcomes[1] for curve in curves]) for curves in (A, svd)]
    expected = difference(*rows, paired_seeds=True)
    assert gap.p == pytest.approx(expected.p)
    assert gap.estimate.value == pytest.approx(rows[1].mean() - rows[0].mean())
    assert gap.estimate.se < 0.2 * difference(*rows).estimate.se


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@settings(max_examples=20, deadline=None)
@given(left=BOTH, right=BOTH)
def test_the_order_of_seeds_changes_nothing(pair, left, right):
    a, b = pair
    expected = paired_curves(a, b)
    row = paired_curves([a[i] for i in left], [b[i] for i in right])
    assert row.p == pytest.approx(expected.p)
    assert row.estimate.low == pytest.approx(expected.estimate.low)
    assert row.pairing == expected.pairing
    margins = [
        aurac.non_inferior([x[i] for i in left], [y[i] for i in right], margin=0.05)
        for x, y, left, right in ((a, b, SAME, SAME), (a, b, left, right))
    ]
    low, other = (test.estimate.low for test in margins)
    assert low == pytest.approx(other)
    assert margins[0].pairing == expected.pairing
    assert margins[0].to_dict()["pairing"] == expected.pairing


SAME = range(len(SEEDS))


def test_seeds_are_paired_where_both_have_each_once_and_the_recipes_say_so():
    def places(a, b, **how):
        return by_seed(group_of(a), group_of(b), **how)

    assert places(A, B[::-1]) == ([0, 1, 2, 3], [3, 2, 1, 0])
    assert places(A, B, paired_seeds=False) is None
    unknown = [replace(curve, data_order=None) for curve in B]
    assert places(A, unknown) is None
    assert places(unknown, unknown[::-1]) == ([0, 1, 2, 3], [3, 2, 1, 0])  # the same checkpoints
    assert places(A, unknown, paired_seeds=True) is not None
    assert places(A, [replace(c, data_order="other") for c in B]) is None
    assert places(A, [*B[:3], replace(B[3], data_order="other")]) is None
    assert places(A, B[:3], paired_seeds=True) is None
    assert places(A, [*B[:3], replace(B[3], seed=10)], paired_seeds=True) is None
    assert places(A, [*B[:3], replace(B[3], seed=8)], paired_seeds=True) is None
    assert places(A, [*B[:3], replace(B[3], seed=None)], paired_seeds=True) is None
    assert places(A[:1], B[:1]) is None  # one seed each: nothing to match
    with pytest.raises(CurveError, match="4 seeds paired with 3"):
        difference(np.zeros((4, 9)), np.zeros((3, 9)), paired_seeds=True)


def test_tasks_are_matched_by_seed_in_the_aggregate_of_paired_differences():
    """A seed that moves the difference on both tasks does so in their mean, in any order."""
    other = [replace(curve, task="u") for curve in (*A, *B)]
    alike = analyse([*A, *B, *other])
    mixed = analyse([*A, *B, *other[3::-1], *other[:3:-1]])
    (row,), (expected,) = ([r for r in x.aggregates if r.b] for x in (mixed, alike))
    assert row.estimate.low == pytest.approx(expected.estimate.low)
    assert "paired by seed" in row.estimate.method
    seeds = np.array([b.outcomes.mean() - a.outcomes.mean() for a, b in zip(A, B, strict=True)])
    pair = paired_test(group_of(A), group_of(B), Options())
    assert pair.result.parts.groups[0].seed_means == pytest.approx(seeds)
    # Of both tasks each seed has the same difference, so that their mean has its spread, too.
    assert row.estimate.se >= np.sqrt(seeds.var(ddof=1) / 4)


def test_no_aggregate_is_made_of_paired_and_independent_seeds():
    other = [replace(curve, task="u") for curve in A]
    other += [replace(curve, task="u", data_order="other") for curve in B]
    (row,) = (r for r in analyse([*A, *B, *other]).aggregates if r.b)
    assert row.estimate is None
    assert "paired by seed on t and of independent seeds on u" in row.reason
    (row,) = (r for r in analyse([*A, *B, *other], Options(paired_seeds=False)).aggregates if r.b)
    assert "independent seeds" in row.estimate.method


def test_frames_keep_their_seeds():
    import pandas as pd

    rng = np.random.default_rng(0)
    lists = [
        [
            pd.DataFrame(
                [
                    {"seed": seed, "rank": rank, "doc_id": f"d{doc}", "score": rng.integers(2)}
                    for rank in (1, 2)
                    for doc in range(30)
                ]
            )
            for seed in (1, 2, 3)
        ]
        for _ in "ab"
    ]
    test = aurac.non_inferior(*lists, margin=0.1, paired_seeds=True)
    assert test.pairing == "paired by seed"
    assert aurac.non_inferior(*lists, margin=0.1).pairing == "independent seeds"
