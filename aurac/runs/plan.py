"""The plan of a run: every cell, in the order in which curves become useful.

It is a pure function of the inputs: every process that is given the same settings makes the same
cells in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aurac.adapters.cut import Cut
from aurac.curves.question import Key
from aurac.files import sha256_json
from aurac.records.lines import CellIdentity

if TYPE_CHECKING:
    from aurac.tasks.evaltask import EvalTask

BLOCK_EXAMPLES = {"cpu": 128, "server": 256}  # what a kill loses at most
_ACCELERATOR_BLOCK = 1024
_LONG, _BLOCKS_JOINED = 64, 4  # tokens of an answer
_BASE_LEVEL, _FULL_LEVEL, _LOWEST_LEVEL = 0, 1, 2
Cuts = Mapping[Key, Mapping[int, Cut]]
"""Adapter by name, basis and rescale → rank, ascending → what is evaluated there."""
FitFactors = Mapping[tuple[Key, int, str], float]
"""Curve of rescale `fit`, rank, and task or group that was asked for → factor."""


@dataclass(frozen=True, eq=False)
class PlannedCell:
    """A cell to evaluate; without a cut it is the base alone (rank 0)."""

    task: EvalTask
    settings: str  #: hash of the run's settings
    tokens: Mapping[str, Any] = field(default_factory=dict)  #: what makes tokens of the prompts
    curve_key: Key | None = None  #: which curve it is of
    cut: Cut | None = None  #: what answers

    @property
    def rank(self) -> int:
        """Of the cut."""
        return self.cut.rank if self.cut else 0

    @cached_property
    def identity(self) -> CellIdentity:
        """What decides its outcome."""
        cut = self.cut
        return CellIdentity(
            settings=self.settings,
            prompts=sha256_json({**self.task.prompting, **self.tokens})[:32],
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
    def who(self) -> str:
        """Who answers, for progress and messages."""
        return f"{self.curve_key.adapter} at rank {self.rank}" if self.curve_key else "the base"

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


def plan(
    cuts: Cuts,
    tasks: Sequence[EvalTask],
    settings: str,
    tokens: Mapping[str, Any] = MappingProxyType({}),
    factors: FitFactors = MappingProxyType({}),
) -> list[PlannedCell]:
    """All cells, those that curves share once for each of them.

    The base comes first, then each curve's full rank and lowest, then the middles of what is
    between: after a third of the work every curve has its ends and its middle.
    """
    cells = [(_BASE_LEVEL, PlannedCell(task, settings, tokens)) for task in tasks]
    for curve_key, by_rank in cuts.items():
        for rank, level in coarse_levels([*by_rank]).items():
            for task in tasks:
                factor = factors.get((curve_key, rank, task.group or task.name))
                cut = replace(by_rank[rank], factor=factor)
                cells.append((level, PlannedCell(task, settings, tokens, curve_key, cut)))
    return [cell for _, cell in sorted(cells, key=lambda pair: pair[0])]


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
