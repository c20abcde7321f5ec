"""What the check of a server finds: alone (`--check-only`), and before the first cell of a run."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from support.completions import compared, over_http, settings_of

from aurac.backends import check
from aurac.cli import main
from aurac.runs.backend_check import check_only
from aurac.runs.progress import Bar, Progress

pytest.importorskip("tenacity", reason="lm-eval's client needs aurac[servers]")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("alone", "asked_once")]


@pytest.fixture(scope="module")
def asked_once():
    """The engine answers the same questions once for all tests."""
    known, answers = {}, check.answers

    def once(name, how, tokenizer, length, questions, cuts):
        key = str([how, length, questions, [cut.rank for cut in cuts]])
        if key not in known:
            known[key] = answers(name, how, tokenizer, length, questions, cuts)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "answers", once)
        yield


def checked(place, server, out, **words):
    """The results for the base and ranks 1 and 4, of a task with choices and one with texts."""
    given = {"ranks": (1, 4), **over_http(server), **words}
    return list(check_only(settings_of(place, out, **given), Progress()))


TEXTS = {"echoes": False}  # no log-probabilities of prompts


@pytest.mark.parametrize(("twist", "right", "says"), [
    ({}, [True] * 3, "is computed as it should be"),
    ({"dtype": torch.bfloat16}, [True] * 3, "is computed as it should be"),
    (TEXTS, [True] * 3, "is computed as it should be"),
    ({"longest": 48}, [True] * 3, "is computed as it should be"),  # lm-eval cuts the prompts
    ({"scale": 0.0}, [True, False, False], "the adapter is ignored"),
    ({"scale": 0.0, **TEXTS}, [True, False, False], "the adapter is ignored in texts"),
    ({"writes_base": True}, [True, False, False], "the adapter is ignored in texts"),
    ({"scale": 1.25}, [True, False, False], "its log-probabilities differ by"),
    ({"without": ("layers.1.",)}, [True, False, False], "its log-probabilities differ by"),
    ({"keeps_first": True}, [True, True, False], "its log-probabilities differ by"),
    ({"keeps_first": True, **TEXTS}, [True, True, False], "its texts differ"),
    ({"most_prompt": 48, **TEXTS}, [False] * 3, "its texts differ"),
    ({"samples": True}, [False] * 3, "its texts differ"),
    ({"wrapped": "[user]\n"}, [False] * 3, "its texts differ"),
    ({"most_tokens": 2}, [False] * 3, "its texts differ"),
    ({"text": lambda choice: {**choice, "text": ""}}, [False] * 3, "its texts differ: '' where"),
])  # fmt: skip
def test_honest_answers_are_right_and_others_are_not(place, server, tmp_path, twist, right, says):
    vars(server).update(twist)
    tasks = ["tiny_choice", "tiny_text"] if server.echoes else ["tiny_text"]
    dtype = str(server.dtype).removeprefix("torch.")
    found = checked(place, server, tmp_path, tasks=tasks, dtype=dtype)
    assert [result.right for result in found] == right, [*map(str, found)]
    assert says in found[right.index(False) if False in right else -1].says
    assert [each.distance is None for each in found] == [not server.echoes] * 3
    assert not server.adapters  # they are unloaded again


@pytest.mark.parametrize("twist", [{"most_prompt": 48}, {"scale": float("nan")}])
def test_missing_log_probabilities_are_wrong_answers(place, server, tmp_path, twist):
    """Of a prompt that was cut, and where the model computes what is no number."""
    vars(server).update(twist)
    with pytest.raises(Exception, match="no log-probability for each token") as caught:
        checked(place, server, tmp_path)
    assert caught.value.exit_code == 4


def test_a_wrong_answer_ends_a_run_before_its_first_cell_and_a_right_one_is_kept(
    place, server, tmp_path, capsys
):
    how = {"tasks": ["tiny_text"], **over_http(server)}

    def names(out, **more):
        compared(place, tmp_path / out, progress=Bar(), **how, **more)
        said = [line for line in capsys.readouterr().err.splitlines() if "should be" in line]
        return [line.split(":")[1].strip() for line in said]

    server.keeps_first = True  # the trained rank, which is asked before the smallest
    with pytest.raises(check.NotComputedError, match="mine at rank 1: its log-prob") as caught:
        names("run", limit=4)
    assert caught.value.exit_code == 4
    assert not list((tmp_path / "run").glob("cells/*"))
    server.keeps_first = False
    capsys.readouterr()
    assert names("run", limit=4) == ["the base", "mine at rank 4", "mine at rank 1"]
    assert len(json.loads((tmp_path / "run" / "checked.json").read_text())) == 2
    asked = len(server.asked)
    assert names("run", limit=5) == []
    assert len(server.asked) == asked + 4  # one more example at three ranks and of the base
    server.scale = 0.0
    assert names("other", check=False, limit=1) == []


def test_check_only_on_the_command_line(place, server, tmp_path, monkeypatch, capsys):
    """One result for each rank, exit code 4 where one is wrong, and no cell."""

    def command(*more):
        task = str(place / "tasks" / "tiny_text.yaml")
        words = ["compare", str(place / "mine"), "--tasks", task, "--out", str(tmp_path / "run")]
        words += ["--dtype", "float32", "--device", "cpu", "--limit", "4", *more]
        monkeypatch.setattr(sys, "argv", ["aurac", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code, *capsys.readouterr()

    there = ["--model", "local-completions", "--model-args", f"base_url={server.url}"]
    code, told, besides = command("--check-only", "--json", *there)
    assert code == 0, besides
    names = ["the base", *(f"mine at rank {rank}" for rank in (1, 2, 4))]
    assert [(row["name"], row["right"]) for row in json.loads(told)] == [(n, True) for n in names]
    assert not (tmp_path / "run" / "cells").exists()
    server.scale = 0.0
    code, told, _ = command("--check-only", *there)
    assert (code, told.count("the adapter is ignored")) == (4, 3)
    code, _, besides = command("--check-only")
    assert (code, "--model hf is not checked" in besides) == (2, True)
