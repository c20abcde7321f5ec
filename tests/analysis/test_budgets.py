"""Comparisons over a budget: adapters of other modules and ranks, at the sizes that both have."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.integrate import trapezoid
from score_tables import run
from stats_draws import rng

from aurac.analysis import paired_curves
from aurac.analysis.equivalence import non_inferior
from aurac.analysis.rows import Options
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.errors import AuracError, CurveError
from aurac.stats import difference

N = 240


def adapter(name: str, ranks: tuple[int, ...], each: int, shift: float = 0.0, **labels) -> Curve:
    """Outcomes on the same documents; one rank has `each` parameters."""
    draw = rng(sum(map(ord, name)))
    hard = rng(7).standard_normal(N)
    noise = draw.standard_normal((len(ranks), N))
    right = hard + 0.4 * noise + shift + 0.2 * np.log2(ranks)[:, None] > 0
    return Curve.from_outcomes(
        ranks,
        right.astype(float),
        adapter=name,
        task="t",
        doc_ids=tuple(f"d{i}" for i in range(N)),
        parameters={rank: each * rank for rank in ranks},
        **labels,
    )


ATTENTION = adapter("attention", (1, 2, 4, 8, 16), 100)
LINEAR = adapter("linear", (1, 2, 3), 400, 0.2)  # 400, 800 and 1200, which attention lacks


def areas(curve: Curve, *amounts: int) -> np.ndarray:
    """(n,) areas of the documents' own points at these amounts, over log2."""
    ranks = {amount: rank for rank, amount in curve.parameters.items()}
    rows = np.stack([curve.outcomes[curve.ranks.index(ranks[a])] for a in amounts])
    return trapezoid(rows, np.log2(amounts), axis=0) / np.ptp(np.log2(amounts))


def test_a_pair_is_the_difference_of_the_documents_areas_at_the_shared_amounts():
    row = paired_curves(ATTENTION, LINEAR, axis="parameters")
    expected = difference(areas(ATTENTION, 400, 800), areas(LINEAR, 400, 800))
    ours = row.estimate
    assert row.span == (400, 800)
    assert [ours.value, ours.low, ours.high] == pytest.approx(
        [expected.estimate.value, expected.estimate.low, expected.estimate.high], abs=1e-9
    )
    assert row.to_dict()["amounts"] == [400, 800]
    assert "difference of AURAC over parameters, 400 and 800." in row.sentence
    with pytest.raises(CurveError, match="the same ranks"):
        paired_curves(ATTENTION, LINEAR)


def test_margin_tests_and_the_leader_are_over_the_amounts_of_all():
    test = non_inferior(LINEAR, ATTENTION, margin=0.05, axis="parameters")
    assert test.to_dict()["to"] == 800
    assert "AURAC over parameters linear − attention is" in test.sentence
    third = adapter("third", (2, 4, 5), 200, -0.3)
    result = analyse([ATTENTION, LINEAR, third], Options(axis="parameters"))
    own = {c.adapter: areas(c, 400, 800).mean() for c in (ATTENTION, LINEAR, third)}
    assert result.best[0].leader == max(own, key=own.get)
    assert result.best[0].estimate.value == pytest.approx(max(own.values()), abs=1e-9)
    leads = "has the largest AURAC over parameters on t (400 and 800, which all have), "
    assert leads in result.best[0].sentences[0]
    row = next(row for row in result.scores if row.adapter == "third")
    assert row.to_dict()["aurac_parameters"]["to"] == 1000
    with pytest.raises(KeyError):  # a row over parameters has no area over bytes
        row.estimate("bytes")


def test_points_and_seeds_have_areas_over_a_budget_too():
    a, b = (Curve(c.ranks, c.accuracy, adapter=c.adapter, task="t", parameters=c.parameters)
            for c in (ATTENTION, LINEAR))  # fmt: skip
    [pair] = analyse([a, b], Options(axis="parameters")).pairs
    gap = areas(LINEAR, 400, 800).mean() - areas(ATTENTION, 400, 800).mean()
    assert pair.value == pytest.approx(gap, abs=1e-9)
    seeds = [adapter("energy", (1, 4), each, seed=seed) for seed, each in ((1, 100), (2, 98))]
    [row] = analyse(seeds, Options(axis="parameters")).scores  # what is spent may differ by seed
    assert row.span == (98, 392)  # the smaller of each
    both = np.mean([areas(seed, *seed.parameters.values()).mean() for seed in seeds])
    assert row.budget.value == pytest.approx(both, abs=1e-9)


def test_identical_outcomes_at_more_ranks_are_no_difference():
    fewer = ATTENTION.at((1, 4, 16))
    row = paired_curves(ATTENTION, fewer, axis="parameters")
    assert row.span == (100, 400, 1600)
    assert row.estimate.value == 0
    assert row.p == 1


def test_adapters_without_common_amounts_are_refused_with_what_each_has():
    other = adapter("other", (1, 2, 4), 300)
    with pytest.raises(CurveError) as refused:
        analyse([ATTENTION, other], Options(axis="parameters"))
    assert "attention on t 100, 200, 400, 800, 1,600; other on t 300, 600, 1,200" in str(
        refused.value
    )
    result = analyse([ATTENTION, other], Options(axis="parameters", strict=False))
    assert "too few amounts of parameters in common" in result.pairs[0].reason
    assert result.best[0].leader is None


def test_a_missing_rank_has_no_area_and_no_pair():
    gone = Curve((1, 4), (0.1, 0.3), adapter="gone", task="t", missing={2: "out of memory"},
                 parameters={1: 100, 4: 400})  # fmt: skip
    result = analyse([gone, ATTENTION], Options(axis="parameters", strict=False))
    assert result.scores[0].budget is None
    assert "no accuracy at rank 2" in result.pairs[0].reason


def table(folder, *, without: str = ""):
    rows = ["adapter,task,rank,doc_id,score,parameters"]
    for curve in (ATTENTION, LINEAR):
        for rank, scores in zip(curve.ranks, curve.outcomes, strict=True):
            amount = "" if curve.adapter == without else curve.parameters[rank]
            ids = zip(curve.doc_ids, scores, strict=True)
            rows += [f"{curve.adapter},t,{rank},{doc},{s:g},{amount}" for doc, s in ids]
    path = folder / "outcomes.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = table(tmp_path)
    text = run("score", path, "--axis", "parameters")
    assert "AURAC over parameters [95 %]" in text
    assert "400 and 800" in text
    content = json.loads(run("score", path, "--axis", "parameters", "--json", "--details"))
    assert content["axis"] == "parameters"
    assert content["pairs"][0]["difference"] == pytest.approx(
        paired_curves(ATTENTION, LINEAR, axis="parameters").estimate.value
    )
    assert content["scores"][0]["aurac_parameters"]["from"] == 100
    with pytest.raises(AuracError, match="linear on t says nothing of its parameters at rank 1"):
        run("score", table(tmp_path, without="linear"), "--axis", "parameters")
    assert "expected the same ranks" in run("score", path)


def test_a_rank_with_two_sizes_is_refused(tmp_path):
    path = table(tmp_path)
    path.write_text(path.read_text().replace(",100\n", ",101\n", 1))
    with pytest.raises(AuracError, match="attention on t has 100 and 101 parameters at rank 1"):
        run("score", path)
