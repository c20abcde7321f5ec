"""How a run stands, from listings alone; the run folder's rules; logs and profile."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import msgspec
import pytest
from click.testing import CliRunner
from runs_doubles import Task, planned, runner

from aurac.cli.runs import runs
from aurac.errors import RunFolderError, UsageError
from aurac.files import process_mark, write_json
from aurac.runs.folder import (
    find_run_folder,
    held_besides,
    open_run_folder,
    recorded_names,
    subset_folder,
    warn_unused,
)
from aurac.runs.interrupts import Interrupted, Interrupts
from aurac.runs.lock import Locks
from aurac.runs.log import Profile, RunLog
from aurac.runs.progress import duration
from aurac.runs.schema import CellIdentity, PlanRow, RequestedTask, RequestSettings, RunRequest
from aurac.runs.settings import Execution, Settings, from_plain, parse_shard, separated, to_plain
from aurac.runs.status import add_to_plan, find_runs, read_plan, read_status, write_plan
from aurac.runs.store import CellStore

REQUEST = RunRequest(
    settings=RequestSettings(dtype="float32", num_fewshot=5),
    adapters={"a": "1"},
    curves=[("a · prefix · rule", [1, 2])],
    tasks={"t": RequestedTask(first_prompt="x", documents=3)},
)


def changed(**fields):
    """REQUEST with other fields."""
    return msgspec.structs.replace(REQUEST, **fields)


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
    plan = read_plan(folder)
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
    assert status.running_cells == ("held · base",)
    assert status.failures == ({"cell": "bad · base", "reason": "ValueError: why"},)
    assert status.processes == 1
    # Two cells are to come, each of as many requests as the one that took 0.2 s.
    assert 0.4 <= status.seconds_left < 2


def test_what_a_person_reads(folder):
    said = CliRunner().invoke(runs, ["status", str(folder)], standalone_mode=False).output
    assert "done 1 of 4, running 1, failed 1, left 1" in said
    assert "failed: bad · base: ValueError: why" in said
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
    assert read_plan(folder) is None


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
    monkeypatch.setattr("aurac.runs.store.read_cell", None)
    status = read_status(folder)
    assert (status.done, status.failed) == (1, 1)
    assert status.seconds_left is None  # the line that told the pace is too far back


# The folder's rules -----------------------------------------------------------------------------


def test_two_processes_may_begin_one_folder(tmp_path):
    """Each finds nothing, or the other's half-made record; both go on, a third request may not."""
    out = tmp_path / "r"
    out.mkdir()
    (out / ".run.json.elsewhere-1-1.abc").write_text("{")
    assert open_run_folder(out, ["t"], REQUEST) == out
    assert open_run_folder(out, ["t"], REQUEST) == out
    other = changed(settings=RequestSettings(dtype="bfloat16", num_fewshot=5))
    with pytest.raises(RunFolderError, match="dtype was 'float32', is 'bfloat16'"):
        open_run_folder(out, ["t"], other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"settings": RequestSettings(dtype="float32", num_fewshot=4)},
            "num_fewshot was 5, is 4",
        ),
        ({"adapters": {"a": "2"}}, "adapter a has other content: its weights changed"),
        (
            {"tasks": {"t": RequestedTask(first_prompt="y", documents=3)}},
            "task t has other content: its prompts or documents changed",
        ),
    ],
)
def test_a_changed_request_is_refused_with_the_difference(tmp_path, change, said):
    open_run_folder(tmp_path / "r", ["t"], REQUEST)
    before = (tmp_path / "r/run.json").read_bytes()
    with pytest.raises(RunFolderError, match=said):
        open_run_folder(tmp_path / "r", ["t"], changed(**change))
    assert (tmp_path / "r/run.json").read_bytes() == before


def test_a_refusal_gives_the_command_that_keeps_both_runs(tmp_path):
    """The settings explain the prompts, which are not listed beside them."""
    out = open_run_folder(tmp_path / "r", ["t"], REQUEST)
    settings = RequestSettings(dtype="float32", num_fewshot=60)
    tasks = {"t": RequestedTask(first_prompt="y", documents=3)}
    other = changed(settings=settings, tasks=tasks)
    for given in (f"--out {out}", f"--out={out}"):
        command = f"aurac compare 'my a' {given} --num-fewshot 60"
        with pytest.raises(RunFolderError) as refused:
            open_run_folder(out, ["t"], other, command)
        assert "(num_fewshot was 5, is 60); expected the same settings" in str(refused.value)
        elsewhere = f"--num-fewshot 60 --out {out}-num-fewshot-60` to run this beside it"
        assert f"give `aurac compare 'my a' {elsewhere}" in str(refused.value)
    (tmp_path / "r-num-fewshot-60").mkdir()
    with pytest.raises(RunFolderError, match=r"give --out .*/r-num-fewshot-60-2 to run"):
        open_run_folder(out, ["t"], other)
    with pytest.raises(RunFolderError, match=r"weights changed.*give --out .*/r-2 to run"):
        open_run_folder(out, ["t"], changed(adapters={"a": "2"}))
    none = changed(settings=RequestSettings(dtype="float32"))
    with pytest.raises(RunFolderError, match=r"num_fewshot was 5, is not given.*/r-2 to run"):
        open_run_folder(out, ["t"], none)


