"""Tasks and bases that cost nothing, for tests of what happens around cells."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch

from aurac.engine import EngineOptions
from aurac.records.cell import DocumentKey
from aurac.records.store import CellStore
from aurac.runs.folder import RequestedTask, RequestSettings, RunRequest
from aurac.runs.plan import plan
from aurac.runs.progress import NoProgress
from aurac.runs.runner import RunContext, Runner
from aurac.tasks.metrics import Outcome
from aurac.tasks.options import TaskOptions

REQUEST = RunRequest(
    settings=RequestSettings(dtype="float32", num_fewshot=5),
    adapters={"a": "1"},
    curves=[("a · prefix · rule", [1, 2])],
    tasks={"t": RequestedTask(first_prompt="x", documents=3)},
)


class Model(torch.nn.Module):
    """Gives the logits that it holds."""

    def __init__(self, logits=0.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.logits = logits
        self.config = SimpleNamespace(max_position_embeddings=8)

    def forward(self, input_ids):
        return SimpleNamespace(logits=torch.full((1, len(input_ids), 3), self.logits))


@dataclass(eq=False)
class Task:
    """Scores that are a function of the name alone; `act` is called with the options first."""

    name: str
    n: int = 3
    act: object = None
    seconds: float = 0.0
    passes: int = 1
    calls: list = field(default_factory=list)
    blocks: list = field(default_factory=list)
    effort: float = 1.0
    version: str = "1"
    strata: None = None
    output_type: str = "multiple_choice"
    num_fewshot: int = 0
    options: TaskOptions = field(default_factory=partial(TaskOptions, seed=1))
    template_sha256: None = None
    settings: dict = field(default_factory=dict)
    lm_eval: str = "0.0"
    aggregated: dict = field(default_factory=dict)
    places: tuple[int, ...] | None = None

    @property
    def doc_ids(self):
        return tuple(map(str, range(self.n)))

    doc_hashes = prompt_hashes = doc_ids

    @property
    def keys(self):
        return tuple(DocumentKey(doc, doc, doc) for doc in self.doc_ids)

    @property
    def spans(self):
        return tuple((k, k + 1) for k in range(self.n))

    @property
    def n_requests(self):
        return self.n

    @property
    def leaf(self):
        return SimpleNamespace(
            name=self.name, scoring="", aggregates=lambda _columns: self.aggregated
        )

    instances = ()

    def evaluation(self, lm):
        return Evaluation(self, lm)


@dataclass(eq=False)
class Evaluation:
    task: Task
    lm: object

    def block(self, places):
        task = self.task
        task.calls.append(self.lm.options)
        if task.act is not None:
            task.act(self.lm.options)
        for _ in range(task.passes):
            time.sleep(task.seconds / task.passes)
            self.lm.model(torch.zeros(2))
        self.lm.progress(len(places))
        task.blocks.append(list(places))
        scores = np.array([math.fmod(len(task.name) + k, 2) for k in places])
        return Outcome({"acc,none": scores}, [f"{task.name}{k}" for k in places], {})


def base(model=None):
    return SimpleNamespace(
        name="b",
        sha256="b" * 64,
        dtype="float32",
        device="cpu",
        model=model,
        tokenizer=None,
        tokenizer_sha256=None,
    )


def planned(*tasks):
    """One cell for each task: the base on it."""
    return plan([], tasks, base())


def runner(folder, model=None, options=None, **context):
    """A runner in a run folder, with what its context holds beside the store."""
    loaded = base(model or Model())
    return Runner(lambda: loaded, options or EngineOptions(), run_context(folder, **context))


def run_context(folder, **context):
    """A context of a run folder; without locks it is alone there."""
    return RunContext(CellStore(folder), **{"locks": NoLocks(), **context})


def stored(folder, cell):
    """The cell with exactly the documents that are asked for."""
    return CellStore(folder).read(cell.identity.key, cell.documents)


class NoLocks:
    """Locks that are always free."""

    def acquire(self, key):
        return True

    def deaths(self, key):
        return 0

    def release(self, key): ...

    clear_deaths = release

    def step(self): ...


class Recorder(NoProgress):
    """Keeps what progress is told of: requests counted, and (task, how) of cells that ended."""

    def __init__(self):
        self.counts, self.ended = [], []

    def documents(self, count):
        self.counts.append(count)

    def settled(self, cell, outcome):
        self.ended.append((cell.task.name, outcome.split(" in ")[0]))
