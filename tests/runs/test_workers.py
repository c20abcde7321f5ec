"""Further processes of this machine: how they are started, heard and ended."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
from harness_doubles import make_tokenizer
from runs_doubles import Model, Task, base, planned, run_context
from small_runs import SMALL, TASK, random_adapter
from support.tasks import build_tasks

from aurac.engine import EngineOptions
from aurac.models.device import SPINNING
from aurac.runs import ray, ray_worker, workers
from aurac.runs.compare import compare
from aurac.runs.interrupts import Interrupted
from aurac.runs.plan import plan, selected, selection
from aurac.runs.settings import Execution, Settings


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(None, "the others computed its cells"), (Interrupted, "the cell it was computing is left")],
)
def test_a_killed_workers_cells_are_called_done_only_if_they_are(
    stop, expected, tmp_path, monkeypatch, caplog
):
    def start(*_):
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        worker.kill()
        worker.wait()
        return worker

    monkeypatch.setattr("aurac.runs.workers._start", start)
    job = workers.Job(tmp_path, [], [], Settings.of(device="cpu"))
    others = workers._others([job], 1, run_context(tmp_path))
    with pytest.raises(stop) if stop else contextlib.nullcontext(), others:
        if stop:
            raise stop
    assert [r.getMessage() for r in caplog.records if r.name.startswith("aurac")] == [
        f"a worker ended early by signal 9; {expected}"
    ]


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "9"}])
def test_workers_share_cores_unless_the_user_says_otherwise(monkeypatch, given):
    """What a local worker is started with, and a Ray worker has before it imports torch."""
    for name in SPINNING:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wanted = given or {"OMP_WAIT_POLICY": "PASSIVE"}
    seen = []
    monkeypatch.setattr(
        workers.subprocess,
        "Popen",
        lambda *_, env, **__: seen.append(env) or SimpleNamespace(stdin=None),
    )
    workers._start({}, 1)
    monkeypatch.setattr(ray_worker, "compute", lambda *_: seen.append(dict(os.environ)))
    ray.compute_block({}, {}, [])
    for environment in seen:
        assert {name: environment[name] for name in SPINNING if name in environment} == wanted
    assert len(seen) == 2


def test_workers_stay_for_further_cells_of_the_same_session(tmp_path, monkeypatch):
    started = []

    def start(job, _threads):
        code = "import sys; sys.stdin.read()"
        started.append((job, subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1)))
        return started[-1][1]

    monkeypatch.setattr(workers, "_start", start)
    session = SimpleNamespace(
        outline=base(),
        settings=Settings(),
        base=lambda: base(Model()),
        options=EngineOptions(),
        checkpoints=(),
        tasks=(),
        place_on=lambda _device: None,
    )
    with workers.LocalExecutor(Execution(workers=2)) as executor:
        for names in ("ab", "cd", "e"):
            cells = planned(*(Task(name, n=2) for name in names))
            executor.run(session, cells, run_context(tmp_path))
        assert len(started) == 1
        session.settings = Settings.of(limit=3)
        executor.run(session, planned(Task("f", n=2), Task("g", n=2)), run_context(tmp_path))
        assert [job.settings.task.limit for job, _ in started] == [None, 3]
        assert [worker.poll() is None for _, worker in started] == [False, True]
    assert started[1][1].poll() is not None


def test_a_selection_names_the_same_documents_in_another_process():
    """Of the places of a sample, which the other process knows as those of the whole task."""
    (task,) = build_tasks([TASK], tokenizer=make_tokenizer(), limit=6)
    whole = plan([], [task], base())
    assert selection(whole) is None
    assert selected(whole, None) == whole
    (cell,) = whole
    sample = cell.of(task.only([4, 1, 3]))
    (same,) = selected(whole, pickle.loads(pickle.dumps(selection([sample]))))
    assert same.documents == tuple(cell.documents[place] for place in (4, 1, 3))
    assert same.identity == cell.identity
    assert same.task.doc_ids == sample.task.doc_ids == ("4", "1", "3")


def test_what_a_worker_writes_reaches_the_log_under_its_name(caplog):
    code = (
        "import logging, sys; from aurac.runs.workers import LINE\n"
        "logging.basicConfig(format=LINE)\n"
        "print('Loading kernels: 100%')\n"
        "logging.getLogger('aurac.runs.runner').warning('out of memory: %s', 'half')\n"
        "logging.getLogger('kernels').warning('a line of a library')\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    workers._relay(worker)
    worker.stdout.close()
    assert worker.wait() == 0
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("worker", "WARNING", "Loading kernels: 100%"),
        ("aurac.runs.runner", "WARNING", "out of memory: half"),
        ("worker", "WARNING", "WARNING kernels: a line of a library"),
    ]


def test_a_worker_names_adapters_as_the_run_folder_does(tiny_base_folder, tmp_path, monkeypatch):
    """A first run had another adapter of that name, and a group goes by the names of the run."""
    first, second = (
        random_adapter(tiny_base_folder, tmp_path / at / "mine", seed=len(at)) for at in ("a", "bb")
    )
    out = tmp_path / "run"
    compare([first, second], [TASK], out=out, **SMALL)
    planned = []
    monkeypatch.setattr(workers.Runner, "run", lambda _self, cells: planned.extend(cells))
    settings = Settings.of(groups={"other": ["bb/mine"]}, **SMALL)
    workers.serve(workers.Job(out, [str(second)], [TASK], settings), [None])
    assert {cell.identity.rank for cell in planned} == {0, 1, 2, 4}
