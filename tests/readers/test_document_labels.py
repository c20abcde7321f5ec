"""Clusters and strata are used or refused, never dropped; masked values are refused."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import aurac
from aurac.analysis import paired_curves
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.errors import AuracError, CurveError, DataError
from aurac.readers.table import curves_from_frame
from aurac.stats import difference, interval, over_seeds
from aurac.stats.mean import Layout

N = 60
CLUSTERS = [f"p{i // 5}" for i in range(N)]
RNG = np.random.default_rng(0)
IDS = tuple(f"d{i}" for i in range(N))


def outcomes(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.standard_normal(N // 5), 5)
    return (rng.standard_normal((2, N)) + 2 * shared > 0).astype(float)


def frame(**columns: list) -> pd.DataFrame:
    rows = outcomes()
    table = pd.DataFrame(
        {
            "rank": np.repeat([1, 2], N),
            "doc_id": list(IDS) * 2,
            "score": rows.ravel(),
        }
    )
    for name, values in columns.items():
        table[name] = list(values) * 2
    return table


def test_score_uses_the_cluster_and_stratum_columns_of_a_frame():
    curve = Curve.from_outcomes([1, 2], outcomes(), clusters=tuple(CLUSTERS))
    found = aurac.score(frame(cluster=CLUSTERS)).log2
    assert found == aurac.score(curve).log2
    assert "CR2 over 12 clusters" in found.method
    strata = ["x"] * 20 + ["y"] * 40
    assert "within 2 fixed strata" in aurac.score(frame(stratum=strata)).log2.method


def test_rows_in_any_order_give_the_same_score():
    table = frame(cluster=CLUSTERS)
    one = aurac.score(table).log2
    for order in (table.iloc[::-1], table.sample(frac=1, random_state=1)):
        other = aurac.score(order).log2
        assert (other.value, other.se, other.low, other.high) == pytest.approx(
            (one.value, one.se, one.low, one.high)
        )


def test_an_empty_column_is_no_column():
    assert aurac.score(frame(cluster=[None] * N)).log2 == aurac.score(frame()).log2
    (curve,) = curves_from_frame(frame(cluster=[None] * N))
    assert curve.clusters is None


@pytest.mark.parametrize("hole", [None, float("nan"), pd.NA, ""])
def test_missing_labels_are_refused(hole):
    holed = [hole, *CLUSTERS[1:]]
    with pytest.raises(CurveError, match="1 of 60 documents have no label in clusters"):
        aurac.score(frame(cluster=holed))
    with pytest.raises(DataError, match=r"'d0' .*has no cluster"):
        curves_from_frame(frame(cluster=holed))
    with pytest.raises(CurveError, match="no label in clusters"):
        interval(outcomes()[0], clusters=holed)
    with pytest.raises(CurveError, match="no label in strata"):
        Curve.from_outcomes([1, 2], outcomes(), strata=tuple(holed))


def test_a_document_with_two_clusters_is_refused():
    table = frame(cluster=CLUSTERS)
    table.loc[N, "cluster"] = "elsewhere"
    with pytest.raises(CurveError, match="'d0' has more than one cluster"):
        aurac.score(table)


def arm(draw: int, *, order: np.ndarray | None = None, labelled: bool, **labels: object) -> Curve:
    order = np.arange(N) if order is None else order
    return Curve.from_outcomes(
        [1, 2],
        outcomes(draw)[:, order],
        doc_ids=tuple(IDS[i] for i in order),
        clusters=tuple(CLUSTERS[i] for i in order) if labelled else None,
        task="t",
        **labels,
    )


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("which", [(True, False), (False, True)])
def test_labels_of_one_curve_serve_a_pair(which, backwards):
    order = np.arange(N)[::-1] if backwards else None
    both = paired_curves(arm(1, labelled=True), arm(2, labelled=True)).estimate
    a = arm(1, labelled=which[0], adapter="a")
    b = arm(2, order=order, labelled=which[1], adapter="b")
    found = paired_curves(a, b).estimate
    assert (found.value, found.low, found.high) == pytest.approx((both.value, both.low, both.high))
    (pair,) = analyse([a, b]).pairs
    assert (pair.estimate.low, pair.estimate.high) == pytest.approx((both.low, both.high))


def test_labels_that_contradict_are_refused():
    a = arm(1, labelled=True)
    b = Curve.from_outcomes(
        [1, 2], outcomes(2), doc_ids=IDS, clusters=tuple(reversed(CLUSTERS)), task="t"
    )
    with pytest.raises(CurveError, match="has other clusters"):
        paired_curves(a, b)


def test_labels_of_one_seed_serve_all():
    curves = [arm(i, labelled=i == 2, adapter="a", seed=i) for i in range(3)]
    (score,) = analyse(curves).scores
    assert "CR2 over 12 clusters" in score.log2.method


@pytest.mark.parametrize(
    "call",
    [
        lambda scores: interval(scores[0]),
        over_seeds,
        lambda scores: over_seeds(list(scores)),
        lambda scores: difference(scores[0], outcomes()[0]),
        lambda scores: Curve.from_outcomes([1, 2], scores),
        lambda scores: aurac.score({1: scores[0], 2: scores[1]}),
        lambda scores: Layout.make(N, scores[0]),
    ],
)
def test_masked_values_are_refused(call):
    masked = np.ma.masked_array(outcomes(), mask=False)
    call(masked)  # nothing is masked
    masked[0, 3] = np.ma.masked
    with pytest.raises(AuracError, match="1 masked values"):
        call(masked)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-4, 4), st.booleans(), st.booleans(), st.booleans())
@example(
    seed=777019, ease=1.875, grouped=False, layered=True, few=True
)  # documents × seeds are all
def test_the_order_of_documents_never_changes_a_number(seed, ease, grouped, layered, few):
    rng = np.random.default_rng(seed)
    n = 12 if few else 60
    arms = (rng.standard_normal((2, 3, n)) > ease).mean(axis=0)
    clusters = rng.integers(0, 5, n) if grouped else None
    strata = rng.integers(0, 3, n) if layered else None
    if grouped and layered:
        strata = strata[clusters]
    for order in (np.arange(n)[::-1], rng.permutation(n)):
        labels = [None if one is None else one[order] for one in (clusters, strata)]
        pairs = [
            (
                interval(arms[0], clusters=clusters, strata=strata),
                interval(arms[0][order], clusters=labels[0], strata=labels[1]),
            ),
            (
                over_seeds(arms, clusters=clusters, strata=strata),
                over_seeds(arms[:, order], clusters=labels[0], strata=labels[1]),
            ),
        ]
        for one, other in pairs:
            methods = [re.sub(r"\d+\.\d+", "…", each.method) for each in (one, other)]
            assert methods[0] == methods[1]  # but for rounded numbers
            for name in ("value", "se", "low", "high", "df"):
                mine, theirs = getattr(one, name), getattr(other, name)
                assert (mine is None) == (theirs is None)
                assert mine is None or mine == pytest.approx(theirs, rel=1e-6, abs=1e-9)
