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
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from safetensors.numpy import load_file, save_file

MODEL = "table"
CHOICES = ("north", "east", "south")
TASKS = {"colours": 40, "left": 20, "right": 24, "sums": 40}  # name → examples
GROUP, MEMBERS = "both", ("left", "right")
WRITTEN = ("sums",)  # those whose answers are generated
MODULES = {"model.layers.0.self_attn.q_proj": (8, 8), "model.layers.0.mlp.down_proj": (12, 8)}
WIDTH = sum(map(sum, MODULES.values()))
DATA = dict.fromkeys(
    ("base", "task", "data", "prompt", "prompt_without", "target", "documents", "max_tokens",
     "steps", "epochs", "batch_size"),
)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """An adapter: how it was trained, as its folder records it (None: it records nothing)."""

    rank: int = 4
    method: str | None = "lora"
    nested: tuple[int, ...] = ()
    rule: str = "sqrt"
    alpha: float = 2.0
    seed: int | None = None
    recipe: dict | None = None
    members: tuple[int, ...] = ()  # ranks of a family

    def scale(self, rank: int) -> float:
        """s_r, the scaling rule at a rank."""
        return self.alpha / {"rank": rank, "sqrt": rank**0.5}[self.rule]

    @property
    def p(self) -> np.ndarray:
        """The diagonal of P; of DyLoRA that of full rank."""
        if self.method != "matryoshka":
            return np.full(self.rank, self.scale(self.rank))
        return np.array(
            [sum(self.scale(r) for r in self.nested if r > i) for i in range(self.rank)]
        )

    @property
    def order(self) -> tuple | None:
        """Seed and training data, by which seeds of two recipes are paired."""
        return self.recipe and (self.seed, self.recipe["data"])

    def default(self, basis: str = "prefix") -> str:
        """The default rescale."""
        return "keep" if basis == "svd" else "trained" if self.method == "matryoshka" else "rule"


def _recipe(name: str, data: str) -> dict:
    return {**DATA, "name": name, "data": data, "seed": 0}


NESTED = {"nested": (1, 2, 4)}
ADAPTERS = {
    "lora": Spec(),
    "bare": Spec(rank=2, method=None, rule="rank"),
    "nested": Spec(method="matryoshka", **NESTED),
    "dylora": Spec(method="dylora", **NESTED),
    "family": Spec(members=(1, 2, 4)),
    **{f"ada{s}": Spec(method="matryoshka", **NESTED, seed=s, recipe=_recipe("ada", "x"))
       for s in range(3)},
    **{f"bob{s}": Spec(seed=s, recipe=_recipe("bob", "x")) for s in range(3)},
    **{f"cid{s}": Spec(seed=s, recipe=_recipe("cid", "y")) for s in (3, 4)},
}  # fmt: skip


