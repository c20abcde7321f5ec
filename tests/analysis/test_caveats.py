"""Caveats of a stored run: each is a code with the numbers behind it."""

from __future__ import annotations

import json
from typing import get_args

from report_runs import RunMaker, run_from

from aurac.analysis.caveats import caveats_of_run, padded
from aurac.analysis.record import Code
from aurac.show.caveats import SENTENCES, doubts
from aurac.show.findings import truncation


def test_a_run_says_what_its_numbers_do_not_show(tmp_path):
    maker = RunMaker(tmp_path, n=50, cells=False)
    maker.add("a", [0.5, 0.6], ranks=(1, 2), missing={4: "out of memory"})
    maker.add("b", [0.5, 0.6], ranks=(1, 2), method="dylora")
    maker.curves[1]["parameters"] = [92_160, 184_320]  # twice those of a: 46,080 for each rank
    maker.curves[1]["near_ties"] = [1, 2]  # of 50: rank 1 has no more than one in fifty
    results = maker.results()
    results["failures"] = [
        {"adapter": "a", "task": "word_problems", "rank": 4, "reason": "out of memory"},
        {"adapter": None, "task": "word_problems", "rank": 0, "reason": "gone"},
    ]
    codes = {caveat.code: caveat for caveat in caveats_of_run(run_from(results))}
    assert codes["trained at one rank"].curves == codes["not cut by svd"].curves == ("a",)
    sizes = codes["unequal sizes"]
    assert (sizes.curves, sizes.numbers) == (
        ("a", "b"),
        {"rank": 1.0, "small": 46_080.0, "large": 92_160.0},
    )
    assert codes["few documents"].numbers == {"n_docs": 50.0}
    ties = codes["near ties"]
    assert (ties.curves, ties.note) == (("b",), "float32")
    assert ties.numbers == {"rank": 2.0, "documents": 2.0, "n_docs": 50.0}
    hole = codes["missing"]  # the failed cell behind it is not said twice
    assert (hole.curves, hole.numbers, hole.note) == (("a",), {"rank": 4.0}, "out of memory")
    failed = codes["failed"]
    assert (failed.curves, failed.numbers, failed.note) == ((), {"rank": 0.0}, "gone")
    assert not {"as published", "no base", "limit", "samples"} & codes.keys()


def test_answers_that_differ_from_the_reference_in_white_space_alone_are_counted(tmp_path):
    """All 40 texts are the references with a space and in capitals; those scored 0 are counted."""
    maker = RunMaker(tmp_path, n=40)
    texts = [f" {i} + {i + 3} = {2 * i + 3}. ####  {2 * i + 3}\n" for i in range(40)]
    run = maker.add("a", [0.0, 0.0], ranks=(1, 2), texts=texts)
    assert not [*padded(run_from(run.results(), tmp_path))]  # no reference was kept
    maker.keep_questions()
    (caveat,) = padded(run_from(maker.results(), tmp_path))
    assert (caveat.code, caveat.curves) == ("padded", ("a",))
    assert caveat.numbers == {"rank": 2.0, "answers": 40.0, "n_docs": 40.0}
    zero, said = doubts(run_from(maker.results(), tmp_path))
    assert zero.startswith("Every answer on word_problems is scored 0, at every rank: look at the")
    assert "40 of 40 answers (a, rank 2) are scored 0" in said


def test_targets_that_begin_with_a_space_are_named_where_a_filter_scores_every_answer_0(tmp_path):
    maker = RunMaker(tmp_path, n=4)
    maker.add("a", [0.0, 0.0], ranks=(1, 2))
    maker.keep_questions()
    path = tmp_path / "documents" / "0.json"
    for space, named in (("", False), (" ", True)):
        content = json.loads(path.read_text())
        content["targets"] = [space + target for target in content["targets"]]
        path.write_text(json.dumps(content))
        zero, *_ = doubts(run_from(maker.results(), tmp_path))
        assert ("Its targets begin with a space, which the filter" in zero) == named


def test_a_report_has_a_sentence_for_every_code():
    assert frozenset(get_args(Code)) == SENTENCES


def test_a_recipe_of_families_is_not_called_truncated(tmp_path):
    """One adapter for each rank in each seed: nothing of it is cut, by SVD or otherwise."""
    maker = RunMaker(tmp_path, n=50, cells=False)
    for seed in (1, 2):
        maker.add(f"each-{seed}", [0.5, 0.6], ranks=(1, 2), method="lora")
        maker.adapters[f"each-{seed}"]["format"] = "family"
    maker.add("cut", [0.5, 0.6], ranks=(1, 2), method="lora")
    run = run_from(maker.results())
    codes = {caveat.code: caveat.curves for caveat in caveats_of_run(run)}
    assert codes["one rank each"] == ("each-1", "each-2")
    assert codes["trained at one rank"] == codes["not cut by svd"] == ("cut",)
    uncut = "none, an adapter for each rank"
    assert [truncation(curve) for curve in run.curves] == [uncut, uncut, "prefix, scaling rule"]
