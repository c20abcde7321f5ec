"""The bundled tasks: their documents or a clear error, and fair scores in lm-eval."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from support.evaltasks import built, prompts

from aurac.errors import DataError, TaskError
from aurac.tasks import BUNDLED, bundled, documents, include_path, load_split

TASK = "aurac_word_problems"
SHOT = "Question: {question}\nAnswer: {answer}"
CHOICE = "aurac_word_problems_mc"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the bundled files that a test may damage; gives its test split."""
    shutil.copytree(bundled.include_path(), tmp_path / "bundled")
    monkeypatch.setattr(bundled, "include_path", lambda: tmp_path / "bundled")
    return tmp_path / "bundled" / TASK / "test.jsonl.gz"


def test_unknown_names_say_what_there_is():
    with pytest.raises(TaskError, match="gsm8k is not a bundled task"):
        documents("gsm8k")
    with pytest.raises(TaskError, match="has no split dev, but train, validation, test"):
        load_split(TASK, "dev")


@pytest.mark.parametrize("damage", ["cut off", "no gzip", "another byte", "missing"])
def test_a_damaged_file_is_an_error(copy, damage):
    packed = copy.read_bytes()
    other = bytes([packed[-8] ^ 1])  # of the checksum
    contents = {"cut off": packed[:-20], "no gzip": b"{}\n"}
    copy.unlink()
    if damage != "missing":
        copy.write_bytes(contents.get(damage, packed[:-8] + other + packed[-7:]))
    with pytest.raises(DataError, match=r"test\.jsonl\.gz cannot be read"):
        load_split(TASK, "test")
    assert len(load_split(TASK, "train")) == 6000


def test_reading_writes_no_file_and_loads_no_heavy_library(tmp_path):
    code = (
        "import sys; from aurac.tasks import BUNDLED, documents, load_split\n"
        "for task in BUNDLED: documents(task); load_split(task, 'test')\n"
        "print(sorted({'torch', 'lm_eval', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    env = {
        "AURAC_CACHE": str(tmp_path / "a"),
        "HF_HOME": str(tmp_path / "h"),
        "HOME": str(tmp_path),
    }
    path = {"PYTHONPATH": str(bundled.include_path().parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", BUNDLED)
def test_examples_are_the_bundled_ones_and_prompts_as_documented(name):
    """A number of shots in the YAML (even 0) would make lm-eval ignore the user's."""
    assert {path.stem for path in include_path().glob("*.yaml")} == set(BUNDLED)
    task = built(name, limit=0)
    assert [example.content for example in task.examples] == load_split(name, "test")
    assert list(task.task.training_docs()) == load_split(name, "train")
    assert list(task.task.validation_docs()) == load_split(name, "validation")
    asked = f"Question: {load_split(name, 'test')[0]['question']}\nAnswer:"
    prompt, settings = prompts(task)[0]
    assert prompt == asked
    if name == TASK:
        assert settings["until"] == ["\n\n", "Question:"]
        assert (settings["max_gen_toks"], settings["do_sample"]) == (48, False)
    *shots, last = prompts(built(name, num_fewshot=2, limit=1))[0][0].split("\n\n")
    assert (len(shots), last) == (2, asked)
    assert set(shots) <= {SHOT.format(**doc) for doc in load_split(name, "train")}


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
    task = built(TASK, limit=len(replies))
    found = task.judge(range(len(replies)), [[reply] for reply in replies]).metrics
    assert found["exact_match,strict-match"] == [float(x) for x in strict]
    assert found["exact_match,flexible-extract"] == [float(x) for x in flexible]


def test_multiple_choice_asks_for_each_choice_and_picks_the_likeliest():
    task, doc = built(CHOICE, limit=1), load_split(CHOICE, "test")[0]
    prompt = f"Question: {doc['question']}\nAnswer:"
    assert prompts(task) == [(prompt, f" {choice}") for choice in doc["choices"]]
    for picked in range(4):
        likely = [[(-1.0 if k == picked else -9.0, False)] for k in range(4)]
        found = task.judge([0], likely).metrics
        assert found["acc,none"] == found["acc_norm,none"] == [float(picked == doc["gold"])]
