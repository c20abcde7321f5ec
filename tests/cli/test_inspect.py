"""`aurac inspect` on real files: the numbers it prints are checked by dense linear algebra."""

from __future__ import annotations

import json
import math

import pytest
import torch
from click.testing import CliRunner
from support.adapters import random_adapter, tiny_llama

from aurac.adapters import Nesting, load_adapter, save_adapter, truncate
from aurac.adapters.inspect import describe, max_lora_rank, vllm_refusal
from aurac.cli import cli
from aurac.errors import AuracError, CheckpointError, RankError, RunFolderError, UsageError

NESTED = Nesting("matryoshka", (1, 2, 4))


@pytest.fixture
def adapter():
    return random_adapter(
        tiny_llama(), 4, names=["q_proj", "down_proj"], nesting=NESTED, alpha=2.0, base="small"
    )


def run(*arguments):
    result = CliRunner().invoke(cli, ["inspect", *map(str, arguments)])
    if result.exception is not None and isinstance(result.exception, AuracError):
        raise result.exception
    assert result.exception is None, result.output
    return result


def test_scales_weights_and_distance_by_hand(adapter):
    row = describe(adapter).by_rank[1]
    # S = {1, 2, 4}, alpha 2, sqrt: s = 2, √2, 1. At rank 2 published √2; p = (3 + √2, 1 + √2).
    assert row.rank == 2
    assert row.published_scale == pytest.approx(math.sqrt(2))
    assert row.trained_weights == pytest.approx([3 + math.sqrt(2), 1 + math.sqrt(2)])
    assert row.ratio_first == pytest.approx((3 + math.sqrt(2)) / math.sqrt(2))
    p = torch.tensor(row.trained_weights, dtype=torch.float64)
    apart = whole = 0.0
    for f in adapter.modules.values():
        A, B = f.A[:2].double(), f.B[:, :2].double()
        trained = B @ torch.diag(p) @ A
        apart += (trained - math.sqrt(2) * B @ A).square().sum().item()
        whole += trained.square().sum().item()
    assert row.published_distance == pytest.approx(math.sqrt(apart / whole))


def test_energies_are_those_of_the_dense_update(adapter):
    energy = describe(adapter, (1, 2, 3, 4)).energy.modules
    p = torch.tensor([3 + math.sqrt(2), 1 + math.sqrt(2), 1, 1], dtype=torch.float64)
    for name, f in adapter.modules.items():
        A, B = f.A.double(), f.B.double()
        whole = B @ torch.diag(p) @ A
        total = whole.square().sum()
        sigma = torch.linalg.svdvals(whole)
        for k, r in enumerate((1, 2, 3, 4)):
            rest = whole - B[:, :r] @ torch.diag(p[:r]) @ A[:r]
            assert energy[name]["prefix"][k] == pytest.approx(
                1 - (rest.square().sum() / total).item()
            )
            assert energy[name]["svd"][k] == pytest.approx(
                (sigma[:r].square().sum() / total).item()
            )


def test_the_text_names_what_matters(adapter, tmp_path):
    out = run(save_adapter(adapter, tmp_path / "a")).stdout
    for expected in (
        "matryoshka, nested ranks 1,2,4",
        "sqrt, alpha 2",
        "4 (4 of rank 4), float32",
        "prefix, rescale trained",
        "away from the trained function at rank 4",
        "q_proj",
        "small",
    ):
        assert expected in out
    assert "model.layers.1.mlp.down_proj" in run(tmp_path / "a", "--layers").stdout


def test_what_is_not_recorded_is_said_so(adapter, tmp_path):
    from dataclasses import replace

    plain = replace(adapter, nesting=None, base=None)
    out = run(save_adapter(plain, tmp_path / "a")).stdout
    assert "the training method is not recorded" in out
    assert "the base model is not recorded" in out
    assert "trained p1" not in out
    assert "published: scale by the rule\n" in out
    lora = replace(adapter, nesting=Nesting("lora", (4,)))
    out = run(save_adapter(lora, tmp_path / "b")).stdout
    assert "default       svd, rescale keep" in out
    assert "no order in its ranks, so it is cut by SVD" in out
    assert "method        lora\n" in out
    assert "published: scale by the rule\n" in out
    assert "without P" not in run(tmp_path / "b", "--ranks", "1,2").stdout
    cut = run(save_adapter(truncate(adapter, 2), tmp_path / "c")).stdout
    assert "matryoshka before it was cut" in cut


