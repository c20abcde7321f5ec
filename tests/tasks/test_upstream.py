"""lm-eval's own task definitions on local documents: prompts written out by hand, no hub."""

from __future__ import annotations

import json

import pytest
from harness_doubles import choice_rows, make_model, write_jsonl
from support.tasks import build_tasks, evaluate

from aurac.errors import DataError, TaskError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("datasets was asked to load something")

    monkeypatch.setattr("datasets.load_dataset", refuse)


def contexts(task):
    return [document.instances[0].args[0] for leaf in task.leaves for document in leaf.documents]


def continuations(task):
    return [i.args[1] for leaf in task.leaves for d in leaf.documents for i in d.instances]


def test_gsm8k(tmp_path, tokenizer):
    shots = [{"question": f"Q{i}?", "answer": f"so\n#### {i}"} for i in range(5)]
    write_jsonl(tmp_path / "train.jsonl", shots)
    write_jsonl(tmp_path / "test.jsonl", [{"question": "Now?", "answer": "#### 1,234"}])
    (task,) = build_tasks(["gsm8k"], tokenizer=tokenizer, data={"gsm8k": tmp_path})
    (context,) = contexts(task)
    parts = context.split("\n\n")
    assert sorted(parts[:5]) == [f"Question: Q{i}?\nAnswer: so\n#### {i}" for i in range(5)]
    assert parts[5:] == ["Question: Now?\nAnswer:"]
    assert task.num_fewshot == 5
    assert task.metric == "exact_match,strict-match"
    (leaf,) = task.leaves
    # The stock filters: strict wants "#### N" and drops the comma; flexible takes the last number.
    judged = leaf.judge(leaf.documents, [["It is 7.\n#### 1234"]]).metrics
    assert judged["exact_match,strict-match"].tolist() == [1.0]
    judged = leaf.judge(leaf.documents, [["It is 1,234"]]).metrics
    assert judged["exact_match,strict-match"].tolist() == [0.0]
    assert judged["exact_match,flexible-extract"].tolist() == [1.0]


def test_arc_and_openbookqa(tmp_path, tokenizer):
    write_jsonl(tmp_path / "arc" / "test.jsonl", choice_rows(2))
    book = [{**row, "question_stem": row["question"]} for row in choice_rows(2)]
    write_jsonl(tmp_path / "book" / "test.jsonl", book)
    names = ["arc_easy", "arc_challenge", "openbookqa"]
    data = {
        "arc_easy": tmp_path / "arc",
        "arc_challenge": tmp_path / "arc",
        "openbookqa": tmp_path / "book",
    }
    easy, challenge, openbook = build_tasks(names, tokenizer=tokenizer, data=data)
    assert contexts(easy) == ["Question: which a0?\nAnswer:", "Question: which b1?\nAnswer:"]
    assert easy.prompts_sha256 == challenge.prompts_sha256
    assert contexts(openbook) == ["which a0?", "which b1?"]
    assert continuations(easy)[:2] == [" a", " aaa"]
    assert {task.metric for task in (easy, challenge, openbook)} == {"acc,none"}
    outcome = evaluate(easy, make_model(1), tokenizer)
    assert [len(kept) for kept in outcome.responses] == [4, 4]


def test_hellaswag_keeps_its_own_preprocessing(tmp_path, tokenizer):
    row = {
        "activity_label": "Roof",
        "ctx_a": "A man sits.",
        "ctx_b": "he",
        "endings": ["is [step] up.", "falls.", "sings.", "eats."],
        "label": "3",
    }
    write_jsonl(tmp_path / "val.jsonl", [row])
    (task,) = build_tasks(["hellaswag"], tokenizer=tokenizer, data={"hellaswag": tmp_path})
    assert contexts(task) == ["Roof: A man sits. He"]
    assert continuations(task) == [" is up.", " falls.", " sings.", " eats."]


def test_winogrande_puts_the_choices_into_the_context(tmp_path, tokenizer):
    row = {"sentence": "Ann met Bo as _ was late.", "option1": "Ann", "option2": "Bo"}
    write_jsonl(tmp_path / "validation.jsonl", [{**row, "answer": "2"}])
    (task,) = build_tasks(["winogrande"], tokenizer=tokenizer, data={"winogrande": tmp_path})
    asked = [i.args for i in task.leaves[0].instances]
    assert asked == [("Ann met Bo as Ann", " was late."), ("Ann met Bo as Bo", " was late.")]
    outcome = evaluate(task, make_model(1), tokenizer)
    lls = outcome.responses[0]
    assert outcome.metrics["acc,none"].tolist() == [float(lls[1] > lls[0])]


