"""State dicts without a config: orientation is decided or refused, and so is the scale."""

from __future__ import annotations

import math

import pytest
import torch
from support.adapters import dense, logits, random_adapter, tiny_llama

from aurac.adapters import Nesting, attach, load_adapter, prepare, save_adapter
from aurac.errors import CheckpointError

OVERRIDES = {"method": "matryoshka", "scaling": "sqrt", "alpha": 1.0, "nested_ranks": [1, 2, 4]}
Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"


def loralib(adapter):
    """loralib's layout: A as (R, in), B as (out, R)."""
    modules = adapter.modules.items()
    return {f"{name}.lora_{side}": getattr(f, side) for name, f in modules for side in "AB"}


def research(adapter):
    """The research code's: A as (in, R), B as (R, out)."""
    return {key: tensor.T.contiguous() for key, tensor in loralib(adapter).items()}


@pytest.mark.parametrize(("layout", "expected"), [(research, "research"), (loralib, "loralib")])
def test_both_orientations_are_told_apart(tmp_path, layout, expected):
    base = tiny_llama()
    adapter = random_adapter(base, 4, dtype=torch.bfloat16)
    torch.save(layout(adapter), tmp_path / "lora_adapters_step=00007.pt")
    read = load_adapter(tmp_path / "lora_adapters_step=00007.pt", **OVERRIDES, base="small")
    assert (read.format, read.base) == (expected, "small")
    assert read.nesting == Nesting("matryoshka", (1, 2, 4))
    assert read.name == "lora_adapters_step=00007"
    for name, f in adapter.modules.items():
        assert torch.equal(read.modules[name].A, f.A)
        assert torch.equal(read.modules[name].B, f.B)
    assert load_adapter(tmp_path, **OVERRIDES).sha256 == read.sha256  # the only file in the folder


@pytest.mark.parametrize("layout", [research, loralib])
def test_square_layers_are_settled_by_the_base_or_refused(tmp_path, layout):
    base = tiny_llama()
    adapter = random_adapter(base, 4, names=["q_proj"])  # 32 × 32 and nothing else
    path = tmp_path / "square.pt"
    torch.save(layout(adapter), path)
    with pytest.raises(CheckpointError, match=r"only square shapes.*give --base"):
        load_adapter(path, **OVERRIDES)
    base.save_pretrained(tmp_path / "base")
    folder = str(tmp_path / "base")
    read = load_adapter(path, **OVERRIDES, base=folder)
    assert torch.equal(read.modules[Q].A, adapter.modules[Q].A)
    torch.save(layout(random_adapter(base, 32, names=["q_proj"])), path)  # a rank as large
    with pytest.raises(CheckpointError, match="only square shapes"):
        load_adapter(path, method="lora", scaling="sqrt", alpha=1, base=folder)


def test_mixed_orientations_and_grouped_layers_are_refused(tmp_path):
    adapter = random_adapter(tiny_llama(), 4, names=["k_proj"])
    mixed = research(adapter)
    mixed |= {key: tensor for key, tensor in loralib(adapter).items() if key.startswith(K)}
    # MergedLinear with two of three groups: A (2·4, 32), B (64, 4)
    grouped = {f"{Q}.lora_A": torch.ones(8, 32), f"{Q}.lora_B": torch.ones(64, 4)}
    for state in (mixed, grouped):
        torch.save(state, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match="no pair of its orientation"):
            load_adapter(tmp_path / "x.pt", **OVERRIDES)


@pytest.mark.parametrize(
    "given", [{}, {"method": "lora"}, {"scaling": "sqrt", "alpha": 1}, {"alpha": 1}]
)
def test_the_scale_is_never_guessed(tmp_path, given):
    torch.save(research(random_adapter(tiny_llama(), 4)), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="does not say how it was trained and scaled"):
        load_adapter(tmp_path / "x.pt", **given)


