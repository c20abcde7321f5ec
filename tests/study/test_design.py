"""The file of a study: what it asks for, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from document_blocks import REPOSITORY, blocks

from aurac.cli import cli
from aurac.errors import (
    RankError,
    RecipeError,
    RunFolderError,
)
from aurac.records.decisions import AFTER, BEFORE
from aurac.study import load_study, plan_study
from aurac.study.design import chosen_adapters, curves_of, results_of, searches
from aurac.study.execution import best_rate
from aurac.study.plan import declared_in
from aurac.training.recipe import built_in_recipes

LORA = {"recipe": {"method": "lora"}}
FAMILY = {**LORA, "family": True}
GRID = {**FAMILY, "learning_rates": [0.1, 0.2]}
TRAINED = {"recipe": {"method": "matryoshka"}, "rescale": ["trained", "keep"]}


def of_method(name, adapters):
    return [one for one in adapters if one.method == name]


def test_rates_are_judged_on_the_validation_split_if_no_other_is_named(write, content):
    task = {**content["tasks"]["choice"], "validation": {"limit": 7}}
    study = load_study(write(tasks={"choice": task}))
    assert study.tasks["choice"].validation.split == "validation"
    assert study.tasks["choice"].validation.limit == 7


def test_a_study_whose_methods_name_rates_and_seeds_needs_none(write):
    lora = {**LORA, "learning_rates": [0.5], "seeds": [7]}
    study = load_study(write(methods={"lora": lora}, learning_rates=[], seeds=[]))
    assert (study.rates_of("choice", "lora"), study.seeds_of("choice", "lora")) == ([0.5], [7])


def test_the_trainings_are_those_of_the_design(write):
    path = write()
    study = load_study(path)
    names = [one.recipe.name for one in searches(study, path)]
    assert names == [f"matryoshka-lr{rate}-seed1" for rate in ("0.003", "0.01", "0.03")]
    [first, *rest] = of_method("lora", results_of(study, path, {"choice": {"lora": 0.01}}))
    assert (first.recipe.learning_rate, first.recipe.seed, first.recipe.rank) == (0.01, 1, 4)
    assert [one.recipe.seed for one in rest] == [2, 3]
    assert first.recipe.sha256 == rest[0].recipe.sha256  # seeds of one recipe
    assert first.trainings == {"adapters/choice/lora-lr0.01-seed1": first.recipe}


def test_without_a_basis_a_method_is_cut_as_compare_cuts_its_adapters(write):
    """And its learning rates are judged by the curve that is compared."""
    methods = {"lora": LORA, "dylora": {"recipe": {"method": "dylora"}}, "per_rank": FAMILY}
    path = write(methods=methods)
    study = load_study(path)
    curves = {
        (one.method, final): [(v.basis, v.role) for v in curves_of(study, one, final=final)]
        for final, every in ((True, results_of(study, path)), (False, searches(study, path)))
        for one in every
    }
    assert curves == {
        ("lora", True): [("svd", "default"), ("prefix", "published")],
        ("lora", False): [("svd", "default")],
        ("dylora", True): [("prefix", "default")],
        ("dylora", False): [("prefix", "default")],
        ("per_rank", True): [("prefix", "default")],
    }


@pytest.mark.parametrize("nested", [{}, {"nested_ranks": [1, 4]}])
def test_a_family_has_a_training_for_each_rank_and_shares_the_largest(write, content, nested):
    path = write(recipe={**content["recipe"], **nested})  # LoRA ignores nested ranks
    study = load_study(path)
    assert study.rates_of("choice", "per_rank") == [
        0.01
    ]  # those of lora, which has the same recipe
    [family, *_] = of_method("per_rank", results_of(study, path))
    assert [recipe.rank for recipe in family.trainings.values()] == [1, 2, 4]
    assert [Path(folder).name for folder in family.trainings] == [
        "per_rank-lr0.01-seed1-r1",
        "per_rank-lr0.01-seed1-r2",
        "lora-lr0.01-seed1",
    ]
    [lora, *_] = of_method("lora", results_of(study, path))
    assert list(family.trainings.items())[-1:] == list(lora.trainings.items())
    assert {recipe.seed for recipe in family.trainings.values()} == {1}


def test_a_family_with_rates_of_its_own_is_searched(write, content):
    family = {"recipe": {"method": "lora", "steps": 3}, "family": True}
    path = write(methods={**content["methods"], "per_rank": {**family, "learning_rates": [1, 2]}})
    study = load_study(path)
    found = [one for one in searches(study, path) if one.method == "per_rank"]
    assert [one.recipe.name for one in found] == ["per_rank-lr1-seed1", "per_rank-lr2-seed1"]
    # no method has its recipe: nothing is shared
    assert [folder[-3:] for folder in found[0].trainings] == ["-r1", "-r2", "-r4"]

    path = write(methods={**content["methods"], "x": {**family, "learning_rates_of": "matryoshka"}})
    study = load_study(path)
    assert study.rates_of("choice", "x") == study.rates_of("choice", "matryoshka")
    assert not [one for one in searches(study, path) if one.method == "x"]


def test_explicit_ranks_are_those_of_a_family(write):
    path = write(ranks="1,3,4")
    [family, *_] = of_method("per_rank", results_of(load_study(path), path))
    assert [recipe.rank for recipe in family.trainings.values()] == [1, 3, 4]


def test_a_task_has_methods_and_settings_of_its_own(write, content):
    task = content["tasks"]["choice"]
    special = {"lora": {"seeds": [7], "learning_rates": [0.5]}, "per_rank": {}}
    tasks = {"choice": task, "other": {**task, "task": "arc_easy", "methods": special}}
    path = write(tasks=tasks)
    study = load_study(path)
    points = {(one.task, one.method): one for one in results_of(study, path)}
    assert [method for task, method in points if task == "other"] == ["lora", "per_rank"]
    other = points["other", "lora"].recipe
    assert (other.seed, other.learning_rate) == (7, 0.5)
    assert points["other", "per_rank"].recipe.learning_rate == 0.5  # those of lora there
    assert {one.recipe.seed for one in results_of(study, path)} == {1, 2, 3, 7}
    for methods, message in (({"x": {}}, "other has the methods x"), ({"lora": {"lr": 1}}, "lr")):
        tasks["other"]["methods"] = methods
        with pytest.raises(RecipeError, match=message):
            load_study(write(tasks=tasks))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "no seeds of lora; expected `seeds` of the method or the study"),
        ({"learning_rates": []}, "choice: no learning_rates of "),
        ({"seeds": [1, 1]}, "each value once"),
        ({"methods": {}}, "no methods"),
        ({"colour": "red"}, "colour"),
        ({"learning_rates": "many"}, "learning_rates"),
        ({"methods": {"x": {"recipe": {"method": "dora"}}}}, "lora, dylora, matryoshka"),
        ({"methods": {"a/b": {"recipe": {"method": "lora"}}}}, "the name 'a/b'"),
        ({"recipe": {"rank": 4, "stepz": 2}}, "stepz"),
        ({"basis": ["qr"]}, "qr"),
        ({"basis": ["svd"]}, "matryoshka: rescale trained, rule with basis svd"),
        ({"methods": {"x": {**FAMILY, "basis": ["svd"]}}}, "basis or rescale of the family x"),
        ({"methods": {"x": {**FAMILY, "learning_rates_of": "y"}}}, "learning_rates_of = 'y' of x"),
        ({"methods": {"x": {**FAMILY, "learning_rates_of": "x"}}}, "another method on this task"),
        ({"ranks": "1,8"}, "ranks 1,8; expected two or more, from 1 to the trained rank 4"),
        ({"search_ranks": "1,8"}, "ranks 1,8; expected two or more, from 1 to the trained rank 4"),
        ({"search_ranks": "4"}, "ranks 4; expected two or more"),
        ({"seeds": [-1]}, ">= 0"),
        ({"margin": 2}, "< 1"),
        ({"recipe": {"rank": 4, "seed": 3}}, "recipe with seed; expected .*seeds. beside"),
        ({"learning_rates": [-1.0]}, "expected a positive number; correct it in the file$"),
        ({"search_ranks": "few"}, "'few'"),
        ({"name": "../x"}, r"the name '\.\./x'"),
        ({"seeds": [2**32]}, "<= 4294967295"),
        ({"learning_rates": [0.1, 0.1000000001]}, "values that differ in 6 digits"),
        ({"learning_rates": [0.1, float("inf")]}, "expected a finite number"),
        ({"basis": ["svd", "prefix"], "methods": {"x": TRAINED}}, "x: rescale trained with basis"),
        ({"search_ranks": "2,4", "ranks": "1,4", "methods": {"x": GRID}}, "x: .*rank 2"),
        ({"methods": {"x": LORA, "y": {**LORA, "basis": ["svd"]}}}, "x and y train the same"),
        ({"methods": {"x": LORA, "y": {**TRAINED, "label": "x"}}}, "methods with the label x"),
        ({"seed": [1]}, "unknown field `seed`; did you mean seeds"),
        ({"methods": {"x": {**LORA, "learning_rate": 1}}}, "did you mean learning_rates"),
        ({"zzz": 1}, "unknown field `zzz`; give some of name, question, base, recipe, tasks, "),
        ({"task": {}}, r"unknown field `task`; did you mean tasks\?"),
        (
            {"methods": {"x": LORA, "y": {**LORA, "limit": 1}}},
            r"`limit` \(at methods\.y\); give some of learning_rates, .*, recipe, label, family",
        ),
        (
            {"tasks": {"t": {"task": "a", "recipe": {}, "validation": {"limits": 1}}}},
            r"`limits` \(at tasks\.t\.validation\); did you mean limit\?",
        ),
        (
            {"tasks": {"t": {"task": "a", "recipe": {}, "methods": {"x": {"seed": [1]}}}}},
            r"`seed` \(at tasks\.t\.methods\.x\); did you mean seeds\?",
        ),
        (
            {"methods": {"x": LORA, "y": {**LORA, "basis": ["svdd"]}}},
            r"\(at methods\.y\.basis\[0\]\); give some of auto, prefix, svd, energy",
        ),
        ({"tasks": {1: {}}}, "Expected `str`, got `int`"),
        ({"seeds": 2}, r"Expected a list, got `int` \(at seeds\)"),
        ({"primary": ["x", "y"]}, r"primary\[0\]\); write a list: primary: \[\[a, b\]\]"),
        ({"seeds": "2"}, r"Expected a list.*; write a list: seeds: \[a, b\]"),
        ({"basis": ["svdd"]}, "give some of auto, prefix, svd, energy"),
    ],
)
def test_a_wrong_file_is_one_clear_error(write, changes, message):
    with pytest.raises((RecipeError, RankError), match=message):
        load_study(write(**changes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fewshot_num": 3},
            "choice: options fewshot_num; expected some of address, .*num_fewshot",
        ),
        ({"limit": 3}, "options limit; expected"),  # `test` says it
        ({"data": "folder"}, "options data = 'folder': Expected"),
    ],
)
def test_options_of_an_evaluation_are_checked_before_it(write, content, options, message):
    task = {**content["tasks"]["choice"], "options": options}
    with pytest.raises(RecipeError, match=message):
        load_study(write(tasks={"choice": task}))


@pytest.mark.parametrize(
    "wrong", [{"num_fewshot": "three"}, {"workers": "two"}, {"metric": "acc"}, {"data": {"t": 5}}]
)
def test_an_option_of_a_wrong_type_is_refused(write, content, wrong):
    task = {**content["tasks"]["choice"], "options": wrong}
    [name] = wrong
    with pytest.raises(RecipeError, match=f"choice: options {name} = .*Expected"):
        load_study(write(tasks={"choice": task}))


@pytest.mark.parametrize(
    ("text", "message"),
    [("seeds: [1]\nseeds: [2]", "the key 'seeds' twice"), ("name: 2024-13-45", "not valid YAML")],
)
def test_a_file_that_is_not_what_it_seems_is_refused(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_study(path)


def test_a_family_takes_the_rates_that_its_plain_method_takes_from_another(write, content):
    longer = {"recipe": {"method": "lora", "steps": 4}}
    methods = {
        "lora": LORA,
        "long": {**longer, "learning_rates_of": "lora"},
        "each": {**longer, "family": True},
    }
    study = load_study(write(methods=methods))
    assert study.rates_from("choice", "each") == "lora"
    methods["each"]["learning_rates_of"] = "lora"  # a task says otherwise
    task = {**content["tasks"]["choice"], "methods": {"each": {"learning_rates": [0.5]}}}
    assert load_study(write(methods=methods, tasks={"choice": task})).rates_of(
        "choice", "each"
    ) == [0.5]


def test_methods_of_different_rank_are_refused(write):
    methods = {
        "a": {"recipe": {"method": "lora", "rank": 2}},
        "b": {"recipe": {"method": "lora", "rank": 4}},
    }
    with pytest.raises(RecipeError, match="one trained rank"):
        load_study(write(methods=methods))


def test_the_best_rate_and_whether_a_better_one_may_exist():
    assert best_rate({1e-3: 0.2, 2e-3: 0.4, 4e-3: 0.3}, "x") == (2e-3, False)
    assert best_rate({1e-3: 0.2, 2e-3: 0.4, 4e-3: 0.4}, "x") == (2e-3, False)  # ties: the smaller
    assert best_rate({1e-3: 0.2, 2e-3: 0.4, 4e-3: 0.5}, "x") == (4e-3, True)
    assert best_rate({1e-3: 0.2, 2e-3: 0.4, 4e-3: None}, "x") == (2e-3, False)
    with pytest.raises(RecipeError, match="no learning rate of x"):
        best_rate({1e-3: None}, "x")


def test_a_method_without_a_chosen_rate_is_one_clear_error(write):
    path = write()
    study = load_study(path)
    rates = {task: dict.fromkeys(study.methods, 0.1) for task in study.tasks}
    assert {a.method for a in chosen_adapters(study, path, rates)} == set(study.methods)
    last = list(study.methods)[-1]
    del rates[next(iter(rates))][last]
    with pytest.raises(RunFolderError, match=f"no learning rate of {last} on"):
        chosen_adapters(study, path, rates)


def test_the_study_of_the_how_to_is_one(tmp_path):
    page = REPOSITORY / "docs/howto/study.md"
    [block] = [block for block in blocks(page) if block.language == "yaml"]
    path = tmp_path / "study.yaml"
    path.write_text(block.text)
    plan = plan_study(load_study(path), path, tmp_path / "out")
    # 4 methods at 4 rates; 3 methods with 5 seeds, one with 3, and ranks 1, 2, 4, 8 of a family
    assert (plan.searches, plan.trainings) == ((0, 16), (0, 18 + 4 * 5))
    command = ["study", str(path), "--out", str(tmp_path / "out"), "--dry-run"]
    done = CliRunner().invoke(cli, command)
    assert "training left: not known before one is done\n" in done.output


def test_primary_comparisons_are_of_methods_and_dated_by_the_results(write):
    with pytest.raises(RecipeError, match="primary: a primary comparison of 'nobody'"):
        load_study(write(primary=[["lora", "nobody"]]))
    study = load_study(write(primary=[["lora", "matryoshka"]]))
    assert declared_in(study, {}).declared == BEFORE
    assert declared_in(study, {"results": {"choice": "results/choice"}}).declared == AFTER
    kept = {"pairs": [["lora", "matryoshka"]], "declared": BEFORE}
    state = {"primary": kept, "results": {"choice": "results/choice"}}
    assert declared_in(study, state).declared == BEFORE
    other = load_study(write(primary=[["lora", "*"]]))
    assert declared_in(other, state).declared == AFTER
    none = load_study(write())  # leaving it out later takes nothing back
    assert declared_in(none, state).pairs == [("lora", "matryoshka")]


def test_a_recipe_is_no_study():
    with pytest.raises(
        RecipeError, match=r"is a recipe, not a study; train it: `aurac train \S+ --o"
    ):
        load_study(built_in_recipes()["word_problems/lora"])
