"""The command line: help, spelling, results, exit codes, messages and completion."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from made_runs import make_run
from small_runs import TASK, random_adapter

import aurac
from aurac import cli as package
from aurac.analysis import Question, analyse
from aurac.cli import COMMANDS, cli, log, main
from aurac.cli.results import beyond
from aurac.curves.curve import Curve
from aurac.errors import CellError
from aurac.records.manifest import Manifest
from aurac.tasks.evaltask import EvalTask

REPORTS = Path(aurac.__file__).parents[1] / "reports"


def run(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(cli, [*map(str, words)], standalone_mode=False)
    if done.exception is not None and code == 0:
        raise done.exception
    assert (done.return_value or 0) == code, done.output
    return done.stdout


def example_lines(text: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if line.strip().startswith("aurac ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_parse_and_every_option_says_what_it_is(name):
    shown = run(name, "--help")
    examples = [line for line in example_lines(shown) if line.split()[1] == name]
    assert examples
    command = cli.get_command(None, name)
    for line in examples:
        command.make_context(name, shlex.split(line, comments=True)[2:])
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help, option.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_underscores_and_hyphens_are_alike_in_every_option(name):
    options = [p for p in cli.get_command(None, name).params if isinstance(p, click.Option)]
    spelled = [(p, opt) for p in options for opt in p.opts if "-" in opt.strip("-")]
    for option, opt in spelled:
        words = ["--" + opt.strip("-").replace("-", "_"), *([] if option.is_flag else ["1"])]
        command = cli.get_command(None, name)
        context = {"token_normalize_func": package.hyphens, "resilient_parsing": True}
        command.make_context(name, words, **context)


def test_a_dry_run_lists_the_cells_and_then_they_are_computed(
    tiny_base_folder, tmp_path, monkeypatch
):
    adapter, out = random_adapter(tiny_base_folder, tmp_path / "mine"), tmp_path / "run"
    words = ["compare", adapter, "--tasks", TASK, "--limit", "3", "--dtype", "float32"]
    words += ["--device", "cpu", "--ranks", "1,2", "--out", out]
    cells = json.loads(run(*words, "--dry_run", "--json"))["cells"]
    assert [(cell["rank"], cell["missing"]) for cell in cells] == [(0, 3), (4, 3), (1, 3), (2, 3)]
    assert not out.exists()
    judge, calls = EvalTask.judge, []

    def fails(self, places, answers):
        calls.append(places)
        if len(calls) == 3:
            raise CellError("the answers are no numbers")
        return judge(self, places, answers)

    monkeypatch.setattr(EvalTask, "judge", fails)
    done = CliRunner().invoke(cli, [*map(str, words)], standalone_mode=False)
    assert done.return_value == 3
    failed = f"failed: mine (prefix, rule, rank 1) on {TASK}: the answers are no numbers"
    assert failed in done.stderr
    shown = run(*words)  # tries it again
    assert "loss (at most)" in shown
    assert shown.endswith(f"report: {out / 'report.html'}\n")
    more = "the report shows all that the run folder has, which is more"
    assert more in run(*words, "--ranks", "1")
    assert f"0 of 4 cells to compute in {out}" in run(*words, "--dry-run")


def test_recommend_is_a_check_with_a_rank(monkeypatch, capsys):
    words = "recommend", str(REPORTS / "word_problems"), "--margin", "0.1"
    frames = json.loads(run(*words, "--json"))
    ranks = {row["adapter"]: row["smallest_rank"] for row in frames["recommended"]}
    largest = max(ranks.values())
    assert "rank" in run(*words)
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
    folder = make_run(tmp_path / "run", {"a": scores})
    words = "recommend", folder, "--margin", "0.1"
    assert "Ship rank 2: " in run(*words)
    key = Manifest.read(folder).cuts[0].cells["t"][2]
    [cell] = (folder / "cells").glob(f"{key}*")
    cell.unlink()
    shown = " ".join(run(*words, code=3).split())
    assert "Ship rank 4, as trained: rank 2 has no result (not finished: 0 of 300 examp" in shown
    run(*words, "--rank", "4")  # a larger run would not take that back
    run(*words, "--rank", "2", code=4)
    key = Manifest.read(folder).cuts[0].cells["t"][4]
    [cell] = (folder / "cells").glob(f"{key}*")
    cell.unlink()
    assert "a recommendation needs" in run(*words, code=3)


def test_an_adapter_that_failed_is_not_within_a_margin():
    whole = Curve.from_outcomes((1, 2), [[1.0] * 90, [1.0] * 90], adapter="a", base_scores=[0] * 90)
    found = analyse([whole], Question(margin=0.1))
    assert not beyond(found, 1, ["a"])
    assert beyond(found, 1, ["a", "gone"]) == ["gone (no accuracy is known)"]
    cut = dataclasses.replace(whole.at([1]), adapter="b", missing={2: "why"}, trained_rank=2)
    [told] = beyond(analyse([whole, cut], Question(margin=0.1)), 1, ["a", "b"])
    assert told.startswith("b on ")
    assert told.endswith("(the smallest that passes is not known)")


def test_a_report_is_written_elsewhere_with_labels(tmp_path):
    folder = REPORTS / "word_problems"
    shown = run("report", folder, "--out", tmp_path, "--label", "lora=Plain")
    assert str(tmp_path / "report.md") in shown
    assert "Plain" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_plan_tasks_and_zoo():
    planned = json.loads(run("plan", "--margin", "0.02", "--json"))
    assert planned == {"margin": 0.02, "examples": 215}
    assert "With 85 examples or more" in run("plan", "--margin", "0.05")
    [row, *_] = json.loads(run("plan", "--difference", "0.02", "--flips", "0.15", "--json"))
    assert 2900 < row["examples"] < 3300
    said = run("plan", "--difference", "0.02", "--flips", "0.15")  # tests/stats has the numbers
    assert "3 show 4.3 points or more, 5 show 2.3 points or more. 2 points need 6 seeds" in said
    content = json.loads(run("zoo", REPORTS.parent / "adapters_zoo", "--json"))
    assert len(content["adapters"]) >= 3
    assert content["bases"]
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
        (["score", str(REPORTS / "lora"), "--cluster", "t=x"], "the run has no task 't'"),
        (["recommend", "nowhere", "--margin", "0.1"], "nowhere"),
        (["recommend", "x", "--margin", "2"], "2 is not between 0 and 1: 2 points are 0.02"),
        (["score", "x", "--group", "a"], "'a' is not NAME=VALUE"),
        (["score", "x", "--jsn"], "there is no option --jsn; did you mean --json?"),
        (["inspect", "nothing"], "nothing"),
        (["train", "--rank", "8"], "--set rank=VALUE"),
        (["cmpare"], "did you mean compare?"),
        (["plan", "--difference", "0.1", "--flips", "0.2", "--seeds", "a"], "'a' is not whole"),
    ],
)
def test_a_refusal_is_one_line_and_exits_with_two(monkeypatch, capsys, words, said):
    code, shown = call(monkeypatch, capsys, *words)
    assert code == 2
    assert shown.startswith("aurac: error: ")
    assert said in shown
    assert len(shown.splitlines()) <= 2


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
    assert code == status
    assert said in shown
    if status == 2:
        code, shown = call(monkeypatch, capsys, "--debug", *words)
        assert code == 2
        assert "Traceback" in shown
        log(debug=False)


def test_warnings_of_aurac_are_shown_once_and_those_of_libraries_are_logged(isolated_cache, capsys):
    log(debug=False)
    for _ in range(2):
        logging.getLogger("aurac.runs").warning("look here")
        logging.getLogger("some.package").warning("noise")
    shown = capsys.readouterr().err
    assert shown.count("aurac: warning: look here") == 1
    assert "noise" not in shown
    assert "noise" in (isolated_cache / "logs" / "aurac.log").read_text(encoding="utf-8")


def complete(line: str) -> list[str]:
    words = shlex.split(line)
    environment = os.environ | {
        "_AURAC_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - (0 if line.endswith(" ") else 1)),
    }
    code = "import sys; sys.argv = ['aurac']; from aurac.cli import main; main()"
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "torch" not in done.stderr
    return [line.split(",", 1)[1] for line in done.stdout.splitlines()]


def test_the_shell_completes_commands_tasks_and_recipes():
    assert complete("aurac re") == ["recommend", "report"]
    assert complete("aurac compare x --tasks aurac_word_problems_") == ["aurac_word_problems_mc"]
    assert "word_problems/lora" in complete("aurac train word_problems/")
