"""The sentences: the verdict claims no more than the documents allow, caveats fit the run."""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from report_runs import RunMaker, many_curves, run_from, zoo_run

from aurac.adapters.formats.peft import DORA_NOTE
from aurac.analysis.combine import pooled
from aurac.analysis.sentences import show_p
from aurac.curves.display import interval, percent
from aurac.records.decisions import AFTER, Declaration
from aurac.records.old_run import StoredRun
from aurac.show.caveats import caveats
from aurac.show.findings import Findings, truncation
from aurac.show.model_card import card
from aurac.show.render import Report, Tile, markdown
from aurac.show.sentences import details, verdicts
from aurac.show.tables import aurac_table, loss_table
from aurac.show.tiles import tiles

TASK = "word_problems"
MARGIN = 0.02


def run_of(maker) -> StoredRun:
    maker.write()
    return run_from(maker.results(), maker.folder)


def said(run):
    """Verdict, tiles as (title, value, lines), and details."""
    findings = Findings(run, MARGIN)
    (verdict,) = verdicts(findings)
    shown = [(t.title, t.value, " ".join(t.lines)) for t in tiles(findings, TASK)]
    return verdict, shown, " ".join(details(findings, TASK))


def test_a_clear_lead_is_significant(tmp_path):
    maker = RunMaker(tmp_path, n=200).add("low", [0.2, 0.3], ranks=(1, 2))
    verdict, shown, _ = said(run_of(maker.add("high", [0.7, 0.8], ranks=(1, 2))))
    assert verdict.startswith("high has the largest AURAC (")
    assert "its lead over low (" in verdict
    assert verdict.endswith(") is significant.")
    assert shown[0][0] == "Best AURAC"
    assert shown[0][2].endswith("shown to be the best of these 2 rows")


def test_a_small_lead_is_not_claimed_and_says_what_would_have_shown(tmp_path):
    maker = RunMaker(tmp_path, n=60, seed=5).add("a", [0.5, 0.52], ranks=(1, 2))
    run = run_of(maker.add("b", [0.52, 0.54], ranks=(1, 2)))
    verdict, shown, more = said(run)
    assert verdict.endswith(" is not significant.")
    assert "not significantly better than b" in shown[0][2]
    assert "Between a and b the test detects differences of" in more
    assert "points or more (80 % power)" in more
    assert {c.label for c in Findings(run, MARGIN).candidates[TASK]} == {"a", "b"}


def test_a_lead_over_more_adapters_than_the_page_lists_is_over_all_of_them(tmp_path):
    maker = RunMaker(tmp_path, n=120)
    for at in range(8):
        maker.add(f"low-{at}", [0.1, 0.15], ranks=(1, 2))
    verdict, shown, _ = said(run_of(maker.add("high", [0.8, 0.9], ranks=(1, 2))))
    assert verdict.endswith(" and all others is significant.")
    assert shown[0][2].endswith("shown to be the best of these 9 rows")


def test_unequal_grids_are_not_ranked(tmp_path):
    maker = RunMaker(tmp_path, n=60).add("a", [0.5, 0.6], ranks=(1, 2))
    run = run_of(maker.add("b", [0.5, 0.6, 0.7], ranks=(1, 2, 4)))
    assert "none is named the best" in said(run)[0]
    assert any("same ranks" in caveat for caveat in caveats(Findings(run)))


def test_equal_scores_share_the_lead(tmp_path):
    run = run_of(many_curves(tmp_path, 1, ranks=(1, 2), n=30))
    twin = msgspec.structs.replace(run.curves[0], adapter="twin", label="twin", id="twin")
    both = StoredRun(
        (run.curves[0], twin),
        *(getattr(run, n) for n in StoredRun.__dataclass_fields__ if n != "curves"),
    )
    verdict = said(both)[0]
    assert verdict.startswith("adapter-00 and twin have the same AURAC on these 30 documents, ")
    ends = re.search(r" %; the difference may be −([\d.]+) to ([\d.]+) points\.$", verdict)
    assert ends[1] == ends[2]  # as far down as up


