"""Recipes: the built-in ones are whole, bad values are named."""

from __future__ import annotations

import json

import pytest
import torch

from aurac.adapters import Adapter, Factors
from aurac.errors import AuracError, DataError, RecipeError
from aurac.tasks import documents
from aurac.training.data import identified, training_documents
from aurac.training.recipe import (
    built_in_recipes,
    family_members,
    load_recipe,
    make_recipe,
    tails,
)

MODULES = {"m": Factors(torch.ones(2, 3), torch.ones(3, 2), alpha=1.0, rule="sqrt")}
GOOD = {"name": "n", "method": "matryoshka", "rank": 8, "task": "aurac_word_problems"}


@pytest.mark.parametrize("name", built_in_recipes())
def test_built_in_recipes_load_and_open_with_their_launch_command(name):
    recipe = load_recipe(name)
    first = built_in_recipes()[name].read_text().splitlines()[0]
    assert first.startswith(f"# aurac train {name} ")
    assert recipe.method == name.split("/")[1].split("-")[0]


@pytest.mark.parametrize("name", [n for n in built_in_recipes() if "-r" in n])
def test_the_papers_recipes_have_its_batches(name):
    """Its grid has device batches of 4 and 8 steps of accumulation."""
    recipe = load_recipe(name)
    assert (recipe.batch_size, recipe.accumulation) == (4 * 8, 8)


def test_the_papers_settings():
    recipe = load_recipe("gsm8k/matryoshka-r256")
    assert recipe.nesting.ranks == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert (recipe.batch_size, recipe.epochs, recipe.max_tokens) == (32, 3.0, 512)
    assert (recipe.scaling, recipe.alpha, len(recipe.target_modules)) == ("sqrt", 1.0, 7)
    assert recipe.init == "reference"
    shorter = load_recipe("gsm8k/matryoshka-r256", {"steps": 3, "nested_ranks": [1, 256]})
    assert (shorter.steps, shorter.nesting.ranks) == (3, (1, 256))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 0}, "a whole number >= 1 for rank"),
        ({"rank": True}, "Expected a whole number, got bool"),
        ({"nested_ranks": [1, 16]}, r"nested_ranks = \(1, 16\) must increase, up to rank = 8"),
        ({"nested_ranks": [4, 2]}, r"nested_ranks = \(4, 2\)"),
        ({"rank_weights": [1.0]}, "weight"),
        ({"method": "dora"}, "lora, dylora, matryoshka, nested_loss"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"batch_size": 5, "accumulation": 2}, "no multiple of accumulation"),
        ({"data": "x.jsonl"}, "either task or data"),
        ({"task": ""}, "either task or data"),
        ({"epochs": 3, "steps": 5}, "either steps or epochs"),
        ({"lerning_rate": 1}, "no setting is called lerning_rate; did you mean learning_rate?"),
        ({"lr": 1}, "no setting is called lr; `aurac train --list`"),
        ({"folder": "x"}, "Expected Path, got str for folder"),
        ({"dropout": 1.0}, "dropout"),
        ({"seed": 2**32}, "seed"),
        ({"method_options": {"ranks_per_step": 2}}, "matryoshka has no option ranks_per_step"),
        *(
            ({"method": "nested_loss", "method_options": {"ranks_per_step": k}}, "ranks_per_step")
            for k in (-1, 5, 1.5, True, "two")
        ),
    ],
)
def test_a_bad_value_is_named(change, said):
    with pytest.raises(AuracError, match=said):
        make_recipe(GOOD | change)


