"""The sentences: the answer claims no more than the documents allow, caveats fit the run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_runs import RunMaker, many_curves, zoo_run

from aurac.report.comparisons import Paired, certificate, pooled, rings
from aurac.report.model import parse
from aurac.report.text import answers, caveats, rank_sentence


def run_of(maker):
    maker.write()
    return parse(maker.results(), maker.folder)


def say(run):
    paired = Paired(run)
    return answers(run, [d for task in run.task_names for d in paired.against_best(task, 5)])


def test_a_clear_lead_is_beyond_chance(tmp_path):
    maker = RunMaker(tmp_path, n=200).add("low", [0.2, 0.3], ranks=(1, 2))
    (line,) = say(run_of(maker.add("high", [0.7, 0.8], ranks=(1, 2))))
    assert line.startswith("On word_problems, high has the largest AURAC, ")
    assert "paired 95 % interval" in line
    assert line.endswith(", significant on these documents.")


def test_a_small_lead_is_not_claimed_and_says_what_would_have_shown(tmp_path):
    maker = RunMaker(tmp_path, n=60, seed=5).add("a", [0.5, 0.52], ranks=(1, 2))
    (line,) = say(run_of(maker.add("b", [0.52, 0.54], ranks=(1, 2))))
    assert ", not significant on these documents" in line
    assert "four times in five" in line
    assert ", significant" not in line


def test_unequal_grids_are_not_ranked(tmp_path):
    maker = RunMaker(tmp_path, n=60).add("a", [0.5, 0.6], ranks=(1, 2))
    run = run_of(maker.add("b", [0.5, 0.6, 0.7], ranks=(1, 2, 4)))
    (line,) = say(run)
    assert "none is named the best" in line
    assert any("same ranks" in caveat for caveat in caveats(run))


def test_equal_scores_share_the_lead(tmp_path):
    run = run_of(many_curves(tmp_path, 1, ranks=(1, 2), n=30))
    twin = replace(run.curves[0], adapter="twin", label="twin", id="twin")
    (line,) = answers(replace(run, curves=(run.curves[0], twin)), [])
    assert "adapter-00, twin share the largest AURAC" in line


def test_one_adapter_is_described_by_its_ends(tmp_path):
    (line,) = say(run_of(many_curves(tmp_path, 1, n=50)))
    assert "adapter-00 has an AURAC of" in line
    assert "at rank 1 and" in line
    assert "largest" not in line


def test_the_published_inference_is_set_beside_the_default(tmp_path):
    run = run_of(zoo_run(tmp_path, n=100))
    (line,) = say(run)
    assert "Under the published inference (rule) matryoshka has" in line
    assert any("the published inference. Say which one you quote" in c for c in caveats(run))


def test_paired_difference_is_the_difference_of_the_scores(tmp_path):
    run = run_of(zoo_run(tmp_path, n=100))
    for difference in Paired(run).against_best("word_problems", 5):
        gap = difference.first.log2.value - difference.second.log2.value
        assert difference.value == pytest.approx(gap, abs=1e-12)
        assert difference.low < gap < difference.high
        assert difference.n_docs == 100


def test_losses_are_against_the_highest_rank(tmp_path):
    run = run_of(many_curves(tmp_path, 1, ranks=(1, 2, 4), n=50))
    curve = run.curves[0]
    found = certificate(curve).tests
    assert [step.rank for step in found] == [2, 1]
    assert found[1].loss == pytest.approx(curve.accuracy[2] - curve.accuracy[0])
    assert all(step.upper >= step.loss for step in found)


def test_the_rank_sentence_says_what_is_certified_and_what_it_costs(tmp_path):
    maker = RunMaker(tmp_path, n=200).add("a", [0.3, 0.6, 0.6], ranks=(2, 4, 8))
    run = run_of(maker)
    curve = run.curves[0]
    far = certificate(curve, 0.9)
    assert far.rank == 2
    assert rings([(curve, far)]) == {curve.id: 2}
    said = rank_sentence(curve, far, "a")
    assert (
        "The smallest rank of a that is non-inferior at a margin of 90 points is 2 (184 kB)" in said
    )
    near = certificate(curve, 0.0001)
    assert near.rank == 8
    assert rings([(curve, near)]) == {}
    assert "The rank to use of a is its highest, 8 (737 kB)" in rank_sentence(curve, near, "a")
    assert "At its highest rank, 8 (737 kB), a has" in rank_sentence(curve, None, "a")


def test_caveats_fit_the_run(tmp_path):
    maker = RunMaker(tmp_path, n=50)
    maker.add("falls", [0.8, 0.3], ranks=(1, 2), method="lora")
    maker.add("unknown", [0.3, 0.4], ranks=(1, 2), method=None)
    maker.tasks["word_problems"]["limit"] = 50
    maker.curves[1].update(baseline=None, baseline_reason="it ran out of memory")
    lines = "\n".join(caveats(run_of(maker)))
    for part in (
        "Conditional on these checkpoints",
        "falls: trained at one rank only",
        "SVD, is not in this run",
        "unknown: the checkpoint does not say how it was trained",
        # 0.98 / sqrt(50) = 0.1386
        "word_problems (50). With 50 the accuracy at one rank is known to about ±14 points",
        "limited number of documents: word_problems (50)",
        "1 curve falls somewhere",
        "No base line on word_problems (it ran out of memory)",
        "pointwise 95 % intervals",
    ):
        assert part in lines, part


@pytest.mark.parametrize(
    ("counts", "said"),
    [([4, None], "up to 4 of 50 documents (a, rank 1)"), ([1, 9], "up to 9 of 50 documents (a, r")],
)
def test_near_ties_are_said_from_one_document_in_fifty_on(tmp_path, counts, said):
    maker = RunMaker(tmp_path, n=50).add("a", [0.3, 0.6], ranks=(1, 2))
    maker.curves[0]["near_ties"] = [1, 1]
    assert "within the rounding" not in "\n".join(caveats(run_of(maker)))
    maker.curves[0]["near_ties"] = counts
    assert said in "\n".join(caveats(run_of(maker)))


def test_no_caveat_without_its_cause(tmp_path):
    maker = RunMaker(tmp_path, n=250).add("a", [0.3, 0.6], ranks=(1, 2), method="matryoshka")
    lines = "\n".join(caveats(run_of(maker)))
    for part in ("one rank only", "Few documents", "limited", "falls", "No base line", "missing"):
        assert part not in lines, part


def test_several_seeds_change_the_first_caveat(tmp_path):
    maker = RunMaker(tmp_path, n=50)
    maker.add("a1", [0.3, 0.6], ranks=(1, 2), seed=1).add("a2", [0.3, 0.6], ranks=(1, 2), seed=2)
    maker.add("b", [0.3, 0.6], ranks=(1, 2))
    first, second, *_ = caveats(pooled(run_of(maker), {"a": ["a1", "a2"]}))
    assert first.startswith("Over training seeds as well as documents: a 2.")
    assert second.startswith("b: conditional on these checkpoints")