def test_a_run_without_a_right_answer_says_to_look_at_the_answers(tmp_path):
    maker = RunMaker(tmp_path, n=30).add("a", [0, 0], ranks=(1, 2))
    run = run_of(maker.add("b", [0, 0], ranks=(1, 2)))
    verdict = said(run)[0]
    assert verdict.startswith("Every answer on word_problems is scored 0, at every rank: look at")


def test_no_leader_above_the_base_is_said_of_all_of_them(tmp_path):
    maker = RunMaker(tmp_path, n=30)
    maker.base["word_problems"] = np.ones(30)
    run = run_of(maker.add("a", [0.1, 0.2], ranks=(1, 2)))
    twin = msgspec.structs.replace(run.curves[0], adapter="twin", label="twin", id="twin")
    rest = (getattr(run, n) for n in StoredRun.__dataclass_fields__ if n != "curves")
    verdict = said(StoredRun((run.curves[0], twin), *rest))[0]
    assert verdict.startswith("a and twin have the same AURAC on these 30 documents, ")
    assert (
        ", but no rank of them is shown to be above the base (100.0 %); the difference" in verdict
    )


def test_one_adapter_is_described_alone(tmp_path):
    verdict, shown, _ = said(run_of(many_curves(tmp_path, 1, n=50)))
    assert verdict.startswith("adapter-00 has an AURAC of ")
    assert [title for title, *_ in shown] == ["AURAC", "Recommended", "Base model"]


def test_the_published_inference_is_set_beside_the_default(tmp_path):
    run = run_of(zoo_run(tmp_path, n=100))
    _, shown, _ = said(run)
    default, other = run.curves[0], run.curves[1]
    change = f"{percent(default.area - other.area)} points"
    assert shown[2][:2] == ("Scale at inference", change)
    assert "with the trained P" in shown[2][2]
    assert "as published (without P)" in shown[2][2]
    assert any("Say which one you quote" in c for c in caveats(Findings(run)))


def test_the_prefix_is_set_beside_svd_where_the_adapter_is_compared_by_svd(tmp_path):
    maker = RunMaker(tmp_path, n=100)
    maker.add("lora", [0.5, 0.7], ranks=(1, 2), basis="svd", rescale="keep")
    maker.add("lora", [0.3, 0.7], ranks=(1, 2), role="published")
    run = run_of(maker.add("dylora", [0.2, 0.4], ranks=(1, 2), method="dylora"))
    assert [c.label for c in run.curves] == ["lora (SVD)", "lora (prefix)", "dylora"]
    assert [truncation(c) for c in run.curves][:2] == ["SVD, scale kept", "prefix, scaling rule"]
    _, shown, _ = said(run)
    default, other = (curve.area for curve in run.curves[:2])
    change = f"{percent(default - other)} points"
    both = f"{percent(default)} % by SVD (scale kept) and {percent(other)} % by prefix"
    both += " (scaling rule)"
    estimate = Findings(run).pair(*run.curves[:2]).estimate
    ends = f"95 % interval {percent(estimate.low)} to {percent(estimate.high)}"
    assert ("Truncation and scale", change, f"{ends} lora: {both}") in shown
    assert any(f"lora has an AURAC of {both}." in caveat for caveat in caveats(Findings(run)))
    assert not any("the fair comparison" in caveat for caveat in caveats(Findings(run)))
    own = Findings(run, MARGIN).own
    card_of = {adapter.name: card(run, adapter, own) for adapter in run.adapters}
    assert "truncation: SVD, scale kept" in card_of["lora"]
    assert "% with the truncation prefix, scaling rule" in card_of["lora"]


