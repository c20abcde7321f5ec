"""Adapters of MLX and torchtune, from files that those tools wrote themselves.

``data/`` holds them, each of rank 4 for ``tiny_llama``: ``mlx`` and ``mlx_dora`` are mlx-lm
0.32.2's (``linear_to_lora_layers``, scale 2.5), ``torchtune`` is an ``epoch_0`` folder of torchtune
0.6.1's ``FullModelHFCheckpointer`` (α = 6), in PEFT's own format. When they were made, the live
models gave the tools' own logits: MLX within 9e-8, torchtune within 3e-7.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.adapters import edit, edit_tensors, load_with_peft, logits, tiny_llama

from aurac.adapters import Nesting, attach, load_adapter, prepare, save_adapter
from aurac.adapters.formats.peft_config import CONFIG
from aurac.errors import CheckpointError

DATA = Path(__file__).parent / "data"
Q = "model.layers.1.self_attn.q_proj"


@pytest.fixture
def mlx(tmp_path):
    return Path(shutil.copytree(DATA / "mlx", tmp_path / "mlx"))


@pytest.mark.parametrize("folder", ["mlx", "mlx_dora"])
def test_mlx_is_its_own_formula(folder):
    adapter = load_adapter(DATA / folder)
    assert (adapter.format, adapter.base, adapter.name) == ("mlx", "tiny/base", folder)
    assert (adapter.rank, adapter.rule, adapter.alpha) == (4, "none", 2.5)
    assert adapter.nesting == Nesting("lora", (4,))
    assert adapter.dora == any("DoRA" in note for note in adapter.notes) == (folder == "mlx_dora")
    raw, base = load_file(DATA / folder / "adapters.safetensors"), tiny_llama().double()
    assert len(adapter.modules) == len([key for key in raw if key.endswith("lora_a")]) == 3
    for name in adapter.modules:
        weight = base.get_submodule(name).weight.data
        weight += 2.5 * (raw[f"{name}.lora_a"].double() @ raw[f"{name}.lora_b"].double()).T
        if adapter.dora:
            weight *= raw[f"{name}.m"].double()[:, None] / weight.norm(dim=1, keepdim=True)
    ours = tiny_llama()
    with attach(ours, prepare(adapter)):
        torch.testing.assert_close(logits(ours).double(), logits(base), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tool", ["mlx", "torchtune"])
@pytest.mark.parametrize("basis", ["prefix", "svd"])
def test_each_is_truncated_and_exported_as_plain_peft(tool, basis, tmp_path):
    prepared, base = prepare(load_adapter(DATA / tool), basis), tiny_llama()
    with attach(base, prepared) as live:
        for r in (2, 4):
            live.set_rank(r)
            save_adapter(prepared.at(r), tmp_path / f"r{r}")
            theirs = load_with_peft(tiny_llama(), tmp_path / f"r{r}")
            assert torch.equal(logits(base), logits(theirs))


def test_the_alpha_of_older_mlx(mlx):
    edit(mlx / CONFIG, lora_parameters={"rank": 4, "scale": 10.0, "alpha": 8.0})
    assert load_adapter(mlx).alpha == 20.0


@pytest.mark.parametrize(
    ("fields", "tensors", "message"),
    [
        ({"fine_tune_type": "full"}, {}, "fine_tune_type"),
        ({}, {f"{Q}.bias": torch.ones(4)}, "beside its factors"),
        ({}, {f"embed_tokens.lora_{s}": torch.ones(4, 4) for s in "ab"}, "adapts embeddings"),
    ],
)
def test_what_is_refused_of_mlx(mlx, fields, tensors, message):
    edit(mlx / CONFIG, **fields)
    edit_tensors(mlx / "adapters.safetensors", lambda there: there.update(tensors))
    with pytest.raises(CheckpointError, match=message):
        load_adapter(mlx)
