"""`aurac.score`: one curve, from what users have."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import aurac
from aurac.analysis import analyse
from aurac.curves.curve import Curve
from aurac.errors import CurveError, UsageError
from aurac.readers import read_curves


def test_accuracies_alone_have_an_area_and_no_interval():
    found = aurac.score({1: 0.2, 2: 0.3, 4: 0.4, 0: 0.1})
    assert found.value == pytest.approx((0.2 + 2 * 0.3 + 0.4) / 4)
    assert found.linear == pytest.approx((0.2 + 0.3 + 2 * (0.3 + 0.4)) / 2 / 3)
    assert np.isnan([found.low, found.high]).all()
    assert found.weights == (0.25, 0.5, 0.25)
    assert float(found) == found.value
    assert f"{found:.1%}" == "30.0%"
    assert "value=0.3" in f"{found}"


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
    with pytest.raises(CurveError, match=r"read_curves"):
        aurac.score(path)


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
        "assert set(aurac.__all__) <= set(dir(aurac))\n"
        "assert not hasattr(aurac, 'nothing')\n"
        "aurac.load_run\n"
        "assert not {'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)\n"
        "assert all(callable(getattr(aurac, name)) for name in aurac.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 0.15


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
