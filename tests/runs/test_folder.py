"""The run folder's rules: whose it is, what may be added, why cells are not used."""

from __future__ import annotations

import json
import logging
import re

import msgspec
import pytest
from runs_doubles import REQUEST, Task, planned

from aurac.errors import RunFolderError
from aurac.files import write_json
from aurac.records.cell import CellIdentity
from aurac.records.decisions import AFTER, BEFORE, Declaration
from aurac.records.store import CellStore
from aurac.runs.folder import (
    RequestedTask,
    RequestSettings,
    RunRequest,
    find_run_folder,
    open_run_folder,
    recorded_besides,
    recorded_names,
    subset_folder,
    warn_unused,
)


def changed(**fields):
    """REQUEST with other fields."""
    return msgspec.structs.replace(REQUEST, **fields)


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
        (
            {"settings": RequestSettings(dtype="float32", num_fewshot=5, gen_kwargs="a=1")},
            "gen_kwargs was not given, is 'a=1'",
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


@pytest.mark.parametrize(
    ("asked", "tasks", "named"),
    [
        (["./my/file.yaml"], ["t"], "t"),
        (["/far/away/file.yaml", "gsm8k"], ["t", "gsm8k"], "file-gsm8k"),
        (["group.yml"], ["a", "b"], "group"),
        (["arc_easy"], ["arc_easy"], "arc_easy"),
    ],
)
def test_a_run_of_a_task_file_is_named_after_the_task(asked, tasks, named):
    known = {task: RequestedTask(first_prompt="x", documents=3) for task in tasks}
    folder, _ = find_run_folder(None, asked, changed(tasks=known))
    assert re.fullmatch(rf"{named}-[0-9a-f]{{8}}", folder.name)


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
    with pytest.raises(RunFolderError, match=r"give out='.*/r-num-fewshot-60-2' to run"):
        open_run_folder(out, ["t"], other)
    with pytest.raises(RunFolderError, match=r"weights changed.*give out='.*/r-2' to run"):
        open_run_folder(out, ["t"], changed(adapters={"a": "2"}))
    none = changed(settings=RequestSettings(dtype="float32"))
    with pytest.raises(RunFolderError, match=r"num_fewshot was 5, is not given.*/r-2' to run"):
        open_run_folder(out, ["t"], none)


def test_a_damaged_record_is_no_run_to_add_to(tmp_path):
    for record in ("{", "[]", "{}", json.dumps(REQUEST.to_dict() | {"curves": 1})):
        (tmp_path / "run.json").write_text(record)
        with pytest.raises(RunFolderError, match=r"its run\.json cannot be read"):
            find_run_folder(tmp_path, ["t"], REQUEST)


def test_a_folder_records_all_that_was_asked_for_and_says_what_else_it_holds(tmp_path):
    open_run_folder(tmp_path, ["t"], REQUEST)
    assert recorded_besides(tmp_path, REQUEST) == []
    other = changed(
        adapters={"a": "1", "b": "2"},
        curves=[("a · prefix · rule", [2, 4]), ("b · prefix · rule", [4])],
        tasks={"u": RequestedTask(first_prompt="x", documents=3)},
    )
    assert find_run_folder(tmp_path, ["u"], other) == (tmp_path, True)
    open_run_folder(tmp_path, ["u"], other)
    assert recorded_besides(tmp_path, other) == ["task t", "rank 1 of a"]
    assert recorded_besides(tmp_path, REQUEST) == [
        "adapter b",
        "task u",
        "rank 4 of a",
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
    assert recorded_besides(tmp_path, large) == []
    assert recorded_besides(tmp_path, REQUEST) == ["9 documents of t"]
    assert subset_folder(tmp_path, REQUEST) != subset_folder(tmp_path, large)


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


def test_run_json_of_an_unknown_form_is_refused(tmp_path):
    write_json(tmp_path / "run.json", {"other": 1})
    with pytest.raises(RunFolderError, match="cannot be read"):
        open_run_folder(tmp_path, ["t"], REQUEST)


def test_primary_comparisons_are_dated_by_the_outcomes_that_are_there(tmp_path):
    def declared(*pairs):
        asked = changed(primary=Declaration(pairs=[*pairs], declared=BEFORE)) if pairs else REQUEST
        open_run_folder(tmp_path / "r", ["t"], asked)
        known = RunRequest.read(tmp_path / "r").primary
        return known and (known.pairs, known.declared)

    assert not declared()
    assert declared(("a", "b")) == ([("a", "b")], BEFORE)  # begun, and nothing computed
    (tmp_path / "r" / "cells").mkdir()
    (tmp_path / "r" / "cells" / "x.jsonl").write_text("")
    assert declared(("a", "b")) == ([("a", "b")], BEFORE)  # the same command goes on
    assert declared() == ([("a", "b")], BEFORE)
    assert declared(("a", "*")) == ([("a", "*")], AFTER)
