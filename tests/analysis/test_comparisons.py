"""The leader of a table, the candidates for the best, and the family that both rest on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aurac.analysis.rows import Options
from aurac.analysis.whole import analyse
from aurac.curves.curve import Curve
from aurac.errors import CurveError
from aurac.records.decisions import Declaration
from aurac.stats import holm

RANKS = (1, 2, 4)
N = 80


def curve(adapter: str, shift: float, seed: int, **labels: object) -> Curve:
    """Outcomes on documents that all curves of a task share; `shift` is on a latent scale."""
    hard = np.random.default_rng(0).standard_normal(N)
    noise = np.random.default_rng(seed + 1).standard_normal((len(RANKS), N))
    fields = {"task": "t", "basis": "prefix", "rescale": "rule", "role": "default", **labels}
    return Curve.from_outcomes(
        RANKS,
        (hard + 0.6 * noise + shift > 0).astype(float),
        adapter=adapter,
        doc_ids=tuple(f"d{i}" for i in range(N)),
        **fields,
    )


def svd(adapter: str, shift: float, seed: int, **labels: object) -> Curve:
    return curve(adapter, shift, seed, basis="svd", role="extra", **labels)


def test_the_leader_is_the_largest_row_whatever_its_truncation():
    rows = [curve("dylora", 1.4, 1), curve("lora", -1.0, 2), svd("lora", 1.5, 3)]
    result = analyse(rows)
    (best,) = result.best
    assert best.leader == "lora · svd · rule"
    assert best.compared == 3
    assert best.estimate.value == pytest.approx(rows[2].outcomes.mean(axis=1) @ [0.25, 0.5, 0.25])
    # dylora was compared with lora's default truncation alone, so nothing rules it out.
    assert best.candidates == ("lora · svd · rule", "dylora")
    assert best.untested == ("dylora",)
    said = "Of these, not tested against lora · svd · rule: dylora; two adapters are compared in "
    assert f"{said}one truncation each." in best.sentences
    assert best.sentences[0].startswith("lora · svd · rule has the largest AURAC on t, ")


def test_a_row_that_no_pair_compares_with_the_leader_is_ruled_out_by_its_bound():
    rows = [curve("dylora", 0.5, 1), curve("lora", -1.0, 2), svd("lora", 1.5, 3)]
    (best,) = analyse(rows).best
    gap = (rows[2].outcomes - rows[0].outcomes).T @ [0.25, 0.5, 0.25]
    # Both other rows hold together at 95 %: each at 97.5 %, two-sided.
    low = stats.ttest_1samp(gap, 0).confidence_interval(0.975).low
    assert low > 0.1  # so that a wider interval for few gains or losses does not matter
    assert (best.leader, best.candidates) == ("lora · svd · rule", ("lora · svd · rule",))
    assert best.sure == pytest.approx(0.9)  # either of two statements may err
    sure = "90 % confidence: 5 % error each for tests, bounds of this task's untested rows"
    assert best.sentences[1] == f"It is the best of them ({sure})."
    assert best.bounded == ("dylora",)  # lora itself is shown to be worse by a test


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_difference_larger_than_the_scores_leave_room_for_is_no_bound(share):
    """Twelve documents: what is detected is more than a score of 10 % can lose, or 90 % gain."""
    scores = np.zeros((2, 12))
    scores[:, : round(12 * share)] = 1
    scores[1] = np.roll(scores[0], 1)
    a, b = (
        Curve.from_outcomes((1, 2), np.tile(row, (2, 1)), adapter=name, task="t")
        for name, row in zip("ab", scores, strict=True)
    )
    (pair,) = analyse([a, b]).pairs
    assert pair.too_small == (share != 0.5)
    assert (pair.detectable is None) == pair.too_small
    assert ("The run is too small to tell" in pair.sentence) == pair.too_small


def test_pairs_of_adapters_and_of_truncations_are_one_family():
    rows = [curve("a", 0.3, 1), curve("b", 0.0, 2), svd("a", 0.5, 3)]
    result = analyse(rows)
    every = [*result.pairs, *result.variants]
    assert [(row.a, row.b) for row in every] == [
        ("a", "b"),
        ("a · prefix · rule", "a · svd · rule"),
    ]
    assert [row.p_holm for row in every] == holm([row.p for row in every])


def test_a_row_without_documents_can_lead_and_rules_nobody_out():
    a = curve("a", 0.0, 1)
    b = Curve(RANKS, (0.9, 0.95, 0.99), adapter="b", task="t")
    (best,) = analyse([a, b], Options(strict=False)).best
    assert (best.leader, best.candidates, best.within) == ("b", ("b", "a"), None)
    assert best.estimate.low is None
    assert best.sentences[0].endswith(" % (no interval for the largest of 2).")


def test_means_alone_are_named_without_a_confidence():
    a, b = (Curve(RANKS, y, adapter=n, task="t") for n, y in (("a", (0.3,) * 3), ("b", (0.4,) * 3)))
    (best,) = analyse([a, b]).best
    assert best.sentences == (
        "b has the largest AURAC on t, 40.0 % (no interval for the largest of 2).",
        "The best may be any of b, a.",
        "Of these, not tested against b: a.",
    )


def test_equal_areas_share_the_first_place():
    a = curve("a", 0.2, 1)
    (best,) = analyse([a, replace(a, adapter="b"), curve("c", 0.1, 2)]).best
    assert best.sentences[0].startswith("a and b share the largest AURAC on t, ")


def test_a_row_over_other_ranks_is_named_and_not_compared():
    other = replace(svd("a", 2.0, 3).at((1, 2)), adapter="a")
    (best,) = analyse([curve("a", 0.2, 1), curve("b", 0.0, 2), other]).best
    assert best.leader in {"a", "b"}
    assert best.apart == ("a · svd · rule",)
    assert "Over other ranks, and so not compared: a · svd · rule." in best.sentences


TABLES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]), st.booleans(), st.sampled_from(["t", "u"]),
        st.floats(-1.5, 1.5), st.integers(0, 50),
    ),
    min_size=2, max_size=10, unique_by=lambda row: row[:3],
)  # fmt: skip


def made(table: list[tuple[str, bool, str, float, int]]) -> list[Curve]:
    return [
        (svd if other else curve)(adapter, shift, seed, task=task)
        for adapter, other, task, shift, seed in table
    ]


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_no_table_contradicts_itself(table):
    result = analyse(made(table), Options(strict=False))
    for best in result.best:
        rows = {row.label: row for row in result.scores if row.task == best.task}
        full = {f"{row.adapter} · {row.truncation}": label for label, row in rows.items()}
        top = max(row.log2.value for row in rows.values())
        assert rows[best.leader].log2.value == pytest.approx(top, abs=1e-12)
        assert best.candidates[0] == best.leader
        worse = set()
        for pair in (p for p in (*result.pairs, *result.variants) if p.task == best.task):
            sign = pair.verdict
            if sign:
                worse.add(pair.a if sign > 0 else pair.b)
        worse = {full.get(name, name) for name in worse}
        met = {full.get(name, name) for pair in (*result.pairs, *result.variants)
               if best.leader in {full.get(n, n) for n in (pair.a, pair.b)}
               and pair.task == best.task for name in (pair.a, pair.b)}  # fmt: skip
        left = set(rows) - worse - set(best.candidates)
        assert not left & met
        assert best.sure == pytest.approx(0.9 if left else 0.95)
        assert not worse & set(best.candidates)
        assert best.leader not in worse


def plain(result) -> dict:
    """Everything that an analysis says, whatever the order of its rows and the sign of a pair."""
    found: dict = {}
    for row in result.scores:
        found[row.label, row.task] = (row.log2.value, row.log2.low, row.log2.high, row.other)
    for pair in (*result.pairs, *result.variants):
        value = pair.estimate.value
        name = tuple(sorted((pair.a, pair.b)))
        sign = 1 if name == (pair.a, pair.b) else -1
        found[("pair", *name, pair.task)] = (sign * value, pair.p, pair.p_holm, pair.detectable)
    for row in result.aggregates:
        name = tuple(sorted(filter(None, (row.a, row.b))))
        sign = 1 if row.b is None or name == (row.a, row.b) else -1
        value = row.estimate and sign * row.estimate.value
        found[("all", *name)] = (value, row.estimate and row.estimate.se)
    for row in result.best:
        found["best", row.task] = (row.estimate.value, row.estimate.low, row.within)
        found["who", row.task] = (row.leader, row.candidates, row.compared)
    return found


def same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for key, values in one.items():
        for x, y in zip(values, other[key], strict=True):
            assert x == (pytest.approx(y, abs=1e-9) if isinstance(y, float) else y), key


@settings(max_examples=40, deadline=None)
@given(TABLES.flatmap(lambda table: st.tuples(st.just(table), st.permutations(table))))
def test_the_order_of_rows_changes_nothing(tables):
    first, second = (plain(analyse(made(table), Options(strict=False))) for table in tables)
    same(first, second)


def test_the_order_of_seeds_and_documents_changes_nothing():
    table = [
        replace(curve(name, shift, 10 * at + seed), seed=seed)
        for at, (name, shift) in enumerate({"a": 0.3, "b": 0.0, "c": -0.4}.items())
        for seed in (1, 2, 3)
    ]
    mixed = [table[i] for i in (8, 1, 5, 0, 3, 7, 2, 6, 4)]
    order = np.random.default_rng(0).permutation(N)
    mixed[3] = mixed[3].in_order(order)
    same(plain(analyse(table)), plain(analyse(mixed)))


def test_another_order_on_one_task_keeps_the_pair_over_all_tasks():
    table = [("a", False, "t", 0.2, 1), ("b", False, "t", 0.0, 2),
             ("b", False, "u", 0.0, 3), ("a", False, "u", 0.3, 4)]  # fmt: skip
    result = analyse(made(table))
    assert [(row.a, row.b, row.task) for row in result.pairs] == [("a", "b", "t"), ("a", "b", "u")]
    (both,) = (row for row in result.aggregates if row.b)
    gaps = [row.estimate.value for row in result.pairs]
    assert both.estimate.value == pytest.approx(np.mean(gaps))


def test_declared_pairs_are_a_family_and_all_others_another():
    rows = [
        curve(name, shift, at)
        for at, (name, shift) in enumerate({"a": 0.4, "b": 0.1, "c": 0.0}.items())
    ]
    rows.append(svd("a", 0.8, 9))
    plain_rows = analyse(rows)
    declared = Declaration(pairs=[("b", "a"), ("a · svd", "b")])
    result = analyse(rows, Options(primary=declared))
    every = [*result.pairs, *result.variants]
    primary = [row for row in every if not row.exploratory]
    # Another truncation against another adapter is no pair otherwise: it is added.
    assert [(row.a, row.b) for row in primary] == [
        ("a", "b"), ("a · svd · rule", "b · prefix · rule"),
    ]  # fmt: skip
    assert [row.p_holm for row in primary] == holm([row.p for row in primary])
    others = [row for row in every if row.exploratory]
    assert [row.p_holm for row in others] == holm([row.p for row in others])
    assert "exploratory" in others[0].reading
    assert "This comparison is exploratory." in others[0].sentence
    assert all(row.exploratory is None for row in (*plain_rows.pairs, *plain_rows.variants))
    assert "exploratory" not in plain_rows.to_dict()["pairs"][0]
    (best,) = result.best
    assert best.sure == pytest.approx(0.9)  # either family may err
    assert result.to_dict()["primary"]["declared"] == "when the file was read"


def test_a_reference_is_compared_with_each_other_adapter():
    rows = [curve(name, 0.0, at) for at, name in enumerate("abc")]
    result = analyse(rows, Options(primary=Declaration(pairs=[("b", "*")])))
    assert {(row.a, row.b): row.exploratory for row in result.pairs} == {
        ("a", "b"): False, ("a", "c"): True, ("b", "c"): False,
    }  # fmt: skip


def test_an_adapter_is_its_default_truncation_of_each_task():
    rows = [curve("a", 0.2, 1), curve("b", 0, 2)]
    rows += [replace(row, task="u") for row in (svd("a", 0.2, 3), curve("b", 0, 4))]
    result = analyse(rows, Options(primary=Declaration(pairs=[("a", "b")])))
    told = [(row.task, row.exploratory) for row in result.pairs]
    assert told == [(rows[0].task, False), ("u", False)]


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("a", "nobody"), "a primary comparison of 'nobody'; expected one of a, b"),
        (("a", "a"), "with itself"),
        (("a", "b · svd"), r"'b · svd'; expected one of a, b, a \(prefix\), a \(SVD, rule\)"),
    ],
)
def test_names_of_a_declaration_that_nobody_has_are_refused(pair, said):
    with pytest.raises(CurveError, match=said):
        analyse(
            [curve("a", 0, 1), curve("b", 0, 2), svd("a", 0, 3)],
            Options(primary=Declaration(pairs=[pair])),
        )
