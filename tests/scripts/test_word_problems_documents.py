"""The word problems themselves: arithmetic, numbers, English, variety."""

from __future__ import annotations

import ast
import re
from collections import Counter

import pytest

from aurac.tasks import load_split
from scripts.word_problems.english import NOUNS, Noun
from scripts.word_problems.problem import Compiled, Template, draw_numbers, work_out
from scripts.word_problems.stream import Stream

TASK = "aurac_word_problems"
SPLITS = ("train", "validation", "test")
# Wordings that imply the number 2 without writing it.
TWO = re.compile(
    r"\b(twice|doubled|half|way back|there and back|round trips?|each way|back again|ride back"
    r"|perimeter|goes? around|go around it|around (it|a)|frames)\b",
    re.IGNORECASE,
)
EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@pytest.fixture(scope="module")
def everything():
    return [doc for split in SPLITS for doc in load_split(TASK, split)]


def value(expression):
    """Exact arithmetic on the parse tree: nothing of the generator is used here."""
    tree = ast.parse(expression, mode="eval").body
    assert isinstance(tree, ast.BinOp)
    left, right = tree.left.value, tree.right.value
    if isinstance(tree.op, ast.Div):
        quotient, remainder = divmod(left, right)
        assert remainder == 0, expression
        return quotient
    return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[type(tree.op)]


def numbers(question):
    return [int(n) for n in re.findall(r"\d+", question)]


def test_every_equation_is_true_and_the_last_gives_the_answer(everything):
    for doc in everything:
        *equations, last = doc["answer"].split("\n")
        assert len(equations) == doc["steps"]
        for line in equations:
            assert EQUATION.fullmatch(line), line
            expression, _, result = line.partition(" = ")
            assert value(expression) == int(result), line
            assert 2 <= int(result) <= 60
        assert last == f"#### {equations[-1].rpartition(' = ')[2]}"


def test_every_operand_comes_from_the_question_or_from_an_earlier_step(everything):
    for doc in everything:
        known = numbers(doc["question"]) + ([2] if TWO.search(doc["question"]) else [])
        for left, _, right, result in EQUATION.findall(doc["answer"]):
            assert int(left) in known, doc
            assert int(right) in known, doc
            known.append(int(result))


def test_every_number_of_the_question_is_used_and_every_step_leads_on(everything):
    for doc in everything:
        steps = EQUATION.findall(doc["answer"])
        used = [int(n) for left, _, right, _ in steps for n in (left, right)]
        assert set(numbers(doc["question"])) <= set(used), doc
        assert all(int(result) in used for *_, result in steps[:-1]), doc


def test_keys_and_ids(everything):
    keys = ["id", "question", "answer", "steps", "template"]
    assert all(list(doc) == keys for doc in everything)
    assert len({doc["id"] for doc in everything}) == len(everything)


@pytest.mark.parametrize("split", SPLITS)
def test_the_mix_of_steps(split):
    documents = load_split(TASK, split)
    shares = Counter(doc["steps"] for doc in documents)
    # 35 %, 40 % and 25 % of the split, exactly.
    assert [100 * shares[k] / len(documents) for k in (1, 2, 3)] == [35, 40, 25]
    # A prefix (`--limit`) is a fair sample: 200 of 35 % lie within 5 sd = 17 points.
    head = Counter(doc["steps"] for doc in documents[:200])
    assert abs(head[1] / 2 - 35) < 17


def test_variety(everything):
    kinds = Counter(doc["template"] for doc in everything)
    assert len(kinds) >= 80
    assert max(kinds.values()) < 0.02 * len(everything)
    signs = Counter(sign for doc in everything for _, sign, _, _ in EQUATION.findall(doc["answer"]))
    assert min(signs[s] / sum(signs.values()) for s in "+-*/") > 0.1
    # No single answer is worth guessing.
    assert Counter(doc["answer"].rpartition(" ")[2] for doc in everything).most_common(1)[0][1] < (
        0.04 * len(everything)
    )


def test_the_english_is_clean(everything):
    vowel = re.compile(r"\b[Aa] [aeiou]|\b[Aa]n (?!hour)[^aeiou]")
    article_before_number = re.compile(r"\b[Aa] \$?(8|11|18|8\d)\b")
    for doc in everything:
        question = doc["question"]
        assert question.endswith("?"), question
        assert question[0].isupper() or question[0].isdigit(), question
        assert not re.search(r"[.?] [a-z]|  |[{}]|\n|\s$|^\s", question), question
        assert not vowel.search(question), question
        assert not article_before_number.search(question), question
        assert not re.search(r"\b(\w+) \1\b", question), question  # a word said twice
        assert not re.search(r"[a-z]yes\b|childs\b|sheeps\b|gooses\b|tomatos\b", question)


def test_questions_are_short(everything):
    words = [len(doc["question"].split()) for doc in everything]
    assert sum(words) / len(words) < 22
    assert max(words) <= 34


@pytest.mark.parametrize(
    ("one", "many", "a"),
    [
        ("apple", "apples", "an apple"),
        ("cherry", "cherries", "a cherry"),
        ("toy car", "toy cars", "a toy car"),
        ("box", "boxes", "a box"),
        ("bus", "buses", "a bus"),
        ("brush", "brushes", "a brush"),
        ("tomato", "tomatoes", "a tomato"),
        ("sheep", "sheep", "a sheep"),
        ("goose", "geese", "a goose"),
        ("child", "children", "a child"),
        ("scarf", "scarves", "a scarf"),
        ("daisy", "daisies", "a daisy"),
        ("umbrella", "umbrellas", "an umbrella"),
    ],
)
def test_plurals_and_articles(one, many, a):
    noun = next(n for nouns in NOUNS.values() for n in nouns if n.one == one)
    assert (str(noun), noun.a) == (many, a)


def test_noun_at_the_start_of_a_sentence():
    noun = Noun("egg", "eggs")
    assert (noun.A, noun.Many) == ("An egg", "Eggs")


@pytest.mark.parametrize(
    ("steps", "given", "expected"),
    [
        ("a * b, x - c", {"a": 4, "b": 6, "c": 5}, ["4 * 6 = 24", "24 - 5 = 19"]),
        ("a / 2, x + b", {"a": 12, "b": 3}, ["12 / 2 = 6", "6 + 3 = 9"]),
        ("a - b", {"a": 3, "b": 5}, None),  # negative
        ("a / b", {"a": 7, "b": 2}, None),  # not an integer
        ("a - b", {"a": 6, "b": 5}, None),  # below 2
        ("a * b", {"a": 20, "b": 20}, None),  # above 200
    ],
)
def test_working_out_a_plan(steps, given, expected):
    compiled = Compiled.of(Template("t", "a 1-2", steps, ("",)))
    worked = work_out(compiled.plan, given)
    assert (worked and [str(step) for step in worked]) == expected


def test_a_template_that_cannot_come_out_says_so():
    compiled = Compiled.of(Template("faulty", "a 2-3, b 50-60", "a - b", ("",)))
    with pytest.raises(ValueError, match="faulty"):
        draw_numbers(compiled, Stream("any"))
