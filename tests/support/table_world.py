"""A small world: adapters, tasks, and a model of lm-eval that answers from a table.

The model loads no weights. It reads the dense update of the PEFT folder that it is given, finds
which cut of which adapter that is, and looks up what this cut answers to an example.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from safetensors.numpy import load_file, save_file
from support.harness_doubles import make_tokenizer
from transformers import LlamaConfig

TASKS = {"colours": 40, "left": 20, "right": 24, "sums": 40, "essays": 30, "prose": 12}  # examples
GROUP, MEMBERS, WRITTEN = "both", ("left", "right"), ("sums", "essays")  # the last are generated
GRADED = "essays"  # of which the metric credit is a fraction
PROSE = "prose"  # of whole texts, which have a perplexity
VALIDATION, FIRST = 24, 100  # examples of that split of every task, and the number of its first one
CHOICES = ("north", "east", "south")
MODULE, SIDE = "model.layers.0.self_attn.q_proj", 8

# Adapters ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """An adapter, as its folder records it; without a method nothing is recorded."""

    method: str | None = "lora"
    rank: int = 4
    nested: tuple[int, ...] = ()
    rule: str = "sqrt"
    seed: int | None = None
    recipe: str | None = None
    data: str | None = None
    members: tuple[int, ...] = ()  # ranks of a family

    def scale(self, rank):
        return 2.0 / (rank if self.rule == "rank" else rank**0.5)

    @property
    def p(self):
        """The diagonal of P; of DyLoRA that of full rank."""
        nested = self.nested if self.method == "matryoshka" else (self.rank,)
        return np.array([sum(self.scale(r) for r in nested if r > i) for i in range(self.rank)])


OTHER = "~"  # behind the name of an adapter: other weights, which may lie at its path
ADAPTERS = {
    "lora": Spec(),
    f"lora{OTHER}": Spec(),
    f"nested{OTHER}": Spec("matryoshka", nested=(1, 2, 4)),
    "bare": Spec(None, rank=2, rule="rank"),
    "nested": Spec("matryoshka", nested=(1, 2, 4)),
    "dylora": Spec("dylora", nested=(1, 2, 4)),
    "family": Spec(members=(1, 2, 4)),
    **{f"ada{s}": Spec("matryoshka", 4, (1, 2, 4), "sqrt", s, "ada", "x") for s in range(3)},
    **{f"bob{s}": Spec("lora", 4, (), "sqrt", s, "bob", "x") for s in range(3)},
    **{f"cid{s}": Spec("lora", 4, (), "sqrt", s, "cid", "y") for s in (3, 4)},
}


def factors(name, rank):
    draw = np.random.default_rng([rank, *name.encode()])
    return [draw.normal(size=shape).astype("f4") for shape in ((rank, SIDE), (SIDE, rank))]


def dense(name, rank, basis, rescale):
    """The update of a cut, in one row."""
    spec = ADAPTERS[name]
    R = rank if spec.members else spec.rank
    A, B = (x.astype(float) for x in factors(name, R))
    if basis == "svd":
        u, s, vt = np.linalg.svd(B * spec.p @ A)
        return (u[:, :rank] * s[:rank] @ vt[:rank]).ravel()
    with_p = rescale == "trained" and spec.method != "dylora"
    p = spec.p[:rank] if with_p else spec.scale(R if rescale == "keep" else rank)
    return (B[:, :rank] * p @ A[:rank]).ravel()


@cache
def _updates():
    cuts = []
    for name, spec in ADAPTERS.items():
        ways = [("prefix", "rule"), ("prefix", "trained"), ("prefix", "keep"), ("svd", "keep")]
        ranks = spec.members or range(1, spec.rank + 1)
        cuts += [(name, r, *way) for r in ranks for way in ways[: 1 if spec.members else None]]
    return [name for name, *_ in cuts], np.stack([dense(*cut) for cut in cuts])


def nearest(update):
    """A number for all cuts with this dense update."""
    distances = np.abs(_updates()[1] - update).max(axis=1)
    at = int(np.argmax(distances <= distances.min() + 1e-9))
    if distances[at] > 1e-4:
        raise ValueError("an update that is no cut of any adapter")
    return at


@cache
def kind_of(cut):
    """The number of a cut; -1 for the base."""
    return -1 if cut is None else nearest(dense(*cut))


@cache
def outcomes(table, kind, task, prompts):
    """The table: whether a cut's answer to each example of a task is right."""
    recipe = _updates()[0][kind].rstrip("0123456789") if kind >= 0 else "base"
    common, own, draw = (
        random.Random(f"{table} {task} {x}") for x in ("", recipe, f"{kind} {prompts}")
    )
    good, alike = own.choice((0.2, 0.5, 0.7, 0.9, 1.0, 1.0)), own.choice((0.7, 0.9, 1.0))
    good *= 0.3 if kind < 0 else draw.choice((1.0, 1.0, 1.0, 1.0, 0.97, 0.8))
    places = [*range(TASKS[task]), *range(FIRST, FIRST + VALIDATION)]
    shared = [common.random() for _ in places]
    right = [int((u if draw.random() < alike else draw.random()) < good) for u in shared]
    return dict(zip(places, right, strict=True))


