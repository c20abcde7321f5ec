"""Prompts are built once, like lm-eval's, and do not depend on anything but what was asked."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
from document_blocks import REPOSITORY, blocks
from harness_doubles import (
    make_model,
    make_tokenizer,
    simple_evaluate,
    text_rows,
    write_choice_task,
    write_jsonl,
    write_text_task,
)
from support.evaltasks import RuleModel, built, evaluate, prompts

from aurac.errors import DataError, TaskError, UsageError
from aurac.tasks.bundled import load_split
from aurac.tasks.evaltask import compiled_once
from aurac.tasks.listing import stock_tasks

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("offline")]


def simple_evaluate_prompts(path, tokenizer, **options):
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=make_model(1), tokenizer=tokenizer, batch_size=4)
    results = simple_evaluate(path, lm, **options)
    return [tuple(a) for row in results["samples"][path.stem] for a in row["arguments"]]


def test_two_builds_give_the_same_prompts_and_leave_no_trace(tmp_path):
    paths = [write_choice_task(tmp_path), write_text_task(tmp_path)]
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002 - tasks draw from the global generator
    expected = (random.random(), np.random.rand())  # noqa: NPY002
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    first = built(paths)
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002
    for one, other in zip(first, built(paths[::-1])[::-1], strict=True):
        assert prompts(one) == prompts(other)
        assert one.scoring == other.scoring
    shown = {args[0].split("Q: ")[1] for args in prompts(first[0])}
    assert len(shown) > 1  # examples are drawn anew for each prompt, so seeding matters


def test_another_seed_another_shot_count_are_other_prompts(tmp_path):
    path = write_choice_task(tmp_path)
    tasks = [built(path, **o) for o in ({}, {"seed": 7}, {"num_fewshot": 3}, {"num_fewshot": 0})]
    assert len({str(prompts(task)) for task in tasks}) == 4
    assert len({tuple(key.content for key in task.keys) for task in tasks}) == 1


def test_tasks_that_draw_from_the_global_generators_are_as_in_simple_evaluate(tmp_path, tokenizer):
    path = write_choice_task(tmp_path)
    (tmp_path / "drawing.py").write_text(
        "import random\n"
        "import numpy as np\n"
        "def shuffled(dataset):\n"
        "    order = list(range(len(dataset)))\n"
        "    random.shuffle(order)\n"
        "    return dataset.select(order)\n"
        "def text(doc):\n"
        "    return f\"{random.random()} {np.random.rand()} Q: {doc['question']}\"\n"
    )
    yaml = path.read_text().replace(
        'doc_to_text: "Q: {{question}}\\nA:"',
        "doc_to_text: !function drawing.text\nprocess_docs: !function drawing.shuffled",
    )
    path.write_text(yaml)
    random.seed(5)  # whatever the caller did before
    assert prompts(built(path)) == simple_evaluate_prompts(path, tokenizer)


@pytest.mark.parametrize("options", [{"limit": 0.25}, {"num_fewshot": 3}])
@pytest.mark.parametrize("own", [2, 0])  # a task that fixes itself to zero-shot stays so
def test_limits_and_shots_are_as_in_simple_evaluate(tmp_path, tokenizer, options, own):
    path = write_choice_task(tmp_path)
    path.write_text(path.read_text().replace("num_fewshot: 2", f"num_fewshot: {own}"))
    task = built(path, **options)
    assert task.num_fewshot == (options.get("num_fewshot", own) if own else 0)
    assert prompts(task) == simple_evaluate_prompts(path, tokenizer, **options)


def test_a_fixed_header_is_the_first_examples_for_every_prompt(tmp_path):
    path = write_text_task(tmp_path)
    fixed = built(path, fewshot="fixed", num_fewshot=3)
    header = "".join(
        f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in text_rows(3, 100)
    )
    assert [context for context, _ in prompts(fixed)] == [
        f"{header}Question: {row['question']}\nAnswer:" for row in text_rows(8)
    ]
    assert prompts(built(path, num_fewshot=3)) != prompts(fixed)


def test_what_a_task_says_about_itself(tmp_path):
    task = built(write_choice_task(tmp_path), limit=3)
    assert task.usable == {"acc,none": True, "acc_norm,none": True, "mcc,none": False}
    assert (task.metric, task.rolling) == ("acc,none", False)
    assert (task.version, task.num_fewshot) == ("2.5", 2)
    question = {"doc_id": "1", "question": "Q: which b1?\nA:", "target": "f"}
    assert task.questions()[1] == {**question, "choices": ["dd", "f", "hhh", "l"]}


def test_examples_that_are_held_out_are_asked_as_those_that_are_evaluated(tmp_path):
    """The file's two solved examples come first, and a chat's answer begins without a space."""
    path = write_choice_task(tmp_path)
    solved = "Q: which w100?\nA: oo\n\nQ: which x101?\nA: ll\n\n"
    bare = built(path, fewshot="fixed").held_out(2)
    assert bare == [(f"{solved}Q: which g110?\nA:", " q"), (f"{solved}Q: which h111?\nA:", " zzz")]
    chat = {"apply_chat_template": True, "system_instruction": "Be brief."}
    how = {"tokenizer": make_tokenizer("system"), "fewshot": "fixed", **chat}
    turns = "[system]Be brief.[user]Q: which w100?\nA:[assistant]oo"
    turns += "[user]Q: which x101?\nA:[assistant]ll"
    [(context, answer)] = built(path, **how).held_out(1)
    assert (context, answer) == (f"{turns}[user]Q: which h111?\nA:[assistant]", "zzz")
    [(context, answer)] = built(write_text_task(tmp_path), num_fewshot=0, **how).held_out(1)
    assert context == "[system]Be brief.[user]Question: say h 111\nAnswer:[assistant]"
    assert answer == "hh"


def test_no_example_that_is_held_out_stands_among_its_own_solved_ones(tmp_path):
    """Of a training split of 12 examples 11 are shown."""
    task = built(write_text_task(tmp_path), num_fewshot=11)
    for context, answer in task.held_out(6):
        assert context.count(answer) == 0


def test_the_metric_can_be_named_for_one_task_and_for_all(tmp_path):
    paths = [write_choice_task(tmp_path), write_text_task(tmp_path)]
    asked = {"tiny_choice": "acc_norm,none", "*": "exact_match,first-letter"}
    choice, text = built(paths, metric=asked)
    assert (choice.metric, text.metric) == ("acc_norm,none", "exact_match,first-letter")
    choice, text = built(paths, metric={"*": "acc_norm"})
    assert (choice.metric, text.metric) == ("acc_norm,none", "exact_match,strict-match")
    with pytest.raises(TaskError, match="No task reports the metric bleu"):
        built(paths[0], metric={"*": "bleu"})
    for options in ({"metric": {"tiny_chioce": "acc"}}, {"data": {"tiny_chioce": tmp_path}}):
        with pytest.raises(UsageError, match="tiny_chioce, which is not evaluated"):
            built(paths[0], **options)
    for option in ("metric", "cluster"):  # which a file's task would not get
        with pytest.raises(UsageError, match=r"tiny_choice\.yaml, which is not evaluated"):
            built(paths[0], **{option: {str(paths[0]): "answerKey"}})


@pytest.mark.parametrize(
    ("split", "limit", "beside"),
    [
        (None, 0, "validation"),
        ("train", 0, "validation"),
        ("validation", 0, "train"),
        ("validation", 498, "train"),  # two are too few
        ("validation", 497, "validation"),
    ],
)
def test_a_scale_is_fitted_to_examples_that_are_not_evaluated(split, limit, beside):
    task = built("aurac_word_problems", split=split, limit=limit)
    last = load_split("aurac_word_problems", beside)[-3:]
    held_out = task.held_out(3)
    for (context, target), row in zip(held_out, last, strict=True):
        assert row["question"] in context
        assert target.strip() == row["answer"].strip()
    assert not {c for c, _ in held_out} & {context for context, _ in prompts(task)}


def test_a_group_brings_its_tasks_along(tmp_path):
    for name, offset in (("leaf_b", 20), ("leaf_a", 0)):
        write_choice_task(tmp_path, name, offset)
    text = "group: both\ntask: [leaf_b, leaf_a]\nmetadata: {version: 3}\n"
    (tmp_path / "both.yaml").write_text(text)
    options = {"include_path": tmp_path, "cluster": {"leaf_a": "answerKey"}, "limit": 2}
    first, second, pooled = built(["both"], **options)
    assert [first.name, second.name, pooled.name] == ["leaf_b", "leaf_a", "both"]
    assert (first.group, pooled.group, pooled.version) == ("both", None, "3")
    assert pooled.members == (first, second)
    assert (pooled.metric, len(pooled), first.num_fewshot) == ("acc,none", 4, 2)
    assert (first.cluster, second.cluster) == (None, "answerKey")
    with pytest.raises(TaskError, match="more than once"):
        built(["both", "leaf_a"], include_path=tmp_path)


def test_clusters_are_named_by_the_user_or_the_task(tmp_path):
    path = write_choice_task(tmp_path)
    assert built(path).cluster is None
    with pytest.raises(TaskError, match="no field 'chapter' to cluster by, but answerKey"):
        built(path, cluster={"tiny_choice": "chapter"})
    path.write_text(path.read_text().replace("version: 2.5", "cluster: answerKey"))
    assert built(path, limit=5).cluster == "answerKey"


def test_names_and_files_that_make_no_sense(tmp_path):
    with pytest.raises(UsageError, match="no chat template"):
        built(write_choice_task(tmp_path), make_tokenizer(), apply_chat_template=True)
    path = write_text_task(tmp_path)
    text = path.read_text()
    for changed, words in (
        (text.replace("{{question}}", "{{nothing}}"), "'nothing' is undefined"),
        (text.replace("test_split: test", "test_split: tset"), r"tset.* may be misspelt"),
        (text.replace("task: tiny_text", ""), r"tiny_text.yaml \(ValueError: Unknown config shape"),
        (text.replace("function: regex", "function: regexx"), "Unknown filter 'regexx'"),
        (f"{text}unsafe_code: true\n", "runs code that the model writes"),
        (f"{text}doc_to_image: image\n", "shows images"),
    ):
        path.write_text(changed)
        with pytest.raises(TaskError, match=words):
            built(path)


def test_a_file_that_is_named_comes_before_others_of_its_task(tmp_path):
    named = write_text_task(tmp_path, "mine")
    other = tmp_path / "also.yaml"
    other.write_text(named.read_text().replace("Question: {{", "Other: {{"))
    assert "Other" not in str(prompts(built(named, include_path=tmp_path)))
    assert "Other" in str(prompts(built(other, include_path=tmp_path)))


@pytest.mark.parametrize(
    ("page", "number", "right", "wrong"),
    [
        ("howto/task.md", 0, [[" Positive."]], [[" negative, not positive"]]),
        ("howto/task.md", 0, [["positive"]], [[" none"]]),
        ("your-adapter.md", 0, [[" 1 + 1\n#### 1,012"]], [[" 1012"]]),
        ("howto/task.md", 1, [[(-1.0, True)], [(-3.0, False)]], [[(-3.0, False)], [(-1.0, True)]]),
    ],
)
def test_the_tasks_of_the_pages_score_a_right_answer(page, number, right, wrong, tmp_path):
    """The model writes a space after "Answer:", and the reference begins without one."""
    text = [b.text for b in blocks(REPOSITORY / "docs" / page) if b.language == "yaml"][number]
    row = {"question": "What is 5 + 7?", "answer": "1012", "choices": ["12", "13"], "gold": 0}
    data = write_jsonl(tmp_path / "test.jsonl", [row | {"text": "I love it.", "label": "positive"}])
    (tmp_path / "mine.yaml").write_text(text.replace("test: test.jsonl", f"test: {data}"))
    task = built(tmp_path / "mine.yaml")
    for answers, score in ((right, 1.0), (wrong, 0.0)):
        assert task.judge([0], answers).metrics[task.metric] == [score]


def test_lm_evals_templates_are_its_own_after_builds_in_two_threads(tmp_path):
    """Also where the first of two that overlap ends first."""
    from lm_eval.utils import env

    built(write_text_task(tmp_path))
    inside, goes_on = Event(), Event()

    def second():
        with compiled_once():
            inside.set()
            goes_on.wait(60)

    with ThreadPoolExecutor(1) as threads:
        with compiled_once():
            threads.submit(second)
            inside.wait(0.5)
        goes_on.set()
    assert env.from_string("{{ a + b }}", globals={"a": 1}).render(b=2) == "3"
    assert env.from_string("{{ x }}") is not env.from_string("{{ x }}")


def test_lm_eval_and_datasets_say_nothing_on_the_terminal(tmp_path, capfd):
    path = write_choice_task(tmp_path)
    (tmp_path / "loud.py").write_text(
        "import warnings\ndef text(doc):\n    print('a print')\n    warnings.warn('a warning')\n"
        "    return doc['question']\n"
    )
    quoted = 'doc_to_text: "Q: {{question}}\\nA:"'
    path.write_text(path.read_text().replace(quoted, "doc_to_text: !function loud.text"))
    evaluate(built(path, num_fewshot=1), RuleModel())
    assert capfd.readouterr().err == ""


# lm-eval's own task definitions on local data: prompts written out by hand, no hub.


@pytest.fixture
def _no_hub(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("datasets was asked to load something")

    monkeypatch.setattr("datasets.load_dataset", refuse)


@pytest.mark.usefixtures("_no_hub")
def test_gsm8k_on_local_data(tmp_path):
    shots = [{"question": f"Q{i}?", "answer": f"so\n#### {i}"} for i in range(5)]
    write_jsonl(tmp_path / "train.jsonl", shots)
    write_jsonl(tmp_path / "test.jsonl", [{"question": "Now?", "answer": "#### 1,234"}])
    task = built("gsm8k", data={"gsm8k": tmp_path})
    parts = prompts(task)[0][0].split("\n\n")
    assert sorted(parts[:5]) == [f"Question: Q{i}?\nAnswer: so\n#### {i}" for i in range(5)]
    assert parts[5:] == ["Question: Now?\nAnswer:"]
    assert (task.num_fewshot, task.metric) == (5, "exact_match,strict-match")
    # The stock filters: strict wants "#### N" and drops the comma; flexible takes the last number.
    for text, strict, flexible in (("It is 7.\n#### 1234", 1, 1), ("It is 1,234", 0, 1)):
        judged = task.judge([0], [[text]]).metrics
        assert judged["exact_match,strict-match"] == [strict]
        assert judged["exact_match,flexible-extract"] == [flexible]


@pytest.mark.parametrize("fewshot", ["stock", "fixed"])
@pytest.mark.parametrize("first", ["validation_split: test", "training_split: test"])
def test_no_prompt_of_another_split_has_its_own_example(tmp_path, first, fewshot):
    path = write_text_task(tmp_path)
    lines = [line for line in path.read_text().splitlines() if "_split" not in line]
    path.write_text("\n".join([*lines, first, "test_split: train"]))
    task = built(path, split="test", num_fewshot=4, fewshot=fewshot)
    questions = [f"Question: {row['question']}\n" for row in text_rows(8)]
    for question, (prompt, _) in zip(questions, prompts(task), strict=True):
        assert prompt.count("Question: ") == 5
        assert prompt.count(question) == 1


@pytest.mark.usefixtures("_no_hub")
def test_another_split_is_evaluated_and_is_part_of_the_prompts_identity(tmp_path):
    for split, count in {"train": 3, "val": 4, "test": 5}.items():
        rows = [{"question": f"{split} {i}", "answer": f"#### {i}"} for i in range(count)]
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    data = {"gsm8k": tmp_path}
    task = built("gsm8k", data=data, num_fewshot=2, split="validation")
    assert [example.content["question"] for example in task.examples] == [
        f"val {i}" for i in range(4)
    ]
    assert prompts(task)[0][0].count("train") == 2
    assert task.prompting["split"] == "validation"
    bundled = built("aurac_word_problems", limit=2, split="validation")
    own = load_split("aurac_word_problems", "validation")
    assert [example.content for example in bundled.examples] == own[:2]


@pytest.mark.usefixtures("_no_hub")
def test_winogrande_and_hellaswag_keep_their_own_preprocessing(tmp_path):
    row = {"sentence": "Ann met Bo as _ was late.", "option1": "Ann", "option2": "Bo"}
    write_jsonl(tmp_path / "wino" / "validation.jsonl", [{**row, "answer": "2"}])
    task = built("winogrande", data={"winogrande": tmp_path / "wino"})
    assert prompts(task) == [
        ("Ann met Bo as Ann", " was late."),
        ("Ann met Bo as Bo", " was late."),
    ]
    assert task.judge([0], [[(-2.0, False)], [(-1.0, False)]]).metrics["acc,none"] == [1.0]
    row = {"activity_label": "Roof", "ctx_a": "A man sits.", "ctx_b": "he", "label": "1"}
    write_jsonl(tmp_path / "swag" / "val.jsonl", [{**row, "endings": ["is [step] up.", "falls."]}])
    task = built("hellaswag", data={"hellaswag": tmp_path / "swag"})
    assert prompts(task) == [
        ("Roof: A man sits. He", " is up."),
        ("Roof: A man sits. He", " falls."),
    ]


@pytest.mark.usefixtures("_no_hub")
def test_mmlu_is_a_group_of_folders(tmp_path):
    known = stock_tasks().items()
    names = [n for n, row in known if row.kind == "TASK" and row.file == f"mmlu/default/{n}.yaml"]
    assert len(names) == 57
    for index, leaf in enumerate(names):
        subject = leaf.removeprefix("mmlu_")
        folder = tmp_path / (subject if index % 2 else leaf)  # both names are understood
        rows = [
            {"question": f"{subject} {i}?", "choices": list("wxyz"), "answer": i % 4}
            for i in range(4)
        ]
        write_jsonl(folder / "dev.jsonl", rows[:2])
        write_jsonl(folder / "test.jsonl", rows[2:])
    tasks = built(["mmlu"], data={"mmlu": tmp_path}, num_fewshot=2, limit=1)
    group = tasks[-1]
    assert (group.name, len(group), len(tasks)) == ("mmlu", 57, 58)
    assert {member.name for member in group.members} == set(names)
    anatomy = next(task for task in tasks if task.name == "mmlu_anatomy")
    assert prompts(anatomy)[0][0] == (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        "anatomy 0?\nA. w\nB. x\nC. y\nD. z\nAnswer: A\n\n"
        "anatomy 1?\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        "anatomy 2?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )
    for name in ("anatomy", "mmlu_anatomy"):
        if (tmp_path / name).exists():
            (tmp_path / name).rename(tmp_path / "gone")
    with pytest.raises(DataError, match="no sub-folder for mmlu_anatomy"):
        built(["mmlu"], data={"mmlu": tmp_path})


@pytest.mark.usefixtures("_no_hub")
def test_a_column_that_a_prompt_would_show_as_none_is_refused(tmp_path):
    row = {"question": "Q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "A"}
    lacks = [row, row, {**row, "question": None}, {**row, "question": None}]
    for task, rows, words in (
        ("openbookqa", [row], "1 of 1 examples of task openbookqa lack 'question_stem'"),
        ("arc_easy", lacks, "2 of 4 examples of task arc_easy lack 'question', .* in row 3"),
    ):
        write_jsonl(tmp_path / "test.jsonl", rows)
        with pytest.raises(DataError, match=words):
            built(task, data={task: tmp_path}, num_fewshot=0)
