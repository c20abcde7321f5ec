"""The plan: order, shards, blocks."""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_doubles import Task, base
from support.adapters import random_adapter, tiny_llama

from aurac.adapters import Nesting, load_adapter, make_family, prepare, save_adapter, truncate
from aurac.errors import UsageError
from aurac.runs.plan import (
    Variant,
    block_size,
    blocks_of,
    coarse_levels,
    plan,
    variants_of,
)


def test_coarse_ranks_come_first():
    """Of 1 … 256 by doubling: 256, 1, then 16 (the middle), 4 and 64, and the rest."""
    levels = coarse_levels((1, 2, 4, 8, 16, 32, 64, 128, 256))
    order = sorted(levels, key=lambda rank: levels[rank])
    assert order[:2] == [256, 1]
    assert order[2:5] == [16, 4, 64]
    assert set(order[5:]) == {2, 8, 32, 128}


@settings(deadline=None)
@given(st.sets(st.integers(1, 300), min_size=1, max_size=40))
def test_every_rank_has_one_level_and_gaps_halve(ranks):
    ranks = tuple(sorted(ranks))
    levels = coarse_levels(ranks)
    assert set(levels) == set(ranks)
    for level in range(3, max(levels.values()) + 1):
        known = [i for i, rank in enumerate(ranks) if levels[rank] <= level]
        before = [i for i, rank in enumerate(ranks) if levels[rank] < level]
        widest = max(b - a for a, b in itertools.pairwise(known))
        assert widest <= (max(b - a for a, b in itertools.pairwise(before)) + 1) // 2


def variant(name, ranks, role="default"):
    adapter = SimpleNamespace(sha256=name)
    adapter.member = lambda _rank: adapter
    return Variant(name, adapter, "prefix", "rule", role, ranks)


MATRYOSHKA, LORA = Nesting("matryoshka", (1, 2, 4)), Nesting("lora", (4,))
PUBLISHED = ("prefix", "rule", "published")


@pytest.mark.parametrize(
    ("nesting", "options", "curves"),
    [
        (LORA, {}, [("svd", "keep", "default"), PUBLISHED]),
        (None, {}, [("svd", "keep", "default"), PUBLISHED]),
        (Nesting("dylora", (1, 4)), {}, [("prefix", "rule", "default")]),
        (Nesting("nested_loss", (1, 4)), {}, [("prefix", "rule", "default")]),
        (MATRYOSHKA, {}, [("prefix", "trained", "default"), PUBLISHED]),
        # the paper's comparison, and lists as they are given
        (LORA, {"bases": ["prefix"]}, [("prefix", "rule", "default")]),
        (LORA, {"bases": ["svd"]}, [("svd", "keep", "default")]),
        (
            LORA,
            {"bases": ["prefix", "svd"]},
            [("prefix", "rule", "default"), ("svd", "keep", "extra")],
        ),
        (MATRYOSHKA, {"bases": ["svd"]}, [("svd", "keep", "default"), PUBLISHED]),
        (
            LORA,
            {"bases": ["auto", "energy"]},
            [("svd", "keep", "default"), ("energy", "keep", "extra"), PUBLISHED],
        ),
        # the first rescale is the one compared: the rule is that of a prefix
        (LORA, {"rescales": ["keep"]}, [("svd", "keep", "default"), PUBLISHED]),
        (LORA, {"rescales": ["rule"]}, [("prefix", "rule", "default")]),
        (
            LORA,
            {"rescales": ["rule", "keep"]},
            [("prefix", "rule", "default"), ("prefix", "keep", "extra")],
        ),
    ],
)
def test_which_truncations_are_evaluated_of_an_adapter(nesting, options, curves):
    adapter = random_adapter(tiny_llama(), 4, nesting=nesting)
    variants = variants_of("a", adapter, (1, 2, 4), **options)
    assert [(v.basis, v.rescale, v.role) for v in variants] == curves