def test_json_has_no_nan_even_for_a_zero_adapter(adapter, tmp_path):
    from dataclasses import replace

    name, f = next(iter(adapter.modules.items()))
    zero = replace(adapter, modules={name: replace(f, B=torch.zeros_like(f.B))})
    facts = json.loads(run(save_adapter(zero, tmp_path / "a"), "--json").stdout)
    assert facts["energy"]["mean"] == {"prefix": [None] * 3, "svd": [None] * 3}
    assert facts["by_rank"][0]["published_distance"] is None
    assert facts["trained_rank"] == 4
    assert run(tmp_path / "a").stdout.count("?") >= 1


def test_save_writes_the_side_car_once(adapter, tmp_path):
    state = {}
    for name, f in adapter.modules.items():
        state[f"{name}.lora_A"], state[f"{name}.lora_B"] = f.A.T.contiguous(), f.B.T.contiguous()
    path = tmp_path / "x.pt"
    torch.save(state, path)
    said = [
        "--method",
        "matryoshka",
        "--scaling",
        "sqrt",
        "--alpha",
        "2",
        "--nested-ranks",
        "1,2,4",
    ]
    with pytest.raises(CheckpointError, match="does not say"):
        run(path)
    saved = run(path, *said, "--base", "small", "--save")
    assert "note: base small is not on this machine" in saved.stderr
    read = load_adapter(path)
    assert (read.nesting, read.rule, read.alpha, read.base) == (NESTED, "sqrt", 2.0, "small")
    said[5] = "3"
    with pytest.raises(RunFolderError, match="--force"):
        run(path, *said, "--save")
    run(path, *said, "--save", "--force")
    assert load_adapter(path).alpha == 3.0


def test_a_side_car_never_contradicts_the_config(adapter, tmp_path):
    folder = save_adapter(adapter, tmp_path / "a")
    (folder / "aurac.json").unlink()
    run(folder, "--method", "dylora", "--nested-ranks", "1,2,4", "--save")
    assert load_adapter(folder).method == "dylora"
    with pytest.raises(UsageError, match="another scale"):
        run(folder, "--scaling", "none", "--alpha", "1", "--save")


def test_ranks_it_does_not_have(adapter, tmp_path):
    folder = save_adapter(adapter, tmp_path / "a")
    assert "\n   3  " in run(folder, "--ranks", "3").stdout
    with pytest.raises(RankError):
        run(folder, "--ranks", "5")


def test_what_vllm_serves_is_said(adapter, tmp_path):
    from dataclasses import replace

    served = "vLLM          yes, with --max-lora-rank 8"
    without_p = f"{served}, but without its P; what aurac truncate writes has it\n"
    assert without_p in run(save_adapter(adapter, tmp_path / "a")).stdout
    plain = replace(adapter, nesting=None)
    assert f"{served}\n" in run(save_adapter(plain, tmp_path / "plain")).stdout
    # ranks as vLLM's --max-lora-rank takes them
    grown = {
        name: replace(f, A=f.A.repeat(65, 1), B=f.B.repeat(1, 65))
        for name, f in adapter.modules.items()
    }
    big = replace(adapter, modules=grown, nesting=None)
    assert max_lora_rank(big) == 320  # rank 260
    assert vllm_refusal(big) is None
    name, f = next(iter(adapter.modules.items()))
    odd = replace(adapter, modules={**adapter.modules, name: replace(f, alpha=3.0)})
    assert "one rank and one alpha" in vllm_refusal(odd)
    extra = replace(adapter, extras={"lm_head.weight": f.A})
    assert "beside the low-rank factors" in vllm_refusal(extra)
    huge = {n: replace(g, A=g.A.repeat(3, 1), B=g.B.repeat(1, 3)) for n, g in grown.items()}
    assert vllm_refusal(replace(big, modules=huge)) == "it serves ranks up to 512"
