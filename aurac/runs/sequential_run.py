"""Runs that stop when the question is answered: blocks of a random order of the documents.

After each block the decisions are made anew from what is stored (`aurac.stats.sequential`), so that
a run that was interrupted or killed decides as one that was not. The order of the documents is
drawn from the seed of the task options; groups are sampled in proportion to their tasks.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from aurac.curves.area import quadrature_weights
from aurac.curves.display import percent, points
from aurac.errors import UsageError
from aurac.report.escape import one_line
from aurac.runs.compare import Sweep, run
from aurac.runs.folder import open_run_folder
from aurac.runs.plan import plan
from aurac.runs.results import StoredPoints, TaskCells, gathered
from aurac.runs.schema import DecisionRecord, LookRecord, SequentialRecord
from aurac.runs.sequential_plan import Part, Sampler, Until, first_part
from aurac.runs.status import add_to_plan
from aurac.stats.intervals import interval
from aurac.stats.sentences import show_p
from aurac.stats.sequential import Series, decide
from aurac.stats.stopping import smallest_rank, width_reached
from aurac.terminal.console import stderr_console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from aurac.runs.finished import Request
    from aurac.runs.lock import Locks
    from aurac.runs.plan import PlannedCell, Variant
    from aurac.runs.run import Run
    from aurac.stats.sequential import Decision, Design
    from aurac.tasks.task import BuiltTask


def run_until(
    request: Request, until: Until, *, progress: bool = False, command: str | None = None
) -> Run:
    """As `aurac.runs.compare.run`, until the question is answered or the budget ends.

    Raises:
        UsageError: Options that do not go with it, or nothing to decide.
        AuracError, Interrupted: See `aurac.compare`.
    """
    _check(request, until)
    task = replace(request.settings.task, limit=0)
    execution = replace(request.execution, workers=1)
    request = replace(request, settings=replace(request.settings, task=task), execution=execution)
    kind = type("SequentialRun", (SequentialRun,), {"until": until})
    return run(
        request,
        progress=progress,
        command=command,
        begin=lambda session: first_part(session, until),
        kind=kind,
    )


def _check(request: Request, until: Until) -> None:
    how, settings = request.execution, request.settings
    if settings.task.limit is not None:
        raise UsageError(
            "--limit with --until",
            expected="a random sample: --limit takes the first documents",
            fix="give --budget DOCUMENTS in the place of --limit",
        )
    if how.shard or how.executor != "local" or (how.workers or 1) > 1:
        raise UsageError("--until with several processes", expected="one process on this machine")
    if settings.groups and until.width is None:
        raise UsageError(
            "--group with --until",
            expected="single checkpoints: what they decide holds for these alone",
            fix="evaluate all documents to compare recipes over training seeds",
        )
    if not until.ranks and until.width is None and len(request.checkpoints) < 2:
        raise UsageError(
            "--until decided with one adapter",
            expected="at least two to compare",
            fix="use --until width=0.02, or aurac recommend --until decided for the smallest rank",
        )


class SequentialRun(Sweep):
    """A run that goes on look by look."""

    until: Until

    def _computed(
        self,
        cells: list[PlannedCell],
        locks: Locks,
        command: str | None,
        started: float,
    ) -> Run:
        first = self.session
        if not isinstance(first, Part) or first.whole is None:
            raise TypeError("a sequential run begins with a part of its session")
        self.sampler, self._locks = Sampler(first.whole, self.until), locks
        self._ends = started + (self.until.seconds or float("inf"))
        self.notes: list[str] = []
        counts, decisions = self._ranks() if self.until.ranks else self._curves()
        part = self.session = self.sampler.part(counts, self.session.variants)
        cells = part.cells()
        self._fill(cells)
        results, _ = gathered(part, cells, self.store)
        design, budget = self.until.design, self.until.documents or self.until.seconds
        record = SequentialRecord(
            until=self.until.words,
            alpha=design.alpha,
            margin=design.margin,
            gamma=design.gamma,
            futility=design.futility,
            budget=None if budget is None else str(budget),
            order_seed=self.sampler.seed,
            documents=counts,
            decisions=decisions,
            notes=self.notes,
        )
        results = msgspec.structs.replace(results, sequential=record)
        open_run_folder(self.folder, part.tasks, part.request(), command)
        return self._written(results, locks, len(cells), command, started)

    def _fill(self, cells: Sequence[PlannedCell]) -> StoredPoints:
        """Compute what is missing of the cells, and read them."""
        add_to_plan(self.folder, [cell.row for cell in cells])
        return super()._fill(cells)

    def _goes_on(self, needs: Mapping[Any, Any]) -> bool:
        """Whether more documents are needed and the time is not over."""
        if needs and time.time() >= self._ends:
            self.notes.append("The budget of time ended before everything was decided.")
            return False
        return bool(needs)

    def _scores(
        self, points: StoredPoints, variant: Variant, task: BuiltTask, ranks: Sequence[int]
    ) -> NDArray[np.float64] | None:
        """(K, n) scores in the random order of the documents; None where a cell failed."""
        table = TaskCells(task, points.fetch)
        rows = [table.scores(variant, rank) for rank in ranks]
        kept = [row for row in rows if not isinstance(row, str)]
        for row in rows:
            if isinstance(row, str):
                note = f"{variant.name} on {task.name} is left out: {row}"
                self.notes += [note] if note not in self.notes else []
        if len(kept) < len(rows):
            return None
        return np.stack(kept)[:, self.sampler.sampled(task.name, task.n_docs)]

    def _curves(self) -> tuple[dict[str, int], list[DecisionRecord]]:
        """Pairs or widths: documents of each task, and what was decided."""
        counts = {task.name: task.n_docs for task in self.session.built if task.group is None}
        answer = self._pairs if self.until.width is None else self._widths
        while True:
            part = self.sampler.part(counts, self.session.variants)
            points = self._fill(part.cells())
            areas = {}
            for task in (task for task in part.built if task.group is None):
                for variant in (v for v in part.variants if v.role == "default"):
                    scores = self._scores(points, variant, task, variant.ranks)
                    if scores is not None:
                        areas[task.name, variant] = quadrature_weights(variant.ranks) @ scores
            decisions, needs = answer(areas)
            self._say(decisions)
            if not self._goes_on(needs):
                return counts, decisions
            counts |= needs

    def _series(self, task: str, values: NDArray[np.float64]) -> Series:
        return Series(values, self.sampler.totals[task], **self.sampler.labels(task, values.size))

    def _pairs(
        self, areas: Mapping[tuple[str, Variant], NDArray[np.float64]]
    ) -> tuple[list[DecisionRecord], dict[str, int]]:
        family: dict[tuple[str, str, str], Series] = {}
        for (task, a), (where, b) in combinations(areas, 2):
            first = next(v for name, v in areas if name == task)
            if task == where and (self.until.design.margin is None or a is first):
                if a.ranks != b.ranks:
                    raise UsageError(
                        f"{a.name} has ranks {a.ranks} and {b.name} has {b.ranks}",
                        expected="the same ranks",
                        fix="give --ranks with those that both have",
                    )
                gap = areas[task, b] - areas[task, a]
                family[task, a.name, b.name] = self._series(task, gap)
        decided = decide(self.until.design, family)
        records, needs = [], dict[str, int]()
        for (task, one, other), decision in decided.items():
            question = "difference" if self.until.design.margin is None else "margin"
            records.append(record_of(decision, self.until.design, question, task, one, b=other))
            if decision.needs is not None:
                needs[task] = max(decision.needs, needs.get(task, 0))
        return records, needs

    def _widths(
        self, areas: Mapping[tuple[str, Variant], NDArray[np.float64]]
    ) -> tuple[list[DecisionRecord], dict[str, int]]:
        records, needs = [], dict[str, int]()
        for (task, variant), values in areas.items():
            labels = self.sampler.labels(task, values.size)
            reached = width_reached(values, self.until.width or 0.0, **labels)
            total = self.sampler.totals[task]
            planned = self.until.design.documents(total)
            left = [n for n in planned if n > values.size]
            if left and not reached:
                needs[task] = left[0]
            estimate = interval(values, **labels)
            verdict = "width reached" if reached else "continue" if left else "width not reached"
            name, look = variant.name, len(planned) - len(left)
            words = f"AURAC of {name} on {task} is {percent(estimate.value)} %"
            ends = (estimate.low, estimate.high)
            if estimate.low is not None and estimate.high is not None:
                level = f"{100 * estimate.level:g} %"
                words += f" ({level} interval {percent(ends[0])} to {percent(ends[1])})"
            words += f": {verdict} after {values.size:,} of {total:,} documents."
            records.append(
                DecisionRecord(
                    question="width",
                    task=task,
                    a=name,
                    verdict=verdict,
                    documents=values.size,
                    of=total,
                    look=look,
                    looks=len(planned),
                    mean=estimate.value,
                    low=ends[0],
                    high=ends[1],
                    level=estimate.level,
                    sentence=words,
                )
            )
        return records, needs

    def _ranks(self) -> tuple[dict[str, int], list[DecisionRecord]]:
        """The smallest non-inferior rank of each adapter on each task."""
        design, sampler = self.until.design, self.sampler
        asked = [(task, v) for task in sampler.tasks for v in self.session.variants]
        losses: dict[Any, dict[int, Series]] = {key: {} for key in asked}
        while True:
            needs, records, found = {}, [], []
            for task, v in asked:
                top, below = v.ranks[-1], v.ranks[-2::-1]
                result = smallest_rank(design, top, below, losses[task, v])
                for rank, decision in result.decisions.items():
                    records.append(
                        record_of(decision, design, "rank", task.name, v.name, rank=rank, top=top)
                    )
                if result.asks is not None:
                    known = result.decisions.get(result.asks)
                    count = known.needs if known else None
                    first = design.documents(sampler.totals[task.name])[0]
                    needs[task, v] = result.asks, count or first
                unseen = [rank for rank in below if rank not in result.decisions]
                found.append(rank_sentence(v.name, task.name, result.rank, top, design, unseen))
            self._say(records)
            if not self._goes_on(needs):
                break
            self._look_at_ranks(needs, losses)
            asked = [key for key in asked if losses[key] or key not in needs]
        self.notes += found
        seen = [losses[key] for key in asked]
        ranks = set.intersection(*(set(each) for each in seen)) if seen else set()
        self.session.variants = [
            replace(v, ranks=tuple(sorted({*ranks, v.ranks[-1]}))) for v in self.session.variants
        ]
        counts = {
            task.name: min(
                (
                    len(one.differences)
                    for key in asked
                    if key[0] is task
                    for one in losses[key].values()
                ),
                default=design.documents(sampler.totals[task.name])[0],
            )
            for task in sampler.tasks
        }
        return counts, records

    def _look_at_ranks(
        self,
        needs: Mapping[tuple[BuiltTask, Variant], tuple[int, int]],
        losses: Mapping[Any, dict[int, Series]],
    ) -> None:
        """Evaluate a rank and the reference on the documents of the next look, for each curve."""
        cells, cuts = [], {}
        for (task, v), (rank, count) in needs.items():
            cut = cuts[task, v] = self.sampler.cut(task, count)
            two = [replace(v, ranks=(rank, v.ranks[-1]))]
            planned = plan(two, cut.members or (cut,), self.session.outline)
            cells += [cell for cell in planned if cell.variant is not None]
        points = self._fill(cells)
        for (task, v), (rank, _) in needs.items():
            scores = self._scores(points, v, cuts[task, v], (rank, v.ranks[-1]))
            if scores is None:
                losses[task, v].clear()
            else:
                losses[task, v][rank] = self._series(task.name, scores[0] - scores[1])

    def _say(self, decisions: Sequence[DecisionRecord]) -> None:
        if self.progress:
            for one in decisions[-1:] if self.until.ranks else decisions:
                stderr_console().print(one_line(_short(one)), markup=False, highlight=False)


def record_of(
    decision: Decision,
    design: Design,
    question: str,
    task: str,
    a: str,
    *,
    b: str | None = None,
    rank: int | None = None,
    top: int | None = None,
) -> DecisionRecord:
    """A decision as `results.json` has it."""
    last = decision.path[-1]
    margin = points(design.margin) if design.margin else ""
    who, than = (f"rank {rank} of {a}", f"rank {top}") if rank else (str(b), a)
    heads = {
        "superior": f"{who} is better than {than}",
        "inferior": f"{who} is worse than {than}" + (f" by more than {margin}" if margin else ""),
        "non-inferior": f"{who} is at most {margin} worse than {than}",
        "futile": f"{who} against {than}: no answer is to be expected",
        "continue": f"{who} against {than}: not decided yet",
    }
    head = heads.get(decision.verdict, f"{who} against {than}: {decision.verdict}")
    what = "accuracy" if rank else "AURAC"
    numbers = (
        f"{what} differs by {percent(decision.estimate)} points "
        f"({100 * decision.level:g} % interval {percent(decision.low)} to "
        f"{percent(decision.high)}), adjusted p {show_p(decision.p_adjusted)}"
    )
    where = (
        f"look {len(decision.path)} of {decision.planned}, {decision.documents:,} of "
        f"{decision.total:,} documents, z = {minus(last.z)}, boundary {last.boundary:.2f}"
    )
    return DecisionRecord(
        question=question,  # type: ignore[arg-type]
        task=task,
        a=a,
        b=b,
        rank=rank,
        verdict=decision.verdict,
        documents=decision.documents,
        of=decision.total,
        look=len(decision.path),
        looks=decision.planned,
        z=last.z,
        boundary=last.boundary,
        p=decision.p,
        p_adjusted=decision.p_adjusted,
        estimate=decision.estimate,
        mean=decision.mean,
        low=decision.low,
        high=decision.high,
        level=decision.level,
        predictive=decision.predictive,
        path=[
            LookRecord(
                documents=look.documents, z=look.z, boundary=look.boundary, futility=look.futility
            )
            for look in decision.path
        ],
        sentence=f"{task}: {head}: {numbers} ({where}).",
    )


def rank_sentence(
    name: str, task: str, rank: int, top: int, design: Design, unseen: Sequence[int]
) -> str:
    """The rank to use, in one sentence."""
    margin = points(design.margin or 0.0)
    if rank == top:
        text = f"no rank of {name} below {top} is shown to lose less than {margin}"
    else:
        text = f"use rank {rank} of {name}: it loses less than {margin} against rank {top}"
    if unseen:
        text += f"; not evaluated: rank {', '.join(map(str, unseen))}"
    return f"{task}: {text}."


def _short(one: DecisionRecord) -> str:
    who = f"{one.b} − {one.a}" if one.b else one.a + (f" rank {one.rank}" if one.rank else "")
    z = "" if one.z is None else f", z = {minus(one.z)}, boundary {one.boundary:.2f}"
    return f"{one.documents} of {one.of} documents of {one.task}: {who}: {one.verdict}{z}"


def minus(z: float) -> str:
    """Two digits with a true minus sign."""
    return f"{z:.2f}".replace("-", "−")
