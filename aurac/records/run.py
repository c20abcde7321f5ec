"""A run folder as it is read: its adapters and tasks, and curves made of its cells."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from aurac.curves.curve import Curve
from aurac.curves.display import common_name
from aurac.errors import RunFolderError, first_line
from aurac.files import sha256_json
from aurac.records.cells import Cell, CellStore
from aurac.records.lines import DocumentKey
from aurac.records.manifest import AdapterInfo, CutInfo, Manifest, TaskInfo

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AdapterInfo", "Failure", "StoredRun", "TaskInfo", "TaskQuestions", "read_run"]


class TaskQuestions(msgspec.Struct, frozen=True, kw_only=True):
    """`documents/…json`: the examples of a task for people, and their identities."""

    keys: list[DocumentKey]  #: n identities, as cells name them
    questions: list[str | None] = []  #: n texts; None where the task has none
    targets: list[str | None] = []  #: n texts; None where the task has none
    choices: list[list[str] | None] | None = None  #: n lists of texts; None where there are none
    clusters: list[str] | None = None  #: n labels of what they share; None: they are independent


@dataclass(frozen=True)
class Failure:
    """A cell that could not be computed; without an adapter it is the base's."""

    adapter: str | None
    basis: str | None
    rescale: str | None
    rank: int
    task: str
    reason: str


class Renamed(NamedTuple):
    """A cut of an adapter of a run on one task, under another name."""

    name: str
    adapter: str
    task: str
    basis: str
    rescale: str