def test_paired_difference_is_the_difference_of_the_scores(tmp_path):
    run = run_of(zoo_run(tmp_path, n=100))
    findings = Findings(run, MARGIN)
    for pair in findings.pairs(TASK):
        gap = findings.row(TASK, pair.b).area - findings.row(TASK, pair.a).area
        estimate = pair.estimate
        assert estimate.value == pytest.approx(gap, abs=1e-12)
        assert estimate.low < gap < estimate.high
        assert pair.n_docs == 100


def test_losses_are_against_the_best_rank(tmp_path):
    run = run_of(many_curves(tmp_path, 1, ranks=(1, 2, 4), n=50))
    curve = run.curves[0]
    row = Findings(run, MARGIN).tests[curve.id]
    best = max(curve.accuracy)
    assert [step.rank for step in row.tests] == [4, 2, 1]
    for step, accuracy in zip(row.tests, reversed(curve.accuracy), strict=True):
        assert step.loss == pytest.approx(best - accuracy)
        assert step.upper >= step.loss


def test_what_to_ship_says_what_was_shown_and_what_it_costs(tmp_path):
    maker = RunMaker(tmp_path, n=200).add("a", [0.3, 0.6, 0.6], ranks=(2, 4, 8))
    run = run_of(maker)
    (curve,) = run.curves
    shares = [percent(value) for value in curve.accuracy]
    findings = Findings(run, 0.9)
    most = max(range(3), key=lambda at: curve.accuracy[at])
    (sentence,) = details(findings, TASK)[-1:]
    assert sentence == (
        f"Ship a at rank 2: 184 kB, accuracy {shares[0]} %. It is shown to be within 90 points of "
        "the best rank (95 % confidence, conditional on these checkpoints). The "
        f"most accurate is a at rank {curve.ranks[most]}, {shares[most]} %."
    )
    tile = tiles(findings, TASK)[1]
    assert (tile.title, tile.value) == ("Recommended rank", "2")
    assert tile.lines[0] == f"184 kB, accuracy {shares[0]} %"
    none = tiles(Findings(run, 0.0001), TASK)[1]
    assert (none.title, none.value) == ("Recommended", "none")
    assert none.lines[0].startswith("No configuration is shown to be within 0.01 points of the")
    asked = tiles(Findings(run, None), TASK)[1]
    assert asked.value == "needs a margin"
    assert asked.command == "aurac report FOLDER --margin M"
    assert asked.lines == (  # no margin that follows from the results
        "names the smallest configuration that is shown to be within M of the best.",
        "Choose M before you see results.",
    )


def test_what_is_not_shown_to_be_above_the_base_is_marked_and_not_shipped(tmp_path):
    """Accuracies of .3 and .4 under a base of .9, on the same documents."""
    maker = RunMaker(tmp_path, n=100)
    maker.base[TASK] = maker.outcomes(TASK, [0.9])[0]
    run = run_of(maker.add("a", [0.3, 0.4], ranks=(1, 2)))
    verdict, shown, text = said(run)
    base = f"{percent(run.curves[0].baseline)} %"
    assert verdict.endswith(f"but no rank of it is shown to be above the base ({base}).")
    assert shown[1][1] == "none"
    assert f"Ship nothing: nothing is shown to be above the base ({base})" in text
    assert caveats(Findings(run, 0.9))[:1] == [
        f"a: no rank is shown to be above the base on word_problems ({base})."
    ]


