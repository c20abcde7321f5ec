"""The five frames: order, names, what is missing or refused; `tests/program` has the numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aurac.analysis import Question, analyse
from aurac.analysis.schema import FRAMES, Key
from aurac.curves.area import quadrature_weights
from aurac.curves.checks import MEAN
from aurac.curves.curve import Curve
from aurac.errors import CurveError, UsageError

RANKS = (1, 2, 4, 8)


def made(
    name: str = "lora", level: float = 0.0, n: int = 300, seed: int = 0, draw: int = 0, **labels
) -> Curve:
    """A curve whose latent accuracy rises by rank; `draw` makes the noise another."""
    hard = np.random.default_rng([99, n]).standard_normal(n)
    noise = np.random.default_rng([seed, draw, len(name)]).standard_normal((4, n))
    outcomes = (hard + level + 0.2 * np.arange(4)[:, None] + 0.4 * noise > 0).astype(float)
    base = (hard - 1.0 > 0).astype(float)
    about = {
        "task": "gsm8k", "basis": "prefix", "rescale": "rule", "base_scores": base,
        "doc_ids": tuple(map(str, range(n))), "sizes": {r: 100 * r for r in RANKS},
    }  # fmt: skip
    return Curve.from_outcomes(RANKS, outcomes, adapter=name, **(about | labels))


def rows(frame: pd.DataFrame, **values: object) -> pd.DataFrame:
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return frame


def test_frames_have_their_columns_even_without_a_row():
    found = analyse([made()])
    for name, columns in FRAMES.items():
        assert [*getattr(found, name).columns] == [*columns]
    assert len(found.pairs) == len(found.rank_pairs) == len(found.recommended) == 0


def test_the_mean_over_tasks_and_the_winner_come_first():
    levels = ("a", 0.0), ("bb", 0.5), ("ccc", 0.2)
    curves = [made(name, level, task=task) for name, level in levels for task in ("one", "three")]
    found = analyse(curves)
    assert list(zip(found.scores.task, found.scores.adapter, strict=True)) == [
        (task, name) for task in (MEAN, "one", "three") for name in ("bb", "ccc", "a")
    ]
    pairs = [("bb", "ccc"), ("bb", "a"), ("ccc", "a")]
    assert list(zip(found.pairs.a, found.pairs.b, strict=True)) == 3 * pairs
    assert list(rows(found.points, task="one", adapter="a")["rank"]) == [0, *RANKS]


def test_of_more_than_six_the_first_one_given_is_compared_with_each_other():
    curves = [made(f"a{at}", at / 10) for at in (3, 0, 1, 2, 4, 5, 6)]
    assert len(analyse(curves[:6]).pairs) == 15
    found = analyse(curves)
    assert found.question.reference == "a3"
    assert all("a3" in pair for pair in zip(found.pairs.a, found.pairs.b, strict=True))
    assert set(found.pairs.comparisons) == {6}
    assert len(analyse(curves, Question(reference="all")).pairs) == 21
    assert len(analyse(curves, found.question).pairs) == 6


def test_the_reference_of_several_tasks_is_the_first_that_most_of_them_have():
    curves = [made(f"a{at}", at / 10) for at in range(7)]
    curves += [replace(curve, task="other", doc_hashes=None) for curve in curves[1:]]
    found = analyse(curves)
    assert found.question.reference == "a1"
    sizes = {"mean over tasks": 5, "gsm8k": 6, "other": 5}
    assert found.pairs.groupby("task").size().to_dict() == sizes


def test_an_adapter_may_be_called_all():
    assert len(analyse([made(name, 0.1) for name in ("all", "b", "c")]).pairs) == 3


def test_tables_without_examples_have_values_alone():
    table = pd.DataFrame(
        {"adapter": ["a"] * 3 + ["b"] * 3, "rank": [0, 1, 2] * 2,
         "accuracy": [0.1, 0.2, 0.4, 0.1, 0.3, 0.6]}
    )  # fmt: skip
    found = analyse(table, Question(margin=0.02))
    assert found.scores.aurac.tolist() == pytest.approx([0.45, 0.3])
    assert found.pairs.difference.tolist() == pytest.approx([0.15])
    assert found.pairs[["low", "high", "p"]].isna().all(axis=None)
    assert found.points.loss.dropna().tolist() == pytest.approx([0.3, 0.2])
    assert found.points[["low", "high", "loss_bound", "above_base"]].isna().all(axis=None)
    assert found.recommended["rank"].isna().all()
    assert {*found.scores.reason} == {"the outcomes of its examples are not known"}


def test_equal_values_are_ordered_by_name():
    found = analyse([made("b"), replace(made("b"), adapter="a")])
    assert list(found.scores.adapter) == ["a", "b"]
    pair = found.pairs.iloc[0]
    assert (pair.a, pair.b, pair.difference, pair.p) == ("a", "b", 0.0, 1.0)
    assert (pair.comparisons, pair.examples, pair.seeds) == (1, 300, 1)


def test_further_cuts_are_rows_of_their_own():
    curves = [
        made("lora", basis="svd", rescale="keep"),
        made("lora", draw=1),
        made("m", basis="prefix", rescale="trained", method="matryoshka"),
        made("m", draw=1, method="matryoshka"),
    ]
    found = analyse(curves)
    assert {row.key: row.name for row in found.rows} == {
        Key("lora", "svd", "keep"): "lora",
        Key("lora", "prefix", "rule"): "lora (prefix)",
        Key("m", "prefix", "trained"): "m",
        Key("m", "prefix", "rule"): "m (prefix without P)",
    }
    assert set(found.scores.adapter) == {"lora", "m"}


def test_the_mean_is_over_the_tasks_with_an_area():
    text = Curve((1, 2), (31.5, 20.25), task="text", rolling=True)
    curves = [made(name, task=task) for name in "ab" for task in ("one", "three")]
    found = analyse([*curves, *(replace(text, adapter=name) for name in "ab")])
    assert found.averaged == ("one", "three")
    assert MEAN in {*found.scores.task} & {*found.pairs.task}


def test_a_mean_counts_each_example_once():
    whole = made("a", n=300, task="all", doc_ids=tuple(
        f"{part}:{i}" for part in ("one", "two") for i in range(150)))  # fmt: skip
    member, other = made("a", n=150, task="one", draw=2), made("a", n=100, task="other", draw=1)
    assert analyse([member, whole, other]).averaged == ("all", "other")
    again = replace(other, task="other_cot", doc_hashes=tuple(map(str, range(100))))
    first = replace(other, doc_hashes=again.doc_hashes)
    assert MEAN not in {*analyse([first, again]).scores.task}  # the same examples, asked otherwise


def test_what_is_missing_is_missing_in_a_frame_and_none_in_its_records():
    curves = [made("a", sizes={1: 10}, basis=None, rescale=None), made("bb", 0.3).at([4])]
    found = analyse(curves, Question(margin=0.1))
    for name in FRAMES:
        frame = getattr(found, name)
        records = json.loads(json.dumps(found.records(name), allow_nan=False))
        assert len(records) == len(frame)
        for column in frame:
            none = [record[column] is None for record in records]
            assert frame[column].isna().tolist() == none, (name, column)
    types = found.points.dtypes
    assert [types[x] for x in ("rank", "bytes", "above_base")] == ["int64", "Int64", "boolean"]
    missing = next(row for row in found.records("scores") if row["adapter"] == "bb")
    assert (missing["aurac"], missing["examples"]) == (None, 300)
    assert type(missing["examples"]) is int


def test_a_row_without_a_mean_says_why():
    """Of three adapters on two tasks one lacks a rank on one, one a whole task, one has all."""
    curves = [made("a", task=task) for task in ("one", "two")]
    curves += [
        made("b", task="one"),
        replace(made("b").at([1, 2, 8]), task="two", missing={4: "memory"}),
    ]
    curves += [made("c", task="two")]
    found = analyse(curves)
    mean = rows(found.scores, task=MEAN).set_index("adapter")
    assert mean.reason.to_dict() == {
        "a": None,
        "b": "two: rank 4 has no result: memory",
        "c": "one: it has no result",
    }
    assert mean.aurac.notna().to_dict() == {"a": True, "b": False, "c": False}
    told = [row["reason"] for row in found.records("scores") if row["adapter"] == "b"]
    assert told == ["two: rank 4 has no result: memory", None, "rank 4 has no result: memory"]


def test_a_mean_over_unequal_seeds_says_that_it_has_no_interval():
    one = [made("a", seed=s, draw=s) for s in (1, 2)]
    one = [replace(curve, seed=s) for s, curve in enumerate(one)]
    two = replace(made("a", draw=3), task="two", doc_hashes=None)
    mean = analyse([*one, two]).scores.iloc[0]
    assert (mean.task, mean.reason) == (MEAN, "its tasks have other training seeds")
    assert np.isnan(mean.low)


def test_a_group_has_the_areas_of_its_tasks():
    ids = tuple(f"{part}:{i}" for part in ("one", "two") for i in range(150))
    curves = [made("a", doc_ids=ids), made("b", doc_ids=ids)]
    lacking = replace(made("c", doc_ids=ids).at([1, 4, 8]), missing={2: "x"})
    found = analyse([*curves, lacking]).member_areas("gsm8k", ("one", "two"))
    for member, its in (("one", slice(150)), ("two", slice(150, None))):
        assert found[member] == {
            Key(curve.adapter, "prefix", "rule"): pytest.approx(
                (quadrature_weights(RANKS) @ curve.outcomes)[its].mean()
            )
            for curve in curves
        }


def test_rolling_metrics_have_points_and_no_area():
    curve = Curve((1, 2), (31.5, 20.25), adapter="a", task="wikitext", rolling=True, baseline=40.0)
    found = analyse([curve, replace(curve, adapter="b")])
    assert list(rows(found.points, adapter="a").accuracy) == [40.0, 31.5, 20.25]
    assert found.points.loss.isna().all()
    assert found.scores.aurac.isna().all()
    assert found.pairs.empty
    assert found.rank_pairs.empty


def test_what_would_be_wrong_in_silence_is_refused():
    with pytest.raises(CurveError, match="two curves of a on gsm8k"):
        analyse([made("a"), made("a", draw=1)])
    with pytest.raises(UsageError, match="a is in the groups r and s"):
        analyse([made("a")], Question(groups={"r": ["a"], "s": ["a"]}))
    with pytest.raises(UsageError, match="group a has the name of an adapter"):
        analyse([made("a"), made("bb")], Question(groups={"a": ["bb"]}))
    for wrong, said in (({"margin": 2.0}, "margin 2"), ({"limit": -3}, "limit -3")):
        with pytest.raises(UsageError, match=said):
            Question(**wrong)


def test_levels_change_the_intervals_of_scores_and_pairs():
    curves = [made("a"), made("bb", 0.3)]
    wide, narrow = analyse(curves, Question(level=0.99)), analyse(curves, Question(level=0.8))
    for frame in ("scores", "pairs", "rank_pairs"):
        w, n = getattr(wide, frame), getattr(narrow, frame)
        assert (w.low < n.low).all()
        assert (w.high > n.high).all()
    assert (wide.points.loss_bound.dropna() == narrow.points.loss_bound.dropna()).all()
