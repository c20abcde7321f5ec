"""The YAML files in lm-eval itself: they load offline, prompt as documented, and score fairly."""

from __future__ import annotations

import pytest
from support.evaltasks import built, prompts

from aurac.tasks import BUNDLED, include_path, load_split

SHOT = "Question: {question}\nAnswer: {answer}"
WRITTEN, CHOICE = "aurac_word_problems", "aurac_word_problems_mc"


def score(replies):
    """What replies to the first test examples score: {filter: [...]}."""
    task = built(WRITTEN, limit=len(replies))
    found = task.judge(range(len(replies)), [[reply] for reply in replies]).metrics
    return {key.partition(",")[2]: column for key, column in found.items()}


@pytest.mark.parametrize("name", BUNDLED)
def test_examples_are_the_bundled_ones_and_prompts_as_documented(name):
    assert {path.stem for path in include_path().glob("*.yaml")} == set(BUNDLED)
    task = built(name, limit=0)
    assert [example.content for example in task.examples] == load_split(name, "test")
    assert list(task.task.training_docs()) == load_split(name, "train")
    assert list(task.task.validation_docs()) == load_split(name, "validation")
    prompt, settings = prompts(task)[0]
    assert prompt == f"Question: {load_split(name, 'test')[0]['question']}\nAnswer:"
    if name == WRITTEN:
        assert settings["until"] == ["\n\n", "Question:"]
        assert (settings["max_gen_toks"], settings["do_sample"]) == (48, False)


@pytest.mark.parametrize("name", BUNDLED)
def test_shots_come_from_train_and_the_number_can_be_set(name):
    """A number written in the YAML (even 0) would make lm-eval ignore the user's."""
    *shots, last = prompts(built(name, num_fewshot=2, limit=1))[0][0].split("\n\n")
    pool = {SHOT.format(**doc) for doc in load_split(name, "train")}
    assert len(shots) == 2
    assert set(shots) <= pool
    assert last == f"Question: {load_split(name, 'test')[0]['question']}\nAnswer:"


def test_filters_on_replies_as_models_write_them():
    gold = [doc["answer"].rpartition(" ")[2] for doc in load_split("aurac_word_problems", "test")]
    answer = load_split("aurac_word_problems", "test")[0]["answer"]
    replies, strict, flexible = zip(
        (f" {answer}", 1, 1),  # as taught
        (f" wrong way, 1 + 1 = 2\n#### {gold[1]}", 1, 1),  # only the number is judged
        (f" {gold[2]}", 0, 1),  # the bare number
        (f" The answer is {gold[3]}.", 0, 1),  # a sentence with a full stop
        (f" ${gold[4]}", 0, 1),  # with the currency
        (
            f" #### {gold[5]}\n#### 7",
            1,
            gold[5] == "7",
        ),  # strict takes the first, flexible the last
        (f" ####{gold[6]}", 0, 1),  # without the space
        (f" #### {gold[7]}9", 0, 0),  # a number that only begins like it
        (f" #### -{gold[8]}", 0, 0),  # the sign counts
        ("", 0, 0),
        (" I do not know.", 0, 0),
        (f" {gold[11]} of the 3 boxes", 0, gold[11] == "3"),
        strict=True,
    )
    found = score(replies)
    assert found["strict-match"] == [float(x) for x in strict]
    assert found["flexible-extract"] == [float(x) for x in flexible]


def test_all_right_and_all_wrong():
    documents = load_split("aurac_word_problems", "test")[:30]
    right = score([f" {doc['answer']}" for doc in documents])
    assert right == {"strict-match": [1.0] * 30, "flexible-extract": [1.0] * 30}
    shifted = [f" {doc['answer']}" for doc in [*documents[1:], documents[0]]]
    same = [
        float(a["answer"].rpartition(" ")[2] == b["answer"].rpartition(" ")[2])
        for a, b in zip(documents, [*documents[1:], documents[0]], strict=True)
    ]
    assert score(shifted)["strict-match"] == same


def test_multiple_choice_asks_for_each_choice_and_picks_the_likeliest():
    task, doc = built(CHOICE, limit=1), load_split(CHOICE, "test")[0]
    prompt = f"Question: {doc['question']}\nAnswer:"
    assert prompts(task) == [(prompt, f" {choice}") for choice in doc["choices"]]
    for picked in range(4):
        likely = [[(-1.0 if k == picked else -9.0, False)] for k in range(4)]
        found = task.judge([0], likely).metrics
        assert found["acc,none"] == found["acc_norm,none"] == [float(picked == doc["gold"])]
