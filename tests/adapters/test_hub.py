"""Hub ids with revision and subfolder, from a cache in the hub's own layout, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.adapters import random_adapter, tiny_llama

from aurac.adapters import load_adapter, save_adapter
from aurac.errors import CheckpointError, UsageError

MAIN, TAG = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """owner/name: rank 2 on main, rank 4 at tag v1, rank 3 in the subfolder deep/er of v1."""
    from huggingface_hub import constants

    home = tmp_path / "hub"
    root = home / "models--owner--name"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(MAIN)
    (root / "refs" / "v1").write_text(TAG)
    for commit, inside, rank in ((MAIN, ".", 2), (TAG, ".", 4), (TAG, "deep/er", 3)):
        folder = root / "snapshots" / commit / inside
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tmp_path / f"rank{rank}"
        save_adapter(random_adapter(tiny_llama(), rank, names=["q_proj"]), scratch)
        folder.mkdir(exist_ok=True)
        for path in scratch.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return home


@pytest.mark.parametrize(
    ("name", "flags", "rank"),
    [
        ("owner/name", {}, 2),
        ("owner/name@v1", {}, 4),
        (f"owner/name@{TAG}", {}, 4),
        ("owner/name", {"revision": "v1"}, 4),
        ("owner/name@v1:deep/er", {}, 3),
        ("owner/name@v1", {"subfolder": "deep/er"}, 3),
        ("owner/name:deep/er", {"revision": "v1"}, 3),
        ("owner/name", {"revision": "v1", "subfolder": "deep/er"}, 3),
        ("owner/name@v1", {"revision": "v1"}, 4),
    ],
)
def test_each_way_to_name_it(hub, name, flags, rank):
    assert load_adapter(name, **flags).rank == rank
    assert load_adapter(name, lazy=True, **flags).rank == rank


@pytest.mark.parametrize(
    ("name", "flags", "error"),
    [
        ("owner/name@v2", {}, CheckpointError),
        ("owner/name", {"revision": "v2"}, CheckpointError),
        ("owner/other", {}, CheckpointError),
        ("owner/name", {"subfolder": "nowhere"}, CheckpointError),
        ("owner/name", {"subfolder": "../../.."}, CheckpointError),
        ("owner/name", {"revision": "../main"}, CheckpointError),
        ("owner/name@v1", {"revision": "main"}, UsageError),
        ("owner/name:a", {"subfolder": "b"}, UsageError),
    ],
)
def test_what_is_not_there_or_said_twice(hub, name, flags, error):
    with pytest.raises(error) as caught:
        load_adapter(name, **flags)
    assert "\n" not in str(caught.value)


def test_a_local_folder_takes_a_subfolder_but_no_revision(tmp_path):
    save_adapter(random_adapter(tiny_llama(), 2, names=["q_proj"]), tmp_path / "all" / "one")
    save_adapter(random_adapter(tiny_llama(), 3, names=["q_proj"]), tmp_path / "all" / "two")
    assert load_adapter(tmp_path / "all", subfolder="two").rank == 3
    with pytest.raises(UsageError, match="on this machine"):
        load_adapter(tmp_path / "all", revision="main")


def test_the_command_line(hub, tmp_path):
    place = {"PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_CACHE": str(hub)}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "aurac",
            "inspect",
            "owner/name",
            "--json",
            "--revision",
            "v1",
            "--subfolder",
            "deep/er",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **place, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trained_rank"] == 3
