"""The YAML files in lm-eval itself: they load offline, prompt as documented, and score fairly."""

from __future__ import annotations

import pytest

from aurac.tasks import BUNDLED, include_path, load_split

SHOT = "Question: {question}\nAnswer: {answer}"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    tasks = pytest.importorskip("lm_eval.tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        manager = tasks.TaskManager(include_path=str(include_path()), include_defaults=False)
        yield manager.load(list(BUNDLED))["tasks"]


def score(task, replies):
    """What lm-eval makes of replies to the first test documents: {"metric,filter": [...]}."""
    task.build_all_requests(limit=len(replies), rank=0, world_size=1)
    for instance, reply in zip(task.instances, replies, strict=True):
        instance.resps, instance.filtered_resps = [reply], {}
    task.apply_filters()
    documents = list(task.test_docs())
    return {
        name: [
            float(
                task.process_results(documents[i.doc_id], [i.filtered_resps[name]])["exact_match"]
            )
            for i in task.instances
        ]
        for name in ("strict-match", "flexible-extract")
    }


def test_every_bundled_task_has_a_yaml_of_its_name():
    assert {path.stem for path in include_path().glob("*.yaml")} == set(BUNDLED)


def test_documents_are_the_bundled_ones(tasks):
    for name in BUNDLED:
        task = tasks[name]
        assert list(task.test_docs()) == load_split(name, "test")
        assert list(task.training_docs()) == load_split(name, "train")
        assert list(task.validation_docs()) == load_split(name, "validation")


def test_the_generative_prompt_and_settings(tasks):
    task = tasks["aurac_word_problems"]
    task.build_all_requests(limit=1, rank=0, world_size=1)
    prompt, settings = task.instances[0].args
    first = load_split("aurac_word_problems", "test")[0]
    assert prompt == f"Question: {first['question']}\nAnswer:"
    assert settings["until"] == ["\n\n", "Question:"]
    assert settings["max_gen_toks"] == 48
    assert settings["do_sample"] is False


@pytest.mark.parametrize("name", BUNDLED)
def test_shots_come_from_train_and_the_number_can_be_set(tasks, name):
    task = tasks[name]
    # A number written in the YAML (even 0) would make lm-eval ignore the user's.
    assert task.config.num_fewshot is None
    task.set_fewshot_seed(1234)
    task.set_config(key="num_fewshot", value=2)
    try:
        task.build_all_requests(limit=1, rank=0, world_size=1)
    finally:
        task.set_config(key="num_fewshot", value=None)
    *shots, last = task.instances[0].args[0].split("\n\n")
    pool = {SHOT.format(**doc) for doc in load_split(name, "train")}
    assert len(shots) == 2
    assert set(shots) <= pool
    assert last == f"Question: {load_split(name, 'test')[0]['question']}\nAnswer:"


def test_filters_on_replies_as_models_write_them(tasks):
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
    found = score(tasks["aurac_word_problems"], replies)
    assert found["strict-match"] == [float(x) for x in strict]
    assert found["flexible-extract"] == [float(x) for x in flexible]


def test_all_right_and_all_wrong(tasks):
    documents = load_split("aurac_word_problems", "test")[:30]
    right = score(tasks["aurac_word_problems"], [f" {doc['answer']}" for doc in documents])
    assert right == {"strict-match": [1.0] * 30, "flexible-extract": [1.0] * 30}
    shifted = [f" {doc['answer']}" for doc in [*documents[1:], documents[0]]]
    same = [
        float(a["answer"].rpartition(" ")[2] == b["answer"].rpartition(" ")[2])
        for a, b in zip(documents, [*documents[1:], documents[0]], strict=True)
    ]
    assert score(tasks["aurac_word_problems"], shifted)["strict-match"] == same


def test_multiple_choice_asks_for_each_choice_and_picks_the_likeliest(tasks):
    task = tasks["aurac_word_problems_mc"]
    task.build_all_requests(limit=1, rank=0, world_size=1)
    doc = load_split("aurac_word_problems_mc", "test")[0]
    assert [i.args for i in task.instances] == [
        (f"Question: {doc['question']}\nAnswer:", f" {choice}") for choice in doc["choices"]
    ]
    for picked in range(4):
        likely = [(-1.0 if k == picked else -9.0, False) for k in range(4)]
        found = task.process_results(doc, likely)
        assert found["acc"] == found["acc_norm"] == float(picked == doc["gold"])
