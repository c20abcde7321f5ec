"""Every command and block of the README, the first page and commands.md runs on the real model.

The commands are the documents' own, word for word, with changes that save time: `--limit` and the
default number of documents become a handful, only the first and the last of the default ranks are
evaluated, answers are short, and a training run takes two steps. Lines that say that they need the
hub or data of the reader's own are left out.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner
from document_blocks import (
    PAGES,
    README,
    REPOSITORY,
    aurac_words,
    blocks,
    joined,
    runs_here,
)

import aurac
from aurac.cli import COMMANDS, cli

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_figures")]

DOCUMENTS = 4
YOURS = REPOSITORY / "docs" / "your-adapter.md"
SETS_UP = ("pip install ", "pytest")
"""What has happened when a test runs."""
WITHOUT_BFLOAT16 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder that looks like a clone to the commands; quick settings while it is used."""
    from aurac.training import recipe

    folder = tmp_path_factory.mktemp("clone")
    (folder / "adapters_zoo").symlink_to(REPOSITORY / "adapters_zoo")
    whole = recipe.load_recipe
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("aurac.tasks.options.QUICK_EXAMPLES", DOCUMENTS)
        patch.setattr("aurac.adapters.cut.named_ranks", lambda _, R: (1, R))
        patch.setattr(
            recipe,
            "load_recipe",
            lambda *a, **k: dataclasses.replace(whole(*a, **k), steps=2, epochs=1),
        )
        yield folder


def expanded(part: str) -> list[str]:
    """The words as bash sees them: braces, stars and quotes done, comments gone."""
    told = subprocess.run(
        ["bash", "-O", "failglob", "-c", f"printf '%s\\0' {part}"], capture_output=True, check=True
    )
    words = told.stdout.decode().rstrip("\0").split("\0")
    if "--limit" in words:
        words[words.index("--limit") + 1] = str(DOCUMENTS)
    if "compare" in words and "--out" in words:  # not the README's main job
        words += ["--gen-kwargs", "max_gen_toks=4"]
    return words


def run_line(line: str) -> list[str]:
    """Run one line of a shell block; the names of the aurac commands that ran."""
    ran = []
    for part in map(str.strip, line.split("&&")):
        if part.startswith(SETS_UP) or not part or part.startswith("#"):
            continue
        assert aurac_words(part), f"a command that no test runs: {part}"
        words = expanded(part)
        arguments = words[3:] if words[0] == "python" else words[1:]
        done = CliRunner().invoke(cli, arguments, standalone_mode=False)
        if done.exception is not None:
            raise AssertionError(f"{part}\n{done.output}") from done.exception
        ready = (0, None, 4) if arguments[0] == "recommend" else (0, None)
        assert done.return_value in ready, f"{part}\n{done.output}"
        assert done.stdout.strip(), f"{part} says nothing"
        assert arguments[0] != "compare" or "--dry-run" in words or "accuracy" in done.stdout, part
        ran.append(arguments[0])
    return ran


def run_page(page) -> list[str]:
    """All blocks of a page in order; Python blocks share their names."""
    scope: dict[str, object] = {}
    ran = []
    for block in blocks(page):
        if block.language == "bash":
            for line in filter(runs_here, joined(block.text).splitlines()):
                ran += run_line(line)
        elif block.language == "python" and page != README:  # its lines for TRL: tests/training
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile(block.text, str(page), "exec"), scope)
            ran.append("python")
    return ran


@pytest.fixture
def clone(workplace, tmp_path, monkeypatch):
    """A folder of its own, since the pages write to folders of the same names.

    It has an adapter, examples and a task of a reader's own: the zoo's LoRA, the task of `YOURS`.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("adapters_zoo", "reports"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "my_adapter").symlink_to(REPOSITORY / "adapters_zoo" / "word_problems" / "lora")
    [task] = [block for block in blocks(YOURS) if block.language == "yaml"]
    (tmp_path / "my_task.yaml").write_text(task.text)
    questions = [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(DOCUMENTS)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, questions)))
    own = [{"prompt": f"{n} + {n} =", "completion": f" {2 * n}"} for n in range(DOCUMENTS)]
    (tmp_path / "held_out.jsonl").write_text("\n".join(map(json.dumps, own)))


def test_the_readme_runs(clone, plain_figures, monkeypatch):
    """Its main job, the comparison of the three adapters of the zoo, on 16 examples."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", plain_figures)
    monkeypatch.setattr("aurac.tasks.options.QUICK_EXAMPLES", 16)
    assert "compare" in run_page(README)
    runs = [aurac.load_run(path.parent) for path in Path("runs").glob("*/run.json")]
    [run] = [run for run in runs if len(run.scores) == 3]
    names = {path.name for path in run.folder.iterdir()}
    assert {"run.json", "report.md", "report.html", "scores.csv", "table.tex", "cells"} <= names
    assert set(run.scores["adapter"]) == {"lora", "dylora", "matryoshka"}
    points = run.points.set_index(["adapter", "rank"])["accuracy"]
    for adapter in run.scores["adapter"]:
        # of 16 examples a base at .05 has more than .25 by chance less than once in a thousand
        assert points[adapter, 0] <= 0.25
        assert points[adapter, 16] > points[adapter, 0]


@pytest.mark.parametrize("cpu", [{}, WITHOUT_BFLOAT16], ids=["this CPU", "AVX2"])
def test_the_readme_shows_what_its_command_prints(clone, cpu):
    """To the digit, whatever instructions the CPU has."""
    [block] = [block for block in blocks(README) if block.said]
    words = [sys.executable, *block.text.split()[1:]]
    environment = os.environ | {"COLUMNS": "80"} | cpu
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(block.said + "report: ")


def test_the_first_page_runs(clone):
    Path("my_adapter").unlink()  # which the page trains
    ran = ["train", "inspect", "compare", "compare", "compare", "recommend", "truncate"]
    assert run_page(YOURS) == ran
    for name in ("runs/mine/report.html", "runs/mine/table.tex", "my_adapter_r4/aurac.json"):
        assert Path(name).is_file()


def test_the_commands_of_every_question_run(clone):
    Path("my_adapter").unlink()  # which the page trains
    [page] = [page for page in PAGES if page.name == "commands.md"]
    assert set(run_page(page)) == set(COMMANDS) - {"study"}  # it needs data
