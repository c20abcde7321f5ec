"""Sizes of the splits, and no leak from one to another."""

from __future__ import annotations

import hashlib
import itertools
import re

import pytest

from aurac.tasks import BUNDLED, load_split
from scripts.word_problems import documents
from scripts.word_problems.documents import split_of
from scripts.word_problems.problem import operands

SPLITS = ("train", "validation", "test")
TWO = re.compile(
    r"\b(twice|doubled|half|way back|there and back|round trips?|each way|back again|ride back"
    r"|perimeter|goes? around|go around it|around (it|a)|frames)\b",
    re.IGNORECASE,
)


def normalised(question):
    return re.sub(r"[^a-z0-9]+", " ", question.lower()).strip()


def numbers(question):
    """The problem's numbers as a reader finds them: the digits, and 2 where the words imply it."""
    digits = {int(n) for n in re.findall(r"\d+", question)}
    return tuple(sorted([*digits, *([2] if TWO.search(question) else [])]))


@pytest.mark.parametrize("task", BUNDLED)
def test_sizes(task):
    train = {"aurac_word_problems": 6000, "aurac_word_problems_mc": 2000}[task]
    sizes = {split: len(load_split(task, split)) for split in SPLITS}
    assert sizes == {"train": train, "validation": 500, "test": 1000}


def test_no_set_of_numbers_occurs_in_two_splits_of_either_task():
    # Across the tasks too: training on the one may not show the numbers of the other's test.
    seen = {
        split: {numbers(d["question"]) for task in BUNDLED for d in load_split(task, split)}
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not seen[one] & seen[other]


def test_no_question_occurs_twice():
    for task in BUNDLED:
        texts = [normalised(d["question"]) for split in SPLITS for d in load_split(task, split)]
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("task", BUNDLED)
def test_no_situation_occurs_twice_with_the_same_numbers(task):
    found = [(d["template"], d["answer"]) for split in SPLITS for d in load_split(task, split)]
    # Two operand orders of one product ("4 * 6", "6 * 4") are different numbers in the text.
    assert len(set(found)) == len(found)


def test_the_split_depends_on_the_operands_alone():
    assert split_of([5, 12]) == split_of((12, 5))
    compiled = documents.TEMPLATES[2][0]
    given = {"a": 30, "b": 9, "c": 4}
    assert operands(compiled.plan, given) == (4, 9, 30)
    # Twice is a 2 that the text does not write; it counts.
    twice = next(c for c in documents.TEMPLATES[1] if c.template.name == "twice")
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
