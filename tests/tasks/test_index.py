"""The index of lm-eval's tasks is the one that lm-eval makes, at a fraction of the time."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from aurac.cli import cli
from aurac.errors import TaskError
from aurac.tasks import index as index_module
from aurac.tasks.index import (
    check_names,
    facts_of,
    nearest,
    read_index,
    search,
    task_index,
)


def as_lm_eval_has_it(folder) -> dict[str, tuple[str, str | None, list[str]]]:
    from lm_eval.tasks._index import TaskIndex

    return {
        name: (entry.kind.name, str(entry.yaml_path) if entry.yaml_path else None,
               sorted(entry.tags))
        for name, entry in TaskIndex.build([folder]).items()
    }  # fmt: skip


def plain(index) -> dict[str, tuple[str, str | None, list[str]]]:
    return {name: (row.kind, row.path, sorted(row.tags)) for name, row in index.items()}


def test_it_is_the_index_of_the_installed_lm_eval(isolated_cache):
    folder = index_module._tasks_folder()
    task_index.cache_clear()
    expected = as_lm_eval_has_it(folder)
    assert len(expected) > 10_000
    assert plain(task_index()) == expected
    task_index.cache_clear()
    assert plain(task_index()) == expected  # as it was kept
    assert len(list((isolated_cache / "lm_eval").iterdir())) == 1
    task_index.cache_clear()


FILES = {
    "a.yaml": "task: a\ntag: [x, 'y']\ndoc_to_text: '{{q}}'\n",
    "b.yaml": "include: base\n'task': \"b\"\n",
    "base": "task: base_name\ntag:\n  - x\n  # said\n  - z\ngroup_alias: g\n",
    "c.yaml": "class: !function c.Task\ntask: c\n",
    "d.yaml": "task: [a, b]\ngroup: d\n",
    "e.yaml": "group: e\ntask:\n- group: inner\n  task: [a]\n  aggregation: !function s.f\n",
    "f.yaml": "include: [nowhere]\ntask: f\n",
    "g.yaml": "task: a\ntag: late\n",
    "h.yaml": "task: yes\n",
    "i.yaml": "include: i.yaml\ntask: i\n",
    "j.yaml": "doc_to_text: |\n  task: not this\ntask: j\n",
    "k.yaml": "- a list\n",
    "x.yaml": "task: x\n",
    "sub/l.yaml": "include: ../a.yaml\ntask: l\n",
}


def test_unusual_files_are_understood_as_lm_eval_does(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = plain(read_index(str(path) for path in tmp_path.rglob("*.yaml")))
    expected = as_lm_eval_has_it(tmp_path)
    assert found == {name: row for name, row in expected.items() if isinstance(name, str)}
    assert {"a", "b", "c", "d", "e", "j", "l", "x"} <= set(found)


def test_a_changed_file_makes_a_new_index(tmp_path, isolated_cache, monkeypatch):
    (tmp_path / "a.yaml").write_text("task: first\n")
    monkeypatch.setattr(index_module, "_tasks_folder", lambda: tmp_path)
    task_index.cache_clear()
    assert set(task_index()) == {"first"}
    (tmp_path / "a.yaml").write_text("task: other\n")
    os.utime(tmp_path / "a.yaml", ns=(1, 1))
    task_index.cache_clear()
    assert set(task_index()) == {"other"}
    task_index.cache_clear()


KNOWN = ["arc_easy", "arc_es", "arc_te", "gsm8k", "gsm8k_cot", "hellaswag", "hellaswag_vi", "piqa"]


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("arc_esay", ["arc_easy", "arc_es"]),
        ("ARC-Easy", ["arc_easy"]),
        ("gms8k", ["gsm8k"]),
        ("hellaswg", ["hellaswag"]),
        ("something else", []),
    ],
)
def test_only_near_names_are_offered(typed, near):
    assert nearest(typed, KNOWN) == near


def test_a_mistyped_task_is_refused_with_near_names():
    check_names(["aurac_word_problems", "gsm8k", "mmlu", "some/where.yaml"])
    with pytest.raises(TaskError, match="a task such as gsm8k"):
        check_names(["gms8k"])
    for name in ("no such thing at all", "nope_task"):
        with pytest.raises(
            TaskError, match="a part of its name with `aurac tasks WORD` in a shell"
        ):
            check_names([name])


def test_what_a_task_needs_stands_in_its_yaml():
    gsm8k = facts_of("gsm8k")
    assert (gsm8k.output_type, gsm8k.num_fewshot, gsm8k.split) == ("generate_until", 5, "test")
    assert (gsm8k.data, gsm8k.writes, gsm8k.refused) == ("openai/gsm8k (main)", 256, None)
    choice = facts_of("hellaswag")
    assert (choice.output_type, choice.writes, choice.split) == ("multiple_choice", 0, "validation")
    assert facts_of("aurac_word_problems")[:7] == (
        *("aurac_word_problems", "BUNDLED", "generate_until"),
        *(0, "aurac", "test", 1000),
    )
    assert "mmlu_stem" in facts_of("mmlu").members
    assert facts_of("humaneval").refused == "runs code that the model writes"
    with pytest.raises(TaskError, match="gsm8k"):
        facts_of("gms8k")


def test_the_size_is_known_where_the_cache_holds_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    assert facts_of("gsm8k").documents is None
    folder = tmp_path / "openai___gsm8k" / "main" / "0.0.0" / "abc"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"splits": {"test": {"num_examples": 1319}}}')
    assert facts_of("gsm8k").documents == 1319


def test_a_search_finds_the_task_before_its_translations(tmp_path):
    assert search("ARC")[:2] == ["arc_easy", "arc_challenge"]
    assert {"mmlu_stem", "mmlu_other"} <= set(search("mmlu_*"))
    assert search("no such thing at all") == []
    (tmp_path / "own.yaml").write_text("task: my_sums\nnum_fewshot: 3\n")
    assert search("my_su", tmp_path) == ["my_sums"]
    assert facts_of("my_sums", tmp_path).num_fewshot == 3
    check_names(["my_sums"], tmp_path)
    with pytest.raises(TaskError, match="is no folder"):
        check_names(["my_sums"], tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gsm8k", "writes up to 256 tokens each"),
        ("arc", "more; --json lists all"),
        ("mmlu", "group of 57 tasks"),
        ("humaneval", "not evaluated: runs code"),
        ("squadv2", "defined in Python"),
        (None, "aurac tasks WORD searches the"),
    ],
)
def test_the_command_lists_and_searches(name, words):
    line = ["tasks", *([name] if name else [])]
    done = CliRunner().invoke(cli, line)
    assert words in done.output
    assert done.exit_code == 0
    rows = json.loads(CliRunner().invoke(cli, [*line, "--json"]).output)
    assert {"name", "data", "num_fewshot", "output_type"} <= set(rows[0])
