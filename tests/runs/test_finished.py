"""A finished run is shown without what computed it, and only while nothing has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hostile_files import run_aurac
from small_runs import TASK, random_adapter

from aurac.notebook import Run
from aurac.records.results_file import Results
from aurac.runs import finished
from aurac.runs.compare import compare
from aurac.runs.finished import comparable, recall, record_of
from aurac.runs.settings import Request, separated

if TYPE_CHECKING:
    from pathlib import Path

COMMON = {"limit": 3, "dtype": "float32", "device": "cpu", "ranks": "1,4"}
LATER = 1e11  # seconds since the epoch
HEAVY = ("torch", "transformers", "lm_eval", "datasets", "peft", "matplotlib", "pandas")


@pytest.fixture(scope="module")
def made(tiny_base_folder, tmp_path_factory) -> Path:
    """A folder with an adapter, its base and a finished run."""
    root = tmp_path_factory.mktemp("finished")
    base = shutil.copytree(tiny_base_folder, root / "base")
    adapter = random_adapter(base, root / "mine", seed=0)
    done = compare([str(adapter)], [TASK], out=root / "run", **COMMON)
    assert not done.failures
    return root


@pytest.fixture
def run(made, tmp_path, isolated_cache) -> tuple[Path, Path, Path]:
    """(adapter, base, run folder) of a finished run of this test's own, that is remembered."""
    root = shutil.copytree(made, tmp_path / "copy")
    adapter, base, out = root / "mine", root / "base", root / "run"
    files = tuple(sorted(out.glob("report.*")))
    done = Run(out, Results.read(out), files, 3)
    finished.InputSnapshot(request(adapter, out), base, LATER).keep(done)
    return adapter, base, out


def request(adapter: Path, out: Path, tasks=(TASK,), **changed) -> Request:
    return Request((str(adapter),), tuple(tasks), str(out), *separated({**COMMON, **changed}))


def test_the_same_request_is_recognised_and_gives_the_same_results(run):
    adapter, _, out = run
    done = recall(request(adapter, out))
    assert done.cells == 3
    assert done.results == Results.read(out)
    assert {path.name for path in done.files} >= {"report.html", "report.md"}
    assert all(path.is_file() for path in done.files)


@pytest.mark.parametrize(
    "changed",
    [
        {"limit": 2},
        {"ranks": "1,2,4"},
        {"seed": 7},
        {"retry_failed": True},
        {"tasks": ("aurac_word_problems",)},
    ],
    ids=str,
)
def test_another_request_is_not(run, changed):
    adapter, _, out = run
    assert recall(request(adapter, out, **changed)) is None


