"""A run folder as it is read: its adapters and tasks, and curves made of its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from typing_extensions import Self

from aurac.curves.curve import Curve
from aurac.curves.metrics import LOSS, wanted_metrics
from aurac.curves.question import Question, recipes_of
from aurac.errors import RunFolderError, UsageError
from aurac.files import read_json
from aurac.records.cells import Cell, CellStore
from aurac.records.documents import Documents
from aurac.records.lines import DocumentKey, examples_sha256
from aurac.records.manifest import REPORT_FILE, RUN_FILE, Manifest, recipe_groups
from aurac.records.overlap import Overlap, read_overlaps

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from aurac.records.manifest import CutInfo, TaskInfo


@dataclass(frozen=True)
class Failure:
    """A cell that could not be computed; without an adapter it is the base's."""

    adapter: str | None
    basis: str | None
    rescale: str | None
    rank: int
    task: str
    reason: str


class Logged(NamedTuple):
    """A cell for lm-eval's logs.

    Attributes:
        cell: Its outcomes.
        keys: Its n examples.
        rows: What lm-eval's logs say of the task, and then of each of these examples.
    """

    cell: Cell
    keys: list[DocumentKey]
    rows: list[dict[str, Any]]


class Part(NamedTuple):
    """The examples of one task (no group) on which curves are read."""

    task: str
    cells_name: str  #: the name of its cells in a cut
    keys: list[DocumentKey]
    prefix: str  #: of their names in a group, else nothing

    @property
    def labels(self) -> list[str]:
        """The examples as curves name them: in a group with the task before them."""
        return [self.prefix + key.id for key in self.keys]


Cells = Sequence[tuple[Cell, Part]]
"""The cells of one rank, task by task."""
FACTS = ("method", "seed", "data_order", "trained_rank", "width", "sizes")
"""What curves say of their adapter."""


