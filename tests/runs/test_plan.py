"""The plan: which curves, which cells, in which order, and which cells are one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.runs_doubles import Task

from aurac.adapters import Adapter, Factors, Nesting, load_adapter
from aurac.adapters.cut import cuts_of
from aurac.curves.question import Key
from aurac.errors import UsageError
from aurac.runs.plan import plan


@pytest.fixture(scope="module")
def loaded(adapters):
    return {name: load_adapter(folder) for name, folder in adapters.items()}


def test_cuts_are_curves_in_the_order_asked(loaded):
    pairs = cuts_of(loaded["lora"], bases=("prefix", "svd"), rescales=("rule", "keep"))
    assert [*pairs] == [("prefix", "rule"), ("prefix", "keep"), ("svd", "keep")]
    for both in (("keep", "rule"), ("rule", "keep")):  # none is dropped, whichever stands first
        assert {*cuts_of(loaded["lora"], rescales=both)} == {("svd", "keep"), ("prefix", "rule")}
    unknown = replace(loaded["lora"], nesting=None)
    with pytest.raises(UsageError, match="which is not recorded"):
        cuts_of(unknown, bases=("prefix",), rescales=("trained",))


def test_full_rank_is_what_was_trained_with_a_constant_p_too():
    """P = .5 s_R throughout: the update that was trained is half of s_R · B · A."""
    generator = torch.Generator().manual_seed(3)
    A, B = torch.randn(4, 6, generator=generator), torch.randn(5, 4, generator=generator)
    nesting = Nesting("matryoshka", (4,), (0.5,))
    adapter = Adapter("half", {"m": Factors(A, B, 2.0, "none")}, nesting)
    [(way, cuts)] = cuts_of(adapter).items()
    assert way == ("svd", "keep")
    last = cuts[4].prepared().at(4).modules["m"]
    torch.testing.assert_close(last.scale(4) * last.B @ last.A, 2.0 * 0.5 * B @ A)


def rows(loaded, *names):
    return {Key(x, *way): cuts for x in names for way, cuts in cuts_of(loaded[x]).items()}


def cells_of(rows, tasks=1):
    return plan(rows, [Task(f"t{k}") for k in range(tasks)], "settings")


def test_what_decides_an_outcome_decides_the_key(loaded):
    way = rows(loaded, "dylora")
    keys = {cell.key for cell in cells_of(way, tasks=2)}
    assert len(keys) == 2 * 4
    assert keys.isdisjoint({cell.key for cell in plan(way, [Task("t0", scoring="x")], "settings")})
    assert keys.isdisjoint({cell.key for cell in plan(way, [Task("t0")], "others")})
    assert keys >= {cell.key for cell in plan(way, [Task("t0", n=99)], "settings")}


def test_the_order_is_base_ends_middles(loaded):
    cells = cells_of(rows(loaded, "lora", "dylora"))
    order = [(cell.curve_key.adapter if cell.curve_key else "base", cell.rank) for cell in cells]
    assert order == [
        ("base", 0),
        *(("lora", 4), ("dylora", 4), ("lora", 1), ("dylora", 1), ("lora", 2), ("dylora", 2)),
    ]


def test_blocks_are_those_of_a_fixed_grid(monkeypatch):
    monkeypatch.setattr("aurac.runs.plan.BLOCK_EXAMPLES", {"cpu": 3})
    [cell] = plan({}, [Task("t", n=8)], "settings")
    assert cell.blocks([0, 1, 2, 3, 7], "cpu") == [[0, 1, 2], [3], [7]]
