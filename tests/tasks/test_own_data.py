"""A file of examples as a task: two formats, two scores, against a plain loop with PEFT."""

from __future__ import annotations

import copy
import json

import pandas as pd
import pytest
import torch
from engine_models import reference, tiny, token_by_token, tokenizer
from harness_doubles import write_jsonl
from peft import LoraConfig, get_peft_model
from support.adapters import randomise

from aurac.engine.lm import EngineLM
from aurac.errors import DataError, TaskError, UsageError
from aurac.tasks.build import build_tasks
from aurac.tasks.options import TaskOptions
from aurac.tasks.own_data import is_conversation, prompts_and_completions, task_name

MARKED = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
METRICS = ("token_accuracy,none", "whole_completion,none", "loss,none")


def chat(kind, template):
    made = copy.deepcopy(tokenizer(kind))
    made.chat_template = template
    return made


def turn(role, content):
    return {"role": role, "content": content}


def adapted(kind):
    """A random model with a random adapter of PEFT's in it, in float32."""
    base = copy.deepcopy(tiny(kind))
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    return randomise(get_peft_model(base, config)).eval()


def greedy(model, tok, text, count):
    """What the model itself writes, so that a part of a completion is its argmax."""
    ids = tok(text, return_tensors="pt").input_ids
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return tok.decode(ids[0, -count:], skip_special_tokens=True)


def outcomes(path, tok, lm, **options):
    [task] = build_tasks([str(path)], tokenizer=tok, options=TaskOptions(**options))
    places = range(len(task))
    return task.judge(places, task.ask(lm, places)).metrics


def same(ours, theirs):
    for name, column in zip(METRICS, zip(*theirs, strict=True), strict=True):
        assert ours[name] == pytest.approx(column, abs=1e-5), name


@pytest.mark.parametrize(
    ("model", "kind"), [("llama", "bos"), ("gemma", "bytes"), ("gemma", "metaspace")]
)
def test_prompts_and_completions_are_scored_as_a_plain_loop_scores_them(model, kind, tmp_path):
    lora, tok = adapted(model), tokenizer(kind)
    rows = []
    for prompt in ("the fox", "what is ", "Answer:\n"):
        own = greedy(lora, tok, prompt, 5)
        rows += [{"prompt": prompt, "completion": own + rest} for rest in (" lazy 42", "</s>")]
    write_jsonl(tmp_path / "held_out.jsonl", rows)
    expected = []
    for row in rows:
        end = "" if row["completion"].endswith("</s>") else "</s>"  # as TRL's `add_eos`
        ids = tok(row["prompt"] + row["completion"] + end).input_ids
        expected.append(
            token_by_token(lora, ids, range(len(tok(row["prompt"]).input_ids), len(ids)))
        )
    assert 0 < sum(accuracy for accuracy, *_ in expected) < len(rows)
    same(outcomes(tmp_path / "held_out.jsonl", tok, EngineLM(lora, tok)), expected)


@pytest.mark.parametrize(("model", "kind"), [("llama", "bytes"), ("gemma", "bos")])
def test_all_turns_that_the_template_marks_count(model, kind, tmp_path):
    lora, tok = adapted(model), chat(kind, MARKED)
    rows, before = [], "<s>[user]\n{}</s>\n[assistant]\n"
    for word in ("the", "what is", "a quick dog"):
        own = greedy(lora, tok, before.format(word), 3)
        rows.append({"messages": [turn("user", word), turn("assistant", own)]})
        later = [turn("user", "lazy"), turn("assistant", f"{own} é")]
        rows.append({"messages": [*rows[-1]["messages"], *later]})
    write_jsonl(tmp_path / "chats.jsonl", rows)
    expected = []
    for row in rows:
        made = tok.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        counted = [at for at, marked in enumerate(made["assistant_masks"]) if marked]
        whole = counted == list(range(counted[0], counted[-1] + 1))
        assert whole == (len(row["messages"]) == 2)  # of four messages two parts count
        expected.append(token_by_token(lora, made["input_ids"], counted))
    assert {whole for _, whole, _ in expected} == {0.0, 1.0}
    same(outcomes(tmp_path / "chats.jsonl", tok, EngineLM(lora, tok)), expected)