def test_caveats_fit_the_run(tmp_path):
    maker = RunMaker(tmp_path, n=50)
    maker.add("falls", [0.8, 0.3], ranks=(1, 2), method="lora")
    maker.add("unknown", [0.3, 0.4], ranks=(1, 2), method=None)
    maker.tasks[TASK]["limit"] = 50
    maker.curves[1].update(baseline=None, baseline_reason="it ran out of memory")
    maker.adapters["unknown"]["notes"] = [DORA_NOTE, "another"]
    lines = "\n".join(caveats(Findings(run_of(maker))))
    for part in (
        "One training run each",
        "falls: trained at one rank only",
        "Truncation by SVD, the fair comparison, is not in this run",
        "unknown: the checkpoint does not record how it was trained",
        # 0.98 / sqrt(50) = 0.1386
        "limited number of documents: word_problems (50, the default of this task; --limit 0: all)",
        ". With 50 documents the accuracy at one rank is known to about ±14 points at worst. A lim",
        "1 curve falls somewhere",
        "No base line on word_problems (it ran out of memory)",
        "unknown: the trained magnitudes of DoRA act at every rank from 1 on, so rank 0 ",
        "95 % intervals for each rank alone",
    ):
        assert part in lines, part


def test_a_family_is_not_truncated_and_has_no_card(tmp_path):
    maker = RunMaker(tmp_path, n=30).add("per rank", [0.3, 0.6], ranks=(1, 2), method="lora")
    maker.adapters["per rank"]["format"] = "family"
    run = run_of(maker)
    lines = "\n".join(caveats(Findings(run)))
    assert "per rank: an adapter trained for each rank" in lines
    assert "trained at one rank only" not in lines
    assert card(run, run.adapters[0], {}) is None


@pytest.mark.parametrize(
    ("counts", "shown"),
    [([4, None], "up to 4 of 50 (a, rank 1)"), ([1, 9], "up to 9 of 50 (a, rank 2)")],
)
def test_near_ties_are_said_from_one_document_in_fifty_on(tmp_path, counts, shown):
    maker = RunMaker(tmp_path, n=50).add("a", [0.3, 0.6], ranks=(1, 2))
    maker.curves[0]["near_ties"] = [1, 1]
    assert "within the rounding" not in "\n".join(caveats(Findings(run_of(maker))))
    maker.curves[0]["near_ties"] = counts
    assert shown in "\n".join(caveats(Findings(run_of(maker))))


def test_no_caveat_without_its_cause(tmp_path):
    maker = RunMaker(tmp_path, n=250).add("a", [0.3, 0.6], ranks=(1, 2), method="matryoshka")
    lines = "\n".join(caveats(Findings(run_of(maker))))
    for part in (
        "one rank only",
        "Few documents",
        "limited",
        "falls",
        "No base line",
        "missing",
        "rank 0",
    ):
        assert part not in lines, part


def test_several_seeds_change_the_first_caveat(tmp_path):
    maker = RunMaker(tmp_path, n=50)
    maker.add("a1", [0.3, 0.6], ranks=(1, 2), seed=1).add("a2", [0.3, 0.6], ranks=(1, 2), seed=2)
    maker.add("b", [0.3, 0.6], ranks=(1, 2))
    first, second, *_ = caveats(Findings(pooled(run_of(maker), {"a": ["a1", "a2"]})))
    assert first.startswith("Intervals cover documents and training seeds (a 2). They and the")
    assert "assume that seeds vary about normally" in first
    assert second.startswith("b: one training run each")


def few_seeds(tmp_path, margin):
    """Three training seeds, of which the smaller rank is a little less accurate."""
    maker, seeds = RunMaker(tmp_path, n=200), ("a1", "a2", "a3")
    for seed, name in enumerate(seeds):
        maker.add(name, [0.58, 0.6], ranks=(1, 2), seed=seed)
    return Findings(pooled(run_of(maker), {"a": list(seeds)}), margin)


@pytest.mark.parametrize("margin", [None, 0.5])
def test_an_interval_stands_beside_the_name_of_its_configuration(tmp_path, margin):
    """With a margin another configuration, shown in each checkpoint, is named before it."""
    findings = few_seeds(tmp_path, margin)
    best, line = findings.choices[TASK].best, details(findings, TASK)[-1]
    assert ("In each of these checkpoints a at rank 1 is shown" in line) is (margin is not None)
    known = f"{percent(best.low)} to {percent(best.high)} %"
    where = f"The interval of {findings.called(best)}, for all 2 together, is {known}"
    assert f"{where}; a at rank 1 has " in line