@dataclass(eq=False)
class StoredRun:
    """A run as it is read: what was evaluated, and how it came out."""

    folder: Path
    manifest: Manifest
    store: CellStore  #: its cells, of each of which the scores are read once
    renamed: tuple[Renamed, ...] = ()  #: what `renamed_as` was given

    def __post_init__(self) -> None:
        self._tasks = {task.name: task for task in self.manifest.tasks}
        self._adapters = {adapter.name: adapter for adapter in self.manifest.adapters}
        self._fewest: dict[str, int] = {}  # examples of a task, which all cuts have
        for cut in self.manifest.cuts:
            for name, count in cut.examples.items():
                self._fewest[name] = min(count, self._fewest.get(name, count))
        self._questions: dict[str, TaskQuestions] = {}
        self._tuples: dict[tuple[str, ...], tuple[str, ...]] = {}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Command, started, seconds, versions, machine, device, dtype, base, base_sha256."""
        return self.manifest.provenance

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        """In the order of the command."""
        return tuple(self.manifest.adapters)

    @cached_property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks and groups that were asked for."""
        return tuple(self.task(name) for name in self.manifest.asked)

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """One for each task, adapter and cut, an adapter's default cut first."""
        made = (self.curve(task, cut) for task in self.tasks for cut in self.manifest.cuts)
        return tuple(curve for curve in made if curve is not None)

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Recipe → adapters that are its seeds, as given or recorded, of those with a curve."""
        there = {curve.adapter for curve in self.curves}  # an adapter may have failed everywhere
        return recipe_groups([a for a in self.adapters if a.name in there], self.manifest.groups)

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """Every cell that could not be completed, once; a shared one under its first name."""
        found: dict[str, Failure] = {}
        for cut, name, rank, key in self._cells():
            cell = self.store.scores(key)
            if cell.failed and cell.missing(self.keys(self._tasks[name])):
                who, basis, way = (cut.adapter, cut.basis, cut.rescale) if cut else (None,) * 3
                found.setdefault(key, Failure(who, basis, way, rank, name, cell.failed.reason))
        return tuple(found.values())

    def renamed_as(self, rows: Iterable[Renamed]) -> StoredRun:
        """The run with these curves alone, in this order, and these names of adapters."""
        cuts = {(cut.adapter, cut.basis, cut.rescale): cut for cut in self.manifest.cuts}
        infos, rows = dict[str, AdapterInfo](), tuple(rows)
        kept = dict[tuple[str, str, str], CutInfo]()  # one for all tasks
        for row in rows:
            cut = cuts[row.adapter, row.basis, row.rescale]
            key = row.name, row.basis, row.rescale
            cells = dict(kept[key].cells) if key in kept else {}
            cells |= {leaf.name: cut.cells[leaf.name] for leaf in self.leaves(self.task(row.task))}
            kept[key] = replace(cut, adapter=row.name, cells=cells)
            infos[row.name] = replace(self._adapters[row.adapter], name=row.name)
        manifest = replace(self.manifest, adapters=[*infos.values()], cuts=[*kept.values()])
        return StoredRun(self.folder, manifest, self.store, rows)

    def limited(self, curve: Curve, limit: float | None) -> bool:
        """Whether a curve of it was asked for with this limit."""
        way = curve.adapter, curve.basis, curve.rescale
        cut = next(c for c in self.manifest.cuts if (c.adapter, c.basis, c.rescale) == way)
        leaves = self.leaves(self.task(str(curve.task)))
        return all(cut.limits.get(leaf.name) == limit for leaf in leaves)

    def _cells(self) -> Iterator[tuple[CutInfo | None, str, int, str]]:
        """Cut (None: the base), task, rank and key."""
        for name, key in self.manifest.base.items():
            yield None, name, 0, key
        for cut in self.manifest.cuts:
            for name, cells in cut.cells.items():
                for rank, key in cells.items():
                    yield cut, name, rank, key

    def task(self, name: str) -> TaskInfo:
        """A task or group of the run; a RunFolderError where it has none of that name."""
        if name not in self._tasks:
            raise RunFolderError(f"the run has no task {name!r}; it has {', '.join(self._tasks)}")
        return self._tasks[name]

    def leaves(self, task: TaskInfo) -> list[TaskInfo]:
        """The tasks of a group; of any other task itself."""
        return [self._tasks[name] for name in task.members] or [task]

    def keys(self, leaf: TaskInfo) -> list[DocumentKey]:
        """The examples of a task (no group): the first ones, which were asked of every cut."""
        return self._read(leaf).keys[: self._fewest.get(leaf.name, leaf.examples)]

    def labels(self, task: TaskInfo, leaf: TaskInfo) -> list[str]:
        """The examples as curves name them: in a group with the task before them."""
        keys = self.keys(leaf)
        return [f"{leaf.name}:{key.id}" if task.members else key.id for key in keys]

    def samples(
        self, task: str, adapter: str | None, basis: str | None, rescale: str | None, rank: int
    ) -> pd.DataFrame:
        """Columns example, score, response, read of each example of a cell; rank 0 is the base.

        `read` is what the metric's filter took from a response, None where it takes it as it is.

        Raises:
            RunFolderError: The run has no such cell, or it lacks examples.
        """
        import pandas as pd

        info, examples, scores, responses, read = self.task(task), [], [], [], []
        taken = info.metric.partition(",")[2]
        way = adapter, basis, rescale
        cuts = [c for c in self.manifest.cuts if rank and (c.adapter, c.basis, c.rescale) == way]
        cut = cuts[0] if cuts else None
        for leaf in self.leaves(info):
            cell = self.cell(leaf, cut, rank)
            if cell is None:
                what = f"{adapter or 'the base'} at rank {rank} on {leaf.name}"
                raise RunFolderError(f"{what} is not there as a whole")
            keys = self.keys(leaf)
            scores += cell.values(info.metric, keys) or [None] * len(keys)
            examples += self.labels(info, leaf)
            responses += cell.responses(keys)
            rows = cell.filtered(taken, keys)
            read += [", ".join(map(str, row)) if row else None for row in rows]
        found = {"example": examples, "score": scores, "response": responses, "read": read}
        return pd.DataFrame(found)

    def cell(self, leaf: TaskInfo, cut: CutInfo | None, rank: int) -> Cell | None:
        """The cell of a cut on a task (no group), that of the base at rank 0; None if not whole."""
        keys = cut.cells.get(leaf.name, {}) if cut else {0: self.manifest.base.get(leaf.name)}
        cell = self.store.read(key) if (key := keys.get(rank)) else None
        return None if cell is None or cell.missing(self.keys(leaf)) else cell

    def requests(self, task: str) -> list[dict[str, Any]]:
        """What lm-eval's logs say of a task (no group), then of each of its examples."""
        path = self.folder / str(self.task(task).requests)
        try:
            with gzip.open(path, "rb") as lines:
                return [json.loads(line) for line in lines]
        except (OSError, EOFError, ValueError) as error:
            raise RunFolderError(f"{path} cannot be read ({first_line(error)})") from error

    def questions(self, task: str) -> pd.DataFrame:
        """Columns example, question, target, choices."""
        import pandas as pd

        info, rows = self.task(task), list[tuple[Any, ...]]()
        for leaf in self.leaves(info):
            told, labels = self._read(leaf), self.labels(info, leaf)
            n = len(labels)
            choices = told.choices or [None] * n
            rows += zip(labels, told.questions[:n], told.targets[:n], choices[:n], strict=True)
        return pd.DataFrame(rows, columns=["example", "question", "target", "choices"])

    def _read(self, leaf: TaskInfo) -> TaskQuestions:
        """What is kept of the examples of a task that is no group."""
        name = str(leaf.documents)
        if name not in self._questions:
            path = self.folder / name
            try:
                content = path.read_bytes()
                self._questions[name] = msgspec.json.decode(content, type=TaskQuestions)
            except (OSError, msgspec.MsgspecError) as error:
                raise RunFolderError(f"{path} cannot be read ({first_line(error)})") from error
        return self._questions[name]

    def curve(self, task: TaskInfo, cut: CutInfo) -> Curve | None:
        """The curve of a cut on a task or group; None where it has a score at no rank."""
        leaves = self.leaves(task)
        if not all(leaf.name in cut.cells for leaf in leaves):
            return None
        if task.rolling:
            return None if task.members else self._rolling(task, cut)
        ranks = sorted({rank for leaf in leaves for rank in cut.cells[leaf.name]})
        found = {rank: self._scores(task, cut, rank) for rank in (0, *ranks)}
        missing = {rank: why for rank, why in found.items() if isinstance(why, str) and rank}
        rows = {rank: row for rank, row in found.items() if not isinstance(row, str)}
        base = rows.pop(0, None)
        if not rows:
            return None
        documents = [key for leaf in leaves for key in self.keys(leaf)]
        ids = [label for leaf in leaves for label in self.labels(task, leaf)]
        return Curve.from_outcomes(
            tuple(rows),
            np.stack(list(rows.values())),
            doc_ids=self._same(ids),
            doc_hashes=self._same([key.content for key in documents]),
            clusters=self._clusters(task),
            base_scores=base,
            prompts=sha256_json([key.prompt for key in documents]),
            missing=missing,
            unfinished=self._unfinished(leaves, cut, (0, *rows)),
            token_limit=max((leaf.token_limit or 0 for leaf in leaves), default=0) or None,
            **self._names(task, cut, rows),
        )

    def _unfinished(
        self, leaves: Sequence[TaskInfo], cut: CutInfo, ranks: Iterable[int]
    ) -> dict[int, int]:
        """Rank → answers that were cut off at the token limit, where that is known of all."""
        found = {}
        for rank in ranks:
            counts = []
            for leaf in leaves:
                cell, wanted = self._kept(leaf, cut, rank), self.keys(leaf)
                counts.append(None if cell.missing(wanted) else cell.unfinished(wanted))
            if None not in counts:
                found[rank] = sum(count or 0 for count in counts)
        return found

    def _kept(self, leaf: TaskInfo, cut: CutInfo, rank: int) -> Cell:
        """The scores of a cut on a task (no group) at a rank, those of the base at rank 0."""
        keys = {0: self.manifest.base.get(leaf.name), **cut.cells[leaf.name]}
        return self.store.scores(key) if (key := keys.get(rank)) else Cell()

    def _rolling(self, task: TaskInfo, cut: CutInfo) -> Curve | None:
        """The curve of a metric of whole texts, by lm-eval's own aggregation; no group."""
        count, ranks = self._fewest[task.name], (0, *cut.cells[task.name])
        told = {rank: self._kept(task, cut, rank).aggregates for rank in ranks}
        values = {rank: known.get(count, {}).get(task.metric) for rank, known in told.items()}
        known = {rank: value for rank, value in values.items() if rank and value is not None}
        if not known:
            return None
        return Curve(
            tuple(known),
            tuple(known.values()),
            rolling=True,
            baseline=values.get(0),
            missing={rank: "not finished" for rank in ranks[1:] if rank not in known},
            **self._names(task, cut, known),
        )

    def _names(self, task: TaskInfo, cut: CutInfo, ranks: Iterable[int]) -> dict[str, Any]:
        adapter, [first, *_] = self._adapters[cut.adapter], self.leaves(task)
        made = {rank: self._kept(first, cut, rank).identity for rank in ranks}
        return {
            "adapter": cut.adapter,
            "task": task.name,
            "metric": task.metric,
            "method": adapter.method,
            "base": self.provenance.get("base"),
            "basis": cut.basis,
            "rescale": cut.rescale,
            "seed": adapter.seed,
            "data_order": adapter.data_order,
            "trained_rank": adapter.trained_rank,
            "width": adapter.width,
            "sizes": {rank: adapter.sizes[rank] for rank in ranks if rank in adapter.sizes},
            "factors": {rank: of.factor for rank, of in made.items() if of and of.factor},
        }

    def _scores(self, task: TaskInfo, cut: CutInfo, rank: int) -> NDArray[np.float64] | str:
        """(n,) scores, those of a group's tasks one after the other, or why there are none."""
        parts = []
        for leaf in self.leaves(task):
            wanted, cell = self.keys(leaf), self._kept(leaf, cut, rank)
            if left := len(cell.missing(wanted)):
                there = f"{len(wanted) - left} of {len(wanted)} examples"
                return cell.failed.reason if cell.failed else f"not finished: {there}"
            column = cell.scores(task.metric, wanted)
            if column is None:
                return f"its cell holds no {task.metric}"
            parts.append(column)
        return np.concatenate(parts)

    def _same(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Equal labels as one object, which curves are then joined by quickly."""
        return self._tuples.setdefault(tuple(labels), tuple(labels))

    def _clusters(self, task: TaskInfo) -> tuple[str, ...] | None:
        """What examples share; one of a task without clusters is one by itself."""
        leaves = self.leaves(task)
        if all(self._read(leaf).clusters is None for leaf in leaves):
            return None
        labels = []
        for leaf in leaves:
            own = self._read(leaf).clusters or self.labels(task, leaf)
            own = own[: len(self.keys(leaf))]
            labels += [f"{leaf.name}:{x}" if task.members else x for x in own]
        return self._same(labels)


def read_run(folder: str | Path) -> StoredRun:
    """All that a run folder holds.

    Raises:
        RunFolderError: It is no run folder, of another version, or a file of it cannot be read.
    """
    return StoredRun(Path(folder), Manifest.read(Path(folder)), CellStore(Path(folder)))


def recipe_groups(
    adapters: Sequence[AdapterInfo], named: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Recipe → adapters whose recorded recipes differ in the seed alone; `named` come before."""
    there = {adapter.name for adapter in adapters}
    given = {n: tuple(m for m in members if m in there) for n, members in named.items()}
    groups = {name: members for name, members in given.items() if members}
    taken = {member for members in groups.values() for member in members}
    same: dict[str, list[AdapterInfo]] = {}
    for adapter in adapters:
        if adapter.recipe and adapter.seed is not None and adapter.name not in taken:
            own = ("seed", "start_sha256")
            recipe = {k: v for k, v in adapter.recipe.items() if k not in own}
            key = json.dumps([adapter.method, recipe], sort_keys=True)
            same.setdefault(key, []).append(adapter)
    for seeds in same.values():
        if len({adapter.seed for adapter in seeds}) == len(seeds) > 1:
            names = tuple(adapter.name for adapter in seeds)
            groups[common_name(names, taken={*groups, *there.difference(names)})] = names
    return groups
