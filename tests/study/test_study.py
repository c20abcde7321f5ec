"""A whole study of a tiny random base: search, trainings, evaluation, report, resuming."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import combinations
from statistics import fmean

import pytest
from click.testing import CliRunner
from packing import pack
from transformers import TrainerCallback

from aurac.adapters import load_adapter, save_adapter
from aurac.cli import cli
from aurac.errors import (
    AuracError,
    CheckpointError,
    DataError,
    RecipeError,
    RunFolderError,
    TaskError,
    UsageError,
)
from aurac.runs.evaluator import Evaluator
from aurac.study import load_study, plan_study, run_study, summarise
from aurac.study.execution import StudyRunner
from aurac.study.plan import read_state
from aurac.training import train

LORA = {"recipe": {"method": "lora"}, "learning_rates": [0.01]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "none.yaml"}, "none.yaml does not exist"),
        ({"options": {"data": {"aurac_word_problems": "none"}}}, "beside its recipe or study"),
        ({"recipe": {"data": "train.jsonl", "prompt": "{quest}"}}, "templates of the fields"),
        ({"recipe": {"data": "train.jsonl", "target_modules": ["x"]}}, "do not fit the base"),
    ],
)
def test_a_mistake_in_a_task_costs_no_training(small, content, tmp_path, changes, message):
    choice = content["tasks"]["choice"]
    other = {**choice, "task": "aurac_word_problems", **changes}
    path = small(tasks={"choice": choice, "other": other})
    with pytest.raises(AuracError, match=message):
        run_study(load_study(path), path, tmp_path / "out", device="cpu")
    assert not list((tmp_path / "out").rglob("adapter_config.json"))


def test_a_dry_run_counts_a_training_of_search_and_results_once(write, tmp_path):
    """Two methods at two rates, one seed; with two seeds of results each needs one more: 4 + 2."""
    methods = {name: {"recipe": {"method": name}} for name in ("lora", "matryoshka")}
    path = write(methods=methods, learning_rates=[0.003, 0.01], seeds=[1, 2])
    line = ["study", str(path), "--out", str(tmp_path / "out"), "--dry-run"]
    lines = CliRunner().invoke(cli, line).output.splitlines()
    assert lines[:3] == [
        "trainings for the search: 4, 0 done",
        "trainings for the results: 4, 0 done",
        "trainings in all (2 of them for both): 6, 0 done",
    ]
    assert [int(line.split()[2]) for line in lines if line.startswith("choice ")] == [3, 3]


def test_a_dry_run_looks_for_the_splits_of_a_task(write, small, content, tmp_path):
    """Of a bundled task, whose YAML has both, and of one's own."""
    assert plan_study(load_study(write()), write(), tmp_path / "out").searches == (0, 3)
    (tmp_path / "mine.yaml").write_text("task: mine\ntest_split: test\n")
    choice = {**content["tasks"]["choice"], "task": "mine.yaml"}
    path = write(tasks={"choice": choice})
    done = CliRunner().invoke(cli, ["study", str(path), "--dry-run"])
    fix = "name one as `validation_split` in a YAML of your own"
    assert str(done.exception) == f"task 'mine' has no validation split; expected test; {fix}"
    path = small(tasks={"choice": choice})  # without a search the split is not needed
    assert plan_study(load_study(path), path, tmp_path / "out").searches == (0, 0)
    path = write(tasks={"choice": {**choice, "task": "my.yaml"}})
    with pytest.raises(TaskError, match=r"my.yaml does not exist; did you mean mine.yaml"):
        plan_study(load_study(path), path, tmp_path / "out")


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize("task", ["aurac_nope", "nope.yaml"])
def test_an_unknown_task_is_refused_before_anything_is_written(small, content, tmp_path, dry, task):
    choice = {**content["tasks"]["choice"], "task": task}
    path, out = small(tasks={"choice": choice}), tmp_path / "out"
    done = CliRunner().invoke(cli, ["study", str(path), "--out", str(out), *dry])
    assert isinstance(done.exception, TaskError)
    assert task in str(done.exception)
    assert not out.exists()


