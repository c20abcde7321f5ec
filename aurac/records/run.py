"""A run folder as it is read: its adapters and tasks, and curves made of its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from aurac.curves.curve import Curve
from aurac.curves.metrics import LOSS, wanted_metrics
from aurac.curves.question import Key, Question, recipes_of
from aurac.errors import RunFolderError, UsageError
from aurac.files import read_json
from aurac.records.cells import Cell, CellStore
from aurac.records.documents import Documents
from aurac.records.lines import DocumentKey, examples_sha256
from aurac.records.manifest import (
    REPORT_FILE,
    RUN_FILE,
    CutInfo,
    Examples,
    Manifest,
    TaskInfo,
    recipe_groups,
)

if TYPE_CHECKING:
    import pandas as pd


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
        keys: The n examples of its largest whole set.
        rows: What lm-eval's logs say of the task, and then of each of these examples.
    """

    cell: Cell
    keys: list[DocumentKey]
    rows: list[dict[str, Any]]


class Part(NamedTuple):
    """The examples of one task (no group) on which a curve is read: the first ones of a set."""

    task: str
    cells: str  #: the name of its cells in a cut
    stem: str  #: the beginning of the names of its two files
    size: int  #: how many examples


Chosen = tuple[Part, ...]
"""The examples on which a curve is read, task by task."""
Cells = Sequence[tuple[Cell, list[DocumentKey]]]
"""The cells of one rank, task by task, with the examples of which they are read."""
T = TypeVar("T")


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
        self._tuples: dict[tuple[str, ...], tuple[str, ...]] = {}
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
            stems = [each.documents[name] for each in task.sets if name in each.documents]
            fields = {x for stem in stems for x in self.documents[stem].fields}
            for what, wanted, there in (
                ("metric", asked.metrics.get(name), {task.metric, *task.metrics}),
                ("field", asked.clusters.get(name), fields),
            ):
                if wanted is not None and wanted not in there:
                    known = ", ".join(sorted(there)) or "none"
                    raise UsageError(f"The task {name} has no {what} {wanted!r}; it has {known}.")

    def under(self, question: Question) -> StoredRun:
        """The same run under another question."""
        same = all(
            getattr(question, name) == getattr(self.question, name)
            for name in ("tasks", "limit", "metrics", "clusters", "rows")
        )
        run = StoredRun(self.folder, self.manifest, self.store, self.documents, question)
        if same and "curves" in self.__dict__:
            run.__dict__["curves"] = self.curves
        return run

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Command, started, seconds, versions, machine, device, dtype, base, base_sha256."""
        return self.manifest.log[-1]

    @cached_property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks and groups that were asked for."""
        return tuple(self.task(name) for name in self.question.tasks or self.manifest.asked)

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """One for each task, adapter and cut, an adapter's default cut first."""
        made = (self.curve(task, cut) for task in self.tasks for cut in self.cuts)
        return tuple(curve for curve in made if curve is not None)

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Recipe → adapters that are its seeds, as asked or recorded, of those with a curve."""
        there = {curve.adapter for curve in self.curves}  # an adapter may have failed everywhere
        return recipe_groups([a for a in self.adapters if a.name in there], self.question.groups)

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """Every cell that could not be completed, once; a shared one under its first name."""
        found: dict[str, Failure] = {}
        sets = [chosen for task in self._tasks.values() for chosen in self._sets(task, None)]
        parts = dict.fromkeys(part for chosen in sets for part in chosen)
        for cut, part in product((None, *self.cuts), parts):
            base = {0: self.manifest.base[part.task]}
            for rank, key in (cut.cells.get(part.cells, {}) if cut else base).items():
                cell = self.store.scores(key)
                if cell.failed and cell.missing(self.keys(part)):
                    row = cut.row._asdict() if cut else dict.fromkeys(Key._fields)
                    about: dict[str, Any] = {**row, "rank": rank, "task": part.task}
                    found.setdefault(key, Failure(**about, reason=cell.failed.reason))
        return tuple(found.values())

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

    def _sets(self, task: TaskInfo, cut: CutInfo | None) -> dict[Chosen, set[int]]:
        """The sets of a task or group on which a cut was asked for, with the ranks that were.

        The one that was asked for last comes first. Without a cut all sets, of the base.
        """
        found: dict[Chosen, set[int]] = {}
        for each in reversed(task.sets):
            ranks = {0} if cut is None else {*cut.asked.get(task.name, {}).get(each.name, ())}
            if ranks and each.documents.keys() <= task.leaves.keys():  # a group may lose a task
                found.setdefault(self._limited(task, each), set()).update(ranks)
        return found

    def _limited(self, task: TaskInfo, examples: Examples) -> Chosen:
        """A set, or its first examples where the question has a limit."""
        sizes = {stem: len(self.documents[stem].keys) for stem in examples.documents.values()}
        return tuple(
            Part(
                name, task.leaves[name], stem, min(sizes[stem], self.question.limit or sizes[stem])
            )
            for name, stem in examples.documents.items()
        )

    def keys(self, part: Part) -> list[DocumentKey]:
        """The examples of a part."""
        return self.documents[part.stem].keys[: part.size]

    def _chosen(
        self, task: TaskInfo, cut: CutInfo | None, ranks: Sequence[int]
    ) -> tuple[Chosen, list[int]] | None:
        """The examples that a cut, or the base at rank 0, is read on, and its ranks.

        Of the last generation in which a rank has a whole set, the set with the largest product of
        whole ranks and examples; None where no rank has one. Two sets are of one generation where
        one is the beginning of the other. The ranks are those that have the set, or were asked for
        on it.
        """
        asked = self._sets(task, cut)
        whole = {each: {r for r in ranks if self._whole(each, cut, r)} for each in asked}
        there = [each for each in asked if whole[each]]
        same = [each for each in there if self._one_generation(each, there[0])]
        if not same:
            return None
        size = {each: sum(part.size for part in each) for each in same}
        best = max(same, key=lambda each: (len(whole[each]) * size[each], size[each]))
        return best, [rank for rank in ranks if rank in whole[best] | asked[best]]

    def _whole(self, chosen: Chosen, cut: CutInfo | None, rank: int) -> bool:
        return not any(self._cell(part, cut, rank).missing(self.keys(part)) for part in chosen)

    def _one_generation(self, one: Chosen, other: Chosen) -> bool:
        pairs = [(x.stem, y.stem) for x, y in zip(one, other, strict=True) if x.stem != y.stem]
        keys = ((self.documents[x].keys, self.documents[y].keys) for x, y in pairs)
        return all(all(map(DocumentKey.__eq__, *both)) for both in keys)

    def asked(self, task: str) -> dict[str, list[DocumentKey]]:
        """Hash → the examples of each set that was asked of a task, no group, or of its group."""
        infos = self._tasks.values()
        stems = [each.documents.get(task) for info in infos for each in info.sets]
        sets = [self.documents[stem].keys for stem in dict.fromkeys(stems) if stem]
        return {examples_sha256(keys): keys for keys in sets}

    def limited(self, curve: Curve, limit: float | None) -> bool:
        """Whether all ranks of a curve have a whole set that was asked for with this limit."""
        cut, task = self._cut(curve.adapter, curve.basis, curve.rescale), self.task(str(curve.task))
        sets = [self._limited(task, each) for each in task.sets if limit in each.limits]
        return any(all(self._whole(each, cut, rank) for rank in curve.ranks) for each in sets)

    def _cut(self, *row: str | None) -> CutInfo:
        """A cut of an adapter; a RunFolderError where there is none."""
        for cut in self.cuts:
            if cut.row == row:
                return cut
        raise RunFolderError(f"the run has no cut {row[1]}, {row[2]} of {row[0]}")

    def _cell(self, part: Part, cut: CutInfo | None, rank: int, *, whole: bool = False) -> Cell:
        """A cut on a task at a rank, the base at rank 0: its scores, or all of it."""
        if cut is None or rank == 0:
            key = self.manifest.base.get(part.task)
        else:
            key = cut.cells.get(part.cells, {}).get(rank)
        return Cell() if key is None else (self.store.read if whole else self.store.scores)(key)

    # Answers ------------------------------------------------------------------------------------

    def samples(
        self, task: str, adapter: str | None, basis: str | None, rescale: str | None, rank: int
    ) -> pd.DataFrame:
        """Columns example, question, target, choices, score, response, read of each example.

        The examples are those of the curve; rank 0 is the base. `read` is what the metric's filter
        took from a response, None where it takes it as it is.

        Raises:
            RunFolderError: The run has no such cell, or it lacks examples.
        """
        import pandas as pd

        info, rows = self.task(task), list[tuple[Any, ...]]()
        metric, cut = self.metric(info), self._cut(adapter, basis, rescale)
        known = self._chosen(info, cut, self._ranks(info, cut))
        if known is None or not self._whole(known[0], cut, rank):
            what = f"{adapter if rank else 'the base'} at rank {rank} on {task}"
            raise RunFolderError(f"{what} is not there as a whole")
        for part in known[0]:
            told, keys, count = self.documents[part.stem], self.keys(part), part.size
            cell = self._cell(part, cut, rank, whole=True)
            read = cell.filtered(metric.partition(",")[2], keys)
            rows += zip(
                self._labels(info, part),
                told.questions[:count],
                told.targets[:count],
                (told.choices or [None] * count)[:count],
                cell.values(metric, keys) or [None] * count,
                cell.responses(keys),
                [", ".join(map(str, row)) if row else None for row in read],
                strict=True,
            )
        columns = ["example", "question", "target", "choices", "score", "response", "read"]
        return pd.DataFrame(rows, columns=columns)

    def logged(self, leaf: str, cut: CutInfo | None, rank: int) -> Logged | None:
        """What is exported of a cut on a task (no group); None where it has no whole set."""
        having = [task for task in reversed(self._tasks.values()) if leaf in task.leaves]
        every = [found for task in having if (found := self._chosen(task, cut, [rank]))]
        parts = [part for chosen, _ in every for part in chosen if part.task == leaf]
        if not parts:
            return None
        part = max(parts, key=lambda each: each.size)
        cell = self._cell(part, cut, rank, whole=True)
        return Logged(cell, self.keys(part), self.documents.rows(part.stem)[: part.size + 1])

    def _labels(self, task: TaskInfo, part: Part) -> list[str]:
        """The examples as curves name them: in a group with the task before them."""
        keys = self.keys(part)
        return [f"{part.task}:{key.id}" if task.members else key.id for key in keys]

    # Curves -------------------------------------------------------------------------------------

    def _ranks(self, task: TaskInfo, cut: CutInfo) -> list[int]:
        return sorted({rank for name in task.leaves.values() for rank in cut.cells.get(name, ())})

    def curve(self, task: TaskInfo, cut: CutInfo) -> Curve | None:
        """The curve of a cut on a task or group; None where it has a score at no rank."""
        known = self._chosen(task, cut, self._ranks(task, cut))
        if known is None or (task.rolling and task.members):
            return None
        chosen, ranks = known
        cells = {
            rank: [(self._cell(part, cut, rank), self.keys(part)) for part in chosen]
            for rank in (0, *ranks)
        }
        found = {rank: self._scores(task, some) for rank, some in cells.items()}
        values: dict[int, Any] = {r: row for r, row in found.items() if not isinstance(row, str)}
        cells = {rank: cells[rank] for rank in values}
        base = values.pop(0, None)
        if not values:
            return None
        adapter = self._adapters[cut.adapter]
        made = {rank: cells[rank][0][0].identity for rank in values}
        keys = [key for part in chosen for key in self.keys(part)]
        about: dict[str, Any] = {
            **cut.row._asdict(),
            "task": task.name,
            "metric": self.metric(task),
            "method": adapter.method,
            "base": self.provenance.get("base"),
            "seed": adapter.seed,
            "data_order": adapter.data_order,
            "trained_rank": adapter.trained_rank,
            "width": adapter.width,
            "sizes": {rank: adapter.sizes[rank] for rank in values if rank in adapter.sizes},
            "factors": {rank: of.factor for rank, of in made.items() if of and of.factor},
            "missing": {rank: why for rank, why in found.items() if isinstance(why, str) and rank},
            "prompts": self._same([key.prompt for key in keys]),
        }
        if task.rolling:
            return Curve(
                tuple(values), tuple(values.values()), rolling=True, baseline=base, **about
            )
        leaves = self.leaves(task)
        return Curve.from_outcomes(
            tuple(values),
            np.stack(list(values.values())),
            doc_ids=self._same([label for part in chosen for label in self._labels(task, part)]),
            doc_hashes=self._same([key.content for key in keys]),
            clusters=self._clusters(task, chosen),
            base_scores=base,
            unfinished=_known({rank: _unfinished(some) for rank, some in cells.items()}),
            nats=_known({rank: _nats(some) for rank, some in cells.items()}),
            token_limit=max((leaf.token_limit or 0 for leaf in leaves), default=0) or None,
            **about,
        )

    def _scores(self, task: TaskInfo, cells: Cells) -> NDArray[np.float64] | float | str:
        """(n,) scores, those of a group's tasks one after the other, or why there are none.

        Of a metric of whole texts lm-eval's own aggregate.
        """
        parts, metric = list[Any](), self.metric(task)
        for cell, wanted in cells:
            if left := len(cell.missing(wanted)):
                there = f"{len(wanted) - left} of {len(wanted)} examples"
                return cell.failed.reason if cell.failed else f"not finished: {there}"
            if task.rolling:
                known = cell.aggregates.get(examples_sha256(wanted), {})
                return known.get(metric, "not finished")
            column = cell.values(metric, wanted)
            if column is None:
                return f"its cell holds no {metric}"
            parts += column
        return np.array(parts, dtype=np.float64)

    def _same(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Equal labels as one object, which curves are then joined by quickly."""
        return self._tuples.setdefault(tuple(labels), tuple(labels))

    def _clusters(self, task: TaskInfo, chosen: Chosen) -> tuple[str, ...] | None:
        """What examples share; one of a task without clusters is one by itself."""
        labels, clustered = list[str](), False
        for part in chosen:
            field = self.question.clusters.get(part.task, self._tasks[part.task].cluster)
            own = self.documents[part.stem].fields.get(field) if field else None
            clustered |= own is not None
            shown = own[: part.size] if own else [key.id for key in self.keys(part)]
            labels += [f"{part.task}:{x}" if task.members else x for x in shown]
        return self._same(labels) if clustered else None


