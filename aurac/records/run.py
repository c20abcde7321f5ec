"""A run folder as it is read: its adapters and tasks, and curves made of its cells."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from aurac.curves.curve import Curve
from aurac.curves.display import common_name
from aurac.curves.metrics import LOSS
from aurac.curves.question import Question, Renamed
from aurac.errors import RunFolderError, first_line
from aurac.records.cells import Cell, CellStore
from aurac.records.lines import DocumentKey, examples_sha256
from aurac.records.manifest import AdapterInfo, CutInfo, Manifest, TaskInfo

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AdapterInfo", "Failure", "StoredRun", "TaskInfo", "TaskQuestions", "read_run"]


class TaskQuestions(msgspec.Struct, frozen=True, kw_only=True):
    """`documents/…json`: a set of a task's examples for people, and their identities."""

    keys: list[DocumentKey]  #: n identities, as cells name them
    questions: list[str | None] = []  #: n texts; None where the task has none
    targets: list[str | None] = []  #: n texts; None where the task has none
    choices: list[list[str] | None] | None = None  #: n lists of texts; None where there are none
    #: field of the examples → n values, by which they can be clustered: of those fields that were
    #: asked for or have a value twice
    fields: dict[str, list[str]] = {}


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


@dataclass(frozen=True)
class Chosen:
    """The examples that a curve is read on: the first ones of a set of each task (no group)."""

    task: str  #: task or group
    parts: tuple[tuple[str, str, int], ...]  #: task (no group), its files, and how many examples

    @property
    def size(self) -> int:
        """How many examples these are."""
        return sum(count for *_, count in self.parts)


