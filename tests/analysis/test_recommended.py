"""Which rank may be shipped: down from the trained one, to the first that is not shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from aurac.analysis import Question, analyse
from aurac.curves.curve import Curve

N = 1000
MARGIN = Question(margin=0.02)


def curve(losses: dict[int, float], right: float = 0.6, base: float = 0.2, **labels) -> Curve:
    """At each rank the trained one's accuracy but for that share of the examples."""
    full = (np.arange(N) < right * N).astype(float)
    rows = []
    for loss in losses.values():
        row = full.copy()
        row[: round(loss * N)] = 0.0
        rows.append(row)
    base_scores = (np.arange(N)[::-1] < base * N).astype(float)
    sizes = {rank: 10 * rank for rank in losses}
    labels = {"base_scores": base_scores, "sizes": sizes, "trained_rank": 16} | labels
    return Curve.from_outcomes(list(losses), np.stack(rows), adapter="a", task="t", **labels)


def named(known: Curve, question: Question = MARGIN) -> dict:
    return analyse([known], question).records("recommended")[0]


@pytest.mark.parametrize(("baseline", "rank"), [(0.9, None), (0.59, None), (0.3, 8)])
def test_a_base_of_which_only_the_mean_is_known_counts(baseline, rank):
    known = curve({8: 0.0, 16: 0.0}, base_scores=None, baseline=baseline)
    assert named(known)["rank"] == rank
    assert set(analyse([known]).points.above_base.dropna()) == {rank is not None}


@pytest.mark.parametrize(
    ("losses", "about", "rank"),
    [
        ({1: 0.3, 2: 0.05, 4: 0.004, 8: 0.0, 16: 0.0}, {}, 4),
        ({1: 0.0, 2: 0.05, 4: 0.004, 16: 0.0}, {}, 4),  # the first failure ends it
        ({1: 0.3, 8: 0.1, 16: 0.0}, {}, 16),
        ({8: 0.02, 16: 0.0}, {}, 16),  # a loss of exactly the margin
        ({8: 0.0, 16: 0.0}, {"right": 0.3, "base": 0.3}, None),  # not above the base
        ({4: 0.0, 8: 0.0, 16: 0.1}, {"base": 0.0, "trained_rank": 8}, 4),
        ({2: 0.0, 4: 0.0, 16: 0.0}, {"missing": {8: "out of memory"}}, 16),
        ({2: 0.0, 4: 0.0, 16: 0.0}, {"missing": {3: "out of memory"}}, 4),
    ],
)
def test_the_smallest_rank_down_to_the_first_that_is_not_shown(losses, about, rank):
    found = named(curve(losses, **about))
    assert (found["rank"], found["bytes"]) == (rank, rank and 10 * rank)
    assert found["reference"] == about.get("trained_rank", 16)
    if rank is not None:
        assert found["loss"] == pytest.approx(losses[rank])
        assert found["loss"] <= found["bound"] <= 0.02


def test_a_loss_within_the_margin_whose_bound_is_beyond_it_is_not_shipped():
    """The bound by Student's formula: two further examples, each with the largest loss."""
    known = curve({8: 0.015, 16: 0.0})
    lost = np.append(np.arange(N) < 15, [1.0, 1.0])
    bound = lost.mean() + stats.t.ppf(0.95, N + 1) * lost.std(ddof=1) / np.sqrt(N + 2)
    point = next(point for point in analyse([known]).tables.points if point.rank == 8)
    assert (point.loss, point.loss_bound) == pytest.approx((0.015, bound))
    assert point.loss < MARGIN.margin < bound
    assert named(known)["rank"] == 16
    assert named(known, Question(margin=bound + 1e-6))["rank"] == 8


@pytest.mark.parametrize(
    ("losses", "trained", "slot", "rank", "smallest"),
    [
        ({2: 0.1, 4: 0.001, 8: 0.002, 16: 0.0}, 16, 8, 8, 4),  # not the one with the best result
        ({4: 0.0, 6: 0.0, 8: 0.0, 16: 0.0}, 16, 8, 8, 4),
        ({4: 0.0, 6: 0.0, 16: 0.0}, 16, 8, 6, 4),  # rank 8 was not evaluated
        ({4: 0.1, 8: 0.0, 16: 0.0}, 16, 8, 8, 8),
        ({4: 0.0, 8: 0.0, 16: 0.0}, 8, 8, 8, 4),  # not beyond the trained rank
        ({9: 0.0, 12: 0.0}, 12, 16, 12, 9),  # no smaller slot than that of the trained rank
        ({8: 0.1, 16: 0.0}, 16, 16, 16, 16),
        ({1: 0.0, 2: 0.0, 8: 0.0}, 8, 1, 1, 1),  # the one slot below that of rank 8
        ({1: 0.0, 16: 0.0, 20: 0.0, 32: 0.0}, 32, 1, 1, 1),
    ],
)
def test_in_vllm_the_largest_rank_of_the_smallest_slot_and_elsewhere_the_smallest(
    losses, trained, slot, rank, smallest
):
    found = named(curve(losses, trained_rank=trained, width=100))
    assert (found["slot"], found["rank"], found["smallest_rank"]) == (slot, rank, smallest)
    assert found["loss"] == pytest.approx(losses[rank] if rank != trained else 0.0)
    assert found["bytes"] == 10 * rank
    for width in (0, None):  # vLLM does not serve it, or that is not known
        found = named(curve(losses, trained_rank=trained, width=width))
        assert (found["slot"], found["rank"], found["smallest_rank"]) == (None, smallest, smallest)


def test_an_unmeasured_trained_rank_or_base_has_no_recommendation():
    known = curve({2: 0.0, 4: 0.0, 16: 0.0})
    needs = "a recommendation needs the base, and every outcome at the trained rank"
    for untested in (
        replace(known.at([2, 4]), missing={16: "x"}),
        curve({8: 0.0, 16: 0.0}, base_scores=None),
    ):
        found = named(untested)
        assert (found["rank"], found["reference"], found["reason"]) == (None, None, needs)
    low = named(curve({8: 0.0, 16: 0.0}, right=0.3, base=0.3, width=100))
    assert (low["rank"], low["slot"], low["smallest_rank"]) == (None, None, None)
    assert low["reason"] == "rank 16 is not shown to be above the base"
    assert named(known)["reason"] is None
