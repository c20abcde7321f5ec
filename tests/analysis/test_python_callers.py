"""What Python callers give to an analysis: each form that is documented, else one clear error."""

from __future__ import annotations

import numpy as np
import pytest
from stats_draws import curves

import aurac.analysis
from aurac.analysis import Options, analyse
from aurac.errors import AuracError, CurveError, UsageError

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