def _known(values: Mapping[int, T | None]) -> dict[int, T]:
    """Those that are known."""
    return {rank: value for rank, value in values.items() if value is not None}


def _unfinished(cells: Cells) -> int | None:
    """How many answers were cut off at the token limit, where that is known of all."""
    counts = [cell.unfinished(keys) for cell, keys in cells]
    return None if None in counts else sum(count or 0 for count in counts)


def _nats(cells: Cells) -> float | None:
    """The mean loss of the user's own examples, which are in no group, where it is known."""
    [(cell, keys), *_] = cells
    losses = cell.values(f"{LOSS},none", keys)
    return None if losses is None else float(np.mean(losses))


class _Report(msgspec.Struct):
    """What is read of `analysis.json`."""

    question: Question
    run: str = "run"


def is_run(path: str | Path) -> bool:
    """Whether `read_run` reads it."""
    return any((Path(path).expanduser() / name).is_file() for name in (RUN_FILE, REPORT_FILE))


def read_run(folder: str | Path, question: Question | None = None) -> StoredRun:
    """All that a run folder holds, or the run of a report or study.

    It is read under the last question of the folder, or that of the report, or another one.

    Raises:
        RunFolderError: It is none of these, of another version, or a file of it cannot be read.
    """
    folder = Path(folder).expanduser()
    if not is_run(folder):
        places = (f"*/{REPORT_FILE}", f"*/{RUN_FILE}", f"*/*/{RUN_FILE}")
        inside = dict.fromkeys(
            path.parent.relative_to(folder) for x in places for path in sorted(folder.glob(x))
        )
        there = f"; in it are {', '.join(map(str, inside))}" if inside else ""
        raise RunFolderError(f"{folder} is no run folder and has no report{there}")
    if (folder / RUN_FILE).is_file():
        manifest = Manifest.read(folder)
        asked = manifest.question if question is None else question
        return StoredRun(folder, manifest, CellStore(folder), Documents(folder), asked)
    report = read_json(folder / REPORT_FILE, _Report)
    return read_run(folder / report.run, question or report.question)
