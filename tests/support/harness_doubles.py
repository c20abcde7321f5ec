"""Doubles for the tests of the border to lm-eval: a tokenizer, models, task files, documents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz"

_TRAINED = """
task: {name}
dataset_path: json
dataset_name: null
dataset_kwargs:
  data_files:
    train: {folder}/train.jsonl
    test: {folder}/test.jsonl
training_split: train
test_split: test
fewshot_split: train
num_fewshot: 2
"""
CHOICE_YAML = (
    _TRAINED
    + """output_type: multiple_choice
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_target: "{{{{choices.label.index(answerKey)}}}}"
doc_to_choice: "{{{{choices.text}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}}
metadata:
  version: 2.5
"""
)

TEXT_YAML = (
    _TRAINED
    + """output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["Question:"]
  do_sample: {sample}
  temperature: {temperature}
  max_gen_toks: 8
repeats: {repeats}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
filter_list:
  - name: strict-match
    filter:
      - function: regex
        regex_pattern: "{take}"
      - function: take_first
  - name: first-letter
    filter:
      - function: regex
        regex_pattern: "(.)"
      - function: take_first
metadata:
  version: 1.0
"""
)

NEXT_WORD_YAML = """
task: {name}
dataset_path: json
dataset_name: null
dataset_kwargs:
  data_files:
    test: {folder}/test.jsonl
output_type: {kind}
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: {metric}
metadata:
  version: 1.0
"""


def stay_offline(monkeypatch, cache: Path) -> None:
    """No network, and lm-eval's own way of reading documents keeps its cache in ``cache``."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def simple_evaluate(path: Path, lm, **options):
    """``lm_eval.simple_evaluate`` of one task file with its defaults: the oracle."""
    import lm_eval.evaluator
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:  # asks pip and git about the machine
        patch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)
        return lm_eval.simple_evaluate(
            lm,
            tasks=[path.stem],
            task_manager=TaskManager(include_defaults=False, include_path=str(path.parent)),
            bootstrap_iters=0,
            **options,
        )


def make_tokenizer(chat: str | None = None):
    """Bytes as tokens, with BOS and EOS.

    Args:
        chat: A chat template that takes a ``system`` turn or that takes ``no system`` turn.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1} | {byte: i + 2 for i, byte in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    if chat:
        refused = "system" if chat == "no system" else "none"
        fast.chat_template = (
            f"{{% for m in messages %}}{{% if m.role == '{refused}' %}}"
            "{{ raise_exception('no system') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}[assistant]{% endif %}"
        )
    return fast


def make_model(seed: int):
    """A random Llama of two layers, in float32."""
    from support.adapters import tiny_llama

    sizes = {"vocab_size": 258, "max_position_embeddings": 1024, "initializer_range": 0.4}
    return tiny_llama(seed=seed, **sizes, bos_token_id=0, eos_token_id=1, pad_token_id=1)


def choice_rows(count: int, offset: int = 0) -> list[dict]:
    rows = []
    for i in range(offset, offset + count):
        texts = [LETTERS[(i * k) % 26] * (1 + (i + k) % 3) for k in (3, 5, 7, 11)]
        rows.append(
            {
                "id": f"d{i}",
                "question": f"which {LETTERS[i % 26]}{i}?",
                "choices": {"text": texts, "label": ["A", "B", "C", "D"]},
                "answerKey": "ABCD"[i % 4],
            }
        )
    return rows


def text_rows(count: int, offset: int = 0) -> list[dict]:
    return [
        {"question": f"say {LETTERS[i % 26]} {i}", "answer": LETTERS[i % 26] * 2}
        for i in range(offset, offset + count)
    ]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_task(folder: Path, name: str, yaml: str, train: list, test: list, **fields) -> Path:
    """A task file with its own documents beside it; lm-eval can load it without aurac."""
    if train:
        write_jsonl(folder / f"{name}_data" / "train.jsonl", train)
    write_jsonl(folder / f"{name}_data" / "test.jsonl", test)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.format(name=name, folder=folder / f"{name}_data", **fields))
    return path


def write_choice_task(
    folder: Path, name: str = "tiny_choice", offset: int = 0, rows: int = 10
) -> Path:
    return write_task(
        folder, name, CHOICE_YAML, choice_rows(12, 100 + offset), choice_rows(rows, offset)
    )


def write_text_task(folder: Path, name: str = "tiny_text", test=None, **fields) -> Path:
    fields = {"sample": "false", "temperature": 0.0, "repeats": 1, "take": "(.*)"} | fields
    return write_task(folder, name, TEXT_YAML, text_rows(12, 100), test or text_rows(8), **fields)
