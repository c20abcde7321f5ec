"""`aurac.score`: one curve, from what users have."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import aurac
from aurac.analysis import Question, analyse
from aurac.curves.curve import Curve
from aurac.errors import CurveError, DataError, UsageError

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
    assert lora - dylora == 0.125
    assert sorted([lora, best, dylora]) == [dylora, lora, best]
    assert f"{lora:.2f}" == "0.25"
    assert pickle.loads(pickle.dumps(lora)).weights == (0.5, 0.5)
    curve = next(c for c in aurac.load_run(REPORTS / "word_problems").curves if c.adapter == "lora")
    assert str(aurac.score(curve)) == f"{aurac.score(curve)}" == "46.9 % [37.5, 56.3]"
    assert repr(aurac.score(curve)) == "Score(46.9 % [37.5, 56.3])"


def test_the_interval_is_that_of_analyse():
    outcomes = np.random.default_rng(0).integers(0, 2, (3, 90))
    clusters = tuple(str(i // 3) for i in range(90))
    curve = Curve.from_outcomes([1, 2, 8], outcomes, clusters=clusters)
    found, row = aurac.score(curve), analyse([curve]).scores.iloc[0]
    assert (found.value, found.low, found.high) == pytest.approx((row.aurac, row.low, row.high))
    assert found.linear == pytest.approx(row.aurac_linear)


LONG = [("a", rank, doc, float(doc + rank > 3)) for rank in (1, 2, 4) for doc in range(5)]


def test_data_frames(tmp_path):
    long = pd.DataFrame(LONG, columns=["adapter", "rank", "example", "score"])
    rows = {rank: [x[3] for x in LONG if x[1] == rank] for rank in (1, 2, 4)}
    found, same = aurac.score(long), aurac.score(rows)
    assert (found.value, found.low, found.high) == (same.value, same.low, same.high)
    means = long.groupby("rank")["score"].mean()
    assert aurac.score(means.reset_index(name="accuracy")) == pytest.approx(found.value)
    long.to_csv(path := tmp_path / "one.csv", index=False)
    assert aurac.score(path) == aurac.score(str(path)) == found
    with pytest.raises(CurveError, match=r"several curves \(a; b\)"):
        aurac.score(pd.concat([long, long.assign(adapter="b")]))
    for frame in (long.pivot(index="rank", columns="example", values="score"), long[["score"]]):
        with pytest.raises(DataError, match="a table has rank and accuracy"):
            aurac.score(frame)


def test_numbers_alone_load_no_heavy_library():
    code = (
        "import sys, aurac\n"
        "aurac.score({1: .3, 2: .4})\n"
        "assert not {'pandas', 'scipy', 'torch'} & set(sys.modules)\n"
        "assert dir(aurac) == sorted(aurac.__all__)\n"
        "assert not hasattr(aurac, 'nothing')\n"
        "aurac.load_run\n"
        "assert not {'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)\n"
        "assert all(callable(getattr(aurac, name)) for name in aurac.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_adapters_have_names_whatever_these_look_like():
    """A number as a name is no rank. The areas of .2, .3, .4 and of .25, .35, .45."""
    low, high = {1: 0.2, 2: 0.3, 4: 0.4}, {1: 0.25, 2: 0.35, 4: 0.45}
    for names in (("low", "high"), ("42", "43"), (7, 8)):
        scores = aurac.analyse(dict(zip(names, (low, high), strict=True))).scores
        known = scores.set_index("adapter").aurac.to_dict()
        assert known == pytest.approx(dict(zip(map(str, names), (0.3, 0.35), strict=True)))
    curves = [Curve((1, 2, 4), tuple(x.values()), adapter=str(x[1])) for x in (low, high)]
    for source in (curves, iter(curves), {"low": curves[0], "high": high}):
        assert aurac.analyse(source).scores.aurac.tolist() == pytest.approx([0.35, 0.3])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (pd.DataFrame({1: [0.2, 0.3], 2: [0.3, 0.4]}, index=[7, 8]), "a table has rank and"),
        (pd.Series([0.2, 0.3], index=[1, 2]), "type float is no curve"),
        ([0.1, 0.2, 0.3], "type float is no curve"),
        ({float("inf"): 0.1, 2: 0.2}, "Rank inf is no whole number"),
    ],
)
def test_what_may_be_misread_is_refused(source, message):
    for function in (aurac.score, aurac.analyse):
        with pytest.raises((CurveError, DataError), match=message):
            function(source)


@pytest.mark.parametrize(
    "asked", [{"limit": 1}, {"tasks": ("t",)}, {"metrics": {"t": "acc"}}, {"clusters": {"t": "x"}}]
)
def test_what_only_a_run_can_answer_is_not_asked_of_curves(asked):
    with pytest.raises(UsageError, match=f"{min(asked)} can be asked of a run"):
        aurac.analyse({1: 0.2, 2: 0.3}, Question(**asked))


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
