"""Cells on disk: keys, checksums, damage, atomic writing."""

from __future__ import annotations

import dataclasses
import errno
import json
import subprocess
import sys

import pytest

from aurac.errors import RunFolderError
from aurac.files import json_by_key, link_or_copy, sweep_scraps, write_atomic, write_json
from aurac.hashing import sha256_json
from aurac.machine import process_mark
from aurac.runs.lock import Leases
from aurac.runs.log import RunLog
from aurac.runs.provenance import CellIdentity, differences
from aurac.runs.store import CellStore, read_cell

IDENTITY = CellIdentity(
    adapter_sha256="a" * 64,
    base_sha256="b" * 64,
    rank=4,
    basis="prefix",
    rescale="rule",
    fit_factor=None,
    task="t",
    task_version="1",
    documents_sha256="c" * 64,
    prompts_sha256="d" * 64,
    dtype="float32",
    device_kind="cpu",
    batching="x",
    lm_eval="0.4.13",
)
CONTENT = {"doc_ids": ["0", "1"], "metrics": {"acc,none": [1.0, 0.0]}, "responses": ["a", "b"]}


def test_a_cell_comes_back_as_it_was(tmp_path):
    store = CellStore(tmp_path)
    assert store.get(IDENTITY) is None
    path = store.put(IDENTITY, CONTENT)
    cell = store.get(IDENTITY)
    assert {k: cell[k] for k in CONTENT} == CONTENT
    assert cell["identity"]["rank"] == 4
    assert path.name == f"{IDENTITY.key}.json"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(CellIdentity)])
def test_every_field_changes_the_key(field):
    other = dataclasses.replace(IDENTITY, **{field: 7 if field != "fit_factor" else 2.0})
    assert other.key != IDENTITY.key


def test_a_flipped_bit_anywhere_is_never_a_wrong_number(tmp_path, caplog):
    store = CellStore(tmp_path)
    path = store.put(IDENTITY, CONTENT)
    whole = path.read_bytes()
    good = store.get(IDENTITY)
    damaged = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 2]) + whole[position + 1 :])
        found = store.get(IDENTITY)
        if found is None:
            damaged += 1
        else:  # white space between tokens is not content
            assert found == good
    assert damaged > len(whole) / 7 * 0.6
    assert "is computed again" in caplog.text


@pytest.mark.parametrize("cut", [0, 1, 40, -2])
def test_a_torn_file_is_recomputed(tmp_path, cut):
    store = CellStore(tmp_path)
    path = store.put(IDENTITY, CONTENT)
    path.write_bytes(path.read_bytes()[:cut])
    assert store.get(IDENTITY) is None
    with pytest.raises(ValueError, match=r"unreadable|checksum|schema"):
        read_cell(path)


def test_a_cell_of_another_schema_is_not_read(tmp_path):
    path = CellStore(tmp_path).put(IDENTITY, CONTENT)
    cell = json.loads(path.read_text())
    del cell["checksum"]
    cell["schema"] = 2
    path.write_text(json.dumps({**cell, "checksum": sha256_json(cell)}))
    with pytest.raises(RunFolderError, match=r"schema 2, written by a newer aurac.*update aurac"):
        read_cell(path)
    cell["schema"] = "none"
    path.write_text(json.dumps({**cell, "checksum": sha256_json(cell)}))
    with pytest.raises(ValueError, match="no record of schema 1"):
        read_cell(path)


def test_a_field_that_is_added_later_needs_no_new_schema(tmp_path):
    store = CellStore(tmp_path)
    store.put(IDENTITY, {**CONTENT, "invented_later": [1]})
    assert store.get(IDENTITY)["metrics"] == CONTENT["metrics"]


def test_a_cell_under_the_name_of_another_is_not_used(tmp_path):
    store = CellStore(tmp_path)
    other = dataclasses.replace(IDENTITY, rank=8)
    store.put(IDENTITY, CONTENT).rename(store.path(other))
    assert store.get(other) is None


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path, monkeypatch):
    target = tmp_path / "x.json"
    write_json(target, {"a": 1})

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomic(target, "new")
    assert json.loads(target.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_files_are_for_whom_the_umask_lets(tmp_path, group_writes):
    folder = tmp_path / "run"
    write_atomic(folder / "a", "x")
    write_json(folder / "b", 1, exclusive=True)
    with RunLog(folder) as log, Leases(folder) as leases:
        log.event("begin")
        assert leases.acquire("k")
        assert len(list(folder.rglob("*"))) == 8
        assert group_writes(folder) == {"drwxrwxr-x", "-rw-rw-r--"}


@pytest.mark.parametrize("links", [True, False])
def test_an_exclusive_write_leaves_what_is_there(tmp_path, monkeypatch, links):
    def none(*_):
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr("os.link", none)
    write_json(tmp_path / "x.json", 1, exclusive=True)
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "x.json", 2, exclusive=True)
    assert json.loads((tmp_path / "x.json").read_text()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_follows_the_file_that_replaced_the_first(tmp_path, monkeypatch, links):
    def refuse(*_args, **_options):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    source, target = tmp_path / "a", tmp_path / "below" / "b"
    for content in ("old", "new"):
        write_atomic(source, content)
        for _ in range(2):
            link_or_copy(source, target)
            assert target.read_text() == content
    assert [path.name for path in target.parent.iterdir()] == ["b"]
    assert target.samefile(source) == links


def test_a_failure_is_a_record_that_a_cell_replaces(tmp_path):
    store = CellStore(tmp_path)
    store.fail(IDENTITY, {"reason": "RuntimeError: x"})
    assert store.failed_keys() == {IDENTITY.key}
    assert store.failure(IDENTITY.key)["reason"] == "RuntimeError: x"
    assert store.keys() == set()
    store.put(IDENTITY, CONTENT)
    assert store.failed_keys() == set()
    assert store.keys() == {IDENTITY.key}


def test_scraps_of_a_killed_process_are_removed_and_those_of_a_living_one_are_not(tmp_path):
    """The child is killed between writing its temporary file and moving it into place."""
    script = (
        "import os, signal, sys; from pathlib import Path; from aurac import files\n"
        "files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_json(Path(sys.argv[1]) / 'x.json', [1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    mine = tmp_path / f".y.json.{process_mark()}.abc"
    mine.write_text("{")
    assert sweep_scraps(tmp_path) == 1
    assert list(tmp_path.iterdir()) == [mine]
    (tmp_path / "documents").mkdir()
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "documents")], check=False)
    assert len(list((tmp_path / "documents").iterdir())) == 1
    CellStore(tmp_path).tidy()
    assert list((tmp_path / "documents").iterdir()) == []


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_what_forbids_a_comparison():
    a = IDENTITY.to_dict()
    same = dataclasses.replace(IDENTITY, rank=8, rescale="keep", adapter_sha256="z").to_dict()
    assert differences(a, same) == []
    other = dataclasses.replace(IDENTITY, dtype="bfloat16", prompts_sha256="e").to_dict()
    assert differences(a, other) == ["prompts_sha256", "dtype"]


def test_json_by_key_is_the_same_value_a_line_for_each_key():
    value = {"a": [1, 2.5, None], 'odd "key"\n': {"b": "é\n"}, "c": True}
    text = json_by_key(value)
    assert json.loads(text) == value
    assert list(json.loads(text)) == list(value)
    assert len(text.splitlines()) == len(value) + 2
    assert json.loads(json_by_key({})) == {}
    with pytest.raises(ValueError, match="Out of range"):
        json_by_key({"a": float("inf")})
