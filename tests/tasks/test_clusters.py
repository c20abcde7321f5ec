"""Documents that share a passage: named once, clustered everywhere the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from harness_doubles import (
    choice_rows,
    make_model,
    make_tokenizer,
    stay_offline,
    write_choice_task,
    write_jsonl,
)
from support.adapters import save_with_peft

from aurac.cli import cli
from aurac.errors import AuracError
from aurac.readers import read_curves
from aurac.records.reader import StoredCells
from aurac.records.results_file import Results
from aurac.records.run import seeds_of, stored_run

pytestmark = pytest.mark.filterwarnings("ignore")

GROUP = "group: both\ntask: [clustered, plain]\nmetadata: {version: 1}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    make_model(1).save_pretrained(root / "base")
    make_tokenizer().save_pretrained(root / "base")
    tasks = root / "tasks"
    for name, offset in (("clustered", 0), ("plain", 60)):
        write_choice_task(tasks, name, offset)
        for split, made in (("test", choice_rows(24, offset)), ("train", choice_rows(12, 200))):
            rows = [{**row, "passage": i // 4} for i, row in enumerate(made)]
            write_jsonl(tasks / f"{name}_data" / f"{split}.jsonl", rows)
    (tasks / "both.yaml").write_text(GROUP)
    save_with_peft(make_model(1), root / "one", seed=1, r=2, target_modules=["q_proj", "v_proj"])
    save_with_peft(make_model(1), root / "two", seed=2, r=2, target_modules=["q_proj", "v_proj"])
    return root


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stay_offline(patch, tmp_path_factory.mktemp("hf"))
        yield


def call(*arguments):
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def compare(place, out, *more):
    return call(
        "compare", place / "one", place / "two", "--tasks", place / "tasks" / "both.yaml",
        "--base", place / "base", "--dtype", "float32", "--device", "cpu", "--method", "lora",
        "--out", out, *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    compare(place, out, "--cluster", "clustered=passage")
    return out


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def scored(folder, *more):
    return json.loads(call("score", folder, "--json", "--details", *more))


def test_a_run_is_clustered_where_a_field_was_named(run):
    methods = {(c["adapter"], c["task"]): c["score_method"] for c in results_of(run)["curves"]}
    assert "CR2 over 6 clusters" in methods["one", "clustered"]
    assert "independent documents" in methods["one", "plain"]
    # 6 clusters of 4 and 24 documents by themselves, within the two tasks.
    assert "CR2 over 30 clusters, within 2 fixed strata" in methods["one", "both"]
    tasks = {t["name"]: t["cluster"] for t in results_of(run)["tasks"]}
    assert tasks == {"clustered": "passage", "plain": None, "both": "passage"}
    assert results_of(run)["provenance"]["settings"]["cluster"] == {"clustered": "passage"}


def test_the_standard_error_is_cr2_by_hand(run):
    """Six equal clusters: the leverage of each is 1/6, so CR2 divides its squared sum by 5/6."""
    curve = next(c for c in results_of(run)["curves"] if c["task"] == "clustered")
    results = Results.read(run)
    record = next(c for c in results.curves if c.task == "clustered")
    stored = StoredCells(run, results)
    cells = [stored.read(record, r)[0].metrics[curve["metric"]] for r in (1, 2)]
    areas = np.array([0.5, 0.5]) @ np.array(cells)  # ranks 1, 2: half each
    sums = (areas - areas.mean()).reshape(6, 4).sum(axis=1)
    assert curve["score"]["log2"]["se"] == pytest.approx(np.sqrt(6 / 5 * np.sum(sums**2)) / 24)


def test_score_report_and_results_agree(run):
    content = scored(run)
    rows = {(r["adapter"], r["task"]): r for r in content["scores"]}
    parsed = stored_run(Results.read(run), run)
    for curve, known in zip(results_of(run)["curves"], parsed.curves, strict=True):
        if not curve["default"]:
            continue
        row = rows[curve["adapter"], curve["task"]]
        assert curve["score"]["log2"] == row["log2"]
        assert curve["score_method"] == row["method"]
        read = next(
            c
            for c in read_curves(run).curves
            if (c.adapter, c.task) == (curve["adapter"], curve["task"])
        )
        assert seeds_of(known)[0].clusters == read.clusters
    assert all("cluster" in r["method"] for r in content["pairs"] if r["task"] != "plain")


def test_another_field_computes_nothing_again(place, run, tmp_path, monkeypatch):
    import shutil

    from aurac.tasks.task import Evaluation

    copy = tmp_path / "run"
    shutil.copytree(run, copy)

    def forbidden(*_, **__):
        raise AssertionError("a stored cell was evaluated again")

    monkeypatch.setattr(Evaluation, "block", forbidden)
    compare(place, copy, "--cluster", "both=answerKey")
    methods = {c["task"]: c["score_method"] for c in results_of(copy)["curves"]}
    assert "4 clusters" in methods["clustered"]
    assert "8 clusters, within 2" in methods["both"]


def test_logs_such_as_an_export_are_given_a_field(run, tmp_path):
    """A truncation beside the default one is an adapter of its own there."""
    call("export", run, "--out", tmp_path / "out")
    given = scored(tmp_path / "out", "--cluster", "clustered=passage")["scores"]
    logs = {(row["adapter"], row["task"]): (row["log2"], row["method"]) for row in given}
    for row in scored(run)["scores"]:
        if row["task"] != "both" and row["adapter"] in ("one", "two"):
            assert logs[row["adapter"], row["task"]] == (row["log2"], row["method"])
    other = scored(tmp_path / "out", "--cluster", "plain=passage")["scores"]
    assert "6 clusters" in next(r["method"] for r in other if r["task"] == "plain")
    everywhere = scored(tmp_path / "out", "--cluster", "answerKey")["scores"]
    assert all("4 clusters" in r["method"] for r in everywhere if r["task"] != "both")


def test_the_tasks_own_word(place, tmp_path):
    text = (place / "tasks" / "plain.yaml").read_text()
    path = tmp_path / "own.yaml"
    path.write_text(
        text.replace("task: plain", "task: own").replace(
            "version: 2.5", "version: 2.5\n  cluster: passage"
        )
    )
    call(
        "compare", place / "one", "--tasks", path, "--base", place / "base", "--method", "lora",
        "--dtype", "float32", "--device", "cpu", "--out", tmp_path / "run",
    )  # fmt: skip
    assert "6 clusters" in results_of(tmp_path / "run")["curves"][0]["score_method"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "ONE", "--cluster", "clustered=chapter"], "no field 'chapter'"),
        (["compare", "ONE", "--cluster", "gsm8k=passage"], "--cluster names 'gsm8k'"),
        (["score", "RUN", "--cluster", "passage"], "sample logs only"),
        (["score", "TABLE", "--cluster", "passage"], "a column named cluster"),
    ],
)
def test_fields_that_cannot_be_used_say_why(place, run, tmp_path, arguments, words):
    (tmp_path / "t.csv").write_text("rank,accuracy\n1,.2\n2,.3\n")
    names = {"ONE": place / "one", "RUN": run, "TABLE": tmp_path / "t.csv"}
    given = [str(names.get(a, a)) for a in arguments]
    if given[0] == "compare":
        given += ["--tasks", str(place / "tasks" / "both.yaml"), "--base", str(place / "base"),
                  "--method", "lora", "--out", str(tmp_path / "run")]  # fmt: skip
    done = CliRunner().invoke(cli, given)
    assert isinstance(done.exception, AuracError), done.output
    assert words in str(done.exception)