@dataclass(eq=False)
class StoredRun:
    """A run as it is read under a question: what was evaluated, and how it came out.

    Attributes:
        folder: The run folder.
        manifest: All that it holds, or what one command asked for.
        store: Its cells, of each of which the scores are read once.
        question: Tasks, examples, metrics, clusters, groups and rows are those that it names.
        documents: Files of examples that were read, by the beginning of their names.
    """

    folder: Path
    manifest: Manifest
    store: CellStore
    question: Question = field(default_factory=Question)
    documents: dict[str, TaskQuestions] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tasks = {task.name: task for task in self.manifest.tasks}
        self._cuts, self._adapters = _shown(self.manifest, self.question.rows)
        self._tuples: dict[tuple[str, ...], tuple[str, ...]] = {}
        for name in self.question.tasks:
            self.task(name)

    def under(self, question: Question) -> StoredRun:
        """The same run under another question."""
        same = all(
            getattr(question, name) == getattr(self.question, name)
            for name in ("tasks", "limit", "metrics", "clusters", "rows")
        )
        run = StoredRun(self.folder, self.manifest, self.store, question, self.documents)
        if same and "curves" in self.__dict__:
            run.__dict__["curves"] = self.curves
        return run

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Command, started, seconds, versions, machine, device, dtype, base, base_sha256."""
        return self.manifest.log[-1]

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        """In the order of the commands."""
        return tuple(self._adapters.values())

    @property
    def cuts(self) -> tuple[CutInfo, ...]:
        """Every way in which an adapter was cut, its default one first."""
        return self._cuts

    @cached_property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks and groups that were asked for."""
        return tuple(self.task(name) for name in self.question.tasks or self.manifest.asked)

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """One for each task, adapter and cut, an adapter's default cut first."""
        made = (self.curve(task, cut) for task in self.tasks for cut in self._cuts)
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
        for cut, name, rank, key in self._cells():
            cell = self.store.scores(key)
            sets = self._sets(self.task(name), None)
            if cell.failed and any(cell.missing(self.keys(each, name)) for each in sets):
                who, basis, way = (cut.adapter, cut.basis, cut.rescale) if cut else (None,) * 3
                found.setdefault(key, Failure(who, basis, way, rank, name, cell.failed.reason))
        return tuple(found.values())

    def _cells(self) -> Iterator[tuple[CutInfo | None, str, int, str]]:
        """Cut (None: the base), task, rank and key."""
        for name, key in self.manifest.base.items():
            yield None, name, 0, key
        for cut in self._cuts:
            for task in self._tasks.values():
                for leaf, name in task.leaves.items():
                    for rank, key in cut.cells.get(name, {}).items():
                        yield cut, leaf, rank, key

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

    # Which examples -----------------------------------------------------------------------------

    def _sets(self, task: TaskInfo, cut: CutInfo | None) -> dict[Chosen, set[int]]:
        """The sets of a task or group on which a cut was asked for, with the ranks that were.

        The one that was asked for last comes first. Without a cut all sets, of the base.
        """
        found: dict[Chosen, set[int]] = {}
        for each in reversed(task.sets):
            ranks = {0} if cut is None else {*cut.asked.get(task.name, {}).get(each.name, ())}
            if ranks:
                found.setdefault(self._limited(task, each.documents), set()).update(ranks)
        return found

    def _limited(self, task: TaskInfo, documents: Mapping[str, str]) -> Chosen:
        limit = self.question.limit
        counts = {name: len(self._file(stem).keys) for name, stem in documents.items()}
        parts = ((n, stem, min(counts[n], limit or counts[n])) for n, stem in documents.items())
        return Chosen(task.name, tuple(parts))

    def keys(self, chosen: Chosen, leaf: str) -> list[DocumentKey]:
        """The examples of a task (no group) in a set."""
        stem, count = next((stem, count) for name, stem, count in chosen.parts if name == leaf)
        return self._file(stem).keys[:count]

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
        best = max(same, key=lambda each: (len(whole[each]) * each.size, each.size))
        return best, [rank for rank in ranks if rank in whole[best] | asked[best]]

    def _whole(self, chosen: Chosen, cut: CutInfo | None, rank: int) -> bool:
        return not any(
            self._kept(chosen, name, cut, rank).missing(self.keys(chosen, name))
            for name, *_ in chosen.parts
        )

    def _one_generation(self, one: Chosen, other: Chosen) -> bool:
        return all(
            x == y or all(map(DocumentKey.__eq__, self._file(x).keys, self._file(y).keys))
            for (_, x, _), (_, y, _) in zip(one.parts, other.parts, strict=True)
        )

    def limited(self, curve: Curve, limit: float | None) -> bool:
        """Whether all ranks of a curve have a whole set that was asked for with this limit."""
        cut, task = self._cut(curve.adapter, curve.basis, curve.rescale), self.task(str(curve.task))
        sets = [self._limited(task, each.documents) for each in task.sets if limit in each.limits]
        return any(all(self._whole(each, cut, rank) for rank in curve.ranks) for each in sets)

    def _cut(self, adapter: str | None, basis: str | None, rescale: str | None) -> CutInfo:
        """A cut of an adapter; a RunFolderError where there is none."""
        for cut in self._cuts:
            if (cut.adapter, cut.basis, cut.rescale) == (adapter, basis, rescale):
                return cut
        raise RunFolderError(f"the run has no cut {basis}, {rescale} of {adapter}")

    def _kept(self, chosen: Chosen, leaf: str, cut: CutInfo | None, rank: int) -> Cell:
        """The scores of a cut on a task (no group) at a rank, those of the base at rank 0."""
        key = self._key(chosen, leaf, cut, rank)
        return self.store.scores(key) if key else Cell()

    def _key(self, chosen: Chosen, leaf: str, cut: CutInfo | None, rank: int) -> str | None:
        if cut is None or rank == 0:
            return self.manifest.base.get(leaf)
        return cut.cells.get(self.task(chosen.task).leaves[leaf], {}).get(rank)

    def _file(self, stem: str) -> TaskQuestions:
        """What is kept of a set of examples."""
        if stem not in self.documents:
            path = self.folder / f"{stem}.json"
            try:
                content = path.read_bytes()
                self.documents[stem] = msgspec.json.decode(content, type=TaskQuestions)
            except (OSError, msgspec.MsgspecError) as error:
                raise RunFolderError(f"{path} cannot be read ({first_line(error)})") from error
        return self.documents[stem]

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
        chosen = known[0] if known else Chosen(task, ())
        if not known or not self._whole(chosen, cut, rank):
            what = f"{adapter if rank else 'the base'} at rank {rank} on {task}"
            raise RunFolderError(f"{what} is not there as a whole")
        for name, stem, count in chosen.parts:
            told, keys = self._file(stem), self.keys(chosen, name)
            cell = self.store.read(str(self._key(chosen, name, cut, rank)))
            read = cell.filtered(metric.partition(",")[2], keys)
            rows += zip(
                self._labels(info, chosen, name),
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
        having = [task for task in self._tasks.values() if leaf in task.leaves]
        every = (self._chosen(task, cut, [rank]) for task in reversed(having))
        known = [found[0] for found in every if found]
        if not known:
            return None
        chosen = max(known, key=lambda each: len(self.keys(each, leaf)))
        stem, count = next((stem, count) for name, stem, count in chosen.parts if name == leaf)
        path = self.folder / f"{stem}.jsonl.gz"
        try:
            with gzip.open(path, "rb") as lines:
                rows = [json.loads(line) for line in lines]
        except (OSError, EOFError, ValueError) as error:
            raise RunFolderError(f"{path} cannot be read ({first_line(error)})") from error
        cell = self.store.read(str(self._key(chosen, leaf, cut, rank)))
        return Logged(cell, self.keys(chosen, leaf), rows[: count + 1])

    def _labels(self, task: TaskInfo, chosen: Chosen, leaf: str) -> list[str]:
        """The examples as curves name them: in a group with the task before them."""
        keys = self.keys(chosen, leaf)
        return [f"{leaf}:{key.id}" if task.members else key.id for key in keys]

    # Curves -------------------------------------------------------------------------------------

    def _ranks(self, task: TaskInfo, cut: CutInfo) -> list[int]:
        return sorted({rank for name in task.leaves.values() for rank in cut.cells.get(name, ())})

    def curve(self, task: TaskInfo, cut: CutInfo) -> Curve | None:
        """The curve of a cut on a task or group; None where it has a score at no rank."""
        known = self._chosen(task, cut, self._ranks(task, cut))
        if known is None or (task.rolling and task.members):
            return None
        made = self._rolling if task.rolling else self._scored
        return made(task, cut, known[1], known[0])

    def _scored(
        self, task: TaskInfo, cut: CutInfo, ranks: Sequence[int], chosen: Chosen
    ) -> Curve | None:
        found = {rank: self._scores(task, cut, rank, chosen) for rank in (0, *ranks)}
        rows = {rank: row for rank, row in found.items() if not isinstance(row, str)}
        base = rows.pop(0, None)
        if not rows:
            return None
        names = [name for name, *_ in chosen.parts]
        keys = [key for name in names for key in self.keys(chosen, name)]
        ids = [label for name in names for label in self._labels(task, chosen, name)]
        leaves = self.leaves(task)
        return Curve.from_outcomes(
            tuple(rows),
            np.stack(list(rows.values())),
            doc_ids=self._same(ids),
            doc_hashes=self._same([key.content for key in keys]),
            prompts=self._same([key.prompt for key in keys]),
            clusters=self._clusters(task, chosen),
            base_scores=base,
            missing={rank: why for rank, why in found.items() if isinstance(why, str) and rank},
            unfinished=self._unfinished(cut, (0, *rows), chosen),
            nats=self._nats(cut, (0, *rows), chosen),
            token_limit=max((leaf.token_limit or 0 for leaf in leaves), default=0) or None,
            **self._names(task, cut, rows, chosen),
        )

    def _scores(
        self, task: TaskInfo, cut: CutInfo, rank: int, chosen: Chosen
    ) -> NDArray[np.float64] | str:
        """(n,) scores, those of a group's tasks one after the other, or why there are none."""
        parts, metric = [], self.metric(task)
        for name, *_ in chosen.parts:
            wanted, cell = self.keys(chosen, name), self._kept(chosen, name, cut, rank)
            if left := len(cell.missing(wanted)):
                there = f"{len(wanted) - left} of {len(wanted)} examples"
                return cell.failed.reason if cell.failed else f"not finished: {there}"
            column = cell.scores(metric, wanted)
            if column is None:
                return f"its cell holds no {metric}"
            parts.append(column)
        return np.concatenate(parts)

    def _rolling(
        self, task: TaskInfo, cut: CutInfo, ranks: Sequence[int], chosen: Chosen
    ) -> Curve | None:
        """The curve of a metric of whole texts, by lm-eval's own aggregation; no group."""
        wanted = examples_sha256(self.keys(chosen, task.name))
        told = {rank: self._kept(chosen, task.name, cut, rank).aggregates for rank in (0, *ranks)}
        values = {r: known.get(wanted, {}).get(self.metric(task)) for r, known in told.items()}
        known = {rank: value for rank, value in values.items() if rank and value is not None}
        if not known:
            return None
        return Curve(
            tuple(known),
            tuple(known.values()),
            rolling=True,
            prompts=self._same([key.prompt for key in self.keys(chosen, task.name)]),
            baseline=values.get(0),
            missing={rank: "not finished" for rank in ranks if rank not in known},
            **self._names(task, cut, known, chosen),
        )

    def _unfinished(self, cut: CutInfo, ranks: Sequence[int], chosen: Chosen) -> dict[int, int]:
        """Rank → answers that were cut off at the token limit, where that is known of all."""
        found = {}
        for rank in ranks:
            counts = []
            for name, *_ in chosen.parts:
                cell, wanted = self._kept(chosen, name, cut, rank), self.keys(chosen, name)
                counts.append(None if cell.missing(wanted) else cell.unfinished(wanted))
            if None not in counts:
                found[rank] = sum(count or 0 for count in counts)
        return found

    def _nats(self, cut: CutInfo, ranks: Sequence[int], chosen: Chosen) -> dict[int, float]:
        """Rank → mean loss of the user's own examples, which are in no group, where it is known."""
        name, *_ = chosen.parts[0]
        wanted, found = self.keys(chosen, name), dict[int, float]()
        for rank in ranks:
            cell = self._kept(chosen, name, cut, rank)
            losses = None if cell.missing(wanted) else cell.scores(f"{LOSS},none", wanted)
            if losses is not None:
                found[rank] = float(losses.mean())
        return found

    def _names(
        self, task: TaskInfo, cut: CutInfo, ranks: Mapping[int, Any], chosen: Chosen
    ) -> dict[str, Any]:
        adapter, first = self._adapters[cut.adapter], chosen.parts[0][0]
        made = {rank: self._kept(chosen, first, cut, rank).identity for rank in ranks}
        return {
            "adapter": cut.adapter,
            "task": task.name,
            "metric": self.metric(task),
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

    def _same(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Equal labels as one object, which curves are then joined by quickly."""
        return self._tuples.setdefault(tuple(labels), tuple(labels))

    def _clusters(self, task: TaskInfo, chosen: Chosen) -> tuple[str, ...] | None:
        """What examples share; one of a task without clusters is one by itself."""
        labels, clustered = list[str](), False
        for name, stem, count in chosen.parts:
            cluster = self.question.clusters.get(name, self._tasks[name].cluster)
            own = self._file(stem).fields.get(cluster) if cluster else None
            clustered |= own is not None
            shown = own[:count] if own else [key.id for key in self.keys(chosen, name)]
            labels += [f"{name}:{x}" if task.members else x for x in shown]
        return self._same(labels) if clustered else None


def _shown(
    manifest: Manifest, rows: Sequence[Renamed]
) -> tuple[tuple[CutInfo, ...], dict[str, AdapterInfo]]:
    """The cuts and adapters of a run, or those that rows name, under their names."""
    adapters = {adapter.name: adapter for adapter in manifest.adapters}
    if not rows:
        return tuple(manifest.cuts), adapters
    tasks = {task.name: task for task in manifest.tasks}
    cuts = {(cut.adapter, cut.basis, cut.rescale): cut for cut in manifest.cuts}
    kept: dict[tuple[str, str, str], CutInfo] = {}  # one for all tasks
    infos: dict[str, AdapterInfo] = {}
    for row in rows:
        cut, key = cuts[row.adapter, row.basis, row.rescale], (row.name, row.basis, row.rescale)
        cells = dict(kept[key].cells) if key in kept else {}
        cells |= {name: cut.cells[name] for name in tasks[row.task].leaves.values()}
        kept[key] = replace(cut, adapter=row.name, cells=cells)
        infos[row.name] = replace(adapters[row.adapter], name=row.name)
    return tuple(kept.values()), infos


def read_run(folder: str | Path, question: Question | None = None) -> StoredRun:
    """All that a run folder holds, under its last question or another one.

    Raises:
        RunFolderError: It is no run folder, of another version, or a file of it cannot be read.
    """
    manifest = Manifest.read(Path(folder))
    asked = manifest.question if question is None else question
    return StoredRun(Path(folder), manifest, CellStore(Path(folder)), asked)


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
