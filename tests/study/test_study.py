"""A whole study of a tiny random base: search, trainings, evaluation, report, resuming."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner
from document_blocks import REPOSITORY, blocks

from aurac.cli import cli
from aurac.errors import AuracError, RecipeError, RunFolderError
from aurac.study import load_study, plan_study, run_study, summarise
from aurac.study.design import results_of, searches
from aurac.study.run import best_rate


@pytest.fixture
def content(tiny_base_folder, tmp_path):
    rows = [{"question": f"Mia has {a}", "answer": str(a)} for a in range(12)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"rank": 4, "steps": 2, "batch_size": 4, "dtype": "float32", "max_tokens": 32}
    task = {
        "task": "aurac_word_problems_mc",
        "recipe": {"data": "train.jsonl"},
        "options": {"dtype": "float32"},
        "validation": {"split": "validation", "limit": 6},
        "test": {"limit": 12},
    }
    return {
        "name": "tiny",
        "question": "Is one method better?",
        "base": str(tiny_base_folder),
        "recipe": recipe,
        "tasks": {"choice": task},
        "methods": {
            "lora": {"recipe": {"method": "lora"}, "learning_rates": [0.01]},
            "matryoshka": {"recipe": {"method": "matryoshka"}},
        },
        "learning_rates": [0.003, 0.01, 0.03],
        "seeds": [1, 2, 3],
        "search_seed": 1,
    }


@pytest.fixture
def write(tmp_path, content):
    def make(**changes):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return path

    return make


def test_the_trainings_are_those_of_the_design(write):
    path = write()
    study = load_study(path)
    names = [one.recipe.name for one in searches(study, path)]
    assert names == [f"matryoshka-lr{rate}-seed1" for rate in ("0.003", "0.01", "0.03")]
    [first, *rest] = results_of(study, path, "lora", {"choice": 0.01})
    assert (first.recipe.learning_rate, first.recipe.seed, first.recipe.rank) == (0.01, 1, 4)
    assert [one.recipe.seed for one in rest] == [2, 3]
    assert first.recipe.sha256 == rest[0].recipe.sha256  # seeds of one recipe
    assert first.folder.as_posix() == "adapters/choice/lora-lr0.01-seed1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "each value once"),
        ({"methods": {}}, "no methods"),
        ({"colour": "red"}, "colour"),
        ({"learning_rates": "many"}, "learning_rates"),
        ({"methods": {"x": {"recipe": {"method": "dora"}}}}, "lora, dylora, matryoshka"),
        ({"methods": {"a/b": {"recipe": {"method": "lora"}}}}, "the name 'a/b'"),
        ({"recipe": {"rank": 4, "stepz": 2}}, "stepz"),
    ],
)
def test_a_wrong_file_is_one_clear_error(write, changes, message):
    with pytest.raises(RecipeError, match=message):
        load_study(write(**changes))


def test_methods_of_different_rank_are_refused(write):
    methods = {
        "a": {"recipe": {"method": "lora", "rank": 2}},
        "b": {"recipe": {"method": "lora", "rank": 4}},
    }
    with pytest.raises(RecipeError, match="one trained rank"):
        load_study(write(methods=methods))


def test_a_task_that_is_evaluated_twice_is_refused(write, content):
    twice = {"one": content["tasks"]["choice"], "two": content["tasks"]["choice"]}
    with pytest.raises(RecipeError, match="evaluates a task twice"):
        load_study(write(tasks=twice))


def test_the_best_rate_and_whether_a_better_one_may_exist():
    assert best_rate({1e-3: 0.2, 2e-3: 0.4, 4e-3: 0.3}, "x") == (2e-3, False)
    assert best_rate({1e-3: 0.2, 2e-3: 0.4, 4e-3: 0.4}, "x") == (2e-3, False)  # ties: the smaller
    assert best_rate({1e-3: 0.2, 2e-3: 0.4, 4e-3: 0.5}, "x") == (4e-3, True)
    assert best_rate({1e-3: 0.2, 2e-3: 0.4, 4e-3: None}, "x") == (2e-3, False)
    with pytest.raises(RecipeError, match="no learning rate of x"):
        best_rate({1e-3: None}, "x")


@pytest.mark.slow
def test_a_study_from_its_file_to_its_report(write, tmp_path):
    path, out = write(), tmp_path / "out"
    study = load_study(path)
    before = plan_study(study, path, out)
    assert (before.searches, before.trainings) == ((0, 3), (0, 6))
    lines = []
    state = run_study(study, path, out, device="cpu", say=lines.append)
    chosen = state["rates"]["choice"]
    assert chosen["lora"] == 0.01
    assert chosen["matryoshka"] in (0.003, 0.01, 0.03)
    # 3 of the search, of which one is a result, too: 3 + 2 + 3 trainings
    assert sum("training" in line for line in lines) == 8
    after = plan_study(study, path, out)
    assert (after.searches, after.trainings) == ((3, 3), (6, 6))
    report = summarise(study, path, out, state)
    for text in ("Is one method better?", "## choice", "matryoshka − lora", "With two seeds"):
        assert text in report.read_text()
    results = json.loads((out / "results/choice/results.json").read_text())
    assert results["groups"].keys() == {"lora", "matryoshka"}
    analysis = json.loads((out / "analysis.json").read_text())
    [pair] = analysis["pairs"]
    assert {pair["a"], pair["b"]} == {"lora", "matryoshka"}

    again = []
    assert run_study(study, path, out, device="cpu", say=again.append)["rates"] == state["rates"]
    assert not any("training" in line for line in again)

    done = CliRunner().invoke(cli, ["study", str(path), "--out", str(out), "--dry-run"])
    assert "trainings for the results: 6, 6 done" in done.output
    report.unlink()
    done = CliRunner().invoke(cli, ["study", str(path), "--out", str(out), "--report"])
    assert done.exit_code == 0, done.output
    assert report.is_file()

    other = load_study(write(recipe={**study.recipe, "steps": 3}))
    with pytest.raises(RunFolderError, match="another recipe"):
        run_study(other, path, out, device="cpu")
    (tmp_path / "train.jsonl").write_text('{"question": "Mia", "answer": "1"}\n')
    with pytest.raises(RunFolderError, match="training data of choice have changed"):
        run_study(study, path, out, device="cpu")


def test_a_report_needs_results(write, tmp_path):
    path = write()
    study = load_study(path)
    state = {"rates": {"choice": {"lora": 0.01, "matryoshka": 0.01}}}
    with pytest.raises(AuracError, match="no results yet"):
        summarise(study, path, tmp_path / "none", state)


def test_the_study_of_the_how_to_is_one(tmp_path):
    page = REPOSITORY / "docs/howto/study.md"
    [block] = [block for block in blocks(page) if block.language == "yaml"]
    path = tmp_path / "study.yaml"
    path.write_text(block.text)
    plan = plan_study(load_study(path), path, tmp_path / "out")
    # 4 methods at 4 rates; 3 methods with 5 seeds and one with 3
    assert (plan.searches, plan.trainings) == ((0, 16), (0, 18))
