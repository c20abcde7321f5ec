"""The whole analysis: tables in, JSON out, seeds, variants, aggregates, and every refusal."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pkgutil
import types

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import aurac.analysis
import aurac.stats
from aurac.analysis import non_inferior_rank, paired_curves
from aurac.analysis.groups import gather
from aurac.analysis.rows import Options
from aurac.analysis.sentences import depends_sentence
from aurac.analysis.whole import analyse
from aurac.curves.area import quadrature_weights
from aurac.curves.curve import Curve
from aurac.errors import AuracError, CurveError
from aurac.stats import holm

RANKS = (1, 2, 4, 8)


@pytest.mark.parametrize("package", [aurac, aurac.analysis, aurac.stats])
def test_a_public_name_is_no_module_once_all_modules_are_loaded(package):
    """A module of the same name would take its place."""
    for module in pkgutil.iter_modules(package.__path__):
        if package is not aurac and not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    taken = [n for n in package.__all__ if isinstance(getattr(package, n), types.ModuleType)]
    assert taken == []


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def outcomes(seed: int, shift: float = 0.0, n: int = 150) -> np.ndarray:
    hard = rng(99).standard_normal(n)
    noise = rng(seed).standard_normal((len(RANKS), n))
    return (0.8 * hard + 0.6 * noise + shift + 0.1 * np.arange(4)[:, None] > 0).astype(float)


def curve(draw: int, shift: float = 0.0, **labels: object) -> Curve:
    fields = {"task": "t", "doc_ids": tuple(map(str, range(150))), **labels}
    return Curve.from_outcomes(RANKS, outcomes(draw, shift), **fields)


def strict(content: dict) -> dict:
    return json.loads(json.dumps(content, allow_nan=False))


def test_the_json_of_the_command_line():
    result = analyse([curve(1, adapter="a"), curve(2, 0.3, adapter="b")], Options(margin=0.1))
    content = strict(result.to_dict())
    rows = {"scores", "pairs", "variants", "best", "aggregates", "recommended"}
    assert set(content) == {"schema", "axis", "level", *rows}
    score = content["scores"][0]
    names = [
        "adapter",
        "task",
        "ranks",
        "accuracy",
        "baseline",
        "n_docs",
        "seeds",
        "reason",
        "above_base",
    ]
    assert set(score) == {*names, "log2", "linear", "mean"}
    assert score["accuracy"] == pytest.approx(outcomes(1).mean(axis=1))
    assert set(score["log2"]) == set(score["linear"]) == {"value", "se", "low", "high"}
    assert score["ranks"] == [1, 2, 4, 8]
    assert score["n_docs"] == 150
    areas = quadrature_weights(RANKS, "log2") @ outcomes(1)
    assert score["log2"]["se"] == pytest.approx(stats.sem(areas))
    (pair,) = content["pairs"]
    assert set(pair) == {
        "a", "b", "task", "axis", "ranks", "difference", "se", "low", "high", "p", "p_holm", "mde",
        "pairing", "reason",
    }  # fmt: skip
    assert (pair["a"], pair["b"], pair["axis"]) == ("a", "b", "log2")
    gap = quadrature_weights(RANKS, "log2") @ (outcomes(2, 0.3) - outcomes(1))
    assert pair["difference"] == pytest.approx(gap.mean())
    assert pair["p"] == pytest.approx(stats.ttest_1samp(gap, 0).pvalue, rel=0.1)
    assert pair["p_holm"] == pair["p"]
    assert content["recommended"][0] == {
        "adapter": "a",
        "task": "t",
        "rank": non_inferior_rank(curve(1), margin=0.1).rank,
        "margin": 0.1,
        "alpha": 0.05,
    }


def test_details_name_methods_gains_and_losses():
    result = analyse([curve(1, adapter="a"), curve(2, 0.3, adapter="b")], Options(margin=0.1))
    content = strict(result.to_dict(details=True))
    assert content["scores"][0]["method"].startswith("t with 149 df")
    gained = (outcomes(2, 0.3) > outcomes(1)).sum(axis=1).tolist()
    assert content["pairs"][0]["gained"] == gained
    assert "conditional on these checkpoints" in content["pairs"][0]["sentence"]
    assert content["recommended"][0]["steps"][0]["rank"] == 8
    assert analyse([curve(1, adapter="a")]).recommended == ()  # no margin, no recommended rank


def test_analysis_equals_the_single_calls():
    a, b = curve(1, adapter="a"), curve(2, 0.3, adapter="b")
    pair = analyse([a, b], Options(axis="linear")).pairs[0]
    alone = paired_curves(a, b, axis="linear")
    assert (pair.estimate, pair.p) == (alone.estimate, alone.p)
    assert (pair.gained, pair.lost) == (alone.gained, alone.lost)


def test_holm_runs_across_pairs_and_tasks():
    curves = [
        curve(s + 10 * i, 0.1 * s, adapter=f"a{s}", task=t)
        for i, t in enumerate("xy")
        for s in range(3)
    ]
    pairs = analyse(curves).pairs
    assert len(pairs) == 6
    smallest = min(pairs, key=lambda row: row.p)
    assert smallest.p_holm == pytest.approx(min(1.0, 6 * smallest.p))


def test_seeds_form_a_recipe_group():
    curves = [curve(s, adapter="a", seed=s) for s in range(3)]
    curves += [curve(10 + s, 0.3, adapter="b", seed=s) for s in range(3)]
    result = analyse(curves)
    assert [row.seeds for row in result.scores] == [3, 3]
    (pair,) = result.pairs
    assert not pair.conditional
    assert pair.gained is None  # which seed would it be of?
    assert "for another draw of documents and training seeds" in pair.sentence
    assert result.scores[0].mean == pytest.approx(np.mean([outcomes(s).mean() for s in range(3)]))


def test_groups_named_by_the_user():
    curves = [curve(s, adapter=f"a{s}") for s in range(2)] + [curve(5, adapter="b")]
    result = analyse(curves, groups={"group": ["a0", "a1"]})
    assert [(row.adapter, row.seeds) for row in result.scores] == [("group", 2), ("b", 1)]
    with pytest.raises(CurveError, match="group group names 'c'"):
        gather(curves, {"group": ["c"]})
    with pytest.raises(CurveError, match="in two groups"):
        gather(curves, {"x": ["a0"], "y": ["a0"]})


def test_variants_are_compared_within_their_adapter():
    curves = [
        curve(1, 0.5, adapter="m", basis="prefix", rescale="trained"),
        curve(2, 0.0, adapter="m", basis="prefix", rescale="rule"),
        curve(3, 0.2, adapter="lora", basis="prefix", rescale="rule"),
    ]
    result = analyse(curves)
    assert [(row.label, row.other) for row in result.scores] == [
        ("m", False),
        ("m · prefix · rule", True),
        ("lora", False),
    ]
    (pair,) = result.pairs
    assert (pair.a, pair.b) == ("m", "lora")
    (variant,) = result.variants
    assert (variant.a, variant.b) == ("m · prefix · trained", "m · prefix · rule")
    # lora is worse than m under `trained` and better than it under `rule`.
    own, other = pair.truncations.values()
    assert list(pair.truncations) == [
        "prefix · trained against prefix · rule",
        "prefix · rule against prefix · rule",
    ]
    assert (own.verdict, own.p, own.p_holm) == (pair.verdict, pair.p, pair.p_holm)
    alone = paired_curves(curves[1], curves[2])
    assert (own.verdict, other.verdict, other.p) == (-1, 1, alone.p)
    # In the place of the pair's own test beside that of the variant: Holm over these two.
    assert other.p_holm == holm([alone.p, variant.p])[0]
    assert pair.to_dict(details=True)["truncations"][list(pair.truncations)[1]] == {
        "verdict": 1,
        "p": other.p,
        "p_holm": other.p_holm,
    }
    assert pair.survives is False
    depends = (
        " It depends on the truncation: of 1 other{}, lora is better under 1. Each is adjusted "
    )
    depends += "as if it were the primary comparison; that several were tried is not allowed for "
    depends += "(truncations in analysis.json)."
    assert depends_sentence(pair) == depends.format("")
    assert depends_sentence(pair, variant) == depends.format(" on t")
    assert depends_sentence(variant) == ""
    other = "m · prefix · rule against lora · prefix · rule: lora · prefix · rule is better."
    assert pair.sentence.endswith(f" The verdict depends on the truncation: {other}")


def test_which_truncation_to_use_is_the_largest_with_what_was_shown_of_it():
    curves = [
        curve(1, 0.0, adapter="m", basis="prefix", rescale="rule"),
        curve(2, 0.9, adapter="m", basis="svd", rescale="keep"),
        curve(2, 0.9, adapter="m", basis="svd", rescale="fit"),
        curve(3, 0.0, adapter="alone", basis="prefix", rescale="rule"),
    ]
    result = analyse(curves)
    (advice,) = result.advice
    assert (advice.adapter, advice.use) == ("m", "svd · keep")  # the first of two that are equal
    assert advice.beats == ("prefix · rule",)
    assert advice.open == ("svd · fit",)
    assert advice.value == result.scores[1].log2.value
    assert advice.sentence.startswith("m on t: svd · keep and svd · fit share the largest AURAC, ")
    assert advice.sentence.endswith(" %; svd · keep is better than prefix · rule.")
    assert analyse(curves[:1]).advice == ()


def test_the_verdicts_of_other_truncations_are_adjusted_like_the_pairs_own():
    """With three adapters one pair's p is tripled; so is that of its other truncations."""
    curves = [
        curve(1, 0.0, adapter="a", basis="prefix", rescale="rule"),
        curve(2, 0.2, adapter="b", basis="prefix", rescale="rule"),
        curve(2, 0.2, adapter="b", basis="svd", rescale="keep"),
        curve(3, 0.02, adapter="c", basis="prefix", rescale="rule"),
    ]
    pair = next(p for p in analyse(curves).pairs if {p.a, p.b} == {"a", "b"})
    assert pair.p < 0.05 < pair.p_holm  # not shown, though it would be if it stood alone
    assert {test.verdict for test in pair.truncations.values()} == {0}


