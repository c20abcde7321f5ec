"""loralib's MergedLinear: its forward, restated here in loralib's own shapes, is the oracle."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from click.testing import CliRunner
from support.adapters import (
    MERGED_NAMES,
    MERGED_RANK,
    load_with_peft,
    logits,
    merged_factors,
    tiny_gpt2,
    tiny_llama,
)
from torch import nn
from torch.nn import functional

from aurac.adapters import attach, load_adapter, prepare, save_adapter
from aurac.adapters.export import merge
from aurac.cli import cli
from aurac.errors import AuracError, CheckpointError, UsageError
from aurac.models.base import KnownBase

ALPHA = 6.0
OVERRIDES = {"method": "dylora", "scaling": "rank", "alpha": ALPHA, "nested_ranks": [1, 2, 4]}
FLAGS = ["--method", "dylora", "--scaling", "rank", "--alpha", "6", "--nested-ranks", "1,2,4"]
MASKS = [(1, 0, 1), (1, 1, 1), (0, 1, 0), (0, 1, 1)]


class MergedLinear(nn.Module):
    """x W + zero_pad(conv1d(x Aᵀ, B, groups)) α/r, with the first r components of each group."""

    def __init__(self, plain, A, B, mask, r):
        super().__init__()
        self.plain, self.mask = plain, torch.tensor(mask, dtype=torch.bool)
        g = int(self.mask.sum())
        self.A = A.view(g, MERGED_RANK, -1)[:, :r].reshape(g * r, -1)
        self.B, self.g, self.r = B[:, :r], g, r

    def forward(self, x):
        after_a = functional.linear(x, self.A)
        after_b = functional.conv1d(after_a.mT, self.B.unsqueeze(-1), groups=self.g).mT
        n = len(self.mask)
        padded = x.new_zeros(*x.shape[:-1], n, 32)
        padded[..., self.mask, :] = after_b.view(*x.shape[:-1], self.g, 32)
        return self.plain(x) + padded.flatten(-2) * (ALPHA / self.r)


def reference(state, mask, r):
    model = tiny_gpt2(torch.float64)
    for name in MERGED_NAMES:
        parent, _, child = name.rpartition(".")
        plain = model.get_submodule(name)
        layer = MergedLinear(plain, state[f"{name}.lora_A"], state[f"{name}.lora_B"], mask, r)
        setattr(model.get_submodule(parent), child, layer)
    return logits(model)


def read(tmp_path, state, mask, **more):
    torch.save(state, tmp_path / "merged.pt")
    with torch.device("meta"):
        skeleton = tiny_gpt2()
    return load_adapter(
        tmp_path / "merged.pt", **OVERRIDES, enable_lora=mask, base_model=skeleton, **more
    )


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_every_rank_is_loralibs_own_forward(tmp_path, mask):
    state = merged_factors(mask)
    adapter = read(tmp_path, state, mask)
    exported = max(f.peft_scale[0] for f in adapter.modules.values())
    assert (adapter.rank, exported) == (MERGED_RANK, MERGED_RANK * sum(mask))
    assert adapter.parameters(1) == 2 * sum(mask) * (32 + 32)  # two layers, A and B of each group
    base = tiny_gpt2(torch.float64)
    plain = logits(base)
    with attach(base, prepare(adapter)) as live:
        for r in (1, 2, 3, 4):
            live.set_rank(r)
            live_logits = logits(base)
            torch.testing.assert_close(
                live_logits, reference(state, mask, r), rtol=1e-11, atol=1e-11
            )
            merged = tiny_gpt2(torch.float64)
            merge(merged, prepare(adapter), r)
            torch.testing.assert_close(logits(merged), live_logits, rtol=1e-11, atol=1e-11)
        live.set_rank(0)
        assert torch.equal(logits(base), plain)


@pytest.mark.parametrize("mask", [(1, 0, 1), (1, 1, 1)], ids=str)
def test_an_export_is_plain_peft_and_comes_back(tmp_path, mask):
    adapter = read(tmp_path, merged_factors(mask, torch.float32), mask)
    whole = save_adapter(adapter, tmp_path / "whole")
    again = load_adapter(whole)
    assert again.sha256 == adapter.sha256
    assert again.modules[MERGED_NAMES[0]].layout == mask
    lazy = load_adapter(whole, lazy=True)
    assert lazy.sha256 == adapter.sha256
    base = tiny_gpt2()
    for basis in ("prefix", "svd"):
        prepared = prepare(adapter, basis)
        with attach(base, prepared) as live:
            for r in (1, 3, 4):
                folder = save_adapter(prepared.at(r), tmp_path / f"{basis}{r}")
                live.set_rank(r)
                assert torch.equal(logits(base), logits(load_with_peft(tiny_gpt2(), folder)))
                config = json.loads((folder / "adapter_config.json").read_text())
                assert config["r"] == r * sum(mask)
                assert load_adapter(folder).rank == r


def test_svd_is_the_best_of_each_group(tmp_path):
    mask, state = (1, 0, 1), merged_factors((1, 0, 1))
    prepared = prepare(read(tmp_path, state, mask), "svd")
    f = prepared.at(2).modules[MERGED_NAMES[0]]
    A, B = state[f"{MERGED_NAMES[0]}.lora_A"], state[f"{MERGED_NAMES[0]}.lora_B"]
    for j in range(2):
        whole = (
            ALPHA
            / MERGED_RANK
            * B[32 * j : 32 * j + 32]
            @ A[MERGED_RANK * j : MERGED_RANK * j + MERGED_RANK]
        )
        cut = f.scale(2) * f.stacked()[1][j] @ f.stacked()[0][j]
        best = torch.linalg.svdvals(whole)[2:].square().sum().sqrt()
        torch.testing.assert_close(torch.linalg.matrix_norm(whole - cut), best)


def test_which_groups_is_never_guessed(tmp_path):
    with pytest.raises(CheckpointError, match=r"2 of its groups on.*give enable_lora="):
        read(tmp_path, merged_factors((1, 0, 1)), None)
    with pytest.raises(CheckpointError, match=r"which enable_lora='1,1,1' does not fit"):
        read(tmp_path, merged_factors((1, 0, 1)), (1, 1, 1))
    with pytest.raises(CheckpointError, match="does not fit"):
        read(tmp_path, merged_factors((1, 0, 1)), (1, 1))  # 2 × 32 outputs, the base has 96
    every = read(
        tmp_path, merged_factors((1, 1, 1)), None
    )  # as many outputs as the base: all are on
    assert every.modules[MERGED_NAMES[0]].layout == (1, 1, 1)
    torch.save(merged_factors((0, 1, 0)), tmp_path / "one.pt")
    with pytest.raises(CheckpointError, match="give base="):
        load_adapter(tmp_path / "one.pt", **OVERRIDES, enable_lora=(0, 1, 0))
    with pytest.raises(CheckpointError, match=r"expected 32 in and 96 out.*enable_lora="):
        load_adapter(tmp_path / "one.pt", **OVERRIDES, base_model=tiny_gpt2())
    with pytest.raises(UsageError, match="at least one 1"):
        load_adapter(tmp_path / "one.pt", **OVERRIDES, enable_lora=(0, 0))


def test_a_plain_layer_beside_a_merged_one(tmp_path):
    state = merged_factors((1, 0, 1), torch.float32)
    state["transformer.h.0.mlp.c_fc.lora_A"] = torch.randn(MERGED_RANK, 32) * 0.2
    state["transformer.h.0.mlp.c_fc.lora_B"] = torch.randn(128, MERGED_RANK) * 0.2
    adapter = read(tmp_path, state, (1, 0, 1))
    assert [f.kind for f in adapter.modules.values()] == ["merged", "merged", "linear"]
    base = tiny_gpt2()
    with attach(base, prepare(adapter)) as live:
        live.set_rank(2)
        export = save_adapter(prepare(adapter).at(2), tmp_path / "r2")
        assert torch.equal(logits(base), logits(load_with_peft(tiny_gpt2(), export)))
    assert load_adapter(export).sha256 == prepare(adapter).at(2).sha256


def test_a_side_car_that_lies_about_groups(tmp_path):
    adapter = read(tmp_path, merged_factors((1, 0, 1), torch.float32), (1, 0, 1))
    folder = save_adapter(adapter, tmp_path / "whole")
    record = json.loads((folder / "aurac.json").read_text())
    for mask in ([1, 1, 0], [1, 0, 0, 1], [0, 0, 0], [1], [1, 0, 2], "x"):
        record["groups"][MERGED_NAMES[0]] = mask
        (folder / "aurac.json").write_text(json.dumps(record))
        for lazy in (False, True):
            with pytest.raises(CheckpointError):
                load_adapter(folder, lazy=lazy).loaded()


@pytest.fixture
def base_folder(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def run(command, *arguments):
    result = CliRunner().invoke(cli, [command, *map(str, arguments)])
    if isinstance(result.exception, AuracError):
        raise result.exception
    assert result.exception is None, result.output
    return result.stdout


def test_from_a_whole_model_to_plain_peft_on_the_command_line(tmp_path, base_folder):
    state = {**tiny_gpt2().state_dict(), **merged_factors((1, 0, 1), torch.float32)}
    path = tmp_path / "model.pt"
    torch.save({"model_state_dict": state, "epoch": 3}, path)
    with pytest.raises(CheckpointError, match=r"beside its factors.*its --base"):
        run("inspect", path, *FLAGS, "--enable-lora", "1,0,1")
    options = [*FLAGS, "--enable-lora", "1,0,1", "--base", base_folder]
    out = run("inspect", path, *options, "--save")
    assert "2 merged layers" in out
    assert json.loads(run("inspect", path, "--json"))["vllm_max_lora_rank"] == 8  # 2 groups of 4
    run("truncate", path, "--rank", 2, "--out", tmp_path / "r2")  # the side-car knows it all
    adapter = load_adapter(path, bases=KnownBase)
    base = tiny_gpt2()
    with attach(base, prepare(adapter)) as live:
        live.set_rank(2)
        assert torch.equal(logits(base), logits(load_with_peft(tiny_gpt2(), tmp_path / "r2")))
    state["transformer.wte.weight"] = state["transformer.wte.weight"] + 1
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="differs from the base's own"):
        run("inspect", path)


def test_the_base_of_the_command_line_settles_a_square_file(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "base")
    name = "model.layers.0.self_attn.q_proj"
    A, B = torch.randn(4, 32), torch.randn(32, 4)
    torch.save({f"{name}.lora_A": A.T, f"{name}.lora_B": B.T}, tmp_path / "square.pt")
    with pytest.raises(CheckpointError, match="only square shapes"):
        run("truncate", tmp_path / "square.pt", *FLAGS, "--rank", 2, "--out", tmp_path / "x")
    base = ["--base", tmp_path / "base"]
    run("truncate", tmp_path / "square.pt", *FLAGS, *base, "--rank", 2, "--out", tmp_path / "x")
    assert torch.equal(load_adapter(tmp_path / "x").modules[name].A, A[:2])


def test_a_file_for_a_conv1d_base_exports_without_a_warning(tmp_path, base_folder):
    name = "transformer.h.0.attn.c_attn"
    state = {f"{name}.lora_A": torch.randn(32, 4), f"{name}.lora_B": torch.randn(4, 96)}
    torch.save(state, tmp_path / "research.pt")
    base = ["--base", base_folder]
    run("truncate", tmp_path / "research.pt", *FLAGS, *base, "--rank", 2, "--out", tmp_path / "x")
    load_with_peft(tiny_gpt2(), tmp_path / "x")  # a warning is an error there


def test_a_base_that_is_not_here_is_fetched_only_when_needed(tmp_path, monkeypatch):
    import aurac.models.base

    def fetch(name):
        raise AuracError(f"asked for {name}")

    monkeypatch.setattr(aurac.models.base, "resolve_base", fetch)
    name = "model.layers.0.mlp.up_proj"
    torch.save(
        {f"{name}.lora_A": torch.ones(4, 32), f"{name}.lora_B": torch.ones(48, 4)},
        tmp_path / "plain.pt",
    )
    load_adapter(tmp_path / "plain.pt", **OVERRIDES, base="not/here", bases=KnownBase)
    torch.save(
        {f"{name}.lora_A": torch.ones(4, 32), f"{name}.lora_B": torch.ones(32, 4)},
        tmp_path / "square.pt",
    )
    with pytest.raises(AuracError, match="asked for not/here"):
        load_adapter(tmp_path / "square.pt", **OVERRIDES, base="not/here", bases=KnownBase)


def test_a_comparison_asks_the_base_too_in_this_process_and_in_a_worker(tmp_path, base_folder):
    from aurac.runs.session import load_adapters
    from aurac.runs.settings import Settings

    torch.save(merged_factors((1, 0, 1), torch.float32), tmp_path / "merged.pt")
    overrides = {**OVERRIDES, "enable_lora": (True, False, True), "keys": None}
    settings = Settings.of(base=str(base_folder), overrides=overrides)
    far = pickle.loads(pickle.dumps(settings))
    adapters = [load_adapters([tmp_path / "merged.pt"], each)["merged"] for each in (settings, far)]
    assert adapters[0].sha256 == adapters[1].sha256
    assert adapters[0].peft_config["fan_in_fan_out"] is True  # which only the base can say
