"""Around cells: order, sharing, failures, memory, signals, faults at every write."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs_doubles import Model, Task, planned, runner

from aurac.engine.options import EngineOptions
from aurac.errors import BaseModelError, RunFolderError
from aurac.runs.device_limits import LostDeviceError
from aurac.runs.interrupts import Interrupted, Interrupts
from aurac.runs.lock import Leases, listed
from aurac.runs.log import RunLog
from aurac.runs.plan import PlannedCell, coarse_levels, plan, shard_of
from aurac.runs.provenance import CellIdentity
from aurac.runs.runner import Runner, Tools
from aurac.runs.store import CellStore, read_cell

# Order ------------------------------------------------------------------------------------------


def test_coarse_ranks_come_first():
    """Of 1 … 256 by doubling: 256, 1, then 16 (the middle), 4 and 64, and the rest."""
    levels = coarse_levels((1, 2, 4, 8, 16, 32, 64, 128, 256))
    order = sorted(levels, key=lambda rank: levels[rank])
    assert order[:2] == [256, 1]
    assert order[2:5] == [16, 4, 64]
    assert set(order[5:]) == {2, 8, 32, 128}


@given(st.sets(st.integers(1, 300), min_size=1, max_size=40))
def test_every_rank_has_one_level_and_gaps_halve(ranks):
    ranks = tuple(sorted(ranks))
    levels = coarse_levels(ranks)
    assert set(levels) == set(ranks)
    for level in range(3, max(levels.values()) + 1):
        known = [i for i, rank in enumerate(ranks) if levels[rank] <= level]
        before = [i for i, rank in enumerate(ranks) if levels[rank] < level]
        widest = max(b - a for a, b in itertools.pairwise(known))
        assert widest <= (max(b - a for a, b in itertools.pairwise(before)) + 1) // 2


def variant(name, ranks, role="default"):
    adapter = SimpleNamespace(sha256=name)
    return SimpleNamespace(
        name=name, label=name, adapter=adapter, role=role, ranks=ranks, basis="prefix",
        rescale="rule", fit_factors=None,
    )  # fmt: skip


def where(cell):
    return (cell.variant.name if cell.variant else "base", cell.rank, cell.task.name)


def test_the_plan_gives_whole_curves_early():
    from runs_doubles import base

    shown, compared = variant("shown", (1, 2, 4), "published"), variant("a", (1, 2, 4))
    cells = plan([shown, compared], [Task("t"), Task("u")], base(), "x", "0")
    assert [where(cell) for cell in cells] == [
        ("a", 4, "t"), ("a", 4, "u"), ("shown", 4, "t"), ("shown", 4, "u"),
        ("base", 0, "t"), ("base", 0, "u"),
        ("a", 1, "t"), ("a", 1, "u"), ("shown", 1, "t"), ("shown", 1, "u"),
        ("a", 2, "t"), ("a", 2, "u"), ("shown", 2, "t"), ("shown", 2, "u"),
    ]  # fmt: skip


def test_long_tasks_come_first_within_a_level_and_only_there():
    """A task of 40 times the effort; one of 1.5 times counts as alike and keeps the order given."""
    from runs_doubles import base

    tasks = [Task("short", effort=10.0), Task("alike", effort=15.0), Task("long", effort=400.0)]
    cells = plan([variant("a", (1, 2)), variant("b", (1, 2))], tasks, base(), "x", "0")
    assert [where(cell) for cell in cells] == [
        ("a", 2, "long"), ("b", 2, "long"),
        ("a", 2, "short"), ("a", 2, "alike"), ("b", 2, "short"), ("b", 2, "alike"),
        ("base", 0, "long"), ("base", 0, "short"), ("base", 0, "alike"),
        ("a", 1, "long"), ("b", 1, "long"),
        ("a", 1, "short"), ("a", 1, "alike"), ("b", 1, "short"), ("b", 1, "alike"),
    ]  # fmt: skip


@given(st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_shards_divide_every_task_evenly(of, sizes):
    tasks = [Task(f"t{k}") for k in range(len(sizes))]
    cells = [
        PlannedCell(None, n, task, SimpleNamespace(key=f"{task.name}-{n}"))
        for n in range(max(sizes))
        for task, size in zip(tasks, sizes, strict=True)
        if n < size
    ]
    shards = [shard_of(cells, k + 1, of) for k in range(of)]
    assert Counter(map(id, cells)) == Counter(id(c) for shard in shards for c in shard)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    for task in tasks:
        counts = [sum(c.task is task for c in shard) for shard in shards]
        assert max(counts) - min(counts) <= 1


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
    assert record["reason"] == "TypeError: no"
    assert record["identity"]["task"] == "bad"
    bad = cells[1].task
    runner(tmp_path).run(cells)  # a failure stays one until it is forgiven
    assert len(bad.calls) == 1
    store.forgive(cells[1].identity.key)
    bad.act = None
    runner(tmp_path).run(cells)
    assert len(store.keys()) == 3
    assert store.failed_keys() == set()


def test_a_base_that_cannot_be_loaded_is_no_failure_of_a_cell(tmp_path):
    """One error for the run: the same command goes on once the base is there."""

    def missing():
        raise BaseModelError("base 'b' cannot be loaded")

    cells = planned(Task("a"), Task("b"))
    with Leases(tmp_path) as leases:
        with pytest.raises(BaseModelError, match="base 'b' cannot be loaded"):
            Runner(missing, CellStore(tmp_path), EngineOptions(), Tools(leases)).run(cells)
        assert leases.keys() == set()
    assert CellStore(tmp_path).failed_keys() == set()


@pytest.mark.parametrize("logit", [float("nan"), float("inf"), -float("inf")])
def test_a_logit_that_is_no_number_fails_the_cell(tmp_path, logit):
    [cell] = cells = planned(Task("a"))
    runner(tmp_path, model=Model(logit)).run(cells)
    store = CellStore(tmp_path)
    assert store.keys() == set()
    assert "no finite number" in store.failure(cell.identity.key)["reason"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path, error):
    """A pass fits at 256 tokens: from 1024 that takes two halvings, which later cells keep."""

    def act(options):
        if (options.batch_tokens or 1024) > 256:
            raise error

    counted = []
    tools = Tools(on_documents=counted.append, log=RunLog(tmp_path, "r"))
    cells = planned(Task("a", act=act), Task("b", act=act))
    runner(tmp_path, tools, options=EngineOptions(batch_tokens=1024, batch_size=8)).run(cells)
    seen = [(o.batch_tokens, o.batch_size) for cell in cells for o in cell.task.calls]
    assert seen == [(1024, 8), (512, 4), (256, 2), (256, 2)]
    assert sum(counted) == 6
    for cell in cells:
        [note] = CellStore(tmp_path).get(cell.identity)["notes"]
        assert "at most 256 tokens and 2 sequences" in note
    events = [json.loads(line) for line in (tmp_path / "logs/r.jsonl").read_text().splitlines()]
    assert [e["batch_tokens"] for e in events if e["event"] == "out of memory"] == [512, 256]


def test_what_never_fits_is_a_failure(tmp_path):
    [cell] = cells = planned(Task("a", act=raising(MemoryError("much"))))
    runner(tmp_path).run(cells)
    assert CellStore(tmp_path).failure(cell.identity.key)["reason"] == "MemoryError: much"
    assert cell.task.calls[-1].batch_tokens == 64
    assert cell.task.calls[-1].batch_size == 1


def test_a_lost_device_does_not_fail_every_later_cell(tmp_path):
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    cells = planned(Task("a"), Task("b", act=raising(lost)), Task("c"))
    with pytest.raises(LostDeviceError, match="accelerator is lost"):
        runner(tmp_path).run(cells)
    assert CellStore(tmp_path).failed_keys() == {cells[1].identity.key}
    assert cells[2].task.calls == []


def test_a_bar_is_full_though_cells_fail(tmp_path):
    """A cell that failed after its answers were counted, one before, one that did not fail."""
    model, counted = Model(), []
    spoiled = Task("a", act=lambda _: setattr(model, "logits", math.nan))
    healed = Task("b", act=lambda _: setattr(model, "logits", 0.0))
    cells = planned(spoiled, healed, Task("c", act=raising(ValueError("no"))))
    runner(tmp_path, Tools(on_documents=counted.append), model=model).run(cells)
    assert len(CellStore(tmp_path).failed_keys()) == 2
    assert sum(counted) == 9


# Sharing ----------------------------------------------------------------------------------------


def test_two_runners_share_the_cells_and_each_is_computed_once(tmp_path):
    cells = planned(*(Task(f"t{k}", seconds=0.01) for k in range(24)))

    counted = {}

    def work(number):
        counted[number] = []
        with Leases(tmp_path) as leases:
            runner(tmp_path, Tools(leases, on_documents=counted[number].append)).run(cells)

    threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(cell.task.calls) for cell in cells] == [1] * 24
    # Each of them was told of all requests, whoever answered them: its bar is full.
    assert [sum(counts) for counts in counted.values()] == [24 * 3] * 3
    assert CellStore(tmp_path).keys() == {cell.identity.key for cell in cells}
    assert listed(tmp_path / "leases") == []


def test_a_cell_held_elsewhere_is_awaited_and_taken_when_it_is_given_back(tmp_path):
    [cell] = cells = planned(Task("a"))
    with Leases(tmp_path) as other, Leases(tmp_path) as mine:
        assert other.acquire(cell.identity.key)
        threading.Timer(0.3, other.release, [cell.identity.key]).start()
        runner(tmp_path, Tools(mine)).run(cells)
    assert len(cell.task.calls) == 1


def test_a_full_folder_is_not_listed_again_and_again_for_its_last_cell(tmp_path, monkeypatch):
    [cell] = cells = planned(Task("a"))
    (tmp_path / "cells").mkdir()
    for number in range(300):
        (tmp_path / "cells" / f"{number:064x}.json").write_text("{}")
    listings = []
    stock = CellStore.keys
    monkeypatch.setattr(CellStore, "keys", lambda self: listings.append(1) or stock(self))
    with Leases(tmp_path) as other, Leases(tmp_path) as mine:
        assert other.acquire(cell.identity.key)
        threading.Timer(0.8, other.release, [cell.identity.key]).start()
        runner(tmp_path, Tools(mine)).run(cells)
    assert len(cell.task.calls) == 1
    assert len(listings) == 1


def test_work_under_a_lost_lease_is_dropped(tmp_path):
    """Another process takes the lease over while the cell is computed, and finishes it."""
    [cell] = cells = planned(Task("a"))
    key = cell.identity.key

    def act(_options):
        (tmp_path / "leases" / f"{key}.2").write_text('{"owner": "other"}')
        (tmp_path / "leases/owners/other").write_text("elsewhere-1-1 1\n")
        CellStore(tmp_path).put(cell.identity, {"metrics": {"by": ["the other"]}})

    cell.task.act = act
    with Leases(tmp_path) as leases:
        runner(tmp_path, Tools(leases)).run(cells)
    assert CellStore(tmp_path).get(cell.identity)["metrics"] == {"by": ["the other"]}


def test_a_cell_in_which_processes_keep_ending_is_a_failure(tmp_path):
    [cell] = cells = planned(Task("a"))
    with Leases(tmp_path) as leases:
        (leases.folder / f"{cell.identity.key}.5").write_text('{"owner": "gone"}')
        gone = CLEARLY_ENDED.encode()
        (leases.folder / "owners" / "gone").write_bytes(gone)
        runner(tmp_path, Tools(leases)).run(cells)
    record = CellStore(tmp_path).failure(cell.identity.key)
    assert record["reason"] == "5 processes ended while they computed it"
    assert cell.task.calls == []


def _ended():
    from aurac.machine import process_mark

    return f"{process_mark().rsplit('-', 1)[0]}-0 1\n"


CLEARLY_ENDED = _ended()


# Signals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_cell_drops_it_at_the_next_pass(tmp_path, number):
    task = Task("b", act=lambda _: os.kill(os.getpid(), number))
    cells = planned(Task("a"), task, Task("c"))
    with (
        pytest.raises(Interrupted),
        Interrupts() as interrupts,
        Leases(tmp_path) as leases,
    ):
        runner(tmp_path, Tools(leases, interrupts)).run(cells)
    assert CellStore(tmp_path).keys() == {cells[0].identity.key}
    assert CellStore(tmp_path).failed_keys() == set()
    assert listed(tmp_path / "leases") == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_after_the_last_pass_keeps_the_cell(tmp_path):
    task = Task("a", passes=0, act=lambda _: os.kill(os.getpid(), signal.SIGINT))
    cells = planned(task, Task("b"))
    with pytest.raises(Interrupted), Interrupts() as interrupts:
        runner(tmp_path, Tools(interrupts=interrupts)).run(cells)
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
            with RunLog(folder, "r") as log, Leases(folder, seconds=3600) as leases:
                runner(folder, Tools(leases, log=log)).run(cells)
        finally:
            self.on = False
        return self.count


def whole(folder, cells):
    """Every cell that is there holds what its task says, and nothing else lies about."""
    found = {}
    for path in (folder / "cells").iterdir():
        cell = read_cell(path)  # raises for anything torn
        found[path.stem] = cell["metrics"]
    right = {c.identity.key: c.task.evaluate(Model(), None, None, int).metrics for c in cells}
    for key, metrics in found.items():
        assert metrics == {k: list(v) for k, v in right[key].items()}
    return set(found)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("torn", [False, True])
def test_a_fault_at_every_write_leaves_only_whole_cells(tmp_path, monkeypatch, error, torn):
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
        except OSError:  # the lease folder itself; `compare` says it as it says the others
            stopped += 1
        if (folder / "cells").is_dir():
            whole(folder, cells[:2])
        faults.run(cells, folder)
        assert whole(folder, cells[:2]) == {c.identity.key for c in cells[:2]}
        assert CellStore(folder).failed_keys() == {cells[2].identity.key}
        assert list(folder.rglob(".*")) == []
    assert stopped > 10
    [message] = messages
    assert message.startswith(f"the run folder FOLDER cannot be written ({os.strerror(error)})")
    assert message.endswith("give the same command again")


def test_the_identity_names_all_that_can_change_a_number():
    """A new field must be thought of in `differences` and in `say_why_unused` too."""
    import dataclasses

    assert {f.name for f in dataclasses.fields(CellIdentity)} == {
        "adapter_sha256", "base_sha256", "rank", "basis", "rescale", "fit_factor", "task",
        "task_version", "documents_sha256", "prompts_sha256", "dtype", "device_kind", "batching",
        "scorer", "lm_eval",
    }  # fmt: skip


def test_five_hundred_cells_leave_memory_threads_and_files_as_they_were(tmp_path, monkeypatch):
    """After the first hundred, which fill caches; the real engine is measured in a benchmark."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
    seen = []

    def look(cell):
        if int(cell.task.name) % 100 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen.append(
                (pages, threading.active_count(), len(list(Path("/proc/self/fd").iterdir())))
            )

    cells = planned(*(Task(str(n), n=50) for n in range(501)))
    with RunLog(tmp_path) as log, Leases(tmp_path) as leases:
        runner(tmp_path, Tools(leases, log=log, on_cell=look)).run(cells)
    pages, threads, files = zip(*seen[1:], strict=True)
    assert len(pages) == 5
    assert max(pages) <= 1.05 * pages[0]
    assert set(threads) == {threads[0]}
    assert max(files) <= files[0]
