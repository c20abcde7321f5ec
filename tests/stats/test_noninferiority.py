"""Ranks within a margin of the best: the procedure by hand, and bounds on losses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aurac.analysis import non_inferior_rank
from aurac.analysis.choice import recommend
from aurac.analysis.groups import group_of
from aurac.analysis.rows import Options
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.errors import CurveError, UsageError
from aurac.stats import interval
from aurac.stats.intervals import mover
from aurac.stats.mean import Layout
from aurac.stats.noninferiority import exact_bound, loss_bound, seeds_needed, upper_bounds


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


def highest(lost: int, n: int, alpha: float) -> float:
    """Clopper and Pearson's upper bound."""
    return stats.binomtest(lost, n, alternative="less").proportion_ci(1.0 - alpha).high


def test_against_a_declared_rank_the_sequence_stops_at_the_first_failure():
    # 1000 documents; losses 2, 60, 2 at ranks 8, 4, 2. At a margin of .02 rank 8 passes (CP bound
    # on 2/1000 is .0063), rank 4 fails, and rank 2 stands behind it, each at full alpha.
    result = non_inferior_rank(curve(1000, {8: 2, 4: 60, 2: 2}), margin=0.02, reference=16)
    assert (result.rank, result.choice.reference, result.best) == (8, 16, 16)
    assert [(s.rank, s.passed) for s in result.tests] == [(8, True), (4, False), (2, False)]
    assert result.tests[0].margin_needed == pytest.approx(highest(2, 1000, 0.05))
    # What rank 2 would have needed is what rank 4 needs.
    assert result.tests[2].margin_needed == result.tests[1].margin_needed
    assert result.tests[1].margin_needed == pytest.approx(result.tests[1].upper)
    assert result.smallest_margin == pytest.approx(result.tests[0].upper)
    assert result.flip_rate == pytest.approx(0.002)
    assert result.conditional


def test_the_smallest_margin_is_that_of_a_rank_below_the_best():
    # Rank 8 is the best; rank 16 loses 2 of 1000 and needs less than rank 4, which loses 60.
    made = Curve.from_outcomes(
        [4, 8, 16], [np.arange(1000) >= lost for lost in (60, 0, 2)], adapter="a"
    )
    result = non_inferior_rank(made, margin=0.02)
    needed = {test.rank: test.margin_needed for test in result.tests}
    assert result.best == 8
    assert needed[16] < needed[4] == result.smallest_margin


def test_against_the_best_a_fifth_of_the_error_is_for_each_rank_alone():
    # Four ranks: along the curve each test has .8·.05 + .2·.05/4 = .0425, alone .2·.05/4 = .0025.
    result = non_inferior_rank(curve(1000, {8: 2, 4: 60, 2: 2}), margin=0.02)
    needed = {step.rank: step.margin_needed for step in result.tests}
    # No rank beats the largest: none of 1000 documents, 1 - .0425^(1/1000).
    assert needed[16] == pytest.approx(1 - 0.0425 ** (1 / 1000))
    assert needed[8] == pytest.approx(highest(2, 1000, 0.0425))
    assert needed[4] > 0.06
    # Rank 2 is behind rank 4, which is worse, and passes alone.
    assert needed[2] == pytest.approx(highest(2, 1000, 0.0025))
    assert (result.rank, result.choice.reference, result.best) == (2, None, 16)


def test_where_nothing_is_shown_no_rank_is_named():
    result = non_inferior_rank(curve(100, {8: 0}), margin=0.02)
    # Even no loss at all in 100 documents: along the curve 1 - .045^(1/100) = .0305 > .02.
    assert (result.rank, result.best) == (None, 8)
    assert result.tests[0].margin_needed == pytest.approx(1 - 0.045**0.01)
    (row,) = analyse([curve(100, {8: 0}, adapter="a", task="t")], Options(margin=0.02)).recommended
    assert row.sentence.startswith("a on t: No rank is shown to be within 2 points of the best")
    assert row.sentence.endswith("It takes a margin of 3.06 points.")


def test_a_largest_rank_that_is_worse_does_not_hide_the_best():
    # Rank 16 is wrong on 100 of 1000 documents on which 8 and 4 are right; 4 loses 3 more.
    top = np.ones(1000)
    top[:100] = 0
    four = np.ones(1000)
    four[-3:] = 0
    made = Curve.from_outcomes([4, 8, 16], [four, np.ones(1000), top])
    result = non_inferior_rank(made, margin=0.02)
    assert (result.rank, result.best) == (4, 8)
    assert not result.tests[0].passed
    assert non_inferior_rank(made, margin=0.02, reference=16).rank == 4
    # Three ranks: alone .2·.05/3.
    assert result.tests[2].margin_needed == pytest.approx(highest(3, 1000, 0.01 / 3))


