"""Prompts are built once, like lm-eval's, and do not depend on anything but what was asked."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
from document_blocks import REPOSITORY, blocks
from harness_doubles import (
    choice_rows,
    make_model,
    simple_evaluate,
    text_rows,
    write_choice_task,
    write_jsonl,
    write_text_task,
)
from support.tasks import build_tasks

from aurac.errors import DataError, TaskError, UsageError
from aurac.tasks import lm_eval as harness
from aurac.tasks import upstream as stock

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("offline")]


def prompts(task):
    return [instance.args for leaf in task.leaves for instance in leaf.instances]


def simple_evaluate_prompts(path, tokenizer, **options):
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=make_model(1), tokenizer=tokenizer, batch_size=4)
    results = simple_evaluate(path, lm, **options)
    return [tuple(a) for row in results["samples"][path.stem] for a in row["arguments"]]


def test_two_builds_give_the_same_prompts_and_leave_no_trace(tmp_path, tokenizer):
    paths = [str(write_choice_task(tmp_path)), str(write_text_task(tmp_path))]
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002 - tasks draw from the global generator
    expected = (random.random(), np.random.rand())  # noqa: NPY002
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    first = build_tasks(paths, tokenizer=tokenizer)
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002
    second = build_tasks(paths[::-1], tokenizer=tokenizer)[::-1]
    for one, other in zip(first, second, strict=True):
        assert prompts(one) == prompts(other)
        assert one.identity() == other.identity()
    shown = {args[0].split("Q: ")[1] for args in prompts(first[0])}
    assert len(shown) > 1  # examples are drawn anew for each document, so seeding matters


def test_another_seed_another_shot_count_are_other_prompts(tmp_path, tokenizer):
    path = str(write_choice_task(tmp_path))
    hashes = {
        build_tasks([path], tokenizer=tokenizer, **options)[0].prompts_sha256
        for options in ({}, {"seed": 7}, {"num_fewshot": 3}, {"num_fewshot": 0}, {"limit": 3})
    }
    assert len(hashes) == 5
    base = build_tasks([path], tokenizer=tokenizer)[0]
    assert (
        base.documents_sha256
        == build_tasks([path], tokenizer=tokenizer, seed=7)[0].documents_sha256
    )


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
    (task,) = build_tasks([str(path)], tokenizer=tokenizer)
    assert prompts(task) == simple_evaluate_prompts(path, tokenizer)


def test_a_share_as_limit_rounds_up_as_in_simple_evaluate(tmp_path, tokenizer):
    path = write_choice_task(tmp_path)
    (task,) = build_tasks([str(path)], tokenizer=tokenizer, limit=0.25)
    assert task.n_docs == 3  # ceil(10 * 0.25)
    assert prompts(task) == simple_evaluate_prompts(path, tokenizer, limit=0.25)


def test_a_task_that_fixes_zero_shot_keeps_it_as_in_simple_evaluate(tmp_path, tokenizer):
    path = write_choice_task(tmp_path)
    path.write_text(path.read_text().replace("num_fewshot: 2", "num_fewshot: 0"))
    (task,) = build_tasks([str(path)], tokenizer=tokenizer, num_fewshot=3)
    assert task.num_fewshot == 0
    assert prompts(task) == simple_evaluate_prompts(path, tokenizer, num_fewshot=3)


def test_a_fixed_header_is_the_first_examples_for_every_document(tmp_path, tokenizer):
    path = str(write_text_task(tmp_path))
    (fixed,) = build_tasks([path], tokenizer=tokenizer, fewshot="fixed", num_fewshot=3)
    header = "".join(
        f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in text_rows(3, 100)
    )
    assert [context for context, _ in prompts(fixed)] == [
        f"{header}Question: {row['question']}\nAnswer:" for row in text_rows(8)
    ]
    (stock,) = build_tasks([path], tokenizer=tokenizer, num_fewshot=3)
    assert (stock.options.fewshot, fixed.options.fewshot) == ("stock", "fixed")
    assert stock.prompts_sha256 != fixed.prompts_sha256
    assert stock.documents_sha256 == fixed.documents_sha256


def test_what_a_task_says_about_itself(tmp_path, tokenizer):
    (task,) = build_tasks([str(write_choice_task(tmp_path))], tokenizer=tokenizer, limit=3)
    assert task.doc_ids == ("0", "1", "2")
    assert task.n_docs == 3
    assert task.n_requests == 12
    assert tuple(task.integrable) == ("acc,none", "acc_norm,none", "mcc,none")
    assert task.metric == "acc,none"
    assert (task.output_type, task.version, task.num_fewshot) == ("multiple_choice", "2.5", 2)
    assert (task.strata, task.group, task.members) == (None, None, ())


def test_the_metric_can_be_named_for_one_task_and_for_all(tmp_path, tokenizer, caplog):
    paths = [str(write_choice_task(tmp_path)), str(write_text_task(tmp_path))]
    choice, text = build_tasks(
        paths,
        tokenizer=tokenizer,
        metric={"tiny_choice": "acc_norm,none", "*": "exact_match,first-letter"},
    )
    assert choice.metric == "acc_norm,none"
    assert text.metric == "exact_match,first-letter"
    (text,) = build_tasks(paths[1:], tokenizer=tokenizer, metric={"": "exact_match,first-letter"})
    assert text.metric == "exact_match,first-letter"
    choice, text = build_tasks(paths, tokenizer=tokenizer, metric={"*": "acc_norm"})
    assert (choice.metric, text.metric) == ("acc_norm,none", "exact_match,strict-match")
    assert "tiny_text has no metric acc_norm: its default" in caplog.text
    with pytest.raises(TaskError, match=r"'mcc,none'.*expected one of 'acc,none', 'acc_norm,none'"):
        build_tasks(paths[:1], tokenizer=tokenizer, metric={"*": "mcc,none"})
    with pytest.raises(UsageError, match="'tiny_chioce'"):
        build_tasks(paths[:1], tokenizer=tokenizer, metric={"tiny_chioce": "acc,none"})
    with pytest.raises(UsageError, match="'gsm8k'"):
        build_tasks(paths[:1], tokenizer=tokenizer, data={"gsm8k": tmp_path})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_fewshot": -1}, "num_fewshot -1"),
        ({"limit": 0}, "limit 0"),
        ({"fewshot": "first"}, "stock or fixed"),
        ({"chat_template": True}, "no chat template"),
    ],
)
def test_options_that_make_no_sense(tmp_path, tokenizer, options, message):
    with pytest.raises(UsageError, match=message):
        build_tasks([str(write_choice_task(tmp_path))], tokenizer=tokenizer, **options)


def test_names_that_make_no_sense(tmp_path, tokenizer):
    with pytest.raises(TaskError, match="no task"):
        build_tasks([], tokenizer=tokenizer)
    with pytest.raises(TaskError, match=r"nowhere\.yaml does not exist"):
        build_tasks([str(tmp_path / "nowhere.yaml")], tokenizer=tokenizer)
    (tmp_path / "empty.yaml").write_text("dataset_path: json\n")
    with pytest.raises(TaskError, match="defines no task"):
        build_tasks([str(tmp_path / "empty.yaml")], tokenizer=tokenizer)
    path = str(write_choice_task(tmp_path))
    assert len(build_tasks([path, path], tokenizer=tokenizer)) == 1
    with pytest.raises(TaskError, match="more than once"):
        build_tasks([path, f"{tmp_path}/../{tmp_path.name}/tiny_choice.yaml"], tokenizer=tokenizer)


def test_a_file_that_is_no_task_says_why(tmp_path, tokenizer):
    one, other = write_text_task(tmp_path, "mine"), tmp_path / "other.yaml"
    other.write_text("task: [unclosed\n")
    with pytest.raises(TaskError, match="cannot be read as a task"):
        build_tasks([str(other)], tokenizer=tokenizer)
    (other := tmp_path / "third.yml").write_text(one.read_text().replace("mine", "third"))
    with pytest.raises(TaskError, match=r"does not read .*third.yml; name it third.yaml"):
        build_tasks([str(other)], tokenizer=tokenizer)
    data = write_jsonl(tmp_path / "test.jsonl", text_rows(3))
    with pytest.raises(TaskError, match=r"test.jsonl is data, and a task is a YAML file"):
        build_tasks([str(data)], tokenizer=tokenizer)


@pytest.mark.parametrize("place", ["a", "sub"])  # of them one is read before the file itself
def test_a_file_that_is_named_comes_before_others_of_its_task(tmp_path, tokenizer, place):
    """In a folder below, or beside it: lm-eval takes the first by its name."""
    named = write_text_task(tmp_path, "mine")
    text = named.read_text()
    for other in (tmp_path / place / "mine.yaml", tmp_path / "also.yaml"):
        other.parent.mkdir(exist_ok=True)
        other.write_text(text.replace("Question: {{", "Other: {{"))
    (task,) = build_tasks([str(named)], tokenizer=tokenizer)
    assert "Other" not in str(prompts(task))
    (task,) = build_tasks([str(tmp_path / "also.yaml")], tokenizer=tokenizer)
    assert "Other" in str(prompts(task))
    with pytest.raises(TaskError, match="more than once"):
        build_tasks([str(named), str(tmp_path / "also.yaml")], tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("page", "number", "right", "wrong"),
    [
        ("your-adapter.md", 0, [[" 12"]], [[" 13"]]),
        ("your-adapter.md", 0, [[" 5 + 7 = 12"]], [[" 12 + 1 = 13"]]),
        ("howto/task.md", 0, [[" Positive."]], [[" negative, not positive"]]),
        ("howto/task.md", 0, [["positive"]], [[" none"]]),
        ("howto/task.md", 1, [[(-1.0, True)], [(-3.0, False)]], [[(-3.0, False)], [(-1.0, True)]]),
    ],
)
def test_the_tasks_of_the_pages_score_a_right_answer(
    page, number, right, wrong, tmp_path, tokenizer
):
    """The model writes a space after "Answer:", and the reference begins without one."""
    text = [b.text for b in blocks(REPOSITORY / "docs" / page) if b.language == "yaml"][number]
    row = {"question": "What is 5 + 7?", "answer": "12", "choices": ["12", "13"], "gold": 0}
    row |= {"text": "I love it.", "label": "positive"}
    data = write_jsonl(tmp_path / "test.jsonl", [row])
    (tmp_path / "mine.yaml").write_text(text.replace("test: test.jsonl", f"test: {data}"))
    (task,) = build_tasks([str(tmp_path / "mine.yaml")], tokenizer=tokenizer)
    leaf = task.leaf
    for answers, score in ((right, 1.0), (wrong, 0.0)):
        assert leaf.judge(leaf.documents, answers).metrics[task.metric].tolist() == [score]


def test_tasks_that_run_code_or_show_images_are_refused(tmp_path, tokenizer):
    for line in ("unsafe_code: true", "doc_to_image: image"):
        path = write_choice_task(tmp_path)
        path.write_text(f"{path.read_text()}{line}\n")
        with pytest.raises(TaskError, match="tiny_choice"):
            build_tasks([str(path)], tokenizer=tokenizer)


def test_bundled_tasks_do_not_pay_for_lm_evals_index(tmp_path, tokenizer, monkeypatch):
    folder = tmp_path / "yaml"
    path = write_text_task(folder, "tiny_bundled")
    path.write_text(path.read_text().replace(str(folder), "/nowhere"))
    files = {
        "train": write_jsonl(tmp_path / "store" / "tr.jsonl", text_rows(12, 100)),
        "test": write_jsonl(tmp_path / "store" / "te.jsonl", text_rows(8)),
    }

    stock.bundled_manager.cache_clear()
    for module in (stock, harness):
        monkeypatch.setattr(module, "BUNDLED", ("tiny_bundled",))
    monkeypatch.setattr(stock, "include_path", lambda: folder)
    monkeypatch.setattr(harness, "documents", lambda _task: files)
    monkeypatch.setattr(stock, "full_manager", lambda: pytest.fail("the full index was read"))
    try:
        (task,) = build_tasks(["tiny_bundled"], tokenizer=tokenizer)
        assert task.n_docs == 8
        assert "say a 0" in prompts(task)[0][0]
        other = {"tiny_bundled": tmp_path / "mine"}
        write_jsonl(tmp_path / "mine" / "train.jsonl", text_rows(5, 50))
        write_jsonl(tmp_path / "mine" / "test.jsonl", text_rows(2, 10))
        (task,) = build_tasks(["tiny_bundled"], tokenizer=tokenizer, data=other)
        assert task.n_docs == 2  # documents that are given win over the bundled ones
    finally:
        stock.bundled_manager.cache_clear()


def test_an_unreachable_hub_is_said_with_the_way_out(tmp_path, tokenizer, monkeypatch):
    path = write_choice_task(tmp_path)

    def refuse(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'x/y' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(DataError, match=r"hub cannot be reached.*data='tiny_choice=FOLDER'"):
        build_tasks([str(path)], tokenizer=tokenizer)


def test_a_task_that_fails_for_another_reason_says_which(tmp_path, tokenizer):
    path = write_choice_task(tmp_path)
    path.write_text(path.read_text().replace("{{question}}", "{{nothing}}"))
    said = r"doc_to_text of task 'tiny_choice': 'nothing' is undefined; expected fields of .*'quest"
    with pytest.raises(TaskError, match=said):
        build_tasks([str(path)], tokenizer=tokenizer)
    path.write_text(path.read_text().replace("{{nothing}}", "{{question}}"))
    path.write_text(path.read_text().replace("acc\n    aggregation: mean", "accc"))
    with pytest.raises(TaskError, match="there is no metric 'accc'; did you mean acc"):
        build_tasks([str(path)], tokenizer=tokenizer)
    write_jsonl(tmp_path / "tiny_choice_data" / "train.jsonl", choice_rows(1))
    path = write_choice_task(tmp_path / "few")
    write_jsonl(tmp_path / "few" / "tiny_choice_data" / "train.jsonl", choice_rows(1))
    with pytest.raises(UsageError, match="'tiny_choice' has too few documents for this number"):
        build_tasks([str(path)], tokenizer=tokenizer)


def test_a_split_or_filter_that_is_not_there_is_named(tmp_path, tokenizer):
    path = write_text_task(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("test_split: test", "test_split: tset"))
    said = (
        "test_split of task 'tiny_text': 'tset'; expected a split of its documents: 'train', 'test'"
    )
    with pytest.raises(TaskError, match=f"^{said}$"):
        build_tasks([str(path)], tokenizer=tokenizer)
    path.write_text(text.replace("fewshot_split: train", "fewshot_split: trian"))
    with pytest.raises(TaskError, match=r"^fewshot_split of task 'tiny_text': 'trian'; expected a"):
        build_tasks([str(path)], tokenizer=tokenizer)
    path.write_text(text.replace("function: regex", "function: regexx"))
    with pytest.raises(TaskError, match=r"'tiny_text' \(Unknown filter 'regexx'\. Did you mean: "):
        build_tasks([str(path)], tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{}", "has `dataset_path: json` and names no files; expected `dataset_kwargs: "),
        ("{data_files: {test: no.jsonl}}", "Unable to find .*no.jsonl.*; check .* 'no.jsonl'"),
        ("{data_files: {test: bad.jsonl}}", "JSON parse error: .*; check .* data_files: .*bad.jso"),
    ],
)
def test_documents_that_cannot_be_read_are_named(
    source, words, tmp_path, tokenizer, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"q": ["a"')
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
        f"doc_to_text: q\ndoc_to_target: a\ndoc_to_choice: c\ndataset_kwargs: {source}\n"
    )
    with pytest.raises(TaskError, match=words):
        build_tasks(["./mine.yaml"], tokenizer=tokenizer)


def test_lm_eval_and_datasets_say_nothing_on_the_terminal(tmp_path, tokenizer, capfd, caplog):
    path = write_choice_task(tmp_path)
    (tmp_path / "loud.py").write_text(
        "import warnings\n"
        "def text(doc):\n"
        "    print('a print')\n"
        "    warnings.warn('a warning')\n"
        "    return doc['question']\n"
    )
    path.write_text(
        path.read_text().replace(
            'doc_to_text: "Q: {{question}}\\nA:"', "doc_to_text: !function loud.text"
        )
    )
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("always")
        build_tasks([str(path)], tokenizer=tokenizer, num_fewshot=1)
    assert capfd.readouterr() == ("", "")
    assert {"a print", "a warning"} <= {record.getMessage() for record in caplog.records}
    assert any(record.name.startswith("lm_eval") for record in caplog.records)


def test_importing_the_room_loads_neither_torch_nor_lm_eval():
    code = (
        "import sys, aurac.engine, aurac.tasks.lm_eval, aurac.tasks.metrics;"
        "print(sorted({'torch', 'lm_eval', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