def keep_times(path: Path, act) -> None:
    """Change a file so that its size and times stay."""
    before = path.stat()
    act(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def remove_a_cell(_adapter, _base, out):
    next((out / "cells").iterdir()).unlink()


def rewrite_a_cell(_adapter, _base, out):
    flip_last_byte(next((out / "cells").iterdir()))


CHANGES = {
    "adapter": lambda a, _b, _o: keep_times(a / "adapter_model.safetensors", flip_last_byte),
    "adapter's new file": lambda a, _b, _o: (a / "more.json").write_text("{}"),
    "base's weights": lambda _a, b, _o: flip_last_byte(b / "model.safetensors"),
    "base's configuration": lambda _a, b, _o: (b / "config.json").write_text(
        (b / "config.json").read_text() + "\n"
    ),
    "chat template": lambda _a, b, _o: (b / "chat_template.jinja").write_text("x"),
    "cell gone": remove_a_cell,
    "cell rewritten": rewrite_a_cell,
    "failure": lambda _a, _b, o: (o / "failed").mkdir() or (o / "failed" / "x").write_text(""),
    "results": lambda _a, _b, o: (o / "results.json").write_text("{}"),
    "no results": lambda _a, _b, o: (o / "results.json").unlink(),
    "report": lambda _a, _b, o: (o / "report.html").unlink(),
    "run.json": lambda _a, _b, o: flip_last_byte(o / "run.json"),
    "run folder": lambda _a, _b, o: shutil.rmtree(o),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_leads_back_to_the_full_way(run, what):
    adapter, base, out = run
    CHANGES[what](adapter, base, out)
    assert recall(request(adapter, out)) is None


def test_other_code_or_another_machine_is_a_change(run, monkeypatch):
    adapter, _, out = run
    for name, value in (
        ("versions", lambda: {"torch": "other"}),
        ("machine", lambda: {"cpu": "other"}),
        ("ENGINE_VERSION", -1),
        ("_devices", lambda: ["/dev/nvidia0"]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(finished, name, value)
            assert recall(request(adapter, out)) is None
    assert recall(request(adapter, out)) is not None


def test_local_documents_are_compared_by_content(run, tmp_path):
    adapter, base, out = run
    data = tmp_path / "data"
    data.mkdir()
    (data / "test.jsonl").write_text('{"question": "a"}\n')
    asked = request(adapter, out, data={TASK: data})
    assert recall(asked) is None
    done = recall(request(adapter, out))
    finished.InputSnapshot(asked, base, LATER).keep(done)
    assert recall(asked) is not None
    keep_times(data / "test.jsonl", flip_last_byte)
    assert recall(asked) is None


def test_what_cannot_be_compared_is_built(tmp_path, run):
    adapter, _, out = run
    assert not comparable(request("owner/on_the_hub", out))
    assert not comparable(request(adapter, out, tasks=[str(tmp_path / "own.yaml")]))


def test_an_input_that_changed_while_it_was_read_is_not_remembered(run, monkeypatch):
    adapter, base, out = run
    done = recall(request(adapter, out))
    known = record_of(request(adapter, out))
    known.unlink()
    started = (adapter / "adapter_model.safetensors").stat().st_mtime - 1
    finished.InputSnapshot(request(adapter, out), base, started).keep(done)
    assert not known.exists()
    finished.InputSnapshot(request(adapter, out), base, LATER).keep(done)
    assert known.exists()


def test_a_folder_of_documents_may_be_given_as_text_and_old_records_go(run, tmp_path, monkeypatch):
    adapter, base, out = run
    done = recall(request(adapter, out))
    monkeypatch.setattr(finished, "_KEPT", 2)
    for number in range(4):
        data = {TASK: str(adapter), "other": str(tmp_path / str(number))}
        (tmp_path / str(number)).mkdir()
        asked = request(adapter, out, data=data)
        finished.InputSnapshot(asked, base, LATER).keep(done)
        assert recall(asked) is not None
    assert len(list(record_of(asked).parent.iterdir())) == 2


def loaded_by(*arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """A command in a process of its own, and the packages that it imported."""
    code = (
        "import sys; sys.argv[0] = 'aurac'\n"
        "from aurac.cli import main\n"
        "try: main()\n"
        "finally: print(*{n.partition('.')[0] for n in sys.modules}, file=sys.__stderr__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    return done, set(done.stderr.splitlines()[-1].split())


def test_a_finished_run_imports_no_model_and_no_harness(run):
    adapter, _, out = run
    command = ["compare", str(adapter), "--tasks", TASK, "--limit", "3", "--dtype", "float32"]
    command += ["--device", "cpu", "--ranks", "1,4", "--out", str(out)]
    code, said, told = run_aurac(*command)  # settings that differ in form from the fixture's
    assert code == 0, told
    again, packages = loaded_by(*command)
    assert again.returncode == 0, again.stderr
    assert again.stdout == said
    assert "0 of 3 cells to compute, 3 already there" in again.stderr
    assert not packages & set(HEAVY)
    assert "rich" in packages
    flip_last_byte(adapter / "adapter_model.safetensors")
    changed, packages = loaded_by(*command)
    assert changed.returncode == 2
    assert "adapter mine has other content" in changed.stderr
    assert "torch" in packages


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_mistyped_task_is_refused_before_anything_heavy_is_imported(tmp_path, more):
    done, packages = loaded_by("compare", str(tmp_path), "--tasks", "gms8k", *more)
    assert done.returncode == 2
    assert "task 'gms8k' is not known to lm-eval" in done.stderr
    assert "a task such as gsm8k" in done.stderr
    assert not packages & set(HEAVY)
