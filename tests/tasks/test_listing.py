"""The cached listing of lm-eval's tasks: what it says, what it costs, what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness_doubles import write_choice_task

from aurac.errors import TaskError
from aurac.tasks import listing
from aurac.tasks.listing import expand, stock_tasks


def test_rows_say_where_a_task_is():
    rows = stock_tasks()
    assert (rows["gsm8k"].kind, rows["gsm8k"].file) == ("TASK", "gsm8k/gsm8k.yaml")
    assert rows["ai2_arc"].tags == ("arc_challenge", "arc_easy")
    assert (rows["mmlu"].kind, rows["mmlu"].tags) == ("GROUP", ())
    assert rows["aurac_word_problems"].file.endswith("aurac_word_problems.yaml")


def test_the_listing_is_kept_and_a_damaged_one_is_made_anew(tmp_path, monkeypatch):
    calls = []

    def made(**where):
        calls.append(where)
        return {"mine": listing.ListedTask(kind="TASK")}

    monkeypatch.setenv("AURAC_CACHE", str(tmp_path))
    monkeypatch.setattr(listing, "_listed", made)
    for damaged in (None, b"{"):
        if damaged is not None:
            next((tmp_path / "lm_eval").glob("tasks-*.json")).write_bytes(damaged)
        for _ in range(2):
            assert list(stock_tasks.__wrapped__()) == ["mine"]
    assert len(calls) == 2


def test_a_name_that_is_kept_imports_nothing_heavy():
    stock_tasks()
    code = (
        "import sys, aurac.tasks.build\nfrom aurac.tasks.listing import expand\n"
        "print(expand(['ai2_ar*', 'gsm8k']), {'torch', 'lm_eval'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("['ai2_arc', 'gsm8k'] set()")


def test_names_patterns_and_files_are_expanded(tmp_path):
    path = str(write_choice_task(tmp_path, "mine"))
    (tmp_path / "notes.txt").write_text("")
    asked = ["aurac_word_*", "gsm8k", "arc_eas[y]", "gsm8k", path]
    bundled = ["aurac_word_problems", "aurac_word_problems_mc"]
    assert expand(asked) == [*bundled, "gsm8k", "arc_easy", path]
    assert expand(["mine"], tmp_path) == ["mine"]
    examples = str(tmp_path / "mine_data" / "test.jsonl")
    assert expand([examples]) == [examples]
    for name, words in (
        ("gsm8kk", r"'gsm8kk' is not known to lm-eval .*; did you mean gsm8k"),
        ("qqqqzzzz", "lists the names"),
        ("no_such_*", "'no_such_\\*' is not known"),
        ("nowhere.yaml", "file nowhere.yaml does not exist"),
        (str(tmp_path / "mine"), "did you mean"),
        ("nowhere.jsonl", "file nowhere.jsonl does not exist"),
        (str(tmp_path / "notes.txt"), "a file of examples ends in .jsonl, .json, .parquet or"),
    ):
        with pytest.raises(TaskError, match=words):
            expand([name])
    with pytest.raises(TaskError, match="holds no task"):
        expand(["mine"], tmp_path / "mine_data")