def test_mmlu_is_a_group_of_folders(tmp_path, tokenizer):
    import lm_eval.tasks

    from aurac.tasks.upstream import full_manager

    assert isinstance(full_manager(), lm_eval.tasks.TaskManager)
    leaves = [name for name in full_manager().task_index if is_mmlu_leaf(name)]
    assert len(leaves) == 57
    for index, leaf in enumerate(leaves):
        subject = leaf.removeprefix("mmlu_")
        folder = tmp_path / (subject if index % 2 else leaf)  # both names are understood
        rows = [
            {"question": f"{subject} {i}?", "choices": list("wxyz"), "answer": i % 4}
            for i in range(4)
        ]
        write_jsonl(folder / "dev.jsonl", rows[:2])
        write_jsonl(folder / "test.jsonl", rows[2:])
    built = build_tasks(
        ["mmlu"], tokenizer=tokenizer, data={"mmlu": tmp_path}, num_fewshot=2, limit=1
    )
    assert len(built) == 58
    group = built[-1]
    assert (group.name, group.n_docs, group.n_requests) == ("mmlu", 57, 57 * 4)
    assert set(group.strata) == set(leaves)
    assert group.doc_ids[0] == f"{group.members[0].name}:0"
    anatomy = next(task for task in built if task.name == "mmlu_anatomy")
    assert anatomy.group == "mmlu"
    (context,) = contexts(anatomy)
    assert context == (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        "anatomy 0?\nA. w\nB. x\nC. y\nD. z\nAnswer: A\n\n"
        "anatomy 1?\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        "anatomy 2?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )
    (tmp_path / "anatomy").rename(tmp_path / "gone") if (tmp_path / "anatomy").exists() else (
        tmp_path / "mmlu_anatomy"
    ).rename(tmp_path / "gone")
    with pytest.raises(DataError, match="no sub-folder for 'mmlu_anatomy'"):
        build_tasks(["mmlu"], tokenizer=tokenizer, data={"mmlu": tmp_path})


def is_mmlu_leaf(name):
    from lm_eval.tasks._yaml_loader import load_yaml

    from aurac.tasks.upstream import full_manager

    entry = full_manager().task_index[name]
    path = entry.yaml_path
    return (
        path is not None
        and path.parts[-3:-1] == ("mmlu", "default")
        and "dataset_name" in load_yaml(path, resolve_func=False)
    )


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("gsm8k", [{"question": "?"}], "'answer' is undefined"),
        ("openbookqa", choice_rows(1), "has no 'question_stem'"),
        ("arc_easy", [{**choice_rows(1)[0], "question": None}], "'arc_easy' has no 'question'"),
        ("arc_easy", [{**choice_rows(1)[0], "answerKey": "E"}], "'arc_easy' does not fit"),
    ],
)
def test_columns_that_the_prompt_needs(tmp_path, tokenizer, task, rows, message):
    write_jsonl(tmp_path / "test.jsonl", rows)
    with pytest.raises(DataError, match=message):
        build_tasks([task], tokenizer=tokenizer, data={task: tmp_path}, num_fewshot=0)


def test_columns_that_the_preprocessing_needs(tmp_path, tokenizer):
    write_jsonl(tmp_path / "validation.jsonl", [{"query": "?", "choices": ["a"], "label": "0"}])
    with pytest.raises(DataError, match=r"'hellaswag' does not fit its definition.*'ctx_a'"):
        build_tasks(["hellaswag"], tokenizer=tokenizer, data={"hellaswag": tmp_path})


def test_too_few_examples_to_show(tmp_path, tokenizer):
    for split in ("train", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", choice_rows(2))
    with pytest.raises(UsageError, match="task 'arc_easy' has too few documents for this number"):
        build_tasks(["arc_easy"], tokenizer=tokenizer, data={"arc_easy": tmp_path}, num_fewshot=5)


def test_a_broken_line_is_named(tmp_path, tokenizer):
    (tmp_path / "test.jsonl").write_text(json.dumps(choice_rows(1)[0]) + '\n{"id": \n')
    with pytest.raises(DataError, match=r"test\.jsonl, line 2 is not JSON"):
        build_tasks(["arc_easy"], tokenizer=tokenizer, data={"arc_easy": tmp_path})


def test_an_unknown_task_names_the_nearest(tokenizer):
    with pytest.raises(TaskError, match=r"'gsm8kk'.*gsm8k") as caught:
        build_tasks(["gsm8kk"], tokenizer=tokenizer)
    assert caught.value.exit_code == 2
    with pytest.raises(TaskError, match="not known to lm-eval"):
        build_tasks(["qqqqzzzz"], tokenizer=tokenizer)
