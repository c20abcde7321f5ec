"""The five frames: what each column is, against numbers computed here."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aurac.analysis import Question, analyse
from aurac.analysis.frames import MEAN
from aurac.analysis.schema import COLUMNS, FRAMES, Key
from aurac.curves.area import quadrature_weights
from aurac.curves.curve import Curve
from aurac.errors import CurveError, UsageError
from aurac.stats.estimate import (
    FRACTION,
    components,
    estimate,
    further_examples,
    minus,
    one_sided,
    over_tasks,
)

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
        assert tuple(getattr(found, name).columns) == columns
        assert {column.removeprefix("a_").removeprefix("b_") for column in columns} <= {*COLUMNS}
    assert len(found.pairs) == len(found.rank_pairs) == len(found.recommended) == 0


def test_scores_are_the_mean_of_the_examples_areas():
    curve = made()
    row = analyse([curve]).scores.iloc[0]
    areas = quadrature_weights(RANKS) @ curve.outcomes
    expected = estimate(components(areas[None]), FRACTION)
    assert (row.aurac, row.low, row.high) == pytest.approx(expected[:3])
    assert row.aurac_linear == pytest.approx(quadrature_weights(RANKS, "linear") @ curve.accuracy)
    assert (row.base, row.examples, row.seeds) == (curve.baseline, 300, 1)
    assert (row.basis, row.rescale, row.cut) == ("prefix", "rule", "prefix")
    assert np.isnan(row.seed_sd)


def test_points_stand_against_the_base_and_the_trained_rank():
    curve = made(trained_rank=8)
    points = analyse([curve]).points.set_index("rank")
    assert list(points.index) == [0, *RANKS]
    assert points.accuracy[0] == curve.baseline
    assert points.above_base.tolist()[1:] == [True] * 4
    assert np.isnan(points.above_base[0])
    loss = components((curve.outcomes[3] - curve.outcomes[1])[None])
    assert points.loss[2] == pytest.approx(float(loss.value))
    assert points.loss_bound[2] == pytest.approx(one_sided(loss)[1])
    assert np.isnan(points.loss[8])
    assert points.bytes[4] == 400


def test_a_rank_is_above_the_base_where_the_interval_of_the_difference_is():
    weak = made(level=-1.25)
    points = analyse([weak]).points.set_index("rank")
    for place, rank in enumerate(RANKS):
        above = components((weak.outcomes[place] - weak.base_scores)[None])
        assert points.above_base[rank] == (one_sided(above)[0] > 0)
    assert set(points.above_base.dropna()) == {True, False}


def test_pairs_are_one_family_winner_first():
    curves = [made("a", 0.0), made("bb", 0.5), made("ccc", 0.2)]
    found = analyse(curves)
    assert list(found.scores.adapter) == ["bb", "ccc", "a"]
    assert list(zip(found.pairs.a, found.pairs.b, strict=True)) == [
        ("bb", "ccc"), ("bb", "a"), ("ccc", "a")
    ]  # fmt: skip
    assert set(found.pairs.comparisons) == {3}
    assert (found.pairs.difference >= 0).all()
    weights = quadrature_weights(RANKS)
    parts = components((weights @ (curves[1].outcomes - curves[0].outcomes))[None])
    row = rows(found.pairs, a="bb", b="a").iloc[0]
    assert (row.low, row.high, row.p) == pytest.approx(estimate(parts, tests=3)[1:])
    assert parts.value == pytest.approx(row.difference)
    areas = weights @ (curves[1].outcomes - curves[0].outcomes)
    assert (row.wins, row.losses) == (np.sum(areas > 1e-9), np.sum(areas < -1e-9))


def test_a_reference_is_compared_with_all_others():
    curves = [made("a", 0.0), made("bb", 0.5), made("ccc", 0.2)]
    found = analyse(curves, Question(reference="ccc"))
    assert list(zip(found.pairs.a, found.pairs.b, strict=True)) == [("bb", "ccc"), ("ccc", "a")]
    assert set(found.pairs.comparisons) == {2}
    assert len(found.rank_pairs) == 2 * len(RANKS)
    with pytest.raises(UsageError, match="no x to compare with"):
        analyse(curves, Question(reference="x"))


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


def test_pairs_at_a_rank_stand_alone_and_keep_the_order_of_the_pair():
    low, high = made("a", 0.0), made("bb", 0.4)
    worse_first = replace(high, accuracy=(0.0, *high.accuracy[1:]), outcomes=np.vstack(
        [np.zeros(300), high.outcomes[1:]]))  # fmt: skip
    found = analyse([low, worse_first]).rank_pairs
    assert set(found.a) == {"bb"}
    first = found.iloc[0]
    parts = components((worse_first.outcomes[0] - low.outcomes[0])[None])
    assert first.difference < 0
    assert (first.difference, first.low, first.high) == pytest.approx(estimate(parts)[:3])


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
    assert found.recommended.empty


def test_unequal_ranks_are_compared_on_those_that_all_have():
    whole, part = made("a", 0.0), made("bb", 0.5).at([2, 4])
    found = analyse([whole, part, made("ccc").at([4])])
    assert found.ranks == {"gsm8k": (2, 4)}
    expected = quadrature_weights([2, 4]) @ whole.at([2, 4]).accuracy
    assert rows(found.scores, adapter="a").aurac.item() == pytest.approx(expected)
    assert rows(found.scores, adapter="ccc").aurac.isna().all()  # one rank has no area
    assert set(found.pairs.comparisons) == {1}
    assert set(rows(found.rank_pairs, b="ccc")["rank"]) | set(
        rows(found.rank_pairs, a="ccc")["rank"]
    ) == {4}


def test_a_missing_rank_leaves_points_and_no_area():
    lost = replace(made("a").at([1, 2, 4]), missing={8: "out of memory"})
    found = analyse([lost, made("bb")])
    assert rows(found.scores, adapter="a").aurac.isna().all()
    assert list(rows(found.points, adapter="a")["rank"]) == [0, 1, 2, 4]
    assert found.pairs.empty
    assert found.ranks == {"gsm8k": RANKS}


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
    names = {row.key: row.name for row in found.rows}
    assert names == {
        Key("lora", "svd", "keep"): "lora",
        Key("lora", "prefix", "rule"): "lora (prefix)",
        Key("m", "prefix", "trained"): "m",
        Key("m", "prefix", "rule"): "m (prefix without P)",
    }
    cuts = found.pairs[["a", "a_basis", "a_rescale", "b", "b_basis", "b_rescale"]]
    assert len(cuts.drop_duplicates()) == 6
    assert set(found.scores.adapter) == {"lora", "m"}
    odd = analyse([made("lora, prefix"), made("lora", basis="svd", rescale="keep"), made("lora")])
    assert {row.name for row in odd.rows} == {"lora, prefix", "lora", "lora (prefix)"}
    against = analyse(curves, Question(reference="lora (prefix)")).pairs
    assert ((against.a_basis == "prefix") | (against.b_basis == "prefix")).all()
    assert len(against) == 3


def test_the_mean_over_tasks_comes_first_and_averages_within_each_seed():
    curves = [
        made(f"{name}{s}", level, task=task, seed=s, draw=len(task), n=n, data_order="x")
        for name, level in (("a", 0.0), ("bb", 0.5))
        for s in range(3)
        for task, n in (("one", 300), ("three", 100))
    ]
    groups = {name: [f"{name}{s}" for s in range(3)] for name in ("a", "bb")}
    found = analyse(curves, Question(groups=groups))
    assert list(found.scores.task) == [MEAN, MEAN, "one", "one", "three", "three"]
    top = found.scores.iloc[0]
    parts = rows(found.scores, adapter="bb")
    assert top.aurac == pytest.approx(parts.aurac[1:].mean())
    assert (top.examples, top.seeds) == (400, 3)
    assert list(found.pairs.task) == [MEAN, "one", "three"]
    assert found.pairs.difference[0] == pytest.approx(found.pairs.difference[1:].mean())
    assert found.pairs.high[0] - found.pairs.low[0] < found.pairs.high[2] - found.pairs.low[2]


def test_a_mean_over_tasks_turns_the_pairs_that_another_adapter_wins():
    curves = [made("a", 0.6, task="x"), made("bb", 0.0, task="x"),
              made("a", 0.0, task="y"), made("bb", 0.2, task="y")]  # fmt: skip
    pairs = analyse(curves).pairs
    assert list(zip(pairs.a, pairs.b, strict=True)) == [("a", "bb"), ("a", "bb"), ("bb", "a")]
    assert pairs.difference[0] == pytest.approx((pairs.difference[1] - pairs.difference[2]) / 2)
    assert pairs.low[0] <= pairs.difference[0] <= pairs.high[0]


def test_a_mean_over_tasks_keeps_the_arms_apart_where_the_winner_changes():
    def seeds(name: str, count: int, level: float, task: str) -> list[Curve]:
        return [made(f"{name}{s}", level + 0.1 * s, task=task, draw=s) for s in range(count)]

    curves = [*seeds("a", 5, 0.6, "x"), *seeds("bb", 3, 0.0, "x"),
              *seeds("a", 5, 0.0, "y"), *seeds("bb", 3, 0.9, "y")]  # fmt: skip
    groups = {"a": [f"a{s}" for s in range(5)], "bb": [f"bb{s}" for s in range(3)]}
    found = analyse(curves, Question(groups=groups))
    row = rows(found.pairs, task=MEAN).iloc[0]
    assert {*found.pairs.a} == {"a", "bb"}
    parts = []
    for task in ("x", "y"):
        arms = []
        for name in "a", "bb":
            [row_of] = [r for r in found.rows if (r.task, r.name) == (task, name)]
            arms.append(row_of.parts(row_of.areas(RANKS)))
        parts.append(minus(*arms))
    assert [arm.count for arm in over_tasks(parts).seeds] == [5, 3]
    expected = estimate(over_tasks(parts))
    sign = 1 if row.a == "a" else -1
    assert row.difference == pytest.approx(sign * expected.value)
    assert {row.low, row.high} == {sign * expected.low, sign * expected.high}


def test_seeds_of_another_task_are_other_checkpoints():
    def seeds(adapter: str, task: str) -> list[Curve]:
        return [made(f"{adapter}{s}", 0.1 * s, task=task, seed=s, draw=s) for s in range(3)]

    groups = {"a": [f"{task}-a{s}" for task in "xy" for s in range(3)]}
    own = analyse([*seeds("x-a", "x"), *seeds("y-a", "y")], Question(groups=groups)).scores
    same = [*seeds("x-a", "x"), *seeds("x-a", "y")]
    shared = analyse(same, Question(groups={"a": groups["a"][:3]})).scores
    widths = [scores.high[0] - scores.low[0] for scores in (own, shared)]
    assert widths[0] < widths[1]  # independent seeds average out, the same ones do not


def test_a_mean_counts_each_example_once():
    whole = made("a", n=300, task="all", doc_ids=tuple(
        f"{part}:{i}" for part in ("one", "two") for i in range(150)))  # fmt: skip
    other = made("a", n=100, task="other", draw=1)
    member = made("a", n=150, task="one", draw=2)
    assert MEAN not in {*analyse([whole, member]).scores.task}
    found = analyse([member, whole, other])
    assert found.averaged == ("all", "other")
    mean = rows(found.scores, task=MEAN).iloc[0]
    assert mean.examples == 400
    areas = found.scores.set_index("task").aurac
    assert mean.aurac == pytest.approx((areas["all"] + areas["other"]) / 2)
    metrics = [made("a", metric=name, draw=i) for i, name in enumerate(("acc,none", "f1,none"))]
    assert MEAN not in {*analyse(metrics).scores.task}
    again = replace(other, task="other_cot", doc_hashes=tuple(map(str, range(100))))
    first = replace(other, doc_hashes=again.doc_hashes)
    assert MEAN not in {*analyse([first, again]).scores.task}  # the same examples, asked otherwise


def test_an_adapter_without_a_result_on_a_task_has_no_mean():
    found = analyse([made("a", task="x"), made("a", task="y"), made("bb", task="x")])
    assert list(rows(found.scores, task=MEAN).adapter) == ["a"]
    assert rows(found.pairs, task=MEAN).empty


def test_records_are_json_with_none_where_there_is_nothing():
    found = analyse([made("a"), made("bb", 0.3).at([4])], Question(margin=0.1))
    for name in FRAMES:
        records = json.loads(json.dumps(found.records(name), allow_nan=False))
        assert len(records) == len(getattr(found, name))
    missing = next(row for row in found.records("scores") if row["adapter"] == "bb")
    assert missing["aurac"] is None
    assert missing["examples"] == 300
    assert type(missing["examples"]) is int


def test_what_is_missing_in_a_frame_is_nan():
    found = analyse([made("a", sizes={1: 10}, basis=None, rescale=None)], Question(margin=0.1))
    for name in FRAMES:
        frame = getattr(found, name)
        for column in frame:
            for value in frame[column][frame[column].isna()]:
                assert isinstance(value, float), (name, column)
    assert found.points["rank"].dtype == "int64"
    assert np.isnan(found.points.set_index("rank").bytes[2])
    assert found.scores.cut.isna().all()


def test_answers_that_were_cut_off_are_counted():
    known = {0: 3, 1: 5, 8: 0}
    curves = [made(f"a{s}", unfinished=known | {8: s}, token_limit=48, draw=s) for s in (1, 2)]
    points = analyse(curves, Question(groups={"a": ["a1", "a2"]})).points.set_index("rank")
    assert points.unfinished.dropna().to_dict() == {0: 3, 1: 10, 8: 3}


def test_a_group_has_the_areas_of_its_tasks():
    ids = tuple(f"{part}:{i}" for part in ("one", "two") for i in range(150))
    curve = made(doc_ids=ids)
    areas = quadrature_weights(RANKS) @ curve.outcomes
    found = analyse([curve]).member_areas("gsm8k", ("one", "two"))
    key = Key("lora", "prefix", "rule")
    assert found["one"][key] == pytest.approx(areas[:150].mean())
    assert found["two"][key] == pytest.approx(areas[150:].mean())


def test_seeds_have_a_standard_deviation():
    curves = [made(f"a{s}", 0.1 * s, draw=s) for s in range(3)]
    found = analyse(curves, Question(groups={"a": ["a0", "a1", "a2"]})).scores.iloc[0]
    areas = [quadrature_weights(RANKS) @ curve.accuracy for curve in curves]
    assert found.seed_sd == pytest.approx(np.std(areas, ddof=1))


def test_rolling_metrics_have_points_and_no_area():
    curve = Curve((1, 2), (31.5, 20.25), adapter="a", task="wikitext", rolling=True, baseline=40.0)
    found = analyse([curve, replace(curve, adapter="b")])
    assert list(rows(found.points, adapter="a").accuracy) == [40.0, 31.5, 20.25]
    assert found.points.loss.isna().all()
    assert found.scores.aurac.isna().all()
    assert found.pairs.empty
    assert found.rank_pairs.empty


def test_what_would_be_wrong_in_silence_is_refused():
    with pytest.raises(CurveError, match="different examples"):
        analyse([made("a"), made("bb", n=200)])
    with pytest.raises(CurveError, match="two curves of a on gsm8k"):
        analyse([made("a"), made("a", draw=1)])
    with pytest.raises(CurveError, match="names x, of which there is no curve"):
        analyse([made("a")], Question(groups={"r": ["a", "x"]}))
    with pytest.raises(CurveError, match="in the groups r and s"):
        analyse([made("a")], Question(groups={"r": ["a"], "s": ["a"]}))
    with pytest.raises(CurveError, match="group a has the name of an adapter"):
        analyse([made("a"), made("bb")], Question(groups={"a": ["bb"]}))
    with pytest.raises(UsageError, match="margin 2"):
        Question(margin=2.0)


def test_levels_change_the_intervals_of_scores_and_pairs():
    curves = [made("a"), made("bb", 0.3)]
    wide, narrow = analyse(curves, Question(level=0.99)), analyse(curves, Question(level=0.8))
    for frame in ("scores", "pairs", "rank_pairs"):
        w, n = getattr(wide, frame), getattr(narrow, frame)
        assert (w.low < n.low).all()
        assert (w.high > n.high).all()
    assert (wide.points.loss_bound.dropna() == narrow.points.loss_bound.dropna()).all()
    assert further_examples(1) == 1.0
