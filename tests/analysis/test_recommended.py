"""Which rank may be shipped: down from the trained one, to the first that is not shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

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


def test_the_smallest_rank_down_to_the_first_failure():
    found = named(curve({1: 0.3, 2: 0.05, 4: 0.004, 8: 0.0, 16: 0.0}))
    assert (found["rank"], found["reference"], found["bytes"]) == (4, 16, 40)
    assert found["loss"] == pytest.approx(0.004)
    assert 0.004 < found["bound"] <= 0.02
    # a smaller rank that would pass is not reached
    assert named(curve({1: 0.0, 2: 0.05, 4: 0.004, 16: 0.0}))["rank"] == 4


def test_the_trained_rank_where_nothing_smaller_passes():
    found = named(curve({1: 0.3, 8: 0.1, 16: 0.0}))
    assert (found["rank"], found["loss"], found["bound"]) == (16, 0.0, 0.0)


def test_a_loss_of_exactly_the_margin_is_seldom_passed():
    assert named(curve({8: 0.02, 16: 0.0}))["rank"] == 16


def test_nothing_is_shipped_unless_the_trained_rank_is_above_the_base():
    found = named(curve({8: 0.0, 16: 0.0}, right=0.3, base=0.3))
    assert (found["rank"], found["loss"], found["bound"], found["bytes"]) == (None,) * 4
    assert found["reference"] == 16


def test_no_rank_that_is_not_above_the_base_is_passed():
    same = np.zeros(N)
    same[:300] = 1.0
    better = same.copy()
    better[300:320] = 1.0
    # rank 8 loses half of a gain of 2 points: within the margin, and no longer above the base
    rows = np.stack([same, same + (np.arange(N) == 300), better])
    known = Curve.from_outcomes(
        [4, 8, 16], rows, adapter="a", task="t", base_scores=same, trained_rank=16
    )
    assert named(known, Question(margin=0.05))["rank"] == 16


def test_without_a_base_only_the_loss_is_judged():
    assert named(curve({8: 0.0, 16: 0.0}, base_scores=None))["rank"] == 8


@pytest.mark.parametrize(("baseline", "rank"), [(0.9, None), (0.59, None), (0.3, 8)])
def test_a_base_of_which_only_the_mean_is_known_counts(baseline, rank):
    known = curve({8: 0.0, 16: 0.0}, base_scores=None, baseline=baseline)
    assert named(known)["rank"] == rank
    assert set(analyse([known]).points.above_base.dropna()) == {rank is not None}


def test_ranks_above_the_trained_one_do_not_stop_the_ladder():
    assert named(curve({4: 0.0, 8: 0.0, 16: 0.1}, base=0.0, trained_rank=8))["rank"] == 4


def test_a_missing_rank_is_not_passed_over():
    known = curve({2: 0.0, 4: 0.0, 16: 0.0})
    assert named(known)["rank"] == 2
    assert named(replace(known, missing={8: "out of memory"}))["rank"] == 16
    assert named(replace(known, missing={3: "out of memory"}))["rank"] == 4
    assert analyse([replace(known.at([2, 4]), missing={16: "x"})], MARGIN).recommended.empty


def test_few_examples_show_no_loss_below_two_points():
    def first(n: int) -> int:
        whole = curve({8: 0.0, 16: 0.0})
        few = Curve.from_outcomes(
            [8, 16], whole.outcomes[:, :n], adapter="a", task="t", trained_rank=16
        )
        return named(few)["rank"]

    assert (first(214), first(215)) == (16, 8)


def test_without_a_margin_nothing_is_recommended():
    assert analyse([curve({8: 0.0, 16: 0.0})]).recommended.empty


def test_seeds_are_judged_by_their_mean_and_spread():
    steady = [curve({8: 0.0, 16: 0.0}, seed=s) for s in range(4)]
    assert analyse(steady, MARGIN).recommended["rank"].tolist() == [8]
    unsteady = [curve({8: 0.02 * (s % 2), 16: 0.0}, seed=s) for s in range(4)]
    assert analyse(unsteady, MARGIN).recommended["rank"].tolist() == [16]
