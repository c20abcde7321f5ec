"""The multiple-choice task: true arithmetic in every choice, and nothing to guess from."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from aurac.tasks import load_split
from scripts.word_problems.multiple_choice import Balance, features, make, mistakes, squares
from scripts.word_problems.problem import Compiled, Template, solution, work_out

TASK = "aurac_word_problems_mc"
SPLITS = ("train", "validation", "test")
EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@pytest.fixture(scope="module")
def splits():
    return {split: load_split(TASK, split) for split in SPLITS}


def result(choice):
    return int(choice.rpartition("#### ")[2])


def test_four_different_answers_of_equal_length_one_of_them_right(splits):
    for doc in (d for documents in splits.values() for d in documents):
        assert len(doc["choices"]) == 4
        assert len({result(choice) for choice in doc["choices"]}) == 4
        assert doc["choices"][doc["gold"]] == doc["answer"]
        assert {len(EQUATION.findall(choice)) for choice in doc["choices"]} == {doc["steps"]}


def test_the_arithmetic_of_every_choice_is_true(splits):
    check = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }
    for doc in (d for documents in splits.values() for d in documents):
        for choice in doc["choices"]:
            steps = EQUATION.findall(choice)
            assert all(check[s](int(a), int(b)) == int(c) for a, s, b, c in steps), choice
            assert result(choice) == int(steps[-1][3])
            assert all(2 <= int(c) <= 200 for *_, c in steps)


def test_all_choices_use_the_same_numbers(splits):
    # A choice that leaves a number out, or brings one in, would give itself away.
    for doc in splits["test"]:
        used = set()
        for choice in doc["choices"]:
            steps = EQUATION.findall(choice)
            results = Counter(c for *_, c in steps[:-1])
            used.add(tuple(sorted(Counter(n for a, _, b, _ in steps for n in (a, b)) - results)))
        assert len(used) == 1, doc


@pytest.mark.parametrize("split", SPLITS)
def test_the_right_answer_is_at_each_position_equally_often(splits, split):
    counts = Counter(doc["gold"] for doc in splits[split])
    assert set(counts.values()) == {len(splits[split]) // 4}


def overlap(choices):
    words = [Counter(choice.split()) for choice in choices]
    return [sum(sum((a & b).values()) for b in words) for a in words]


def apart(choices):
    results = [result(choice) for choice in choices]
    return [abs(4 * r - sum(results)) for r in results]


GUESSES = {
    "smallest": lambda choices: [-result(c) for c in choices],
    "largest": lambda choices: [result(c) for c in choices],
    "second smallest": lambda choices: [
        sorted(map(result, choices)).index(result(c)) == 1 for c in choices
    ],
    "second largest": lambda choices: [
        sorted(map(result, choices)).index(result(c)) == 2 for c in choices
    ],
    "closest to the mean": lambda choices: [-a for a in apart(choices)],
    "the odd one out": apart,
    "most like the others": overlap,
    "least like the others": lambda choices: [-o for o in overlap(choices)],
    "longest": lambda choices: [len(c) for c in choices],
    "shortest": lambda choices: [-len(c) for c in choices],
    "round number": lambda choices: [result(c) % 10 == 0 for c in choices],
    "has a division": lambda choices: ["/" in c for c in choices],
    "has a product": lambda choices: ["*" in c for c in choices],
    "has a sum": lambda choices: ["+" in c for c in choices],
    "has a difference": lambda choices: [" - " in c for c in choices],
    "small results all the way": lambda choices: [
        -max(int(step[3]) for step in EQUATION.findall(c)) for c in choices
    ],
}


def row_of_signs(choice):
    return tuple(sign for _, sign, _, _ in EQUATION.findall(choice))


def share(documents, guess):
    """How often a guess from the choices alone is right, equals drawn by lot."""
    hits = 0.0
    for doc in documents:
        scores = guess(doc["choices"])
        best = max(scores)
        hits += (scores[doc["gold"]] == best) / scores.count(best)
    return hits / len(documents)


@pytest.mark.parametrize("name", GUESSES)
def test_the_right_answer_cannot_be_guessed_from_the_choices(splits, name):
    # 25 % is chance; on 1000 documents the standard error is 1.4 points.
    assert 0.18 < share(splits["test"], GUESSES[name]) < 0.32
    assert 0.18 < share(splits["train"], GUESSES[name]) < 0.32


def test_signs_learned_on_the_training_split_guess_nothing(splits):
    # The strongest guess of this kind: score a choice by how often its row of signs was right
    # in the training documents.
    right, offered = Counter(), Counter()
    for doc in splits["train"]:
        right[row_of_signs(doc["answer"])] += 1
        offered.update(map(row_of_signs, doc["choices"]))
    assert all(right[row] > 0 for row in offered)  # no row of signs is always wrong

    def rate(choices):
        return [right[row_of_signs(c)] / offered[row_of_signs(c)] for c in choices]

    def frequency(choices):
        return [right[row_of_signs(c)] for c in choices]

    assert share(splits["test"], rate) < 0.32
    assert share(splits["test"], frequency) < 0.32


def example():
    compiled = Compiled.of(Template("t", "a 2-12, b 2-15, c 2-40", "a * b, x - c", ("",)))
    return compiled.plan, {"a": 4, "b": 6, "c": 3}


def test_mistakes_are_wrong_signs_and_exchanged_numbers():
    plan, _ = example()
    found = set(mistakes(plan, {"a": 4, "b": 6, "c": 3}))
    assert ("operation", 1, "+") in found
    assert ("exchange", "a", "c") in found
    assert not any(m[:2] == ("operation", 0) and m[2] == "*" for m in found)


def test_squares_by_hand():
    plan, given = example()
    # 4 * 6 = 24, 24 - 3 = 21. Wrong sign at the end: 27. a and c exchanged: 3 * 6 = 18,
    # 18 - 4 = 14. Both: 22.
    assert [21, 27, 14, 22] in [
        [steps[-1].result for steps in four] for four in squares(plan, given)
    ]
    for four in squares(plan, given):
        assert solution(four[0]) == "4 * 6 = 24\n24 - 3 = 21\n#### 21"
        assert len({steps[-1].result for steps in four}) == 4


def test_two_mistakes_can_be_made_in_either_order():
    plan, given = example()
    m, n = ("operation", 1, "+"), ("exchange", "a", "c")
    assert work_out(*make(m, *make(n, plan, given))) == work_out(*make(n, *make(m, plan, given)))


def test_balance_makes_up_for_what_came_before():
    plan, given = example()
    options = squares(plan, given)
    picked = []
    balance = Balance()
    for _ in range(200):
        four = balance.pick(options)
        if four is not None:
            picked.append(features(four)[0])
    # 4 * 6 - 3 again and again: its sign row "*-" cannot always be the right one, so that the
    # supply is turned down as soon as the excess is used up.
    assert 1 <= len(picked) < 20


def test_balance_alternates_where_it_can():
    plus = Compiled.of(Template("p", "a 2-9", "a * b, x + c", ("",))).plan
    minus = Compiled.of(Template("m", "a 2-9", "a * b, x - c", ("",))).plan
    given = {"a": 9, "b": 7, "c": 5}
    balance = Balance()
    taken = Counter()
    for _ in range(50):
        for plan in (plus, minus):
            four = balance.pick(squares(plan, given))
            taken[plan[1][1]] += four is not None
    assert abs(taken["+"] - taken["-"]) <= 3
