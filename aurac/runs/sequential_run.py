"""Runs that stop when the question is answered: blocks of a random order of the documents.

After each block the decisions are made anew from what is stored (`aurac.stats.sequential`), so that
a run that was interrupted or killed decides as one that was not. The order of the documents is
drawn from the seed of the task options; groups are sampled in proportion to their tasks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aurac.curves.area import quadrature_weights
from aurac.notebook import Run
from aurac.records.decisions import DecisionRecord, SequentialRecord
from aurac.runs.compare import Sweep, run
from aurac.runs.folder import open_run_folder
from aurac.runs.plan import PlannedCell, Variant, plan
from aurac.runs.progress import say
from aurac.runs.results import CellReader
from aurac.runs.sequential_plan import Counts, Part, Sampler, Until, part_of, sequential
from aurac.runs.sequential_records import (
    fewer_documents,
    rank_sentence,
    record_of,
    short_line,
    width_record,
)
from aurac.runs.settings import Request
from aurac.runs.status import add_to_plan
from aurac.stats.design import Series, width_reached
from aurac.stats.intervals import interval
from aurac.stats.sequential import decide, smallest_rank
from aurac.tasks.task import BuiltTask
from aurac.terminal import one_line

Areas = dict[tuple[str, Variant], NDArray[np.float64]]  # (task, adapter) → (n,) in [0, 1]
Losses = dict[tuple[BuiltTask, Variant], dict[int, Series]]  # by rank


def run_until(
    request: Request, until: Until, *, progress: bool = False, command: str | None = None
) -> Run:
    """As `aurac.runs.compare.run`, until the question is answered or the budget ends.

    Raises:
        UsageError: Options that do not go with it, or nothing to decide.
        AuracError, Interrupted: See `aurac.compare`.
    """
    return run(
        sequential(request, until),
        progress=progress,
        command=command,
        begin=lambda session: part_of(session, until),
        kind=partial(SequentialRun, until),
    )


class SequentialRun(Sweep):
    """A run that goes on look by look."""

    def __init__(self, until: Until, *parts: Any) -> None:
        super().__init__(*parts)
        self.until = until

    def _computed(self, cells: list[PlannedCell]) -> Run:
        begun = self.session
        if not isinstance(begun, Part) or begun.whole is None:
            raise TypeError("a sequential run begins with a part of its session")
        self.sampler = Sampler(begun.whole, self.until)
        self._ends = self.started + (self.until.seconds or float("inf"))
        self.notes: list[str] = []
        counts, decisions = self._ranks() if self.until.ranks else self._curves()
        part = self.session = self.sampler.part(counts, self.session.variants)
        cells = part.cells()
        add_to_plan(self.folder, [cell.row for cell in cells])
        results = self._results(cells)
        design, budget = self.until.design, self.until.documents or self.until.seconds
        record = SequentialRecord(
            until=self.until.words,
            alpha=design.alpha,
            margin=design.margin,
            gamma=design.gamma_of(len(decisions) if self.until.pairs and decisions else 1),
            futility=design.futility,
            budget=None if budget is None else str(budget),
            order_seed=self.sampler.seed,
            documents={task.name: task.n_docs for task in part.built if task.group is None},
            decisions=decisions,
            notes=[*self.notes, *fewer_documents(counts, decisions)],
        )
        results = msgspec.structs.replace(results, sequential=record)
        open_run_folder(self.folder, part.tasks, part.request(), self.command)
        return self._written(results, len(cells))

    def _points(self, cells: list[PlannedCell]) -> CellReader:
        """Plan cells, compute what is missing of them, and read them."""
        add_to_plan(self.folder, [cell.row for cell in cells])
        return self._filled(cells)

    def _goes_on(self, needs: Mapping[Any, Any]) -> bool:
        """Whether more documents are needed and the time is not over."""
        if needs and time.time() >= self._ends:
            self.notes.append("The budget of time ended before everything was decided.")
            return False
        return bool(needs)

    def _scores(
        self, points: CellReader, variant: Variant, task: BuiltTask, ranks: Sequence[int]
    ) -> NDArray[np.float64] | None:
        """(K, n) scores in the random order of the documents; None where a cell failed."""
        rows = [points.scores(task, variant, rank) for rank in ranks]
        kept = [row for row in rows if not isinstance(row, str)]
        for row in rows:
            if isinstance(row, str):
                note = f"{variant.name} on {task.name} is left out: {row}"
                self.notes += [note] if note not in self.notes else []
        if len(kept) < len(rows):
            return None
        return np.stack(kept)[:, self.sampler.sampled(task.name, task.n_docs)]

    def _curves(self) -> tuple[Counts, list[DecisionRecord]]:
        """Pairs or widths: documents of each task and adapter, and what was decided."""
        variants = [v for v in self.session.variants if v.role == "default"]
        counts = self.sampler.first(variants)
        answer = self._pairs if self.until.width is None else self._widths
        while True:
            part = self.sampler.part(counts, self.session.variants)
            points = self._points(part.cells())
            areas: Areas = {}
            for task in self.sampler.tasks:
                for v in variants:
                    cut = self.sampler.cut(task, counts[task.name, v.name])
                    scores = self._scores(points, v, cut, v.ranks)
                    if scores is not None:
                        areas[task.name, v] = quadrature_weights(v.ranks) @ scores
            decisions, needs = answer(areas)
            self._say(decisions)
            if not self._goes_on(needs):
                return counts, decisions
            counts |= needs

    def _series(self, task: str, values: NDArray[np.float64]) -> Series:
        return Series(values, self.sampler.totals[task], **self.sampler.labels(task, values.size))

    def _pairs(self, areas: Areas) -> tuple[list[DecisionRecord], Counts]:
        """Decide all pairs; an adapter needs documents as long as one of its pairs is open."""
        family: dict[tuple[str, str, str], Series] = {}
        every, first = self.until.design.margin is None, self.session.variants[0]
        for (task, a), (where, b) in combinations(areas, 2):
            if task == where and (every or a is first):
                shared = min(areas[task, a].size, areas[task, b].size)
                gap = areas[task, b][:shared] - areas[task, a][:shared]
                family[task, a.name, b.name] = self._series(task, gap)
        records, needs = list[DecisionRecord](), dict[tuple[str, str], int]()
        question = "difference" if every else "margin"
        for (task, name, other), decision in decide(self.until.design, family).items():
            records.append(record_of(decision, self.until.design, question, task, name, b=other))
            if decision.needs is not None:
                needs |= {(task, key): decision.needs for key in (name, other)}
        return records, needs

    def _widths(self, areas: Areas) -> tuple[list[DecisionRecord], Counts]:
        """Decide for each adapter and task whether the interval is narrow enough."""
        records, needs = list[DecisionRecord](), dict[tuple[str, str], int]()
        width = self.until.width or 0.0
        for (task, variant), values in areas.items():
            labels = self.sampler.labels(task, values.size)
            planned = self.until.design.documents(self.sampler.totals[task])
            left = [n for n in planned if n > values.size]
            reached = width_reached(values, width, **labels)
            if left and not reached:
                needs[task, variant.name] = left[0]
            verdict = "width reached" if reached else "continue" if left else "width not reached"
            estimate, look = interval(values, **labels), len(planned) - len(left)
            records.append(width_record(estimate, verdict, task, variant.name, look, planned))
        return records, needs

    def _ranks(self) -> tuple[Counts, list[DecisionRecord]]:
        """The smallest non-inferior rank of each adapter on each task."""
        whole = self.sampler.session
        whole.fit(self.folder)
        self.session.variants = whole.variants  # workers are told the factors of all ranks
        losses: Losses = {(task, v): {} for task in self.sampler.tasks for v in whole.variants}
        while True:
            records, needs, sentences = self._rank_decisions(losses)
            self._say(records[-1:])
            if not self._goes_on(needs):
                break
            self._look_at_ranks(needs, losses)
        self.notes += sentences
        counts, variants = self.sampler.first(whole.variants), []
        for v in whole.variants:
            seen = {task.name: ranks for (task, who), ranks in losses.items() if who is v and ranks}
            for task, ranks in seen.items():
                counts[task, v.name] = min(len(series.differences) for series in ranks.values())
            shared = set(v.ranks[-1:]).union(
                *[set.intersection(*map(set, seen.values()))] if seen else []
            )
            variants.append(replace(v, ranks=tuple(sorted(shared))))
        self.session.variants = variants
        return counts, records

    def _rank_decisions(
        self, losses: Losses
    ) -> tuple[list[DecisionRecord], dict[tuple[BuiltTask, Variant], tuple[int, int]], list[str]]:
        """What is decided, the rank and the documents that each curve needs, and the answers."""
        design = self.until.design
        needs, records, sentences = {}, list[DecisionRecord](), list[str]()
        for (task, v), known in losses.items():
            top, below = v.ranks[-1], v.ranks[-2::-1]
            result = smallest_rank(design, top, below, known)
            for rank, decision in result.decisions.items():
                records.append(
                    record_of(decision, design, "rank", task.name, v.name, rank=rank, top=top)
                )
            if result.asks is not None:
                before = result.decisions.get(result.asks)
                first = design.documents(self.sampler.totals[task.name])[0]
                needs[task, v] = result.asks, (before.needs if before else None) or first
            unseen = [rank for rank in below if rank not in result.decisions]
            sentences.append(rank_sentence(v.name, task.name, result.rank, top, design, unseen))
        return records, needs, sentences

    def _look_at_ranks(
        self, needs: Mapping[tuple[BuiltTask, Variant], tuple[int, int]], losses: Losses
    ) -> None:
        """Evaluate a rank and the reference on the documents of the next look, for each curve."""
        cells, cuts = [], {}
        for (task, v), (rank, count) in needs.items():
            cut = cuts[task, v] = self.sampler.cut(task, count)
            two = [replace(v, ranks=(rank, v.ranks[-1]))]
            planned = plan(two, cut.members or (cut,), self.session.outline)
            cells += [cell for cell in planned if cell.variant is not None]
        points = self._points(cells)
        for (task, v), (rank, _) in needs.items():
            scores = self._scores(points, v, cuts[task, v], (rank, v.ranks[-1]))
            if scores is None:
                del losses[task, v]
            else:
                losses[task, v][rank] = self._series(task.name, scores[0] - scores[1])

    def _say(self, decisions: Sequence[DecisionRecord]) -> None:
        """Print what the last look said."""
        last = max((decision.look for decision in decisions), default=0)
        for decision in decisions:
            if self.progress and decision.look == last:
                say(one_line(short_line(decision)))
