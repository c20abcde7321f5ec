"""The search of a study: what is tried, what wins, and how the seeds follow from it."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from click.testing import CliRunner
from filelock import FileLock, Timeout

from aurac.analysis import analyse
from aurac.cli import cli
from aurac.curves.curve import Curve
from aurac.study import Work, left, run_study
from aurac.study.search import Trial, choose, score

SVD, PREFIX = ("svd", "keep"), ("prefix", "rule")
FILE = {
    "question": "Which is best?",
    "search": {"learning_rate": ["1e-2", 2e-2], "seed": 9, "limit": 3},
    "recipes": {
        "lora": {"method": "lora", "cuts": [SVD, PREFIX]},
        "tails": {"from": "lora", "steps": 1},
        "published": {"method": "matryoshka", "cuts": [["prefix", "rule"]]},
        "fixed": {"method": "matryoshka", "learning_rate": 2e-2, "seeds": [1]},
    },
    "primary": [{"a": "published", "b": "lora"}, {"a": "tails", "b": "lora", "cut": PREFIX}],
    "tasks": {"aurac_word_problems": {"options": {"limit": 4}}},
    "ranks": [1, 2],
}


def test_the_best_cut_is_chosen_over_tasks_and_each_task_has_its_best_setting():
    a = [
        Trial({"rate": 1}, {SVD: 0.5, PREFIX: 0.1}),
        Trial({"rate": 2}, {SVD: 0.6, PREFIX: 0.1}),
        Trial({"rate": 4}, {SVD: 0.2, PREFIX: 0.9}),
    ]
    b = [
        Trial({"rate": 1}, {SVD: 0.1, PREFIX: 0.0}),
        Trial({"rate": 2}, {SVD: 0.9, PREFIX: 0.2}),
        Trial({"rate": 4}, {}, "its loss is nan"),
    ]
    found = choose({"a": a, "b": b})
    assert (found.cut, found.points) == (SVD, {"a": {"rate": 2}, "b": {"rate": 2}})  # 1.5 > 1.1
    tasks = found.record()["tasks"]
    assert tasks["b"]["trials"][1:] == [
        {"rate": 2, "scores": {"svd keep": 0.9, "prefix rule": 0.2}},
        {"rate": 4, "scores": {}, "diverged": "its loss is nan"},
    ]
    assert [*found.at_ends("x")] == []
    assert choose({"a": a, "b": b[2:]}) is None  # no trial has a score
    assert choose({}) is None


@pytest.mark.parametrize("best", [1, 4])
def test_a_winner_at_an_end_of_its_list_is_said(best):
    kind = {"schedule": "linear", "method_options": {"ranks_per_step": 1}}  # no numbers
    tried = [
        Trial({"rate": rate, "alpha": 1.0, **kind}, {SVD: 1 - abs(rate - best) / 9})
        for rate in (2, 4, 1)
    ]
    found = choose({"t": tried})
    assert found.points == {"t": {"rate": best, "alpha": 1.0, **kind}}
    (said,) = found.at_ends("x")  # a list of one value has no end
    assert said.startswith(f"The search of x on t chose rate={best}, which is at an end of its li")


def test_the_score_is_the_area_over_the_ranks_of_the_study_or_the_accuracy_at_one():
    curve = Curve((1, 2, 4, 16), (0.0, 0.5, 1.0, 0.0))
    assert score(curve, (1, 2, 4), "aurac") == pytest.approx(0.5)  # 0/4 + .5/2 + 1/4
    assert score(curve, (1, 2, 4), 4) == 1.0


@pytest.mark.slow
def test_a_study_searches_and_then_trains_its_seeds(written, tmp_path):
    loaded, out, said = written(FILE), tmp_path / "out", []
    todo = left(Work(loaded, out))
    assert todo[1].adapter.name == "aurac_word_problems-lora-seed9 learning_rate=0.02"
    states = Counter(
        (step.adapter.where, step.state) for step in todo
    )  # two rates of three recipes
    assert states == {("search", "search"): 4, ("search", "wait"): 2} | {
        ("run", "wait"): 6, ("run", "train"): 1
    }  # fmt: skip
    shown = CliRunner().invoke(cli, ["study", str(loaded.path), "--out", str(out), "--dry-run"])
    assert shown.output.splitlines()[-2:] == [
        "6 trials, 0 of them done", "7 adapters, 0 of them done"
    ]  # fmt: skip
    (run,) = run_study(Work(loaded, out, say=said.append))
    found = json.loads((out / "search.json").read_text())
    assert {*found} == {"lora", "tails", "published"}  # the rate of `fixed` is fixed
    for won in found.values():
        known = won["tasks"]["aurac_word_problems"]
        best = max(known["trials"], key=lambda trial: trial["scores"][" ".join(won["cut"])])
        assert known["chosen"] == {"learning_rate": best["learning_rate"]}
        assert [trial["learning_rate"] for trial in known["trials"]] == [1e-2, 2e-2]
    rates = {a.name: a.recipe["learning_rate"] for a in run.adapters}
    for name in ("lora", "tails", "published"):
        chosen = found[name]["tasks"]["aurac_word_problems"]["chosen"]["learning_rate"]
        for seed in (1, 2):
            assert rates[f"aurac_word_problems-{name}-seed{seed}"] == chosen
    assert {row.key.adapter: row.seeds for row in analyse(run).rows} == {
        "lora": 2, "tails": 2, "published": 2, "fixed": 1
    }  # fmt: skip
    text = (out / "report.md").read_text()
    assert "Which is best?" in text
    assert "Primary comparisons" in text
    assert "for all 2 together" in text
    assert "which is at an end of its list" in text  # either rate is
    count, said[:] = sum("training" in each for each in said), []
    assert count == len((out / "trainings.jsonl").read_text().splitlines())
    assert [step.state for step in left(Work(loaded, out))] == ["done"] * 13
    run_study(Work(loaded, out, say=said.append))
    assert said == []


def test_each_base_and_number_of_examples_has_a_folder(written, tmp_path, tiny_base_folder):
    bases = {"one": str(tiny_base_folder), "two": str(tiny_base_folder)}
    recipes = {name: {"method": "lora", "learning_rate": 1e-2} for name in ("lora", "again")}
    options = {"bases": ["one"], "options": {"limit": 2}}
    own = {"recipes": {"lora": {}}, "options": {"limit": 2}}
    tasks = {"aurac_word_problems": own, "aurac_word_problems_mc": options}
    labels = {"lora": "LoRA", "again": "LoRA, again"}  # of which the second base has one
    primary = [{"a": "again", "b": "lora"}]
    given = {"base": bases, "recipes": recipes, "seeds": [1]}
    given["options"] = {"num_fewshot": [0, 1], "dtype": "float32"}
    given |= {"labels": labels, "primary": primary}
    loaded = written(FILE | given | {"tasks": tasks, "search": None})
    done = run_study(Work(loaded, out := tmp_path / "out"))
    folders = ["one-0shot", "one-1shot", "two-0shot", "two-1shot"]
    assert [run.folder for run in done] == [out / name / "run" for name in folders]
    assert [{t.num_fewshot for t in run.tasks} for run in done] == [{0}, {1}, {0}, {1}]
    said = [analyse(run) for run in done]
    ranks = [[*each.ranks.values()] for each in said]  # the adapters have rank 4, too
    assert ranks == [[(1, 2)] * tasks for tasks in (2, 2, 1, 1)]
    assert [(len(run.question.primary), run.question.family) for run in done] == [
        (1, 2), (1, 2), (0, None), (0, None)
    ]  # fmt: skip
    name, cut = "one-lora-seed1", ("svd", "keep")  # one adapter for both tasks
    answers = [done[0].answers(task.name, name, *cut, 1) for task in done[0].tasks]
    assert [len(answer) for answer in answers] == [2, 2]
    kept = [json.loads(line) for line in (out / "trainings.jsonl").read_text().splitlines()]
    assert len(kept) == 1  # recipes, tasks and names of one base have the same training


@pytest.mark.slow
def test_a_second_process_does_the_other_trials_and_adapters(written, tmp_path):
    loaded = written(FILE)
    todo, heard = [step.adapter for step in left(Work(loaded, tmp_path))], []

    def say(line):
        heard.append(line)
        if line.startswith("training "):  # which the process of another recipe must wait for
            with pytest.raises(Timeout):
                FileLock(tmp_path / f"{line.split()[1]}.lock").acquire(timeout=0)

    fixed = next(adapter for adapter in todo if adapter.plan.group == "fixed")
    taken = [FileLock(tmp_path / f"{adapter.folder}.lock") for adapter in (todo[0], fixed)]
    with taken[0], taken[1]:
        run_study(Work(loaded, tmp_path, say=say))
    assert any(line.startswith("training ") for line in heard)
    (last,) = [line for line in heard if line.startswith("left, which failed or which another ")]
    assert todo[0].name in last
    every = left(Work(loaded, tmp_path))
    groups = {step.adapter.plan.group: set() for step in every}
    for step in every:
        groups[step.adapter.plan.group].add((step.adapter.where, step.state))
    assert groups == {
        "lora": {("search", "search"), ("search", "done"), ("run", "wait")},
        "published": {("search", "done"), ("run", "done")},
        "fixed": {("run", "train")},
        "tails": {("search", "wait"), ("run", "wait")},
    }
    run_study(Work(loaded, tmp_path))
    assert {step.state for step in left(Work(loaded, tmp_path))} == {"done"}


@pytest.mark.slow
def test_what_another_process_had_is_gone_back_to(written, tmp_path):
    loaded = written(FILE)
    todo = [step.adapter for step in left(Work(loaded, tmp_path))]
    taken = FileLock(tmp_path / f"{todo[0].folder}.lock")
    with taken:
        say = lambda line: "training" in line and taken.release()  # noqa: E731
        run_study(Work(loaded, tmp_path, say=say))
    assert {step.state for step in left(Work(loaded, tmp_path))} == {"done"}