def test_what_is_written_instead_is_asked_from_the_prompt_to_the_end_of_the_reference(tmp_path):
    """At most twice the tokens of the longest reference, or half of what fits."""
    tok = chat("bytes", MARKED.replace("{{ m.content }}{% end", "{{ m.content }}</s>{% end"))
    told = [turn("user", "what"), turn("assistant", "a fox"), turn("user", "dog")]
    rows = [{"messages": [*told, turn("assistant", "over")]}, {"messages": told[:2]}]
    [task] = build_tasks([str(write_jsonl(tmp_path / "c.jsonl", rows))], tokenizer=tok)
    first, second = (example.content for example in task.examples)
    asked, ends, limit = task.task.continuations([(first, 1), (second, 0)], 999)
    contexts = [task.instances([0])[1].args[0], task.instances([1])[0].args[0]]
    assert [request.args[0] for request in asked] == contexts
    assert contexts[0].endswith("[user]\ndog</s></s>\n[assistant]\n")
    assert ends == ["</s>", "</s>"]
    longest = max(
        len(tok(text, add_special_tokens=False).input_ids) for text in ("a fox</s>", "over</s>")
    )
    assert limit == 2 * longest
    settings = {"until": ["</s>"], "max_gen_toks": limit, "do_sample": False}
    assert [request.args[1] for request in asked] == [settings, settings]
    assert task.task.continuations([(first, 1)], 6)[2] == 3


def test_without_marks_the_last_turn_counts_and_that_is_said(tmp_path, caplog):
    lora, tok = adapted("llama"), chat("bytes", UNMARKED)
    told = [turn("user", "what"), turn("assistant", "a fox"), turn("user", "dog")]
    rows = [{"messages": [*told, turn("assistant", "over a"), turn("user", "lazy")]}]
    write_jsonl(tmp_path / "chats.jsonl", rows)
    [task] = build_tasks([str(tmp_path / "chats.jsonl")], tokenizer=tok)
    assert "chats: the chat template does not mark the assistant's turns" in caplog.text
    before = "<s>[user]\nwhat</s>\n[assistant]\na fox</s>\n[user]\ndog</s>\n[assistant]\n"
    [instance] = task.instances([0])
    assert instance.args == (before, "over a</s>")
    start = len(tok(before).input_ids)
    ids = tok(f"{before}over a</s>").input_ids
    ours = outcomes(tmp_path / "chats.jsonl", tok, EngineLM(lora, tok))
    same(ours, [token_by_token(lora, ids, range(start, len(ids)))])


def test_a_prompt_and_a_completion_may_be_messages(tmp_path, caplog):
    tok = chat("bytes", UNMARKED)
    row = {"prompt": [turn("user", "what")], "completion": [turn("assistant", "a fox")]}
    write_jsonl(tmp_path / "chats.jsonl", [row])
    [task] = build_tasks([str(tmp_path / "chats.jsonl")], tokenizer=tok)
    assert task.instances([0])[0].args == ("<s>[user]\nwhat</s>\n[assistant]\n", "a fox</s>")
    assert not caplog.text