@dataclass(eq=False)
class StoredRun:
    """A run as it is read under a question: what was evaluated, and how it came out.

    Attributes:
        folder: The run folder.
        manifest: All that it holds, or what one command asked for.
        store: Its cells, of each of which the scores are read once.
        documents: Its examples.
        question: Tasks, examples, metrics, clusters, groups and rows are those that it names.
        adapters: In the order of the commands.
        cuts: Every way in which an adapter was cut, its default one first.
    """

    folder: Path
    manifest: Manifest
    store: CellStore
    documents: Documents
    question: Question = field(default_factory=Question)

    def __post_init__(self) -> None:
        self._tasks = {task.name: task for task in self.manifest.tasks}
        self.cuts, self._adapters = self.manifest.shown(self.question.rows)
        self.adapters = tuple(self._adapters.values())
        self._check()

    def _check(self) -> None:
        """Refuse a question that names what the run does not have.

        Raises:
            RunFolderError: A task.
            UsageError: An adapter, a metric or a field of the examples.
        """
        asked = self.question
        recipes_of(asked.groups, self._adapters)
        for name in (*asked.tasks, *asked.metrics, *asked.clusters):
            task = self.task(name)
            metric = asked.metrics.get(name, task.metric)
            _check_there(name, "metric", metric, {task.metric, *task.metrics})
        for name, wanted in asked.clusters.items():
            _check_there(name, "field", wanted, {*self.documents[name].fields})

    def under(self, question: Question) -> Self:
        """The same run under another question."""
        run = replace(self, question=question)
        names = ("tasks", "limit", "metrics", "clusters", "rows")
        if all(getattr(question, name) == getattr(self.question, name) for name in names):
            run.__dict__["_curves"] = self._curves
        return run

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Command, started, seconds, versions, machine, device, dtype, base, base_sha256."""
        return self.manifest.log[-1]

    @cached_property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks and groups that were asked for."""
        return tuple(self.task(name) for name in self.question.tasks or self.manifest.asked)

    @property
    def curves(self) -> tuple[Curve, ...]:
        """One for each task, adapter and cut, an adapter's default cut first."""
        return self._curves

    @cached_property
    def _curves(self) -> tuple[Curve, ...]:
        made = (self.curve(task, cut) for task in self.tasks for cut in self.cuts)
        return tuple(curve for curve in made if curve is not None)

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Recipe → adapters that are its seeds, as asked or recorded, of those with a curve."""
        there = {curve.adapter for curve in self._curves}
        return recipe_groups([a for a in self.adapters if a.name in there], self.question.groups)

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """Cells without a result, with the reason; a shared one once, under its first name."""
        found: dict[Cell, Failure] = {}
        parts = [part for task in self._tasks.values() for part in self._parts(task)]
        for cut, part in product((None, *self.cuts), parts):
            adapter, basis, rescale = cut.curve_key if cut else (None, None, None)
            for rank in cut.cells.get(part.cells_name, ()) if cut else (0,):
                cell, asked = self._cell(part, cut, rank), self._asked(part, cut, rank)
                if cell.failed and cell.missing(part.keys[:asked]):
                    why = cell.failed.reason
                    failure = Failure(adapter, basis, rescale, rank, part.task, why)
                    found.setdefault(cell, failure)
        return tuple(found.values())

    @cached_property
    def overlaps(self) -> list[Overlap]:
        """What tasks share with training data, of the adapters and tasks that are shown."""
        names = {adapter.sha256: adapter.name for adapter in self.adapters}
        tasks = {leaf.name for task in self.tasks for leaf in self.leaves(task)}
        return [
            msgspec.structs.replace(each, adapter=names[each.adapter])
            for each in read_overlaps(self.folder)
            if each.adapter in names and each.task in tasks
        ]

    @cached_property
    def unwritten(self) -> list[str]:
        """Why texts in the place of references could not be generated, each reason once."""
        keys = [key for cut in self.cuts for cells in cut.cells.values() for key in cells.values()]
        reasons = (
            self.store.scores(key).unwritten for key in [*self.manifest.base.values(), *keys]
        )
        return [*filter(None, dict.fromkeys(reasons))]

    @cached_property
    def recipes(self) -> dict[str | None, str]:
        """Adapter → the recipe that it is a seed of, else itself."""
        named: dict[str | None, str] = {adapter.name: adapter.name for adapter in self.adapters}
        return named | recipes_of(self.groups, self._adapters)

    def task(self, name: str) -> TaskInfo:
        """A task or group of the run; a RunFolderError where it has none of that name."""
        if name not in self._tasks:
            raise RunFolderError(f"the run has no task {name!r}; it has {', '.join(self._tasks)}")
        return self._tasks[name]

    def leaves(self, task: TaskInfo) -> list[TaskInfo]:
        """The tasks of a group; of any other task itself."""
        return [self._tasks[name] for name in task.members] or [task]

    def metric(self, task: TaskInfo) -> str:
        """The ``metric,filter`` that is the accuracy of a task or group."""
        return self.question.metrics.get(task.name, task.metric)

    def named(self, asked: Mapping[str, str]) -> dict[str, str]:
        """Task → the metric that was asked of it, or of all tasks, perhaps by its name alone."""
        return wanted_metrics(asked, {task.name: task.metrics for task in self.tasks})

    # Which examples -----------------------------------------------------------------------------

    def _parts(self, task: TaskInfo) -> list[Part]:
        """The examples of a task or group; a perplexity is that of the whole list."""
        limit, parts = None if task.rolling else self.question.limit, []
        for leaf, cells in task.leaves.items():
            keys = self.documents[leaf].keys[: task.examples[leaf]][:limit]
            parts.append(Part(leaf, cells, keys, f"{leaf}:" if task.members else ""))
        return parts

    def _key(self, part: Part, cut: CutInfo | None, rank: int) -> str:
        """The key of a cell, of the base's at rank 0; nothing where it was never asked for."""
        if cut is None or rank == 0:
            return self.manifest.base.get(part.task, "")
        return cut.cells.get(part.cells_name, {}).get(rank, "")

    def _cell(self, part: Part, cut: CutInfo | None, rank: int, *, whole: bool = False) -> Cell:
        """A cut on a task at a rank, the base at rank 0: its scores, or all of it."""
        key = self._key(part, cut, rank)
        return Cell() if not key else (self.store.read if whole else self.store.scores)(key)

    def _asked(self, part: Part, cut: CutInfo | None, rank: int) -> int:
        """The most examples that a command asked of a cell."""
        return self.manifest.asked_examples.get(self._key(part, cut, rank), 0)

    def _cut(self, *curve_key: str | None) -> CutInfo:
        """That of a curve, by adapter, basis and rescale."""
        return next(cut for cut in self.cuts if cut.curve_key == curve_key)

    # Answers ------------------------------------------------------------------------------------

    def answers(
        self, task: str, adapter: str | None, basis: str | None, rescale: str | None, rank: int
    ) -> pd.DataFrame:
        """Columns example, question, target, choices, score, response, read of each example.

        The examples are those of the curve; rank 0 is the base. `read` is what the metric's filter
        took from a response, None where it takes it as it is. Of a user's own examples a response
        is what greedy decoding writes, None where that was not generated.

        Raises:
            RunFolderError: The run has no such cell, or it lacks examples.
        """
        import pandas as pd

        info, frames = self.task(task), list[pd.DataFrame]()
        metric, cut = self.metric(info), self._cut(adapter, basis, rescale)
        for part in self._parts(info):
            told, keys, count = self.documents[part.task], part.keys, len(part.keys)
            cell = self._cell(part, cut, rank, whole=True)
            if cell.missing(keys):
                what = f"{adapter if rank else 'the base'} at rank {rank} on {task}"
                raise RunFolderError(f"{what} is not there as a whole")
            read = cell.filtered(metric.partition(",")[2], keys)
            columns = {
                "example": part.labels,
                "question": told.questions[:count],
                "target": told.targets[:count],
                "choices": (told.choices or [None] * count)[:count],
                "score": cell.values(metric, keys),
                "response": cell.texts(keys, told.targets[:count]),
                "read": [", ".join(map(str, row)) if row else None for row in read],
            }
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def logged(self, leaf: str, cut: CutInfo | None, rank: int) -> Logged | None:
        """What is exported of a cut on a task (no group); None where it lacks an example.

        Of a task that is read in a group, too, it is the one with more examples.
        """
        having = [task for task in self._tasks.values() if leaf in task.leaves]
        parts = [part for task in having for part in self._parts(task) if part.task == leaf]
        for part in sorted(parts, key=lambda part: -len(part.keys)):
            cell = self._cell(part, cut, rank, whole=True)
            if not cell.missing(part.keys):
                return Logged(cell, part.keys, self.documents.rows(leaf)[: len(part.keys) + 1])
        return None

    # Curves -------------------------------------------------------------------------------------

    def _ranks(self, task: TaskInfo, cut: CutInfo) -> list[int]:
        return sorted({rank for name in task.leaves.values() for rank in cut.cells.get(name, ())})

    def curve(self, task: TaskInfo, cut: CutInfo) -> Curve | None:
        """The curve of a cut on a task or group; None where nothing was asked of it.

        A rank belongs to it if all examples were asked of it, or are there.
        """
        ranks, parts = self._ranks(task, cut), self._parts(task)
        if not ranks or (task.rolling and task.members):
            return None
        there = {
            rank: [(self._cell(part, cut, rank), part) for part in parts] for rank in (0, *ranks)
        }
        scores = {rank: self._scores(task, cells) for rank, cells in there.items()}
        lacking = {rank: why for rank, why in scores.items() if isinstance(why, str)}
        for rank in lacking:
            del scores[rank], there[rank]
        lacking.pop(0, None)  # a base that is not there has no baseline
        fewer = {r: count for r in lacking if (count := self._fewer(parts, cut, r)) is not None}
        keys = [key for part in parts for key in part.keys]
        base, rows = scores.pop(0, None), list[Any](scores.values())
        numbers: dict[str, Any] = {"rolling": True, "accuracy": rows, "baseline": base}
        if not task.rolling:
            numbers = {"outcomes": np.reshape(rows, (len(rows), len(keys))), "base_scores": base}
        adapter = self._adapters[cut.adapter]
        made = {rank: some[0][0].identity for rank, some in there.items()}
        return Curve(
            tuple(scores),
            **numbers,
            **cut.curve_key._asdict(),
            **{fact: getattr(adapter, fact) for fact in FACTS},
            task=task.name,
            metric=self.metric(task),
            doc_ids=tuple(label for part in parts for label in part.labels),
            doc_hashes=tuple(key.content for key in keys),
            prompts=tuple(key.prompt for key in keys),
            clusters=self._clusters(parts),
            missing={rank: why for rank, why in lacking.items() if rank not in fewer},
            fewer=fewer,
            factors={rank: of.factor for rank, of in made.items() if of and of.factor},
            unfinished={r: x for r, some in there.items() if (x := _unfinished(some)) is not None},
            nats={r: y for r, some in there.items() if (y := _nats(some)) is not None},
            token_limit=max(leaf.token_limit or 0 for leaf in self.leaves(task)) or None,
        )

    def _fewer(self, parts: Sequence[Part], cut: CutInfo, rank: int) -> int | None:
        """How many examples a rank has, if it is no part of a curve as fewer were asked of it."""
        asked = [self._asked(part, cut, rank) >= len(part.keys) for part in parts]
        left = sum(len(self._cell(part, cut, rank).missing(part.keys)) for part in parts)
        return None if all(asked) or not left else sum(len(part.keys) for part in parts) - left

    def _scores(self, task: TaskInfo, cells: Cells) -> NDArray[np.float64] | float | str:
        """(n,) scores, those of a group's tasks one after the other, or why there are none.

        Of a metric of whole texts lm-eval's own aggregate.
        """
        found, metric = list[Any](), self.metric(task)
        for cell, part in cells:
            if left := len(cell.missing(part.keys)):
                there = f"{len(part.keys) - left} of {len(part.keys)} examples"
                return cell.failed.reason if cell.failed else f"{there}: repeat the command"
            if task.rolling:
                known = cell.aggregates.get(examples_sha256(part.keys), {})
                return known.get(metric, "not finished: repeat the command")
            column = cell.values(metric, part.keys)
            if column is None:
                return f"its cell holds no {metric}"
            found += column
        return np.array(found, dtype=np.float64)

    def _clusters(self, parts: Sequence[Part]) -> tuple[str, ...] | None:
        """What examples share; one of a task without clusters is one by itself."""
        labels, clustered = list[str](), False
        for part in parts:
            field = self.question.clusters.get(part.task, self._tasks[part.task].cluster)
            own = self.documents[part.task].fields.get(field) if field else None
            clustered |= own is not None
            labels += [part.prefix + x for x in own[: len(part.keys)]] if own else part.labels
        return tuple(labels) if clustered else None


