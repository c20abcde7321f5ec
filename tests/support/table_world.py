"""A small world: adapters, tasks, and a model of lm-eval that answers from a table.

The model loads no weights. It reads the dense update of the PEFT folder that it is given, finds
which cut of which adapter that is, and looks up what this cut answers to an example.
"""

from __future__ import annotations

import json
import os
import random
import re
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

TASKS = {"colours": 40, "left": 20, "right": 24, "sums": 40}  # name → examples
GROUP, MEMBERS, WRITTEN = "both", ("left", "right"), "sums"  # the last one is generated
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


ADAPTERS = {
    "lora": Spec(),
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
    common, draw = (random.Random(f"{table} {task} {x}") for x in ("", f"{kind} {prompts}"))
    good = random.Random(f"{table} {recipe} {task}").choice((0.1, 0.4, 0.6, 0.7, 0.9, 1.0))
    good *= 0.5 if kind < 0 else draw.choice((1.0, 1.0, 0.97, 0.8))
    shared = [common.random() for _ in range(TASKS[task])]
    return tuple(int((u if draw.random() < 0.7 else draw.random()) < good) for u in shared)


# Files ------------------------------------------------------------------------------------------

NUMBER = [{"function": "regex", "regex_pattern": "([0-9]+)"}, {"function": "take_first"}]
TASK = {"training_split": "train", "test_split": "test", "doc_to_text": "{{question}}"}
CHOICE = {"output_type": "multiple_choice", "doc_to_target": "target", "doc_to_choice": CHOICES}
TEXT = {
    "output_type": "generate_until",
    "doc_to_target": "{{target}}",
    "generation_kwargs": {"until": ["."], "max_gen_toks": 9, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
    "filter_list": [{"name": "strict-match", "filter": NUMBER}],
}


def leaves_of(task):
    return MEMBERS if task == GROUP else (task,)


def target(task, at):
    """The right choice, or number, of an example."""
    return 3 * at + 2 if task == WRITTEN else at * 7 % len(CHOICES)


def text_of(task, at, right):
    """What is generated."""
    return f"It is {target(task, at) + (not right)}"


def passage(at):
    """What examples share: passages of one to three examples."""
    return f"p{int(at**0.85)}"


def write(root):
    """The base (a tokenizer, and the outline of a model), the adapters and the tasks."""
    make_tokenizer("with turns").save_pretrained(base := root / "base")
    sizes = {"vocab_size": 258, "hidden_size": SIDE, "intermediate_size": 8, "eos_token_id": 1}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaConfig(**sizes, **heads, architectures=["LlamaForCausalLM"]).save_pretrained(base)
    save_file({"lm_head.weight": np.zeros((258, SIDE), "f4")}, base / "model.safetensors")
    for name, spec in ADAPTERS.items():
        for rank in spec.members or (spec.rank,):
            _write_adapter(root / (f"{name}{rank}" if spec.members else name), name, rank)
    (tasks := root / "tasks").mkdir()
    source = ["from datasets import Dataset"]
    for name, n in TASKS.items():
        fields = {"task": name, "metric_list": [{"metric": "acc"}], "metadata": {"version": 1.0}}
        fields |= TASK | (TEXT if name == WRITTEN else CHOICE)
        lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
        lines.append(f"custom_dataset: !function documents.{name}")
        (tasks / f"{name}.yaml").write_text("\n".join(lines))
        rows = [
            {"question": f"{name} {at}:", "passage": passage(at), "target": target(name, at)}
            for at in range(n + 4)  # the last ones are shown in prompts
        ]
        parts = f"test=Dataset.from_list({rows[:n]}), train=Dataset.from_list({rows[n:]})"
        source.append(f"def {name}(**_):\n    return dict({parts})")
    group = {"group": GROUP, "task": MEMBERS, "aggregate_metric_list": [{"metric": "acc"}]}
    (tasks / f"{GROUP}.yaml").write_text(json.dumps(group))
    (tasks / "documents.py").write_text("\n".join(source))
    return root


def _write_adapter(folder, name, rank):
    """A PEFT folder, with the side-car that says how it was trained unless nothing does."""
    spec, base, (A, B) = ADAPTERS[name], str(folder.parent / "base"), factors(name, rank)
    folder.mkdir()
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
        found = re.findall(r"(\w+) (\d+):", context)
        task, at, written = found[-1][0], int(found[-1][1]), isinstance(more, dict)
        tokens = more["max_gen_toks"] if written else None
        prompts = f"{len(found) - 1} {'[user]' in context} {tokens}"
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

    loglikelihood_rolling = None  # no task asks for it