@pytest.mark.parametrize("margin", [None, 0.5])
def test_a_caption_speaks_of_bounds_only_where_there_are_some(tmp_path, margin):
    findings = few_seeds(tmp_path, margin)
    made = loss_table(findings, TASK, [*findings.tests.values()], "losses")
    assert "bound is below" not in made.caption
    assert "takes at least" in made.caption


def test_lines_of_a_tile_are_parted_as_what_they_are():
    tile = Tile("Recommended", "none", ("5 seeds are too few.", "It holds in each", "no more"))
    text = markdown(Report("t", "", (), (), (tile,), (), (), ""))
    assert "- Recommended: **none**. 5 seeds are too few. It holds in each; no more.\n" in text


def declared(tmp_path):
    """Two adapters and a third by SVD and by prefix, of which the first two are the question."""
    maker = RunMaker(tmp_path, n=60, seed=5)
    for name, area in (("a", 0.3), ("b", 0.35)):
        maker.add(name, [area, area], ranks=(1, 2), method="dylora")
    maker.add("lora", [0.7, 0.8], ranks=(1, 2), basis="svd", rescale="keep", role="extra")
    run = run_of(maker.add("lora", [0.5, 0.8], ranks=(1, 2)))
    return replace(run, primary=Declaration(pairs=[("b", "a")]))


def test_a_primary_comparison_is_the_first_line(tmp_path):
    findings = Findings(declared(tmp_path))
    first, second = verdicts(findings)
    (pair,) = (pair for pair in findings.tested if pair.exploratory is False)
    ends = f"{percent(pair.estimate.low)} to {percent(pair.estimate.high)}"
    value = f"{percent(pair.estimate.value)} points ({ends}, adjusted p {show_p(pair.p_holm)})"
    assert first == f"Primary comparison: {pair.b} − {pair.a} is {value}, not significant."
    assert second.startswith("lora (SVD) has the largest AURAC")
    late = replace(findings.run, primary=Declaration(pairs=[("b", "a")], declared=AFTER))
    assert verdicts(Findings(late))[0].startswith(f"Primary comparison, declared {AFTER}: b − a")
    lines = details(findings, TASK)
    assert lines[:2] == [first, second]
    assert f"Between {pair.b} and {pair.a} the test detects differences of " in lines[2]
    assert findings.pairs(TASK)[0] == pair


def test_the_leader_by_svd_is_set_beside_its_prefix_where_that_is_its_default(tmp_path):
    shown = tiles(Findings(declared(tmp_path)), TASK)
    (tile,) = (tile for tile in shown if tile.title == "Truncation and scale")
    assert "by SVD (scale kept) and " in tile.lines[1]
    assert [tile.top for tile in shown] == [True, False, False]


def test_a_whole_adapter_has_one_name_by_prefix_and_by_svd(tmp_path):
    findings = Findings(declared(tmp_path))
    whole = {x for x in findings.choices[TASK].configurations if x.adapter == "lora"}
    names = {(x.truncation[:3], x.rank): findings.called(x) for x in whole}
    assert names["svd", 2] == names["pre", 2] == "lora at rank 2"
    assert (names["svd", 1], names["pre", 1]) == ("lora (SVD) at rank 1", "lora (prefix) at rank 1")


def test_bold_rows_that_were_not_tested_against_the_largest_are_named(tmp_path):
    findings = Findings(declared(tmp_path))
    leader = replace(findings.leaders[TASK], candidates=("lora · svd · keep", "b"), untested=("b",))
    findings.leaders[TASK] = leader
    caption = aurac_table(findings, TASK, findings.run.curves, "name").caption
    widened = interval(findings.leaders[TASK].estimate)
    assert f"the largest (as the best of 4 it has {widened}), and all that no" in caption
    assert "is shown to be better than (of these, not tested against the largest: b)." in caption
