"""AURAC against values worked out by hand, scipy's integrator, and its own laws."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import integrate, stats

import aurac
from aurac.analysis.score import score
from aurac.curves.area import document_areas, drops, quadrature_weights
from aurac.curves.coerce import as_curve
from aurac.curves.curve import Curve
from aurac.errors import CurveError

ROOT = Path(aurac.__file__).parents[1]
CURVES = st.dictionaries(st.integers(1, 1024), st.floats(0, 1), min_size=2, max_size=10)


def test_three_ranks_by_hand():
    # log2: x = 0, 1, 2: ((.31+.35)/2 + (.35+.40)/2) / 2 = (.33 + .375) / 2 = .3525
    # linear: x = 1, 2, 4: (1·.33 + 2·.375) / 3 = 1.08 / 3 = .36
    result = score({1: 0.31, 2: 0.35, 4: 0.40})
    assert result.log2.value == pytest.approx(0.3525, abs=1e-12)
    assert result.linear.value == pytest.approx(0.36, abs=1e-12)
    assert result.mean == pytest.approx(1.06 / 3)
    assert float(result) == result.value == result.log2.value
    assert score({1: 0.31, 2: 0.35, 4: 0.40}, axis="linear").value == result.linear.value


def test_weights_by_hand():
    # log2 over 1, 2, 4: intervals of 1 out of 2: ends 1/4, middle 1/2.
    np.testing.assert_allclose(quadrature_weights([1, 2, 4], "log2"), [0.25, 0.5, 0.25])
    # linear: intervals 1 and 2 out of 3: 1/6, (1+2)/6, 2/6.
    np.testing.assert_allclose(quadrature_weights([1, 2, 4], "linear"), [1 / 6, 1 / 2, 1 / 3])
    doubling = [2**i for i in range(9)]
    # The share of the top two ranks of 1..256: (64/2 + 128/2 + 128/2) / 255 ≈ .627.
    assert quadrature_weights(doubling, "linear")[-2:].sum() == pytest.approx(160 / 255)


def test_the_grid_matters_as_the_design_says():
    # The line y = .3 + .0375·log2 r ends at .45 on 16 and .6 on 256: means .375 and .45.
    line = {r: 0.3 + 0.0375 * math.log2(r) for r in [2**i for i in range(9)]}
    assert score(line).value == pytest.approx(0.45)
    assert score({r: y for r, y in line.items() if r <= 16}).value == pytest.approx(0.375)


def test_t_interval_of_four_documents_by_hand():
    # ranks 1, 2 with log2 weights 1/2, 1/2; areas of the documents: .5, .5, .6, .6.
    # mean .55; four squared deviations of .0025; s² = .01/3; se = √(.01/12).
    # 243 effective events, (.45/se)²: Student's t, t(3 df, .975) = 3.18244630528.
    result = score({1: [0.4, 0.5, 0.6, 0.7], 2: [0.6, 0.5, 0.6, 0.5]})
    se = math.sqrt(0.01 / 12)
    assert result.log2.value == pytest.approx(0.55)
    assert result.log2.se == pytest.approx(se)
    assert result.log2.low == pytest.approx(0.55 - 3.18244630528 * se)
    assert result.log2.high == pytest.approx(0.55 + 3.18244630528 * se)
    assert "t with 3 df" in result.log2.method
    assert result.n_docs == 4


def test_interval_equals_scipys_on_the_areas():
    rng = np.random.default_rng(0)
    outcomes = (rng.random((5, 300)) < 0.4).astype(float)
    curve = Curve.from_outcomes([1, 2, 4, 8, 16], outcomes)
    for axis in ("log2", "linear"):
        areas = document_areas(curve, axis)
        ends = stats.ttest_1samp(areas, 0).confidence_interval(0.9)
        result = getattr(score(curve, level=0.9), axis)
        assert (result.low, result.high) == pytest.approx((ends.low, ends.high))
        assert result.se == pytest.approx(stats.sem(areas))


def test_constant_documents_take_the_rule_of_three():
    # n = 100 documents, all wrong: the upper end is 1 - .05^(1/100) = .02951 (3/n = .03).
    result = score(Curve.from_outcomes([1, 2], np.zeros((2, 100)))).log2
    assert (result.value, result.se, result.low) == (0.0, None, 0.0)
    assert result.high == pytest.approx(1 - 0.05**0.01)
    assert "rule of three" in result.method
    right = score(Curve.from_outcomes([1, 2], np.ones((2, 100)))).log2
    assert right.low == pytest.approx(0.05**0.01)
    # All wrong at rank 1, all right at rank 2: both sides open by 1/2 of it.
    half = score(Curve.from_outcomes([1, 2], [np.zeros(100), np.ones(100)])).log2
    assert half.high - 0.5 == pytest.approx((1 - 0.05**0.01) / 2) == pytest.approx(0.5 - half.low)


def test_one_document_has_no_interval_and_says_why():
    result = score({1: [0.2], 2: [0.4]}).log2
    assert result.se is None
    assert result.low is None
    assert "single document" in result.method


def test_clusters_on_the_curve_are_used():
    outcomes = np.repeat((np.random.default_rng(1).random((2, 40)) < 0.5).astype(float), 5, axis=1)
    clusters = tuple(str(i // 5) for i in range(200))
    plain = score(Curve.from_outcomes([1, 2], outcomes)).log2
    grouped = score(Curve.from_outcomes([1, 2], outcomes, clusters=clusters)).log2
    assert "40 clusters" in grouped.method
    # five copies of each document are one document, 40 in all: s²/n grows by 5 and by the
    # factor 40/39 in the place of 200/199 (the residual sums are the same otherwise).
    assert grouped.se == pytest.approx(plain.se * math.sqrt(5 * (40 / 39) * (199 / 200)))
    assert grouped.se > 2 * plain.se


def test_a_rank_0_that_is_left_out_is_noted_once():
    for source in ({0: 0.1, 1: 0.2, 2: 0.3}, ([0, 1, 2], [0.1, 0.2, 0.3])):
        result = score(source)
        assert (result.ranks, result.value) == ((1, 2), pytest.approx(0.25))
        assert sum("rank 0" in note for note in result.notes) == 1
    assert not any(
        "rank 0" in note for note in score(Curve((1, 2), (0.2, 0.3), baseline=0.1)).notes
    )


def test_point_values_say_why_they_have_no_interval():
    result = score({1: 0.1, 2: 0.2})
    assert result.log2.se is None
    assert result.n_docs is None
    assert "per-document" in result.notes[0]
    assert result.to_dict() == {
        "log2": {"value": pytest.approx(0.15), "se": None, "low": None, "high": None},
        "linear": {"value": pytest.approx(0.15), "se": None, "low": None, "high": None},
        "mean": pytest.approx(0.15),
    }
    json.dumps(result.to_dict(), allow_nan=False)


def test_near_the_edge_the_interval_is_exact_and_few_events_are_noted():
    outcomes = np.zeros((2, 200))
    outcomes[:, :10] = 1
    result = score(Curve.from_outcomes([1, 2], outcomes))
    exact = stats.binomtest(10, 200).proportion_ci(0.95, "exact")
    assert result.log2.low == pytest.approx(exact.low)
    assert result.log2.high >= exact.high - 1e-12
    assert result.notes == ()
    outcomes[:, 2:] = 0
    assert "2.0 effective events" in score(Curve.from_outcomes([1, 2], outcomes)).notes[0]
    outcomes[:, :100] = 1
    assert score(Curve.from_outcomes([1, 2], outcomes)).notes == ()


def test_a_row_of_results_json_keeps_its_interval():
    row = {
        "ranks": [1, 2],
        "accuracy": [0.2, 0.4],
        "score": {
            "log2": {"value": 0.3, "se": 0.02, "low": 0.26, "high": 0.34},
            "linear": {"value": 0.3, "se": None, "low": None, "high": None},
            "mean": 0.3,
        },
        "score_method": "t with 199 df, independent documents",
    }
    result = score(row)
    assert (result.log2.low, result.log2.high, result.log2.se) == (0.26, 0.34, 0.02)
    assert result.log2.method == row["score_method"]
    assert result.notes == ()
    assert result.linear.low is None
    # Another level was not recorded, and an interval around another number is not this one's.
    assert score(row, level=0.9).log2.low is None
    row["accuracy"] = [0.3, 0.5]
    assert score(row).log2.low is None


def test_drops_are_reported_not_repaired():
    curve = as_curve({1: 0.3, 2: 0.5, 4: 0.4, 8: 0.6})
    assert drops(curve) == ((2, 4, pytest.approx(0.1)),)
    assert score(curve).accuracy == (0.3, 0.5, 0.4, 0.6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: score({4: 0.2}), r"two ranks and got \[4\]"),
        (lambda: score({1: 0.2, 2: 0.3}, axis="log"), "axis 'log'"),
        (lambda: score({1: 0.2, 2: 0.3}, level=95), "level 95"),
        (lambda: score({0: 0.1, 4: 0.2}), "rank 0, the base model, is no part"),
        (lambda: quadrature_weights([1, 1]), "rank 1 appears twice"),
        (lambda: quadrature_weights([4, 1, 2]), r"ranks \[4, 1, 2\]; expected ascending .*1, 2, 4"),
        (lambda: quadrature_weights(8), r"two ranks and got \[8\]"),
        (lambda: document_areas(as_curve({1: 0.2, 2: 0.3})), "no per-document outcomes"),
        (
            lambda: score({"ranks": [1, 2, 4], "accuracy": [0.1, None, 0.2]}),
            "no accuracy at rank 2",
        ),
    ],
)
def test_refusals(call, words):
    with pytest.raises(CurveError, match=words):
        call()


@given(CURVES)
def test_bounded_by_the_extremes(points):
    result = score(points)
    low, high = min(points.values()), max(points.values())
    for value in (result.log2.value, result.linear.value, result.mean):
        assert low - 1e-12 <= value <= high + 1e-12


@given(CURVES, st.sampled_from(["log2", "linear"]))
def test_weights_are_a_distribution_and_give_the_area(points, axis):
    weights = quadrature_weights(sorted(points), axis)
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1)
    x = np.sort(np.array(list(points), dtype=float))
    y = np.array([points[int(r)] for r in x])
    x = np.log2(x) if axis == "log2" else x
    area = integrate.trapezoid(y, x) / (x[-1] - x[0])
    assert score(points, axis).value == pytest.approx(area, abs=1e-12)


@given(CURVES, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_linear_in_the_accuracies(points, share, seed):
    other = dict(zip(points, np.random.default_rng(seed).random(len(points)), strict=True))
    mixed = {r: share * points[r] + (1 - share) * other[r] for r in points}
    expected = share * score(points).value + (1 - share) * score(other).value
    assert score(mixed).value == pytest.approx(expected, abs=1e-12)


@given(st.sets(st.integers(1, 512), min_size=2, max_size=8), st.integers(1, 512))
def test_a_further_point_on_a_line_changes_nothing(ranks, extra):
    assume(min(ranks) < extra < max(ranks))
    linear = {r: r / 1024 for r in ranks}
    assert score({**linear, extra: extra / 1024}, "linear").value == pytest.approx(
        score(linear, "linear").value
    )
    logs = {r: math.log2(r) / 10 for r in ranks}
    assert score({**logs, extra: math.log2(extra) / 10}).value == pytest.approx(score(logs).value)


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_order_of_documents_never_matters(seed, n):
    rng = np.random.default_rng(seed)
    outcomes = rng.random((3, n))
    one = score(Curve.from_outcomes([1, 2, 4], outcomes)).log2
    other = score(Curve.from_outcomes([1, 2, 4], outcomes[:, rng.permutation(n)])).log2
    assert (one.value, one.se, one.low) == pytest.approx((other.value, other.se, other.low))


def test_pandas_sources():
    assert score(pd.Series({1: 0.31, 2: 0.35, 4: 0.40})).value == pytest.approx(0.3525)


def test_intervals_of_the_ranks_give_a_wide_one_of_the_area():
    """Weights 1/4, 1/2, 1/4 on the log2 axis: (.2 + .6 + .3) / 4 = .275 and 1.65 / 4 = .4125."""
    table = {"rank": [1, 2, 4], "accuracy": [0.31, 0.35, 0.40]}
    ends = {"low": [0.2, 0.3, 0.3], "high": [0.4, 0.4, 0.45]}
    result = score(pd.DataFrame(table | ends))
    assert (result.value, result.log2.se) == (pytest.approx(0.3525), None)
    assert (result.log2.low, result.log2.high) == pytest.approx((0.275, 0.4125))
    assert repr(result) == "Score(0.3525 [0.2750, 0.4125] on the log2 axis, ranks 1, 2, 4)"
    assert score(pd.DataFrame(table | ends), level=0.9).log2.low is None
    assert score(pd.DataFrame(table)).log2.low is None


def test_import_is_light_and_quick():
    code = (
        "import sys, time, numpy\n"
        "start = time.perf_counter()\n"
        "import aurac\n"
        "aurac.score({1: .31, 2: .35})\n"
        "print(time.perf_counter() - start)\n"
        "print(sorted({'torch', 'scipy', 'pandas', 'transformers'} & set(sys.modules)))\n"
    )

    def measure() -> tuple[float, str]:
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.splitlines()
        return float(out[0]), out[1]

    runs = [measure() for _ in range(3)]  # the best of three: a busy machine is no slow import
    assert min(seconds for seconds, _ in runs) <= 0.15
    assert runs[0][1] == "[]"


def test_an_interval_needs_neither_torch_nor_pandas():
    code = (
        "import sys, time, numpy as np\n"
        "start = time.perf_counter()\n"
        "import aurac\n"
        "aurac.score({1: [0, 1], 2: [1, 1]})\n"
        "print('torch' in sys.modules, 'pandas' in sys.modules)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert out.strip() == "False False"


def test_public_names_are_listed_and_unknown_ones_refused():
    assert {"score", "Curve", "Score", "Estimate", "quadrature_weights"} <= set(dir(aurac))
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing'$"):
        _ = aurac.nothing
