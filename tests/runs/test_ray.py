"""The queue of blocks, on a stand-in for Ray; clusters are in `tests/slow/test_processes.py`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from runs_doubles import Model, Recorder, Task, base, planned, run_context, runner, stored

from aurac.engine import EngineOptions
from aurac.runs.evaluator import Evaluator
from aurac.runs.lock import Locks
from aurac.runs.ray import ClusterError, RayExecutor, _Queue
from aurac.runs.runner import failure_of
from aurac.runs.store import CellStore

pytestmark = pytest.mark.usefixtures("_blocks_of_two")


@pytest.fixture
def _blocks_of_two(monkeypatch):
    monkeypatch.setattr("aurac.runs.plan.BLOCK_DOCUMENTS", {"cpu": 2})


class FakeRay:
    """Blocks are computed when they are waited for, one at a time, the last one first.

    `failing` is the (task, places) of a block that fails.
    """

    class exceptions:  # noqa: N801
        RayTaskError = WorkerCrashedError = NodeDiedError = OutOfMemoryError = RuntimeError

    def __init__(self, cells, failing):
        self._cells = {cell.task.name: cell for cell in cells}
        self._failing = failing
        self._evaluator = Evaluator(lambda: base(Model()), EngineOptions())

    def remote(self, _job, identity, places):
        return (identity["task"], tuple(places))

    def wait(self, references, **_):
        return [references[-1]], references[:-1]

    def get(self, reference):
        cell = self._cells[reference[0]]
        if reference == self._failing:
            return failure_of(cell, "ValueError: why", "ValueError", 1.0)
        [block] = self._evaluator.blocks(cell, reference[1])
        return block


def compute(folder, cells, failing=None):
    """What progress is told of while the cells are computed through the queue."""
    fake, progress = FakeRay(cells, failing), Recorder()
    with Locks(folder) as locks:
        context = run_context(folder, locks=locks, progress=progress)
        queue = _Queue(fake, fake, None, context, cells)
        while queue.submit(3):
            queue.collect()
        assert locks.keys() == set()
    return progress


def test_blocks_that_come_back_in_any_order_make_whole_cells(tmp_path):
    """One cell is half done, one is done; every bar is full, every cell is settled once."""
    runner(tmp_path).run(planned(Task("a", n=3), Task("b", n=7)))
    cells = planned(Task("a", n=7), Task("b", n=7), Task("c", n=5))
    progress = compute(tmp_path, cells)
    ended = [("a", "done"), ("b", "done by another process"), ("c", "done")]
    assert sorted(progress.ended) == ended
    assert sum(progress.counts) == 19
    assert sorted(cells[0].task.blocks) == [[3], [4, 5], [6]]
    for cell in cells:
        whole = stored(tmp_path, cell)
        assert whole.missing == []
        assert whole.responses == [f"{cell.task.name}{k}" for k in range(cell.task.n)]


def test_one_block_that_fails_is_the_cells_failure_and_the_others_are_ignored(tmp_path):
    cells = planned(Task("a", n=9), Task("b", n=2))
    progress = compute(tmp_path, cells, failing=("a", (2, 3)))
    store, key = CellStore(tmp_path), cells[0].identity.key
    assert store.failure(key).reason == "ValueError: why"
    assert store.read(key).doc_ids == ["4", "5", "6", "7", "8"]  # 0 and 1 came too late
    assert sorted(progress.ended) == [("a", "failed"), ("b", "done")]
    assert sum(progress.counts) == 11


def test_a_cluster_that_is_not_there_is_one_line(tmp_path):
    pytest.importorskip("ray")
    session = SimpleNamespace(outline=base())
    with pytest.raises(ClusterError, match=r"127.0.0.1:1 cannot be reached"):
        RayExecutor(address="127.0.0.1:1").run(session, [], run_context(tmp_path))