def test_data_that_cannot_be_fetched_point_to_local_data(monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("no way to owner/rows\nand more")

    monkeypatch.setattr("datasets.load_dataset", fails)
    recipe = make_recipe({**GOOD, "task": "", "data": "hub:owner/rows"})
    with pytest.raises(DataError, match=r"no way to owner/rows; .* --set data=FOLDER$"):
        training_documents(recipe)


def test_of_steps_and_epochs_the_one_that_is_typed_counts():
    assert load_recipe("word_problems/lora").steps > 0
    typed = load_recipe("word_problems/lora", {"epochs": 3})
    assert (typed.steps, typed.epochs) == (0, 3)
    with pytest.raises(RecipeError, match="either steps or epochs"):
        load_recipe("word_problems/lora", {"epochs": 3, "steps": 5})


def test_the_files_of_a_bundled_task_train_as_the_task_does(tmp_path):
    train = documents("aurac_word_problems")["train"]
    wanted = training_documents(make_recipe(GOOD))
    for data in (train, train.parent):
        assert training_documents(make_recipe({**GOOD, "task": "", "data": str(data)})) == wanted
    damaged = tmp_path / "train.jsonl.gz"
    damaged.write_bytes(train.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train\.jsonl\.gz cannot be read"):
        training_documents(make_recipe({**GOOD, "task": "", "data": str(tmp_path)}))


def test_overrides_are_yaml_values_that_need_no_quotes_or_brackets():
    typed = {"rank": "8", "nested_ranks": "[2, 8]", "learning_rate": "3e-3"}
    recipe = load_recipe("word_problems/matryoshka", typed)
    assert (recipe.rank, recipe.nesting.ranks, recipe.learning_rate) == (8, (2, 8), 3e-3)
    typed = {"nested_ranks": "2,4", "target": " {answer}", "name": "2024-13-45", "data": "x.jsonl"}
    recipe = load_recipe("word_problems/matryoshka", typed)
    assert (recipe.nested_ranks, recipe.target) == ((2, 4), " {answer}")
    assert (recipe.name, recipe.data, recipe.task) == ("2024-13-45", "x.jsonl", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [1,", "cannot be read"), ("just text", "holds no"), ("a: 1\na: 2", "a twice")],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, said):
    broken = tmp_path / "r.yaml"
    broken.write_text(text)
    with pytest.raises(RecipeError, match=said):
        load_recipe(broken)


def test_a_built_in_recipe_is_named_as_it_was_typed():
    with pytest.raises(RecipeError, match=r"did you mean word_problems/lora\?"):
        load_recipe("word_problem/lora")
    with pytest.raises(RecipeError, match=r"^word_problems/lora: no setting is called ranks"):
        load_recipe("word_problems/lora", {"ranks": 8})


def test_default_nested_ranks_end_with_the_trained_rank():
    assert make_recipe(GOOD | {"rank": 12}).nesting.ranks == (1, 2, 4, 8, 12)
    assert make_recipe(GOOD | {"method": "lora"}).nesting.ranks == (8,)
    assert make_recipe(GOOD | {"rank": 1}).nesting.ranks == (1,)


def test_the_hash_tells_recipes_apart_and_seeds_together():
    recipe = make_recipe(GOOD)
    assert make_recipe(GOOD | {"seed": 7, "name": "other"}).sha256 == recipe.sha256
    assert make_recipe(GOOD | {"learning_rate": 2e-3}).sha256 != recipe.sha256


def test_data_are_known_by_their_rows(tmp_path):
    """Rows in another file and format are the same data; other rows in the same file are not."""
    rows = [{"question": "1 + 1", "answer": "2"}, {"question": "1 + 2", "answer": "3"}]
    one, two = tmp_path / "train.jsonl", tmp_path / "same.json"
    one.write_text("".join(json.dumps(row) + "\n" for row in rows))
    two.write_text(json.dumps([dict(reversed(row.items())) for row in rows]))
    a, b = (make_recipe({**GOOD, "task": "", "data": str(path)}) for path in (one, two))
    assert a.sha256 != b.sha256  # of data that were not read the name is all that is known
    known = identified(a)
    assert known.sha256 == identified(b).sha256 == identified(known).sha256
    assert Adapter("a", MODULES, recipe=a.to_dict()).data_order is None
    order = Adapter("a", MODULES, recipe=known.to_dict()).data_order
    assert Adapter("b", MODULES, recipe=identified(b).to_dict()).data_order == order
    rows[1]["answer"] = "4"
    one.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = identified(a)
    assert other.sha256 != known.sha256
    assert Adapter("c", MODULES, recipe=other.to_dict()).data_order not in (None, order)
    with pytest.raises(RecipeError, match=rf"hash {other.data_sha256[:10]} now, and the recipe is"):
        identified(known)
    (_, tail), *_ = tails(known, "svd", (2,), {"steps": 3})
    assert tail.data_sha256 == known.data_sha256
    (_, tail), *_ = tails(known, "svd", (2,), {"steps": 3, "data": "x.jsonl"})
    assert tail.data_sha256 == ""


def test_data_lies_beside_the_recipe_or_in_the_current_folder(tmp_path, monkeypatch, caplog):
    """Beside the recipe first; where both exist the other is named; a path from --set is typed."""
    there, here = tmp_path / "recipes", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    file = there / "r.yaml"
    file.write_text("name: n\nmethod: lora\nrank: 2\ndata: train.jsonl\n")

    def said(recipe):
        return training_documents(recipe)[0]["answer"]

    with pytest.raises(DataError, match=r"no training data at train\.jsonl"):
        said(load_recipe(file))
    (here / "train.jsonl").write_text('{"answer": "here"}\n')
    assert said(load_recipe(file)) == "here"
    (there / "train.jsonl").write_text('{"answer": "there"}\n')
    assert not caplog.records
    assert {said(m) for _, m in family_members(load_recipe(file), [1, 2])} == {"there"}
    assert f"not {here / 'train.jsonl'}" in caplog.text
    assert said(load_recipe(file, {"data": "train.jsonl"})) == "here"
    assert said(load_recipe(file, {"data": str(there)})) == "there"
    monkeypatch.chdir(there)
    caplog.clear()
    assert said(load_recipe("r.yaml")) == "there"
    assert not caplog.records