def factors(name: str, rank: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A (R, in) and B (out, R) of each module, in float32."""
    draw = np.random.default_rng([rank, *name.encode()])
    shapes = {module: ((rank, inside), (out, rank)) for module, (inside, out) in MODULES.items()}
    return {k: tuple(draw.normal(size=x).astype("f4") for x in both) for k, both in shapes.items()}


def cuts_of(name: str) -> list[tuple[str, int, str, str]]:
    """Everything that may be evaluated of an adapter."""
    spec = ADAPTERS[name]
    if spec.members:
        return [(name, rank, "prefix", "rule") for rank in spec.members]
    ways = [("prefix", "rule"), ("prefix", "keep"), ("svd", "keep")]
    ways += [("prefix", "trained")] if spec.method else []
    return [(name, rank, *way) for rank in range(1, spec.rank + 1) for way in ways]


def dense(name: str, rank: int, basis: str, rescale: str) -> np.ndarray:
    """The update of a cut, all modules in one row."""
    spec = ADAPTERS[name]
    R, parts = rank if spec.members else spec.rank, []
    for A, B in factors(name, R).values():
        A, B = A.astype(float), B.astype(float)
        if basis == "svd":
            u, s, vt = np.linalg.svd(B * spec.p @ A, full_matrices=False)
            update = u[:, :rank] * s[:rank] @ vt[:rank]
        else:
            p = spec.p[:rank] if rescale == "trained" and spec.method != "dylora" else None
            s = spec.scale(R if rescale == "keep" else rank)
            update = B[:, :rank] * (s if p is None else p) @ A[:rank]
        parts.append(update.ravel())
    return np.concatenate(parts)


# Commands ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """What `aurac compare` is asked."""

    adapters: tuple[str, ...]
    tasks: tuple[str, ...]
    limit: int | None = None
    ranks: str = "pow2"
    basis: tuple[str, ...] = ()
    rescale: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    clusters: tuple[str, ...] = ()  # tasks whose passages are clusters
    margin: float | None = None
    reference: str | None = None
    shots: int = 0
    chat: bool = False
    tokens: int | None = None

    def words(self, root: Path, out: Path, table: int) -> list[str]:
        """The command line."""
        paths = {name: f"{root}/{name}" for name in self.adapters}
        paths |= {"family": f"family={root}/family{{1,2,4}}"} if "family" in paths else {}
        words = ["compare", *paths.values(), "--tasks", ",".join(self.tasks), "--out", str(out)]
        words += ["--include-path", f"{root}/tasks", "--model", MODEL, "--json"]
        words += ["--model-args", f"table={table}", "--ranks", self.ranks]
        words += [f"--group={name}={','.join(some)}" for name, some in self.groups.items()]
        words += [f"--cluster={task}=passage" for task in self.clusters]
        lists = {"basis": ",".join(self.basis), "rescale": ",".join(self.rescale)}
        lists |= {name: getattr(self, name) for name in ("limit", "margin", "reference")}
        lists |= {
            "num-fewshot": self.shots,
            "gen-kwargs": self.tokens and f"max_gen_toks={self.tokens}",
        }
        words += [f"--{name}={value}" for name, value in lists.items() if value]
        return words + ["--apply-chat-template"] * self.chat

    @property
    def leaves(self) -> list[str]:
        """The tasks that have cells."""
        return [leaf for task in self.tasks for leaf in leaves_of(task)]

    def examples(self, leaf: str) -> int:
        """How many are asked for."""
        return min(self.limit or TASKS[leaf], TASKS[leaf])

    def prompts(self, leaf: str) -> str:
        """What decides a task's requests."""
        return prompts_of(leaf, self.shots, self.chat, self.tokens)

    def clustered(self, leaf: str) -> bool:
        """Whether examples are clustered."""
        return bool(
            {leaf, *(GROUP,) * (leaf in MEMBERS and GROUP in self.tasks)} & set(self.clusters)
        )

    @property
    def ways(self) -> list[tuple]:
        """Adapter, basis, rescale and ranks of each curve; a ValueError for what does not go."""
        ways = {}
        for name in self.adapters:
            spec = ADAPTERS[name]
            every = spec.members or tuple(range(1, spec.rank + 1))
            named = {"all": every, "pow2": [r for r in every if r != 3]}.get(self.ranks)
            ranks = named or sorted({*map(int, self.ranks.split(",")), spec.rank})
            own = "prefix" if spec.nested or {*self.rescale[:1]} & {"rule", "trained"} else "svd"
            pairs = [
                (b, r) for b in self.basis or (own,) for r in self.rescale or (spec.default(b),)
            ]
            usable = [(b, r) for b, r in pairs if b == "prefix" or r == "keep"]
            if spec.members:
                usable = [("prefix", "rule")]
            if not usable or set(ranks) - set(every):
                raise ValueError("a rank or a cut that the adapter does not have")
            ways |= {(name, *way): tuple(ranks) for way in usable}
        return [(*way, ranks) for way, ranks in ways.items()]


def leaves_of(task: str) -> tuple[str, ...]:
    """The tasks of a group."""
    return MEMBERS if task == GROUP else (task,)


# Tasks, base and adapters as files --------------------------------------------------------------

SHOTS = 100  # number of the first example that prompts may show
_ASKED = re.compile(r"(\w+) (\d+):")
_CHOICE = """
task: {name}
custom_dataset: !function documents.{name}
output_type: multiple_choice
training_split: train
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: target
doc_to_choice: {choices}
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
_TEXT = """
task: {name}
custom_dataset: !function documents.{name}
output_type: generate_until
training_split: train
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 9, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
filter_list:
  - name: strict-match
    filter: [{{function: regex, regex_pattern: "(\\\\d+)"}}, {{function: take_first}}]
metadata: {{version: 1.0}}
"""
_GROUP = """
group: {name}
task: [{members}]
aggregate_metric_list: [{{metric: acc, weight_by_size: true}}]
"""
_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def target(task: str, at: int) -> int:
    """The right choice, or number, of an example."""
    return at * 7 % len(CHOICES) if task not in WRITTEN else 3 * at + 2


def passage(at: int) -> str:
    """What examples share: passages of one to three examples."""
    return f"p{int(at**0.85)}"


def documents(task: str) -> dict[str, list[dict]]:
    """The splits of a task."""
    places = {"test": range(TASKS[task]), "train": range(SHOTS, SHOTS + 4)}
    return {split: [_row(task, at) for at in here] for split, here in places.items()}


def _row(task: str, at: int) -> dict:
    about = {"question": f"{task} {at}:", "passage": passage(at)}
    return about | {"target": target(task, at), "answer": str(target(task, at))}


def write(root: Path) -> Path:
    """The base, the adapters and the tasks of the world."""
    _write_base(root / "base")
    for name, spec in ADAPTERS.items():
        for rank in spec.members or (spec.rank,):
            folder = root / (f"{name}{rank}" if spec.members else name)
            _write_adapter(folder, name, spec, rank, str(root / "base"))
    tasks = root / "tasks"
    tasks.mkdir()
    for name in TASKS:
        yaml = _TEXT if name in WRITTEN else _CHOICE
        text = yaml.format(name=name, choices=json.dumps(CHOICES))
        (tasks / f"{name}.yaml").write_text(text)
    (tasks / f"{GROUP}.yaml").write_text(_GROUP.format(name=GROUP, members=", ".join(MEMBERS)))
    functions = [
        f"def {name}(**_):\n    return {{k: Dataset.from_list(v) for k, v in R[{name!r}].items()}}\n"
        for name in TASKS
    ]
    rows = {name: documents(name) for name in TASKS}
    text = f"from datasets import Dataset\nR = {rows!r}\n{''.join(functions)}"
    (tasks / "documents.py").write_text(text)
    return root


def _write_base(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", unk_token="<unk>", pad_token="<eos>"
    )
    tokenizer.chat_template = _TEMPLATE
    torch.manual_seed(0)
    sizes = {"vocab_size": 2, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_adapter(folder: Path, name: str, spec: Spec, rank: int, base: str) -> None:
    """A PEFT folder, with the side-car that says how it was trained unless nothing does."""
    tensors = {}
    for module, (A, B) in factors(name, rank).items():
        at = f"base_model.model.{module}"
        tensors[f"{at}.lora_A.weight"], tensors[f"{at}.lora_B.weight"] = A, B
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": spec.alpha,
        "use_rslora": spec.rule == "sqrt",
        "target_modules": list(MODULES),
        "base_model_name_or_path": base,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if spec.method is None:
        return
    nested = list(spec.nested or (rank,))
    about = {"aurac_adapter": 1, "method": spec.method, "nested_ranks": nested, "base": base}
    about |= {"rule": spec.rule, "alpha": spec.alpha, "seed": spec.seed, "recipe": spec.recipe}
    (folder / "aurac.json").write_text(json.dumps(about))


@cache
def _updates() -> tuple[list[tuple], np.ndarray]:
    """Every cut of every adapter, and its dense update as a row."""
    cuts = [cut for name in ADAPTERS for cut in cuts_of(name)]
    return cuts, np.stack([dense(*cut) for cut in cuts])


@cache
def kind_of(cut: tuple | None) -> int:
    """A number for all cuts with the same dense update; -1 for the base."""
    return -1 if cut is None else _nearest(dense(*cut))


def _nearest(update: np.ndarray) -> int:
    distances = np.abs(_updates()[1] - update).max(axis=1)
    at = int(np.argmax(distances <= distances.min() + 1e-9))
    if distances[at] > 1e-4:
        raise ValueError("an update that is no cut of any adapter")
    return at


@cache
def outcomes(table: int, kind: int, task: str, prompts: str) -> tuple[int, ...]:
    """The table: whether a cut's answer to each example of a task is right."""
    cut = _updates()[0][kind] if kind >= 0 else ("base", 0)
    recipe = re.sub(r"\d$", "", cut[0])
    good = random.Random(f"{table} {recipe} {task}").choice((0.1, 0.4, 0.6, 0.7, 0.9, 1.0))
    draw = random.Random(f"{table} {kind} {task} {prompts}")
    good *= 0.5 if kind < 0 else draw.choice((1.0, 1.0, 0.97, 0.8))
    common = random.Random(f"{table} {task}")
    shared = [common.random() for _ in range(TASKS[task])]
    return tuple(int((u if draw.random() < 0.7 else draw.random()) < good) for u in shared)


def prompts_of(task: str, shots: int, chat: bool, tokens: int | None) -> str:
    """What of a command's options decides a task's requests, as the model sees them."""
    return f"{shots} {chat} {(tokens or 9) if task in WRITTEN else None}"


@register_model(MODEL)
class Table(LM):
    """Answers from the table; counts what it is asked: (kind, task, example, prompts)."""

    asked: Counter = Counter()
    fails: frozenset = frozenset()  # (kind, task) that it does not answer

    def __init__(self, pretrained, peft=None, table=0, **_):
        super().__init__()
        self.table, self.kind = int(table), -1 if peft is None else _nearest(_read(Path(peft)))

    def _asked(self, request) -> tuple[str, int, bool]:
        """Task, example, and whether the answer is right."""
        context, more = request.args[:2]
        found = _ASKED.findall(context)
        task, at = found[-1][0], int(found[-1][1])
        tokens = more["max_gen_toks"] if isinstance(more, dict) else None
        prompts = prompts_of(task, len(found) - 1, "<user>" in context, tokens)
        if (self.kind, task) in self.fails:
            raise RuntimeError("the table says nothing of it")
        if isinstance(more, dict) or more.strip() == CHOICES[0]:
            Table.asked[self.kind, task, at, prompts] += 1
            if log := os.environ.get("TABLE_LOG"):
                with Path(log).open("a") as file:
                    file.write(f"{os.getpid()} {self.kind} {task} {at}\n")
        return task, at, bool(outcomes(self.table, self.kind, task, prompts)[at])

    def loglikelihood(self, requests, disable_tqdm=False):
        """The right choice is the likeliest where the table says so, else the next one."""
        answers = []
        for request in requests:
            task, at, right = self._asked(request)
            best = (target(task, at) + (not right)) % len(CHOICES)
            mine = CHOICES.index(request.args[1].strip())
            answers.append((-1.0 - (mine - best) % len(CHOICES), mine == best))
        return answers

    def generate_until(self, requests, disable_tqdm=False):
        """The right number, or one more."""
        said = [self._asked(request) for request in requests]
        return [f"It is {target(task, at) + (not right)}" for task, at, right in said]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        """No task asks for it."""
        raise NotImplementedError


def _read(folder: Path) -> np.ndarray:
    """The dense update of a PEFT folder."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    rank, parts = config["r"], []
    scale = config["lora_alpha"] / (rank**0.5 if config["use_rslora"] else rank)
    for module in MODULES:
        A, B = (tensors[f"base_model.model.{module}.lora_{x}.weight"] for x in "AB")
        parts.append((scale * B.astype(np.float64) @ A.astype(np.float64)).ravel())
    return np.concatenate(parts)
