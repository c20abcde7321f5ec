"""The plan: which curves, which cells, in which order, and which cells are one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs_doubles import Task

from aurac.adapters import load_adapter, make_family, truncate
from aurac.adapters.cut import parse_ranks, sweeps_of
from aurac.errors import RankError, UsageError
from aurac.runs.plan import coarse_levels, distinct, plan


@pytest.fixture(scope="module")
def loaded(adapters):
    return {name: load_adapter(folder) for name, folder in adapters.items()}


def cuts(ways):
    return [(way.name, way.basis, way.rescale) for way in ways]


def test_each_adapter_has_the_best_cut_of_its_method(loaded):
    every = [way for name, adapter in loaded.items() for way in sweeps_of(name, adapter)]
    assert cuts(every) == [
        ("lora", "svd", "keep"),
        ("dylora", "prefix", "rule"),
        ("matryoshka", "prefix", "trained"),
    ]
    assert {way.ranks for way in every} == {(1, 2, 4)}


def test_other_cuts_are_further_curves_in_the_order_asked(loaded):
    ways = sweeps_of("lora", loaded["lora"], bases=("prefix", "svd"), rescales=("rule", "keep"))
    pairs = [(way.basis, way.rescale) for way in ways]
    assert pairs == [("prefix", "rule"), ("prefix", "keep"), ("svd", "keep")]
    with pytest.raises(UsageError, match="trained needs basis prefix"):
        sweeps_of("lora", loaded["lora"], bases=("svd",), rescales=("trained",))
    unknown = replace(loaded["lora"], nesting=None)
    with pytest.raises(UsageError, match="which is not recorded"):
        sweeps_of("lora", unknown, bases=("prefix",), rescales=("trained",))


def test_the_trained_rank_is_always_evaluated(loaded):
    lora = loaded["lora"]
    assert parse_ranks("pow2", lora) == (1, 2, 4)
    assert parse_ranks("all", lora) == (1, 2, 3, 4)
    assert parse_ranks("1,3", lora) == parse_ranks([3, 1], lora) == (1, 3, 4)
    with pytest.raises(RankError):
        parse_ranks((8,), lora)


def test_a_family_has_its_own_ranks(loaded):
    family = make_family("f", [truncate(loaded["dylora"], rank) for rank in (1, 4)])
    [way] = sweeps_of("f", family)
    assert (way.ranks, way.basis) == ((1, 4), "prefix")
    assert [way.at(rank).adapter.rank for rank in way.ranks] == [1, 4]


def cells_of(*ways, tasks=1):
    return plan(ways, [Task(f"t{k}") for k in range(tasks)], "settings")


def test_at_full_rank_every_cut_that_is_the_adapter_itself_is_one_cell(loaded):
    """The README's command has 16 cells: the base, and five ranks of three adapters."""
    every = [way for name, adapter in loaded.items() for way in sweeps_of(name, adapter)]
    assert len(distinct(cells_of(*every))) == 1 + 3 * 3
    both = {"bases": ("prefix", "svd"), "rescales": ("rule", "keep", "trained")}
    for name, shared in (("lora", 1), ("dylora", 1), ("matryoshka", 2)):
        ways = sweeps_of(name, loaded[name], **both)
        assert len(ways) == 4
        full = {cell.key for cell in cells_of(*ways) if cell.rank == 4}
        # with P: trained, svd; without: rule, keep
        assert len(full) == shared, name


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
