"""Around cells: sharing, failures, memory, signals, faults at every write."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from runs_doubles import Recorder, Task, planned, runner, stored

from aurac.engine import EngineOptions
from aurac.errors import BaseModelError, RunFolderError
from aurac.files import process_mark
from aurac.records.cell import CellIdentity, decode_scored
from aurac.records.store import CellStore
from aurac.runs.evaluator import LostDeviceError
from aurac.runs.interrupts import Interrupted, Interrupts
from aurac.runs.lock import Locks
from aurac.runs.log import RunLog
from aurac.runs.progress import NoProgress
from aurac.runs.runner import MOST_DEATHS, RunContext, Runner

BLOCKS_OF_TWO = pytest.mark.usefixtures("_blocks_of_two")


@pytest.fixture
def _blocks_of_two(monkeypatch):
    monkeypatch.setattr("aurac.runs.plan.BLOCK_DOCUMENTS", {"cpu": 2})


def blocks_in(folder, cell):
    """The blocks in a cell's file."""
    lines = CellStore(folder).path(cell.identity.key).read_bytes().splitlines()
    read = [decode_scored(line, "a cell")[0] for line in lines]
    return [line for line in read if hasattr(line, "budgets")]


# Blocks -----------------------------------------------------------------------------------------


@BLOCKS_OF_TWO
def test_a_cell_grows_by_what_is_missing_and_a_smaller_request_takes_its_part(tmp_path):
    def asked(n):
        task = Task("a", n=n)
        [cell] = cells = planned(task)
        seen = Recorder()
        runner(tmp_path, progress=seen).run(cells)
        assert sum(seen.counts) == n
        return cell, task.blocks

    first, blocks = asked(3)
    assert blocks == [[0, 1], [2]]
    cell, blocks = asked(7)
    assert blocks == [[3], [4, 5], [6]]
    assert cell.identity == first.identity
    whole = stored(tmp_path, cell)
    assert (whole.missing, whole.damaged) == ([], 0)
    assert whole.responses == [f"a{k}" for k in range(7)]
    again, blocks = asked(3)
    assert blocks == []
    part = stored(tmp_path, again)
    assert part.responses == ["a0", "a1", "a2"]
    assert part.metrics["acc,none"] == whole.metrics["acc,none"][:3]


