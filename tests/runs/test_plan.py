"""The plan: which curves, which cells, in which order, and which cells are one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs_doubles import Task

from aurac.adapters import load_adapter
from aurac.adapters.cut import sweeps_of
from aurac.errors import UsageError
from aurac.runs.plan import coarse_levels, plan


@pytest.fixture(scope="module")
def loaded(adapters):
    return {name: load_adapter(folder) for name, folder in adapters.items()}


def test_cuts_are_curves_in_the_order_asked(loaded):
    ways = sweeps_of("lora", loaded["lora"], bases=("prefix", "svd"), rescales=("rule", "keep"))
    pairs = [(way.basis, way.rescale) for way in ways]
    assert pairs == [("prefix", "rule"), ("prefix", "keep"), ("svd", "keep")]
    unknown = replace(loaded["lora"], nesting=None)
    with pytest.raises(UsageError, match="which is not recorded"):
        sweeps_of("lora", unknown, bases=("prefix",), rescales=("trained",))


def cells_of(*ways, tasks=1):
    return plan(ways, [Task(f"t{k}") for k in range(tasks)], "settings")


def test_what_decides_an_outcome_decides_the_key(loaded):
    [way] = sweeps_of("dylora", loaded["dylora"])
    keys = {cell.key for cell in cells_of(way, tasks=2)}
    assert len(keys) == 2 * 4
    assert keys.isdisjoint(
        {cell.key for cell in plan([way], [Task("t0", scoring="x")], "settings")}
    )
    assert keys.isdisjoint({cell.key for cell in plan([way], [Task("t0")], "others")})
    assert keys >= {cell.key for cell in plan([way], [Task("t0", n=99)], "settings")}


def test_the_order_is_base_ends_middles(loaded):
    ways = [sweeps_of(name, loaded[name])[0] for name in ("lora", "dylora")]
    order = [(cell.sweep.name if cell.sweep else "base", cell.rank) for cell in cells_of(*ways)]
    assert order == [
        ("base", 0),
        *(("lora", 4), ("dylora", 4), ("lora", 1), ("dylora", 1), ("lora", 2), ("dylora", 2)),
    ]


@given(st.sets(st.integers(1, 64), min_size=1))
def test_levels_bisect_the_ranks(ranks):
    ordered = sorted(ranks)
    levels = coarse_levels(ordered)
    assert sorted(levels) == ordered
    first = sorted(ordered, key=levels.__getitem__)[: 2 if len(ordered) > 1 else 1]
    assert set(first) == {ordered[-1], ordered[0]}


def test_blocks_are_those_of_a_fixed_grid(monkeypatch):
    monkeypatch.setattr("aurac.runs.plan.BLOCK_EXAMPLES", {"cpu": 3})
    [cell] = plan([], [Task("t", n=8)], "settings")
    assert cell.blocks([0, 1, 2, 3, 7], "cpu") == [[0, 1, 2], [3], [7]]
