"""Non-inferior ranks: the sequence by hand and exact bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.stats import interval, non_inferior_rank
from aurac.stats.analysis import analyse
from aurac.stats.groups import group_of
from aurac.stats.intervals import mover
from aurac.stats.mean import Layout
from aurac.stats.noninferiority import accurate_rank, exact_bound, loss_bound, seeds_needed
from aurac.stats.rows import Options
from aurac.stats.sentences import rank_sentence


def curve(n: int, losses: dict[int, int], gains: int = 0, **labels: object) -> Curve:
    """Full rank 16 right on all but `gains` documents; rank r wrong on `losses[r]` of them."""
    full = np.ones(n)
    full[n - gains :] = 0
    rows = {16: full}
    for rank, lost in losses.items():
        row = np.ones(n)
        row[:lost] = 0
        rows[rank] = row
    return Curve.from_outcomes(list(rows), list(rows.values()), **labels)


def test_the_sequence_stops_at_the_first_failure():
    # 1000 documents; losses 2, 60, 2 at ranks 8, 4, 2. At delta .02 rank 8 passes (CP bound on
    # 2/1000 is .0063), rank 4 fails, rank 2 is never tested although it would pass.
    result = non_inferior_rank(curve(1000, {8: 2, 4: 60, 2: 2}), margin=0.02)
    assert result.rank == 8
    assert [(s.rank, s.tested, s.passed) for s in result.tests] == [
        (8, True, True),
        (4, True, False),
        (2, False, True),
    ]
    # What rank 2 would have needed is what rank 4 needs.
    assert result.tests[2].margin_needed == result.tests[1].margin_needed == result.tests[1].upper
    assert result.smallest_margin == result.tests[0].upper
    assert result.flip_rate == pytest.approx(0.002)
    assert result.conditional


def test_nothing_certified_is_the_full_rank():
    result = non_inferior_rank(curve(100, {8: 0}), margin=0.02)
    # Even no loss at all in 100 documents: 1 - .05^(1/100) = .0295 > .02.
    assert result.rank == 16
    assert result.smallest_margin == pytest.approx(1 - 0.05**0.01)
    assert "no rank below 16 is non-inferior" in rank_sentence("a", "t", result)


def test_the_exact_bound_is_clopper_pearson():
    for lost in (0, 3, 9):
        result = non_inferior_rank(curve(500, {8: lost}), margin=0.05)
        expected = stats.binomtest(lost, 500, alternative="less").proportion_ci(0.95).high
        assert result.tests[0].upper == pytest.approx(expected)
        assert result.tests[0].method.startswith("Clopper-Pearson over documents")


def test_many_differing_documents_take_the_larger_of_two_bounds():
    draw = np.random.default_rng(1)
    loss = draw.choice([-1.0, 0.0, 1.0], p=[0.1, 0.75, 0.15], size=800)
    upper, _ = loss_bound(loss, Layout(800), 0.05)
    plain = loss.mean() + stats.t.ppf(0.95, 799) * stats.sem(loss)
    careful = loss.mean() + mover(loss, Layout(800))(0.90)[1]
    assert upper == pytest.approx(max(plain, careful))
    assert plain <= upper <= plain + 0.15 * stats.sem(loss)


def test_losses_alone_are_not_certified_by_a_symmetric_bound():
    # 12 losses of 1319: t says 12 + 1.645·√12 = 17.7 at most, the exact bound 19.4.
    upper, method = loss_bound((np.arange(1319) < 12).astype(float), Layout(1319), 0.05)
    exact = stats.binomtest(12, 1319, alternative="less").proportion_ci(0.95).high
    assert upper == pytest.approx(exact, rel=0.01)
    assert method.startswith("MOVER")


def test_clusters_count_passages():
    loss = np.zeros(60)
    loss[:4] = 1  # four documents of one passage
    layout = Layout.make(60, np.repeat(np.arange(15), 4))
    expected = stats.binomtest(1, 15, alternative="less").proportion_ci(0.95).high
    assert exact_bound(loss, layout, 0.05) == pytest.approx(expected)
    uneven = Layout.make(60, np.repeat(np.arange(11), [20, *[4] * 10]))
    one = stats.binomtest(1, 11, alternative="less").proportion_ci(0.95).high
    assert exact_bound(loss, uneven, 0.05) == pytest.approx(min(1, one * 20 / (60 / 11)))


def test_few_clusters_could_all_miss_the_bad_ones():
    """Of 20 clusters none is among a bad tenth 12 % of the time."""
    loss = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], p=[0.03, 0.94, 0.03], size=1500)
    few = Layout.make(1500, np.repeat(np.arange(20), 75))
    upper, method = loss_bound(loss, few, 0.05)
    assert method.startswith("unseen clusters")
    worst = loss.reshape(20, 75).mean(axis=1).max()
    assert upper == pytest.approx(loss.mean() + (1 - 0.05 ** (1 / 20)) * (1 - worst))
    many = Layout.make(1500, np.repeat(np.arange(300), 5))
    assert loss_bound(loss, many, 0.05)[0] < 0.02


def test_reference_rank_and_bytes():
    made = curve(2000, {8: 1, 4: 2, 2: 900}, sizes={2: 10, 4: 20, 8: 40, 16: 80})
    result = non_inferior_rank(made, margin=0.01)
    assert (result.rank, result.saved) == (4, 0.75)
    assert "75 % smaller" in rank_sentence("a", "t", result)
    lower = non_inferior_rank(made, margin=0.01, reference=8)
    assert (lower.reference, lower.rank, lower.saved) == (8, 4, 0.5)


def seeds_of(count: int, lost: list[int], n: int = 1500) -> list[Curve]:
    return [curve(n, {8: lost[i % len(lost)]}) for i in range(count)]


def test_few_seeds_certify_each_checkpoint_and_not_the_recipe():
    """Where one seed in four loses .08, all of three are good 42 % of the time."""
    result = non_inferior_rank(seeds_of(3, [1, 2, 3]), margin=0.02)
    assert not result.conditional
    assert (result.rank, result.checkpoints, result.smallest_margin) == (16, 8, 1.0)
    assert "at least 11 are needed" in result.tests[0].method
    # The bound of each checkpoint is that of the worst one, at full alpha.
    worst = non_inferior_rank(seeds_of(1, [3]), margin=0.02)
    assert result.tests[0].checkpoints == worst.tests[0].upper
    assert (worst.rank, worst.checkpoints, worst.conditional) == (8, 8, True)
    text = rank_sentence("a", "t", result)
    assert "of the recipe no rank below 16 can be called non-inferior from 3 seeds" in text
    assert "In each of these 3 checkpoints rank 8 is non-inferior to rank 16" in text
    bad = non_inferior_rank(seeds_of(3, [1, 2, 120]), margin=0.02)
    assert bad.checkpoints == 16
    assert "Nor is any rank non-inferior in each" in rank_sentence("a", "t", bad)


def test_eleven_seeds_are_certified_together():
    assert (seeds_needed(0.05), seeds_needed(0.1)) == (11, 9)
    result = non_inferior_rank(seeds_of(11, [3, 6, 12]), margin=0.05)
    assert not result.conditional
    assert result.rank == 8
    assert "11 seeds" in result.tests[0].method
    spread = non_inferior_rank(
        seeds_of(12, [0, 0, 0, 120]), margin=0.02
    )  # .08 in one of four: .02 on average
    assert spread.rank == 16


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: non_inferior_rank(c, margin=2), "margin 2"),
        (lambda c: non_inferior_rank(c, margin=0.02, alpha=0.9), "alpha 0.9"),
        (lambda c: non_inferior_rank(c, margin=0.02, reference=5), "reference rank 5"),
        (lambda c: non_inferior_rank(c, margin=0.02, reference=8), "no rank below 8"),
        (lambda c: non_inferior_rank({1: 0.2, 2: 0.3}, margin=0.02), "no per-document outcomes"),
        (
            lambda c: non_inferior_rank([c, c.at([16])], margin=0.02),
            "the seeds of .* have ranks",
        ),
    ],
)
def test_refusals(call, words):
    with pytest.raises(CurveError, match=words):
        call(curve(100, {8: 1}))


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.3), st.floats(0.01, 0.3))
def test_a_larger_delta_never_certifies_a_larger_rank(seed, x, y):
    scores = (np.random.default_rng(seed).random((4, 120)) < 0.9).astype(float)
    made = Curve.from_outcomes([1, 2, 4, 8], scores)
    low, high = non_inferior_rank(made, margin=min(x, y)), non_inferior_rank(made, margin=max(x, y))
    assert high.rank <= low.rank


@given(st.integers(0, 2**32 - 1))
def test_the_smallest_delta_is_the_smallest(seed):
    scores = (np.random.default_rng(seed).random((3, 150)) < 0.8).astype(float)
    made = Curve.from_outcomes([1, 2, 4], scores)
    edge = non_inferior_rank(made, margin=0.5).smallest_margin
    assert non_inferior_rank(made, margin=min(edge + 1e-9, 0.99)).rank < 4
    if edge > 1e-9:  # else the smaller rank is so much better that any delta will do
        assert non_inferior_rank(made, margin=edge - 1e-9).rank == 4


def test_the_smallest_accurate_rank_by_hand():
    # 100 documents: 90, 80, 60 right. Lower ends at 90 % of the accuracies .90, .80, .60.
    rows = [(np.arange(100) < right).astype(float) for right in (60, 80, 90)]
    group = group_of(Curve.from_outcomes([1, 2, 4], rows))
    result = accurate_rank(group, minimum=0.7)
    assert (result.rank, list(result.lowest)) == (2, [4, 2, 1])
    for rank, row in zip((1, 2, 4), rows, strict=True):
        assert result.lowest[rank] == interval(row, level=0.9).low
    assert accurate_rank(group, minimum=0.95).rank is None
    assert accurate_rank(group, minimum=0.5, reference=2).rank == 1
    with pytest.raises(CurveError, match="minimum accuracy 70"):
        accurate_rank(group, minimum=70)


def test_an_accurate_rank_is_seldom_named_wrongly():
    # The true accuracies are at the minimum: an error of 5 % is allowed.
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(600):
        rows = [rng.random(150) < 0.6 for _ in range(2)]
        group = group_of(Curve.from_outcomes([1, 2], np.array(rows, dtype=float)))
        wrong += accurate_rank(group, minimum=0.6).rank is not None
    assert wrong / 600 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)


def test_a_largest_rank_without_an_accuracy_is_no_reference():
    """The next smaller rank would pass against itself."""
    rng = np.random.default_rng(4)
    scores = (rng.random((3, 200)) < 0.5).astype(float)
    curve = Curve.from_outcomes((1, 2, 4), scores, adapter="a", task="t")
    cut = replace(curve.at([1, 2]), missing={4: "out of memory"})
    (row,) = analyse([cut], margin=0.1).recommended
    assert (row.rank, row.reason) == (None, "no accuracy at rank 4: out of memory")
    with pytest.raises(CurveError, match="no accuracy at rank 4"):
        non_inferior_rank(cut, margin=0.1)
    assert non_inferior_rank(cut, margin=0.1, reference=2).reference == 2


@pytest.mark.parametrize("wrong", [{"margin": 7}, {"min_accuracy": 0}, {"alpha": 9}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(CurveError, match=f"{next(iter(wrong))} .*expected a fraction"):
        Options(**wrong)