@given(
    st.integers(2, 60), st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.05, 0.02, 1e-3]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_bounds_from_counts_are_the_bounds_of_the_documents(n, lost, gained, alpha, seed):
    u = np.random.default_rng(seed).random(n)
    loss = np.where(u < lost, 1.0, np.where(u > gained, -1.0, 0.0))
    expected, _ = loss_bound(loss, Layout(n), alpha)
    assert upper_bounds(loss[None], Layout(n), alpha)[0] == pytest.approx(expected, abs=1e-9)
    halves = upper_bounds(loss[None] / 2, Layout(n), alpha)[0]  # no 0/1 scores
    assert halves == loss_bound(loss / 2, Layout(n), alpha)[0]


def test_the_exact_bound_is_clopper_pearson():
    for lost in (0, 3, 9):
        result = non_inferior_rank(curve(500, {8: lost}), margin=0.05, reference=16)
        assert result.tests[0].upper == pytest.approx(highest(lost, 500, 0.05))
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
    lower = non_inferior_rank(made, margin=0.01, reference=8)
    assert (lower.choice.reference, lower.rank, lower.saved) == (8, 4, 0.5)


def seeds_of(count: int, lost: list[int], n: int = 1500) -> list[Curve]:
    return [curve(n, {8: lost[i % len(lost)]}) for i in range(count)]


def test_few_seeds_certify_each_checkpoint_and_not_the_recipe():
    """Where one seed in four loses .08, all of three are good 42 % of the time."""
    result = non_inferior_rank(seeds_of(3, [1, 2, 3]), margin=0.02)
    assert not result.conditional
    assert (result.rank, result.checkpoints, result.smallest_margin) == (None, 8, None)
    assert "at least 11 are needed" in result.tests[1].method
    declared = non_inferior_rank(seeds_of(3, [1, 2, 3]), margin=0.02, reference=16)
    assert (declared.rank, declared.choice.few_seeds) == (None, True)  # rank 16 against itself
    assert "3 training seeds are too few to recommend a rank" in declared.sentence
    assert "In each of these checkpoints rank 8 is shown" in declared.sentence
    lossy = group_of(seeds_of(3, [300]))  # nothing but the reference is within the margin
    for reference in (16, f"{lossy.name}@16"):
        row = recommend(lossy, Options(margin=0.02, reference=reference))
        assert (row.rank, row.checkpoints) == (None, None)
        assert "Nor is any other shown to be within 2 points of" in row.sentence
    below = recommend(lossy, Options(margin=0.02, reference=f"{lossy.name}@8"))
    assert (below.rank, below.checkpoints) == (None, 16)  # rank 8 is not within it of itself
    # The bound of each checkpoint is that of the worst one, at full alpha.
    worst = non_inferior_rank(seeds_of(1, [3]), margin=0.02)
    assert result.tests[1].checkpoints == worst.tests[1].upper
    assert (worst.rank, worst.checkpoints, worst.conditional) == (8, 8, True)
    text = recommend(group_of(seeds_of(3, [1, 2, 3])), Options(margin=0.02)).sentence
    assert (
        "3 training seeds are too few to recommend a rank: at least 11 are needed for 2 ranks."
        in text
    )
    assert (
        "In each of these checkpoints rank 8 is shown to be within 2 points of the best rank."
        in text
    )
    bad = group_of(seeds_of(3, [1, 2, 120]))
    assert non_inferior_rank(bad, margin=0.02).checkpoints == 16
    none = recommend(bad, Options(margin=0.001)).sentence
    words = (
        "Nor is any shown to be within 0.1 points of the best rank in each of these checkpoints."
    )
    assert none.endswith(words)


