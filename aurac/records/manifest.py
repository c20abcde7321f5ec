"""`run.json`: what a run folder holds, and which cells its curves are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from aurac.curves.names import common_name
from aurac.curves.question import Key, Question, Renamed
from aurac.errors import RunFolderError
from aurac.files import read_json, write_json

RUN_FILE, REPORT_FILE = "run.json", "analysis.json"
RUN_SCHEMA = 4


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter, or a family of one adapter for each rank."""

    name: str  #: unique in the run
    path: str | None = None  #: relative to the working folder where it lies below that
    format: str = "peft"  #: of its files; `family` for a family
    sha256: str = ""  #: hash of its content
    method: str | None = None  #: as recorded
    folded: bool = False  #: whether its factors have the P of its training folded in
    base: str | None = None  #: as recorded
    seed: int | None = None  #: of its training
    data_order: str | None = None  #: hash of what fixes, with the seed, the order of its data
    trained_rank: int  #: its largest rank
    sizes: dict[int, int] = {}  #: rank → bytes, at each rank that was evaluated
    #: inputs and outputs of all adapted modules; 0: vLLM does not serve it; None: not known
    width: int | None = None
    recipe: dict[str, Any] | None = None  #: of its training, where recorded
    notes: tuple[str, ...] = ()  #: what limits or explains its results, one sentence each
    licence: str | None = None  #: as the front matter of its README names it


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A task, or a group of tasks."""

    name: str  #: lm-eval's
    metric: str  #: the ``metric,filter`` that was integrated last, unless a question names another
    metrics: tuple[str, ...] = ()  #: all that its cells hold
    #: itself, or each task of a group → how many examples of its list are read: the first ones
    examples: dict[str, int] = {}
    split: int | None = None  #: how many examples its split has; None of a group
    version: str = ""  #: lm-eval's version of it
    num_fewshot: int | None = None  #: examples in each prompt; None in a group whose tasks differ
    members: tuple[str, ...] = ()  #: the tasks of a group
    rolling: bool = False  #: the metric is one of whole texts (perplexity), which has no AURAC
    cluster: str | None = None  #: the field by which its examples were clustered last
    prompting: dict[str, Any] = {}  #: what its prompts are made with, beside its own settings
    scoring: str = ""  #: hash of how answers become scores
    token_limit: int | None = None  #: most tokens of an answer, where answers are generated

    @property
    def leaves(self) -> dict[str, str]:
        """Each task of a group, or itself → the name of its cells in a cut."""
        return {leaf: f"{self.name}:{leaf}" for leaf in self.members} or {self.name: self.name}


class CutInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One way of truncating one adapter."""

    adapter: str  #: its name in the run
    basis: str
    rescale: str
    #: task (no group), or `GROUP:TASK` for a task of a group → rank → key of the cell
    cells: dict[str, dict[int, str]]

    @property
    def curve_key(self) -> Key:
        """The key of its curves, which they share with no other cut."""
        return Key(self.adapter, self.basis, self.rescale)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that were asked for on any task."""
        return tuple(sorted({rank for cells in self.cells.values() for rank in cells}))


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `run.json`, or what one command adds to it."""

    schema: int = RUN_SCHEMA
    settings: dict[str, Any]  #: what may not change once there are cells
    #: a record of each command: itself, times, versions, machine, base; the latest one at the end
    log: list[dict[str, Any]] = []
    question: Question = Question()  #: what was asked last
    adapters: list[AdapterInfo]
    tasks: list[TaskInfo]  #: those of a group before it
    asked: list[str]  #: the tasks and groups that were asked for
    cuts: list[CutInfo]  #: adapter by adapter, the default cut first
    base: dict[str, str]  #: task (no group) → key of the base's cell
    #: key of a cell → most examples that a command asked of it; `cells` in the file
    asked_examples: dict[str, int] = msgspec.field(default_factory=dict, name="cells")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read that of a run folder.

        Raises:
            RunFolderError: There is none, or another version of aurac wrote it.
        """
        path = folder / RUN_FILE
        if (schema := read_json(path, dict).get("schema")) != RUN_SCHEMA:
            raise RunFolderError(f"{path} has schema {schema}; this aurac reads {RUN_SCHEMA}")
        return read_json(path, cls)

    def has_more_than(self, other: Manifest) -> bool:
        """Whether it holds tasks, cells or examples of cells that another one lacks."""
        known = other.asked_examples
        more = any(count > known.get(key, 0) for key, count in self.asked_examples.items())
        return more or not {*self.asked} <= {*other.asked}

    def shown(self, rows: Sequence[Renamed]) -> tuple[tuple[CutInfo, ...], dict[str, AdapterInfo]]:
        """Its cuts and adapters, or those that rows name, under their names."""
        adapters = {adapter.name: adapter for adapter in self.adapters}
        if not rows:
            return tuple(self.cuts), adapters
        tasks = {task.name: task for task in self.tasks}
        cuts = {cut.curve_key: cut for cut in self.cuts}
        kept: dict[Key, CutInfo] = {}  # one for all tasks
        for row in rows:
            cut = replace(cuts[Key(row.adapter, row.basis, row.rescale)], adapter=row.name)
            cells = {name: cut.cells[name] for name in tasks[row.task].leaves.values()}
            known = kept[cut.curve_key].cells if cut.curve_key in kept else {}
            kept[cut.curve_key] = replace(cut, cells={**known, **cells})
        infos = {row.name: replace(adapters[row.adapter], name=row.name) for row in rows}
        return tuple(kept.values()), infos

    def write(self, folder: Path) -> None:
        """Write it into a run folder."""
        write_json(folder / RUN_FILE, msgspec.to_builtins(self, str_keys=True))

    def conflicts(self, other: Manifest) -> list[str]:
        """Why another command cannot add to this run."""
        found = _changed(self.settings, other.settings)
        before = {task.name: task for task in self.tasks}
        for task in (task for task in other.tasks if task.name in before):
            known = before[task.name]
            changed = _changed(known.prompting, task.prompting)
            if known.scoring != task.scoring:
                changed.append("was scored with other filters or metrics")
            if known.members != task.members:
                changed.append("was a group of other tasks")
            found += [f"of task {task.name} {each}" for each in changed[:1]]
        return found

    def grown(self, other: Manifest) -> Manifest:
        """All that either holds; of what both hold the `other`'s is newer.

        Adapters are the same where their weights are, and keep the name that they have here.
        """
        names = self._names(other)
        adapters = {a.sha256: a for a in self.adapters}
        for new in other.adapters:
            sizes = {**adapters.get(new.sha256, new).sizes, **new.sizes}
            adapters[new.sha256] = replace(new, name=names[new.name], sizes=sizes)
        tasks = {task.name: task for task in self.tasks}
        for task in other.tasks:
            before = tasks[task.name].examples if task.name in tasks else {}
            tasks[task.name] = replace(task, examples=_most(before, task.examples))
        cuts = {cut.curve_key: cut for cut in self.cuts}
        for cut in (replace(c, adapter=names[c.adapter]) for c in other.cuts):
            cuts[cut.curve_key] = _grown(cuts[cut.curve_key], cut) if cut.curve_key in cuts else cut
        return Manifest(
            settings=self.settings,
            log=_logged([*self.log, *other.log]),
            question=self._question(other, names),
            adapters=list(adapters.values()),
            tasks=list(tasks.values()),
            asked=list(dict.fromkeys([*self.asked, *other.asked])),
            cuts=list(cuts.values()),
            base={**self.base, **other.base},
            asked_examples=_most(self.asked_examples, other.asked_examples),
        )

    def _names(self, other: Manifest) -> dict[str, str]:
        """The other's name of each of its adapters → the name in this folder."""
        known = {adapter.sha256: adapter.name for adapter in self.adapters}
        names: dict[str, str] = {}
        for new in other.adapters:
            name, number = known.get(new.sha256) or new.name, 2
            while new.sha256 not in known and name in {*known.values(), *names.values()}:
                name, number = f"{new.name}-{number}", number + 1
            names[new.name] = name
        return names

    def _question(self, other: Manifest, names: Mapping[str, str]) -> Question:
        """The other's question in the names of this folder, with what it leaves open of the last.

        A group takes the place of earlier ones that share an adapter with it.
        """
        last, asked = self.question, other.question
        told = {task.name for task in other.tasks}
        groups = {n: tuple(names[m] for m in some) for n, some in asked.groups.items()}
        reference = asked.reference
        of = next((name for name in names if f"{reference} (".startswith(f"{name} (")), None)
        if of and reference not in groups:
            reference = names[of] + str(reference)[len(of) :]
        return asked.but(
            reference=reference,
            groups=last.apart(groups) | groups,
            metrics={task: name for task, name in last.metrics.items() if task not in told},
            clusters={task: name for task, name in last.clusters.items() if task not in told},
            labels=last.labels,
        )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    pairs = ((name, before.get(name), now.get(name)) for name in {**before, **now})
    return [f"{name} was {old!r}, is {new!r}" for name, old, new in pairs if old != new]


def _logged(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each command once, in the order of their latest runs."""
    latest = {entry.get("command") or entry["started"]: entry for entry in log}
    order = dict.fromkeys(entry.get("command") or entry["started"] for entry in reversed(log))
    return [latest[key] for key in reversed(order)]


def _grown(before: CutInfo, cut: CutInfo) -> CutInfo:
    cells = dict(before.cells)
    for task, keys in cut.cells.items():
        cells[task] = dict(sorted({**cells.get(task, {}), **keys}.items()))
    return replace(cut, cells=cells)


def _most(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The larger number of each key."""
    return {key: max(one.get(key, 0), other.get(key, 0)) for key in {**one, **other}}


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
            recipe = {k: v for k, v in adapter.recipe.items() if k != "seed"}
            key = json.dumps([adapter.method, recipe], sort_keys=True)
            same.setdefault(key, []).append(adapter)
    for seeds in same.values():
        if len({adapter.seed for adapter in seeds}) == len(seeds) > 1:
            names = tuple(adapter.name for adapter in seeds)
            groups[common_name(names, taken={*groups, *there.difference(names)})] = names
    return groups
