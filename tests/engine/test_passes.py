"""The passes over a prefix tree: every token once, every pair scored."""

from __future__ import annotations

import numpy as np
import pytest

from aurac.engine.tokens import ScoringLayout


@pytest.mark.parametrize("fixed", [True, False])
def test_every_distinct_token_is_computed_once(fixed: bool) -> None:
    """Thirty documents of four choices behind a header, its own or a common one.

    A header of 300, 30 contexts of 20, 4 choices of 3 read tokens: 300 + 30 * 32 = 1260.
    """
    rng = np.random.default_rng(0)
    common, encoded = rng.integers(5, 99, 300).tolist(), []
    for _ in range(30):
        header = common if fixed else rng.integers(5, 99, 300).tolist()
        context = header + rng.integers(5, 99, 20).tolist()
        encoded += [(context, rng.integers(5, 99, 4).tolist()) for _ in range(4)]
    layout = ScoringLayout.build(encoded, 4096)
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
