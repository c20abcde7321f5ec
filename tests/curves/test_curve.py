"""Curve: what it accepts, what it refuses, and the words of each refusal."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurac.curves.coerce import as_curve
from aurac.curves.curve import Curve, CurveFields
from aurac.errors import CurveError

FOUR = [[0, 0, 1, 1], [0, 1, 1, 1]]  # accuracies 1/2 and 3/4


def test_unsorted_ranks_are_sorted_with_their_rows():
    curve = Curve.from_outcomes([4, 1], [[1, 1, 1, 0], [0, 0, 0, 1]])
    assert curve.ranks == (1, 4)
    assert curve.accuracy == (0.25, 0.75)
    np.testing.assert_array_equal(curve.outcomes, [[0, 0, 0, 1], [1, 1, 1, 0]])


def test_values_are_frozen():
    curve = Curve.from_outcomes([1, 2], FOUR)
    with pytest.raises(ValueError, match="read-only"):
        curve.outcomes[0, 0] = 1.0
    with pytest.raises(AttributeError):
        curve.ranks = (1,)


def test_given_array_stays_the_callers_own():
    mine = np.array(FOUR, dtype=np.float64)
    curve = Curve.from_outcomes([1, 2], mine)
    mine[0, 0] = 1.0
    assert curve.outcomes[0, 0] == 0.0


def test_a_read_only_array_is_not_copied():
    mine = np.array(FOUR, dtype=np.float64)
    mine.setflags(write=False)
    assert Curve.from_outcomes([1, 2], mine).outcomes is mine


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({1: 0.1, 2.5: 0.2}, "rank 2.5"),
        ({"a": 0.1, 2: 0.2}, "rank 'a'"),
        ({True: 0.1, 2: 0.2}, "rank True"),
        ({0: 0.1}, "no ranks"),
        (([0, 0, 2], [0.1, 0.1, 0.2]), "rank 0"),
        (([0, 2], [0.1]), "rank 0"),
        ({-4: 0.1, 2: 0.2}, "rank -4"),
        ({1: float("nan"), 2: 0.2}, "nan"),
        ({1: float("inf"), 2: 0.2}, "inf"),
        ({1: 31.0, 2: 35.0}, "looks like percent"),
        ({1: 1.2, 2: 0.3}, "above 1"),
        ({1: -0.2, 2: 0.3}, "down to -0.2"),
        ({1: "high", 2: 0.3}, "not numbers"),
        ({}, "no ranks"),
        ([0.1, 0.2], "a list is no curve"),
        ({"ranks": [1, 2], "accuracy": [0.1]}, "1 accuracies for 2 ranks"),
        ({"ranks": [1, 1], "accuracy": [0.1, 0.2]}, "rank 1 appears twice"),
        ({1: [0, 1, 1], 2: [0, 1]}, "ragged outcomes: 2 to 3 documents"),
        ({1: {"a": 1, "b": 0}, 2: {"a": 1, "c": 0}}, "ranks 1 and 2 have different documents"),
        ({1: [], 2: []}, "without a document"),
        (
            pd.DataFrame({"rank": [1, 2], "accuracy": [0.1, 0.2], "low": [0, 0]}),
            "a column low alone",
        ),
        (pd.DataFrame({"accuracy": [0.1]}), "a column named rank"),
        (pd.DataFrame({"rank": [1, 2], "score": [1, 2]}), "rank, doc_id and score"),
        (
            pd.DataFrame({"rank": [1, 1], "doc_id": ["x", "x"], "score": [0, 1]}),
            "'x' appears twice at rank 1",
        ),
        (
            pd.DataFrame({"rank": [1, 1], "accuracy": [0.1, 0.2], "task": ["a", "b"]}),
            "2 tasks",
        ),
    ],
)
def test_refusals_name_what_was_given(given, words):
    with pytest.raises(CurveError, match=words) as caught:
        as_curve(given)
    assert "\n" not in str(caught.value)


def test_rank_0_is_the_base_in_every_form():
    ranks, values = [0, 1, 4], [0.1, 0.2, 0.3]
    table = pd.DataFrame({"rank": ranks, "accuracy": values})
    pairs = dict(zip(ranks, values, strict=True))
    for source in (pairs, (ranks, values), pd.Series(values, ranks), table):
        curve = as_curve(source)
        assert (curve.ranks, curve.accuracy, curve.baseline) == ((1, 4), (0.2, 0.3), 0.1)
    curve = as_curve(([0, 1, 2], np.array([[0, 1], [1, 1], [0, 1]])))
    assert (curve.ranks, curve.baseline, curve.n_docs) == ((1, 2), 0.5, 2)
    with pytest.raises(CurveError, match="leave the base model out"):
        Curve((0, 1), (0.1, 0.2))
    curve = as_curve({"0": [0, 1], "1": [1, 1], "2": [0, 1]})
    assert (curve.ranks, curve.baseline) == ((1, 2), 0.5)
    curve = as_curve({0: {"a": 0, "b": 1}, 1: {"a": 1, "b": 1}})
    assert (curve.ranks, curve.baseline) == ((1,), 0.5)


def test_documents_and_labels_must_match():
    with pytest.raises(CurveError, match="3 doc_ids for 4 documents"):
        Curve.from_outcomes([1, 2], FOUR, doc_ids=("a", "b", "c"))
    with pytest.raises(CurveError, match="'a' appears twice"):
        Curve.from_outcomes([1, 2], FOUR, doc_ids=("a", "b", "c", "a"))
    with pytest.raises(CurveError, match="clusters without outcomes"):
        Curve((1, 2), (0.1, 0.2), clusters=("a", "b"))
    with pytest.raises(CurveError, match="outcomes of shape"):
        Curve((1, 2, 4), (0.1, 0.2, 0.3), outcomes=np.zeros((2, 4)))
    with pytest.raises(CurveError, match=r"accuracy 0\.2 at rank 2 with documents that average 0;"):
        Curve((1, 2), (0.1, 0.2), outcomes=np.zeros((2, 4)))


def test_row_numbers_are_no_ranks():
    """A column of a table has them for its index."""
    table = pd.DataFrame({"rank": [1, 2, 4], "accuracy": [0.1, 0.2, 0.3]})
    for rows in (table, table.iloc[::-1], pd.concat([table, table])[1:4]):
        with pytest.raises(CurveError, match=r"row numbers or ranks.*set_index\('rank'\)"):
            as_curve(rows.accuracy)
    assert as_curve(table.set_index("rank").accuracy).ranks == (1, 2, 4)
    assert as_curve(pd.Series([0.1, 0.2, 0.3], index=[1, 2, 3])).ranks == (1, 2, 3)
    assert as_curve(table.accuracy.rename_axis("rank")).ranks == (1, 2)


def test_every_source_gives_the_same_curve():
    by_doc = {1: {"a": 0, "b": 0, "c": 1, "d": 1}, 2: {"d": 1, "c": 1, "b": 1, "a": 0}}
    long = pd.DataFrame(
        [(r, d, s) for r, docs in by_doc.items() for d, s in docs.items()],
        columns=["rank", "doc_id", "score"],
    )
    row = {"ranks": [1, 2], "accuracy": [0.5, 0.75], "adapter": "x", "missing": {}, "id": "x"}
    sources = [
        {1: 0.5, 2: 0.75},
        {"1": 0.5, "2": 0.75},
        {1: FOUR[0], 2: FOUR[1]},
        by_doc,
        long,
        long.sample(frac=1, random_state=1),
        pd.Series([0.75, 0.5], index=[2, 1]),
        pd.DataFrame({"rank": [1.0, 2.0], "accuracy": [0.5, 0.75]}),
        row,
        ((1, 2), (0.5, 0.75)),
        (np.array([2, 1]), np.array([0.75, 0.5])),
        ([1, 2], FOUR),
        Curve.from_outcomes([1, 2], FOUR),
    ]
    for source in sources:
        curve = as_curve(source)
        assert (curve.ranks, curve.accuracy) == ((1, 2), (0.5, 0.75))
    assert as_curve(row).adapter == "x"
    np.testing.assert_array_equal(as_curve(by_doc).outcomes, FOUR)


def test_rank_0_of_a_table_is_the_base():
    base = pd.DataFrame({"rank": 0, "doc_id": ["a", "b", "c", "d"], "score": [1, 0, 0, 0]})
    docs = ["d", "c", "b", "a"]
    ranks = [pd.DataFrame({"rank": r, "doc_id": docs, "score": FOUR[r - 1][::-1]}) for r in (1, 2)]
    curve = as_curve(pd.concat([base, *ranks]))
    assert (curve.ranks, curve.baseline) == ((1, 2), 0.25)
    assert curve.base_scores.tolist() == [0, 0, 0, 1]  # in the order of the ranks' documents
    fewer = as_curve(pd.concat([base[:2], *ranks]))
    assert (fewer.base_scores, fewer.baseline) == (None, 0.5)
    points = pd.DataFrame({"rank": [0, 1, 2], "accuracy": [0.1, 0.5, 0.75], "bytes": [None, 8, 9]})
    assert (as_curve(points).ranks, as_curve(points).baseline) == ((1, 2), 0.1)
    assert as_curve(points[1:]).baseline is None
    assert as_curve(points.assign(accuracy=[None, 0.5, 0.75])).baseline is None
    with pytest.raises(CurveError, match="rank 0 with several accuracies"):
        as_curve(pd.concat([points, points[:1].assign(accuracy=0.2)]))
    with pytest.raises(CurveError, match="no ranks"):
        as_curve(points[:1])


def test_intervals_of_a_table_are_kept():
    table = pd.DataFrame(
        {
            "rank": [4, 1, 2],
            "accuracy": [0.4, 0.2, None],
            "low": [0.3, 0.1, 0.1],
            "high": [0.5, 0.4, 0.3],
        }
    )
    curve = as_curve(table)
    assert dict(curve.intervals) == {1: (0.1, 0.4), 4: (0.3, 0.5)}
    assert dict(curve.missing) == {2: "empty in the table"}
    assert dict(curve.at([4]).intervals) == {4: (0.3, 0.5)}
    with pytest.raises(CurveError, match=r"accuracy 0\.2 at rank 1 outside of its interval"):
        Curve((1, 2), (0.2, 0.3), intervals={1: (0.3, 0.4)})


def test_missing_ranks_keep_their_reason_and_are_no_zero():
    row = {"ranks": [1, 2, 4], "accuracy": [0.5, None, 0.7], "missing": {"2": "out of memory"}}
    curve = as_curve(row)
    assert curve.ranks == (1, 4)
    assert dict(curve.missing) == {2: "out of memory"}
    assert dict(curve.at([1, 4]).missing) == {}


def test_at_selects_ranks_and_their_documents():
    curve = Curve.from_outcomes([1, 2, 4], [*FOUR, [1, 1, 1, 1]], task="t")
    part = curve.at([4, 1])
    assert part.ranks == (1, 4)
    assert part.task == "t"
    np.testing.assert_array_equal(part.outcomes, [FOUR[0], [1, 1, 1, 1]])
    with pytest.raises(CurveError, match="has no rank 8"):
        curve.at([8])


@given(st.dictionaries(st.integers(1, 512), st.floats(0, 1), min_size=1, max_size=9), st.randoms())
def test_order_of_ranks_never_matters(points, random):
    shuffled = list(points.items())
    random.shuffle(shuffled)
    one, other = as_curve(points), as_curve(dict(shuffled))
    assert one.ranks == other.ranks == tuple(sorted(points))
    assert one.accuracy == other.accuracy


def test_the_labels_of_a_curve_are_its_fields():
    names = {f.name for f in dataclasses.fields(Curve)} - {"ranks", "accuracy", "outcomes"}
    assert set(CurveFields.__annotations__) == names
