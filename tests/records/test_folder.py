"""The list of examples of a task, which processes extend and no process shortens."""

from __future__ import annotations

import threading

import pytest
from support.made_runs import make_keys

from aurac.errors import RunFolderError
from aurac.files import write_json
from aurac.records.documents import Documents
from aurac.records.folder import RunFolder
from aurac.records.lines import DocumentKey
from aurac.records.manifest import AdapterInfo, CutInfo, Manifest, TaskInfo


def record(folder, keys, *, before=lambda: None, members=()):
    """A command on these examples; `before` is called between the list and `run.json`."""

    def write(_task):
        rows = [[key.id, key.content, key.prompt] for key in keys]
        write_json(Documents(folder).path("t", "json"), {"keys": rows})
        before()

    cut = CutInfo(adapter="a", basis="svd", rescale="keep", cells={"t": {1: "k"}})
    adapter = AdapterInfo(name="a", sha256="a", trained_rank=1)
    about = {"settings": {}, "adapters": [adapter], "asked": ["t"], "cuts": [cut], "base": {}}
    tasks = [TaskInfo(name="t", metric="m", examples={"t": len(keys)}, members=members)]
    manifest = Manifest(**about, tasks=tasks, asked_examples={"k": len(keys)})
    RunFolder(folder).record(manifest, {"t": keys}, write)


def lengths(folder):
    """Of the list, and as `run.json` says."""
    known = Manifest.read(folder)
    return len(Documents(folder).keys("t")), known.tasks[0].examples["t"], known.asked_examples["k"]


@pytest.mark.parametrize("numbers", [(9, 3), (3, 9)])
def test_the_longest_list_of_commands_and_of_processes_stays(tmp_path, numbers):
    for n in numbers:
        record(tmp_path / "one", make_keys(n))
    assert lengths(tmp_path / "one") == (9, 9, 9)
    lists = [make_keys(n) for n in (*numbers, *range(1, 8))]
    every = [threading.Thread(target=record, args=(tmp_path / "two", keys)) for keys in lists]
    for each in every:
        each.start()
    for each in every:
        each.join()
    assert lengths(tmp_path / "two") == (9, 9, 9)


def test_a_command_that_ends_between_the_list_and_run_json_is_repeated(tmp_path):
    def ends():
        raise KeyboardInterrupt

    for n in (2, 5):  # a new folder, and one that has a run
        with pytest.raises(KeyboardInterrupt):
            record(tmp_path, make_keys(n), before=ends)
        record(tmp_path, make_keys(n))
        assert lengths(tmp_path) == (n, n, n)


def test_what_was_begun_in_a_new_folder_binds_nobody(tmp_path):
    """No cell has been computed for it."""
    with pytest.raises(ZeroDivisionError):
        record(tmp_path, make_keys(3, "old"), before=lambda: 1 / 0)
    record(tmp_path, make_keys(2))
    assert Documents(tmp_path).keys("t") == make_keys(2)


@pytest.mark.parametrize("part", ["content", "prompt"])
def test_examples_that_changed_are_named(tmp_path, part):
    keys = make_keys(40)
    record(tmp_path, keys)
    before = (tmp_path / "run.json").read_bytes()
    for at in (6, 30):
        key = {"id": keys[at].id, "content": keys[at].content, "prompt": keys[at].prompt}
        keys[at] = DocumentKey(**key | {part: "new"})
    with pytest.raises(RunFolderError, match=r"^examples 7 and 31 of t changed: give a new folder"):
        record(tmp_path, keys)
    with pytest.raises(RunFolderError, match=r"^example 7 of t changed"):
        record(tmp_path, keys[:20])
    with pytest.raises(RunFolderError, match=r"1, 2, 3, 4 and 36 others"):
        record(tmp_path, make_keys(40)[::-1])  # other places
    assert (tmp_path / "run.json").read_bytes() == before
    record(tmp_path, make_keys(6))  # those before them are as they were


def test_a_group_of_other_tasks_is_refused(tmp_path):
    record(tmp_path, make_keys(2), members=("t",))
    with pytest.raises(RunFolderError, match="of task t was a group of other tasks"):
        record(tmp_path, make_keys(2), members=("t", "u"))