def score(table, kind, task, prompts, example, metric):
    """The score of an answer to an example, which is its number and its `VERSIONS`."""
    number, version = example
    right = outcomes(table, kind, task, prompts + AGAIN * (version == "question"))[number]
    if task not in WRITTEN:
        return float(bool(right) != (version == "target"))  # the wrong answer is the new target
    off = abs(answer(task, number, right) - target(task, number, version))
    return max(0.0, 1 - off / 4) if metric == "credit" else float(off == 0)


def likelihood(table, kind, prompts, example):
    """Of a whole text its log-likelihood and its words."""
    number, version = example
    right = outcomes(table, kind, PROSE, prompts + AGAIN * (version == "question"))[number]
    words = len(row(PROSE, number, version)["question"].split())
    return -words * (2.5 - right), words


# Files ------------------------------------------------------------------------------------------

FILTERS = ("([0-9]+)", "(-?[0-9]+)")  # of sums: as it is, and changed
TASK = {"training_split": "train", "test_split": "test", "doc_to_text": "{{question}}"}
CHOICE = {"output_type": "multiple_choice", "doc_to_target": "target", "doc_to_choice": CHOICES}
WHOLE = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{question}}",
    "metric_list": [{"metric": "word_perplexity"}],
}
TEXT = {
    "output_type": "generate_until",
    "doc_to_target": "{{target}}",
    "generation_kwargs": {"until": ["."], "max_gen_toks": 9, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}


def leaves_of(task):
    return MEMBERS if task == GROUP else (task,)


VERSIONS = ("", "target", "question", "passage")  # an example as it was, or what of it changed
AGAIN = " again"  # at the end of a question that changed


def target(task, at, version=""):
    """The right choice, or number, of an example."""
    first, more = (3 * at + 2 if task in WRITTEN else at * 7), version == "target"
    return first + more if task in WRITTEN else (first + more) % len(CHOICES)


def answer(task, at, right):
    """The number that is generated; a wrong one is off by 1 to 3 where it is graded."""
    return target(task, at) + (0 if right else 1 + at % 3 if task == GRADED else 1)


def text_of(task, at, right):
    """What is generated."""
    return f"It is {answer(task, at, right)}"


def passage(at, version=""):
    """What examples share: passages of one to five examples."""
    return f"p{int(at**0.7) + 50 * (version == 'passage')}"


def row(task, at, version=""):
    """An example as a file has it."""
    question = f"{task} {at}{AGAIN * (version == 'question')}:" + " word" * (task == PROSE) * (
        at % 4
    )
    about = {"passage": passage(at, version), "target": target(task, at, version)}
    return {"question": question} | about


def rows(task, versions):
    """Split → examples; those that are shown in prompts come last. `versions` are what changed."""
    n = TASKS[task]
    places = {"test": range(n), "train": range(n, n + 4)}
    places["validation"] = range(FIRST, FIRST + VALIDATION)
    return {x: [row(task, at, versions.get(at, "")) for at in some] for x, some in places.items()}


def write(root):
    """The base (a tokenizer, and the outline of a model), the adapters and the tasks."""
    make_tokenizer("with turns").save_pretrained(base := root / "base")
    shutil.copytree(base, root / "tokenizer")
    file = root / "tokenizer" / "tokenizer.json"  # in which two letters have changed places
    text = file.read_text().replace('"a":', '"was a":').replace('"b":', '"a":')
    file.write_text(text.replace('"was a":', '"b":'))
    sizes = {"vocab_size": 258, "hidden_size": SIDE, "intermediate_size": 8, "eos_token_id": 1}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaConfig(**sizes, **heads, architectures=["LlamaForCausalLM"]).save_pretrained(base)
    for name in ("copy", "other"):  # the same base, and another one
        shutil.copytree(base, root / name)
    for name in ("base", "copy", "other"):
        weights = np.full((258, SIDE), float(name == "other"), "f4")
        save_file({"lm_head.weight": weights}, root / name / "model.safetensors")
    for name, spec in ADAPTERS.items():
        for rank in spec.members or (spec.rank,):
            folder = f"{name}{rank}" if spec.members else name
            _write_adapter(root / "spare" / folder, name, rank, str(base))
            shutil.copytree(root / "spare" / folder, root / folder)
    (root / "tasks").mkdir()
    (root / "tasks" / "documents.py").write_text(DOCUMENTS)
    for name in TASKS:
        write_task(root, name)
        data = root / "data" / name
        for split, some in rows(name, CHANGED).items():
            data.mkdir(parents=True, exist_ok=True)
            (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, some)))
    group = {"group": GROUP, "task": MEMBERS, "aggregate_metric_list": [{"metric": "acc"}]}
    (root / "tasks" / f"{GROUP}.yaml").write_text(json.dumps(group))
    change(root, {})
    return root


