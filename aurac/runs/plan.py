"""The plan of a run: every cell, in the order in which curves become useful.

It is a pure function of the inputs: every process that is given the same settings makes the same
cells in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aurac.adapters.cut import Cut, Sweep
from aurac.files import sha256_json
from aurac.records.lines import CellIdentity, DocumentKey

if TYPE_CHECKING:
    from aurac.tasks.evaltask import EvalTask

BLOCK_EXAMPLES = {"cpu": 128, "server": 256}  # what a kill loses at most
_ACCELERATOR_BLOCK = 1024
_LONG, _BLOCKS_JOINED = 64, 4  # tokens of an answer
Factors = Mapping[tuple[Sweep, int, str], float]
"""Sweep of rescale `fit`, rank, and task or group that was asked for → factor."""

_BASE_LEVEL, _FULL_LEVEL, _LOWEST_LEVEL = 0, 1, 2


@dataclass(frozen=True, eq=False)
class PlannedCell:
    """A cell to evaluate; without a sweep it is the base alone (rank 0)."""

    sweep: Sweep | None
    rank: int
    task: EvalTask
    settings: str  #: hash of the run's settings
    tokens: Mapping[str, Any] = field(default_factory=dict)  #: what makes tokens of the prompts
    factor: float | None = None  #: of rescale `fit`

    @cached_property
    def cut(self) -> Cut | None:
        """What answers."""
        return self.sweep.at(self.rank, self.factor) if self.sweep else None

    @property
    def prompting(self) -> dict[str, Any]:
        """What its prompts and their tokens are made with, beside the task's own settings."""
        return {**self.task.prompting, **self.tokens}

    @cached_property
    def identity(self) -> CellIdentity:
        """What decides its outcome."""
        cut = self.cut
        return CellIdentity(
            settings=self.settings,
            prompts=sha256_json(self.prompting)[:32],
            adapter=cut.adapter.sha256 if cut else None,
            rank=self.rank,
            basis=cut.basis if cut else None,
            rescale=cut.rescale if cut else None,
            factor=cut.factor if cut else None,
            task=self.task.name,
            version=self.task.version,
            scoring=self.task.scoring,
        )

    @cached_property
    def key(self) -> str:
        """Its name in the run folder."""
        return self.identity.key

    @property
    def documents(self) -> tuple[DocumentKey, ...]:
        """The n examples that are asked for."""
        return keys_of(self.task)

    @property
    def who(self) -> str:
        """Who answers, for progress and messages."""
        return f"{self.sweep.name} at rank {self.rank}" if self.sweep else "the base"

    @property
    def label(self) -> str:
        """The same, and on which task."""
        return f"{self.who} on {self.task.name}"

    def blocks(self, places: Sequence[int], device_kind: str) -> list[list[int]]:
        """Ascending places of examples in the blocks of a fixed grid.

        Blocks of short generated answers are larger on a CPU, since each ends with a few long
        answers in flight: two ranks of 384 bundled word problems took 206 passes in one block and
        408 in three.
        """
        size = BLOCK_EXAMPLES.get(device_kind, _ACCELERATOR_BLOCK)
        if device_kind == "cpu" and (self.task.token_limit or _LONG) < _LONG:
            size *= _BLOCKS_JOINED
        return [list(block) for _, block in groupby(places, lambda place: place // size)]


def asked_as(task: EvalTask) -> str:
    """The group that brought a task along, or the task itself."""
    return task.group or task.name


def keys_of(task: EvalTask) -> tuple[DocumentKey, ...]:
    """The n examples of a task, as cells name them."""
    known: Any = task.__dict__.get("_keys")
    if known is None:
        rows = zip(task.doc_ids, task.doc_hashes, task.prompt_hashes, strict=True)
        known = task.__dict__["_keys"] = tuple(DocumentKey(*row) for row in rows)
    return tuple(known)


def plan(
    sweeps: Sequence[Sweep],
    tasks: Sequence[EvalTask],
    settings: str,
    tokens: Mapping[str, Any] = MappingProxyType({}),
    factors: Factors = MappingProxyType({}),
) -> list[PlannedCell]:
    """All cells, those that sweeps share once for each of them.

    The base comes first, then each sweep's full rank and lowest, then the middles of what is
    between: after a third of the work every curve has its ends and its middle.
    """
    about = settings, tokens
    cells = [(_BASE_LEVEL, PlannedCell(None, 0, task, *about)) for task in tasks]
    for sweep in sweeps:
        for rank, level in coarse_levels(sweep.ranks).items():
            for task in tasks:
                factor = factors.get((sweep, rank, asked_as(task)))
                cells.append((level, PlannedCell(sweep, rank, task, *about, factor)))
    cells.sort(key=lambda pair: pair[0])
    return [cell for _, cell in cells]


def distinct(cells: Iterable[PlannedCell]) -> list[PlannedCell]:
    """Each cell once."""
    return list({cell.key: cell for cell in reversed(list(cells))}.values())[::-1]


def coarse_levels(ranks: Sequence[int]) -> dict[int, int]:
    """Rank → level: the largest first, then the smallest, then the middles of what is between.

    The ranks ascend, and middles are by position: of 1, 2, 4, 8, 16 the middle is 4.
    """
    levels = {ranks[-1]: _FULL_LEVEL}
    levels.setdefault(ranks[0], _LOWEST_LEVEL)
    gaps, level = [(0, len(ranks) - 1)], _LOWEST_LEVEL + 1
    while gaps:
        inner = []
        for low, high in gaps:
            if high - low > 1:
                middle = (low + high) // 2
                levels[ranks[middle]] = level
                inner += [(low, middle), (middle, high)]
        gaps, level = inner, level + 1
    return levels