def test_aggregates_over_tasks():
    curves = [
        curve(s + 10 * i, 0.1 * s, adapter=f"a{s}", task=t)
        for i, t in enumerate("xy")
        for s in range(2)
    ]
    rows = analyse(curves).aggregates
    assert [(r.a, r.b) for r in rows] == [("a0", None), ("a1", None), ("a0", "a1")]
    weights = quadrature_weights(RANKS, "log2")
    se = [stats.sem(weights @ outcomes(10 * i)) for i in range(2)]
    assert rows[0].estimate.se == pytest.approx(math.hypot(*se) / 2)
    incomplete = analyse(curves[:-1]).aggregates
    assert incomplete[1].estimate is None
    assert "no result on y" in incomplete[1].reason
    assert incomplete[2].estimate is None


def test_documents_count_once_in_aggregates():
    """A group beside its member, and a second metric: only the group and the other task count."""

    def on(task, hashes, seed):
        scores = curve(seed, 0.1, adapter="a", task=task)
        return dataclasses.replace(scores, doc_hashes=hashes)

    n = curve(0, 0.1).n_docs
    first, second = ([f"{name}{i}" for i in range(n)] for name in "mn")
    pooled = Curve.from_outcomes(
        RANKS,
        np.concatenate([outcomes(1), outcomes(2)], axis=1),
        adapter="a",
        task="group",
        doc_hashes=(*first, *second),
    )
    curves = [on("member", first, 1), pooled, on("group:other", (*second,), 2)]
    assert analyse(curves).aggregates == ()
    [row] = analyse([*curves, on("else", [f"x{i}" for i in range(n)], 3)]).aggregates
    assert row.tasks == ("group", "else")