CHANGED = {3: "target", 5: "question"}  # in the folders of `--data`
DOCUMENTS = """import json, pathlib
from datasets import Dataset

def read(name):
    text = pathlib.Path(__file__).with_name(f"{name}.json").read_text()
    return {split: Dataset.from_list(rows) for split, rows in json.loads(text).items()}

def judge(doc, results):
    off = abs(int(results[0].split()[-1]) - int(doc["target"]))
    return {"acc": float(off == 0), "credit": max(0.0, 1 - off / 4)}
""" + "".join(f"\ndef {name}(**_):\n    return read('{name}')\n" for name in TASKS)


def write_task(root, name, filtered=FILTERS[0]):
    """A task of lm-eval; the numbers of sums are found with that expression."""
    fields = {"task": name, "metric_list": [{"metric": "acc"}], "metadata": {"version": 1.0}}
    fields |= TASK | (WHOLE if name == PROSE else TEXT if name in WRITTEN else CHOICE)
    lines = [f"custom_dataset: !function documents.{name}"]
    if name == GRADED:
        both = [{"metric": x, "aggregation": "mean", "higher_is_better": True} for x in METRICS]
        fields |= {"metric_list": both, "filter_list": None}
        lines.append("process_results: !function documents.judge")
    elif name in WRITTEN:
        number = [{"function": "regex", "regex_pattern": filtered}, {"function": "take_first"}]
        fields |= {"filter_list": [{"name": "strict-match", "filter": number}]}
    lines += [f"{key}: {json.dumps(value)}" for key, value in fields.items() if value is not None]
    (root / "tasks" / f"{name}.yaml").write_text("\n".join(lines))


METRICS = ("acc", "credit")


def change(root, versions):
    """The examples of every task that is read without `--data`: task → number → what changed."""
    for name in TASKS:
        told = json.dumps(rows(name, versions.get(name, {})))
        (root / "tasks" / f"{name}.json").write_text(told)


