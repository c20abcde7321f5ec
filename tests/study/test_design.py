"""The file of a study: what follows from it, and what is refused by its key."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from aurac.curves.curve import Curve
from aurac.errors import RecipeError
from aurac.study import load_study
from aurac.study.work import choose

REPORTS = Path(__file__).parents[2] / "reports"
SVD, PREFIX = ("svd", "keep"), ("prefix", "rule")
TASK = {"aurac_word_problems": {}}


def jobs(study):
    (groups,) = study.parts.values()
    plans = [plan for of in groups.values() for plan in of]
    return [plan.job(seed) for plan in plans for seed in plan.seeds]


def test_every_recipe_task_and_seed_has_the_most_special_setting(written):
    """The study's, the task's, the recipe's, the recipe's in the task; equal trainings are one."""
    lora = {"method": "lora"}
    recipes = {"lora": lora, "long": {**lora, "steps": 30, "seeds": [3, 3, 1]}}
    recipes["each"] = {**lora, "family": True, "seeds": [1]}
    other = {"recipe": {"data": "other.jsonl", "steps": 20}, "options": {"limit": 50}}
    other["recipes"] = {"lora": {"learning_rate": 2e-2}, "long": {}}
    words = {"recipe": {"data": "train.jsonl", "learning_rate": 1e-2}}
    study = written({"recipes": recipes, "tasks": {"words": words, "other": other}})
    made = {job.name: job for job in jobs(study)}
    names = "words-lora-seed1 words-lora-seed2 other-lora-seed1 other-lora-seed2 words-long-seed3"
    names += " words-long-seed1 other-long-seed3 other-long-seed1 words-each-seed1"
    assert [*made] == names.split()
    found = {name: (job.recipe.learning_rate, job.recipe.steps) for name, job in made.items()}
    assert found["words-lora-seed1"] == (1e-2, 2)
    assert found["other-lora-seed1"] == (2e-2, 20)
    assert found["words-long-seed1"] == (1e-2, 30)
    limits = [made[f"{name}-seed1"].asked.limit for name in ("words-lora", "other-lora")]
    assert limits == [None, 50]
    assert made["words-lora-seed1"].recipe.sha256 == made["words-lora-seed2"].recipe.sha256
    each = made["words-each-seed1"]
    assert [*each.trainings] == [f"{each.folder}/r{rank}" for rank in (1, 2, 4)]
    assert [recipe.rank for recipe in each.trainings.values()] == [1, 2, 4]
    assert len({job.folder for job in made.values()}) == len(made)
    shared = written({"recipes": {"lora": lora}, "tasks": {"a": {}, "b": {}}})
    assert [job.name for job in jobs(shared)] == 2 * ["lora-seed1", "lora-seed2"]
    assert len({job.folder for job in jobs(shared)}) == 2


def test_the_cuts_are_those_of_compare_or_named(written):
    """LoRA is cut by SVD and keeps its scale, MatryoshkaLoRA by prefix with P."""
    both = [["prefix", "trained"], ["prefix", "rule"]]
    recipes = {name: {"method": name} for name in ("lora", "matryoshka", "dylora")}
    recipes |= {"both": {"method": "matryoshka", "cuts": both}}
    recipes |= {"each": {"method": "lora", "family": True}}
    study = written({"recipes": recipes, "tasks": TASK})
    assert {job.plan.group: job.plan.cuts for job in jobs(study)} == {
        "lora": (SVD,), "matryoshka": (("prefix", "trained"),), "dylora": (PREFIX,),
        "both": (("prefix", "trained"), PREFIX), "each": (PREFIX,),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "shots"), [
    ("gsm8k", [("gsm8k", 3), ("gsm8k", 8)]),
    ("open_platypus", [("arc_challenge", 25), ("hellaswag", 10)]),
])  # fmt: skip
def test_the_papers_studies_have_the_batches_and_prompts_of_its_code(name, shots, monkeypatch):
    """Its grid: device batches of 4, eight in a step, `eval_shots` 3,8; its later evaluation."""
    monkeypatch.setattr("aurac.study.design.source_rows", lambda _: [])  # those of the hub
    study = load_study(REPORTS / name / "study.yaml")
    found, folders = {}, set()
    plans = [plan for part in study.parts.values() for of in part.values() for plan in of]
    for job in (plan.job(seed) for plan in plans for seed in plan.seeds):
        recipe = job.recipe
        assert (recipe.batch_size, recipe.accumulation, recipe.epochs) == (32, 8, 3)
        folders.add(job.folder)
        found.setdefault((job.plan.task, job.asked.num_fewshot), []).append(recipe.seed)
    assert list(found) == shots
    assert all(sorted(set(seeds)) == [42, 666, 2408] for seeds in found.values())
    assert len(folders) == 9  # three methods and seeds, each trained once for both


def trial(task, rate, svd=None, prefix=None, at="aurac"):
    """A trial whose accuracies at ranks 1, 2, 4 have these areas; without them it diverged."""
    plan = SimpleNamespace(task=task, cuts=(SVD, PREFIX), search=SimpleNamespace(at=at))
    areas = {SVD: svd, PREFIX: prefix} if svd is not None else {}
    curves = {cut: Curve((1, 2, 4, 16), (0.0, y, 2 * y, 1.0)) for cut, y in areas.items()}
    setting = {"rate": rate, "alpha": 1.0, "schedule": "linear", "options": {"k": 1}}
    why = "" if curves else "its loss is nan"
    return SimpleNamespace(plan=plan, setting=setting, ranks=(1, 2, 4), curves=curves, why=why)


def test_the_best_cut_over_the_tasks_is_chosen_and_each_task_has_its_best_setting():
    """The area over log2 of ranks 1, 2, 4 is 0/4 + y/2 + 2y/4 = y; of rank 4 it is 2 y."""
    tried = [trial("a", 1, 0.4, 0.1), trial("a", 2, 0.5, 0.1), trial("a", 4, 0.2, 0.45)]
    tried += [trial("b", 1, 0.1, 0.0), trial("b", 2, 0.3, 0.2), trial("b", 4)]
    found = choose(tried)
    assert found.cut == SVD  # .5 + .3 is more than .45 + .2
    assert {task: setting["rate"] for task, setting in found.settings.items()} == {"a": 2, "b": 2}
    kept = found.record()["tasks"]["b"]
    assert kept["chosen"] == tried[4].setting
    assert kept["trials"][1]["scores"] == pytest.approx({"svd keep": 0.3, "prefix rule": 0.2})
    assert kept["trials"][2] == {**tried[5].setting, "scores": {}, "diverged": "its loss is nan"}
    assert [*found.at_ends("x")] == []
    assert choose(tried[:3] + tried[5:]) is None  # no trial of a task has a score
    for rates in ((4, 2, 1), (1, 2, 4)):
        found = choose([trial("t", rate, 0.1 * i, 0, at=4) for i, rate in enumerate(rates)])
        assert found.record()["tasks"]["t"]["trials"][2]["scores"]["svd keep"] == pytest.approx(0.4)
        (said,) = found.at_ends("x")  # a list of one value has no end
        assert said.startswith(f"The search of x on t chose rate={rates[2]}, which is at an end")


BOTH = {"method": "lora", "cuts": [SVD, PREFIX]}
WRONG = {  # key → the change that is refused by it; the drawn studies have more mistakes
    "recipes.lora on aurac_word_problems: ranks: 64 is above": {"ranks": [1, 64]},
    "options: there is no ranks": {"options": {"ranks": [1]}},
    "recipe.seed": {"recipe": {"seed": 1}},
    "recipes.lora on aurac_word_problems: ": {
        "recipes": {"lora": {"method": "lora", "cuts": [["svd", "rule"]]}}
    },
    "recipes.lora on aurac_word_problems: Training example 1": {
        "recipes": {"lora": {**BOTH, "prompt": "{qestion}"}}
    },
    "recipes.lora.cuts: s has others": {
        "tasks": {**TASK, "s": {"recipes": {"lora": {"cuts": [["svd", "fit"]]}}}}, "primary": []
    },
    "primary[0].cut: nested is cut by prefix trained": {
        "primary": [{"a": "nested", "b": "lora", "cut": SVD}]
    },
    "primary[0]: no task has both nested and lora": {
        "tasks": {"s": {"recipes": {"lora": {}}}, "t": {"recipes": {"nested": {}}}}
    },
    "search.at: 3 is not evaluated, only 1, 2, 4": {
        "ranks": [1, 2], "search": {"at": 3, "learning_rate": [1e-3, 1e-2]}
    },
    "search.at: aurac needs two ranks": {"ranks": [4], "search": {"learning_rate": [1e-3, 1e-2]}},
    "tasks.t.jsonl: a study takes no file": {"tasks": {"t.jsonl": {}}},
    "tasks.t.recipes: there is no lira": {"tasks": {"t": {"recipes": {"lira": {}}}}},
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_file_is_refused_by_the_path_of_its_key(written, key):
    recipes = {"lora": BOTH, "nested": {"method": "matryoshka"}}
    file = {"recipes": recipes, "tasks": TASK, "primary": [{"a": "nested", "b": "lora"}]}
    written(file)
    with pytest.raises(RecipeError) as refused:
        written(file | WRONG[key])
    said = str(refused.value).partition("study.yaml: ")[2]
    assert said.startswith(key if ":" in key else f"{key}: "), said
