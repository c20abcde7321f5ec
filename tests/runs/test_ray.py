"""The driver of cells on a stand-in for Ray; clusters are in `tests/slow/test_processes.py`."""

from __future__ import annotations

import shutil
import socket
import time
from types import SimpleNamespace

import pytest
from support.harness_doubles import write_choice_task, write_text_task
from support.runs_doubles import Backend, Task, planned, work_in
from support.small_runs import SMALL, TASK

from aurac.adapters import load_adapter, save_adapter
from aurac.backends.engine import EngineBackend
from aurac.records.cells import CellStore
from aurac.records.folder import MOST_DEATHS
from aurac.runs import ray
from aurac.runs.compute import blocks
from aurac.runs.fit import fits, fitted
from aurac.runs.inputs import load
from aurac.runs.ray import Cluster, ClusterError, _seen
from aurac.runs.settings import Settings

exceptions = pytest.importorskip("ray.exceptions", reason="needs aurac[ray]")


class FakeRay:
    """Blocks are computed when they are waited for; `dying` are tasks whose workers die, how often.

    `failing` is the task that yields a failure.
    """

    exceptions = exceptions

    def __init__(self, cells, dying=None, failing=None, dies_of=None):
        self._cells = {cell.key: cell for cell in cells}
        self._dying, self._failing = dict(dying or {}), failing
        self._dies_of = dies_of or exceptions.WorkerCrashedError()

    def remote(self, **_):
        return lambda _function: SimpleNamespace(remote=self.answer)

    def answer(self, _job, key, _where, places):
        cell = self._cells[key]
        for block in blocks(cell, places, Backend()):
            if self._dying.get(cell.task.name, 0):
                self._dying[cell.task.name] -= 1
                raise self._dies_of
            if cell.task.name == self._failing:
                yield "ValueError: why"
                return
            yield block

    def wait(self, streams, **_):
        return streams[-1:], streams[:-1]

    def get(self, reference):
        return reference

    def cluster_resources(self):
        return {"CPU": 2}

    def get_runtime_context(self):
        return SimpleNamespace(gcs_address="here:1")


def compute(folder, cells, **options):
    """How cells were settled."""
    base, backend = SimpleNamespace(name="base", dtype="float32"), Backend()
    leaves, settings = [cell.task for cell in cells], Settings.of("a", "t", ray="local")
    inputs = SimpleNamespace(settings=settings, base=base, backend=backend, leaves=leaves, cuts={})
    work, ended = work_in(folder)
    Cluster(FakeRay(cells, **options), inputs).compute(cells, work)
    assert all(work.folder.take(cell.key) for cell in cells)  # all were given back
    return sorted(ended)


@pytest.fixture(autouse=True)
def _alive(request, monkeypatch):
    """The head is there."""
    if "head" not in request.node.name:
        monkeypatch.setattr(ray, "_seen", lambda _head, before: before)


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
        found = CellStore(tmp_path).read(cell.key).responses(cell.task.keys)
        assert found == [f"{cell.task.name}{k}" for k in range(cell.task.n)]


def test_a_worker_finds_what_is_named_relative_to_the_folder_of_the_command(
    adapters, tmp_path, monkeypatch
):
    """The task's file with its data, a folder of tasks, and the tokenizer."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(tmp_path)
    path = write_text_task(here)
    adapter = load_adapter(adapters["dylora"])
    shutil.copytree(str(adapter.base), here / "tok", ignore=shutil.ignore_patterns("*.safetensors"))
    save_adapter(adapter, here / "mine")
    write_choice_task(here / "more", "further")
    shutil.copytree(here / "tiny_text_data", here / "data")
    monkeypatch.chdir(here)
    settings = Settings.of(
        "mine", [f"./{path.name}", "further"], limit=2, device="cpu", ray="local",
        data={f"./{path.name}": "data"}, include_path="more", tokenizer="./tok",
    )  # fmt: skip
    inputs = load(settings)
    job = Cluster(FakeRay([]), inputs)._job
    monkeypatch.chdir(there)
    ray._served.cache_clear()
    found, _ = ray._served(*job)
    assert found.digest == inputs.digest
    keys = [[cell.key for cell in each.cells()] for each in (inputs, found)]
    assert keys[0] == keys[1]


def test_the_base_is_not_loaded_where_workers_find_the_factors(adapters, tmp_path, monkeypatch):
    """Each is found once, by its hash."""
    words = {"ray": "local", "ranks": "1,4", "rescale": "fit", "basis": "prefix", **SMALL}
    inputs = load(Settings.of(adapters["dylora"], TASK, out=tmp_path, **words))
    monkeypatch.setattr(EngineBackend, "load", lambda _: pytest.fail("the base is loaded"))
    monkeypatch.setattr(EngineBackend, "lm", lambda *_: pytest.fail("the base is asked"))
    (tmp_path / "locks").mkdir()
    asked = []

    def find(keys):
        asked.extend(keys)
        return [float(len(key)) for key in keys]

    factors = fitted(inputs, find)
    assert fitted(inputs, find) == factors
    assert sorted(asked) == sorted(fits(inputs))
    assert {(rank, task) for _, rank, task in factors} == {(1, TASK), (4, TASK)}


def test_a_cell_whose_workers_die_again_and_again_is_a_failure(tmp_path):
    """A death costs a block."""
    cells = planned(Task("a", n=4), Task("b", n=2))
    less, lost = {"a": MOST_DEATHS - 1}, exceptions.ObjectLostError("0" * 56, None, "")
    ended = compute(tmp_path / "less", cells, dying=less, dies_of=lost)
    assert ended == [("a", "done"), ("b", "done")]
    [(name, how), other] = compute(tmp_path, cells, dying={"a": MOST_DEATHS})
    assert (name, other) == ("a", ("b", "done"))
    assert how.startswith(f"failed: {MOST_DEATHS} workers died")


def test_a_failure_in_a_worker_is_the_cells(tmp_path):
    cells = planned(Task("a", n=4), Task("b", n=2))
    ended = compute(tmp_path, cells, failing="a")
    assert ended == [("a", "failed: ValueError: why"), ("b", "done")]


def test_a_head_that_is_gone_for_a_while_is_lost():
    with socket.create_server(("127.0.0.1", 0)) as server:
        head, began = f"127.0.0.1:{server.getsockname()[1]}", time.monotonic()
        assert _seen(head, 0.0) >= began
    assert _seen(head, began) == began  # it may be back in a moment
    with pytest.raises(ClusterError, match=r"lost .*refused\); what is done is kept") as lost:
        _seen(head, began - ray._LOST_AFTER)
    assert lost.value.exit_code == 3