@pytest.mark.slow
def test_a_study_from_its_file_to_its_report(write, tmp_path):
    path, out = write(), tmp_path / "out"
    study = load_study(path)
    before = plan_study(study, path, out)
    assert (before.searches, before.trainings) == ((0, 3), (0, 12))
    # search: 3 adapters at 3 ranks and the base; results: LoRA and Matryoshka with two curves of 3
    # ranks for 3 seeds, ranks 1 and 2 of the family, and the base
    assert before.cells == (0, 3 * 3 + 1 + 2 * 3 * 2 * 3 + 2 * 3 + 1)
    assert before.training_left is before.cells_left is None
    lines = []
    state = run_study(study, path, out, device="cpu", say=lines.append)
    chosen = state["rates"]["choice"]
    assert chosen["lora"] == 0.01
    assert chosen["matryoshka"] in (0.003, 0.01, 0.03)
    assert chosen["per_rank"] == 0.01
    # 3 of the search, of which one is a result, too: 3 + 2 of matryoshka, 3 of lora, which are the
    # family's of rank 4, too, and 2 × 3 of the family
    assert sum("training" in line for line in lines) == 14
    after = plan_study(study, path, out)
    assert (after.searches, after.trainings) == ((3, 3), (12, 12))
    assert after.cells == (before.cells[1], before.cells[1])
    assert (after.training_left, after.cells_left) == (0, 0)
    counts = {row.method: (row.done, row.total) for row in after.methods}
    assert counts == {"lora": (3, 3), "matryoshka": (5, 5), "per_rank": (6, 6)}
    assert all(row.pace > 0 for row in after.methods)
    report = summarise(study, path, out, state)
    for text in ("Is one method better?", "matryoshka (with P) − lora (prefix)", "first two seeds"):
        assert text in report.read_text()
    first, *_, appendix = report.read_text().split("## Appendix: ")
    assert appendix.startswith("choice\n")
    assert re.findall(r"\*\*(Table|Figure) (\d+)\.", first) == [("Table", "1"), ("Figure", "1")]
    assert re.search(r"has the largest AURAC on choice", first)
    assert re.search(r"0\.003 \(\d+\.\d\), 0\.01 \(\d+\.\d\), 0\.03 \(\d", report.read_text())
    results = json.loads((out / "results/choice/results.json").read_text())
    assert results["groups"].keys() == {"lora", "matryoshka", "per_rank"}
    assert "3 adapters, 6 steps" in report.read_text()
    assert "matryoshka (with P) − lora (prefix)" in (out / "differences.svg").read_text()
    drawn = {(c["id"].partition("-")[0], c["basis"], c["rescale"]) for c in results["curves"]}
    assert drawn == {
        ("lora", "prefix", "rule"),
        ("lora", "svd", "keep"),
        ("matryoshka", "prefix", "rule"),
        ("matryoshka", "prefix", "trained"),
        ("per_rank", "prefix", "rule"),
    }
    searched = json.loads((out / "search/choice/results.json").read_text())
    assert {curve["rescale"] for curve in searched["curves"]} == {"trained"}
    analysis = json.loads((out / "analysis.json").read_text())
    pairs = {frozenset((pair["a"], pair["b"])) for pair in analysis["pairs"]}
    assert pairs == set(map(frozenset, combinations(("lora", "matryoshka", "per_rank"), 2)))
    # the family's adapter of rank 4 is that of lora: the same cell
    cells = {c["adapter"]: c["cells"] for c in results["curves"] if c["basis"] == "prefix"}
    assert cells["per_rank-lr0.01-seed2"]["4"] == cells["lora-lr0.01-seed2"]["4"]
    assert cells["per_rank-lr0.01-seed2"]["1"] != cells["lora-lr0.01-seed2"]["1"]

    again = []
    assert run_study(study, path, out, device="cpu", say=again.append)["rates"] == state["rates"]
    assert not any("training" in line for line in again)

    done = CliRunner().invoke(cli, ["study", str(path), "--out", str(out), "--dry-run"])
    assert "trainings for the results: 12, 12 done" in done.output
    longer = load_study(write(seeds=[1, 2, 3, 4]))
    left = plan_study(longer, path, out)
    seconds = state["seconds"]
    one = {  # a training takes as long as those of its task, method and rank
        name: fmean(s for folder, s in seconds.items() if re.search(f"/{name}$", folder))
        for name in ("lora.*", "matryoshka.*", "per_rank.*r1", "per_rank.*r2")
    }
    assert left.training_left == pytest.approx(sum(one.values()))
    assert left.cells == (before.cells[1], before.cells[1] + 2 * 2 * 3 + 2)
    assert left.cells_left > 0
    write()
    report.unlink()
    done = CliRunner().invoke(cli, ["study", str(path), "--out", str(out), "--report"])
    assert done.exit_code == 0, done.output
    assert report.is_file()

    other = load_study(write(recipe={**study.recipe, "steps": 3}))
    with pytest.raises(RunFolderError, match="another recipe"):
        run_study(other, path, out, device="cpu")
    (tmp_path / "train.jsonl").write_text('{"question": "Mia", "answer": "1"}\n')
    with pytest.raises(RunFolderError, match=r"training data train\.jsonl have changed"):
        run_study(study, path, out, device="cpu")


