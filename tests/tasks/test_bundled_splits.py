"""Splits without leaks, the same documents everywhere, and files that survive accidents."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys

import pytest

from aurac.errors import DataError, TaskError
from aurac.tasks import BUNDLED, documents, load_split, store, word_problems
from aurac.tasks.problem import operands
from aurac.tasks.word_problems import split_of

SPLITS = ("train", "validation", "test")
TWO = re.compile(
    r"\b(twice|doubled|half|way back|there and back|round trips?|each way|back again|ride back"
    r"|perimeter|goes? around|go around it|around (it|a)|frames)\b",
    re.IGNORECASE,
)


@pytest.fixture
def shared_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "aurac-cache"
    monkeypatch.setenv("AURAC_CACHE", str(folder))
    return folder


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AURAC_CACHE", str(tmp_path))
    return tmp_path


def normalised(question):
    return re.sub(r"[^a-z0-9]+", " ", question.lower()).strip()


def numbers(question):
    """The problem's numbers as a reader finds them: the digits, and 2 where the words imply it."""
    digits = {int(n) for n in re.findall(r"\d+", question)}
    return tuple(sorted([*digits, *([2] if TWO.search(question) else [])]))


@pytest.mark.parametrize("task", BUNDLED)
def test_sizes(shared_cache, task):
    train = {"aurac_word_problems": 6000, "aurac_word_problems_mc": 2000}[task]
    sizes = {split: len(load_split(task, split)) for split in SPLITS}
    assert sizes == {"train": train, "validation": 500, "test": 1000}


def test_no_set_of_numbers_occurs_in_two_splits_of_either_task(shared_cache):
    # Across the tasks too: training on the one may not show the numbers of the other's test.
    seen = {
        split: {numbers(d["question"]) for task in BUNDLED for d in load_split(task, split)}
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not seen[one] & seen[other]


def test_no_question_occurs_twice(shared_cache):
    for task in BUNDLED:
        texts = [normalised(d["question"]) for split in SPLITS for d in load_split(task, split)]
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("task", BUNDLED)
def test_no_situation_occurs_twice_with_the_same_numbers(shared_cache, task):
    found = [(d["template"], d["answer"]) for split in SPLITS for d in load_split(task, split)]
    # Two operand orders of one product ("4 * 6", "6 * 4") are different numbers in the text.
    assert len(set(found)) == len(found)


def test_the_split_depends_on_the_operands_alone():
    assert split_of([5, 12]) == split_of((12, 5))
    compiled = word_problems.TEMPLATES[2][0]
    given = {"a": 30, "b": 9, "c": 4}
    assert operands(compiled.plan, given) == (4, 9, 30)
    # Twice is a 2 that the text does not write; it counts.
    twice = next(c for c in word_problems.TEMPLATES[1] if c.template.name == "twice")
    assert operands(twice.plan, {"a": 30}) == (2, 30)


def test_the_split_is_pinned_and_shared_out_twelve_one_two():
    counts = dict.fromkeys(SPLITS, 0)
    for pair in itertools.combinations(range(2, 100), 2):
        counts[split_of(pair)] += 1
    # 4753 pairs; 12/15, 1/15 and 2/15 of them within five standard deviations.
    assert abs(counts["train"] - 3802) < 138
    assert abs(counts["validation"] - 317) < 86
    assert abs(counts["test"] - 634) < 118
    digest = hashlib.sha256(b"operands/5,12").digest()[:8]
    part = int.from_bytes(digest, "big") % 15
    assert split_of([12, 5]) == ("train" if part < 12 else "validation" if part == 12 else "test")


@pytest.mark.parametrize("task", BUNDLED)
def test_the_files_are_the_published_ones(shared_cache, task):
    for split, path in documents(task).items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == store.DIGESTS[task][split]
        assert path.name == f"{split}.jsonl"


def test_another_process_with_another_hash_seed_writes_the_same_bytes(tmp_path):
    # The digests are checked as the files are written, so success is equality; the order of
    # sets and of strings' hashes differs between the two processes, which run at once.
    code = (
        "from aurac.tasks import BUNDLED, documents\n"
        "for task in BUNDLED: print(*documents(task).values(), sep='\\n')\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "AURAC_CACHE": str(tmp_path), "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "4242")
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert outputs[0] == outputs[1]
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(
        f"{split}.jsonl" for split in SPLITS for _ in BUNDLED
    )


def test_damaged_and_missing_files_are_made_again(own_cache):
    files = documents("aurac_word_problems")
    good = files["test"].read_bytes()
    files["test"].write_bytes(good[:-20])
    files["train"].unlink()
    assert len(load_split("aurac_word_problems", "train")) == 6000
    assert files["test"].read_bytes() == good
    assert sorted(p.name for p in files["test"].parent.iterdir()) == [
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]


def test_intact_files_are_not_generated_again(shared_cache, monkeypatch):
    documents("aurac_word_problems")
    monkeypatch.setitem(store._GENERATORS, "aurac_word_problems", lambda: pytest.fail("again"))
    assert len(load_split("aurac_word_problems", "validation")) == 500


def test_the_folder_carries_the_digest(own_cache, monkeypatch):
    before = store.folder("aurac_word_problems")
    assert before.is_relative_to(own_cache)
    changed = {**store.DIGESTS["aurac_word_problems"], "test": "0" * 64}
    monkeypatch.setitem(store.DIGESTS, "aurac_word_problems", changed)
    assert store.folder("aurac_word_problems") != before


def test_a_generator_that_drifts_is_refused_and_writes_nothing(own_cache, monkeypatch):
    changed = {**store.DIGESTS["aurac_word_problems"], "train": "0" * 64}
    monkeypatch.setitem(store.DIGESTS, "aurac_word_problems", changed)
    with pytest.raises(DataError, match="aurac_word_problems/train came out different"):
        documents("aurac_word_problems")
    assert not [p for p in own_cache.rglob("*") if p.is_file()]


def test_unknown_names_say_what_there_is(shared_cache):
    with pytest.raises(TaskError, match=r"'gsm8k' is not a bundled task.*aurac_word_problems_mc"):
        documents("gsm8k")
    with pytest.raises(TaskError, match=r"no split 'dev'; expected one of train, validation, test"):
        load_split("aurac_word_problems", "dev")


def test_a_cache_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("AURAC_CACHE", str(blocked))
    with pytest.raises(DataError, match="set AURAC_CACHE"):
        documents("aurac_word_problems")


def test_a_line_is_a_json_object(shared_cache):
    line = documents("aurac_word_problems")["test"].read_text(encoding="ascii").splitlines()[0]
    assert json.loads(line) == load_split("aurac_word_problems", "test")[0]
