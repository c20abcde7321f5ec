"""A study from its file to its report, on a tiny random base."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner
from harness_doubles import write_text_task

from aurac.analysis import analyse
from aurac.cli import cli
from aurac.errors import RecipeError
from aurac.study import Work, left, run_study

FILE = {
    "recipes": {
        "lora": {"method": "lora", "cuts": [["svd", "keep"], ["prefix", "rule"]]},
        "each": {"method": "lora", "family": True, "seeds": [1]},
    },
    "tasks": {"aurac_word_problems": {"options": {"limit": 3}}},
    "labels": {"lora": "LoRA"},
}


def test_a_study_is_done_once_and_needs_no_weights_afterwards(written, tmp_path):
    study, out, trained = written(FILE), tmp_path / "out", []
    done = CliRunner().invoke(cli, ["study", str(study.path), "--out", str(out), "--dry-run"])
    names = ("lora-seed1", "lora-seed2", "each-seed1")
    *left_over, count = [line.split() for line in done.output.splitlines()]
    assert count == ["3", "adapters,", "0", "of", "them", "done"]
    assert left_over == [["train", name, "on", "aurac_word_problems"] for name in names]
    (run,) = run_study(Work(study, out, say=trained.append))
    done = [said.split()[1] for said in trained if said.startswith("training ")]
    ends = ["seed1", "seed2", *(f"family-seed1/r{rank}" for rank in (1, 2, 4))]
    assert [name.split("-", 2)[2] for name in done] == ends
    assert "lora-seed2: 2 can be done now" in trained
    kept = [json.loads(line) for line in (out / "trainings.jsonl").read_text().splitlines()]
    assert [one["folder"] for one in kept] == done
    assert all(one["tokens"] > 0 and one["losses"] and one["seconds"] >= 0 for one in kept)
    analysis = analyse(run)
    assert {row.name: row.seeds for row in analysis.rows} == {
        "lora": 2, "lora (prefix)": 2, "each": 1
    }  # fmt: skip
    assert run.failures == ()
    assert "LoRA" in (out / "report.md").read_text()
    shutil.rmtree(out / "adapters")
    (same,) = run_study(Work(study, out, say=trained.append))
    assert len(trained) == 5 + 3  # nothing more
    assert analyse(same).scores.equals(analysis.scores)
    task = "aurac_word_problems"
    more = written(FILE | {"tasks": {task: {"options": {"limit": 4}}}})
    todo = [(step.state, step.adapter.name) for step in left(Work(more, out))]
    assert todo == [("train", name) for name in names]
    assert {step.state for step in left(Work(study, out))} == {"done"}
    more = written(FILE | {"tasks": FILE["tasks"] | {"no_task": {}}})
    with pytest.raises(RecipeError, match=r"tasks\.no_task: each-seed1: "):
        list(left(Work(more, tmp_path / "new")))
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(RecipeError, match=r"-seed1: There are no training d"):
        list(left(Work(more, tmp_path / "new")))


def test_a_limit_above_the_examples_takes_all(written, tmp_path):
    task = {"tiny_text": {"options": {"include_path": str(tmp_path), "limit": 1000}}}
    write_text_task(tmp_path)
    recipes = {"lora": {"method": "lora"}}
    study = written({"recipes": recipes, "tasks": task, "seeds": [1], "ranks": [1]})
    (run,) = run_study(Work(study, out := tmp_path / "out"))
    assert [curve.n_docs for curve in run.curves] == [8]
    assert [step.state for step in left(Work(study, out))] == ["done"]


def test_a_training_that_diverged_is_tried_again_with_other_settings(written, tmp_path):
    recipes = {"lora": {"method": "lora", "learning_rate": 1e30}, "fine": {"method": "lora"}}
    content = {"recipes": recipes, "tasks": FILE["tasks"], "seeds": [1], "ranks": [1]}
    study = written(content)
    run_study(Work(study, out := tmp_path / "out"))
    assert "lora-seed1: The training diverged: its loss is nan" in (out / "report.md").read_text()
    with (out / "trainings.jsonl").open("a") as lines:
        lines.write('{"folder": "adapters/lo')  # a line that was cut off
    assert [step.state for step in left(Work(study, out))] == ["diverged", "done"]
    recipes["lora"]["learning_rate"] = 1e-2
    study = written(content)
    assert [step.state for step in left(Work(study, out))] == ["train", "done"]
    run_study(Work(study, out))
    assert "The training diverged" not in (out / "report.md").read_text()
    last = json.loads((out / "trainings.jsonl").read_text().splitlines()[-1])
    assert last["folder"].startswith("adapters/lora-")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"recipes": {"lora": {"method": "lora", "prompt": "{qestion}"}}},
            "lora-seed2: .*qestion",
        ),
        ({"base": "smollm2-135m-instruct-q4_2"}, "base 'smollm2-135m-instruct-q4_2' is no"),
        ({"search": {"dropout": [0, 0.1], "split": "validaton"}}, r"tasks\.aurac_word_problems: "),
    ],
)
def test_what_a_task_or_its_data_lack_is_said_before_a_training(written, tmp_path, change, said):
    study = written({"recipes": {"lora": {"method": "lora"}}, "tasks": FILE["tasks"]} | change)
    with pytest.raises(RecipeError, match=said):
        left(Work(study, tmp_path / "out"))


def test_a_task_that_has_another_name_is_refused_before_its_training(written, tmp_path):
    tasks = {str(write_text_task(tmp_path)): {}}
    study = written({"recipes": {"lora": {"method": "lora"}}, "tasks": tasks})
    with pytest.raises(
        RecipeError, match=r"tiny_text\.yaml: .*: the task stands for tiny_text: name"
    ):
        run_study(Work(study, tmp_path / "out"))