def test_a_damaged_record_is_no_run_to_add_to(tmp_path):
    for record in ("{", "[]", "{}", json.dumps(REQUEST.to_dict() | {"curves": 1})):
        (tmp_path / "run.json").write_text(record)
        with pytest.raises(RunFolderError, match=r"its run\.json cannot be read"):
            find_run_folder(tmp_path, ["t"], REQUEST)


def test_a_folder_records_all_that_was_asked_for_and_says_what_else_it_holds(tmp_path):
    open_run_folder(tmp_path, ["t"], REQUEST)
    assert held_besides(tmp_path, REQUEST) == []
    other = changed(
        adapters={"a": "1", "b": "2"},
        curves=[("a · prefix · rule", [2, 4]), ("b · prefix · rule", [4])],
        tasks={"u": RequestedTask(first_prompt="x", documents=3)},
    )
    assert find_run_folder(tmp_path, ["u"], other) == (tmp_path, True)
    open_run_folder(tmp_path, ["u"], other)
    assert held_besides(tmp_path, other) == ["task t", "rank 1 of a · prefix · rule"]
    assert held_besides(tmp_path, REQUEST) == [
        "adapter b",
        "task u",
        "rank 4 of a · prefix · rule",
    ]
    both = json.loads((tmp_path / "run.json").read_text())
    assert both["curves"] == [["a · prefix · rule", [1, 2, 4]], ["b · prefix · rule", [4]]]
    assert recorded_names(tmp_path) == {"1": "a", "2": "b"}
    open_run_folder(tmp_path, ["t"], REQUEST)
    assert json.loads((tmp_path / "run.json").read_text()) == both
    assert subset_folder(tmp_path, REQUEST).parent == tmp_path / "subsets"
    assert subset_folder(tmp_path, REQUEST) != subset_folder(tmp_path, other)


def test_documents_may_be_added_and_fewer_are_a_subset(tmp_path):
    """The same first prompt; the folder records the largest number."""
    large = changed(tasks={"t": RequestedTask(first_prompt="x", documents=9)})
    for request in (REQUEST, large, REQUEST):
        assert open_run_folder(tmp_path, ["t"], request) == tmp_path
    assert RunRequest.read(tmp_path).tasks == large.tasks
    assert held_besides(tmp_path, large) == []
    assert held_besides(tmp_path, REQUEST) == ["9 documents of t"]
    assert subset_folder(tmp_path, REQUEST) != subset_folder(tmp_path, large)


def test_the_plan_keeps_cells_that_are_not_asked_for_now(tmp_path):
    one, other = PlanRow("1", "a", 1, "t", 12, 3), PlanRow("2", "b", 1, "t", 12, 3)
    write_plan(tmp_path, [one, other])
    again = msgspec.structs.replace(one, key="3")
    add_to_plan(tmp_path, [again])
    assert read_plan(tmp_path) == [again, other]


@pytest.mark.parametrize("field", CellIdentity.__struct_fields__)
def test_what_makes_old_cells_useless_is_named(tmp_path, caplog, field):
    """Every field but those that say which cell it is: another rank is another cell."""
    [cell] = planned(Task("t"))
    store = CellStore(tmp_path)
    store.recount(cell.identity, 0)
    new = msgspec.structs.replace(cell.identity, **{field: 7})
    with caplog.at_level(logging.WARNING, "aurac"):
        said = warn_unused(store, [new])
    if field in ("task", "rank", "basis", "rescale", "adapter_sha256"):
        assert said == []
    else:
        assert said == [field]
        assert f"1 cells in {store.folder} are not used, because {field} was" in caplog.text
    assert warn_unused(store, [cell.identity]) == []


# Settings, logs, profile ------------------------------------------------------------------------


def test_shards_are_numbered_from_one():
    assert parse_shard("3/8") == (3, 8)
    assert parse_shard(None) is None
    for bad in ("0/8", "9/8", "x", "1", "1/0", "-1/2"):
        with pytest.raises(UsageError, match="numbers from 1"):
            parse_shard(bad)


