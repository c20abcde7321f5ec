"""Tasks and bases that cost nothing, for tests of what happens around cells."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from aurac.engine.options import EngineOptions
from aurac.runs.plan import plan
from aurac.runs.runner import Runner, Tools
from aurac.runs.store import CellStore
from aurac.tasks.task import CellOutcome


class Model(torch.nn.Module):
    """Gives the logits that it holds."""

    def __init__(self, logits=0.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.logits = logits

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
    effort: float = 1.0
    version: str = "1"
    strata: None = None

    @property
    def doc_ids(self):
        return tuple(map(str, range(self.n)))

    doc_hashes = doc_ids
    documents_sha256 = "d" * 64

    @property
    def prompts_sha256(self):
        return f"prompts of {self.name}"

    @property
    def n_requests(self):
        return self.n

    def evaluate(self, model, tokenizer, options, progress=None, **_):
        self.calls.append(options)
        if self.act is not None:
            self.act(options)
        for _ in range(self.passes):
            time.sleep(self.seconds / self.passes)
            model(torch.zeros(2))
        progress(self.n)
        scores = np.array([math.fmod(len(self.name) + k, 2) for k in range(self.n)])
        return CellOutcome({"acc,none": scores}, [f"{self.name}{k}" for k in range(self.n)])


def base(model=None):
    return SimpleNamespace(
        name="b", sha256="b" * 64, dtype="float32", device="cpu", model=model, tokenizer=None
    )


def planned(*tasks):
    """One cell for each task: the base on it."""
    return plan([], tasks, base(), "batching", "0.0")


def runner(folder, tools=None, model=None, options=None):
    loaded = base(model or Model())
    return Runner(lambda: loaded, CellStore(folder), options or EngineOptions(), tools or Tools())
