"""Cells on disk: lines that were cut off or changed cost their examples alone."""

from __future__ import annotations

import os
import shutil
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made_runs import make_block, make_identity, make_keys

from aurac import files
from aurac.errors import RunFolderError
from aurac.records.cells import CellStore
from aurac.records.lines import Written, decode_line, encode_line

KEYS = make_keys(6)
IDENTITY = make_identity()


def blocks(*parts):
    return [
        make_block(
            part, {"acc,none": [int(k.id) % 2 for k in part]}, [f"answer {k.id}" for k in part]
        )
        for part in parts
    ]


def stored(folder, *lines):
    store = CellStore(folder)
    for line in lines:
        store.keep(IDENTITY, line)
    return store


def test_a_cell_grows_by_blocks(tmp_path):
    store = stored(tmp_path, *blocks(KEYS[:2], KEYS[2:5]))
    cell = store.read(IDENTITY.key)
    assert cell.identity == IDENTITY
    assert cell.missing(KEYS) == [5]
    assert cell.values("acc,none", KEYS[:5]) == [0, 1, 0, 1, 0]
    assert cell.responses([KEYS[4], KEYS[0]]) == ["answer 4", "answer 0"]
    assert cell.values("f1,none", KEYS[:5]) is None
    assert store.scores(IDENTITY.key).missing(KEYS) == [5]


def test_the_first_outcome_of_an_example_counts(tmp_path):
    twice = make_block(KEYS[:1], {"acc,none": [1]}, ["later"])
    cell = stored(tmp_path, *blocks(KEYS[:2]), twice).read(IDENTITY.key)
    assert cell.values("acc,none", KEYS[:1]) == [0]
    assert cell.responses(KEYS[:1]) == ["answer 0"]


def test_texts_are_the_references_that_are_written_and_the_texts_that_were_generated(tmp_path):
    whole = make_block(KEYS[:3], {"whole_completion,none": [1, 0, 0]})
    lines = whole, Written(documents=[], texts=[], failed="no server")
    store = stored(tmp_path, *lines)
    assert store.scores(IDENTITY.key).unwritten == "no server"
    for text in ("other", "later"):
        store.keep(IDENTITY, Written(documents=KEYS[1:2], texts=[text]))
    cell = store.scores(IDENTITY.key)
    assert (cell.texts(KEYS[:3], ["a", "b", "c"]), cell.unwritten) == (["a", "other", None], "")


def test_scores_are_read_again_when_the_file_has_grown(tmp_path):
    store = stored(tmp_path, *blocks(KEYS[:2]))
    first = store.scores(IDENTITY.key)
    assert store.scores(IDENTITY.key) is first
    CellStore(tmp_path).keep(IDENTITY, blocks(KEYS[2:])[0])
    assert store.scores(IDENTITY.key).missing(KEYS) == []


@given(st.data())
def test_a_file_cut_off_anywhere_has_the_blocks_before_and_can_go_on(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    store = stored(folder, *blocks(KEYS[:2], KEYS[2:4]))
    path = store.path(IDENTITY.key)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    os.truncate(path, cut)
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    kept = sum(cut >= end - 1 for end in ends)  # a line without its end is whole
    assert len(store.read(IDENTITY.key).places) == 2 * max(0, kept - 1)
    missing = [KEYS[at] for at in CellStore(folder).read(IDENTITY.key).missing(KEYS)]
    CellStore(folder).keep(IDENTITY, blocks(missing)[0])
    again = store.read(IDENTITY.key)
    assert again.missing(KEYS) == []
    assert again.values("acc,none", KEYS) == [0, 1, 0, 1, 0, 1]


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_seen(tmp_path_factory, at, change):
    line = bytearray(encode_line(blocks(KEYS)[0]))
    place = at % (len(line) - 1)
    line[place] ^= change
    try:
        changed = decode_line(bytes(line))
    except ValueError:
        return
    assert changed == blocks(KEYS)[0]  # white space between the parts of the line


def test_text_that_utf8_cannot_hold_is_spelt_out(tmp_path):
    block = make_block(KEYS[:1], {"acc,none": [1]}, ["half \ud83d"])
    assert stored(tmp_path, block).read(IDENTITY.key).responses(KEYS[:1]) == ["half \\ud83d"]


def test_a_metric_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="acc,none is not finite"):
        stored(tmp_path, make_block(KEYS[:1], {"acc,none": [float("nan")]}))


@pytest.fixture
def packed(tmp_path):
    """A run with two examples of a cell, in an archive."""
    stored(tmp_path, *blocks(KEYS[:2]))
    with tarfile.open(tmp_path / "cells.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "cells", "cells")
    shutil.rmtree(tmp_path / "cells")
    return tmp_path


def test_the_first_line_that_is_added_to_a_packed_run_unpacks_it(packed):
    assert CellStore(packed).read(IDENTITY.key).missing(KEYS) == [2, 3, 4, 5]
    store = CellStore(packed)
    store.keep(make_identity(rank=1), blocks(KEYS)[0])
    assert not (packed / "cells.tar.xz").exists()
    store.keep(IDENTITY, blocks(KEYS[2:])[0])
    assert store.read(IDENTITY.key).missing(KEYS) == []


@pytest.mark.parametrize("moment", ["before the archive is looked for", "once it was found"])
def test_a_cell_that_another_process_unpacks_at_that_moment_is_read(packed, monkeypatch, moment):
    name = "archive_of" if moment.startswith("before") else "_members"
    real = getattr(files, name)

    def unpacked_meanwhile(*given):
        monkeypatch.setattr(files, name, real)
        files.unpack(packed / "cells")
        files._members.cache_clear()
        return real(*given)

    files._members.cache_clear()
    monkeypatch.setattr(files, name, unpacked_meanwhile)
    assert CellStore(packed).read(IDENTITY.key).missing(KEYS) == [2, 3, 4, 5]


def test_a_folder_that_cannot_be_written_says_that_what_is_in_it_is_whole(tmp_path):
    (tmp_path / "cells").write_text("in the way")
    with pytest.raises(RunFolderError, match="is whole"):
        stored(tmp_path, *blocks(KEYS))
