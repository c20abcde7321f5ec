"""`aurac.score`: one curve, from what users have."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aurac
from aurac.analysis import analyse
from aurac.curves.curve import Curve
from aurac.curves.numbers import interval
from aurac.errors import CurveError, UsageError
from aurac.readers import read_curves

REPORTS = Path(__file__).parents[2] / "reports"


def test_accuracies_alone_have_an_area_and_no_interval():
    found = aurac.score({1: 0.2, 2: 0.3, 4: 0.4, 0: 0.1})
    assert found.value == pytest.approx((0.2 + 2 * 0.3 + 0.4) / 4)
    assert found.linear == pytest.approx((0.2 + 0.3 + 2 * (0.3 + 0.4)) / 2 / 3)
    assert np.isnan([found.low, found.high]).all()
    assert found.weights == (0.25, 0.5, 0.25)
    assert float(found) == found.value
    assert f"{found:.1%}" == "30.0%"
    assert f"{found}" == "30.0 %"


def test_a_score_is_a_number():
    """With the interval of the screen, by hand 46.9 [37.5, 56.3] of the README's run."""
    lora, dylora, best = (aurac.score({1: x, 2: x}) for x in (0.25, 0.125, 0.5))
    assert lora > dylora
    assert lora - dylora == 0.125
    assert round(lora, 1) == 0.2
    assert sorted([lora, best, dylora]) == [dylora, lora, best]
    assert np.mean([lora, best]) == 0.375
    assert max(lora, best) is best
    assert f"{lora:.2f}" == "0.25"
    assert pickle.loads(pickle.dumps(lora)).weights == (0.5, 0.5)
    curve = next(c for c in aurac.load_run(REPORTS / "word_problems").curves if c.adapter == "lora")
    assert str(aurac.score(curve)) == f"{aurac.score(curve)}" == "46.9 % [37.5, 56.3]"
    assert repr(aurac.score(curve)) == "Score(46.9 % [37.5, 56.3])"


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=9, max_size=9), min_size=2, max_size=2)
)
def test_the_text_of_a_score_is_that_of_the_screen(rows):
    found = aurac.score(([1, 2], rows))
    assert str(found) == interval(found.value, found.low, found.high, " %")


