"""Truncation against dense linear algebra in fp64 that shares no code with it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.adapters import random_adapter, tiny_llama

from aurac.adapters import (
    Adapter,
    Factors,
    Nesting,
    default_rescale,
    load_adapter,
    prepare,
    save_adapter,
    truncate,
)
from aurac.adapters.inspect import inspect
from aurac.adapters.truncate import default_basis
from aurac.errors import CheckpointError, RankError, UsageError

NESTED = Nesting("matryoshka", (1, 2, 4, 8))


def one_module(inside=12, out=10, *, rule="sqrt", nesting=NESTED, dtype=torch.float64):
    g = torch.Generator().manual_seed(11)
    A, B = (torch.randn(size, generator=g).double() for size in ((8, inside), (out, 8)))
    return Adapter("one", {"m": Factors(A.to(dtype), B.to(dtype), 2.0, rule)}, nesting)


def update(adapter, name="m"):
    """s · B · A of a whole adapter, dense."""
    f = adapter.modules[name]
    s = {"none": f.alpha, "rank": f.alpha / f.rank, "sqrt": f.alpha / math.sqrt(f.rank)}[f.rule]
    return s * f.B.double() @ f.A.double()


# S = {1, 2, 4, 8}, alpha 2, sqrt: s = 2, √2, 1, 1/√2; p_1 is their sum, p_2 without the first, …
SCALES = (2, math.sqrt(2), 1, 1 / math.sqrt(2))
P = torch.tensor([sum(SCALES[k:]) for k in (0, 1, 2, 2, 3, 3, 3, 3)], dtype=torch.float64)


@pytest.mark.parametrize("r", [1, 2, 3, 5, 8])
def test_each_rescale_is_its_formula(r):
    a = one_module()
    f = a.modules["m"]
    keep = torch.full((r,), 2 / math.sqrt(8), dtype=torch.float64)
    scales = {"rule": keep * math.sqrt(8 / r), "keep": keep, "trained": P[:r], "fit": keep / 2}
    for rescale, diagonal in scales.items():
        expected = f.B[:, :r] @ torch.diag(diagonal) @ f.A[:r]
        cut = truncate(a, r, basis="prefix", rescale=rescale, factors={r: 0.5})
        torch.testing.assert_close(update(cut), expected, rtol=1e-13, atol=1e-14)
    for rule, s in (("none", 2), ("rank", 2 / r), ("sqrt", 2 / math.sqrt(r))):
        cut = truncate(one_module(rule=rule), r, basis="prefix", rescale="rule")
        torch.testing.assert_close(update(cut), s * f.B[:, :r] @ f.A[:r])
    with pytest.raises(UsageError, match="needs a factor for rank 4"):
        truncate(a, 4, rescale="fit", factors={3: 0.5})


@pytest.mark.parametrize("weights", [(), (1, 0.5, 2, 3), (1, 1, 1, 0)])  # the last: p_5 … p_8 are 0
@pytest.mark.parametrize("r", [1, 3, 8])
def test_factors_with_p_folded_in_are_cut_as_those_without(r, weights):
    """And at full rank they are the adapter itself, for `rule` without P."""
    a = one_module(nesting=Nesting("matryoshka", (1, 2, 4, 8), weights))
    f, w = a.modules["m"], torch.tensor(weights or (1, 1, 1, 1), dtype=torch.float64)
    parts = w * torch.tensor(SCALES, dtype=torch.float64)
    p = torch.stack([parts[k:].sum() for k in (0, 1, 2, 2, 3, 3, 3, 3)])
    A = f.A * (p / SCALES[3])[:, None]
    if weights[3:] == (0,):  # what training does not use is lost
        a = replace(a, modules={"m": replace(f, A=f.A * (p > 0)[:, None])})
    folded = replace(a, modules={"m": replace(f, A=A)}, folded=True)
    assert folded.sha256 != replace(folded, folded=False).sha256
    assert (default_basis(folded), default_rescale(folded)) == ("prefix", "trained")
    for how in (("prefix", "rule"), ("prefix", "keep"), ("prefix", "trained"), ("svd", "keep")):
        got, wanted = (truncate(each, r, basis=how[0], rescale=how[1]) for each in (folded, a))
        torch.testing.assert_close(update(got), update(wanted), rtol=1e-12, atol=1e-13)
        itself = r == 8 and how[1] != "rule" and how != ("prefix", "keep")
        assert (got is folded) == itself
        assert got.folded == (itself or how[1] == "trained")  # P is in the weights
    shown, plain = inspect(folded), inspect(a)
    assert shown.p == plain.p
    for x, y in zip(shown.by_rank, plain.by_rank, strict=True):
        assert (x.prefix, x.svd) == pytest.approx((y.prefix, y.svd))


@pytest.mark.parametrize(
    ("nesting", "inside", "out"),
    [(NESTED, 12, 10), (None, 12, 10), (None, 5, 6)],  # the last has less than the rank
)
def test_svd_reaches_the_eckart_young_error(nesting, inside, out):
    a = one_module(inside=inside, out=out, nesting=nesting)
    f = a.modules["m"]
    p = torch.full((8,), 2.0 / math.sqrt(8), dtype=torch.float64) if nesting is None else P
    trained = f.B @ torch.diag(p) @ f.A
    sigma = torch.linalg.svdvals(trained)
    for r in range(1, 9):
        error = torch.linalg.matrix_norm(trained - update(truncate(a, r, basis="svd")))
        best = sigma[r:].square().sum().sqrt()
        torch.testing.assert_close(error, best, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", ["none", "rank", "sqrt"])
@pytest.mark.parametrize("method", [None, "lora", "dylora"])
@pytest.mark.parametrize("basis", ["prefix", "svd"])
def test_the_cut_at_the_trained_rank_is_the_adapter_itself(basis, method, rule):
    ranks = {"lora": (8,), "dylora": (1, 2, 4, 8)}
    nesting = method and Nesting(method, ranks[method])
    a = one_module(dtype=torch.bfloat16, nesting=nesting, rule=rule)
    assert truncate(a, 8, basis=basis) is a
    own, full = a.modules["m"], prepare(a, basis).module("m", 8)
    assert (full.alpha, full.rule) == (own.alpha, own.rule)
    assert (full.A.data_ptr(), full.B.data_ptr()) == (own.A.data_ptr(), own.B.data_ptr())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_full_rank_p_is_folded_in_with_one_rounding_and_nothing_is_decomposed(dtype):
    a = one_module(dtype=dtype)
    exact = P[:, None] / (2 / math.sqrt(8)) * a.modules["m"].A.double()
    for basis in ("prefix", "svd"):
        cut = truncate(a, 8, basis=basis)
        assert torch.equal(cut.modules["m"].A, exact.to(dtype))
        assert torch.equal(cut.modules["m"].B, a.modules["m"].B)
        assert (cut.derived.basis, cut.derived.rescale) == ("prefix", "trained")
        assert default_basis(cut) == "prefix"  # it is not decomposed
    assert truncate(a, 8, rescale="rule") is truncate(a, 8, basis="prefix", rescale="keep") is a


@pytest.mark.parametrize("rule", ["none", "rank", "sqrt"])
@pytest.mark.parametrize(
    "how", [*(("prefix", each) for each in ("rule", "keep", "trained")), ("svd", "keep")]
)
def test_truncating_twice_is_truncating_once(how, rule):
    a, (basis, rescale) = one_module(rule=rule), how
    for first in range(1, 9):
        once = truncate(a, first, basis=basis, rescale=rescale)
        for second in range(1, first + 1):
            wanted = truncate(a, second, basis=basis, rescale=rescale)
            twice = truncate(once, second, basis=basis, rescale=rescale)
            torch.testing.assert_close(update(twice), update(wanted), rtol=1e-12, atol=1e-13)
            if first < 8:  # where P is folded in by itself, and nothing decomposed
                assert torch.equal(twice.modules["m"].A, wanted.modules["m"].A)
                assert twice.derived.from_sha256 == a.sha256


@pytest.mark.parametrize(
    ("nesting", "basis", "rescale", "trained_is"),
    [
        (None, "svd", "rule", None),  # not recorded
        (("lora", (8,)), "svd", "rule", "keep"),
        (("matryoshka", (8,)), "svd", "rule", "keep"),  # S = {R}: plain LoRA
        (("matryoshka", (1, 8)), "prefix", "trained", None),
        (("dylora", (1, 2, 8)), "prefix", "rule", "rule"),
        (("nested_loss", (4, 8)), "prefix", "rule", "rule"),
    ],
)
def test_the_default_is_a_prefix_as_trained_or_else_an_svd(nesting, basis, rescale, trained_is):
    a = one_module(nesting=nesting and Nesting(*nesting))
    assert a.sha256 != one_module().sha256  # which was trained in another way
    assert (default_basis(a), default_rescale(a)) == (basis, rescale)
    assert truncate(a, 4).derived.basis == basis
    assert default_basis(a, "rule") == "prefix"  # only a prefix has the scaling rule's order
    for by in ("prefix", "svd"):  # what was cut once is cut again as it was trained and cut
        again = truncate(a, 4, basis=by)
        assert default_basis(again) == ("svd" if by == "svd" else basis)
        assert default_rescale(again) == ("keep" if by == "svd" else rescale)
    if trained_is:
        cuts = [truncate(a, 3, basis="prefix", rescale=each) for each in ("trained", trained_is)]
        torch.testing.assert_close(*map(update, cuts))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cut_in_another_dtype(dtype, tmp_path):
    """Each tensor rounded once from the cut; the file has no other."""
    a = random_adapter(tiny_llama(), 4, nesting=Nesting("matryoshka", (1, 2, 4)))
    a = replace(a, extras={"model.norm.weight": torch.randn(32)})
    f = next(iter(a.modules.values()))
    dora = replace(f, magnitude=torch.rand(f.features[1], 1))
    a = replace(a, modules=dict.fromkeys(a.modules, dora))
    cut, plain = truncate(a, 2, dtype=dtype), truncate(a, 2)
    to, name = getattr(torch, dtype), next(iter(a.modules))
    assert torch.equal(cut.modules[name].A, plain.modules[name].A.to(to))
    assert cut.derived == plain.derived
    written = load_file(save_adapter(a, tmp_path / "x", dtype=dtype) / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {to}
    again = load_adapter(save_adapter(cut, tmp_path / "cut"))
    assert again.sha256 == cut.sha256


def test_a_dtype_that_is_none_or_too_narrow():
    a = one_module(dtype=torch.float32)
    with pytest.raises(UsageError, match="no dtype 'int8'"):
        truncate(a, 2, dtype="int8")
    large = replace(a.modules["m"], A=a.modules["m"].A * 1e6)
    with pytest.raises(CheckpointError, match="range of float16"):
        truncate(replace(a, modules={"m": large}), 2, rescale="rule", dtype="float16")


@pytest.mark.parametrize("rank", [0, -1, 9, 1.0, True])
def test_a_rank_it_does_not_have(rank):
    with pytest.raises(RankError, match="has the ranks 1 to 8"):
        truncate(one_module(), rank)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (("svd", "rule"), "with svd give keep or fit"),
        (("prefix", "trained"), "which is not recorded"),
        (("pca",), "there are the bases auto, prefix, svd"),
        (("prefix", "best"), "rescales rule, keep, trained, fit"),
    ],
)
def test_words_that_do_not_go_together(how, said):
    with pytest.raises(UsageError, match=said):
        prepare(one_module(nesting=None), *how)