def swap(root, name, *, other):
    """The other weights of an adapter at its path, or its own again."""
    shutil.copytree(root / "spare" / f"{name}{OTHER * other}", root / name, dirs_exist_ok=True)


def _write_adapter(folder, name, rank, base):
    """A PEFT folder, with the side-car that says how it was trained unless nothing does."""
    spec, (A, B) = ADAPTERS[name], factors(name, rank)
    folder.mkdir(parents=True)
    tensors = {f"base_model.model.{MODULE}.lora_{x}.weight": y for x, y in (("A", A), ("B", B))}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2.0, "base_model_name_or_path": base}
    config |= {"use_rslora": spec.rule == "sqrt", "target_modules": [MODULE]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    order = "base prompt prompt_without target documents max_tokens steps epochs batch_size"
    recipe = dict.fromkeys(order.split()) | {"name": spec.recipe, "data_sha256": spec.data}
    about = {"aurac_adapter": 1, "method": spec.method, "nested_ranks": spec.nested or (rank,)}
    about |= {"seed": spec.seed, "recipe": recipe if spec.recipe else None, "base": base}
    if spec.method:
        (folder / "aurac.json").write_text(json.dumps(about))


# The model --------------------------------------------------------------------------------------


BRIEF = "Be brief."  # a system instruction


@register_model("table")
class Table(LM):
    """Answers from the table; counts what it is asked: (kind, task, example, prompts).

    Every process appends a line for each example to the file that TABLE_LOG names, if any.
    """

    asked: ClassVar[Counter] = Counter()
    fails: ClassVar[set] = set()  # (kind, task) that it does not answer

    def __init__(self, pretrained, peft=None, table=0, **_):
        super().__init__()
        self.table, self.kind = int(table), -1
        if peft is not None:
            config = json.loads(Path(peft, "adapter_config.json").read_text())
            tensors = load_file(Path(peft, "adapter_model.safetensors"))
            A, B = (tensors[f"base_model.model.{MODULE}.lora_{x}.weight"] for x in "AB")
            rank = config["r"]
            scale = config["lora_alpha"] / (rank**0.5 if config["use_rslora"] else rank)
            self.kind = nearest((scale * B.astype(float) @ A.astype(float)).ravel())

    def _asked(self, request):
        """Task, example, and whether the answer is right."""
        context, more = request.args[:2]
        found = re.findall(r"(\w+) (\d+)( again)?:", context)
        (task, at, again), written = found[-1], isinstance(more, dict)
        tokens = more["max_gen_toks"] if written else None
        facts = [f"{len(found) - 1}", f"{'[user]' in context}", f"{BRIEF in context}", f"{tokens}"]
        prompts, at = " ".join(facts) + again, int(at)
        if (self.kind, task) in self.fails:
            raise RuntimeError("the table says nothing of it")
        if written or more.strip() == CHOICES[0]:
            self.asked[self.kind, task, at, prompts] += 1
            if log := os.environ.get("TABLE_LOG"):
                with Path(log).open("a") as file:
                    file.write(f"{os.getpid()} {self.kind} {task} {at}\n")
        return task, at, outcomes(self.table, self.kind, task, prompts)[at]

    def loglikelihood(self, requests, disable_tqdm=False):
        """The right choice is the likeliest where the table says so, else the next one."""
        answers = []
        for request in requests:
            task, at, right = self._asked(request)
            away = CHOICES.index(request.args[1].strip()) - target(task, at) - (not right)
            answers.append((-1.0 - away % len(CHOICES), away % len(CHOICES) == 0))
        return answers

    def generate_until(self, requests, disable_tqdm=False):
        return [text_of(*self._asked(request)) for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        answers = []
        for request in requests:
            task, at, again = re.match(r"(\w+) (\d+)( again)?:", request.args[0]).groups("")
            if (self.kind, task) in self.fails:
                raise RuntimeError("the table says nothing of it")
            self.asked[self.kind, task, int(at), f"whole{again}"] += 1
            example = int(at), "question" if again else ""
            answers.append(likelihood(self.table, self.kind, "whole", example)[0])
        return answers
