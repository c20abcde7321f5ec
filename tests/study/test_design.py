"""The file of a study: what follows from it, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from aurac.study import load_study

FILE = {
    "recipe": {"rank": 4, "steps": 10},
    "recipes": {
        "lora": {"method": "lora"},
        "long": {"method": "lora", "steps": 30, "seeds": [1]},
        "each": {"method": "lora", "family": True},
        "matryoshka": {"method": "matryoshka"},
    },
    "tasks": {
        "words": {"recipe": {"data": "train.jsonl", "learning_rate": 1e-2}},
        "other": {
            "recipe": {"data": "other.jsonl", "steps": 20},
            "recipes": {"lora": {"learning_rate": 2e-2}, "long": {}},
            "options": {"limit": 50},
        },
    },
}


def planned(study):
    (part,) = study.parts
    return [plan.adapter(seed, {}) for plan in plans_of(part) for seed in plan.seeds]


def plans_of(part):
    return [plan for by_task in part.groups.values() for plan in by_task.values()]


@pytest.fixture
def study(written):
    return lambda **changes: written(FILE | changes)


def test_every_recipe_task_and_seed_is_planned_with_the_most_special_setting(study):
    adapters = {adapter.name: adapter for adapter in planned(study())}
    assert [*adapters] == [
        *("words-lora-seed1", "words-lora-seed2", "other-lora-seed1", "other-lora-seed2"),
        *("words-long-seed1", "other-long-seed1", "words-each-seed1", "words-each-seed2"),
        *("words-matryoshka-seed1", "words-matryoshka-seed2"),
    ]
    recipes = {name: adapter.recipe for name, adapter in adapters.items()}
    rates = [recipes[name].learning_rate for name in ("words-lora-seed1", "other-lora-seed1")]
    assert rates == [1e-2, 2e-2]
    steps = {name: recipes[f"{name}-seed1"].steps for name in ("words-lora", "other-long")}
    assert steps == {"words-lora": 10, "other-long": 30}
    assert recipes["words-lora-seed1"].sha256 == recipes["words-lora-seed2"].sha256
    each = adapters["words-each-seed2"]
    folder = f"adapters/lora-{each.recipe.sha256[:10]}-family-seed2"
    assert [job.folder for job in each.trainings] == [f"{folder}/r{rank}" for rank in (1, 2, 4)]
    assert len({adapter.folder for adapter in adapters.values()}) == len(adapters)


def test_what_a_list_names_twice_counts_once(study):
    lora = {"lora": {"method": "lora", "seeds": [3, 3, 1]}}
    task = {"words": FILE["tasks"]["words"]}
    twice = study(recipes=lora, tasks=task, options={"num_fewshot": [2, 0, 2]})
    assert [part.name for part in twice.parts] == ["2shot", "0shot"]
    assert [plan.seeds for part in twice.parts for plan in plans_of(part)] == [(3, 1), (3, 1)]


def test_tasks_that_share_their_training_share_the_adapters(study):
    same = study(recipe={"rank": 4, "data": "train.jsonl"}, tasks={"a": {}, "b": {}})
    names = [adapter.name for adapter in planned(same)]
    assert names[:6] == [*2 * ["lora-seed1", "lora-seed2"], *2 * ["long-seed1"]]
    assert {*Counter(names).values()} == {2}


def run_of(recipe, ranks=(1, 2, 4), asked=50, basis="svd", **more):
    made_by = {"sha256": recipe.sha256}
    adapter = SimpleNamespace(name="stored", format="peft", recipe=made_by, seed=recipe.seed)
    curve = SimpleNamespace(
        adapter="stored", task="other", ranks=ranks, basis=basis,
        **{"missing": {}, "rescale": "keep", "doc_ids": ("x",) * asked, **more},
    )  # fmt: skip
    tasks = [SimpleNamespace(name="other", split=80)]
    return SimpleNamespace(adapters=[adapter], curves=[curve], tasks=tasks)


def test_an_adapter_is_recognised_by_its_recipe_and_seed_where_all_cells_are_there(study):
    one, two = (a for a in planned(study()) if a.plan.task == "other" and a.plan.group == "lora")
    for ranks in ((1, 2, 4), (1, 2, 3, 4)):
        run = run_of(one.recipe, ranks=ranks)
        assert one.stored(run) == {("svd", "keep"): run.curves[0]}
    for other in (
        run_of(two.recipe),
        run_of(one.recipe, ranks=(1, 4)),
        run_of(one.recipe, asked=49),
        run_of(one.recipe, missing={8: "no number"}),
    ):
        assert one.stored(other) == {}


def test_the_cuts_that_are_wanted_are_those_of_compare(study):
    """LoRA is cut by SVD and keeps its scale, MatryoshkaLoRA by prefix with P."""
    recipes = {
        "lora": {"method": "lora"},
        "nested": {"method": "matryoshka"},
        "drawn": {"method": "dylora"},
        "both": {"method": "matryoshka", "cuts": [["prefix", "trained"], ["prefix", "rule"]]},
    }
    loaded = study(recipes=recipes, tasks={"t": {"recipe": {"data": "train.jsonl"}}}, seeds=[1])
    assert {adapter.plan.group: adapter.plan.cuts for adapter in planned(loaded)} == {
        "lora": (("svd", "keep"),),
        "nested": (("prefix", "trained"),),
        "drawn": (("prefix", "rule"),),
        "both": (("prefix", "trained"), ("prefix", "rule")),
    }
    one = next(a for a in planned(loaded) if a.plan.group == "both")
    stored = run_of(one.recipe, basis="prefix", rescale="trained")
    stored.curves[0].task = "t"
    assert one.stored(stored) == {}  # rescale `rule` is missing


@pytest.mark.parametrize(
    ("name", "shots"),
    [
        ("gsm8k", [("gsm8k", 3), ("gsm8k", 8)]),
        ("open_platypus", [("arc_challenge", 25), ("hellaswag", 10)]),
    ],
)
def test_the_papers_studies_have_the_batches_and_prompts_of_its_code(name, shots, monkeypatch):
    """Its grid: device batches of 4, eight in a step, `eval_shots` 3,8; its later evaluation."""
    path = Path(__file__).parents[2] / "reports" / name / "study.yaml"
    of_the_hub = lambda recipe: replace(recipe, data_sha256="of the hub")  # noqa: E731
    monkeypatch.setattr("aurac.study.design.identified", of_the_hub)
    study = load_study(path)
    found, folders = {}, set()
    for part in study.parts:
        for adapter in (plan.adapter(seed, {}) for plan in plans_of(part) for seed in plan.seeds):
            recipe = adapter.recipe
            assert (recipe.batch_size, recipe.accumulation, recipe.epochs) == (32, 8, 3)
            folders.add(adapter.folder)
            shown = adapter.asked.num_fewshot
            found.setdefault((adapter.plan.task, shown), []).append(recipe.seed)
    assert list(found) == shots
    assert all(sorted(set(seeds)) == [42, 666, 2408] for seeds in found.values())
    assert len(folders) == 9  # three methods and seeds, each trained once for both