@BLOCKS_OF_TWO
@pytest.mark.parametrize("line", range(5))
@pytest.mark.parametrize("damage", ["torn", "flip"])
def test_only_what_a_damaged_line_held_is_computed_again(tmp_path, line, damage):
    [cell] = cells = planned(Task("a", n=7))
    runner(tmp_path).run(cells)
    path = CellStore(tmp_path).path(cell.identity.key)
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "torn":
        lines[line:] = [lines[line][: len(lines[line]) // 2]]
    else:
        flipped = bytearray(lines[line])
        flipped[60] ^= 1
        lines[line] = bytes(flipped)
        CellStore(tmp_path).recount(cell.identity, 0)  # what the gathering does
        lines.append(path.read_bytes().splitlines(keepends=True)[-1])
    path.write_bytes(b"".join(lines))
    cell.task.blocks.clear()
    runner(tmp_path).run(cells)
    wanted = [[0, 1], [2, 3], [4, 5], [6]]
    if line and damage == "torn":
        wanted = wanted[line - 1 :]
    elif line:
        wanted = [wanted[line - 1]]
    assert cell.task.blocks == wanted
    whole = stored(tmp_path, cell)
    assert (whole.missing, whole.responses) == ([], [f"a{k}" for k in range(7)])


@BLOCKS_OF_TWO
def test_a_whole_file_whose_end_does_not_say_so_is_only_counted_again(tmp_path):
    """The newline of the last line is lost, or its last line is another process's, torn."""
    [cell] = cells = planned(Task("a", n=4))
    runner(tmp_path).run(cells)
    path = CellStore(tmp_path).path(cell.identity.key)
    whole = path.read_bytes()
    for content in (whole[:-1], whole + whole.splitlines()[-1][:30]):
        path.write_bytes(content)
        assert CellStore(tmp_path).count(cell.identity.key) == 0
        cell.task.blocks.clear()
        runner(tmp_path).run(cells)
        assert cell.task.blocks == []
        assert CellStore(tmp_path).count(cell.identity.key) == 4
        assert stored(tmp_path, cell).missing == []


def test_a_cell_of_a_newer_schema_stops_the_run_and_is_no_failure(tmp_path):
    [cell] = cells = planned(Task("a"))
    store = CellStore(tmp_path)
    store.recount(cell.identity, 0)
    raw = CellStore(tmp_path).path(cell.identity.key).read_text().splitlines()[0]
    content = json.dumps({"schema": 3, "more": 1}, separators=(",", ":"))
    digest = hashlib.sha256(content.encode()).hexdigest()
    line = f'{{"kind":"cell","content":{content},"sha256":"{digest}","documents":0}}\n'
    assert json.loads(line).keys() == json.loads(raw).keys()
    store.path(cell.identity.key).write_text(line)
    with pytest.raises(RunFolderError, match="schema 3, written by a newer aurac"):
        runner(tmp_path).run(cells)
    assert store.failed_keys() == set()
    assert store.path(cell.identity.key).read_text() == line


def test_metrics_over_all_documents_are_kept_for_exactly_these(tmp_path):
    def asked(n, value):
        [cell] = cells = planned(Task("a", n=n, aggregated={"mcc,none": value}))
        runner(tmp_path).run(cells)
        return cell

    small, large = asked(2, 0.25), asked(3, 0.5)
    assert stored(tmp_path, small).aggregates == {"mcc,none": 0.25}
    assert stored(tmp_path, large).aggregates == {"mcc,none": 0.5}
    nan = asked(4, math.nan)
    assert stored(tmp_path, nan).aggregates == {}
    assert CellStore(tmp_path).failed_keys() == set()


# Failures ---------------------------------------------------------------------------------------


def raising(error):
    def act(_options):
        raise error

    return act


def test_a_poisoned_cell_does_not_stop_the_rest(tmp_path):
    cells = planned(Task("a"), Task("bad", act=raising(TypeError("no\nmore"))), Task("c"))
    runner(tmp_path).run(cells)
    store = CellStore(tmp_path)
    assert store.keys() == {cells[0].identity.key, cells[2].identity.key}
    record = store.failure(cells[1].identity.key)
    assert record.reason == "TypeError: no"
    assert record.identity.task == "bad"
    bad = cells[1].task
    runner(tmp_path).run(cells)  # a failure stays one until it is cleared
    assert len(bad.calls) == 1
    store.clear_failure(cells[1].identity.key)
    bad.act = None
    runner(tmp_path).run(cells)
    assert len(store.keys()) == 3
    assert store.failed_keys() == set()


def test_a_base_that_cannot_be_loaded_is_no_failure_of_a_cell(tmp_path):
    """One error for the run: the same command goes on once the base is there."""

    def missing():
        raise BaseModelError("base 'b' cannot be loaded")

    cells = planned(Task("a"), Task("b"))
    with Locks(tmp_path) as locks:
        with pytest.raises(BaseModelError, match="base 'b' cannot be loaded"):
            Runner(missing, EngineOptions(), RunContext(CellStore(tmp_path), locks)).run(cells)
        assert locks.keys() == set()
    assert CellStore(tmp_path).failed_keys() == set()


def test_a_lost_device_does_not_fail_every_later_cell(tmp_path):
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    cells = planned(Task("a"), Task("b", act=raising(lost)), Task("c"))
    with pytest.raises(LostDeviceError, match="accelerator is lost"):
        runner(tmp_path).run(cells)
    assert CellStore(tmp_path).failed_keys() == {cells[1].identity.key}
    assert cells[2].task.calls == []


def test_a_bar_is_full_though_cells_fail(tmp_path):
    """A cell that failed before its answers were counted, and one that did not fail."""
    seen = Recorder()
    cells = planned(Task("b"), Task("c", act=raising(ValueError("no"))))
    runner(tmp_path, progress=seen).run(cells)
    assert len(CellStore(tmp_path).failed_keys()) == 1
    assert sum(seen.counts) == 6


@BLOCKS_OF_TWO
def test_what_was_counted_of_a_cell_that_fails_later_is_counted_once(tmp_path):
    """Two blocks are there, one of them from before; the third fails: 7 requests in all."""
    early = planned(Task("a", n=2))
    runner(tmp_path).run(early)
    task = Task("a", n=7)
    task.act = lambda _: task.blocks and raising(ValueError("no"))(None)
    cells, seen = planned(task), Recorder()
    runner(tmp_path, progress=seen).run(cells)
    assert task.blocks == [[2, 3]]
    assert CellStore(tmp_path).has_failed(cells[0].identity.key)
    totals = list(itertools.accumulate(seen.counts))
    assert (totals[-1], max(totals)) == (7, 7)
    assert stored(tmp_path, cells[0]).doc_ids == ["0", "1", "2", "3"]  # kept for the next attempt


# Sharing ----------------------------------------------------------------------------------------


@BLOCKS_OF_TWO
def test_runners_share_the_cells_and_each_document_is_computed_once(tmp_path):
    cells = planned(*(Task(f"t{k}", seconds=0.01) for k in range(24)))
    seen = [Recorder() for _ in range(3)]

    def work(progress):
        with Locks(tmp_path) as locks:
            runner(tmp_path, locks=locks, progress=progress).run(cells)

    threads = [threading.Thread(target=work, args=[progress]) for progress in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [cell.task.blocks for cell in cells] == [[[0, 1], [2]]] * 24
    # Each of them was told of all requests, whoever answered them: its bar is full.
    names = sorted(cell.task.name for cell in cells)
    for progress in seen:
        assert sum(progress.counts) == 24 * 3
        assert sorted(name for name, _ in progress.ended) == names
    assert CellStore(tmp_path).keys() == {cell.identity.key for cell in cells}
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_cell_held_elsewhere_is_awaited_without_listing_the_folder(tmp_path, monkeypatch):
    [cell] = cells = planned(Task("a"))
    monkeypatch.setattr(CellStore, "keys", None)
    monkeypatch.setattr(CellStore, "failed_keys", None)
    monkeypatch.setattr("aurac.runs.runner.PAUSE_SECONDS", 0.02)
    with Locks(tmp_path) as other, Locks(tmp_path) as mine:
        assert other.acquire(cell.identity.key)
        threading.Timer(0.2, other.release, [cell.identity.key]).start()
        runner(tmp_path, locks=mine).run(cells)
    assert len(cell.task.calls) == 1


def test_what_another_process_has_finished_counts_before_the_next_cell(tmp_path):
    """So the time left is that of what both leave, not of all that this one has not done."""
    cells = planned(*(Task(name) for name in "abc"))
    [theirs] = planned(Task("a"))
    seen = Recorder()
    with Locks(tmp_path) as other, Locks(tmp_path) as mine:
        assert other.acquire(theirs.identity.key)

        def act(_options):
            cells[1].task.act = None
            other.release(theirs.identity.key)
            runner(tmp_path).run([theirs])

        cells[1].task.act = act
        runner(tmp_path, locks=mine, progress=seen).run(cells)
    assert [name for name, _ in seen.ended] == ["b", "a", "c"]
    assert cells[0].task.calls == []


@BLOCKS_OF_TWO
def test_a_silent_owner_is_followed_and_its_blocks_are_kept(tmp_path, monkeypatch):
    """It is on another machine and falls silent in its second block; another goes on there."""
    monkeypatch.setattr("aurac.runs.runner.PAUSE_SECONDS", 0.01)
    [cell] = cells = planned(Task("a", n=5))
    [begun] = planned(Task("a", n=2))
    runner(tmp_path).run([begun])
    clock = [0.0]
    with Locks(tmp_path, seconds=3600, clock=lambda: clock[0]) as locks:
        lock = {"token": "far", "mark": "elsewhere-1-1", "deaths": 0}
        (locks.folder / cell.identity.key).write_text(json.dumps(lock))
        waited = []

        class Patient(RunLog):
            def event(self, name, **more):
                waited.append(name)
                clock[0] += 1801

        runner(tmp_path, locks=locks, log=Patient(None)).run(cells)
    assert cell.task.blocks == [[2, 3], [4]]
    assert waited[:2] == ["waiting", "waiting"]


def abandoned(locks, key, deaths):
    """The lock of a process of this machine that ended, after `deaths` others."""
    lock = {"token": "gone", "mark": _ended(), "deaths": deaths}
    (locks.folder / key).write_text(json.dumps(lock))


def _ended():
    return f"{process_mark().rsplit('-', 1)[0]}-0"


def test_a_cell_in_which_processes_keep_ending_is_a_failure(tmp_path):
    [cell] = cells = planned(Task("a"))
    seen = Recorder()
    with Locks(tmp_path) as locks:
        abandoned(locks, cell.identity.key, MOST_DEATHS - 1)
        runner(tmp_path, locks=locks, progress=seen).run(cells)
    record = CellStore(tmp_path).failure(cell.identity.key)
    assert record.reason == "5 processes ended while they computed it"
    assert cell.task.calls == []
    assert sum(seen.counts) == 3


@BLOCKS_OF_TWO
def test_deaths_between_which_a_block_was_kept_do_not_add_up(tmp_path):
    """A long cell on machines that are taken away again and again is no failure."""
    task = Task("a", n=4)
    [cell] = cells = planned(task)
    seen = []
    with Locks(tmp_path) as locks:
        key = cell.identity.key
        abandoned(locks, key, MOST_DEATHS - 2)
        task.act = lambda _: seen.append((len(task.blocks), locks.deaths(key)))
        runner(tmp_path, locks=locks).run(cells)
    assert seen == [(0, MOST_DEATHS - 1), (1, 0)]
    assert stored(tmp_path, cell).missing == []


# Signals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_cell_drops_it_at_the_next_pass(tmp_path, number):
    task, before = Task("b", act=lambda _: os.kill(os.getpid(), number)), signal.getsignal(number)
    cells = planned(Task("a"), task, Task("c"))
    with (
        pytest.raises(Interrupted),
        Interrupts() as interrupts,
        Locks(tmp_path) as locks,
    ):
        runner(tmp_path, locks=locks, interrupts=interrupts).run(cells)
    assert CellStore(tmp_path).keys() == {cells[0].identity.key}
    assert CellStore(tmp_path).failed_keys() == set()
    assert list((tmp_path / "locks").iterdir()) == []
    assert signal.getsignal(number) is before


@BLOCKS_OF_TWO
def test_a_signal_within_a_block_drops_that_block_alone(tmp_path):
    task = Task("a", n=6)
    task.act = lambda _: len(task.blocks) == 2 and os.kill(os.getpid(), signal.SIGTERM)
    [cell] = cells = planned(task)
    with pytest.raises(Interrupted), Interrupts() as interrupts:
        runner(tmp_path, interrupts=interrupts).run(cells)
    assert stored(tmp_path, cell).doc_ids == ["0", "1", "2", "3"]
    task.act = None
    runner(tmp_path).run(cells)
    assert task.blocks == [[0, 1], [2, 3], [4, 5]]


def test_a_signal_after_the_last_pass_keeps_the_cell(tmp_path):
    task = Task("a", passes=0, act=lambda _: os.kill(os.getpid(), signal.SIGINT))
    cells = planned(task, Task("b"))
    with pytest.raises(Interrupted), Interrupts() as interrupts:
        runner(tmp_path, interrupts=interrupts).run(cells)
    assert CellStore(tmp_path).keys() == {cells[0].identity.key}


def test_a_second_signal_leaves_at_once():
    script = (
        "import os, signal, time; from aurac.runs.interrupts import Interrupts\n"
        "with Interrupts() as i, i.working():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('working on', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('never')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (130, b"working on\n")


# Faults at every write --------------------------------------------------------------------------

_POINTS = ("open", "write", "fsync", "chmod", "replace", "link", "mkdir")


class Faults:
    """Counts the system calls that write, and makes one of them fail or tear."""

    def __init__(self, monkeypatch, folder):
        self.count, self.at, self.error, self.torn, self.on = 0, None, None, False, False
        self.folder = str(folder)
        for name in _POINTS:
            monkeypatch.setattr(os, name, self.around(name, getattr(os, name)))

    def around(self, name, call):
        def maybe(*args, **kwargs):
            if not self.on or (name == "open" and not args[1] & os.O_CREAT):
                return call(*args, **kwargs)
            self.count += 1
            if self.count == self.at:
                if name == "write" and self.torn:
                    call(args[0], args[1][: len(args[1]) // 2])
                raise OSError(self.error, os.strerror(self.error))
            return None if name == "fsync" else call(*args, **kwargs)

        return maybe

    def run(self, cells, folder, at=None, error=errno.ENOSPC, torn=False):
        self.count, self.at, self.error, self.torn, self.on = 0, at, error, torn, True
        try:
            with RunLog(folder) as log, Locks(folder, seconds=3600) as locks:
                runner(folder, locks=locks, log=log).run(cells)
        finally:
            self.on = False
        return self.count


def whole(folder, cells):
    """What is there is what the tasks say; the keys of the cells that have all documents."""
    complete = set()
    for cell in cells:
        content = stored(folder, cell)
        if content is None:
            continue
        name = cell.task.name
        scores = [math.fmod(len(name) + int(doc), 2) for doc in content.doc_ids]
        assert content.metrics.get("acc,none", []) == scores
        assert content.responses == [f"{name}{doc}" for doc in content.doc_ids]
        if not content.missing:
            complete.add(cell.identity.key)
    return complete


@BLOCKS_OF_TWO
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("torn", [False, True])
def test_a_fault_at_every_write_leaves_only_whole_lines(tmp_path, monkeypatch, error, torn):
    """A torn line is passed over, and the same command completes what is missing."""
    faults = Faults(monkeypatch, tmp_path)
    cells = planned(Task("a"), Task("b"), Task("poison", act=raising(ValueError("x"))))
    writes = faults.run(cells, tmp_path / "undisturbed")
    assert writes > 30
    stopped, messages = 0, set()
    for at in range(1, writes + 1):
        folder = tmp_path / str(at)
        try:
            faults.run(cells, folder, at, error, torn)
        except RunFolderError as said:
            stopped += 1
            messages.add(str(said).replace(str(folder), "FOLDER"))
        except OSError:  # the folder of the locks itself; `compare` says it as it says the others
            stopped += 1
        if (folder / "cells").is_dir():
            whole(folder, cells[:2])
        assert CellStore(folder).failed_keys() <= {cells[2].identity.key}
        faults.run(cells, folder)
        assert whole(folder, cells[:2]) == {c.identity.key for c in cells[:2]}
        assert CellStore(folder).failed_keys() == {cells[2].identity.key}
        assert list(folder.rglob(".*")) == []
    assert stopped > 10
    [message] = messages
    assert message.startswith(f"the run folder FOLDER cannot be written ({os.strerror(error)})")
    assert message.endswith("give the same command again")


def test_the_identity_names_all_that_can_change_a_number():
    """A new field must be thought of in `differences` and in `warn_unused` too.

    Documents and prompts are no part of it, they have keys of their own; nor are budgets, which
    each block says.
    """
    assert set(CellIdentity.__struct_fields__) == {
        "adapter_sha256", "base_sha256", "rank", "basis", "rescale", "fit_factor", "task",
        "task_version", "num_fewshot", "fewshot", "fewshot_seed", "chat_template", "split",
        "tokenizer", "system_instruction", "fewshot_as_multiturn", "gen_kwargs",
        "repeats", "max_length", "dtype", "device_kind", "engine", "lm_eval",
    }  # fmt: skip


def test_five_hundred_cells_leave_memory_threads_and_files_as_they_were(tmp_path, monkeypatch):
    """After the first hundred, which fill caches; the real engine is measured in a benchmark."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
    seen = []

    class Watch(NoProgress):
        def cell(self, cell):
            if int(cell.task.name) % 100 == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                files = len(list(Path("/proc/self/fd").iterdir()))
                seen.append((pages, threading.active_count(), files))

    cells = planned(*(Task(str(n), n=50) for n in range(501)))
    with RunLog(tmp_path) as log, Locks(tmp_path) as locks:
        runner(tmp_path, locks=locks, log=log, progress=Watch()).run(cells)
    pages, threads, files = zip(*seen[1:], strict=True)
    assert len(pages) == 5
    assert max(pages) <= 1.05 * pages[0]
    assert set(threads) == {threads[0]}
    assert max(files) <= files[0]
