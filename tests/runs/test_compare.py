"""`compare` end to end on a tiny random Llama: cells, curves, resuming, growing, refusing."""

from __future__ import annotations

import json
import logging

import pytest
from support.small_runs import TASK, assert_clean, cell_files, curves, random_adapter, run_small

import aurac
from aurac.adapters import load_adapter, truncate
from aurac.errors import CheckpointError, RankError, RunFolderError, TaskError, UsageError
from aurac.records.run import read_run
from aurac.runs.compare import dry_run
from aurac.runs.settings import Settings
from aurac.tasks.evaltask import EvalTask


@pytest.fixture(scope="module")
def run(adapters, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aurac.runs.compare.write_report", lambda _result: None)
        return run_small(list(adapters.values()), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def counted(monkeypatch):
    """How many examples were asked."""
    asked, ask = [], EvalTask.ask

    def counting(self, lm, places):
        asked.extend(places)
        return ask(self, lm, places)

    monkeypatch.setattr(EvalTask, "ask", counting)
    return asked


def test_a_run_holds_a_curve_for_each_adapter_and_the_base_once(run):
    ways = [(c.adapter, c.basis, c.rescale, c.ranks, c.n_docs) for c in run.curves]
    assert ways == [
        ("lora", "svd", "keep", (1, 2, 4), 5),
        ("dylora", "prefix", "rule", (1, 2, 4), 5),
        ("matryoshka", "prefix", "trained", (1, 2, 4), 5),
    ]
    assert len(cell_files(run.folder)) == 1 + 3 * 3
    assert {c.baseline for c in run.curves} == {run.curves[0].base_scores.mean()}
    assert_clean(run.folder)


def test_what_is_returned_is_what_is_read(run):
    assert curves(run.folder) == json.dumps(json.loads(curves(run.folder)))
    read = read_run(run.folder)
    assert [c.outcomes.tolist() for c in read.curves] == [c.outcomes.tolist() for c in run.curves]
    assert read.adapters == run.adapters
    assert read.tasks == run.tasks
    told = json.loads((run.folder / "results.json").read_text())
    assert [c["accuracy"] for c in told["curves"]] == [list(c.accuracy) for c in run.curves]


def test_the_folder_says_how_it_was_made(run, tiny_base_folder):
    assert run.provenance["base"] == str(tiny_base_folder)
    assert run.provenance["dtype"] == run.settings["dtype"] == "float32"
    assert run.settings["device_kind"] == "cpu"
    by_name = {adapter.name: adapter for adapter in run.adapters}
    assert by_name["lora"].trained_rank == 4
    assert list(by_name["lora"].sizes) == [1, 2, 4]
    adapter = load_adapter(by_name["lora"].path)
    assert by_name["lora"].sizes == {rank: adapter.bytes(rank) for rank in (1, 2, 4)}
    rows = run.requests(TASK)
    assert rows[1]["doc_id"] == 0
    assert len(rows) == 1 + 5
    assert len(run.questions(TASK)) == 5


def test_the_same_command_computes_nothing(run, adapters, counted):
    before = cell_files(run.folder)
    again = run_small(list(adapters.values()), run.folder)
    assert (counted, cell_files(run.folder)) == ([], before)
    assert [c.accuracy for c in again.curves] == [c.accuracy for c in run.curves]


def test_examples_ranks_cuts_and_adapters_grow(adapters, tmp_path, counted):
    out = tmp_path / "run"
    run_small(adapters["dylora"], out, ranks="4", limit=3)
    assert len(counted) == 2 * 3
    counted.clear()
    run_small(adapters["dylora"], out, ranks="1,4", limit=5)
    assert len(counted) == 2 * 2 + 5
    counted.clear()
    more = run_small([adapters["lora"]], out, ranks="1", limit=5, basis=("svd", "prefix"))
    assert len(counted) == 3 * 5  # the full rank is one cell of both cuts
    assert {c.adapter for c in more.curves} == {"lora"}  # what was asked
    held = read_run(out)
    ways = [(c.adapter, c.basis, c.ranks, c.n_docs) for c in held.curves]
    assert ways == [
        ("dylora", "prefix", (1, 4), 5),
        ("lora", "svd", (1, 4), 5),
        ("lora", "prefix", (1, 4), 5),
    ]
    counted.clear()
    fewer = run_small(adapters["dylora"], out, ranks="1", limit=2)
    assert counted == []
    assert fewer.curves[0].n_docs == 2
    fresh = run_small(adapters["dylora"], tmp_path / "fresh", ranks="1,4", limit=5)
    assert held.curves[0].outcomes.tolist() == fresh.curves[0].outcomes.tolist()


def test_other_settings_need_another_folder(run, adapters):
    with pytest.raises(RunFolderError, match=r"another run \(of task \w+ num_fewshot was 0, is 2"):
        run_small(adapters["lora"], run.folder, num_fewshot=2)


def test_other_weights_under_a_name_get_another_name(tiny_base_folder, tmp_path, caplog):
    folder = random_adapter(tiny_base_folder, tmp_path / "mine", seed=1)
    run_small(folder, tmp_path / "run", ranks="4")
    random_adapter(tiny_base_folder, tmp_path / "mine", seed=2)
    run = run_small(folder, tmp_path / "run", ranks="4")
    assert [adapter.name for adapter in run.adapters] == [f"{tmp_path.name}/mine"]
    assert "the run has another adapter called mine" in caplog.text


def test_what_cannot_be_used_leaves_no_folder(adapters, tiny_base_folder, tmp_path):
    lora, out = adapters["lora"], tmp_path / "no"
    copy = random_adapter(tiny_base_folder, tmp_path / "copy", name="x", seed=7)
    for error, message, given, options in [
        (CheckpointError, "named twice", [lora, lora], {}),
        (CheckpointError, "folder or file", [tmp_path / "nothing"], {}),
        (RankError, "9 is none", [lora], {"ranks": "9"}),
        (TaskError, "nothing_like_it", [lora], {"tasks": ("nothing_like_it",)}),
        (UsageError, "group g names 'x'", [lora], {"group": {"g": ["lora", "x"]}}),
        (UsageError, "needs basis prefix", [copy], {"basis": "svd", "rescale": "trained"}),
    ]:
        with pytest.raises(error, match=message):
            run_small(given, out, **options)
    assert not out.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="holds other files"):
        run_small(lora, tmp_path / "full")


def test_names_that_clash_are_told_apart_and_kept(tiny_base_folder, tmp_path):
    first = random_adapter(tiny_base_folder, tmp_path / "a" / "same", seed=1)
    other = random_adapter(tiny_base_folder, tmp_path / "b" / "same", seed=2)
    run = run_small([first, other], tmp_path / "run", ranks="4", limit=2)
    names = [adapter.name for adapter in run.adapters]
    assert len(set(names)) == 2
    again = run_small([other, first], tmp_path / "run", ranks="4", limit=2)
    assert [adapter.name for adapter in again.adapters] == names[::-1]


def test_a_failed_cell_is_missing_and_tried_again(adapters, tmp_path, monkeypatch):
    judge = EvalTask.judge
    left = [TaskError("no good")]

    def failing(self, places, answers):
        if left:
            raise left.pop()
        return judge(self, places, answers)

    monkeypatch.setattr(EvalTask, "judge", failing)
    run = run_small(adapters["dylora"], tmp_path / "run")
    [failure] = run.failures
    assert (failure.adapter, failure.rank, failure.reason) == (None, 0, "no good")
    assert run.curves[0].base_scores is None
    again = run_small(adapters["dylora"], tmp_path / "run")
    assert not again.failures
    assert again.curves[0].base_scores is not None


def test_too_few_examples_for_a_margin_are_said_first(adapters, tmp_path, counted, caplog):
    class Said(logging.Handler):
        def emit(self, record):
            if "loses" in record.getMessage():
                asked.append((len(counted), record.getMessage()))

    asked = []
    logging.getLogger("aurac").addHandler(handler := Said())
    run_small(adapters["dylora"], tmp_path / "run", ranks="4", margin=0.02)
    logging.getLogger("aurac").removeHandler(handler)
    [(before, text)] = asked
    assert before == 0
    assert f"{TASK}: With 5 examples a rank that loses nothing is not shown to lose" in text


def test_a_question_that_has_no_answer_is_refused_first(adapters, tmp_path, counted):
    with pytest.raises(UsageError, match="no gone to compare with, but dylora"):
        run_small(adapters["dylora"], tmp_path / "run", reference="gone")
    with pytest.raises(UsageError, match="margin takes"):
        run_small(adapters["dylora"], tmp_path / "run", margin=0)
    assert not counted


def test_a_damaged_cell_is_computed_again(adapters, tmp_path, counted):
    run = run_small(adapters["dylora"], tmp_path / "run")
    path = next((tmp_path / "run" / "cells").iterdir())
    path.write_bytes(path.read_bytes()[:-200])
    counted.clear()
    again = run_small(adapters["dylora"], tmp_path / "run")
    assert len(counted) == 5
    assert again.curves[0].outcomes.tolist() == run.curves[0].outcomes.tolist()


def test_a_dry_run_lists_the_cells_and_writes_nothing(run, adapters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {"limit": 7, "dtype": "float32", "device": "cpu"}
    plan = dry_run(Settings.of(list(adapters.values()), TASK, **words))
    assert len(plan.cells) == 10
    assert {cell[-2:] for cell in plan.cells} == {(7, 7)}
    assert plan.folder.parts[0] == "runs"
    assert not plan.folder.exists()
    there = dry_run(Settings.of(list(adapters.values()), TASK, out=run.folder, **words))
    assert {cell[-2:] for cell in there.cells} == {(7, 2)}


def test_the_default_folder_is_by_tasks_prompts_and_settings(adapters):
    def folder(*names, **more):
        words = {"dtype": "float32", "device": "cpu", **more}
        return dry_run(Settings.of([adapters[name] for name in names], TASK, **words)).folder

    same = folder("lora", "dylora", limit=3)
    assert same == folder("dylora", limit=4, ranks="1")
    assert len({same, folder("lora", num_fewshot=1), folder("lora", dtype="bfloat16")}) == 3


def test_fit_finds_its_factors_once(tiny_base_folder, tmp_path, monkeypatch):
    folder = random_adapter(tiny_base_folder, tmp_path / "mine")
    options = {"ranks": "1", "rescale": "fit", "basis": "prefix"}
    run = run_small(folder, tmp_path / "run", **options)
    [cut] = run.manifest.cuts
    assert (cut.rescale, sorted(cut.factors)) == ("fit", [1, 4])
    monkeypatch.setattr("aurac.runs.fit.best_factor", lambda _: pytest.fail("fitted twice"))
    again = run_small(folder, tmp_path / "run", **options)
    assert again.manifest.cuts == [cut]


def test_rank_r_of_a_family_is_the_adapter_trained_at_r(adapters, tmp_path):
    adapter = load_adapter(adapters["dylora"])
    for rank in (1, 4):
        aurac.save_adapter(truncate(adapter, rank), tmp_path / "lora" / f"r{rank}")
    run = run_small([f"per rank={tmp_path}/lora/r{{1,4}}"], tmp_path / "family")
    [curve] = run.curves
    assert (curve.adapter, curve.ranks) == ("per rank", (1, 4))
    assert run.adapters[0].format == "family"
    whole = run_small(adapters["dylora"], tmp_path / "whole", ranks="1,4")
    assert curve.outcomes.tolist() == whole.curves[0].outcomes.tolist()
    folder = run_small([tmp_path / "lora"], tmp_path / "again")
    assert folder.curves[0].outcomes.tolist() == curve.outcomes.tolist()


def test_compare_gives_the_run_that_was_asked_for(adapters, tmp_path):
    words = {"limit": 5, "dtype": "float32", "device": "cpu", "margin": 0.5}
    done = aurac.compare(adapters["dylora"], TASK, out=tmp_path / "run", **words)
    assert done.folder == tmp_path / "run"
    assert done.question.margin == 0.5
    assert set(done.scores.adapter) == {"dylora"}