def test_point_values_have_no_test_and_say_so():
    points = [
        Curve((1, 2), (0.1, 0.2), adapter="a", task="t"),
        Curve((1, 2), (0.2, 0.3), adapter="b", task="t"),
    ]
    result = analyse(points, Options(margin=0.1))
    content = strict(result.to_dict())
    assert content["pairs"][0]["difference"] == pytest.approx(0.1)
    assert content["pairs"][0]["p"] is None
    assert content["recommended"][0]["rank"] is None
    assert "point value" in result.pairs[0].sentence
    assert "no rank can be tested" in result.recommended[0].sentence


def test_a_missing_rank_gives_none_with_its_reason():
    broken = Curve.from_outcomes(
        RANKS[:3], outcomes(1)[:3], adapter="a", task="t", missing={8: "out of memory"},
        doc_ids=tuple(map(str, range(150))),
    )  # fmt: skip
    result = analyse([broken, curve(2, adapter="b")])
    assert result.scores[0].log2 is None
    assert result.scores[0].reason == "no accuracy at rank 8: out of memory"
    assert strict(result.to_dict())["scores"][0]["log2"]["value"] is None
    assert result.pairs[0].estimate is None
    assert "not compared" in result.pairs[0].sentence
    common = analyse([broken, curve(2, adapter="b")], Options(support="common"))
    assert common.pairs[0].ranks == (1, 2, 4)


