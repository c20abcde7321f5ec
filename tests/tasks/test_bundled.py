"""The bundled documents: the published ones, from files that may be read only, or a clear error."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from aurac.cli import cli
from aurac.errors import DataError, TaskError
from aurac.tasks import BUNDLED, bundled, documents, load_split

TASK = "aurac_word_problems"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the bundled files that a test may damage; gives its test split."""
    shutil.copytree(bundled.include_path(), tmp_path / "bundled")
    monkeypatch.setattr(bundled, "include_path", lambda: tmp_path / "bundled")
    return tmp_path / "bundled" / TASK / "test.jsonl.gz"


@pytest.mark.parametrize("task", BUNDLED)
def test_the_documents_are_the_published_ones(task):
    for split, path in documents(task).items():
        lines = gzip.decompress(path.read_bytes())
        assert hashlib.sha256(lines).hexdigest() == bundled.DIGESTS[task][split]
        assert load_split(task, split) == [json.loads(line) for line in lines.splitlines()]
        assert path.name == f"{split}.jsonl.gz"


def test_the_command_prints_the_files():
    lines = CliRunner().invoke(cli, ["tasks", TASK]).output.splitlines()
    assert lines[-3:] == [f"{split}  {path}" for split, path in documents(TASK).items()]


def test_the_files_of_all_tasks_stay_below_a_megabyte():
    assert sum(path.stat().st_size for t in BUNDLED for path in documents(t).values()) < 1_000_000


def test_unknown_names_say_what_there_is():
    with pytest.raises(TaskError, match="gsm8k is not a bundled task"):
        documents("gsm8k")
    with pytest.raises(TaskError, match="has no split dev, but train, validation, test"):
        load_split(TASK, "dev")


@pytest.mark.parametrize("damage", ["cut off", "no gzip", "missing"])
def test_a_damaged_file_is_an_error_with_the_way_out(copy, damage):
    packed = copy.read_bytes()
    copy.unlink()
    if damage != "missing":
        copy.write_bytes(packed[:-20] if damage == "cut off" else b"{}\n")
    with pytest.raises(DataError, match=r"test\.jsonl\.gz cannot be read.*reinstall aurac"):
        load_split(TASK, "test")
    with pytest.raises(DataError, match="cannot be read"):
        documents(TASK)
    assert len(load_split(TASK, "train")) == 6000


def test_other_documents_are_refused(copy):
    lines = gzip.decompress(copy.read_bytes()).splitlines(keepends=True)
    copy.write_bytes(gzip.compress(b"".join(lines[:-1])))
    with pytest.raises(DataError, match="differs from the published data"):
        documents(TASK)


def test_reading_writes_no_file_and_loads_no_heavy_library(tmp_path):
    code = (
        "import sys; from aurac.tasks import BUNDLED, documents, load_split\n"
        "for task in BUNDLED: documents(task); load_split(task, 'test')\n"
        "print(sorted({'torch', 'lm_eval', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    env = {
        "AURAC_CACHE": str(tmp_path / "a"),
        "HF_HOME": str(tmp_path / "h"),
        "HOME": str(tmp_path),
    }
    path = {"PYTHONPATH": str(bundled.include_path().parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())
