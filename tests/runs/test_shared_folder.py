"""A run folder through interruptions, damage and faults, with a tiny model in this process."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import msgspec
import pytest
from small_runs import SMALL, TASK, assert_clean, curves, outcomes, random_adapter

from aurac.errors import RunFolderError
from aurac.records.cell import decode_scored, encode_line
from aurac.records.reader import read_run
from aurac.records.store import CellStore, read_cell
from aurac.runs.compare import compare
from aurac.runs.interrupts import Interrupted
from aurac.tasks.task import Evaluation


@pytest.fixture(scope="module")
def adapter(tiny_base_folder, tmp_path_factory):
    return random_adapter(tiny_base_folder, tmp_path_factory.mktemp("adapters") / "mine", rank=8)


@pytest.fixture(scope="module")
def undisturbed(adapter, tmp_path_factory):
    return compare([adapter], [TASK], out=tmp_path_factory.mktemp("whole") / "run", **SMALL).folder


def test_an_interrupted_cell_goes_on_where_it_was(adapter, tmp_path, monkeypatch):
    """Blocks of two documents; the signal comes in the second block of the third cell."""
    out = tmp_path / "run"
    monkeypatch.setattr("aurac.runs.plan.BLOCK_DOCUMENTS", {"cpu": 2})
    whole = compare([adapter], [TASK], out=tmp_path / "whole", **SMALL)
    block, places = Evaluation.block, []

    def noted(self, documents, progress=None):
        places.append(list(documents))
        if len(places) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return block(self, documents, progress)

    monkeypatch.setattr(Evaluation, "block", noted)
    with pytest.raises(Interrupted):
        compare([adapter], [TASK], out=out, **SMALL)
    counts = sorted(CellStore(out).count(key) for key in CellStore(out).keys())  # noqa: SIM118
    assert counts == [2, 5, 5]
    compare([adapter], [TASK], out=out, **SMALL)
    assert places[8:] == [[2, 3], [4], *[[0, 1], [2, 3], [4]] * 2]
    assert curves(out) == curves(whole.folder)
    for path in (whole.folder / "cells").iterdir():
        assert outcomes(read_cell(path)) == outcomes(read_cell(out / "cells" / path.name))
    assert_clean(out)


def test_a_folder_without_its_plan_or_with_cells_deleted_is_made_whole(adapter, tmp_path):
    out = tmp_path / "run"
    compare([adapter], [TASK], out=out, **SMALL)
    before = curves(out)
    (out / "plan.jsonl").write_bytes((out / "plan.jsonl").read_bytes()[:50])
    (out / "results.json").unlink()
    for path in list((out / "cells").iterdir())[::2]:
        path.unlink()
    compare([adapter], [TASK], out=out, **SMALL)
    assert curves(out) == before


@pytest.mark.parametrize("name", ["report.md", "results.json"])
def test_a_report_that_cannot_be_written_is_not_done(
    adapter, undisturbed, tmp_path, monkeypatch, name
):
    """The disk is full at one file of the report; the same command writes the rest."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (out / "report.md").unlink()
    really = os.replace

    def refuse(source, target, **more):
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        really(source, target, **more)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", refuse)
        with pytest.raises(RunFolderError, match="No space left"):
            compare([adapter], [TASK], out=out, **SMALL)
    compare([adapter], [TASK], out=out, **SMALL)


def test_a_read_only_folder_is_one_line(adapter, undisturbed, monkeypatch):
    really = os.open

    def refuse(path, flags, *more, **named):
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return really(path, flags, *more, **named)

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(RunFolderError, match="Read-only file system"):
        compare([adapter], [TASK], out=undisturbed, ranks="1", **SMALL)


def test_a_flipped_cell_is_refused_and_unlike_cells_make_no_curve(adapter, tmp_path):
    """What reads a run without the store: `aurac score RUN` and the like."""
    out = tmp_path / "run"
    done = compare([adapter], [TASK], out=out, **SMALL)
    assert read_run(out)
    path = out / done.results.to_dict()["curves"][0]["cells"]["4"]
    head, block = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + block.replace(b"0.0", b"1.0", 1))
    with pytest.raises(RunFolderError, match="lacks 5 of 5 documents; give the command of the run"):
        read_run(out)
    path.write_bytes(head.replace(b'"rank":4', b'"rank":8') + block)
    with pytest.raises(RunFolderError, match="is missing or damaged"):
        read_run(out)
    cell, _ = decode_scored(head, "a cell")
    other = msgspec.structs.replace(cell.identity, dtype="bfloat16")
    path.write_bytes(encode_line(msgspec.structs.replace(cell, identity=other), 0) + block)
    with pytest.raises(RunFolderError, match="ranks 1 and 4 differ in dtype: they make no curve"):
        read_run(out)