def test_a_rank_that_failed_for_one_seed_costs_the_area_of_that_recipe_alone():
    broken = dataclasses.replace(curve(2).at([1, 2, 8]), missing={4: "out of memory"})
    seeds = [curve(1), broken, curve(3)]
    named = [dataclasses.replace(c, adapter=f"a{i}") for i, c in enumerate(seeds)]
    result = analyse([*named, curve(4, adapter="b")], groups={"a": ["a0", "a1", "a2"]})
    a, b = result.scores
    assert a.reason == "no accuracy at rank 4: out of memory"
    assert a.ranks == (1, 2, 8)
    means = np.mean([outcomes(s) for s in (1, 2, 3)], axis=(0, 2))
    assert a.accuracy == pytest.approx(means[[0, 1, 3]])
    assert b.log2.value == pytest.approx(curve(4).accuracy @ quadrature_weights(RANKS, "log2"))
    assert result.pairs[0].estimate is None


@pytest.mark.parametrize(
    ("curves", "options", "words"),
    [
        ([], {}, "no curves"),
        ([curve(1, adapter="a"), curve(2, adapter="a")], {}, "appears 2 times"),
        ([curve(1, adapter="a")], {"axis": "log"}, "axis 'log'"),
        ([curve(1, adapter="a")], {"weigh": "size"}, "weighed by 'size'"),
        ([curve(1, adapter="a")], {"margin": 2}, "margin=2"),
        ([curve(1, adapter="a"), curve(2, adapter="b").at([1, 2])], {}, "the same ranks"),
        (
            [curve(1, adapter="a", seed=1), curve(1, adapter="a", seed=2).at([1, 2])],
            {},
            "seeds of a have ranks",
        ),
        (3, {}, "an int"),
    ],
)
def test_refusals(curves, options, words):
    with pytest.raises(AuracError, match=words):
        analyse(curves, Options(**options))


def frame(adapters: dict[str, np.ndarray], **columns: object) -> pd.DataFrame:
    rows = [
        (name, "t", r, f"d{d}", matrix[k, d])
        for name, matrix in adapters.items()
        for k, r in enumerate(RANKS)
        for d in range(matrix.shape[1])
    ]
    made = pd.DataFrame(rows, columns=["adapter", "task", "rank", "doc_id", "score"])
    return made.assign(**columns)


def test_a_dataframe_is_the_same_as_its_curves():
    table = frame({"a": outcomes(1), "b": outcomes(2, 0.3)})
    direct = analyse([curve(1, adapter="a"), curve(2, 0.3, adapter="b")]).to_dict()
    for given in (table, table.sample(frac=1, random_state=3)):
        content = analyse(given).to_dict()
        content["scores"].sort(key=lambda row: row["adapter"])
        if content["pairs"][0]["a"] == "b":
            continue  # first in the shuffled table: the sign is the other way round
        assert content["scores"][0]["log2"] == pytest.approx(direct["scores"][0]["log2"])
        assert content["pairs"][0]["p"] == pytest.approx(direct["pairs"][0]["p"])


def test_duplicated_runs_are_no_more_data():
    one = analyse(frame({"a": outcomes(1)}))
    two = analyse(frame({"a": outcomes(1), "copy": outcomes(1)}))
    assert two.scores[0].log2 == two.scores[1].log2 == one.scores[0].log2
    assert two.pairs[0].p == 1.0


def test_a_group_may_not_have_the_name_of_another_adapter():
    rng = np.random.default_rng(2)
    scores = (rng.random((3, 2, 50)) < 0.5).astype(float)
    made = [
        Curve.from_outcomes((1, 2), one, adapter=name, task="t")
        for name, one in zip(("lora", "lora-1", "lora-2"), scores, strict=True)
    ]
    with pytest.raises(CurveError, match="group lora has the name of an adapter"):
        analyse(made, groups={"lora": ["lora-1", "lora-2"]})


def test_the_advice_follows_the_sign_of_the_difference():
    """Prefix is better on the ranks that both have, svd has the larger area on its own."""
    rng = np.random.default_rng(3)
    p = np.array([0.1, 0.3, 0.6, 0.7])[:, None]
    prefix = (rng.random((4, 400)) < p).astype(float)
    svd = prefix[2:] * (rng.random((2, 400)) < 0.8)
    ids = tuple(map(str, range(400)))
    same = {"adapter": "x", "task": "t", "doc_ids": ids}
    made = [
        Curve.from_outcomes((1, 2, 4, 8), prefix, basis="prefix", rescale="rule", **same),
        Curve.from_outcomes((4, 8), svd, basis="svd", rescale="keep", **same),
    ]
    (advice,) = analyse(made, Options(support="common")).advice
    assert advice.beats == ()
