"""The queue of blocks, on a stand-in for Ray; clusters are in `tests/slow/test_processes.py`."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace

import pytest
from runs_doubles import Model, Recorder, Task, base, planned, run_context, runner, stored
from small_runs import SMALL, TASK, random_adapter

from aurac.adapters import members_of
from aurac.engine import EngineOptions
from aurac.errors import CheckpointError
from aurac.records.store import CellStore
from aurac.runs import ray
from aurac.runs.evaluator import Evaluator
from aurac.runs.lock import Locks
from aurac.runs.ray import ClusterError, RayExecutor, _job, _Queue
from aurac.runs.ray_worker import _session, find_adapter
from aurac.runs.runner import failure_of
from aurac.runs.session import load_adapters, open_session
from aurac.runs.settings import Settings, TruncationOptions

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
        return (identity.task, tuple(places))

    def wait(self, references, **_):
        return [references[-1]], references[:-1]

    def get(self, reference):
        cell = self._cells[reference[0]]
        if reference == self._failing:
            return failure_of(cell, "ValueError: why", "ValueError", 1.0)
        [block] = self._evaluator.blocks(cell, [reference[1]])
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


def answer_once(server, answer):
    with server.accept()[0] as connection:
        connection.sendall(answer)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 400 Bad request\r\n"])
def test_what_answers_there_is_no_cluster(tmp_path, monkeypatch, answer):
    """Ray itself tries for more than five minutes."""
    pytest.importorskip("ray")
    monkeypatch.setattr(ray, "_ANSWERS_IN", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        threading.Thread(target=answer_once, args=(server, answer), daemon=True).start()
        session = SimpleNamespace(outline=base())
        with pytest.raises(ClusterError, match=f"{address} cannot be reached") as refused:
            RayExecutor(address=address).run(session, [], run_context(tmp_path))
    assert refused.value.exit_code == 2


def test_a_head_that_is_gone_for_a_while_is_lost(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = ray._Head(f"127.0.0.1:{server.getsockname()[1]}")
        head.check()
    head.check()  # it may be back in a moment
    monkeypatch.setattr(ray, "_LOST_AFTER", 0.0)
    with pytest.raises(ClusterError, match=r"lost .*refused\); what is done is kept") as lost:
        head.check()
    assert lost.value.exit_code == 3


def test_the_members_of_a_family_are_found_by_content_on_another_node(tmp_path, monkeypatch):
    """Under other names than on the node that planned, the members in one folder or scattered."""
    here, there = tmp_path / "here", tmp_path / "there"
    for rank in (1, 2):
        random_adapter("base", here / f"r{rank}", rank=rank, seed=rank)
        random_adapter("base", there / "x" / f"copy{rank}", rank=rank, seed=rank)
    settings = Settings()
    for named in (f"mine={here}/r{{1,2}}", str(here)):
        (family,) = load_adapters([named], settings).values()
        members = [member.sha256 for member in members_of(family)]
        assert find_adapter(named, members, settings) == named
        moved = named.replace("here", "gone")
        with pytest.raises(CheckpointError, match=r"adapter .*gone.* is not on this node"):
            find_adapter(moved, members, settings)
        with monkeypatch.context() as context:
            context.setenv("AURAC_WEIGHTS", str(there))
            place = find_adapter(moved, members, settings)
        (again,) = load_adapters([place], settings).values()
        assert again.sha256 == family.sha256
        assert again.name == ("mine" if "=" in named else "gone")
        assert find_adapter(f"{here}/r1", members[:1], settings) == f"{here}/r1"


def test_a_node_with_other_folders_plans_the_same_cells(tiny_base_folder, tmp_path, monkeypatch):
    """Groups and truncations go by an adapter's name in the run, whatever its folder is called."""
    for at, name in enumerate(("one", "two")):
        random_adapter(tiny_base_folder, tmp_path / "here" / name, seed=at)
        random_adapter(tiny_base_folder, tmp_path / "there" / f"copy{at}", seed=at)
    cut = {"two": TruncationOptions(basis=("svd",), ranks=(1, 2))}
    settings = Settings.of(groups={"both": ["one", "two"]}, truncations=cut, **SMALL)
    session = open_session([tmp_path / "here" / name for name in ("one", "two")], [TASK], settings)
    job = _job(session)
    (tmp_path / "here").rename(tmp_path / "gone")
    monkeypatch.setenv("AURAC_WEIGHTS", str(tmp_path / "there"))
    assert [cell.identity for cell in _session(job).cells()] == [
        cell.identity for cell in session.cells()
    ]
