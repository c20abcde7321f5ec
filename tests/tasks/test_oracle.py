"""A task judged block by block equals ``lm_eval.simple_evaluate``, example by example."""

from __future__ import annotations

import pytest
from harness_doubles import (
    NEXT_WORD_YAML,
    make_tokenizer,
    simple_evaluate,
    text_rows,
    write_choice_task,
    write_task,
    write_text_task,
)
from support.evaltasks import built, evaluate, prompts

from aurac.errors import CellError, TaskError

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("offline")]


def engine(model, tokenizer):
    from aurac.engine.lm import EngineLM

    return EngineLM(model, tokenizer)


def hflm(model, tokenizer):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)


def assert_equal(task, outcome, results):
    """Every prompt, response, filtered answer, metric and aggregate is lm-eval's."""
    rows_of: dict[str, list] = {}
    for sample in results["samples"][task.name]:
        rows_of.setdefault(sample["filter"], []).append(sample)
    for name, rows in rows_of.items():
        assert [str(row["doc_id"]) for row in rows] == [key.id for key in task.keys]
        assert [row["doc_hash"] for row in rows] == [key.content for key in task.keys]
        for metric in rows[0]["metrics"]:
            column = outcome.metrics[f"{metric},{name}"]
            assert column == [plain(row[metric]) for row in rows]
        kept = outcome.filtered[name]
        if kept is not None:
            assert kept == [row["filtered_resps"] for row in rows]
    first = next(iter(rows_of.values()))
    assert [a for row in first for a in row["arguments"]] == prompts(task)
    assert [row["prompt_hash"] for row in first] == [row["prompt_hash"] for row in task.rows()]
    assert [row["target_hash"] for row in first] == [row["target_hash"] for row in task.rows()]
    reported = results["results"][task.name]
    for key, value in task.aggregates(outcome.metrics).items():
        assert value == pytest.approx(reported[key], abs=1e-12)
    assert {key for key in reported if "," in key and "stderr" not in key} <= {*outcome.metrics}


def plain(value):
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def by_blocks(task, lm):
    """The outcome of all examples, joined from blocks that were asked in another order."""
    parts = [evaluate(task, lm, block) for block in (range(4, len(task)), range(4))]
    return {key: parts[1].metrics[key] + parts[0].metrics[key] for key in parts[0].metrics}


@pytest.mark.parametrize("shots", [0, 3])
@pytest.mark.parametrize("write", [write_choice_task, write_text_task])
@pytest.mark.parametrize("kind", [engine, hflm])
def test_choice_and_generation_equal_simple_evaluate(
    tmp_path, tokenizer, models, kind, write, shots
):
    path, lm = write(tmp_path), kind(models[0], tokenizer)
    task = built(path, num_fewshot=shots)
    outcome = evaluate(task, lm)
    assert_equal(
        task, outcome, simple_evaluate(path, hflm(models[0], tokenizer), num_fewshot=shots)
    )
    assert by_blocks(task, lm) == outcome.metrics
    if write is write_choice_task:
        assert 0 < task.aggregate(outcome.metrics["acc,none"]) < 1  # it could have failed
        assert [len(row) for row in outcome.greedy] == [4] * 10


@pytest.mark.parametrize("write", [write_choice_task, write_text_task])
@pytest.mark.parametrize(
    ("chat", "options"),
    [
        ("no system", {}),  # the template refuses the system turn, which is left out then
        ("system", {"fewshot_as_multiturn": False}),
        ("system", {"system_instruction": "One word."}),
        (None, {"system_instruction": "One word.", "gen_kwargs": {"max_gen_toks": 3}}),
        (None, {"gen_kwargs": {"until": ["e", "A"], "top_p": 0.5}}),
    ],
)
def test_a_chat_models_set_up_equals_simple_evaluate(tmp_path, models, write, chat, options):
    tokenizer, path = make_tokenizer(chat=chat), write(tmp_path)
    with path.open("a") as file:
        file.write("description: Be brief.\n")  # joins the system turn
    task = built(path, tokenizer, apply_chat_template=chat is not None, **options)
    lm = hflm(models[0], tokenizer)
    theirs = simple_evaluate(path, lm, apply_chat_template=chat is not None, **options)
    assert_equal(task, evaluate(task, engine(models[0], tokenizer)), theirs)
    plainly = built(path, tokenizer, apply_chat_template=chat is not None)
    same = not options or (set(options) == {"gen_kwargs"} and write is write_choice_task)
    assert (prompts(task) == prompts(plainly)) is same


@pytest.mark.parametrize("repeats", [1, 3])
def test_repeats_and_several_filters_equal_simple_evaluate(tmp_path, repeats):
    path = write_text_task(tmp_path, repeats=repeats)
    head, tail = path.read_text().split('regex_pattern: "(.)"\n')
    text = f'{head}regex_pattern: "(.)"\n      - function: majority_vote\n{tail}'
    path.write_text(text)
    task, lm = built(path), counting()
    outcome = evaluate(task, lm)
    assert_equal(task, outcome, simple_evaluate(path, counting()))
    texts = outcome.responses[0]
    assert len({*texts}) == 3 if repeats == 3 else isinstance(texts, str)
    again = evaluate(task, counting(), [2])  # an example's answers do not depend on its block
    assert again.metrics.keys() == outcome.metrics.keys()


