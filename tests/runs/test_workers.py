"""Further processes of this machine: how they are started, heard and ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from runs_doubles import run_context
from small_runs import SMALL, TASK, random_adapter

from aurac.models.device import SPINNING
from aurac.runs import ray, ray_worker, workers
from aurac.runs.compare import compare
from aurac.runs.interrupts import Interrupted
from aurac.runs.settings import Execution, Settings, to_plain


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
    job = {"settings": {"model": {"device": "cpu"}}}
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
    job = {"folder": str(out), "checkpoints": [str(second)], "tasks": [TASK]}
    settings = Settings.of(groups={"other": ["bb/mine"]}, **SMALL)
    workers.serve({**job, "settings": to_plain(settings), "execution": asdict(Execution())})
    assert {cell.identity.rank for cell in planned} == {0, 1, 2, 4}
