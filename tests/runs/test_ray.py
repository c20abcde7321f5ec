"""The driver of cells on a stand-in for Ray; clusters are in `tests/slow/test_processes.py`."""

from __future__ import annotations

import socket

import pytest
from support.runs_doubles import Backend, Task, planned, work_in

from aurac.records.cells import CellStore
from aurac.runs import ray
from aurac.runs.compute import blocks
from aurac.runs.ray import MOST_DEATHS, ClusterError, _Driver, _Head


class DiedError(RuntimeError):
    """A worker that is gone."""


class FakeRay:
    """Blocks are computed when they are waited for; `dying` are tasks whose workers die, how often.

    `failing` is the task that yields a failure.
    """

    class exceptions:  # noqa: N801
        RayTaskError = KeyError
        WorkerCrashedError = NodeDiedError = OutOfMemoryError = DiedError

    def __init__(self, cells, dying=None, failing=None):
        self._cells = {cell.key: cell for cell in cells}
        self._dying, self._failing = dict(dying or {}), failing

    def remote(self, _job, key, places):
        return self._stream(self._cells[key], places)

    def _stream(self, cell, places):
        for block in blocks(cell, places, Backend()):
            if self._dying.get(cell.task.name, 0):
                self._dying[cell.task.name] -= 1
                raise DiedError("the worker died")
            if cell.task.name == self._failing:
                yield "ValueError: why"
                return
            yield block

    def wait(self, streams, **_):
        return streams[-1:], streams[:-1]

    def get(self, reference):
        return reference


class Alive:
    def check(self):
        """The head is there."""


def compute(folder, cells, **options):
    """How cells were settled."""
    fake = FakeRay(cells, **options)
    work, ended = work_in(folder)
    driver = _Driver(fake, fake, None, work, "cpu")
    driver.run(cells, 3, Alive())
    driver.close()
    assert all(work.folder.take(cell.key) for cell in cells)  # all were given back
    return sorted(ended)


@pytest.fixture(autouse=True)
def _blocks_of_two(monkeypatch):
    monkeypatch.setattr("aurac.runs.plan.BLOCK_EXAMPLES", {"cpu": 2})


def test_streams_of_blocks_make_whole_cells(tmp_path):
    compute(tmp_path, planned(Task("a", n=3)))
    cells = planned(Task("a", n=7), Task("b", n=5), Task("c", n=2), Task("d", n=1))
    ended = compute(tmp_path, cells)
    assert ended == [(name, "done") for name in "abcd"]
    assert cells[0].task.blocks == [[3], [4, 5], [6]]
    for cell in cells:
        found = CellStore(tmp_path).read(cell.key).responses(cell.documents)
        assert found == [f"{cell.task.name}{k}" for k in range(cell.task.n)]


def test_a_cell_whose_workers_die_again_and_again_is_a_failure(tmp_path):
    """A death costs a block."""
    cells = planned(Task("a", n=4), Task("b", n=2))
    dying = {"a": MOST_DEATHS - 1}
    assert compute(tmp_path / "less", cells, dying=dying) == [("a", "done"), ("b", "done")]
    [(name, how), other] = compute(tmp_path, cells, dying={"a": MOST_DEATHS})
    assert (name, other) == ("a", ("b", "done"))
    assert how.startswith(f"failed: {MOST_DEATHS} workers died")


def test_a_failure_in_a_worker_is_the_cells(tmp_path):
    cells = planned(Task("a", n=4), Task("b", n=2))
    ended = compute(tmp_path, cells, failing="a")
    assert ended == [("a", "failed: ValueError: why"), ("b", "done")]


def test_a_head_that_is_gone_for_a_while_is_lost(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = _Head(f"127.0.0.1:{server.getsockname()[1]}")
        head.check()
    head.check()  # it may be back in a moment
    monkeypatch.setattr(ray, "_LOST_AFTER", 0.0)
    with pytest.raises(ClusterError, match=r"lost .*refused\); what is done is kept") as lost:
        head.check()
    assert lost.value.exit_code == 3
