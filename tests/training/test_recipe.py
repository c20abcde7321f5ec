"""Recipes and their data: settings, templates, tokens, the order of the examples."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoTokenizer

from aurac.adapters import Adapter, Factors
from aurac.errors import AuracError, DataError, RecipeError
from aurac.models.base import load_base
from aurac.tasks import documents as bundled
from aurac.training.data import IGNORED, identified, render, tokenize, training_documents
from aurac.training.job import build_model
from aurac.training.recipe import built_in_recipes, family_members, load_recipe, make_recipe
from aurac.training.trainer import StepSampler

GOOD = {"name": "n", "method": "matryoshka", "rank": 8, "task": "aurac_word_problems"}


@pytest.mark.parametrize("name", built_in_recipes())
def test_built_in_recipes_load_and_open_with_their_launch_command(name):
    recipe = load_recipe(name)
    first = built_in_recipes()[name].read_text().splitlines()[0]
    assert first.startswith(f"# aurac train {name} ")
    assert recipe.method == name.split("/")[1].split("-")[0]
    if "-r" in name:  # the paper's grid has device batches of 4 and 8 steps of accumulation
        assert (recipe.batch_size, recipe.accumulation) == (4 * 8, 8)


def test_the_papers_settings():
    recipe = load_recipe("gsm8k/matryoshka-r256")
    assert recipe.nesting.ranks == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert (recipe.epochs, recipe.max_tokens, recipe.init) == (3.0, 512, "reference")
    assert (recipe.scaling, recipe.alpha, len(recipe.target_modules)) == ("sqrt", 1.0, 7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 0}, "a whole number >= 1 for rank"),
        ({"nested_ranks": [1, 16]}, r"nested_ranks = \(1, 16\) are above rank"),
        ({"nested_ranks": [4, 2]}, r"nested ranks \(4, 2\) are not ascending"),
        ({"rank_weights": [1.0]}, "weight"),
        ({"method": "dora"}, "lora, dylora, matryoshka, nested_loss"),
        ({"batch_size": 5, "accumulation": 2}, "no multiple of accumulation"),
        ({"data": "x.jsonl"}, "either task or data"),
        ({"epochs": 3, "steps": 5}, "either steps or epochs"),
        ({"lerning_rate": 1}, "no setting is called lerning_rate; did you mean learning_rate?"),
        ({"method_options": {"ranks_per_step": 2}}, "matryoshka has no option ranks_per_step"),
        ({"method": "nested_loss", "method_options": {"ranks_per_step": 5}}, "ranks_per_step"),
    ],
)
def test_a_bad_value_is_named(change, said):
    with pytest.raises(AuracError, match=said):
        make_recipe(GOOD | change)


def test_overrides_are_yaml_values_that_need_no_quotes_or_brackets():
    typed = {"rank": "8", "nested_ranks": "[2, 8]", "learning_rate": "3e-3", "epochs": "3"}
    recipe = load_recipe("word_problems/matryoshka", typed)
    assert (recipe.rank, recipe.nesting.ranks, recipe.learning_rate) == (8, (2, 8), 3e-3)
    assert (recipe.steps, recipe.epochs) == (0, 3)  # of the two the one that was typed
    typed = {"nested_ranks": "2,4", "target": " {answer}", "name": "2024-13-45", "data": "x.jsonl"}
    recipe = load_recipe("word_problems/matryoshka", typed)
    assert (recipe.nested_ranks, recipe.target) == ((2, 4), " {answer}")
    assert (recipe.name, recipe.data, recipe.task) == ("2024-13-45", "x.jsonl", "")


def test_a_file_that_is_no_recipe_is_refused(tmp_path):
    for text, said in (("a: [1,", "cannot be read"), ("just text", "holds no")):
        (broken := tmp_path / "r.yaml").write_text(text)
        with pytest.raises(RecipeError, match=said):
            load_recipe(broken)
    with pytest.raises(RecipeError, match=r"did you mean word_problems/lora\?"):
        load_recipe("word_problem/lora")


def test_default_nested_ranks_end_with_the_trained_rank():
    assert make_recipe(GOOD | {"rank": 12}).nesting.ranks == (1, 2, 4, 8, 12)
    assert make_recipe(GOOD | {"method": "lora"}).nesting.ranks == (8,)
    assert make_recipe(GOOD | {"rank": 1}).nesting.ranks == (1,)


def test_the_hash_tells_recipes_and_rows_apart_and_seeds_together(tmp_path):
    """Rows in another file and format are the same data; other rows in the same file are not."""
    recipe = make_recipe(GOOD)
    assert make_recipe(GOOD | {"seed": 7, "name": "other"}).sha256 == recipe.sha256
    assert make_recipe(GOOD | {"learning_rate": 2e-3}).sha256 != recipe.sha256
    rows = [{"question": "1 + 1", "answer": "2"}, {"question": "1 + 2", "answer": "3"}]
    one, two = tmp_path / "train.jsonl", tmp_path / "same.json"
    one.write_text("".join(json.dumps(row) + "\n" for row in rows))
    two.write_text(json.dumps([dict(reversed(row.items())) for row in rows]))
    a, b = (make_recipe({**GOOD, "task": "", "data": str(path)}) for path in (one, two))
    assert a.sha256 != b.sha256  # of data that were not read the name is all that is known
    known = identified(a)
    assert known.sha256 == identified(b).sha256 == identified(known).sha256

    def order(recipe, **held_out):
        module = Factors(torch.ones(2, 3), torch.ones(3, 2), alpha=1.0, rule="sqrt")
        return Adapter("a", {"m": module}, recipe=recipe.to_dict() | held_out).data_order

    assert order(a) is None
    assert order(identified(b)) == order(known) != order(known, validation=1)
    rows[1]["answer"] = "4"
    one.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = identified(a)
    assert other.sha256 != known.sha256
    assert order(other) not in (None, order(known))
    with pytest.raises(RecipeError, match=rf"hash {other.data_sha256[:10]} now, and the recipe is"):
        identified(known)


def test_data_lie_beside_the_recipe_or_in_the_current_folder(tmp_path, monkeypatch, caplog):
    """Beside the recipe first; where both exist the other is named; a path from --set is typed."""
    there, here = tmp_path / "recipes", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    file = there / "r.yaml"
    file.write_text("name: n\nmethod: lora\nrank: 2\ndata: train.jsonl\n")

    def said(recipe):
        return training_documents(recipe)[0]["answer"]

    with pytest.raises(DataError, match=r"train\.jsonl cannot be read"):
        said(load_recipe(file))
    (here / "train.jsonl").write_text('{"answer": "here"}\n')
    assert said(load_recipe(file)) == "here"
    (there / "train.jsonl").write_text('{"answer": "there"}\n')
    assert not caplog.records
    members = family_members(load_recipe(file), [2, 1])
    assert {label: made.rank for label, made in members.items()} == {"r1": 1, "r2": 2}
    assert {said(made) for made in members.values()} == {"there"}
    assert f"not {here / 'train.jsonl'}" in caplog.text
    assert said(load_recipe(file, {"data": "train.jsonl"})) == "here"
    assert said(load_recipe(file, {"data": str(there)})) == "there"  # the train split of a folder
    wanted, train = training_documents(make_recipe(GOOD)), bundled("aurac_word_problems")["train"]
    for data in (train, train.parent):
        assert training_documents(make_recipe({**GOOD, "task": "", "data": str(data)})) == wanted


ROW = {"question": "1 + 1?", "choices": {"text": ["two {x}", "three"]}, "answer": "b"}


@pytest.mark.parametrize(
    ("prompt", "row", "shown"),
    [
        ("Q: {question} ", ROW, "Q: 1 + 1? "),
        ("{{question}}\n", ROW, "1 + 1?\n"),
        ("{{choices.text[0]}}", ROW, "two {x}"),
        ("{{question | regex_replace('[0-9]', 'n')}}", ROW, "n + n?"),
        ("{% if x %}{{x}}{% else %}none{% endif %}", {**ROW, "x": None}, "none"),
        ("{nothing}", ROW, None),
        ("{question", ROW, None),
        ("{{choices.text[9]}}", ROW, None),
        ("{question}", {**ROW, "question": None}, None),  # would be trained on as a word
        ("{{question}}", {**ROW, "question": float("nan")}, None),
    ],
)
def test_templates_are_python_s_or_those_of_lm_eval(prompt, row, shown):
    made = make_recipe(GOOD | {"prompt": prompt})
    if shown is None:
        with pytest.raises(DataError, match="does not fit the templates"):
            render(made, row, 3)
        return
    assert render(made, row, 1) == (shown, " b")
    made = make_recipe(GOOD | {"prompt": "{question} {input}", "prompt_without": prompt})
    assert render(made, {**row, "input": "x"}, 1)[0] == "1 + 1? x"
    assert render(made, {**row, "input": ""}, 1)[0] == shown


def test_prompt_is_masked_and_the_end_is_learnt(tiny_base_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    [example] = tokenize(make_recipe(GOOD), [{"question": "Mia 1", "answer": "2"}], tokenizer)
    words = tokenizer.convert_ids_to_tokens(example["input_ids"])
    assert words == ["Question:", "Mia", "1", "\n", "Answer:", "2", "<eos>"]
    assert example["labels"] == [IGNORED] * 5 + example["input_ids"][5:]


def test_an_optimizer_step_sees_random_examples_sorted_only_within():
    lengths = [k % 17 for k in range(70)]
    sampler = StepSampler(lengths, 16, seed=5)
    order = list(sampler)
    assert sorted(order) == list(range(70))
    chunks = [order[k : k + 16] for k in range(0, 70, 16)]
    for chunk in chunks:
        found = [lengths[i] for i in chunk]
        assert found == sorted(found, reverse=True)
    # Random steps: the mean length of 16 of these has a spread of 1.2 around 8; grouped by length
    # they would lie between 1.9 and 14.
    means = [sum(lengths[i] for i in chunk) / len(chunk) for chunk in chunks[:4]]
    assert all(abs(mean - 8) < 5 for mean in means)
    assert list(sampler) == order
    assert list(StepSampler(lengths, 16, seed=6)) != order
    sampler.set_epoch(1)
    assert list(sampler) != order


def test_factors_are_drawn_with_the_seed_and_the_bound_of_the_recipe(recipe):
    """PEFT's bound is 1/√in of 32 and 64 inputs, the reference's 1/√R of rank 4."""
    drawn = {}
    for seed, init in ((3, "peft"), (3, "reference"), (4, "peft")):
        made = recipe(init=init, seed=seed)
        model, nested = build_model(made, load_base(made.base, dtype="float32"))
        every = {n: p.detach() for n, p in model.named_parameters() if ".lora_A." in n}
        drawn[seed, init] = next(iter(every.values()))
        for A in every.values():
            bound = 0.5 if init == "reference" else A.shape[1] ** -0.5
            assert 0.8 * bound < A.abs().max() <= bound
        nested.remove()
    assert not torch.equal(drawn[3, "peft"], drawn[4, "peft"])
