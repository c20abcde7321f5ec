"""A run that is one task of a study has the names and the p values of the study."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from report_runs import RunMaker, run_from

from aurac.analysis import analyse
from aurac.analysis.of_study import copied_from, study_labels, study_of, within_study
from aurac.analysis.rows import Options
from aurac.curves.curve import Curve
from aurac.records.decisions import Declaration
from aurac.show.caveats import study_sentences

METHODS = {"lora": {"label": "LoRA"}, "dylora": {"label": None}, "other": {}}


def curves(task):
    rng = np.random.default_rng(len(task))
    for adapter, chance in (("lora", 0.5), ("dylora", 0.62), ("other", 0.55)):
        for basis in ("prefix", "svd") if adapter == "lora" else ("prefix",):
            yield Curve.from_outcomes(
                (1, 2, 4),
                rng.random((3, 300)) < chance,
                adapter=adapter,
                task=task,
                basis=basis,
                rescale="rule",
                doc_ids=tuple(map(str, range(300))),
            )


@pytest.fixture
def task(tmp_path):
    """The folder of the task `short` of a study without an analysis."""
    folder = tmp_path / "results" / "short"
    folder.mkdir(parents=True)
    content = {"study": {"name": "nested", "methods": METHODS}}
    (tmp_path / "study.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def alone():
    return analyse(list(curves("short")), Options(strict=False))


@pytest.mark.parametrize("primary", [None, Declaration(pairs=[("lora", "dylora")])])
def test_the_p_values_are_those_of_the_study(task, alone, tmp_path, primary):
    both = [*curves("short"), *curves("longer")]
    whole = analyse(both, Options(strict=False, primary=primary))
    (tmp_path / "analysis.json").write_text(whole.to_json())
    seen = within_study(alone, [task])
    here = [row for row in (*whole.pairs, *whole.variants) if row.task == "short"]
    assert [*seen.pairs, *seen.variants] == here
    assert [row.p_holm for row in seen.pairs] != [row.p_holm for row in alone.pairs]
    assert seen.best == tuple(row for row in whole.best if row.task == "short")
    assert (seen.scores, seen.primary) == (alone.scores, primary)
    (sentence,) = study_sentences(seen.caveats)
    assert "p values are those of its report.md" in sentence
    families = "within 2 primary and 6 exploratory tests."
    every = "over all of its 8 comparisons. No primary comparison was declared, so all are"
    assert f"adjusted {families if primary else every}" in sentence


def test_without_the_analysis_of_the_study_the_reader_is_sent_there(task, alone, tmp_path):
    other = [replace(curve, outcomes=curve.outcomes[:, ::-1]) for curve in curves("longer")]
    for text in (None, "damaged", analyse(other, Options(strict=False)).to_json()):
        if text is not None:
            (tmp_path / "analysis.json").write_text(text)
        seen = within_study(alone, [task])
        assert (seen.pairs, seen.best) == (alone.pairs, alone.best)
        (sentence,) = study_sentences(seen.caveats)
        assert "adjusted for this task alone. Quote those of the study's report.md" in sentence


def test_a_task_copied_out_of_its_study_says_that_its_p_values_are_its_own(task, alone, tmp_path):
    whole = analyse([*curves("short"), *curves("longer")], Options(strict=False))
    (tmp_path / "analysis.json").write_text(whole.to_json())
    (task / "analysis.json").write_text(within_study(alone, [task]).to_json())
    copy = tmp_path / "elsewhere"
    shutil.copytree(task, copy)
    for _ in range(2):  # also where the copy's own analysis was written again
        seen = within_study(alone, [copy])
        assert (seen.pairs, seen.best) == (alone.pairs, alone.best)
        (sentence,) = study_sentences(seen.caveats)
        assert sentence.startswith("One task of the study nested: these p values are adjusted for")
        (copy / "analysis.json").write_text(seen.to_json())
    assert copied_from(task) == []
    (copy / "analysis.json").unlink()
    assert within_study(alone, [copy]) == alone


@pytest.mark.parametrize("gone", ["dylora", "other"])
def test_a_run_of_fewer_curves_keeps_its_own_tests(task, tmp_path, gone):
    """The leader and the candidates of the study may be among the curves that it lacks."""
    whole = analyse([*curves("short"), *curves("longer")], Options(strict=False))
    (tmp_path / "analysis.json").write_text(whole.to_json())
    fewer = [curve for curve in curves("short") if curve.adapter != gone]
    own = analyse(fewer, Options(strict=False))
    seen = within_study(own, [task / "subsets" / "one"])
    assert (seen.pairs, seen.variants, seen.best) == (own.pairs, own.variants, own.best)
    assert "Quote those of the study" in study_sentences(seen.caveats)[0]


def test_a_run_that_knows_the_studys_primary_comparison_has_its_tests(task, tmp_path):
    primary = Declaration(pairs=[("lora", "dylora")])
    both = [*curves("short"), *curves("longer")]
    whole = analyse(both, Options(strict=False, primary=primary))
    (tmp_path / "analysis.json").write_text(whole.to_json())
    own = analyse(list(curves("short")), Options(strict=False, primary=primary))
    seen = within_study(own, [task])
    assert [*seen.pairs, *seen.variants] == [
        row for row in (*whole.pairs, *whole.variants) if row.task == "short"
    ]


def test_a_task_has_the_labels_of_its_study(task, tmp_path):
    maker = RunMaker(tmp_path, n=50, cells=False)
    for adapter in ("lora", "dylora-lr0.01-seed1", "elsewhere"):
        maker.add(adapter, [0.5, 0.6], ranks=(1, 2))
    rows = run_from(maker.results()).curves
    expected = {"lora": "LoRA", "dylora-lr0.01-seed1": "dylora", "elsewhere": "elsewhere"}
    assert study_labels(task, rows) == expected
    assert study_labels(tmp_path, rows) == {}


def test_what_is_no_study_says_nothing(task, tmp_path):
    assert study_of(task).name == "nested"
    assert study_of(task / "subsets" / "one").task == "short"
    assert study_of(tmp_path) is None
    for text in ("damaged", "[]", '{"study": []}', '{"study": {"name": "x", "methods": []}}'):
        (tmp_path / "study.json").write_text(text)
        assert study_of(task) is None