@pytest.mark.parametrize("wrapper", ["model_state_dict", "state_dict", None])
def test_an_adapter_inside_a_whole_model(tmp_path, wrapper):
    base = tiny_llama()
    adapter = random_adapter(base, 4)
    state = {**base.state_dict(), **loralib(adapter)}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "whole.pt")
    folder = str(tmp_path / "base")
    base.save_pretrained(folder)
    assert load_adapter(tmp_path / "whole.pt", **OVERRIDES, base=folder).rank == 4
    base.lm_head.weight.data[0, 0] += 1
    base.save_pretrained(folder)
    for given in (None, folder):
        with pytest.raises(CheckpointError, match="beside its factors"):
            load_adapter(tmp_path / "whole.pt", **OVERRIDES, base=given)


ONLY_B = {f"{Q}.lora_B": torch.ones(4, 32)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no lora_A and lora_B"),
        (ONLY_B, f"no lora_A for {Q}"),
        (ONLY_B | {f"{Q}.lora_A": torch.ones(32)}, r"are not \(R, in\)"),
        (ONLY_B | {f"{Q}.lora_A": torch.full((32, 4), math.inf)}, "NaN or infinite"),
    ],
)
def test_state_dicts_that_are_none(tmp_path, state, message):
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=message):
        load_adapter(tmp_path / "x.pt", **OVERRIDES)


@pytest.mark.parametrize("mask_type", ["diag", "binary"])
@pytest.mark.parametrize("stated", [(1, 2, 4), (1, 2, 4, 8, 16), (1, 3), (2,)])
@pytest.mark.parametrize("scaling", ["none", "rank", "sqrt"])
def test_what_the_research_code_trains(tmp_path, mask_type, stated, scaling):
    """Its masked form, written out: Σ over r of s_r · x A[:, :r] B[:r], for ``binary`` over |S|.

    It trains the ranks up to R of those that it is given, wherever they end.
    """
    base = tiny_llama(torch.float64)
    state = research(random_adapter(base, 4, dtype=torch.float64))
    torch.save(state, tmp_path / "x.pt")
    trained = [r for r in stated if r <= 4]
    read = load_adapter(
        tmp_path / "x.pt",
        **{**OVERRIDES, "scaling": scaling, "nested_ranks": stated},
        weights=[1 / len(trained)] * len(trained) if mask_type == "binary" else None,
    )
    assert (read.nesting.ranks, read.rank) == (tuple(trained), 4)
    assert len([note for note in read.notes if "not trained" in note]) == (max(stated) < 4)
    share = len(trained) if mask_type == "binary" else 1
    scales = {"none": lambda _: 1.0, "rank": lambda r: 1 / r, "sqrt": lambda r: r**-0.5}
    updates = {}
    for name in read.modules:
        A, B = state[f"{name}.lora_A"], state[f"{name}.lora_B"]
        updates[name] = sum(scales[scaling](r) / share * A[:, :r] @ B[:r] for r in trained).T
    oracle = logits(dense(tiny_llama(torch.float64), updates))
    for basis, rescale in (("prefix", "trained"), ("svd", "keep")):
        with attach(base, prepare(read, basis, rescale)) as live:
            torch.testing.assert_close(logits(live.model), oracle, rtol=1e-10, atol=1e-10)
    again = load_adapter(save_adapter(read, tmp_path / "folder"))
    assert (again.nesting, again.sha256) == (read.nesting, read.sha256)


def test_tensors_that_share_memory_are_written(tmp_path):
    """Research code may use one A for q and k."""
    one, state = torch.randn(4, 32), {}
    for name in (Q, K):
        state |= {f"{name}.lora_A": one, f"{name}.lora_B": torch.randn(24, 4)}
    torch.save(state, tmp_path / "shared.pt")
    adapter = load_adapter(tmp_path / "shared.pt", alpha=4.0, method="lora", scaling="rank")
    stored = load_adapter(save_adapter(adapter, tmp_path / "out"))
    assert all(torch.equal(f.A, one) for f in stored.modules.values())