def test_the_interval_is_that_of_analyse():
    outcomes = np.random.default_rng(0).integers(0, 2, (3, 90))
    clusters = tuple(str(i // 3) for i in range(90))
    curve = Curve.from_outcomes([1, 2, 8], outcomes, clusters=clusters)
    found, row = aurac.score(curve), analyse([curve]).scores.iloc[0]
    assert (found.value, found.low, found.high) == pytest.approx((row.aurac, row.low, row.high))
    assert found.linear == pytest.approx(row.aurac_linear)


def test_the_linear_axis_has_weights_and_an_interval_of_its_own():
    rows = {1: [0, 1, 1, 0] * 20, 2: [1, 1, 1, 0] * 20, 8: [1, 1, 1, 1] * 20}
    log2, linear = aurac.score(rows), aurac.score(rows, axis="linear")
    assert log2.linear == linear.value == pytest.approx(linear.linear)
    assert linear.low < linear.value < linear.high
    assert log2.weights != linear.weights


def test_a_file_is_read_first(tmp_path):
    path = tmp_path / "one.csv"
    pd.DataFrame({"rank": [1, 2, 4], "accuracy": [0.2, 0.3, 0.4]}).to_csv(path, index=False)
    (curve,) = read_curves(path)
    assert aurac.score(curve).value == pytest.approx(0.3)
    assert aurac.score(path) == aurac.score(str(path)) == pytest.approx(0.3)
    assert aurac.analyse(path).scores.aurac.tolist() == pytest.approx([0.3])


LONG = [("a", rank, doc, float(doc + rank > 3)) for rank in (1, 2, 4) for doc in range(5)]


def test_data_frames():
    long = pd.DataFrame(LONG, columns=["adapter", "rank", "example", "score"])
    rows = {rank: [x[3] for x in LONG if x[1] == rank] for rank in (1, 2, 4)}
    found, same = aurac.score(long), aurac.score(rows)
    assert (found.value, found.low, found.high) == (same.value, same.low, same.high)
    means = long.groupby("rank")["score"].mean()
    for frame in (means.reset_index(name="accuracy"), means.to_frame(), means):
        assert aurac.score(frame).value == pytest.approx(found.value)
    with pytest.raises(CurveError, match=r"several curves \(a; b\)"):
        aurac.score(pd.concat([long, long.assign(adapter="b")]))
    for frame in (long.pivot(index="rank", columns="example", values="score"), long[["score"]]):
        with pytest.raises(CurveError, match=r"columns .* is no curve"):
            aurac.score(frame)


def test_the_base_of_a_frame_may_name_no_adapter():
    long = pd.DataFrame(LONG, columns=["adapter", "rank", "example", "score"])
    base = long[long["rank"] == 1].assign(adapter=None, rank=0, score=0.0)
    both = pd.concat([base, long, long.assign(adapter="b")])
    curves = aurac.analyse(both).rows
    assert [row.key.adapter for row in curves] == ["a", "b"]
    assert [row.baseline() for row in curves] == [0.0, 0.0]


def test_numbers_alone_load_no_heavy_library():
    code = (
        "import resource, sys, numpy\n"
        "def used(): return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])\n"
        "began = used()\n"
        "import aurac\n"
        "aurac.score({1: .3, 2: .4})\n"
        "assert not {'pandas', 'scipy', 'torch'} & set(sys.modules)\n"
        "print(used() - began)\n"
        "assert dir(aurac) == sorted(aurac.__all__)\n"
        "assert not hasattr(aurac, 'nothing')\n"
        "aurac.load_run\n"
        "assert not {'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)\n"
        "assert all(callable(getattr(aurac, name)) for name in aurac.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 0.15


def test_curves_from_what_pandas_users_have():
    """Each of these has the areas .3 (of .2, .3 and .4) and .35."""
    low, high = {1: 0.2, 2: 0.3, 4: 0.4}, {1: 0.25, 2: 0.35, 4: 0.45}
    frame = pd.DataFrame({"low": low, "high": high}).T.rename_axis(index="adapter")
    series = [pd.Series(low, name="low"), pd.Series(high, name="high")]
    series = [one.rename_axis("rank") for one in series]
    curves = [Curve((1, 2, 4), tuple(one), adapter=one.name) for one in series]
    for source in (frame, {"low": low, "high": series[1]}, curves, iter(curves)):
        scores = aurac.analyse(source).scores.set_index("adapter").aurac
        assert scores.to_dict() == pytest.approx({"low": 0.3, "high": 0.35})
    for source in (low, series[0], curves[0], ([1, 2, 4], series[0]), frame.loc[["low"]]):
        assert aurac.score(source) == pytest.approx(0.3)
        assert aurac.analyse(source).scores.aurac.tolist() == pytest.approx([0.3])
    wide = pd.DataFrame({1: [0, 1, 1, 0], 2: [1, 1, 1, 0], "4": [1, 1, 1, 1]})
    assert aurac.score(wide) == (0.5 + 2 * 0.75 + 1.0) / 4
    assert aurac.score(wide).curve.n_docs == 4
    assert aurac.score(wide.head(1) / 2) == (0.0 + 2 * 0.5 + 0.5) / 4  # accuracies
    tasks = wide.set_axis(["a", "b", "c", "d"])
    for source, message in (
        (tasks, "columns 1, 2, 4 is no curve"),  # rows that may be no examples
        (wide.T.reset_index(drop=True), "labels 0 to 3 may be row numbers or ranks"),
        (7, "type int is no curve"),
        ([0.1, 0.2, 0.3], "type float is no curve"),
        (series, "several curves|two curves"),
        (([1, float("inf")], [0.1, 0.2]), "Rank inf is no whole number"),
        ({1e30: 0.1, 2: 0.2}, r"Rank 1e\+30 is no whole number"),
        ({1: 0.1, 2.5: 0.2}, r"Rank 2\.5 is no whole number"),
    ):
        for function in (aurac.score, aurac.analyse):
            with pytest.raises(CurveError, match=message):
                function(source)
    with pytest.raises(CurveError, match=r"Seed 1\.5 is no whole number"):
        Curve((1, 2), (0.1, 0.2), seed=1.5)


def test_what_has_no_area_is_refused():
    with pytest.raises(UsageError, match="level 95"):
        aurac.score({1: [0, 1], 2: [1, 1]}, level=95)
    for curve, message in (
        ({1: 0.2}, "two ranks"),
        (Curve((1, 2), (20.0, 30.0), rolling=True), "no AURAC"),
        (Curve((1, 2), (0.1, 0.2), missing={4: "out of memory"}), "no accuracy at rank 4"),
    ):
        with pytest.raises(CurveError, match=message):
            aurac.score(curve)
