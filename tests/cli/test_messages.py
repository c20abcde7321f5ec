"""What a refusal tells the reader to type instead, and how much of the help is shown."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hostile_files import run_aurac
from report_runs import zoo_run
from safetensors.torch import load_file, save_file
from small_runs import TASK, random_adapter

from aurac.analysis.primary import pairs_of, parse_pairs
from aurac.cli import COMMANDS, cli, main
from aurac.cli.training import _trained
from aurac.terminal import wrapped

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "adapters_zoo" / "word_problems"


def refusal(*words: object) -> str:
    """The message of a command that is refused, without line breaks."""
    done = CliRunner().invoke(cli, list(map(str, words)))
    assert done.exit_code != 0
    text = str(done.exception) if not isinstance(done.exception, SystemExit) else done.output
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("typed", "instead"),
    [
        (["--margin", "0.1", "recommend", "x"], "use: aurac recommend --margin 0.1 x"),
        (["recommend", "x", "--margin", "2%"], "give 0.02"),
        (["recommend", "x", "--margin", "0,15"], "give 0.15"),
        (["recommend", "x", "--margin", "15pp"], "give 0.15"),
        (["compare", ZOO / "lora", "--tasks", "gsm8k", "--limit", "16%"], "give 0.16"),
        (["recommend", "x", "--max-rank", "8"], "Did you mean --require-rank?"),
        (["truncate", "x", "-r", "4"], "Did you mean --rank?"),
        (["recommend", ROOT / "reports/word_problems", "--adapter", "lroa"], "did you mean lora?"),
        (
            ["recommend", ROOT / "reports/word_problems", "--adapter", "lora@4"],
            "expected one of lora, dylora, matryoshka, lora (SVD)",
        ),
        (["recommend", ROOT / "reports"], "give a run below it: "),
        (["score", "x", "--level", "95 %"], "give 0.95"),
        (["recommend", "x", "--margin", ".1", "--max-latency-ms", "15ms"], "no number: write 15"),
        (
            ["recommend", "x", "--margin", ".1", "--max-latency-ms", "0"],
            "0; expected a number above 0",
        ),
        (["recommend", "x", "--margin", ".1", "--require-rank", "r8"], "no number: write 8"),
        (
            ["compare", "x", "--tasks", "gsm8k", "--workers", "-1"],
            "-1; expected a whole number of at least 1",
        ),
        (["score", ROOT / "reports/word_problems", "--rank-margin", "2"], "--rank-margin 2.0; exp"),
        (["score", ROOT / "reports/word_problems", "--delta", "2"], "--delta 2.0; expected"),
        (["compare", "x", "--tasks", "gsm8k", "--gen_kwargs", "tempratur=1"], "mean temperature?"),
        (
            ["compare", "x", "--tasks", "gsm8k", "--gen_kwargs", "tempratur=1,do_sample=true"],
            "--gen-kwargs tempratur=1; expected some of ",
        ),
        (
            ["compare", "x", "--tasks", "gsm8k", "--lora-modules", "a=b"],
            "Adapters are given as paths",
        ),
        (["compare", "x", "--tasks", "gsm8k", "--max-lora-rank", "8"], "--ranks says which are"),
        (
            ["compare", "no", "-t", "aurac_word_problems", "--basis", "SVD", "--rescale", "Keep"],
            "there is no folder or file no",
        ),
        (
            ["truncate", "no", "--rank", "4", "--basis", "SVD", "--rescale", "Keep", "--out", "x"],
            "there is no folder or file no",
        ),
        (["compare", "no", "-t", "gsm8k", "--svd"], "No such option --svd. Use --basis svd."),
        (["score", ROOT / "reports/word_problems", "--level", "95"], "at least 0.5; give 0.95"),
        (
            [
                "recommend",
                ROOT / "reports/word_problems",
                "--margin",
                ".1",
                "--reference",
                "lora:16",
            ],
            "did you mean lora@16?",
        ),
        (
            ["compare", "x", "--tasks", "gsm8k", "--margin", "2"],
            "`aurac recommend RUN --margin FRACTION` names the rank to ship; give 0.02",
        ),
        (["score", ROOT / "reports/word_problems", "--margin", ".1"], "give --rank-margin"),
        (["tasks", "zzzz"], "`aurac tasks WORD` searches the names"),
        (["compare", ZOO / "lora", "-t", "aurac_word_problems", "--ranks", "1-4"], "or auto)"),
        (
            ["compare", ZOO / "lora", "-t", "aurac_word_problems", "-f", "99999", "--dry-run"],
            "too few documents for this number of few-shot examples; give a smaller --num-fewshot",
        ),
        (
            ["compare", "x", "--tasks", "gsm8k", "--anytime", "--budget", "9"],
            "--budget and --anytime w",
        ),
        (
            ["compare", ZOO / "lora", "--tasks", "gsm8k", "--metric", "acc", "--dry-run"],
            "expected one of 'exact_match,flexible-extract', 'exact_match,strict-match'",
        ),
        (
            ["compare", ZOO / "lora", "-t", "aurac_word_problems", "--reference", "x", "--dry-run"],
            "a primary comparison of 'x'; expected one of lora",
        ),
        (["train", "nope"], "no --out FOLDER; --list shows"),
        (["recommend", "x", "--margin", "much"], "write one such as 0.02"),
        (["--versoin"], "--version"),
        (
            ["score", ROOT / "reports/word_problems", "--primary", "nobody,lora"],
            "expected one of lora, dylora, matryoshka, or a truncation: NAME (SVD)",
        ),
        (["compare", ZOO, "--tasks", "aurac_word_problems", "--dry-run"], f"{ZOO}/*"),
        (["score", ROOT / "reports" / "study"], "reports/study/results/mawps"),
        (["recommend", ROOT / "reports" / "study"], "reports/study/results/mawps"),
        (["help"], "Did you mean aurac --help?"),
        (["eval", "x"], "No such command 'eval'. Did you mean compare?"),
        (["version"], "Did you mean aurac --version?"),
        (["list"], "Did you mean zoo, tasks or runs?"),
        (["compare", "x", "--task", "y"], "No such option --task. Did you mean --tasks?"),
        (["recommend", "x", "--tolerance", "0.1"], "Did you mean --margin?"),
        (["train", "x", "--steps", "9"], "Did you mean --set?"),
        (["compare", "x", "--bases", "svd"], "option --bases. Did you mean --base or --basis?"),
        (
            ["train", "mine.yaml", "--out", "x"],
            "recipe file mine.yaml does not exist; `aurac train",
        ),
        (["compare", ZOO.parent, "--tasks", "aurac_word_problems"], f"below it: {ZOO}/*"),
        (["inspect", ZOO / "lroa"], f"did you mean {ZOO / 'lora'}"),
        (["inspect", ZOO.parent / "word_problem" / "lora"], f"did you mean {ZOO / 'lora'}?"),
        (["recommend", ZOO / "lora"], f"`aurac compare {ZOO / 'lora'} --tasks TASK`"),
        (["truncate", ZOO / "lora"], "no rank; expected --rank R, or --ranks R,R"),
        (["truncate", ZOO / "lora", "--rank", "4"], "no place for the result; expected --out"),
        (["cost", ZOO / "lora", "--device", "gpu"], "used here; expected cpu, cuda, cuda:N or mps"),
        (["zoo", ROOT / "docs"], "name another folder (`aurac zoo FOLDER`)"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_a_refusal_says_what_to_type(typed, instead):
    assert instead in refusal(*typed)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
TOTALS = '{"results": {"gsm8k": {"acc,none": 0.5}}, "group_subtasks": {}}'


@pytest.mark.parametrize(
    ("typed", "content", "instead"),
    [
        ("inspect mine", {"mine/adapter_model.safetensors": POINTER}, "run `git lfs pull` in"),
        ("inspect mine", {"mine/adapter_config.json": POINTER}, "run `git lfs pull` in"),
        (
            f"compare {ZOO}/lora --base . --tasks aurac_word_problems",
            {"config.json": "{}", "model.safetensors": POINTER},
            "model.safetensors is a Git LFS pointer, not the file itself; run `git lfs pull` in",
        ),
        (
            "inspect mine",
            {"mine/adapter_config.json": '{"r": 4,'},
            "double quotes: line 1 column 9 (char 8); copy or download the file again",
        ),
        (
            "inspect mine",
            {"mine/adapter_model.safetensors": "cut"},
            "header too small; copy or download the file again",
        ),
        ("score results_1.json", {"results_1.json": TOTALS}, "--log_samples --output_path FOLDER`"),
        ("score .", {"rank_8/results_1.json": TOTALS}, "--log_samples --output_path FOLDER`"),
        ("score .", {"results.json": TOTALS}, "results.json has no schema; expected one of a run;"),
        ("recommend results.json", {"results.json": TOTALS}, "folder with samples_TASK_DATE.jsonl"),
        (
            "score t.csv",
            {"t.csv": "rank,accuracy\n1,40%\n"},
            "t.csv, column accuracy: a cell is no number: '40%'; expected numbers such as",
        ),
        (
            "score t.csv",
            {"t.csv": 'rank,accuracy\n1,"0,4"\n'},
            "give 0.4 there, and fractions in all rows",
        ),
        (
            "score t.csv",
            {"t.csv": "rank,accuracy\none,.4\n"},
            "column rank: a cell is no number: 'one'",
        ),
        ("score t.jsonl", {"t.jsonl": '{"rank": 1, "accuracy": "40%"}'}, "give 0.4 there"),
        ("score run", {"run/results.json": "", "run/run.json": "{}"}, "command of the run again"),
        (
            "score run",
            {"run/results.json": ""},
            "; restore it, or give the command of the run with",
        ),
        ("score run", {"run/cells.tar.xz": ""}, "run holds no results.json; expected a run folder"),
        ("report run", {"run/results.json": '{"schema": 1, "cur'}, "give the command of the run"),
        (
            "inspect mine",
            {"mine/adapter_config.json": '{"peft_type": "LORA", "r": 16, "use_rslora": true}'},
            "has alpha 1, but adapter_config.json has no lora_alpha, for which PEFT takes 8; ",
        ),
        ("score t.csv", {"t.csv": "rank;accuracy\n1;.4\n"}, "separate the columns by commas"),
        ("score t.csv", {"t.csv": "rank\taccuracy\n1\t.4\n"}, "separate the columns by commas"),
        (
            "score t.csv",
            {"t.csv": "rank,accuracy\n1,.4\n1,.5\n"},
            "keep one, or tell curves apart in a column named adapter, task, metric or seed",
        ),
        ("mine", {}, "For an adapter: aurac inspect mine; for a run: aurac score mine."),
        ("train --out here", {}, "no recipe; --list shows the recipes"),
        ("train mine --out z", {"mine.yaml": "name: x"}, "try mine.yaml"),
        ("train word_problems/lora --set lr=1 --out z", {}, "did you mean learning_rate?"),
    ],
)
def test_a_refusal_of_a_file_says_what_to_do(typed, content, instead, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ZOO / "lora", "mine")
    for name, text in content.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    assert instead in refusal(*typed.split())


@pytest.mark.parametrize("command", ["score", "recommend", "report"])
@pytest.mark.parametrize("cells", [True, False])
@pytest.mark.parametrize(
    ("accuracy", "instead"),
    [(5.2, "accuracies up to 5.2"), (0.999, "accuracy 0.999 at rank 2 outside of its interval")],
)
def test_a_number_changed_by_hand_is_found_by_file_and_curve(
    command, cells, accuracy, instead, tmp_path
):
    path = zoo_run(tmp_path, n=5).write() / "results.json"
    content = json.loads(path.read_text())
    curve = content["curves"][0]
    curve["accuracy"][1], curve["accuracy_high"][1] = accuracy, 0.998
    if not cells:
        content["curves"] = [{**row, "cells": {}} for row in content["curves"]]
    path.write_text(json.dumps(content))
    said = refusal(command, tmp_path)
    assert f"{path}, {curve['id']} on {curve['task']}: {instead}" in said
    assert "; divide by 100" in said or "; restore it, or give the command of the run" in said


@pytest.mark.parametrize(
    ("change", "instead"),
    [
        (lambda w, key: w[key].fill_(math.nan), "; train it again with a lower learning rate, or"),
        (lambda w, key: w.pop(key), "; save it again with all factors of each module"),
    ],
)
def test_weights_that_are_of_no_use_say_what_to_do(change, instead, tmp_path):
    shutil.copytree(ZOO / "lora", tmp_path / "mine")
    path = tmp_path / "mine" / "adapter_model.safetensors"
    weights = load_file(path)
    change(weights, next(key for key in weights if "lora_B" in key))
    save_file(weights, path)
    assert instead in refusal("inspect", tmp_path / "mine")


@pytest.mark.parametrize(
    ("typed", "near", "offered"),
    [
        ("score nost", "most", False),
        ("score nost", "most/results.json", True),
        ("score nost", "most/rank_8/base/samples_task.jsonl", True),
        ("score nost.csv", "most.csv", True),
        ("report nost", "most/notes.txt", False),
        ("report nost", "most/results/task/results.json", True),
        ("inspect nost", "most/results.json", False),
        ("inspect nost", "most/adapter_config.json", True),
        ("inspect nost.pt", "most.pt", True),
        ("train nost.yaml --out x", "most.yaml/x", False),
        ("compare mine --tasks aurac_word_problems --base nost", "most/adapter_config.json", False),
        ("compare mine --tasks aurac_word_problems --base nost", "most/config.json", True),
    ],
)
def test_only_names_that_fit_are_offered(typed, near, offered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ZOO / "lora", "mine")
    path = Path(near)
    (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_text("")
    assert (f"did you mean {path.parts[0]}?" in refusal(*typed.split())) == offered


@pytest.mark.parametrize(
    "typed", ["score", "scor", "score --foo", "recommend x --margin y", "recommend nowhere"]
)
def test_every_refusal_is_one_message(typed, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["aurac", *typed.split()])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr().err
    assert (left.value.code, said[:14], said.count("\n")) == (2, "aurac: error: ", 1)


@pytest.mark.parametrize(("fails", "goes_on"), [(True, False), (False, True)])
def test_what_to_do_next_is_said_where_a_cell_has_a_value(
    fails, goes_on, tiny_base_folder, tmp_path, monkeypatch
):
    from aurac.tasks.task import Evaluation

    def failing(*_):
        raise RuntimeError("shapes do not match")

    if fails:
        monkeypatch.setattr(Evaluation, "block", failing)
    words = [random_adapter(tiny_base_folder, tmp_path / "mine"), "--tasks", TASK, "--limit", "2"]
    code, out, err = run_aurac("compare", *words, "--device", "cpu", "--out", tmp_path / "run")
    assert code == 3 * fails
    assert ("failed: base on" in err, "failed: mine at rank 4 on" in err) == (fails, fails)
    assert "report: " in out
    assert ("next: aurac recommend" in out) == goes_on


def test_runs_below_a_study_are_those_of_its_results():
    assert "search" not in refusal("score", ROOT / "reports" / "study")


def test_an_export_of_a_run_without_its_prompts_says_that(tmp_path):
    folder = zoo_run(tmp_path, n=5).write()
    text = refusal("export", folder, "--out", tmp_path / "out")
    assert "did not keep the prompts" in text
    assert "delete" not in text


def test_long_lines_break_between_words_and_commands_can_be_pasted():
    text = "It is 46.8 % here: `aurac report` says it.\n  - a point of a list\nprefix/trained"
    assert wrapped(text, 14).split("\n") == [
        *("It is 46.8 %", "here:", "`aurac report`", "says it."),
        *("  - a point of", "  a list", "prefix/trained"),
    ]
    assert wrapped(text, None) == text
    line = "aurac truncate adapter --rank 4 --out adapter_r4"
    assert wrapped(line, 34) == "aurac truncate adapter --rank 4 \\\n    --out adapter_r4"


def test_a_label_of_a_primary_comparison_may_lack_its_spaces():
    spaced = [("lora · svd", "b"), ("b · prefix · rule", "*")]
    assert parse_pairs(["lora·svd,b"], ["b ·prefix· rule"]) == spaced
    cut = "a (SVD, fitted)"
    assert parse_pairs([f"{cut},b"]) == pairs_of((cut, "b")) == [(cut, "b")]


def shown(name: str, flag: str) -> str:
    done = CliRunner().invoke(cli, [name, flag], terminal_width=80)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short_and_help_all_has_every_option(name):
    command = cli.get_command(None, name)
    every = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    known = {opt for option in every for opt in option.opts}
    assert {*command.short} <= known
    few, lines = shown(name, "--help"), shown(name, "--help").splitlines()
    assert len(lines) <= 56
    assert max(map(len, lines)) <= 80
    assert f"aurac {name}" in few
    whole = shown(name, "--help-all")
    assert not re.search(r"<=None|RANGE", whole)  # click's words for a number without limits
    if not command.short:
        assert len(every) <= 8
        assert whole == few
        return
    for option in every:
        longest = max(option.opts, key=len)
        assert longest in whole
        used = bool({*option.opts} & {*command.short, "--help-all"})
        listed = re.search(rf"^  (-.*)?{longest}(?![\w-])", few, re.MULTILINE)
        assert bool(listed) == used, longest


def test_a_training_that_a_scheduler_ends_says_how_to_go_on(tmp_path, capfd):
    def run(recipe, folder):
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(click.exceptions.Exit) as stopped:
        _trained(run, None, tmp_path, quiet=True)
    assert stopped.value.exit_code == 130
    assert "aurac: interrupted; " in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
