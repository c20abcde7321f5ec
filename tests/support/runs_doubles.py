"""Tasks, adapters and a backend that need no model, for tests of how cells are computed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from types import SimpleNamespace

from aurac.backends.backend import Backend as AnyBackend
from aurac.records.folder import RunFolder
from aurac.records.lines import DocumentKey
from aurac.runs.compute import CellWork, compute
from aurac.runs.plan import PlannedCell


@dataclass
class Task:
    """A task of n examples, whose answers are `name` and the place.

    `act` is called with the places of each block; it may raise.
    """

    name: str
    n: int = 5
    act: object = lambda _places: None
    version: str = "1"
    scoring: str = "s"
    prompting: dict = field(default_factory=dict)
    token_limit: int | None = None
    group: str | None = None
    blocks: list = field(default_factory=list)

    def __len__(self):
        return self.n

    @property
    def keys(self):
        return tuple(DocumentKey(*3 * (str(place),)) for place in range(self.n))

    def instances(self, places):
        return [SimpleNamespace(args=("question",)) for _ in places]

    def ask(self, _lm, places):
        self.act(places)
        self.blocks.append(list(places))
        return [f"{self.name}{place}" for place in places]

    def judge(self, places, answers):
        metrics = {"acc,none": [float(place % 2) for place in places]}
        return SimpleNamespace(metrics=metrics, responses=answers, greedy=None, filtered={})

    def aggregates(self, metrics):
        return {name: sum(column) / len(column) for name, column in metrics.items()}


class Backend(AnyBackend):
    """Answers nothing: the tasks do."""

    device_kind = "cpu"

    def __init__(self):
        super().__init__("none", {}, None, None)

    @contextlib.contextmanager
    def lm(self, cut):
        """The cut itself."""
        yield cut


def work_in(folder):
    """Where cells are kept, and how they are settled, in order."""
    work, ended = CellWork(RunFolder(folder)), []
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    work.progress.settled = lambda cell, how: ended.append((cell.task.name, how))
    return work, ended


def planned(*tasks):
    """The cells of the base on tasks."""
    return [PlannedCell(task, "settings") for task in tasks]


def compute_all(folder, cells):
    """Compute cells; how they were settled."""
    work, ended = work_in(folder)
    compute(cells, Backend(), work)
    return ended
