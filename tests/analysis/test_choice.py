"""The configuration to ship: over adapters, truncations and ranks, and above the base."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aurac.analysis.choice_rows import Choice
from aurac.analysis.rows import Options
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.errors import CurveError

N = 1000


def right(wrong: int, start: int = 0) -> np.ndarray:
    """Right on all of 1000 documents but `wrong` ones from `start` on."""
    row = np.ones(N)
    row[start : start + wrong] = 0
    return row


def curve(name: str, rows: dict[int, np.ndarray], **labels) -> Curve:
    sizes = {r: 100 * r for r in rows}
    labels = {"adapter": name, "task": "t", "sizes": sizes, "basis": "prefix"} | labels
    return Curve.from_outcomes(list(rows), list(rows.values()), **labels)


def highest(lost: int, alpha: float) -> float:
    """Clopper and Pearson's upper bound."""
    return stats.binomtest(lost, N, alternative="less").proportion_ci(1 - alpha).high


def choice(curves, **options):
    (found,) = analyse(curves, Options(**options)).choices
    return found


# b by SVD is right on everything at ranks 4 and 8, its prefix and a lose more.
A = curve("a", {8: right(60, 500)})
PREFIX = curve("b", {4: right(300), 8: right(100)})
SVD = curve("b", {2: right(40), 4: right(4), 8: right(0)}, basis="svd")


def test_the_smallest_configuration_over_all_truncations_is_named():
    found = choice([A, PREFIX, SVD], margin=0.02)
    one = found.chosen
    assert (one.adapter, one.truncation, one.rank, one.bytes) == ("b", "svd", 4, 400)
    # Three curves and six configurations: .8·.05/3 along a curve and .2·.05/6 alone.
    along = 0.8 * 0.05 / 3 + 0.2 * 0.05 / 6
    assert one.needed == pytest.approx(highest(4, along))
    assert (found.best.truncation, found.best.rank) == ("svd", 8)
    assert [c.rank for c in found.frontier] == [2, 4, 8]
    assert found.sentences[0] == "Ship b · svd at rank 4 on t: 400 B, accuracy 99.6 %."


def test_what_any_margin_names_is_in_the_trade_off():
    # Both are wrong on 50 at rank 4: b on what the best is wrong on, too, a elsewhere.
    a = curve("a", {4: right(50, 500), 8: right(100)})
    b = curve("b", {4: right(50), 8: right(40)})
    known = choice([a, b])
    assert [(row.adapter, row.rank) for row in known.frontier] == [("b", 4), ("b", 8)]
    for row in known.configurations:
        named = choice([a, b], margin=row.needed + 1e-9).chosen
        assert named.name in {each.name for each in known.frontier}


def test_the_accuracy_that_is_shown_of_each_decides():
    curves = [curve("a", {2: right(60), 4: right(80), 8: right(50)}), SVD, PREFIX]
    every = choice(curves, min_accuracy=0.5, strict=False).configurations
    for least in [row.least for row in every]:
        found = choice(curves, min_accuracy=least - 1e-9, strict=False)
        assert found.chosen.name == next(c.name for c in every if c.least >= least - 1e-9)
        assert {c.needed for c in found.configurations} == {None}  # no margin was asked for


def test_a_reference_is_compared_with_alone():
    named = choice([A, PREFIX, SVD], margin=0.05, reference="a@8")
    assert named.chosen.rank == 2  # 40 wrong against 60: better
    assert "within 5 points of a · prefix at rank 8 (" in named.sentences[1]
    with pytest.raises(CurveError, match="expected a@ one of 8"):
        choice([A, PREFIX, SVD], margin=0.05, reference="a@4")


def test_the_order_of_rows_does_not_matter():
    one, other = (choice(rows, margin=0.02) for rows in ([A, PREFIX, SVD], [A, SVD, PREFIX]))
    assert {(c.truncation, c.rank): c.needed for c in one.configurations} == {
        (c.truncation, c.rank): c.needed for c in other.configurations
    }


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"doc_ids": tuple(f"other {i}" for i in range(N))}, "different documents"),
        ({"prompts": "y"}, "differ in prompts"),
    ],
)
def test_what_cannot_be_paired_has_a_reason(changed, words):
    known = {"doc_ids": tuple(map(str, range(N))), "prompts": "x"}
    curves = [curve("a", {8: right(60)}, **known), curve("b", {8: right(0)}, **(known | changed))]
    found = choice(curves, margin=0.02, strict=False)
    assert found.chosen is None
    assert words in found.reason
    assert found.sentences[0].startswith("Nothing is recommended on t: nothing can be compared (")


