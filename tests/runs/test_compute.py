"""Cells are computed block by block, under locks, and a failure stops one cell alone."""

from __future__ import annotations

import shutil
import threading

import pytest
from support.runs_doubles import Backend, Task, compute_all, planned, work_in

from aurac.errors import TaskError
from aurac.records.cells import CellStore
from aurac.records.folder import MOST_DEATHS
from aurac.records.lines import examples_sha256
from aurac.runs.compute import LostDeviceError, compute


@pytest.fixture(autouse=True)
def _blocks_of_two(monkeypatch):
    monkeypatch.setattr("aurac.runs.plan.BLOCK_EXAMPLES", {"cpu": 2})
    monkeypatch.setattr("aurac.runs.compute.PAUSE_SECONDS", 0.01)


def raises(error, at=0):
    def act(places):
        if at in places:
            raise error

    return act


def responses(folder, cell):
    return CellStore(folder).read(cell.key).responses(cell.task.keys)


def test_every_block_is_kept_as_soon_as_it_is_there(tmp_path):
    cells = planned(Task("a", n=5), Task("b", n=2))
    assert compute_all(tmp_path, cells) == [("a", "done"), ("b", "done")]
    whole = examples_sha256(cells[0].task.keys)
    assert cells[0].task.blocks == [[0, 1], [2, 3], [4]]
    assert responses(tmp_path, cells[0]) == ["a0", "a1", "a2", "a3", "a4"]
    assert CellStore(tmp_path).read(cells[0].key).aggregates == {whole: {"acc,none": 0.4}}


def test_a_failure_stops_its_cell_alone_and_the_same_command_tries_it_again(tmp_path):
    no_good, odd = raises(TaskError("no good"), 2), raises(ValueError("first\nsecond"))
    cells = planned(Task("a", n=5, act=no_good), Task("b", act=odd), Task("c"))
    ended = [("a", "failed: no good"), ("b", "failed: ValueError: first"), ("c", "done")]
    assert compute_all(tmp_path, cells) == ended
    cell = CellStore(tmp_path).read(cells[0].key)
    assert cell.failed.reason == "no good"
    assert len(cell.places) == 2  # the block before
    [again] = planned(Task("a", n=5))
    assert compute_all(tmp_path, [again]) == [("a", "done")]
    assert again.task.blocks == [[2, 3], [4]]
    assert CellStore(tmp_path).read(again.key).failed is None


def test_what_another_process_settled_meanwhile_is_counted_and_not_tried_again(tmp_path):
    cells = planned(Task("a", act=raises(ValueError("no"))), Task("b"))
    work, ended = work_in(tmp_path)
    assert all(map(work.left, cells))
    theirs = [("a", "failed: ValueError: no"), ("b", "done")]
    assert compute_all(tmp_path, cells) == theirs
    done = list(cells[1].task.blocks)
    compute(cells, Backend(), work)
    assert ended == theirs
    assert cells[1].task.blocks == done


class EngineDeadError(Exception):
    """vLLM's, by its name."""


def engine_dies(_places):
    try:
        raise EngineDeadError("EngineCore encountered an issue. See stack trace (above)")
    except EngineDeadError as error:
        raise RuntimeError("generation failed") from error


@pytest.mark.parametrize("act", [engine_dies, raises(RuntimeError("CUDA error: unspecified"))])
def test_a_lost_engine_or_accelerator_ends_the_process_and_the_same_command_goes_on(tmp_path, act):
    cells = planned(Task("a", act=act), Task("b"))
    with pytest.raises(LostDeviceError, match=r"the base on a.*the same command goes on") as lost:
        compute_all(tmp_path, cells)
    assert lost.value.exit_code == 3
    assert cells[1].task.blocks == []
    again = planned(Task("a"), Task("b"))
    assert compute_all(tmp_path, again) == [("a", "done"), ("b", "done")]


def test_a_cell_that_another_process_holds_is_waited_for(tmp_path):
    [cell] = planned(Task("a"))
    work, _ = work_in(tmp_path)
    lock = work.folder.take(cell.key)
    assert work.folder.take(cell.key) is None
    release = threading.Timer(0.2, lock.release)
    release.start()
    assert compute_all(tmp_path, [cell]) == [("a", "done")]
    release.join()


def test_a_cell_in_which_processes_die_is_given_up_after_some_deaths(tmp_path):
    [cell] = planned(Task("a", n=5))
    works = [work_in(tmp_path)[0].folder.begun(cell.key) for _ in range(MOST_DEATHS)]
    # never left: the processes were killed
    assert [work.__enter__() for work in works] == list(range(MOST_DEATHS))
    reason = (
        f"{MOST_DEATHS} processes ended while they computed it: to try it again, delete "
        f"{tmp_path / 'locks'}"
    )
    assert compute_all(tmp_path, [cell]) == [("a", f"failed: {reason}")]
    assert compute_all(tmp_path, [cell]) == [("a", f"failed: {reason}")]
    shutil.rmtree(tmp_path / "locks")  # what the user may do
    assert compute_all(tmp_path, [cell]) == [("a", "done")]


def test_deaths_count_only_since_the_cell_grew(tmp_path):
    locks = work_in(tmp_path)[0].folder
    works = [locks.begun("k") for _ in range(3)]
    assert [work.__enter__() for work in works] == [0, 1, 2]
    locks.grown("k")
    with locks.begun("k") as deaths:
        assert deaths == 1
    with locks.begun("k") as deaths:
        assert deaths == 0


def test_an_interrupt_is_no_death(tmp_path):
    cells = planned(Task("a", n=5, act=raises(KeyboardInterrupt(), 2)))
    with pytest.raises(KeyboardInterrupt):
        compute_all(tmp_path, cells)
    assert not list((tmp_path / "locks").glob("*.begun"))
    assert len(CellStore(tmp_path).read(cells[0].key).places) == 2