@pytest.mark.slow
def test_a_rate_that_diverges_is_left_out_of_the_search(write, tmp_path):
    methods = {"lora": {"recipe": {"method": "lora"}, "learning_rates": [0.003, 0.01, 1e20]}}
    path, out = write(methods=methods, seeds=[1]), tmp_path / "out"
    study, lines = load_study(path), []
    state = run_study(study, path, out, device="cpu", say=lines.append)
    assert state["rates"]["choice"]["lora"] in (0.003, 0.01)
    assert list(state["diverged"]) == ["adapters/choice/lora-lr1e+20-seed1"]
    assert "1e+20 (diverged)" in summarise(study, path, out, state).read_text()
    elsewhere = {**state, "diverged": {"adapters/other/lora-lr1e+20-seed1": ""}}
    assert "diverged" not in summarise(study, path, out, elsewhere).read_text()
    progress = plan_study(study, path, out)
    assert progress.searches == (2, 2)
    assert progress.cells[0] == progress.cells[1]
    again = []
    run_study(study, path, out, device="cpu", say=again.append)
    assert sum("training" in line for line in lines) == 3
    assert not any("training" in line for line in again)

    for extra in ([], [1e21]):  # without a search, and with one that finds nothing
        methods["lora"]["learning_rates"] = [1e20, *extra]
        path = write(methods=methods, seeds=[1])
        with pytest.raises(RecipeError, match="diverged"):
            run_study(load_study(path), path, tmp_path / f"out{len(extra)}", device="cpu")


def test_a_training_that_was_interrupted_goes_on(small, tmp_path, monkeypatch):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 2:
                raise KeyboardInterrupt

    path, out = small(methods={"lora": {**LORA, "recipe": {"method": "lora", "steps": 4}}}), "out"
    study, folder = load_study(path), "adapters/choice/lora-lr0.01-seed1"
    run_study(study, path, tmp_path / "whole", device="cpu")
    monkeypatch.setattr("aurac.study.execution._SAVE_STEPS", 1)
    with monkeypatch.context() as patch:
        patch.setattr("aurac.study.execution.train", partial(train, callbacks=[Stop()]))
        with pytest.raises(KeyboardInterrupt):
            run_study(study, path, tmp_path / out, device="cpu")
    begun = []
    patched = partial(train, callbacks=[Begun(begun)])
    monkeypatch.setattr("aurac.study.execution.train", patched)
    state = run_study(study, path, tmp_path / out, device="cpu")
    assert begun == [1]  # the checkpoint of step 2 comes after its end
    assert len(state["losses"][folder]) == 1
    one, two = (load_adapter(tmp_path / name / folder) for name in ("whole", out))
    assert one.sha256 == two.sha256
    assert not list((tmp_path / out).rglob("*.training"))