def test_above_the_base_is_tested_document_by_document():
    # The base is wrong on 70 documents. Rank 2 gains 30 of them and loses none, rank 1 gains 2.
    base = right(70)
    made = curve("a", {1: right(68), 2: right(40), 4: right(0)}, base_scores=base)
    result = analyse([made], Options(margin=0.2))
    (row,), (found,) = result.scores, result.choices
    assert made.baseline == pytest.approx(0.93)
    assert row.above_base == {1: False, 2: True, 4: True}
    assert not row.below_base
    assert found.chosen.rank == 2  # rank 1 loses 6.8 points, but is not above the base
    assert {c.rank: c.needed is None for c in found.configurations} == {1: True, 2: False, 4: False}
    # From the number alone the intervals of .932 and of .96 decide.
    number = curve("a", {1: right(68), 2: right(40), 4: right(0)}, baseline=0.955)
    (row,) = analyse([number]).scores
    assert row.above_base == {1: False, 2: False, 4: True}


def test_nothing_below_the_base_is_shipped():
    made = curve("a", {1: right(600), 2: right(500)}, base_scores=right(250))
    result = analyse([made], Options(margin=0.2))
    assert result.scores[0].below_base
    assert result.choices[0].chosen is None
    (sentence,) = result.choices[0].sentences
    assert sentence == (
        "Ship nothing on t: nothing is shown to be above the base (75.0 %); the most accurate here "
        "is a at rank 2, 50.0 %."
    )


@pytest.mark.parametrize(("seeds", "few"), [(1, False), (5, True), (17, True), (18, False)])
def test_seeds_are_few_below_the_number_that_is_needed(seeds, few):
    choice = Choice("t", 0.1, None, 0.05, seeds=seeds, seeds_needed=18)
    assert choice.few_seeds is few


def test_few_seeds_name_what_holds_in_each_checkpoint():
    def seeds(name, wrong):
        return [curve(name, {8: right(w), 16: right(w)}, seed=s) for s, w in enumerate(wrong)]

    found = choice([*seeds("a", (40, 40, 40)), *seeds("b", (2, 3, 1))], margin=0.02)
    assert (found.chosen, found.seeds) == (None, 3)
    assert (found.in_checkpoints.adapter, found.in_checkpoints.rank) == ("b", 8)
    # Other seeds: every checkpoint against every one of the other recipe.
    other = [curve("b", {8: right(2), 16: right(2)}, seed=s) for s in (7, 8, 9)]
    found = choice([*seeds("a", (40, 40, 40)), *other], margin=0.02)
    assert (found.in_checkpoints.adapter, found.needed) == ("b", None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"base_scores": np.ones(3)}, r"base_scores of shape \(3,\)"),
        ({"base_scores": np.full(4, 2.0)}, "scores of the base"),
        ({"base_scores": np.ones(4), "baseline": 0.5}, "baseline 0.5 with base_scores that"),
    ],
)
def test_scores_of_the_base_fit_the_documents(wrong, words):
    with pytest.raises(CurveError, match=words):
        Curve.from_outcomes([1], np.ones((1, 4)), **wrong)


def test_scores_of_the_base_follow_the_documents():
    made = Curve.from_outcomes([1, 2], np.ones((2, 3)), base_scores=[0, 1, 0])
    assert made.baseline == pytest.approx(1 / 3)
    assert made.in_order(np.array([1, 0, 2])).base_scores.tolist() == [1, 0, 0]
    assert made.at([2]).base_scores.tolist() == [0, 1, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1,
                                 max_size=5, unique=True),
    st.integers(1, 3), st.sampled_from([None, "clusters", "strata"]), st.booleans(),
    st.floats(0.01, 0.6), st.floats(0.01, 0.6), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_no_small_table_contradicts_itself(n, rows, seeds, labels, base, x, y, seed):
    draw = np.random.default_rng(seed)
    more = {} if labels is None else {labels: tuple(str(i // 3) for i in range(n))}
    more |= {"base_scores": (draw.random(n) < 0.3).astype(float)} if base else {}
    curves = [
        Curve.from_outcomes(
            [1, 2, 4], draw.random((3, n)) < draw.random(), adapter=name, task="t", seed=at,
            basis="svd" if svd else "prefix", sizes={1: 10, 2: 20, 4: 40}, **more,
        )
        for name, svd in rows
        for at in range(seeds)
    ]  # fmt: skip
    low, high = (
        analyse(curves, Options(margin=margin, strict=False)) for margin in (min(x, y), max(x, y))
    )
    (small,), (large,), free = (
        low.choices,
        high.choices,
        analyse(curves, Options(strict=False)).choices[0],
    )
    assert free.chosen is None
    needed = [(c.label, c.rank, c.needed, c.checkpoints) for c in free.configurations]
    for found in (small, large):  # what each needs does not depend on the margin
        assert [(c.label, c.rank, c.needed, c.checkpoints) for c in found.configurations] == needed
        assert found.chosen is None or found.chosen.needed < found.margin
        assert found.sentences
    if small.chosen is not None:
        assert large.chosen.bytes <= small.chosen.bytes
    for row in (*low.recommended, *high.recommended):
        assert row.sentence
        assert {test.rank for test in row.tests if test.passed} >= ({row.rank} - {None})
    if len(rows) == 1:
        assert low.recommended[0].rank == (small.chosen.rank if small.chosen else None)
