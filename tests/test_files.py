"""Files are written whole or not at all; a packed folder is read as it is."""

from __future__ import annotations

import lzma
import os
import tarfile

import pytest

from aurac.errors import RunFolderError
from aurac.files import fresh_folder, packed, sha256_json, write_json


def _names(folder):
    return [path.name for path in folder.iterdir()]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))

    def full(_):
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"a": 2})
    assert path.read_bytes() == before
    assert _names(tmp_path) == ["a.json"]


def test_a_folder_appears_whole_or_stays_as_it_was(tmp_path):
    target = tmp_path / "folder"
    with fresh_folder(target) as made:
        (made / "a").write_text("1")
    with pytest.raises(ZeroDivisionError), fresh_folder(target):
        _ = 1 / 0
    assert (target / "a").read_text() == "1"
    with fresh_folder(target, replace=True) as made:
        (made / "b").write_text("3")
    assert _names(tmp_path) == ["folder"]
    assert _names(target) == ["b"]


def test_of_two_that_fill_a_new_folder_at_once_the_first_stays(tmp_path):
    slow = fresh_folder(tmp_path / "f")
    (slow.__enter__() / "file").write_text("second")
    with fresh_folder(tmp_path / "f") as quick:
        (quick / "file").write_text("first")
    with pytest.raises(OSError, match="not empty"):
        slow.__exit__(None, None, None)
    assert (tmp_path / "f/file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_packed_folder_is_read_as_it_is(tmp_path):
    cells = tmp_path / "cells"
    cells.mkdir()
    (cells / "a.jsonl").write_text("inside")
    with tarfile.open(tmp_path / "cells.tar.xz", "w:xz") as tar:
        tar.add(cells, "cells")
    (cells / "a.jsonl").unlink()
    assert dict(packed(cells)) == {"a.jsonl": b"inside"}
    assert packed(tmp_path / "other") == {}
    (tmp_path / "cells.tar.xz").write_bytes(lzma.compress(b"no archive" * 100)[:-8])
    with pytest.raises(RunFolderError, match="cannot be read"):
        packed(cells)


def test_a_hash_is_that_of_the_value():
    assert sha256_json({"b": 1, "a": [1.5, None]}) == sha256_json({"a": [1.5, None], "b": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})