def test_nothing_stands_beside_what_is_an_svd_already_or_is_not_cut():
    adapter = random_adapter(tiny_llama(), 4, nesting=LORA)
    of = partial(variants_of, "a")
    cut = of(truncate(adapter, 2), (1, 2))
    assert [(v.basis, v.rescale, v.role) for v in cut] == [("svd", "keep", "default")]
    for whole in (of(adapter, (4,)), of(truncate(adapter, 2, basis="svd"), (2,))):
        assert [(v.basis, v.rescale, v.role) for v in whole] == [("prefix", "rule", "default")]
    (by_svd,) = of(truncate(adapter, 2, basis="svd"), (2,), ["svd"])
    assert (by_svd.basis, by_svd.rescale) == ("svd", "keep")
    family = of(make_family("f", [adapter, truncate(adapter, 2)]), (2, 4))
    assert [(v.basis, v.role) for v in family] == [("prefix", "default")]
    with pytest.raises(UsageError, match=r"basis 'qr'.* auto, prefix, svd"):
        of(adapter, (1, 4), ["qr"])


def test_a_cut_with_its_p_has_no_row_without_it(tmp_path):
    adapter = random_adapter(tiny_llama(), 4, nesting=MATRYOSHKA)
    cut = load_adapter(save_adapter(truncate(adapter, 2), tmp_path / "cut"))
    variants = variants_of("a", cut, (1, 2))
    assert [(v.basis, v.rescale, v.role) for v in variants] == [("prefix", "trained", "default")]
    # by the rule it is the same function: P cannot be taken out of the weights
    by_p, by_rule = (prepare(cut, "prefix", rescale).at(1) for rescale in ("trained", "rule"))
    for module, f in by_p.modules.items():
        other = by_rule.modules[module]
        scales = [factors.peft_scale[1] / factors.peft_scale[0] for factors in (f, other)]
        assert torch.equal(scales[0] * f.B @ f.A, scales[1] * other.B @ other.A)


def where(cell):
    return (cell.variant.name if cell.variant else "base", cell.rank, cell.task.name)


def test_the_plan_gives_whole_curves_early():
    shown, compared = variant("shown", (1, 2, 4), "published"), variant("a", (1, 2, 4))
    cells = plan([shown, compared], [Task("t"), Task("u")], base())
    assert [where(cell) for cell in cells] == [
        ("a", 4, "t"), ("a", 4, "u"), ("shown", 4, "t"), ("shown", 4, "u"),
        ("base", 0, "t"), ("base", 0, "u"),
        ("a", 1, "t"), ("a", 1, "u"), ("shown", 1, "t"), ("shown", 1, "u"),
        ("a", 2, "t"), ("a", 2, "u"), ("shown", 2, "t"), ("shown", 2, "u"),
    ]  # fmt: skip


def test_long_tasks_come_first_within_a_level_and_only_there():
    """A task of 40 times the effort; one of 1.5 times counts as alike and keeps the order given."""
    tasks = [Task("short", effort=10.0), Task("alike", effort=15.0), Task("long", effort=400.0)]
    cells = plan([variant("a", (1, 2)), variant("b", (1, 2))], tasks, base())
    assert [where(cell) for cell in cells] == [
        ("a", 2, "long"), ("b", 2, "long"),
        ("a", 2, "short"), ("a", 2, "alike"), ("b", 2, "short"), ("b", 2, "alike"),
        ("base", 0, "long"), ("base", 0, "short"), ("base", 0, "alike"),
        ("a", 1, "long"), ("b", 1, "long"),
        ("a", 1, "short"), ("a", 1, "alike"), ("b", 1, "short"), ("b", 1, "alike"),
    ]  # fmt: skip


@settings(deadline=None)
@given(st.sets(st.integers(0, 700)), st.sampled_from([1, 64, 128, 1024]))
def test_blocks_hold_each_place_once_and_lie_on_a_fixed_grid(places, size):
    blocks = blocks_of(sorted(places), size)
    assert [place for block in blocks for place in block] == sorted(places)
    numbers = [{place // size for place in block} for block in blocks]
    assert all(len(number) == 1 for number in numbers)
    assert len(set.union(set(), *numbers)) == len(blocks)


@pytest.mark.parametrize(
    ("kind", "output", "effort", "size"),
    [
        ("cpu", "multiple_choice", 200, 128),
        ("cpu", "generate_until", 470, 512),  # the bundled task
        ("cpu", "generate_until", 5000, 128),  # gsm8k, 5-shot
        ("cuda", "generate_until", 470, 1024),
    ],
)
def test_blocks_are_larger_for_short_answers_and_on_an_accelerator(kind, output, effort, size):
    task = SimpleNamespace(output_type=output, effort=effort * 50.0, n_docs=50)
    assert block_size(task, kind) == size
