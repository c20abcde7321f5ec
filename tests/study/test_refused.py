"""What is wrong in the file of a study is refused when it is read, by the path of its key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aurac.errors import RecipeError
from aurac.study import load_study

REPORTS = Path(__file__).parents[2] / "reports"
FILE = {
    "recipe": {"rank": 4, "steps": 10, "data": "train.jsonl"},
    "recipes": {
        "lora": {"method": "lora", "cuts": [["svd", "keep"], ["prefix", "rule"]]},
        "each": {"method": "lora", "family": True},
        "tails": {"from": "lora", "steps": 2},
        "nested": {"method": "matryoshka"},
    },
    "tasks": {"aurac_word_problems": {}},
    "search": {"learning_rate": [1e-2, 2e-2]},
    "primary": [{"a": "nested", "b": "lora", "cut": ["prefix", "rule"]}],
    "ranks": [1, 2, 4],
    "reference": "lora",
    "labels": {"lora": "LoRA"},
}
FILE["recipes"]["nested"]["cuts"] = [["prefix", "trained"], ["prefix", "rule"]]


def lora(**fields):
    return {"recipes": FILE["recipes"] | {"lora": FILE["recipes"]["lora"] | fields}}


def only(name="x", **fields):
    return {"recipes": FILE["recipes"] | {name: fields}}


def primary(**fields):
    return {"primary": [FILE["primary"][0], {"a": "nested", "b": "lora"} | fields]}


def task(**fields):
    return {"tasks": {"t": fields}}


WRONG = {
    "metods": {"metods": {}},
    "seeds[0]": {"seeds": ["many"]},
    "seeds": {"seeds": []},
    "margin": {"margin": 2},
    "base": {"base": {}},
    "options: num_fewshot takes": {"options": {"num_fewshot": [0, -1]}},
    "ranks": {"ranks": []},
    "ranks[1]": {"ranks": [1, 0]},
    "ranks: 64 is above 4, the rank of lora": {"ranks": [1, 64]},
    "reference: there is no lira": {"reference": "lira"},
    "labels: there is no lira": {"labels": {"lira": "LoRA"}},
    "options: there is no ranks": {"options": {"ranks": [1]}},
    "options: there is no split": {"options": {"split": "test"}},
    "options: there is no groups": {"options": {"groups": {"lora": ["a"]}}},
    "options: there is no device": {"options": {"device": "cpu"}},
    "options: there is no lmit": {"options": {"lmit": 3}},
    "options: limit takes": {"options": {"limit": -3}},
    "recipe.learning_rte": {"recipe": FILE["recipe"] | {"learning_rte": 1}},
    "recipe.seed": {"recipe": FILE["recipe"] | {"seed": 1}},
    "recipes.lora.step": lora(step=3),
    "recipes.lora.seeds": lora(seeds=3),
    "recipes.lora.learning_rate": lora(learning_rate=0),
    "recipes.lora.cuts[0]": lora(cuts=["svd", "keep"]),
    "recipes.lora.cuts[0][1]": lora(cuts=[["svd", "kep"]]),
    "recipes.lora.cuts: ": lora(cuts=[["svd", "keep"], ["svd", "rule"]]),
    "recipes.lora.cuts": lora(cuts=[]),
    "recipes.x on aurac_word_problems": only(rank=3),  # has no method
    "recipes.x on aurac_word_problems: recipe": only(method="lora", batch_size=5, accumulation=2),
    "recipes.x.from: there is no lira": only(**{"from": "lira"}),
    "recipes.x.from: x is not trained from its beginning on aurac_w": only(**{"from": "x"}),
    "recipes.lora.from: tails is not trained": lora(**{"from": "tails"}),
    "recipes.tails.from: lora is not trained from its beginning on t": task(recipes={"tails": {}}),
    "recipes.y.from: x is not trained from its beginning": {
        "recipes": FILE["recipes"] | {"x": {"from": "lora"}, "y": {"from": "x"}}
    },
    "recipes.lora.cuts: s has others": {
        "tasks": {"t": {}, "s": {"recipes": {"lora": {"cuts": [["svd", "fit"]]}}}},
        "primary": [],
    },
    "recipes.tails.method": only("tails", **{"from": "lora", "method": "dylora"}),
    "recipes.each.cuts": only("each", method="lora", family=True, cuts=[["svd", "keep"]]),
    "search.learning_rte": {"search": {"learning_rte": [1e-2]}},
    "search.learning_rate[1]": {"search": {"learning_rate": [1e-2, 0]}},
    "search.learning_rate[0]": {"search": {"learning_rate": [-1, 1]}},
    "search.learning_rate": {"search": {"learning_rate": []}},
    "search.dropout[1]": {"search": {"dropout": [0.5, 1.5]}},
    "recipes.lora on aurac_word_problems batch_size=16 accumulation=3: ": {
        "search": {"batch_size": [16], "accumulation": [2, 3]}
    },
    "search.at": {"search": {"learning_rate": [1, 2], "at": "auracc"}},
    "search.at: rank 3": {"search": {"learning_rate": [1, 2], "at": 3}},
    "primary[1]: no task has both lira and lora": primary(a="lira"),
    "primary[1]: no task has both nested and lira": primary(b="lira"),
    "primary[1]: lora is compared with itself": primary(a="lora"),
    "primary[1].cut[1]": primary(cut=["svd", "kep"]),
    "primary[1].cut: nested is cut by prefix trained, prefix rule": primary(cut=["svd", "keep"]),
    "primary[1].cat": primary(cat=["svd", "keep"]),
    "primary[0]: no task has both nested and lora": {
        "tasks": {"s": {"recipes": {"lora": {}}}, "t": {"recipes": {"nested": {}}}},
    },
    "tasks.t.recipes: there is no lira": task(recipes={"lira": {}}),
    "tasks.t.recipes.lora.from": task(recipes={"lora": {"from": "nested"}, "nested": {}}),
    "tasks.t.recipe.step": task(recipe={"step": 3}),
    "tasks.t.bases: there is no x": task(bases=["x"]),
    "tasks.t.options: there is no ranks": task(options={"ranks": [1]}),
    "tasks.t.option": task(option={}),
    "tasks.t": {"tasks": {"t": 3}},
    "tasks": {"tasks": {}},
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_file_is_refused_by_the_path_of_its_key(written, key):
    with pytest.raises(RecipeError) as refused:
        written(FILE | WRONG[key])
    said = str(refused.value).partition("study.yaml: ")[2]
    assert said.startswith(key if ":" in key else f"{key}: "), said


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}")
def test_the_stored_studies_are_read(path, monkeypatch):
    known = lambda x: replace(x, data_sha256=x.data_sha256 or "hub")  # noqa: E731
    monkeypatch.setattr("aurac.study.design.identified", known)
    if path.parent.name in ("small_ranks", "gsm8k", "open_platypus"):
        assert load_study(path).parts