def test_eleven_seeds_are_certified_together():
    # .75^11 = .042 and .9^29 = .047; .75^10 and .9^28 are above .05.
    assert (seeds_needed(0.05), seeds_needed(0.1), seeds_needed(0.05, 0.1)) == (11, 9, 29)
    result = non_inferior_rank(seeds_of(11, [3, 6, 12]), margin=0.05)
    assert not result.conditional
    assert result.rank == 8
    assert "11 seeds" in result.tests[1].method
    text = recommend(group_of(seeds_of(11, [3, 6, 12])), Options(margin=0.05)).sentence
    assert text.endswith(" 11 seeds can miss a kind of bad run rarer than one in four; for one in "
                         "ten it takes 30.")  # fmt: skip
    assert seeds_needed(0.045, 0.1) == 30  # at the level of one of five ranks, not at .05
    spread = non_inferior_rank(
        seeds_of(12, [0, 0, 0, 120]), margin=0.02
    )  # .08 in one of four: .02 on average
    assert spread.rank == 16


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda c: non_inferior_rank(c, margin=2), UsageError, "margin=2"),
        (lambda c: non_inferior_rank(c, margin=0.02, alpha=0.9), UsageError, "alpha=0.9"),
        (lambda c: non_inferior_rank(c, margin=0.02, reference=5), CurveError, "reference rank 5"),
        (lambda c: non_inferior_rank(c, margin=0.02, reference=8), CurveError, "no rank below 8"),
        (lambda c: non_inferior_rank({1: 0.2}, margin=0.02), CurveError, "no per-document"),
        (lambda c: non_inferior_rank([c, c.at([16])], margin=0.02), CurveError, "seeds .* ranks"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call(curve(100, {8: 1}))


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.3), st.floats(0.01, 0.3))
def test_a_larger_delta_never_certifies_a_larger_rank(seed, x, y):
    scores = (np.random.default_rng(seed).random((4, 120)) < 0.9).astype(float)
    made = Curve.from_outcomes([1, 2, 4, 8], scores)
    low, high = non_inferior_rank(made, margin=min(x, y)), non_inferior_rank(made, margin=max(x, y))
    assert low.rank is None or high.rank <= low.rank


@given(st.integers(0, 2**32 - 1))
def test_the_margin_needed_is_the_smallest(seed):
    scores = (np.random.default_rng(seed).random((3, 150)) < 0.8).astype(float)
    made = Curve.from_outcomes([1, 2, 4], scores)
    for test in non_inferior_rank(made, margin=0.5).tests:
        above = non_inferior_rank(made, margin=min(test.margin_needed + 1e-9, 0.99))
        assert above.rank <= test.rank
        if test.margin_needed > 1e-9:  # else it is so much better that any margin will do
            below = non_inferior_rank(made, margin=test.margin_needed - 1e-9)
            assert next(t for t in below.tests if t.rank == test.rank).passed is False


def test_the_smallest_accurate_rank_by_hand():
    # 100 documents: 90, 80, 60 right. Along the curve .8·.05 + .2·.05/3 = .0433, one-sided.
    rows = [(np.arange(100) < right).astype(float) for right in (60, 80, 90)]
    group = group_of(Curve.from_outcomes([1, 2, 4], rows))
    ends = [interval(row, level=1 - 2 * 0.13 / 3).low for row in rows]
    for minimum, rank in ((0.7, 2), (0.95, None), (0.5, 1), (ends[1], 2), (ends[1] + 1e-9, 4)):
        assert recommend(group, Options(min_accuracy=minimum)).rank == rank
    assert recommend(group, Options(min_accuracy=0.5, reference=2)).rank == 1


def test_a_largest_rank_that_is_worse_hides_no_accurate_one():
    """A stronger demand (a margin as well) cannot be met where a weaker one is not."""
    rows = [(np.arange(100) < right).astype(float) for right in (80, 80, 40)]
    group = group_of(Curve.from_outcomes([1, 2, 4], rows))
    for options in (Options(min_accuracy=0.6), Options(min_accuracy=0.6, margin=0.9)):
        assert recommend(group, options).rank == 1


def test_an_accurate_rank_is_seldom_named_wrongly():
    # The true accuracies are at the minimum: an error of 5 % is allowed.
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(600):
        rows = [rng.random(150) < 0.6 for _ in range(2)]
        group = group_of(Curve.from_outcomes([1, 2], np.array(rows, dtype=float)))
        wrong += recommend(group, Options(min_accuracy=0.6)).rank is not None
    assert wrong / 600 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)


def test_a_largest_rank_without_an_accuracy_is_no_reference():
    """The next smaller rank would pass against itself."""
    rng = np.random.default_rng(4)
    scores = (rng.random((3, 200)) < 0.5).astype(float)
    curve = Curve.from_outcomes((1, 2, 4), scores, adapter="a", task="t")
    cut = replace(curve.at([1, 2]), missing={4: "out of memory"})
    (row,) = analyse([cut], Options(margin=0.1)).recommended
    assert (row.rank, row.reason) == (None, "no accuracy at rank 4: out of memory")
    with pytest.raises(CurveError, match="no accuracy at rank 4"):
        non_inferior_rank(cut, margin=0.1)
    assert non_inferior_rank(cut, margin=0.1, reference=2).choice.reference == 2


@pytest.mark.parametrize("wrong", [{"margin": 7}, {"min_accuracy": 0}, {"alpha": 9}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}=.*expected a fraction"):
        Options(**wrong)