def test_execution_is_checked_and_apart_from_what_changes_numbers():
    settings, execution = separated({"limit": 3, "workers": 2, "executor": "local"})
    assert (settings.task.limit, execution.workers) == (3, 2)
    with pytest.raises(UsageError, match="executor 'slurm'"):
        Execution(executor="slurm")
    with pytest.raises(UsageError, match="an address without --executor ray"):
        Execution(address="auto")
    with pytest.raises(TypeError, match="no_such"):
        separated({"no_such": 1})


def test_settings_travel_as_json(tmp_path):
    settings = Settings.of(data={"t": tmp_path}, checkpoint={"nested_ranks": (1, 2)}, ranks=(1, 2))
    there = from_plain(json.loads(json.dumps(to_plain(settings))))
    assert there.task.data == {"t": tmp_path.resolve()}
    assert tuple(there.truncation.ranks) == (1, 2)
    assert to_plain(there) == json.loads(json.dumps(to_plain(settings)))


def test_a_log_is_json_lines_with_the_run_and_what_was_warned(tmp_path):
    with RunLog(tmp_path, "id") as log:
        log.event("cell", key="k")
        logging.getLogger("aurac.anything").warning("look: %s", "here")
    lines = [json.loads(x) for x in (tmp_path / "logs/id.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["cell", "message", "end"]
    assert {line["run"] for line in lines} == {"id"}
    assert lines[1]["text"] == "look: here"
    assert lines[2]["how"] == "done"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "logs").write_text("a file")
    with RunLog(tmp_path) as log:
        log.event("cell")


def test_a_profile_adds_up(monkeypatch):
    """2 s of `a`, of which 1.5 s belong to `within`; 1 s told of `b`; 3.25 s in all."""
    now = [10.0]
    monkeypatch.setattr("aurac.runs.log.time.perf_counter", lambda: now[0])
    profile = Profile()
    with profile.spent("a"):
        now[0] += 0.5
        with profile.spent("within"):
            now[0] += 1.5
    now[0] += 1.25
    profile.add("b", 1.0, 3)
    assert profile.to_dict() == {
        "schema": 1,
        "seconds": 3.25,
        "parts": {
            "within": {"seconds": 1.5, "share": 0.4615, "count": 1},
            "b": {"seconds": 1.0, "share": 0.3077, "count": 3},
            "a": {"seconds": 0.5, "share": 0.1538, "count": 1},
        },
        "other": 0.25,
    }


def test_durations():
    assert [duration(s) for s in (0, 8.2, 65, 3700, 90000)] == [
        "0 s", "8 s", "1 min 5 s", "1 h 1 min", "1 d 1 h",
    ]  # fmt: skip


def test_listing_runs_loads_no_model(folder):
    """Seconds of imports would be felt at every look."""
    script = (
        "import sys; sys.argv = ['aurac', 'runs', 'status', sys.argv[1], '--json']\n"
        "import aurac.cli\n"
        "try: aurac.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'lm_eval', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == 1


def test_run_json_of_an_unknown_form_is_refused(tmp_path):
    write_json(tmp_path / "run.json", {"other": 1})
    with pytest.raises(RunFolderError, match="cannot be read"):
        open_run_folder(tmp_path, ["t"], REQUEST)


def test_progress_on_a_pipe_says_each_tenth_with_the_time_left(monkeypatch, capsys, tmp_path):
    """27 of 90 requests in 9 s are 3 a second, and leave 21 s; labels are not printed."""
    from aurac.runs.progress import SweepProgress

    now = [0.0]
    monkeypatch.setattr("aurac.runs.progress.time.perf_counter", lambda: now[0])
    cells = planned(*(Task(f"t{k}", n=30) for k in range(3)))
    stored = planned(Task("t3"))
    with SweepProgress(cells, [*cells, *stored], CellStore(tmp_path), Interrupts()) as progress:
        progress.cell(cells[0])
        for _ in range(10):
            now[0] += 1.0
            progress.documents(3)
        progress.settled(cells[0], "failed")
        progress.documents(-3)
        progress.documents(3)
        now[0] = 20.0
        progress.documents(60)
    assert capsys.readouterr().err.splitlines() == [
        "3 of 4 cells to compute, 1 already there",
        "10 %: 0 of 3 cells, 3 s, 3 requests/s, 27 s left",
        "20 %: 0 of 3 cells, 6 s, 3 requests/s, 24 s left",
        "30 %: 0 of 3 cells, 9 s, 3 requests/s, 21 s left",
        "1 of 3 cells finished in 20 s",
    ]
