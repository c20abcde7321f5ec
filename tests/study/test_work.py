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
from aurac.study import StudyFolder, left, run_study

FILE = {
    "question": "Which is best?",
    "recipes": {
        "lora": {"method": "lora", "cuts": [["svd", "keep"], ["prefix", "rule"]]},
        "each": {"method": "lora", "family": True, "seeds": [1], "learning_rate": 1e-2},
    },
    "search": {"learning_rate": ["1e-2", 2e-2], "seed": 9, "limit": 3},
    "primary": [{"a": "each", "b": "lora"}],
    "tasks": {"aurac_word_problems": {"options": {"limit": 3}}},
    "labels": {"lora": "LoRA"},
}
ONE = {"tasks": FILE["tasks"], "seeds": [1], "ranks": [1]}


def test_a_study_is_done_once_and_needs_no_weights_afterwards(written, tmp_path):
    study, out, said = written(FILE), tmp_path / "out", []
    shown = CliRunner().invoke(cli, ["study", str(study.path), "--out", str(out), "--dry-run"])
    name = "aurac_word_problems-{}-seed{}".format
    *todo, trials, adapters = [line.split() for line in shown.output.splitlines()]
    rates = (("search", "0.01"), ("search", "0.02"))
    assert todo == [[state, name("lora", 9), f"learning_rate={rate}"] for state, rate in rates] + [
        ["wait", name("lora", 1)], ["wait", name("lora", 2)], ["train", name("each", 1)]
    ]  # fmt: skip
    assert (trials[:2], adapters[:2]) == (["2", "trials,"], ["3", "adapters,"])
    (run,) = run_study(StudyFolder(study, out, say=said.append))
    trained = [line.split()[1] for line in said if line.startswith("training ")]
    ends = ["seed9", "seed9", "seed1", "seed2", *(f"family-seed1/r{rank}" for rank in (1, 2, 4))]
    assert [name.split("-", 2)[2] for name in trained] == ends
    kept = [json.loads(line) for line in (out / "trainings.jsonl").read_text().splitlines()]
    assert [one["folder"] for one in kept] == trained
    assert all(one["tokens"] > 0 and one["losses"] and one["seconds"] >= 0 for one in kept)
    won = json.loads((out / "search.json").read_text())["lora"]
    task = won["tasks"]["aurac_word_problems"]
    best = max(task["trials"], key=lambda trial: trial["scores"][" ".join(won["cut"])])
    assert task["chosen"] == {"learning_rate": best["learning_rate"]}
    rates = {adapter.name: adapter.recipe["learning_rate"] for adapter in run.adapters}
    assert {rates[name("lora", seed)] for seed in (1, 2)} == {best["learning_rate"]}
    analysis = analyse(run)
    assert {row.key.adapter: row.seeds for row in analysis.rows} == {"lora": 2, "each": 1}
    page = (out / "report.md").read_text()
    for text in ("LoRA", "Which is best?", "Primary comparison", "which is at an end of its list"):
        assert text in page
    shutil.rmtree(out / "adapters")
    said.clear()
    (same,) = run_study(StudyFolder(study, out, say=said.append))
    assert said == []
    assert analyse(same).scores.equals(analysis.scores)
    tasks = {"aurac_word_problems": {"options": {"limit": 4}}}
    more = left(StudyFolder(written(FILE | {"tasks": tasks}), out))
    assert [job.state for job in more] == ["done", "done", "train", "train", "train"]


def test_a_training_that_diverged_is_tried_again_with_other_settings(written, tmp_path):
    recipes = {"lora": {"method": "lora", "learning_rate": 1e30}, "fine": {"method": "lora"}}
    study, out = written(ONE | {"recipes": recipes}), tmp_path / "out"
    run_study(StudyFolder(study, out))
    assert "lora-seed1: The training diverged: its loss is nan" in (out / "report.md").read_text()
    with (out / "trainings.jsonl").open("a") as lines:
        lines.write('{"folder": "adapters/lo')  # a line that was cut off
    assert [job.state for job in left(StudyFolder(study, out))] == ["diverged", "done"]
    recipes["lora"]["learning_rate"] = 1e-2
    study = written(ONE | {"recipes": recipes})
    assert [job.state for job in left(StudyFolder(study, out))] == ["train", "done"]
    run_study(StudyFolder(study, out))
    assert "The training diverged" not in (out / "report.md").read_text()
    last = json.loads((out / "trainings.jsonl").read_text().splitlines()[-1])
    assert last["folder"].startswith("adapters/lora-")


def test_each_base_and_number_of_examples_has_a_folder(written, tmp_path, tiny_base_folder):
    """Training is shared by tasks and numbers of examples; a limit above the examples is all."""
    write_text_task(tmp_path)
    recipes = {name: {"method": "lora"} for name in ("lora", "again")}
    tasks = {"aurac_word_problems": {"options": {"limit": 2}, "recipes": {"lora": {}}}}
    tasks["tiny_text"] = {"options": {"include_path": str(tmp_path), "limit": 1000}}
    content = {"base": dict.fromkeys(("one", "two"), str(tiny_base_folder)), "recipes": recipes}
    options = {"num_fewshot": [0, 1, 0], "dtype": "float32"}
    loaded = written(ONE | content | {"tasks": tasks, "options": options})
    done = run_study(StudyFolder(loaded, out := tmp_path / "out"))
    folders = ["one-0shot", "one-1shot", "two-0shot", "two-1shot"]
    assert [run.folder for run in done] == [out / name / "run" for name in folders]
    assert [{t.num_fewshot for t in run.tasks} for run in done] == [{0}, {1}, {0}, {1}]
    assert {(curve.task, curve.n_docs) for curve in done[0].curves} == {
        ("aurac_word_problems", 2), ("tiny_text", 8)
    }  # fmt: skip
    kept = (out / "trainings.jsonl").read_text().splitlines()
    assert len(kept) == 1  # of both bases, which are the same file, and of both recipes
    assert {job.state for job in left(StudyFolder(loaded, out))} == {"done"}


@pytest.mark.parametrize(("change", "said"), [
    ({"base": "smollm2-135m-instruct-q4_2"}, "base 'smollm2-135m-instruct-q4_2' is no"),
    ({"search": {"at": 1, "dropout": [0], "split": "validaton"}}, r"tasks\.aurac_word_problems: "),
    ({"tasks": {"no_task": {}}}, r"tasks\.no_task: lora-seed1: "),
    ({"tasks": {"tiny_text.yaml": {}}}, "the task stands for tiny_text: name"),
])  # fmt: skip
def test_what_is_not_there_is_said_before_a_training(written, tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    write_text_task(tmp_path)
    with pytest.raises(RecipeError, match=said):
        run_study(
            StudyFolder(written(ONE | {"recipes": {"lora": {"method": "lora"}}} | change), tmp_path)
        )
