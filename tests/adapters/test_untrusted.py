"""Files that nobody vouches for: each ends in one clear line, quickly, in little memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from support.adapters import random_adapter, tiny_llama
from support.hostile_files import LYING, folder_with, one_line, refused

from aurac.adapters import load_adapter, save_adapter
from aurac.errors import AuracError

OVERRIDES = {"method": "lora", "scaling": "rank", "alpha": 4.0}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    adapter = random_adapter(tiny_llama(), 4, names=["q_proj"])
    return save_adapter(adapter, tmp_path_factory.mktemp("good") / "adapter")


@pytest.fixture(scope="module")
def archive(good, tmp_path_factory):
    path = tmp_path_factory.mktemp("pt") / "x.pt"
    state = {}
    for name, f in load_adapter(good).modules.items():
        state[f"{name}.lora_A"], state[f"{name}.lora_B"] = f.A, torch.ones(48, 4)
    torch.save(state, path)
    load_adapter(path, **OVERRIDES)
    return path.read_bytes()


@pytest.mark.parametrize("name", LYING)
def test_safetensors_that_lie(good, tmp_path, name):
    refused(folder_with(tmp_path, good, weights=LYING[name]))


@pytest.mark.parametrize("at", range(60))
def test_truncated_safetensors(good, tmp_path, at):
    weights = (good / "adapter_model.safetensors").read_bytes()
    refused(folder_with(tmp_path, good, weights=weights[: len(weights) * at // 60]))


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bits_in_the_header(good, tmp_path, seed):
    """Flipping a bit of the header is refused, or leaves the very same tensors."""
    weights = bytearray((good / "adapter_model.safetensors").read_bytes())
    rng = np.random.default_rng(seed)
    length = struct.unpack("<Q", weights[:8])[0]
    weights[int(rng.integers(0, 8 + length))] ^= 1 << int(rng.integers(0, 7))
    folder = folder_with(tmp_path, good, weights=bytes(weights))
    try:
        same = load_adapter(folder)
    except AuracError as error:
        one_line(error)
    else:
        assert same.sha256 == load_adapter(good).sha256


CONFIGS = {
    "nothing": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"peft_type": "LORA", "r": "\xff"}',
    "a list": b"[]",
    "null": b"null",
    "a key twice": b'{"peft_type": "LORA", "r": 4, "r": 8}',
    "NaN": b'{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}',
    "infinity": b'{"peft_type": "LORA", "r": 4, "lora_alpha": 1e999}',
    "a number too long": b'{"peft_type": "LORA", "r": ' + b"9" * 10_000 + b"}",
    "deep": b'{"a":' * 100_000,
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_are_none(good, tmp_path, name):
    refused(folder_with(tmp_path, good, config=CONFIGS[name]))


WRONG = [
    "x",
    -1,
    0,
    1.5,
    True,
    [],
    [1],
    {},
    {"a": "b"},
    None,
    10**30,
    [None],
    "\0",
    {"(": 1},
    1e300,
]


@pytest.mark.parametrize(
    "field",
    [
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "peft_type",
        "target_modules",
        "modules_to_save",
        "use_rslora",
        "target_parameters",
    ],
)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_configs_of_wrong_types(good, tmp_path, field, value):
    """Each is refused, or means what the right one means."""
    config = json.loads((good / "adapter_config.json").read_text())
    folder = folder_with(tmp_path, good, config=json.dumps({**config, field: value}).encode())
    try:
        read = load_adapter(folder)
    except AuracError as error:
        one_line(error)
    else:
        whole = load_adapter(good)
        scaled = field in ("lora_alpha", "use_rslora", "alpha_pattern")
        same = [torch.equal(read.modules[n].A, f.A) for n, f in whole.modules.items()]
        assert all(same)
        assert scaled or read.alpha == whole.alpha


class Bomb:
    def __reduce__(self):
        return os.system, ("touch EXECUTED",)


def test_a_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bomb()}, tmp_path / "bomb.pt")
    assert "nothing in it was executed" in refused(tmp_path / "bomb.pt", **OVERRIDES)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "raw.pt", **OVERRIDES)
    assert not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize("at", range(1, 30))
def test_truncated_archives(archive, tmp_path, at):
    path = tmp_path / "x.pt"
    path.write_bytes(archive[: len(archive) * at // 30])
    refused(path, **OVERRIDES)


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bits_in_an_archive(archive, tmp_path, seed):
    data = bytearray(archive)
    rng = np.random.default_rng(seed)
    for _ in range(8):
        data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
    path = tmp_path / "x.pt"
    path.write_bytes(bytes(data))
    try:
        load_adapter(path, **OVERRIDES)
    except AuracError as error:
        one_line(error)


def rewritten(archive, change, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, change(record.filename, old.read(record)))
    return out.getvalue()


def test_a_compressed_archive_is_refused(archive, tmp_path):
    path = tmp_path / "x.pt"
    bomb = rewritten(
        archive, lambda n, d: b"\0" * 10**8 if n.endswith("data/0") else d, zipfile.ZIP_DEFLATED
    )
    path.write_bytes(bomb)
    assert "compressed archive" in refused(path, **OVERRIDES)


def test_a_shape_larger_than_its_storage_is_refused(tmp_path):
    huge = torch.ones(1).expand(2**18, 2**18)
    torch.save({"m.lora_A": huge, "m.lora_B": torch.ones(4, 4)}, tmp_path / "x.pt")
    assert "a shape that the file does not hold" in refused(tmp_path / "x.pt", **OVERRIDES)


def test_records_that_are_too_short_for_their_storage(archive, tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(rewritten(archive, lambda n, d: d[:8] if n.endswith("data/0") else d))
    refused(path, **OVERRIDES)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(4, 4).to_sparse(),
        torch.ones(4, 4, dtype=torch.complex64),
        torch.ones(4, 4, dtype=torch.bool),
        torch.ones(4, 4).to(torch.float8_e4m3fn),
        torch.empty(4, 4, device="meta"),
        torch.quantize_per_tensor(torch.ones(4, 4), 1.0, 0, torch.qint8),
    ],
    ids=["sparse", "complex", "bool", "float8", "meta", "quantised"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_kinds(tmp_path, tensor):
    torch.save({"m.lora_A": tensor, "m.lora_B": torch.ones(8, 4)}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", **OVERRIDES)


def test_places_that_are_no_files(good, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(AuracError):
        load_adapter(loop)
    dangling = tmp_path / "dangling"
    dangling.symlink_to("/nowhere/at/all")
    with pytest.raises(AuracError, match="leads nowhere"):
        load_adapter(dangling)
    folder = folder_with(tmp_path, good)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").mkdir()
    assert "not a regular file" in refused(folder)
    (folder / "adapter_model.safetensors").rmdir()
    os.mkfifo(folder / "adapter_model.safetensors")
    assert "not a regular file" in refused(folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").symlink_to("adapter_model.safetensors")
    refused(folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").symlink_to("/dev/zero")
    assert "not a regular file" in refused(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(good, tmp_path):
    folder = folder_with(tmp_path, good)
    (folder / "adapter_model.safetensors").chmod(0)
    refused(folder)


@pytest.mark.parametrize(
    "name",
    ["\0", "a" * 5000, "owner/name:../../etc", "owner/..", "http://x/y", "~nobody-here/x", "-"],
)
def test_names_that_are_tricks(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AuracError) as caught:
        load_adapter(name)
    assert "\n" not in str(caught.value)
