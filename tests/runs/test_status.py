"""How a run stands, from listings alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import msgspec
import pytest
from click.testing import CliRunner
from runs_doubles import REQUEST, Task, planned, runner

from aurac.cli.runs import runs
from aurac.errors import RunFolderError
from aurac.files import process_mark
from aurac.runs.folder import (
    open_run_folder,
)
from aurac.runs.interrupts import Interrupted
from aurac.runs.lock import Locks
from aurac.runs.log import RunLog
from aurac.runs.status import PlanRow, add_to_plan, find_runs, read_plan, read_status, write_plan


@pytest.fixture
def folder(tmp_path):
    """Four cells: one done, one failed, one held by this process, one left."""

    def bad(_options):
        raise ValueError("why")

    cells = planned(Task("done", seconds=0.2), Task("bad", act=bad), Task("held"), Task("left"))
    folder = open_run_folder(tmp_path / "r", ["t"], REQUEST)
    write_plan(folder, [cell.row for cell in cells])
    with RunLog(folder) as log, Locks(folder) as locks:
        runner(folder, locks=locks, log=log).run(cells[:2])
        assert locks.acquire(cells[2].identity.key)
        yield folder


def test_documents_that_are_there_shorten_what_is_left(tmp_path, monkeypatch):
    """Two open cells of 4 documents, half of one done: 1.5 times the one that is done."""
    monkeypatch.setattr("aurac.runs.plan.BLOCK_DOCUMENTS", {"cpu": 2})

    def stop(_options):
        if half.blocks:
            raise Interrupted

    half = Task("half", n=4, act=stop)
    cells = planned(Task("done", n=4, seconds=0.1), half, Task("left", n=4))
    folder = open_run_folder(tmp_path / "r", ["t"], REQUEST)
    write_plan(folder, [cell.row for cell in cells])
    with RunLog(folder) as log:
        runner(folder, log=log).run(cells[:1])
        with pytest.raises(Interrupted):
            runner(folder, log=log).run(cells[1:2])
    status = read_status(folder)
    assert (status.total, status.done, status.left, status.state) == (3, 1, 2, "stopped")
    [seconds] = [
        event["seconds"]
        for path in (folder / "logs").iterdir()
        for event in map(json.loads, path.read_text().splitlines())
        if event["event"] == "cell"
    ]
    assert status.seconds_left == pytest.approx(1.5 * seconds)


def test_a_cell_is_done_by_the_documents_of_the_plan(folder):
    """A larger --limit opens cells again; a smaller one does not."""
    plan, _ = read_plan(folder)
    write_plan(folder, [msgspec.structs.replace(row, documents=4) for row in plan])
    assert read_status(folder).done == 0
    write_plan(folder, [msgspec.structs.replace(row, documents=2) for row in plan])
    assert read_status(folder).done == 1


def test_a_torn_cell_is_not_done(folder):
    [cell] = (folder / "cells").iterdir()
    cell.write_bytes(cell.read_bytes()[:-2])
    assert read_status(folder).done == 0


def test_done_running_failed_left(folder):
    status = read_status(folder)
    assert (status.total, status.done, status.running, status.failed, status.left) == (
        4,
        1,
        1,
        1,
        1,
    )
    assert status.state == "running"
    assert status.running_cells == ("base on held",)
    assert status.failures == ({"cell": "base on bad", "reason": "ValueError: why"},)
    assert status.processes == 1
    # Two cells are to come, each of as many requests as the one that took 0.2 s.
    assert 0.4 <= status.seconds_left < 2


def test_what_a_person_reads(folder):
    said = CliRunner().invoke(runs, ["status", str(folder)], standalone_mode=False).output
    assert "done 1 of 4, running 1, failed 1, left 1" in said
    assert "failed: base on bad: ValueError: why" in said
    listed = CliRunner().invoke(runs, [str(folder.parent), "--json"], standalone_mode=False).output
    [one] = json.loads(listed)
    assert (one["state"], one["done"], one["left"]) == ("running", 1, 1)


def test_a_run_whose_processes_ended_is_stopped(folder):
    [lock] = (folder / "locks").iterdir()
    content = lock.read_bytes()
    lock.write_bytes(content.replace(process_mark().encode(), _ended()))
    status = read_status(folder)
    assert (status.state, status.running, status.left) == ("stopped", 0, 2)
    lock.write_bytes(content)


def test_a_process_elsewhere_runs_while_its_lock_is_touched(folder):
    [lock] = (folder / "locks").iterdir()
    content = lock.read_bytes()
    lock.write_bytes(content.replace(process_mark().encode(), b"elsewhere-1-1"))
    assert read_status(folder).state == "running"
    os.utime(lock, (1, 1))
    assert read_status(folder).state == "stopped"
    lock.write_bytes(content)


def _ended():
    return process_mark().rsplit("-", 1)[0].encode() + b"-0"


@pytest.mark.parametrize("cut", [0, 1, 90, -3])
def test_a_truncated_plan_is_said_and_the_cells_are_counted(folder, cut):
    plan = folder / "plan.jsonl"
    whole = plan.read_bytes()
    plan.write_bytes(whole[:cut])
    status = read_status(folder)
    assert (status.total, status.done, status.failed) == (None, 1, 1)
    assert "the same command writes it again" in status.notes[0]
    plan.write_bytes(whole.replace(b'"t', b'"u').replace(b"done", b"gone"))
    assert read_plan(folder) == (None, 0)


def test_garbage_in_logs_and_locks_changes_only_the_estimate(folder):
    (folder / "logs/z.jsonl").write_bytes(b'\xff\xfe{"event": "cell"}\n[1]\n{"event": "cell", ')
    (folder / "locks/x.y.z").write_text("?")
    (folder / "locks/odd").write_bytes(b"\xff\xff")
    assert read_status(folder).done == 1


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RunFolderError, match="is no run folder"):
        read_status(tmp_path)
    assert find_runs(tmp_path) == []


def test_status_reads_no_cell_and_few_lines_of_logs(folder, monkeypatch):
    """That is why 10⁵ cells take a second (measured in `benchmarks/run_store.py`)."""
    for path in (folder / "failed").iterdir():
        path.write_text("unreadable")
    for path in (folder / "cells").iterdir():  # but for the number at its end
        path.write_bytes(b"unreadable" + path.read_bytes()[-30:])
    with next((folder / "logs").iterdir()).open("a") as log:
        log.writelines('{"event": "begin"}\n' for _ in range(20_000))
    monkeypatch.setattr("aurac.records.store.read_cell", None)
    status = read_status(folder)
    assert (status.done, status.failed) == (1, 1)
    assert status.seconds_left is None  # the line that told the pace is too far back


def test_the_plan_keeps_cells_that_are_not_asked_for_now(tmp_path):
    one, other = PlanRow("1", "a", 1, "t", 12, 3), PlanRow("2", "b", 1, "t", 12, 3)
    write_plan(tmp_path, [one, other])
    again = msgspec.structs.replace(one, key="3")
    add_to_plan(tmp_path, [again])
    assert read_plan(tmp_path) == ([again, other], 0)


def test_listing_runs_loads_no_model(folder):
    """Seconds of imports would be felt at every look."""
    script = (
        "import sys; sys.argv = ['aurac', 'runs', 'status', sys.argv[1], '--json']\n"
        "import aurac.cli\n"
        "try: aurac.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'lm_eval', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == 1
