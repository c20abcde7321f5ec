"""A dry run says what `compare` then does: the oracle is the comparison itself."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from harness_doubles import text_rows, write_jsonl, write_text_task
from small_runs import TASK, dry_run, random_adapter

from aurac.adapters import Nesting
from aurac.cli import cli
from aurac.errors import (
    BaseModelError,
    CheckpointError,
    RankError,
    RunFolderError,
    TaskError,
    UsageError,
)
from aurac.records.cell import Failure
from aurac.records.store import CellStore
from aurac.runs.compare import compare

if TYPE_CHECKING:
    from pathlib import Path

    from aurac.runs.dryrun import DryRun

COMMON = {"limit": 3, "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def adapter(tiny_base_folder, tmp_path_factory) -> Path:
    """A MatryoshkaLoRA adapter of rank 4 with random factors."""
    nesting = Nesting("matryoshka", (1, 2, 4), (1.0, 1.0, 1.0), None)
    folder = tmp_path_factory.mktemp("adapters") / "mine"
    return random_adapter(tiny_base_folder, folder, nesting=nesting)


@pytest.fixture(scope="module")
def run(adapter, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return compare([adapter], [TASK], out=out, ranks="1,4", **COMMON).folder


def left(found: DryRun) -> dict[str, tuple[int, ...]]:
    return {line.curve: line.left for line in found.lines}


def test_before_a_run_everything_is_left(adapter, tmp_path):
    found = dry_run([adapter], [TASK], out=tmp_path / "none", **COMMON)
    assert left(found) == {
        "base": (0,),
        "mine · prefix · trained": (1, 2, 4),
        "mine · prefix · rule": (1, 2, 4),
    }
    assert (found.cells, found.done, found.folder) == (7, 0, None)
    assert {line.requests for line in found.lines} == {12}  # 3 documents of 4 choices
    assert not (tmp_path / "none").exists()


def test_afterwards_only_what_compare_would_add_is_left(adapter, run):
    before = {path.name for path in (run / "cells").iterdir()}
    assert dry_run([adapter], [TASK], out=run, ranks="1,4", **COMMON).done == len(before) == 5
    found = dry_run([adapter], [TASK], out=run, **COMMON)
    assert left(found) == {
        "base": (),
        "mine · prefix · trained": (2,),
        "mine · prefix · rule": (2,),
    }
    assert {path.name for path in (run / "cells").iterdir()} == before  # nothing was written


def test_cells_that_failed_are_left_alone_unless_asked_for(adapter, run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "run")
    store = CellStore(broken)
    identities = [store.read(key).identity for key in sorted(store.keys())]
    [identity] = [i for i in identities if (i.rank, i.rescale) == (4, "rule")]
    store.path(identity.key).unlink()
    store.fail(Failure(key=identity.key, identity=identity, reason="why"))
    found = dry_run([adapter], [TASK], out=broken, ranks="1,4", **COMMON)
    assert (found.done, found.failed) == (4, 1)
    assert set(left(found).values()) == {()}
    again = dry_run([adapter], [TASK], out=broken, ranks="1,4", retry_failed=True, **COMMON)
    assert left(again)["mine · prefix · rule"] == (4,)


def test_another_limit_leaves_what_compare_would_compute(adapter, run):
    more = dry_run([adapter], [TASK], out=run, ranks="1,4", **{**COMMON, "limit": 4})
    assert (more.cells, more.done) == (5, 0)
    less = dry_run([adapter], [TASK], out=run, ranks="1,4", **{**COMMON, "limit": 2})
    assert (less.cells, less.done) == (5, 5)


def test_a_folder_of_another_run_is_refused_as_compare_refuses_it(adapter, run):
    with pytest.raises(RunFolderError) as told:
        dry_run([adapter], [TASK], out=run, **{**COMMON, "seed": 2})
    with pytest.raises(RunFolderError) as oracle:
        compare([adapter], [TASK], out=run, **{**COMMON, "seed": 2})
    assert str(told.value) == str(oracle.value)


def test_a_damaged_cell_is_left(adapter, run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "run")
    cell = next((broken / "cells").iterdir())
    cell.write_text(cell.read_text().replace(":", ": ", 1)[:-40])
    assert dry_run([adapter], [TASK], out=broken, ranks="1,4", **COMMON).done == 4


def test_another_base_than_the_recorded_one_is_noted(adapter):
    found = dry_run([adapter], [TASK], **{**COMMON, "base": "owner/name"})
    assert found.downloads[0] == "base owner/name: from the hub"
    assert any(note.startswith("adapter mine records the base ") for note in found.notes)


def test_what_compare_refuses_is_refused(adapter, tmp_path):
    with pytest.raises(RankError):
        dry_run([adapter], [TASK], ranks="5", **COMMON)
    with pytest.raises(CheckpointError):
        dry_run([tmp_path / "nothing"], [TASK], **COMMON)
    with pytest.raises(TaskError, match="does not exist"):
        dry_run([adapter], [str(tmp_path / "no.yaml"), TASK], **COMMON)


def test_options_may_name_any_of_the_tasks(adapter, tmp_path, caplog):
    """Tasks are built one by one; options are about all of them, by the names in their files."""

    def own_warnings() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.name.startswith("aurac")]

    text = str(write_text_task(tmp_path, "my_text", test=text_rows(2)))
    write_jsonl(tmp_path / "other" / "train.jsonl", text_rows(12, 100))
    data = {"my_text": write_jsonl(tmp_path / "other" / "test.jsonl", text_rows(4)).parent}
    options = {**COMMON, "limit": None, "gen_kwargs": {"max_gen_toks": 2}}
    found = dry_run([adapter], [text, TASK], data=data, **options)
    assert {line.task: line.requests for line in found.lines}["my_text"] == 4
    assert own_warnings() == []
    with pytest.raises(UsageError, match="names 'my_txt', which is not evaluated"):
        dry_run([adapter], [text, TASK], data={"my_txt": tmp_path / "other"}, **options)
    dry_run([adapter], [TASK], **options)
    assert own_warnings() == ["--gen-kwargs changes nothing: no task generates text"]


@pytest.mark.parametrize("base", ["/nope", "./nope/base", "~/nope", "a/b/c"])
def test_a_base_that_is_nowhere_is_refused_as_by_the_run(base, adapter, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(BaseModelError, match="is no folder here"):
        dry_run([adapter], [TASK], **COMMON, base=base)


def test_a_packaged_base_that_is_not_here_is_a_download(adapter, isolated_cache):
    found = dry_run([adapter], [TASK], base="smollm2-135m-instruct-q4_1", **COMMON)
    assert found.downloads == ("base smollm2-135m-instruct-q4_1: 93 MB through pip",)
    assert found.cells == 7
    assert not (isolated_cache / "bases").exists()


def test_data_from_the_hub_are_not_looked_up(adapter, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = dry_run([adapter], ["gsm8k", TASK], **COMMON)
    assert {line.task: line.requests for line in found.lines} == {TASK: 12, "gsm8k": None}
    assert any("gsm8k" in what for what in found.downloads)


def test_on_the_command_line(adapter, run, monkeypatch):
    arguments = ["compare", str(adapter), "--tasks", TASK, "--limit", "3", "--dtype", "float32"]
    arguments += ["--device", "cpu", "--out", str(run), "--dry-run"]
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "HF_HUB_OFFLINE" not in os.environ  # offline for its own length only
    assert "2 of 7 cells to compute, 5 already in" in done.output
    assert "download: nothing" in done.output
    content = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    assert (content["cells"], content["done"]) == (7, 5)
    assert [line["left"] for line in content["lines"]] == [[], [2], [2]]
