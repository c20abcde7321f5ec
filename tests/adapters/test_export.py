"""Streaming: the same bytes as the path that holds everything, and never more than one module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import random_adapter, save_with_peft, tiny_llama
from support.peft_rows import make

from aurac.adapters import Nesting, load_adapter, save_adapter, truncate
from aurac.adapters.export import save_truncations
from aurac.adapters.formats.storage import SafetensorsFile, SafetensorsWriter
from aurac.adapters.inspect import describe
from aurac.adapters.linalg import all_finite, tall_qr, triangle
from aurac.errors import CheckpointError, RankError, RunFolderError, UsageError

NESTED = Nesting("matryoshka", (1, 2, 4))
LM = {"task_type": "CAUSAL_LM"}


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def plain(folder):
    save_adapter(random_adapter(tiny_llama(), 4, nesting=NESTED, dtype=torch.bfloat16), folder)


def embeddings_and_extras(folder):
    save_with_peft(
        tiny_llama(),
        folder,
        r=4,
        target_modules=["embed_tokens", "q_proj"],
        modules_to_save=["lm_head"],
        rank_pattern={"q_proj": 2},
        **LM,
    )


def experts(folder):
    make("target_parameters (experts)", folder)


@pytest.mark.parametrize("build", [plain, embeddings_and_extras, experts])
@pytest.mark.parametrize(
    "how", [("prefix", None), ("prefix", "keep"), ("svd", "keep")], ids=lambda h: f"{h[0]}-{h[1]}"
)
def test_the_same_bytes_as_in_memory(build, how, tmp_path):
    source = tmp_path / "source"
    build(source)
    basis, rescale = how
    lazy = load_adapter(source, lazy=True)
    assert all(f.A.is_meta and f.B.is_meta for f in lazy.modules.values())
    places = {r: tmp_path / f"streamed{r}" for r in (1, 3, 4)}
    written = save_truncations(lazy, places, basis=basis, rescale=rescale)
    whole = load_adapter(source)
    for r, place in places.items():
        cut = truncate(whole, r, basis=basis, rescale=rescale)
        save_adapter(cut, tmp_path / f"memory{r}")
        assert files(place) == files(tmp_path / f"memory{r}")
        assert written[r].parameters(written[r].rank) == cut.parameters(cut.rank)
        assert written[r].derived == cut.derived
        parent = json.loads((place / "aurac.json").read_text())["derived"]["from_sha256"]
        card = (place / "README.md").read_text()
        assert card.count(parent) == 1
        assert f"\nRank {cut.rank} of a " in card
        assert f"to rank {r} (basis {basis}, rescale " in card


def test_an_adapter_in_memory_streams_too(tmp_path):
    adapter = random_adapter(tiny_llama(), 4)
    save_truncations(adapter, {2: tmp_path / "a"})
    save_adapter(truncate(adapter, 2), tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_one_module_is_read_at_a_time(tmp_path, monkeypatch):
    plain(tmp_path / "a")
    adapter = load_adapter(tmp_path / "a", lazy=True)
    alive = []
    read = SafetensorsFile.read

    def watched(self, key):
        import weakref

        tensor = read(self, key)
        alive.append(weakref.ref(tensor.untyped_storage()))
        held.append(sum(ref() is not None for ref in alive))
        return tensor

    held: list[int] = []
    monkeypatch.setattr(SafetensorsFile, "read", watched)
    save_truncations(adapter, {1: tmp_path / "r1", 2: tmp_path / "r2"}, rescale="keep")
    assert len(held) == 2 * len(adapter.modules)
    assert max(held) <= 4  # A and B of the module at hand and of the one before it


def test_the_hash_and_the_description_of_an_outline_are_the_adapters(tmp_path):
    plain(tmp_path / "a")
    whole, lazy = load_adapter(tmp_path / "a"), load_adapter(tmp_path / "a", lazy=True)
    assert lazy.sha256 == whole.sha256
    assert describe(load_adapter(tmp_path / "a", lazy=True)) == describe(whole)
    again = lazy.loaded()
    for name, f in whole.modules.items():
        assert torch.equal(again.modules[name].A, f.A)
        assert torch.equal(again.modules[name].B, f.B)
    save_adapter(lazy, tmp_path / "b")
    assert (
        files(tmp_path / "a")["adapter_model.safetensors"]
        == (files(tmp_path / "b")["adapter_model.safetensors"])
    )


def test_nothing_is_left_when_the_last_module_is_bad(tmp_path):
    plain(tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    state = load_file(weights)
    last = max(state)
    save_file({**state, last: torch.full_like(state[last], float("nan"))}, weights)
    adapter = load_adapter(tmp_path / "a", lazy=True)  # an outline says nothing about numbers
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        save_truncations(adapter, {1: tmp_path / "r1", 2: tmp_path / "r2"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        describe(adapter)


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    plain(tmp_path / "a")
    adapter = load_adapter(tmp_path / "a", lazy=True)
    os.truncate(tmp_path / "a" / "adapter_model.safetensors", 4000)
    with pytest.raises(CheckpointError, match=r"cannot read .*lora_B.*; copy or download"):
        adapter.loaded()


def test_requests_that_are_refused_before_anything_is_written(tmp_path):
    plain(tmp_path / "a")
    adapter = load_adapter(tmp_path / "a", lazy=True)
    with pytest.raises(RankError):
        save_truncations(adapter, {5: tmp_path / "x"})
    with pytest.raises(UsageError, match="keep or fit"):
        save_truncations(adapter, {1: tmp_path / "x"}, basis="svd", rescale="rule")
    with pytest.raises(RunFolderError, match="already there"):
        save_truncations(adapter, {1: tmp_path / "x", 2: tmp_path / "a"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    plain(tmp_path / "a")
    adapter = load_adapter(tmp_path / "a", lazy=True)

    def full(self, key, tensor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SafetensorsWriter, "put", full)
    with pytest.raises(RunFolderError, match="No space left"):
        save_truncations(adapter, {1: tmp_path / "r1", 2: tmp_path / "r2"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


PEAK = """
import re, sys
import torch
from aurac.cli import main
def kilobytes(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
libraries = kilobytes("RssFile")
try:
    main()
except SystemExit as end:
    status = end.code
print("PEAK", kilobytes("VmHWM") - libraries)
sys.exit(status)
"""


def peak_megabytes(tmp_path, modules, *arguments):
    """Peak memory of a command on an adapter of 4 MB modules, zeros in a sparse file.

    Pages of the libraries' files are left out: how many are resident depends on the page cache.
    """
    folder = tmp_path / f"modules{modules}"
    if not folder.exists():
        outline = {}
        for k in range(modules):
            key = f"base_model.model.model.layers.{k}.mlp.up_proj"
            outline[f"{key}.lora_A.weight"] = torch.empty(16, 65536, device="meta").bfloat16()
            outline[f"{key}.lora_B.weight"] = torch.empty(65536, 16, device="meta").bfloat16()
        folder.mkdir()
        SafetensorsWriter(folder / "adapter_model.safetensors", outline)
        config = {"peft_type": "LORA", "r": 16, "target_modules": ["up_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, arguments[0], str(folder), *map(str, arguments[1:])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rpartition("PEAK")[2]) / 1000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own count")
def test_memory_does_not_grow_with_the_adapter(tmp_path):
    for k, arguments in enumerate(
        [("truncate", "--ranks", "1,4", "--out"), ("inspect", "--ranks")]
    ):
        few, many = (
            peak_megabytes(tmp_path, n, *arguments, tmp_path / f"out{k}-{n}" if k == 0 else "1")
            for n in (2, 60)
        )
        assert many < few + 40  # 232 MB more of adapter
        assert many < 2 * 4.2 + 240


def test_the_writer_is_the_librarys_to_the_byte(tmp_path):
    state = {
        "b.half": torch.randn(3, 5).half(),
        "a.brain": torch.randn(2, 3).bfloat16(),
        "z": torch.randn(4).double(),
        "é\n": torch.randn(2, 2),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(1.5),
    }
    save_file(state, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    writer = SafetensorsWriter(tmp_path / "written.safetensors", state)
    for key in reversed(list(state)):
        writer.put(key, state[key])
    writer.finish()
    written, theirs = (tmp_path / f"{who}.safetensors" for who in ("written", "theirs"))
    assert written.read_bytes() == theirs.read_bytes()
    read = SafetensorsFile(tmp_path / "written.safetensors")
    for key, tensor in load_file(tmp_path / "written.safetensors").items():
        assert torch.equal(tensor, state[key])
        assert torch.equal(read.read(key), state[key])
    for key, outline in read.outline().items():
        assert (outline.dtype, outline.shape) == (state[key].dtype, state[key].shape)
        assert outline.is_meta


def test_the_writer_holds_its_header_true(tmp_path):
    state = {"a": torch.ones(2), "b": torch.ones(3)}
    writer = SafetensorsWriter(tmp_path / "x", state)
    with pytest.raises(ValueError, match="not Span"):
        writer.put("a", torch.ones(3))
    writer.put("a", state["a"])
    with pytest.raises(ValueError, match="1 tensors were not written: b"):
        writer.finish()


@pytest.mark.parametrize("rows", [3, 4096, 9001])
def test_a_factorisation_by_blocks_of_rows(rows):
    g = torch.Generator().manual_seed(0)
    matrix = torch.randn(2, rows, 7, generator=g, dtype=torch.float64)
    matrix[..., 3] = matrix[..., 2]  # rank-deficient
    columns = torch.arange(1.0, 8.0, dtype=torch.float64)
    wanted = matrix * columns
    qr = tall_qr(matrix, columns)
    k = qr.r.shape[-2]
    Q = torch.zeros(2, rows, k, dtype=torch.float64)
    qr.write(torch.eye(k, dtype=torch.float64), Q)
    assert k == min(rows, 7)
    torch.testing.assert_close(Q @ qr.r, wanted, rtol=1e-12, atol=1e-12)
    eye = torch.eye(k, dtype=torch.float64).expand(2, k, k)
    torch.testing.assert_close(Q.mT @ Q, eye, rtol=1e-12, atol=1e-12)
    R = triangle(wanted)
    torch.testing.assert_close(R.mT @ R, wanted.mT @ wanted, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_numbers_that_are_not_finite_are_seen(dtype):
    for size in (1, 7, 1000):
        for place in (0, size // 2, size - 1):
            for bad in (float("nan"), float("inf"), float("-inf")):
                x = torch.ones(size, dtype=dtype)
                assert all_finite(x)
                x[place] = bad
                assert not all_finite(x)