def counting():
    """An LM of lm-eval's own class that answers another text each time it is asked the same."""
    from lm_eval.api.model import LM

    class Counting(LM):
        seen: dict[str, int]

        def generate_until(self, requests):
            texts = []
            for request in requests:
                count = self.seen[request.args[0]] = self.seen.get(request.args[0], 0) + 1
                texts.append("xyz"[count % 3] + request.args[0][-9:])
            return texts

        def loglikelihood(self, requests):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    lm = Counting()
    lm.seen = {}
    return lm


def test_sampled_texts_follow_a_seed_and_leave_the_callers_generator_alone(
    tmp_path, tokenizer, models
):
    import torch

    path = write_text_task(tmp_path, sample="true", temperature=1.0, repeats=2)
    task, lm = built(path, limit=3), hflm(models[0], tokenizer)
    before = torch.get_rng_state()
    first = task.ask(lm, range(3))
    assert torch.equal(before, torch.get_rng_state())
    assert all(len(texts) == 2 for texts in first)
    assert any(len(set(texts)) == 2 for texts in first)
    assert task.ask(lm, range(3)) == first
    assert task.ask(hflm(models[1], tokenizer), range(3)) != first


def rolling_task(folder, count=5):
    texts = [{"question": "", "answer": f"{row['question']} again"} for row in text_rows(count)]
    fields = {"kind": "loglikelihood_rolling", "metric": "word_perplexity"}
    path = write_task(folder, "tiny_rolling", NEXT_WORD_YAML, [], texts, **fields)
    path.write_text(path.read_text().replace(
        "metric_list:\n  - metric: word_perplexity\n",
        "metric_list:\n  - metric: word_perplexity\n  - metric: bits_per_byte\n"))  # fmt: skip
    return path


def test_perplexities_equal_simple_evaluate(tmp_path, tokenizer, models):
    path, lm = rolling_task(tmp_path), hflm(models[0], tokenizer)
    task = built(path)
    outcome = evaluate(task, lm)
    assert task.rolling
    assert task.metric == "word_perplexity,none"
    assert_equal(task, outcome, simple_evaluate(path, lm))
    assert outcome.metrics[task.metric][0] == [outcome.responses[0][0], 4]  # say a 0 again
    assert by_blocks(task, lm) == outcome.metrics


def test_next_word_task_equals_simple_evaluate(tmp_path, tokenizer, models):
    fields = {"kind": "loglikelihood", "metric": "acc"}
    path = write_task(tmp_path, "tiny_next", NEXT_WORD_YAML, [], text_rows(8), **fields)
    task, lm = built(path), hflm(models[0], tokenizer)
    assert_equal(task, evaluate(task, lm), simple_evaluate(path, lm))


def test_no_answer_of_one_model_reaches_the_next(tmp_path, tokenizer, models):
    task = built(write_choice_task(tmp_path))
    lms = [hflm(model, tokenizer) for model in models]
    fresh = [evaluate(built(write_choice_task(tmp_path)), lm) for lm in lms]
    assert fresh[0].responses != fresh[1].responses  # the models can be told apart
    for turn in (0, 1, 0):
        outcome = evaluate(task, lms[turn])
        assert (outcome.responses, outcome.metrics) == (fresh[turn].responses, fresh[turn].metrics)
        assert all(i.resps == [] and i.filtered_resps == {} for i in task.instances(range(10)))


def test_answers_that_make_no_score_fail_the_cell(tmp_path):
    choice = built(write_choice_task(tmp_path), limit=1)
    answers = [[(float("nan"), False)], *[[(-1.0, False)]] * 3]
    with pytest.raises(CellError, match="doc_id 0 of task tiny_choice the log-likelihood nan"):
        choice.judge([0], answers)
    path = write_text_task(tmp_path)
    (tmp_path / "own.py").write_text(
        "def results(doc, results):\n    return {'exact_match': int(results[0][:1])}\n"
    )
    path.write_text(f"{path.read_text()}process_results: !function own.results\n")
    text = built(path, limit=1)
    with pytest.raises(CellError, match=r"tiny_text could not judge an answer \(ValueError"):
        text.judge([0], [["no number"]])
    with pytest.raises(TaskError, match=r"exact_match,strict-match .* is not within \[0, 1\]"):
        text.judge([0], [["7"]])


def test_what_scores_an_answer_is_hashed(tmp_path):
    path = write_text_task(tmp_path)
    text, before = path.read_text(), built(path)
    path.write_text(text.replace('"(.)"', '"(..)"'))
    after = built(path)
    assert before.scoring != after.scoring
    assert prompts(before) == prompts(after)