class Begun(TrainerCallback):
    """Records the step at which a training begins."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_begin(self, args, state, control, **_):
        self.steps.append(state.global_step)


def test_a_family_is_trained_no_further_at_a_rate_that_diverged(small, tmp_path):
    family = {"recipe": {"method": "lora"}, "family": True, "learning_rates": [0.01, 1e20]}
    path, out, lines = small(methods={"each": family}), tmp_path / "out", []
    study = load_study(path)
    state = run_study(study, path, out, device="cpu", say=lines.append)
    assert [line.rpartition(" ")[2] for line in lines if "training" in line] == [
        "each-lr0.01-seed1-r1",
        "each-lr0.01-seed1-r4",
        "each-lr1e+20-seed1-r1",
    ]
    assert "1e+20 (diverged)" in summarise(study, path, out, state).read_text()


def test_a_study_that_asks_for_less_than_its_folder_holds_has_its_own_results(
    small, content, tmp_path
):
    out = tmp_path / "out"
    path = small(methods={"lora": LORA})
    run_study(load_study(path), path, out, device="cpu")
    content["tasks"]["choice"]["test"]["limit"] = 6
    content["tasks"]["choice"]["drop_documents"] = True
    path = small(methods={"lora": LORA}, tasks=content["tasks"])
    state = run_study(load_study(path), path, out, device="cpu")
    assert state["results"]["choice"].startswith("results/choice/subsets/")
    report = summarise(load_study(path), path, out, state).read_text()
    assert "; 6 documents" in report
    assert f"({state['results']['choice']}/report.md)" in report
    texts = [p for p in out.rglob("*.json") if b"how many" in p.read_bytes().lower()]
    assert texts == []
    assert not list(out.rglob("requests"))


def test_a_grid_that_grows_may_choose_another_rate(small, tmp_path):
    """An adapter of the rate chosen before stays, and the results are those of the new choice."""
    out = tmp_path / "out"
    for grid, best in (([0.01, 0.02], 0.01), ([0.001, 0.01, 0.02], 0.001)):
        path = small(methods={"lora": {**LORA, "learning_rates": grid}})
        runner = StudyRunner(load_study(path), path, out, "cpu", lambda _: None, progress=False)
        runner.rates["choice"] = {"lora": best}
        runner.keep(rates=runner.rates)
        runner.evaluate("choice")
    assert len(list((out / "adapters/choice").glob("lora-*-seed1"))) == 2
    report = summarise(load_study(path), path, out, runner.state).read_text()
    assert re.search(r"\| choice +\| lora +\| .* \| 0.001 ", report)


def test_another_file_in_the_same_folder_leaves_the_chosen_rates_alone(small, tmp_path):
    out = tmp_path / "out"
    path = small(methods={"lora": {**LORA, "learning_rates": [0.01, 0.02]}})
    runner = StudyRunner(load_study(path), path, out, "cpu", lambda _: None, progress=False)
    runner.rates["choice"] = {"lora": 0.02}
    other = small(methods={"lora": LORA, "b": {"recipe": {"method": "dylora"}}})
    run_study(load_study(other), other, out, device="cpu")
    runner.evaluate("choice")
    assert (out / "adapters/choice/lora-lr0.02-seed1").is_dir()
    assert read_state(out)["rates"]["choice"].keys() == {"lora", "b"}


def test_a_cell_that_failed_is_named_and_tried_again(small, tmp_path, monkeypatch):
    path, out = small(methods={"lora": LORA}, seeds=[1, 2]), tmp_path / "out"
    command = ["study", str(path), "--out", str(out), "--device", "cpu"]
    evaluation = Evaluator._evaluation

    def broken(self, cell):
        if cell.label.startswith("lora-lr0.01-seed2"):
            raise RuntimeError("out of luck")
        return evaluation(self, cell)

    monkeypatch.setattr(Evaluator, "_evaluation", broken)
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 3, done.output
    assert "2 cells failed" in done.output
    report = (out / "report.md").read_text()
    assert re.search(r"out of luck.*left out below: lora-lr0.01-seed2\.", report)
    assert re.search(r"\| lora \| 1 \| \d", report)
    monkeypatch.undo()
    assert CliRunner().invoke(cli, command).exit_code == 3
    done = CliRunner().invoke(cli, [*command, "--retry-failed"])
    assert done.exit_code == 0, done.output
    assert "failed" not in (out / "report.md").read_text()


def test_the_report_is_of_the_study_that_was_run(small, content, tmp_path):
    path, out = small(methods={"lora": LORA}), tmp_path / "out"
    state = run_study(load_study(path), path, out, device="cpu")
    task = content["tasks"]["choice"]
    fewer = {"choice": {**task, "test": {"limit": 6}}}
    for changes, message in (
        ({"recipe": {**content["recipe"], "steps": 3}}, "the recipe of lora-lr0.01-seed1"),
        ({"tasks": fewer}, "documents"),
    ):
        path = small(**{"methods": {"lora": LORA}, **changes})
        with pytest.raises(RunFolderError, match=f"what differs: {message}"):
            summarise(load_study(path), path, out, state)
        plan = None
        if "tasks" in changes:
            plan = plan_study(load_study(small(methods={"lora": LORA}, tasks=fewer)), path, out)
            assert plan.cells == (3, 3)
    more = {"choice": {**task, "test": {"limit": 20}}}
    path = small(methods={"lora": LORA}, tasks=more)
    assert plan_study(load_study(path), path, out).cells == (0, 3)


def test_a_scale_that_cannot_be_fitted_costs_no_training(small, sums, tmp_path):
    lora = {**LORA, "rescale": ["rule", "fit"]}
    (tmp_path / "fresh").mkdir()
    shutil.copy(tmp_path / "test.jsonl", tmp_path / "fresh")
    task = {**sums, "options": {**sums["options"], "data": {"sums": "fresh"}}}
    path = small(tasks={"sums": task}, methods={"lora": lora})
    with pytest.raises(TaskError, match="no documents beside those that are evaluated"):
        run_study(load_study(path), path, tmp_path / "out", device="cpu")
    assert not list((tmp_path / "out").rglob("adapter_config.json"))


def test_rates_are_not_chosen_on_test_documents(small, sums, tmp_path):
    search = {"lora": {"recipe": {"method": "lora"}, "learning_rates": [0.01, 0.02]}}
    task = {**sums, "validation": {"split": "test"}, "test": {"split": "test"}}
    path = small(tasks={"sums": task}, methods=search)
    with pytest.raises(RecipeError, match="sums chooses learning rates on its test documents"):
        run_study(load_study(path), path, tmp_path / "out", device="cpu")


def test_tasks_of_the_same_name_are_refused(small, sums, tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        shutil.copy(tmp_path / "sums.yaml", folder)
    tasks = {name: {**sums, "task": f"{name}/sums.yaml"} for name in ("a", "b")}
    for same in (tasks, {"a": tasks["a"], "b": tasks["a"]}):
        path = small(tasks=same, methods={"lora": LORA})
        with pytest.raises(RecipeError, match="a and b are both sums"):
            run_study(load_study(path), path, tmp_path / "out", device="cpu")


def test_data_may_be_corrected_before_anything_is_trained_on_them(small, tmp_path):
    path, out, data = small(methods={"lora": LORA}), tmp_path / "out", tmp_path / "train.jsonl"
    text = data.read_text()
    data.write_text("no JSON\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        run_study(load_study(path), path, out, device="cpu")
    data.write_text(text)
    run_study(load_study(path), path, out, device="cpu")
    data.write_text(text + text)
    with pytest.raises(RunFolderError, match=r"data train.jsonl have changed .*lora-lr0.01-seed1"):
        run_study(load_study(path), path, out, device="cpu")


def test_the_data_of_every_method_are_checked(small, content, tmp_path):
    shutil.copy(tmp_path / "train.jsonl", tmp_path / "other.jsonl")
    other = {"recipe": {"method": "dylora", "data": "other.jsonl"}, "learning_rates": [0.01]}
    path, out = small(methods={"b": other, "lora": LORA}), tmp_path / "out"
    state = run_study(load_study(path), path, out, device="cpu")
    assert state["data"].keys() == {"other.jsonl", "train.jsonl"}
    wrong = {**other, "recipe": {**other["recipe"], "prompt": "{quest}"}}
    path = small(methods={"lora": LORA, "c": wrong})
    with pytest.raises(DataError, match="does not fit the templates"):
        run_study(load_study(path), path, tmp_path / "new", device="cpu")
    assert not list((tmp_path / "new").rglob("adapter_config.json"))


def test_a_folder_that_cannot_be_a_study_is_one_clear_error(small, tmp_path):
    path, out = small(methods={"lora": LORA}), tmp_path / "out"
    out.write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        run_study(load_study(path), path, out, device="cpu")
    out.unlink()
    out.mkdir()
    for text, message in (
        ('{"rates": null}', "cannot be read"),
        ("[]", "cannot be read"),
        ('{"schema": 99}', "written by a newer aurac"),
    ):
        (out / "study.json").write_text(text)
        with pytest.raises(RunFolderError, match=message):
            plan_study(load_study(path), path, out)


def test_one_way_of_looking_at_a_study_at_a_time(small, tmp_path):
    command = ["study", str(small()), "--out", str(tmp_path), "--report", "--dry-run"]
    assert isinstance(CliRunner().invoke(cli, command).exception, UsageError)


def test_task_files_and_data_are_looked_for_beside_the_study(small, sums, tmp_path, monkeypatch):
    home = tmp_path / "elsewhere"
    home.mkdir()
    monkeypatch.chdir(home)
    task = {**sums, "test": {"limit": 5}, "drop_documents": True}
    path = small(tasks={"sums": task}, methods={"lora": LORA})
    study, out = load_study(path), tmp_path / "out"
    summarise(study, path, out, run_study(study, path, out, device="cpu"))
    results = json.loads((tmp_path / "out/results/sums/results.json").read_text())
    assert [(task["name"], task["n_docs"]) for task in results["tasks"]] == [("sums", 5)]
    _, _, section = (out / "report.md").read_text().partition("## Appendix: sums")
    assert "| lora " in section  # under the name that the file gives to the task
    assert "; 5 documents" in section
    files = (p.read_bytes() for p in (tmp_path / "out/results").rglob("*") if p.is_file())
    assert not any(b"Mia has" in content for content in files)


def test_a_method_has_a_mean_over_tasks_with_learning_rates_of_their_own(
    small, sums, content, tmp_path
):
    own = {**sums, "methods": {"lora": {"learning_rates": [0.02]}}}
    path = small(tasks={"sums": own, **content["tasks"]}, methods={"lora": LORA})
    study, out = load_study(path), tmp_path / "out"
    report = summarise(study, path, out, run_study(study, path, out, device="cpu")).read_text()
    [mean] = json.loads((out / "analysis.json").read_text())["aggregates"]
    assert mean["estimate"] is not None, mean["reason"]
    assert re.search(r"\| lora +\| \d", report.partition("## Appendix: all tasks")[2])

    # the report of another design is refused, and nothing is written
    more = load_study(
        small(tasks={"sums": own, **content["tasks"]}, methods={"lora": LORA}, seeds=[1, 2])
    )
    with pytest.raises(
        RunFolderError,
        match=r"results/choice was made by another study; .* 1 curves \(lora-lr0.01-seed2 ",
    ):
        summarise(more, path, out, read_state(out))
    assert (out / "report.md").read_text() == report


@pytest.mark.slow
def test_a_study_goes_on_without_the_weights_of_finished_adapters(small, tmp_path):
    out, lines = tmp_path / "out", []
    options = {"device": "cpu", "say": lines.append}

    def run(folder, **changes):
        lines.clear()
        path = small(drop_weights=True, **changes)
        study = load_study(path)
        summarise(study, path, folder, run_study(study, path, folder, **options))
        return json.loads((folder / "results/choice/results.json").read_text())["curves"]

    first = run(out)
    assert len(lines) == 2
    assert len(list(out.rglob("adapter_config.json"))) == 2
    assert not list(out.rglob("adapter_model.*"))
    state = json.loads((out / "study.json").read_text())
    assert len(state["losses"]) == 2
    assert state["losses"].keys() == state["seconds"].keys()

    # in a fresh checkout nothing is trained or computed again
    checkout = tmp_path / "checkout"
    ignored = (out / ".gitignore").read_text().replace("/", "").split()
    assert "check" in ignored
    shutil.copytree(out, checkout, ignore=shutil.ignore_patterns(*ignored))
    assert run(checkout) == first
    assert not lines
    before = {c.name: c.read_bytes() for c in (checkout / "results/choice/cells").iterdir()}

    # another seed: its two adapters alone
    more = run(checkout, seeds=[1, 2])
    assert [line.rpartition(" ")[2] for line in lines] == [
        "lora-lr0.01-seed2",
        "per_rank-lr0.01-seed2-r1",
    ]
    assert [c for c in more if "seed1" in c["adapter"]] == first
    assert all((checkout / "results/choice/cells" / n).read_bytes() == b for n, b in before.items())

    # both adapters of the first checkout are made again from the file
    command = ["study", str(small(drop_weights=True)), "--out", str(out), "--device", "cpu"]
    done = CliRunner().invoke(cli, [*command, "--check", "2"])
    assert done.exit_code == 0, done.output
    for name in ("lora-lr0.01-seed1", "per_rank-lr0.01-seed1"):
        assert f"{name} on choice: the same weights, 0 of 24 outcomes differ" in done.output
    refused = CliRunner().invoke(cli, [*command, "--check", "3"])
    assert isinstance(refused.exception, UsageError)
    folder = out / "check/adapters/choice/lora-lr0.01-seed1"
    other = load_adapter(folder)
    modules = {name: replace(f, B=-100 * f.B) for name, f in other.modules.items()}
    save_adapter(replace(other, modules=modules), folder, force=True)
    shutil.rmtree(out / "check/results")
    done = CliRunner().invoke(cli, [*command, "--check", "1", "--json"])
    assert done.exit_code == 4, done.output
    [row] = json.loads(done.stdout)
    assert not row["weights"]
    assert row["different"] > 0

    # other cells of adapters without weights are refused, and computed when they are trained again
    with pytest.raises(CheckpointError, match=r"seed1 were removed, .* as are those of \S+seed2;"):
        run(checkout, seeds=[1, 2], basis=["prefix", "svd"])
    assert run(checkout, seeds=[1, 2]) == more  # nothing of what was refused was recorded
    with pytest.raises(CheckpointError, match="seed1 were removed, and are needed to evaluate"):
        run(out, basis=["prefix", "svd"])
    shutil.rmtree(out / "adapters/choice/lora-lr0.01-seed1")
    run(out, basis=["prefix", "svd"])
    assert len(lines) == 1


def test_a_packed_study_has_nothing_left_to_do(small, tmp_path, monkeypatch):
    path, out, lines = small(drop_weights=True), tmp_path / "out", []
    study, how = load_study(path), {"device": "cpu", "say": lines.append}
    report = summarise(study, path, out, run_study(study, path, out, **how)).read_text()
    results = json.loads((out / "results/choice/results.json").read_text())
    outlines = {p.relative_to(out): p.read_bytes() for p in out.glob("adapters/*/*/*")}
    for folder in ("adapters", "results/choice/cells"):
        pack(out / folder)
    checkout = shutil.copytree(out, tmp_path / "checkout")
    monkeypatch.setattr(Evaluator, "_evaluation", None)
    monkeypatch.setattr("aurac.study.execution.train", None)
    plan = plan_study(study, path, checkout)
    assert (plan.trainings, plan.cells) == ((2, 2), (4, 4))
    lines.clear()
    for folder in (checkout, out):
        assert summarise(study, path, folder, run_study(study, path, folder, **how)).read_text()
        again = json.loads((folder / "results/choice/results.json").read_text())
        assert again["curves"] == results["curves"]
        assert (folder / "report.md").read_text() == report
        unpacked = {p.relative_to(folder): p.read_bytes() for p in folder.glob("adapters/*/*/*")}
        assert unpacked == outlines
        assert not (folder / "results/choice/cells").exists()
    assert not lines


@pytest.mark.slow
def test_two_processes_train_each_adapter_once(small, tmp_path):
    path, out = small(seeds=[1, 2]), tmp_path / "out"
    command = [sys.executable, "-m", "aurac", "study", path, "--out", out, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [subprocess.Popen(command, env=environment, text=True, **pipes) for _ in range(2)]
    ends = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    lines = [set(re.findall(r"^choice: training (\S+)", text, re.MULTILINE)) for _, text in ends]
    assert not lines[0] & lines[1]
    lora, family = "lora-lr0.01-seed{}", "per_rank-lr0.01-seed{}-r1"
    names = {name.format(seed) for name in (lora, family) for seed in (1, 2)}
    assert lines[0] | lines[1] == names
    assert {
        folder.name for folder in (out / "adapters/choice").iterdir() if folder.is_dir()
    } == names


def test_a_report_needs_results(write, tmp_path):
    path = write()
    study = load_study(path)
    state = {"rates": {"choice": dict.fromkeys(study.methods, 0.01)}}
    with pytest.raises(AuracError, match="no results yet"):
        summarise(study, path, tmp_path / "none", state)
