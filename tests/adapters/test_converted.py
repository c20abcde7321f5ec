"""Adapters of MLX and llama.cpp, from files that those tools wrote themselves.

``data/`` holds them, each of rank 4 for ``tiny_llama``: ``mlx`` and ``mlx_dora`` are mlx-lm
0.32.2's (``linear_to_lora_layers``, scale 2.5), ``torchtune`` is an ``epoch_0`` folder of torchtune
0.6.1's ``FullModelHFCheckpointer`` (α = 6), in PEFT's own format, and the GGUF files are what
``convert_lora_to_gguf.py`` of llama.cpp (2026-10) makes of ``save_with_peft(tiny_llama(), r=4,
lora_alpha=6)``. When they were made, the live models gave the tools' own logits: MLX within 9e-8,
torchtune within 3e-7.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from support.adapters import (
    LLAMA_TARGETS,
    dense,
    load_with_peft,
    logits,
    save_with_peft,
    tiny_llama,
)
from support.hostile_files import one_line, refused, run_aurac

from aurac.adapters import Nesting, attach, load_adapter, prepare, save_adapter, truncate
from aurac.adapters.formats.sidecar import save_sidecar
from aurac.errors import AuracError, CheckpointError

DATA = Path(__file__).parent / "data"
TORCHTUNE = DATA / "torchtune"


def load(path, **overrides):
    return load_adapter(path, base_model=tiny_llama(), **overrides)


@pytest.fixture
def mlx(tmp_path):
    return Path(shutil.copytree(DATA / "mlx", tmp_path / "mlx"))


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_llama().save_pretrained(folder)
    return folder


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_mlx_is_its_own_formula():
    adapter = load(DATA / "mlx")
    assert (adapter.format, adapter.base, adapter.name) == ("mlx", "tiny/base", "mlx")
    assert (adapter.rank, adapter.rule, adapter.alpha) == (4, "none", 2.5)
    assert adapter.nesting == Nesting("lora", (4,))
    raw = load_file(DATA / "mlx" / "adapters.safetensors")
    updates = {
        name: 2.5 * (raw[f"{name}.lora_a"].double() @ raw[f"{name}.lora_b"].double()).T
        for name in adapter.modules
    }
    assert len(updates) == 3
    base = tiny_llama()
    with attach(base, prepare(adapter)):
        ours = logits(base)
    torch.testing.assert_close(
        ours.double(), logits(dense(tiny_llama(), updates)), atol=1e-5, rtol=0
    )


def test_the_dora_of_mlx_is_its_own_formula():
    adapter = load(DATA / "mlx_dora")
    assert adapter.dora
    base, raw = tiny_llama().double(), load_file(DATA / "mlx_dora" / "adapters.safetensors")
    for name in adapter.modules:
        weight = base.get_submodule(name).weight
        A, B, m = (raw[f"{name}.{part}"].double() for part in ("lora_a", "lora_b", "m"))
        adapted = weight.data + 2.5 * (A @ B).T
        weight.data = m[:, None] / adapted.norm(dim=1, keepdim=True) * adapted
    ours = tiny_llama()
    with attach(ours, prepare(adapter)):
        torch.testing.assert_close(logits(ours).double(), logits(base), atol=1e-5, rtol=0)
    assert any("DoRA" in note for note in adapter.notes)


@pytest.mark.parametrize(("name", "apart"), [("lora_f32", 0.0), ("lora_q8_0", 0.01)])
def test_gguf_gives_the_peft_adapter_that_it_was_made_from(name, apart, tmp_path):
    config = {"r": 4, "lora_alpha": 6, "target_modules": LLAMA_TARGETS, "task_type": "CAUSAL_LM"}
    theirs = save_with_peft(tiny_llama(), tmp_path / "peft", **config)
    adapter, original = load(DATA / f"{name}.gguf"), load_adapter(tmp_path / "peft")
    assert (adapter.format, adapter.rule, adapter.alpha) == ("gguf", "rank", 6.0)
    assert set(adapter.modules) == set(original.modules)
    if not apart:
        for module, f in original.modules.items():
            assert torch.equal(f.A, adapter.modules[module].A)
            assert torch.equal(f.B, adapter.modules[module].B)
    base = tiny_llama()
    with attach(base, prepare(adapter)):
        torch.testing.assert_close(logits(base), logits(theirs.eval()), atol=apart, rtol=0)


@pytest.mark.parametrize("path", [DATA / "mlx", TORCHTUNE, DATA / "lora_f32.gguf"], ids=str)
@pytest.mark.parametrize("basis", ["prefix", "svd"])
def test_each_is_truncated_and_exported_as_plain_peft(path, basis, tmp_path):
    prepared = prepare(load(path), basis)
    base = tiny_llama()
    with attach(base, prepared) as live:
        live.set_rank(2)
        save_adapter(prepared.at(2), tmp_path / "r2")
        assert torch.equal(logits(base), logits(load_with_peft(tiny_llama(), tmp_path / "r2")))


def test_a_side_car_is_kept_and_read(mlx, tmp_path):
    save_sidecar(load(mlx, base="another"))
    assert load(mlx).base == "another"
    copy = Path(shutil.copy(DATA / "lora_f32.gguf", tmp_path))
    save_sidecar(load(copy, method="matryoshka", nested_ranks=[2, 4], base="b"))
    assert (load(copy).nesting, load(copy).base) == (Nesting("matryoshka", (2, 4)), "b")


def test_the_alpha_of_older_mlx(mlx):
    fields = {"rank": 4, "scale": 10.0, "alpha": 8.0}
    edit(mlx, lora_parameters=fields)
    assert load(mlx).alpha == 20.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fine_tune_type": "full"}, "fine_tune_type = 'full'"),
        ({"lora_parameters": None}, "no lora_parameters"),
        ({"lora_parameters": {"rank": 4}}, "no lora_parameters with rank and scale"),
        ({"lora_parameters": {"rank": "4", "scale": 1.0}}, "rank = '4'"),
        ({"lora_parameters": {"rank": 4, "scale": "x"}}, "scale = 'x'"),
        ({"lora_parameters": {"rank": 8, "scale": 1.0}}, "of rank 4 .*expected .*rank 8"),
    ],
)
def test_configs_of_mlx_that_are_refused(mlx, fields, message):
    edit(mlx, **fields)
    with pytest.raises(CheckpointError, match=message):
        load(mlx)


def test_tensors_of_mlx_that_are_refused(mlx):
    weights = mlx / "adapters.safetensors"
    good = load_file(weights)
    name = "model.layers.1.self_attn.q_proj"
    for change, message in [
        ({f"{name}.bias": torch.ones(4)}, "beside its factors"),
        ({f"{name}.lora_a": torch.ones(2, 4, 32)}, "factors of shapes"),
        ({f"{name}.lora_a": torch.full((32, 4), torch.nan)}, "NaN"),
        ({"model.embed_tokens.lora_a": good[f"{name}.lora_a"].clone()}, "only lora_A"),
    ]:
        save_file({**good, **change}, weights)
        with pytest.raises(CheckpointError, match=message):
            load(mlx)


def write_gguf(path, *, arch="llama", kind="lora", alpha=6.0, tokens=None, **tensors):
    writer = GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    if tokens:
        writer.add_array("adapter.alora.invocation_tokens", tokens)
    for name, shape in tensors.items():
        key = name.replace("__", ".")
        writer.add_tensor(key, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


PAIR = {"blk__0__ffn_up__weight__lora_a": (4, 32), "blk__0__ffn_up__weight__lora_b": (48, 4)}


def test_gguf_as_llama_cpp_computes_it(tmp_path):
    plain = load(write_gguf(tmp_path / "a.gguf", alpha=0.0, **PAIR))
    assert (plain.rule, plain.alpha) == ("none", 1.0)  # α = 0 means no scale at all
    normed = load(write_gguf(tmp_path / "b.gguf", blk__0__attn_norm__weight=(32,), **PAIR))
    assert normed.notes == ("1 norm weights are left out, as in llama.cpp",)
    assert list(normed.modules) == ["model.layers.0.mlp.up_proj"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arch": "mamba"}, "architecture mamba"),
        ({"kind": "control"}, "no LoRA adapter"),
        ({"alpha": float("nan")}, "alpha nan"),
        ({"tokens": [1, 2]}, "aLoRA"),
        ({"blk__0__ffn_down__weight__lora_a": (4, 48)}, "only lora_A"),
        ({"blk__0__ffn_up__weight": (48, 32)}, "beside its factors"),
        ({"blk__9__ffn_up__weight__lora_a": (4, 32)} | {"blk__9__ffn_up__weight__lora_b": (48, 4)},
         "no linear layer of the base"),
    ],
)  # fmt: skip
def test_gguf_files_that_are_refused(fields, message, tmp_path):
    path = write_gguf(tmp_path / "x.gguf", **{**PAIR, **fields})
    with pytest.raises(CheckpointError, match=message):
        load(path)


def test_the_command_line_asks_for_the_base_and_reads_it(base_folder, tmp_path):
    copy = Path(shutil.copy(DATA / "lora_f32.gguf", tmp_path))
    assert "give --base" in refused(copy)
    code, out, _ = run_aurac("inspect", copy, "--base", base_folder, "--json")
    assert code == 0
    assert json.loads(out)["format"] == "gguf"
    assert "--a-key" not in refused(copy, "--base", base_folder, "--enable-lora", "1,0,1")


@pytest.mark.parametrize("seed", range(40))
def test_gguf_files_that_lie(seed, base_folder, tmp_path):
    """Cut short, or with a changed byte of the header: one line, or an adapter that is whole."""
    content = bytearray((DATA / "lora_q8_0.gguf").read_bytes())
    rng = np.random.default_rng(seed)
    if seed % 2:
        content = content[: int(rng.integers(0, len(content)))]
    else:
        content[int(rng.integers(0, 2500))] = int(rng.integers(0, 256))
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    try:
        adapter = load(path)
    except AuracError as error:
        one_line(error)
    else:
        assert truncate(adapter, 1).rank == 1


@pytest.mark.parametrize("at", [8, 16], ids=["tensors", "fields"])
def test_gguf_files_that_claim_exabytes(at, base_folder, tmp_path):
    content = bytearray((DATA / "lora_f32.gguf").read_bytes())
    content[at : at + 8] = struct.pack("<Q", 2**60)
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    assert "not a readable GGUF file" in refused(path, "--base", base_folder)
