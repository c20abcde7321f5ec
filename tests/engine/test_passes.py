"""The prefix tree and the passes over it: every token once, every pair scored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurac.engine.passes import PrefixTree, make_subtree
from aurac.engine.tokens import ScoringLayout

sequences = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple), min_size=1, max_size=12
)


def prefixes(rows: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    return {row[:n] for row in rows for n in range(1, len(row) + 1)}


@given(sequences)
def test_tree_has_one_node_for_each_distinct_prefix(rows: list[tuple[int, ...]]) -> None:
    tree, row_of = PrefixTree.build(rows)
    assert tree.n_nodes == len(prefixes(rows))
    seen: dict[int, tuple[int, ...]] = {}
    for row, sequence in zip(row_of.tolist(), rows, strict=True):
        assert tuple(tree.rows[row].tolist()) == sequence
        for position in range(len(sequence)):
            node, prefix = tree.node(row, position), sequence[: position + 1]
            assert seen.setdefault(node, prefix) == prefix


@given(sequences)
def test_a_unit_sees_exactly_the_ancestors(rows: list[tuple[int, ...]]) -> None:
    tree, _ = PrefixTree.build(rows)
    subtree = make_subtree(tree, 0, len(tree.rows), 0)
    assert sorted(subtree.nodes.tolist()) == list(range(tree.n_nodes))
    prefix_of = {
        tree.node(i, p): tuple(row[: p + 1].tolist())
        for i, row in enumerate(tree.rows)
        for p in range(len(row))
    }
    own = [prefix_of[n] for n in subtree.nodes.tolist()]
    for i, prefix in enumerate(own):
        assert subtree.positions[i] == len(prefix) - 1
        assert subtree.tokens[i] == prefix[-1]
        visible = [j <= i < subtree.end[j] for j in range(len(own))]
        assert visible == [prefix[: len(other)] == other for other in own]


def long_layout(*, fixed: bool) -> ScoringLayout:
    """Thirty documents of four choices behind a header of 300 tokens, its own or a common one."""
    rng = np.random.default_rng(0)
    common = rng.integers(5, 99, 300).tolist()
    encoded = []
    for _ in range(30):
        header = common if fixed else rng.integers(5, 99, 300).tolist()
        context = header + rng.integers(5, 99, 20).tolist()
        encoded += [(context, rng.integers(5, 99, 4).tolist()) for _ in range(4)]
    return ScoringLayout.build(encoded, 4096)


@pytest.mark.parametrize("fixed", [True, False])
def test_every_distinct_token_is_computed_once(fixed: bool) -> None:
    """A header of 300, 30 contexts of 20, 4 choices of 3 read tokens: 300 + 30 * 32 = 1260."""
    layout = long_layout(fixed=fixed)
    plan = layout.plan(512)
    computed = sum(len(step.tokens) for step in plan.steps)
    if fixed:
        assert computed <= 1260
    assert layout.tree.n_nodes <= computed <= 1.02 * layout.tree.n_nodes
    assert plan.cached == (300 if fixed else 0)
    assert max(len(step.tokens) for step in plan.steps) <= 512
    pairs = np.concatenate([step.pair for step in plan.steps])
    assert sorted(pairs.tolist()) == list(range(len(layout.pair_node)))
    assert layout.plan(512) is plan


@settings(max_examples=20, deadline=None)
@given(sequences)
def test_scored_pairs_lead_back_to_the_requests(rows: list[tuple[int, ...]]) -> None:
    encoded = [((7,), row) for row in rows]
    layout = ScoringLayout.build(encoded, 50)
    for row, index in zip(rows, layout.request_pairs, strict=True):
        assert layout.pair_token[index].tolist() == list(row)
