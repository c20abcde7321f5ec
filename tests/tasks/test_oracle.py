"""One cell equals lm-eval's own evaluation, document by document; no cell leaks into the next."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from harness_doubles import (
    NEXT_WORD_YAML,
    make_model,
    make_tokenizer,
    simple_evaluate,
    text_rows,
    write_choice_task,
    write_task,
    write_text_task,
)
from support.tasks import build_tasks, evaluate

from aurac.engine.lm import EngineLM
from aurac.errors import CellError, TaskError, UsageError

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("offline")]


def reference(path, model, tokenizer, **options):
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    return simple_evaluate(path, lm, **options)


def by_filter(results, task):
    found: dict[str, list] = {}
    for sample in results["samples"][task]:
        found.setdefault(sample["filter"], []).append(sample)
    return found


def assert_equal(built, outcome, results):
    samples = by_filter(results, built.name)
    for name, rows in samples.items():
        assert [str(row["doc_id"]) for row in rows] == list(built.doc_ids)
        assert [row["doc_hash"] for row in rows] == list(built.doc_hashes)
        for key in ("acc", "acc_norm", "exact_match"):
            if key in rows[0]:
                scores = outcome.metrics[f"{key},{name}"]
                assert scores.tolist() == [float(row[key]) for row in rows]
                mean = results["results"][built.name][f"{key},{name}"]
                assert scores.mean() == pytest.approx(mean, abs=1e-12)
    first = next(iter(samples.values()))
    prompts = [row["arguments"] for row in first]
    ours = [[i.args for i in d.instances] for leaf in built.leaves for d in leaf.documents]
    assert ours == prompts
    for kept, row in zip(outcome.responses, first, strict=True):
        if built.output_type == "multiple_choice":
            theirs = [response[0][0] for response in row["resps"]]
            np.testing.assert_allclose(kept, theirs, atol=2e-4)
        else:
            assert kept == row["resps"][0][0]


@pytest.mark.parametrize("shots", [0, 2, 3])
def test_multiple_choice_equals_simple_evaluate(tmp_path, tokenizer, models, shots):
    path = write_choice_task(tmp_path)
    (built,) = build_tasks([str(path)], tokenizer=tokenizer, num_fewshot=shots)
    outcome = evaluate(built, models[0], tokenizer)
    results = reference(path, models[0], tokenizer, num_fewshot=shots)
    assert_equal(built, outcome, results)
    assert 0 < outcome.metrics["acc,none"].mean() < 1  # a comparison that could have failed
    assert set(outcome.metrics) == {"acc,none", "acc_norm,none"}  # mcc has no value per document
    assert built.num_fewshot == shots == results["n-shot"]["tiny_choice"]


def test_generation_equals_simple_evaluate(tmp_path, tokenizer, models):
    # A random model is never right, so half of the answers become what it says: prompts show only
    # answers of the train split, and stay as they were.
    draft = write_text_task(tmp_path / "draft")
    (built,) = build_tasks([str(draft)], tokenizer=tokenizer)
    said = evaluate(built, models[0], tokenizer).responses
    rows = [
        {**row, "answer": re.split("\n", text)[0] if i % 2 else "no"}
        for i, (row, text) in enumerate(zip(text_rows(8), said, strict=True))
    ]
    path = write_text_task(tmp_path / "final", test=rows)
    (built,) = build_tasks([str(path)], tokenizer=tokenizer)
    outcome = evaluate(built, models[0], tokenizer)
    assert_equal(built, outcome, reference(path, models[0], tokenizer))
    assert 0 < outcome.metrics["exact_match,strict-match"].mean() < 1
    assert set(outcome.metrics) == {"exact_match,strict-match", "exact_match,first-letter"}


@pytest.mark.parametrize("write", [write_choice_task, write_text_task])
@pytest.mark.parametrize(
    ("chat", "options"),
    [
        ("no system", {}),  # the template refuses the system turn, which is left out then
        ("system", {"fewshot_as_multiturn": False}),
        ("system", {"system_instruction": "One word."}),
        (None, {"system_instruction": "One word.", "gen_kwargs": {"max_gen_toks": 3}}),
        (None, {"gen_kwargs": {"until": ["e", "A"], "top_p": 0.5}}),
        (None, {"gen_kwargs": {"max_new_tokens": 5, "temperature": 0.4, "do_sample": False}}),
    ],
)
def test_a_chat_models_set_up_equals_simple_evaluate(tmp_path, models, write, chat, options):
    tokenizer = make_tokenizer(chat=chat)
    path = write(tmp_path)
    with path.open("a") as file:
        file.write("description: Be brief.\n")  # joins the system turn
    given = {**options, "chat_template": chat is not None}
    (built,) = build_tasks([str(path)], tokenizer=tokenizer, **given)
    first = built.leaves[0].instances[0].args[0]
    start = {"system": "[system]", "no system": "[user]", None: "One word." if options else ""}
    assert first.startswith(start[chat]) or "system_instruction" not in options
    outcome = evaluate(built, models[0], tokenizer)
    theirs = reference(path, models[0], tokenizer, apply_chat_template=chat is not None, **options)
    assert_equal(built, outcome, theirs)
    plain = build_tasks([str(path)], tokenizer=tokenizer, chat_template=chat is not None)[0]
    same = not options or (set(options) == {"gen_kwargs"} and write is write_choice_task)
    assert (built.identity() == plain.identity()) is same


def test_group_equals_simple_evaluate(tmp_path, tokenizer, models):
    write_choice_task(tmp_path, "leaf_b", offset=20)
    write_choice_task(tmp_path, "leaf_a")
    group = tmp_path / "tiny_group.yaml"
    group.write_text(
        "group: tiny_group\ntask: [leaf_b, leaf_a]\n"
        "aggregate_metric_list:\n  - metric: acc\n    weight_by_size: true\n"
        "metadata:\n  version: 3\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.tasks.TaskManager", local_manager)
        first, second, pooled = build_tasks([str(group)], tokenizer=tokenizer, limit=6)
    assert [first.name, second.name, pooled.name] == ["leaf_b", "leaf_a", "tiny_group"]
    assert (first.group, pooled.group, pooled.version) == ("tiny_group", None, "3")
    assert pooled.members == (first, second)
    assert pooled.strata == ("leaf_b",) * 6 + ("leaf_a",) * 6
    assert pooled.doc_ids[6:8] == ("leaf_a:0", "leaf_a:1")
    part = pooled.only([5, 2, 7])
    assert part.doc_ids == ("leaf_b:5", "leaf_b:2", "leaf_a:1")
    assert part.strata == ("leaf_b", "leaf_b", "leaf_a")
    assert part.prompt_hashes == tuple(pooled.prompt_hashes[place] for place in (5, 2, 7))
    assert [member.name for member in pooled.only([8]).members] == ["leaf_a"]
    assert pooled.only(range(12)).identity() == pooled.identity()
    results = reference(group, models[0], tokenizer, limit=6)
    columns = []
    for member in pooled.members:
        outcome = evaluate(member, models[0], tokenizer)
        assert_equal(member, outcome, results)
        columns.append(outcome.metrics["acc,none"])
    mean = results["results"]["tiny_group"]["acc,none"]
    assert np.concatenate(columns).mean() == pytest.approx(mean, abs=1e-12)


def local_manager(**options):
    from lm_eval.tasks.manager import TaskManager

    return TaskManager(**{**options, "include_defaults": False})


def test_no_answer_of_one_model_reaches_the_next(tmp_path, tokenizer, models):
    paths = [write_choice_task(tmp_path), write_text_task(tmp_path)]
    built = build_tasks([str(path) for path in paths], tokenizer=tokenizer)
    for task in built:
        fresh = [
            evaluate(
                build_tasks([str(tmp_path / f"{task.name}.yaml")], tokenizer=tokenizer)[0],
                model,
                tokenizer,
            )
            for model in models
        ]
        assert fresh[0].responses != fresh[1].responses  # the models can be told apart
        for turn in (0, 1, 0):
            outcome = evaluate(task, models[turn], tokenizer)
            assert outcome.responses == fresh[turn].responses
            for key, scores in outcome.metrics.items():
                assert scores.tolist() == fresh[turn].metrics[key].tolist()
            for instance in task.leaves[0].instances:
                assert instance.resps == []
                assert instance.filtered_resps == {}


def test_another_tokenizer_is_tokenised_anew(tmp_path, models):
    (task,) = build_tasks([str(write_choice_task(tmp_path))], tokenizer=make_tokenizer())
    plain = make_tokenizer()
    reversed_ids = make_tokenizer()
    reversed_ids._tokenizer = shifted(reversed_ids)
    first = evaluate(task, models[0], plain)
    second = evaluate(task, models[0], reversed_ids)
    assert first.responses != second.responses


def shifted(tokenizer):
    """The same tokenizer with every byte's id moved by one."""
    from tokenizers import Tokenizer

    state = json.loads(tokenizer._tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    moved = {w: i if i < 2 else 2 + (i - 1) % (len(vocabulary) - 2) for w, i in vocabulary.items()}
    state["model"]["vocab"] = moved
    return Tokenizer.from_str(json.dumps(state))


def test_a_request_is_asked_once_however_often_it_is_repeated(tmp_path, tokenizer, models):
    path = write_text_task(tmp_path, repeats=3)
    (task,) = build_tasks([str(path)], tokenizer=tokenizer, limit=3)
    outcome = evaluate(task, models[0], tokenizer)
    assert all(len(texts) == 3 and len(set(texts)) == 1 for texts in outcome.responses)


def test_samples_that_cannot_be_drawn_are_refused(tmp_path, tokenizer):
    sampled = str(write_text_task(tmp_path, "tiny_sampled", sample="true", temperature=1.0))
    greedy = str(write_text_task(tmp_path, "tiny_greedy"))
    choice = str(write_choice_task(tmp_path))
    several = str(
        write_text_task(tmp_path, "tiny_several", sample="true", temperature=1.0, repeats=3)
    )
    for path, options, said in (
        (greedy, {"repeats": 2}, "which is greedy; expected a task whose answers are sampled"),
        (choice, {"repeats": 2}, "generates no text"),
        (several, {"repeats": 2}, "scores 3 answers of each document together"),
        (sampled, {"gen_kwargs": {"temperature": 0.0}}, "samples with temperature 0.0"),
        (sampled, {"repeats": 0}, "repeats=0"),
        (sampled, {"repeats": 2, "pass_at": (3,)}, "give repeats=3 or more"),
        (sampled, {"pass_at": (0,)}, "pass_at=0"),
    ):
        with pytest.raises(UsageError, match=said):
            build_tasks([path], tokenizer=tokenizer, limit=2, **options)


def test_repeats_of_a_task_are_sampled_as_lm_eval_scores_them(tmp_path, tokenizer, models):
    import torch

    sampled = write_text_task(tmp_path, "tiny_sampled", sample="true", temperature=1.0, repeats=2)
    (task,) = build_tasks([str(sampled)], tokenizer=tokenizer, limit=3)
    seen: list[int] = []
    before = torch.get_rng_state()
    first = evaluate(task, models[0], tokenizer, None, seen.append)
    assert torch.equal(before, torch.get_rng_state())
    assert sum(seen) == 6
    assert all(len(texts) == 2 for texts in first.responses)
    assert any(len(set(texts)) == 2 for texts in first.responses)
    # Each document has its seed, whatever its block; and every rank the same, to be paired.
    block = task.evaluation(EngineLM(models[0], tokenizer)).block([1])
    assert block.responses == [first.responses[1]]
    assert evaluate(task, models[0], tokenizer).responses == first.responses
    assert evaluate(task, models[1], tokenizer).responses != first.responses


def test_next_word_task_equals_simple_evaluate(tmp_path, tokenizer, models):
    # Where the model's greedy choice is a letter it becomes the target, found through lm-eval.
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    rows = text_rows(30)
    lm = HFLM(pretrained=models[0], tokenizer=tokenizer, batch_size=8)
    until = {"until": [], "max_gen_toks": 1}
    asked = [Instance("generate_until", {}, (row["question"], dict(until)), 0) for row in rows]
    for row, text in zip(rows, lm.generate_until(asked), strict=True):
        row["answer"] = text if text.isascii() and text.isprintable() and text.strip() else "no"
    path = write_task(
        tmp_path, "tiny_next", NEXT_WORD_YAML, [], rows, kind="loglikelihood", metric="acc"
    )
    (built,) = build_tasks([str(path)], tokenizer=tokenizer)
    outcome = evaluate(built, models[0], tokenizer)
    results = reference(path, models[0], tokenizer)
    assert 0 < outcome.metrics["acc,none"].mean() < 1
    theirs = [float(row["acc"]) for row in results["samples"]["tiny_next"]]
    assert outcome.metrics["acc,none"].tolist() == theirs
    lls = [row["resps"][0][0][0] for row in results["samples"]["tiny_next"]]
    np.testing.assert_allclose([kept[0] for kept in outcome.responses], lls, atol=2e-4)


def test_a_task_without_an_accuracy_is_refused(tmp_path, tokenizer):
    path = write_task(
        tmp_path,
        "tiny_perplexity",
        NEXT_WORD_YAML,
        [],
        text_rows(3),
        kind="loglikelihood_rolling",
        metric="word_perplexity",
    )
    with pytest.raises(TaskError, match="has a perplexity, not an accuracy"):
        build_tasks([str(path)], tokenizer=tokenizer)


def test_a_log_likelihood_that_is_no_number_fails_the_cell(tmp_path, tokenizer):
    import torch

    model = make_model(3)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    (task,) = build_tasks([str(write_choice_task(tmp_path))], tokenizer=tokenizer, limit=2)
    with pytest.raises(CellError, match="no finite number"):
        evaluate(task, model, tokenizer)
    healthy = evaluate(task, make_model(1), tokenizer)
    assert np.isfinite(healthy.metrics["acc,none"]).all()


def test_progress_adds_up(tmp_path, tokenizer, models):
    paths = [write_choice_task(tmp_path), write_text_task(tmp_path)]
    for task in build_tasks([str(path) for path in paths], tokenizer=tokenizer, limit=4):
        seen: list[int] = []
        evaluate(task, models[0], tokenizer, None, seen.append)
        assert sum(seen) == task.n_requests
