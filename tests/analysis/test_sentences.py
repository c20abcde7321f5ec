"""No sentence contradicts its interval: properties of every pair, over random outcomes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stats_draws import rng, two

from aurac.analysis.comparisons import PairTest, finished
from aurac.analysis.rows import PairRow
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.stats import difference, holm

if TYPE_CHECKING:
    from aurac.stats.paired import Difference


ALPHA = 0.05


@dataclass(frozen=True)
class Data:
    """Two matrices (S, n) on the same documents, with or without labels."""

    a: np.ndarray
    b: np.ndarray
    clusters: tuple[int, ...] | None = None
    strata: tuple[int, ...] | None = None

    def compare(self) -> Difference:
        return difference(self.a, self.b, clusters=self.clusters, strata=self.strata)

    def at(self, order) -> Data:
        def picked(labels):
            return None if labels is None else tuple(labels[i] for i in order)

        return Data(self.a[:, order], self.b[:, order], picked(self.clusters), picked(self.strata))


def drawn(seed: int, n: int, seeds: tuple[int, int], kind: str, labels: str) -> Data:
    draw = np.random.default_rng(seed)
    level = draw.choice([0.02, 0.3, 0.6, 0.98])
    base = (draw.random(n) < level).astype(float)
    matrices = []
    for i, count in enumerate(seeds):
        rows = np.tile(base, (count, 1))
        if kind == "few":
            rows[:, : i * int(draw.integers(0, 4))] = 1.0
        elif kind == "many":
            rows = (draw.random((count, n)) < 0.3 + 0.3 * draw.random()).astype(float)
        elif kind == "skewed":
            rows = np.clip(rows * 0.5 + i * draw.choice([1 / 16, -0.5], p=[0.9, 0.1], size=n), 0, 1)
        elif kind == "shifted":
            rows = np.clip(rows * 0.6 + 0.2 * draw.random((count, 1)), 0, 1)
        elif kind == "constant":
            rows[:] = draw.choice([0.0, 0.5, 1.0], p=[0.3, 0.4, 0.3])
        matrices.append(rows)
    groups = tuple(int(g) for g in draw.integers(0, max(2, n // 3), n))
    clusters = groups if "clusters" in labels else None
    strata = tuple(g % 2 for g in groups) if "strata" in labels else None
    return Data(*matrices, clusters, strata)


DATA = st.builds(
    drawn,
    st.integers(0, 2**32 - 1),
    st.integers(6, 80),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from(["same", "few", "many", "skewed", "shifted", "constant"]),
    st.sampled_from(["", "clusters", "strata", "clusters and strata"]),
)


PROPERTY = settings(deadline=None, max_examples=150)
# Two or three clusters, and the spread between documents is no more than that between seeds: an
# interval that shrank as its level grew gave p < .001 to an interval around 0, and p = .9 without.
FEW_CLUSTERS = (
    drawn(1334585333, 8, (1, 2), "many", "clusters"),
    drawn(2057433282, 12, (4, 1), "many", "clusters and strata"),
)


def row_of(a: str, b: str, task: str | None, result: Difference, p_holm: float | None) -> PairRow:
    """The row of an analysis that has this difference."""
    return finished(PairTest(PairRow(a, b, task, "log2"), result), p_holm)


def numbers(result: Difference) -> list[float | None]:
    return [result.estimate.value, result.estimate.low, result.estimate.high, result.p]


def same(one: list[float | None], other: list[float | None]) -> bool:
    return all(
        (x is None) == (y is None) and (x is None or x == pytest.approx(y, rel=1e-5, abs=1e-7))
        for x, y in zip(one, other, strict=True)
    )


@PROPERTY
@given(DATA)
@example(FEW_CLUSTERS[0])
@example(FEW_CLUSTERS[1])
def test_the_interval_leaves_0_out_where_p_is_at_most_alpha(data):
    result = data.compare()
    estimate = result.estimate
    if estimate.low is None:
        assert result.p is None
        return
    assert estimate.low <= estimate.value <= estimate.high
    assert 0 < result.p <= 1
    outside = not estimate.low <= 0 <= estimate.high
    nearest = min(abs(estimate.low), abs(estimate.high))
    assert outside == (result.p <= ALPHA) or nearest < 1e-9


@PROPERTY
@given(st.lists(DATA, min_size=1, max_size=4))
@example([FEW_CLUSTERS[0]])
def test_every_sentence_agrees_with_its_interval_and_its_adjusted_p(several):
    result = [data.compare() for data in several]
    for one, p in zip(result, holm([one.p for one in result]), strict=True):
        row = row_of("a", "b", "t", one, p)
        text, sign = row.sentence, row.verdict
        if "better" in text:
            low, high = one.estimate.low, one.estimate.high
            assert p <= ALPHA
            assert (low > 0) if "b is better than a" in text else (high < 0)
            assert sign == (1 if "b is better than a" in text else -1)
        elif p is not None:
            assert p > ALPHA
            assert sign in (0, None)
            assert "not significant" in text
            inside = one.estimate.low <= 0 <= one.estimate.high
            assert ("leaves 0 out" in text) == (not inside and sign == 0)


@PROPERTY
@given(DATA)
def test_swapping_mirrors_everything(data):
    one, other = data.compare(), replace(data, a=data.b, b=data.a).compare()
    value, low, high, p = numbers(other)
    mirrored = [-value, None if high is None else -high, None if low is None else -low, p]
    assert same(numbers(one), mirrored)
    assert same([one.mde], [other.mde])


@PROPERTY
@example(drawn(26359440, 6, (3, 1), "many", "clusters"), 1)  # clusters alike but for rounding
@given(DATA, st.integers(0, 2**32 - 1))
def test_the_order_of_documents_and_seeds_changes_nothing(data, seed):
    draw = np.random.default_rng(seed)
    result = numbers(data.compare())
    documents = np.arange(data.a.shape[1])
    assert same(result, numbers(data.at(draw.permutation(documents)).compare()))
    assert same(result, numbers(data.at(documents[::-1]).compare()))
    shuffled = replace(data, a=draw.permutation(data.a), b=draw.permutation(data.b))
    assert same(result, numbers(shuffled.compare()))


def lines(seed: int) -> list[Curve]:
    """Two adapters, two tasks, three seeds whose shifts are shared by the tasks."""
    draw = np.random.default_rng(seed)
    shift = {(a, s): 0.15 * draw.standard_normal() for a in "xy" for s in range(3)}
    return [
        Curve.from_outcomes(
            [1, 2],
            draw.random((2, 80)) < 0.5 + shift[a, s],
            adapter=a,
            task=task,
            seed=s,
            doc_ids=tuple(f"{task}{i}" for i in range(80)),
        )
        for a in "xy"
        for task in "tu"
        for s in range(3)
    ]


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_lines_changes_no_number(seed):
    curves = lines(seed)
    mixed = [curves[i] for i in np.random.default_rng(seed).permutation(len(curves))]
    mixed.sort(key=lambda curve: curve.adapter)  # b - a keeps its direction

    def by_name(result) -> dict:
        rows = [(r.a, r.b, None, r.estimate) for r in result.aggregates]
        rows += [(r.a, r.b, r.task, r.estimate) for r in result.pairs]
        rows += [(r.adapter, None, r.task, r.log2) for r in result.scores]
        return {row[:3]: [row[3].value, row[3].low, row[3].high] for row in rows}

    first, second = (by_name(analyse(some)) for some in (curves, mixed))
    assert first.keys() == second.keys()
    assert all(same(first[key], second[key]) for key in first)


def test_other_seeds_on_another_task_give_no_aggregate_and_say_why():
    curves = [
        replace(curve, seed=curve.seed + 7) if curve.task == "u" else curve for curve in lines(1)
    ]
    result = analyse(curves)
    assert all(row.estimate is None for row in result.aggregates)
    assert all(
        "other seeds on u (x 7, x 8, x 9) than on t" in r.reason for r in result.aggregates[:1]
    )


def test_sentences_claim_no_more_than_the_data():
    a, b = two(6)
    result = difference(a, b)
    row = row_of("lora", "dylora", "gsm8k", result, result.p)
    assert row.verdict == 1
    text = row.sentence
    assert text.startswith("dylora is better than lora on gsm8k by 5.7 points (95 % interval")
    assert "; significant, Holm p " in text
    assert "conditional on these checkpoints" in text
    same = difference(a, a[::-1])
    row = row_of("lora", "dylora", None, same, 1.0)
    text = row.sentence
    assert "is not significant (Holm p = 1.000), conditional" in text
    assert re.search(r"the test detects \d\.\d points or more \(80 % power\)", text)
    assert row.verdict == 0
    text = row_of("lora", "dylora", None, result, 0.2).sentence
    assert "although this pair's own interval leaves 0 out" in text


def test_two_seeds_give_no_verdict_rather_than_a_wrong_one():
    draw = rng(8)
    a, b = draw.random((2, 2, 300)) < 0.5
    result = difference(a.astype(float), b.astype(float))
    row = row_of("a", "b", None, result, result.p)
    assert row.verdict is None
    assert "no verdict, since two seeds" in row.sentence
