"""What Python callers give to an analysis: each form that is documented, else one clear error."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stats_draws import curves

import aurac.analysis
from aurac.analysis import Options, analyse
from aurac.errors import AuracError, CurveError, UsageError

STUDY = Path(__file__).parents[2] / "reports/study/results/word_problems"
MADE = curves(np.random.default_rng(3), "abc", n=60)


@pytest.mark.parametrize(
    "given", ["a,c", ("a", "c"), ["a,c"], [("a", "c")], (("a", "c"),), np.array([["a", "c"]])]
)
def test_primary_comparisons_are_pairs_or_text(given):
    result = analyse(MADE, Options(primary=given))
    assert result.primary.pairs == [("a", "c")]
    assert "a and c; declared when the analysis was asked for." in result.primary.sentence
    apart = {(row.a, row.b): row.exploratory for row in result.pairs}
    assert apart == {("a", "b"): True, ("a", "c"): False, ("b", "c"): True}


@pytest.mark.parametrize("given", [3, "a", [["a"]], {"a": "c"}, [None], [("a", "d")], [("a", 3)]])
def test_what_names_no_pair_is_refused(given):
    with pytest.raises(CurveError, match=r"^(primary=|a primary comparison of ).*; expected "):
        analyse(MADE, Options(primary=given))


def test_no_pair_is_no_declaration():
    for given in (None, (), []):
        assert analyse(MADE, Options(primary=given)).primary is None


@pytest.mark.parametrize("given", ["bytes", ["bytes"], ("bytes", "bytes")])
def test_a_budget_is_a_text_or_several(given):
    assert [budget.axis for budget in analyse(MADE, budgets=given).budgets] == ["bytes"]


@pytest.mark.parametrize("given", ["flops", ["flops"], 3, ["bytes", "log2"], [["bytes"]]])
def test_another_axis_is_no_budget(given):
    with pytest.raises(UsageError, match=r"^axis .*; expected parameters or bytes$"):
        analyse(MADE, budgets=given)


@pytest.mark.parametrize("given", [{"x": "a"}, {"x": ["a"]}, {"x": ("a",)}])
def test_a_group_is_a_name_or_several(given):
    assert {row.adapter for row in analyse(MADE, groups=given).scores} == {"x", "b", "c"}


@pytest.mark.parametrize("given", ["x", 3, [("x", ["a"])], {"x": 3}, {"x": [3]}])
def test_other_groups_than_a_mapping_are_refused(given):
    with pytest.raises(UsageError, match=r"^groups=.*; expected a mapping to several, each a text"):
        analyse(MADE, groups=given)


def test_a_name_that_is_spelled_otherwise_is_suggested():
    with pytest.raises(AttributeError, match=r"'analyze'; did you mean analyse\?$"):
        _ = aurac.analysis.analyze


def test_a_kind_is_named_with_its_article():
    for given, words in ((3, "an int is no curve"), ({1, 2}, "a set is no curve")):
        with pytest.raises(AuracError, match=f"^{words}; "):
            aurac.score(given)


def seeds_of(recipe, start=1, **labels):
    """Three training seeds."""
    made = curves(np.random.default_rng(start), "abc", n=60, **labels)
    return [replace(c, adapter=f"{recipe}-seed{start + i}", seed=i) for i, c in enumerate(made)]


def test_a_claim_over_training_seeds_names_the_recipe():
    a, b = seeds_of("matryoshka-lr0.008"), seeds_of("lora-lr0.008", 4)
    for ask in (aurac.non_inferior, aurac.equivalent):
        test = ask(a, b, 0.2)
        assert (test.a, test.b) == ("matryoshka-lr0.008", "lora-lr0.008")
        assert "matryoshka-lr0.008 − lora-lr0.008:" in repr(test)
        assert "seed1" not in test.sentence
    row = aurac.analysis.paired_curves(a, b)
    assert (row.a, row.b) == ("matryoshka-lr0.008", "lora-lr0.008")
    assert aurac.analysis.non_inferior_rank(a, margin=0.2).adapter == "matryoshka-lr0.008"
    assert aurac.non_inferior(a, b[0], 0.2).b == "lora-lr0.008-seed4"
    assert aurac.non_inferior(MADE[:2], b, 0.2).a == "a + b"  # which share no part


def test_seeds_of_one_recipe_against_others_of_it_are_a_and_b():
    test = aurac.non_inferior(seeds_of("lora"), seeds_of("lora", 4), 0.2)
    assert (test.a, test.b) == ("a", "b")
    row = aurac.analysis.paired_curves(MADE[0], MADE[0])
    assert (row.a, row.b) == ("a", "b")


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (("svd", "keep", "default"), ("prefix", "rule", "published"), ["SVD", "prefix"]),
        (("prefix", "trained", "default"), ("svd", "keep", "extra"), ["with P", "SVD"]),
        (("svd", "keep", "extra"), ("prefix", "rule", "published"), ["SVD", "without P"]),
    ],
)
def test_truncations_of_one_adapter_are_named_as_in_tables(one, other, names):
    """The published truncation of Matryoshka is named beside the compared one, as by its label."""
    method = "matryoshka" if names[1] != "prefix" else "lora"
    first, second = (
        [replace(c, basis=basis, rescale=rescale, role=role, method=method) for c in seeds_of("m")]
        for basis, rescale, role in (one, other)
    )
    for a, b, name in ((first[0], second[0], "m-seed1"), (first, second, "m")):
        test, row = aurac.non_inferior(a, b, 0.2), aurac.analysis.paired_curves(a, b)
        assert [test.a, test.b] == [row.a, row.b] == [f"{name} ({cut})" for cut in names]
    assert [first[0].label, second[0].label] == [f"m-seed1 ({cut})" for cut in names]


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("lora", "lora-lr0.008-seed42"),
        ("matryoshka", r"matryoshka-lr0.008-seed42 \(with P\)"),
        ("lora (SVD)", r"lora-lr0.008-seed42 \(SVD\)"),
        ("matryoshka (without P)", r"matryoshka-lr0.008-seed42 \(without P\)"),
        ("matryoshka (SVD) on aurac_word_problems", r"matryoshka-lr0.008-seed42 \(SVD\)"),
    ],
)
def test_the_name_of_a_recipe_in_tables_is_several_seeds(name, seed):
    said = f"^{re.escape(name)} is 5 training seeds; expected one curve; run.scores has the mean"
    for task in (None, "aurac_word_problems"):
        with pytest.raises(CurveError, match=f"{said} over them; one of these is {seed}$"):
            aurac.score(STUDY, adapter=name, task=task)
    assert aurac.score(STUDY, adapter=seed.replace("\\", "")).n_docs


def test_a_message_lists_a_few_curves_and_what_is_left_to_name():
    for asked, words in (({}, "name adapter=, or take all"), ({"adapter": "xyz"}, "take all")):
        with pytest.raises(CurveError, match=f"and .* more; {words}: run.scores of") as refused:
            aurac.score(STUDY, **asked)
        assert len(str(refused.value)) < 500
    with pytest.raises(CurveError, match=r"; did you mean lora\?$"):
        aurac.score(STUDY, adapter="lor")
