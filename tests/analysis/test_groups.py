"""Documents and ranks that curves share: joined, or refused with the reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aurac.analysis import paired_curves
from aurac.analysis.groups import group_of
from aurac.curves.curve import Curve
from aurac.errors import CurveError

CURVE = {"task": "t", "doc_ids": ("a", "b", "c", "d")}


A = [[0, 0, 1, 1], [0, 1, 1, 1]]


B = [[1, 0, 1, 1], [1, 1, 1, 0]]


def test_curves_are_joined_on_their_documents():
    a = Curve.from_outcomes([1, 2], A, **CURVE)
    b = Curve.from_outcomes([1, 2], B, **CURVE)
    order = [3, 1, 0, 2]
    ids = tuple(CURVE["doc_ids"][i] for i in order)
    mixed = Curve.from_outcomes([1, 2], np.array(B)[:, order], task="t", doc_ids=ids)
    straight, joined = paired_curves(a, b), paired_curves(a, mixed)
    assert straight == joined
    # Rank 1: document a gained. Rank 2: a gained, d lost.
    assert straight.gained == (1, 1)
    assert straight.lost == (0, 1)
    # log2 areas differ by (1/2 + 1/2), 0, 0, -1/2: mean 1/8.
    assert straight.estimate.value == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "u"}, "differ in task"),
        ({"metric": "acc,none"}, "differ in metric"),
        ({"prompts": "ffff"}, "differ in prompts"),
        ({"doc_ids": ("a", "b", "c", "e")}, "2 are in only one of them"),
        ({"doc_ids": None}, "only one of"),
        ({"doc_hashes": ("1", "2", "3", "5")}, "'d' has other doc_hashes"),
        ({"ranks": (1, 4)}, "has ranks 1, 2 and .* has 1, 4"),
        ({"ranks": (1, 2, 4)}, "support='common'"),
        ({"outcomes": None}, "no per-document outcomes to pair"),
        ({"missing": {8: "crashed"}}, r"no accuracy at rank 8 \(crashed\)"),
    ],
)
def test_pairs_that_are_refused(change, words):
    fields_a = {
        "ranks": (1, 2), "outcomes": A, "task": "t", "metric": "em,strict", "prompts": "0000",
        "doc_ids": ("a", "b", "c", "d"), "doc_hashes": ("1", "2", "3", "4"),
    }  # fmt: skip

    def made(fields: dict) -> Curve:
        fields = dict(fields)
        ranks, outcomes = fields.pop("ranks"), fields.pop("outcomes")
        if outcomes is None:
            fields = {k: v for k, v in fields.items() if not k.startswith("doc")}
            return Curve(ranks, (0.5, 0.75), **fields)
        return Curve.from_outcomes(ranks, (outcomes * 2)[: len(ranks)], **fields)

    with pytest.raises(CurveError, match=words):
        paired_curves(made(fields_a), made({**fields_a, **change}))


def test_common_support_is_the_shared_ranks():
    a = Curve.from_outcomes([1, 2, 4], [*A, A[0]])
    b = Curve.from_outcomes([1, 2, 8], [*B, B[0]])
    assert paired_curves(a, b, support="common").ranks == (1, 2)
    c = Curve.from_outcomes([2, 16], B)
    with pytest.raises(CurveError, match="share 1 rank;"):
        paired_curves(a, c, support="common")
    with pytest.raises(CurveError, match="support 'union'"):
        paired_curves(a, c, support="union")


def test_a_list_of_seeds_has_each_checkpoint_once_in_one_truncation():
    rows = [
        Curve.from_outcomes([1, 2], outcomes, adapter=f"a-{seed}", seed=seed, **CURVE)
        for seed, outcomes in ((1, A), (2, B))
    ]
    cut = [replace(c, basis="svd", rescale="keep") for c in rows]
    assert group_of(rows).seeds == 2
    with pytest.raises(CurveError, match="with a-1 twice; expected each checkpoint once"):
        group_of([*rows, rows[0]])
    prefix = [replace(c, basis="prefix", rescale="rule") for c in rows]
    said = r"cut svd · keep and prefix · rule; .*curve\.role == 'default'"
    with pytest.raises(CurveError, match=said):
        group_of([*cut, *prefix])