def test_every_format_of_file_has_the_same_requests(tmp_path):
    tok, texts = chat("bytes", MARKED), [("what is ", "12"), ("NA", "007")]
    plain_rows = [{"prompt": p, "completion": c, "topic": 3} for p, c in texts]
    talks = [{"messages": [turn("user", p), turn("assistant", c)]} for p, c in texts]
    for name, rows in (("texts", plain_rows), ("talks", talks)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        pd.DataFrame(rows).to_parquet(tmp_path / f"{name}.parquet")
        cells = [{k: json.dumps(v) if k == "messages" else v for k, v in r.items()} for r in rows]
        pd.DataFrame(cells).to_csv(tmp_path / f"{name}.csv", index=False)
        made = []
        for ending in ("jsonl", "parquet", "csv"):
            [task] = build_tasks([str(tmp_path / f"{name}.{ending}")], tokenizer=tok)
            made.append((task.name, task.keys))
        assert made[0] == made[1] == made[2]
    options = TaskOptions(cluster={"texts": "topic"})
    [task] = build_tasks([str(tmp_path / "texts.csv")], tokenizer=tok, options=options)
    assert task.cluster == "topic"


def test_whole_completion_is_lm_evals_own_answer_too(tmp_path):
    model, tok = tiny("llama"), tokenizer("bytes")
    rows = [{"prompt": "the fox", "completion": text} for text in (" jumps", "é", " over a</s>")]
    rows.append({"prompt": "lazy ", "completion": greedy(model, tok, "lazy ", 3)})
    write_jsonl(tmp_path / "held_out.jsonl", rows)
    path = str(tmp_path / "held_out.jsonl")
    [task] = build_tasks([path], tokenizer=tok, by_token=False)
    assert task.usable == {"whole_completion,none": True}
    assert task.metric == "whole_completion,none"
    theirs = task.judge(range(4), task.ask(reference(model), range(4)))
    ours = outcomes(path, tok, EngineLM(model, tok))
    assert theirs.metrics == {"whole_completion,none": ours["whole_completion,none"]}
    options = TaskOptions(metric={"*": "token_accuracy"})
    with pytest.raises(TaskError, match="whole_completion"):
        build_tasks([path], tokenizer=tok, options=options, by_token=False)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"question": "a", "answer": "b"}], "has the columns question, answer: its examples need"),
        (
            [{"prompt": "a", "completion": "b"}, {"prompt": "a"}, {"prompt": "", "completion": ""}],
            "1 of 3 examples of .* lack 'prompt'",
        ),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], "1 of 2 examples of .* 'completi"),
        ([{"messages": [turn("user", "a")]}], "Row 1 has no message of the assistant"),
        ([{"prompt": "a", "completion": 3}], "Row 1 has no texts and no lists of messages"),
    ],
)
def test_what_is_in_neither_format_is_said_before_anything_is_computed(rows, sentence, tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=sentence):
        build_tasks([str(tmp_path / "t.jsonl")], tokenizer=chat("bytes", UNMARKED))


def test_a_text_of_csv_that_begins_as_messages_do_is_a_text(tmp_path):
    row = {"prompt": "[{x} + 1] is", "completion": " 2"}
    pd.DataFrame([row]).to_csv(tmp_path / "t.csv", index=False)
    assert not is_conversation(tmp_path / "t.csv")
    [(prompt, _)] = prompts_and_completions(tmp_path / "t.csv", tokenizer("bytes"))
    assert prompt == row["prompt"]


def test_the_names_of_files_stay_apart(tmp_path):
    names = ["gsm8k.v2.jsonl", "v1.2.jsonl.gz", "v1.3.JSONL", "plain.json"]
    assert [task_name(tmp_path / name) for name in names] == ["gsm8k.v2", "v1.2", "v1.3", "plain"]


def test_examples_that_repeat_another_one_are_counted(tmp_path, caplog):
    rows = [{"prompt": "a", "completion": text} for text in "bbcb"]
    build_tasks([str(write_jsonl(tmp_path / "t.jsonl", rows))], tokenizer=tokenizer("bytes"))
    assert "t: 2 of 4 examples repeat another one" in caplog.text
    caplog.clear()
    build_tasks([str(write_jsonl(tmp_path / "u.jsonl", rows[1:3]))], tokenizer=tokenizer("bytes"))
    assert not caplog.text


def test_what_would_change_the_prompts_is_refused(tmp_path):
    write_jsonl(tmp_path / "t.jsonl", [{"prompt": "a", "completion": "b"}])
    for option in ({"num_fewshot": 2}, {"system_instruction": "Hi"}, {"split": "train"}):
        with pytest.raises(UsageError, match="are whole prompts: leave --"):
            build_tasks(
                [str(tmp_path / "t.jsonl")],
                tokenizer=tokenizer("bytes"),
                options=TaskOptions(**option),
            )
    write_jsonl(tmp_path / "c.jsonl", [{"messages": [turn("user", "a"), turn("assistant", "b")]}])
    with pytest.raises(UsageError, match="no chat template"):
        build_tasks([str(tmp_path / "c.jsonl")], tokenizer=tokenizer("bytes"))
