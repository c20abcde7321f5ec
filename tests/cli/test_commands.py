"""The command line: help, spelling, results, exit codes, messages and completion."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from made_runs import make_run
from small_runs import TASK, random_adapter

import aurac
from aurac.analysis import Question, analyse
from aurac.cli import COMMANDS, cli, log, main
from aurac.cli.results import beyond
from aurac.curves.curve import Curve
from aurac.errors import CellError
from aurac.records.manifest import Manifest
from aurac.tasks.evaltask import EvalTask

ROOT = Path(aurac.__file__).parents[1]
KEPT = ROOT / "reports/word_problems"


def run(*words: object, code: int = 0) -> str:
    how = {"standalone_mode": False, "catch_exceptions": False}
    done = CliRunner().invoke(cli, [*map(str, words)], **how)
    assert (done.return_value or 0) == code, done.output
    return done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_parse_and_every_option_says_what_it_is(name):
    joined = re.sub(r"\\\n\s*", " ", run(name, "--help"))
    examples = [
        shlex.split(x, comments=True) for x in re.findall(rf"aurac ({name} .*|{name})", joined)
    ]
    assert examples
    for _, *words in examples:
        COMMANDS[name].make_context(name, words)
    options = [each for each in COMMANDS[name].params if isinstance(each, click.Option)]
    assert all(option.help for option in options)


def test_a_dry_run_lists_the_cells_and_then_they_are_computed(
    tiny_base_folder, tmp_path, monkeypatch
):
    adapter, out = random_adapter(tiny_base_folder, tmp_path / "mine"), tmp_path / "run"
    words = ["compare", adapter, "--tasks", TASK, "--limit", "3", "--dtype", "float32"]
    words += ["--device", "cpu", "--ranks", "1,2", "--out", out]
    cells = json.loads(run(*words, "--dry_run", "--json"))["cells"]  # with lm-eval's spelling
    assert [(cell["rank"], cell["missing"]) for cell in cells] == [(0, 3), (4, 3), (1, 3), (2, 3)]
    assert not out.exists()
    judge, calls = EvalTask.judge, []

    def fails(self, places, answers):
        calls.append(places)
        if len(calls) == 3:
            raise CellError("the answers are no numbers")
        return judge(self, places, answers)

    with monkeypatch.context() as patch:
        patch.setattr(EvalTask, "judge", fails)
        done = CliRunner().invoke(cli, [*map(str, words)], standalone_mode=False)
    assert done.return_value == 3
    failed = f"failed: mine (prefix, rule, rank 1) on {TASK}: the answers are no numbers"
    assert failed in done.stderr
    assert run(*words).endswith(f"report: {out / 'report.html'}\n")  # tries it again
    more = "the report shows all that the run folder has, which is more"
    assert more in run(*words, "--ranks", "1")
    assert f"0 of 4 cells to compute in {out}" in run(*words, "--dry-run")


def test_a_folder_with_an_equals_sign_is_the_data_of_the_one_task(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("aurac.runs.compare.dry_run", lambda s: given.append(s.data) or ("", []))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lang=en").mkdir()
    for data in ("lang=en", "t=lang=en", "t=x", "x"):
        run("compare", "a", "--tasks", "t", "--data", data, "--dry-run")
    assert given == [{"t": "lang=en"}, {"t": "lang=en"}, {"t": "x"}, {"t": "x"}]


def test_recommend_is_a_check_with_a_rank(monkeypatch, capsys):
    words = "recommend", str(KEPT), "--margin", "0.1"
    rows = json.loads(run(*words, "--json"))["recommended"]
    ranks = {row["adapter"]: row["smallest_rank"] for row in rows}
    largest = max(ranks.values())
    status, err = call(monkeypatch, capsys, *words, "--rank", str(largest))
    assert (status, err) == (0, f"aurac: rank {largest} suffices for lora, dylora, matryoshka\n")
    run(*words[:2], "--margin", "0.0001", "--rank", "1", code=4)
    status, err = call(monkeypatch, capsys, *words, "--rank", str(largest - 1))
    assert (status, err.count("\n")) == (4, 1)
    assert f"rank {largest - 1} is not enough for " in err
    named = set(re.findall(r"(\w+) on \w+ \(the smallest that passes is (?:\d+|not known)\)", err))
    assert named == {name for name, needed in ranks.items() if not needed or needed > largest - 1}


def test_recommend_of_a_run_that_is_not_finished_exits_with_three(tmp_path):
    scores = {1: [0] * 300, 2: [1] * 300, 4: [1] * 300}
    folder = make_run(tmp_path / "run", {"a": scores}, question=Question(margin=0.1))
    cells = Manifest.read(folder).cuts[0].cells["t"]
    words = "recommend", folder  # under the run's own margin
    assert "Ship rank 2: " in run(*words)
    (folder / f"cells/{cells[2]}.jsonl").unlink()
    shown = " ".join(run(*words, code=3).split())
    assert "rank 2 has no result: 0 of 300 examples: repeat the command" in shown
    assert "Ship rank 4, as trained: rank 2 has no result." in shown
    run(*words, "--rank", "4")  # a larger run would not take that back
    run(*words, "--rank", "2", code=4)
    (folder / f"cells/{cells[4]}.jsonl").unlink()
    assert "a recommendation needs" in run(*words, code=3)


def test_an_adapter_that_failed_is_not_within_a_margin():
    whole = Curve.from_outcomes((1, 2), [[1.0] * 90, [1.0] * 90], adapter="a", base_scores=[0] * 90)
    cut = dataclasses.replace(whole.at([1]), adapter="b", missing={2: "why"}, trained_rank=2)
    found = analyse([whole, cut], Question(margin=0.1))
    assert beyond(found, 1, ["a", "b", "gone"]) == [
        "b on task (the smallest that passes is not known)",
        "gone (no accuracy is known)",
    ]


def test_reports_plans_and_lists(tmp_path):
    shown = run("report", KEPT / "report.html", "--out", tmp_path, "--label", "lora=Plain")
    assert str(tmp_path / "report.md") in shown
    assert "Plain" in (tmp_path / "report.md").read_text(encoding="utf-8")
    folder = shutil.copytree(KEPT, tmp_path / "copy")
    shown = run("report", folder / "report.html", "--label", "lora=Plain")
    assert str(folder / "report.md") in shown
    assert "Plain" in (folder / "report.md").read_text(encoding="utf-8")
    planned = json.loads(run("plan", "--margin", "0.02", "--json"))
    assert planned == {"margin": 0.02, "examples": 215}
    words = "plan", "--difference", "0.02", "--flips", "0.15"  # tests/stats has the numbers
    assert 2900 < json.loads(run(*words, "--json"))[0]["examples"] < 3300
    assert "3 show 4.3 points or more, 5 show 2.3 points or more. 2 points need 6" in run(*words)
    found = json.loads(run("list", ROOT / "adapters_zoo", "--json"))
    assert {adapter["dtype"] for adapter in found["adapters"]} == {"bfloat16"}
    assert all((Path(task["files"]) / "test.jsonl.gz").is_file() for task in found["tasks"])
    (tmp_path / "refused").mkdir()
    (tmp_path / "refused" / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    assert "of PEFT's type IA3" in CliRunner().invoke(cli, ["list", str(tmp_path)]).stderr
    [base] = found["bases"]
    assert base["folder"] is None or (Path(base["folder"]) / "config.json").is_file()
    assert "word_problems/lora" in run("train", "--list")


def call(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    """The status and standard error of the whole program."""
    monkeypatch.setattr(sys, "argv", ["aurac", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score", "nowhere.csv"], "nowhere.csv"),
        (["score", str(KEPT), "--cluster", "t=x"], "the run has no task 't'"),
        (["recommend", str(KEPT)], "no margin"),
        (["recommend", "x", "--margin", "1"], "1 is not between 0 and 1: 1 % is 0.01"),
        (["score", "x", "--group", "a"], "'a' is not NAME=VALUE"),
        (["score", "x", "--jsn"], "--json"),
        (["cmpare"], "compare"),
        (["score", "\x1b[2Jx.csv"], "\\u001b[2Jx.csv"),
        (["score", "--\x1b[2J"], "--\\x1b[2J"),
        (["plan", "--difference", "0.1", "--flips", "0.2", "--seeds", "a"], "'a' is not whole"),
    ],
)
def test_a_refusal_is_one_line_and_exits_with_two(monkeypatch, capsys, words, said):
    code, shown = call(monkeypatch, capsys, *words)
    assert code == 2
    assert shown.startswith("aurac: error: ")
    assert said in shown
    assert shown.removesuffix("\n").isprintable()  # and one line


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RuntimeError("it burns\nand more"), 2, "it burns (RuntimeError; `aurac --debug …` shows"),
        (FileNotFoundError(2, "No such file", "x"), 2, "No such file: x (FileNotFoundError; "),
        (KeyboardInterrupt(), 130, "the same command goes on"),
    ],
)
def test_errors_of_libraries_and_interruptions(monkeypatch, capsys, error, status, said):
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("aurac.stats.planning.examples_for", fails)
    words = ["plan", "--difference", "0.1", "--flips", "0.2"]
    code, shown = call(monkeypatch, capsys, *words)
    assert (code, "Traceback" in shown) == (status, False)
    assert said in shown
    code, shown = call(monkeypatch, capsys, "--debug", *words)
    assert (code, "Traceback" in shown) == (status, status == 2)


def test_warnings_of_aurac_are_shown_once_and_those_of_libraries_are_not(capsys):
    log(debug=False)
    for _ in range(2):
        logging.getLogger("aurac.runs").warning("look here")
        logging.getLogger("some.package").warning("noise")
    shown = capsys.readouterr().err
    assert shown.count("aurac: warning: look here") == 1
    assert "noise" not in shown


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("aurac re", ["recommend", "report"]),
        ("aurac compare x --tasks aurac_word_problems_", ["aurac_word_problems_mc"]),
        ("aurac train word_problems/lo", ["word_problems/lora"]),
    ],
)
def test_the_shell_completes_without_torch(line, completed):
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    code = "import sys; sys.argv = ['aurac']; from aurac.cli import main; main()"
    command = [sys.executable, "-X", "importtime", "-c", code]
    environment = os.environ | words | {"_AURAC_COMPLETE": "bash_complete"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "torch" not in done.stderr
    assert [line.split(",", 1)[1] for line in done.stdout.splitlines()] == completed