def _check_there(task: str, what: str, wanted: str, there: set[str]) -> None:
    if wanted not in there:
        known = ", ".join(sorted(there)) or "none"
        raise UsageError(f"The task {task} has no {what} {wanted!r}; it has {known}.")


def _unfinished(cells: Cells) -> int | None:
    """How many answers were cut off at the token limit, where that is known of all."""
    counts = [cell.unfinished(part.keys) for cell, part in cells]
    return None if None in counts else sum(count or 0 for count in counts)


def _nats(cells: Cells) -> float | None:
    """The mean loss of the user's own examples, which are in no group, where it is known."""
    [(cell, part), *_] = cells
    losses = cell.values(f"{LOSS},none", part.keys)
    return None if losses is None else float(np.mean(losses))


class _Report(msgspec.Struct):
    """What is read of `analysis.json`."""

    question: Question
    run: str = "run"


def folder_of(path: str | Path) -> Path:
    """The folder of a run or report that is given by itself or by its page."""
    path = Path(path).expanduser()
    return path.parent if path.name in ("report.html", "report.md") else path


def is_run(path: str | Path) -> bool:
    """Whether `read_run` reads it."""
    return any((folder_of(path) / name).is_file() for name in (RUN_FILE, REPORT_FILE))


def read_run(folder: str | Path, question: Question | None = None) -> StoredRun:
    """All that a run folder holds, or the run of a report (its folder or page) or study.

    It is read under the last question of the folder, or that of the report, or another one.

    Raises:
        RunFolderError: It is none of these, of another version, or a file of it cannot be read.
    """
    folder = folder_of(folder)
    if (folder / RUN_FILE).is_file():
        manifest = Manifest.read(folder)
        asked = manifest.question if question is None else question
        return StoredRun(folder, manifest, CellStore(folder), Documents(folder), asked)
    if (folder / REPORT_FILE).is_file():
        report = read_json(folder / REPORT_FILE, _Report)
        if not (folder / report.run / RUN_FILE).is_file():
            raise RunFolderError(f"the run of the report {folder} is not there: {report.run}")
        return read_run(folder / report.run, question or report.question)
    places = (f"*/{REPORT_FILE}", f"*/{RUN_FILE}", f"*/*/{RUN_FILE}")
    found = [path.parent for name in places for path in sorted(folder.glob(name))]
    inside = ", ".join(dict.fromkeys(str(path.relative_to(folder)) for path in found))
    there = f"; in it are {inside}" if inside else ""
    raise RunFolderError(f"{folder} is no run folder and has no report{there}")
