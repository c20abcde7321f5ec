"""`run.json`: what a run folder holds, and which cells its curves are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from aurac.errors import RunFolderError, first_line
from aurac.files import write_json
from aurac.records.lines import DocumentKey

RUN_FILE = "run.json"
RUN_SCHEMA = 2


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Plain values by name."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has them."""
        return dict(msgspec.to_builtins(self, str_keys=True))


class AdapterInfo(Record, frozen=True, kw_only=True):
    """An adapter, or a family of one adapter for each rank."""

    name: str  #: unique in the run
    path: str | None = None  #: relative to the working folder where it lies below that
    format: str = "peft"  #: of its files; `family` for a family
    sha256: str = ""  #: hash of its content
    method: str | None = None  #: as recorded
    base: str | None = None  #: as recorded
    seed: int | None = None  #: of its training
    data_order: str | None = None  #: hash of what fixes, with the seed, the order of its data
    trained_rank: int  #: its largest rank
    sizes: dict[int, int] = {}  #: rank → bytes, at each rank that was evaluated
    parameters: int = 0  #: of the trained rank
    #: inputs and outputs of all adapted modules; 0: vLLM does not serve it; None: not known
    width: int | None = None
    recipe: dict[str, Any] | None = None  #: of its training, where recorded
    notes: tuple[str, ...] = ()  #: what limits or explains its results, one sentence each
    licence: str | None = None  #: as the front matter of its README names it


class TaskInfo(Record, frozen=True, kw_only=True):
    """A task, or a group of tasks."""

    name: str  #: lm-eval's
    metric: str  #: the ``metric,filter`` that is integrated
    metrics: tuple[str, ...] = ()  #: all that its cells hold
    examples: int = 0  #: how many were evaluated
    version: str = ""  #: lm-eval's version of it
    num_fewshot: int | None = None  #: examples in each prompt; None in a group whose tasks differ
    members: tuple[str, ...] = ()  #: the tasks of a group
    rolling: bool = False  #: the metric is one of whole texts (perplexity), which has no AURAC
    cluster: str | None = None  #: the field by which its examples are clustered
    documents: str | None = None  #: the file of its questions in the run folder
    requests: str | None = None  #: the file of its prompts in the run folder
    prompting: dict[str, Any] = {}  #: what its prompts are made with, beside its own settings
    first: DocumentKey | None = None  #: its first example
    scoring: str = ""  #: hash of how answers become scores
    token_limit: int | None = None  #: most tokens of an answer, where answers are generated


class CutInfo(Record, frozen=True, kw_only=True):
    """One way of truncating one adapter."""

    adapter: str  #: its name in the run
    basis: str
    rescale: str
    examples: dict[str, int]  #: task (no group) → how many were asked for last
    limits: dict[str, float | None] = {}  #: task (no group) → the limit that was given last
    cells: dict[str, dict[int, str]]  #: task (no group) → rank → key of the cell

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that were asked for on any task."""
        return tuple(sorted({rank for cells in self.cells.values() for rank in cells}))


class Manifest(Record, frozen=True, kw_only=True):
    """The content of `run.json`."""

    schema: int = RUN_SCHEMA
    settings: dict[str, Any]  #: what may not change once there are cells
    #: of the latest command: itself, times, versions, machine, base
    provenance: dict[str, Any] = {}
    adapters: list[AdapterInfo]
    tasks: list[TaskInfo]  #: those of a group before it
    asked: list[str]  #: the tasks and groups that were asked for
    cuts: list[CutInfo]  #: adapter by adapter, the default cut first
    base: dict[str, str]  #: task (no group) → key of the base's cell
    groups: dict[str, list[str]] = {}  #: recipe → adapters that are its seeds, as given

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read that of a run folder.

        Raises:
            RunFolderError: There is none, or another version of aurac wrote it.
        """
        path = folder / RUN_FILE
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RunFolderError(
                f"{folder} is no run folder with a {RUN_FILE} that can be read."
            ) from error
        try:
            schema = msgspec.json.decode(content, type=_Schema).schema
            if schema == RUN_SCHEMA:
                return msgspec.json.decode(content, type=cls)
        except msgspec.MsgspecError as error:
            raise RunFolderError(f"{path} cannot be read ({first_line(error)})") from error
        raise RunFolderError(f"{path} has schema {schema}; this aurac reads {RUN_SCHEMA}")

    def write(self, folder: Path) -> None:
        """Write it into a run folder."""
        write_json(folder / RUN_FILE, self.to_dict())

    def conflicts(self, other: Manifest) -> list[str]:
        """Why another command cannot add to this run; one without cells takes any."""
        if not self.cuts:
            return []
        found = _changed(self.settings, other.settings)
        hashes = {adapter.name: adapter.sha256 for adapter in other.adapters}
        found += [
            f"adapter {adapter.name} has other weights"
            for adapter in self.adapters
            if hashes.get(adapter.name, adapter.sha256) != adapter.sha256
        ]
        before = {task.name: task for task in self.tasks if task.first}
        for task in (task for task in other.tasks if task.name in before):
            known = before[task.name]
            changed = _changed(known.prompting, task.prompting)
            found += [f"of task {task.name} {each}" for each in changed[:1]]
            rescored = known.scoring and known.scoring != task.scoring
            if not changed and (known.first != task.first or rescored):
                found.append(
                    f"task {task.name} was evaluated with other data, prompts, filters or settings "
                    "of generation"
                )
        return found

    def grown(self, other: Manifest) -> Manifest:
        """All that either holds; of what both hold the `other`'s is newer."""
        if not self.cuts:
            return other
        if not other.cuts:
            return self
        adapters = {a.name: a for a in self.adapters}
        for new in other.adapters:
            sizes = adapters[new.name].sizes if new.name in adapters else {}
            adapters[new.name] = msgspec.structs.replace(new, sizes={**sizes, **new.sizes})
        tasks = {task.name: task for task in self.tasks}
        for task in other.tasks:
            before = tasks.get(task.name, task)
            tasks[task.name] = before if before.examples > task.examples else task
        cuts = {(c.adapter, c.basis, c.rescale): c for c in self.cuts}
        for cut in other.cuts:
            way = cut.adapter, cut.basis, cut.rescale
            cuts[way] = _grown(cuts[way], cut) if way in cuts else cut
        grouped = {name for members in other.groups.values() for name in members}
        groups = {n: some for n, some in self.groups.items() if grouped.isdisjoint(some)}
        return Manifest(
            settings=self.settings,
            provenance=other.provenance,
            adapters=list(adapters.values()),
            tasks=list(tasks.values()),
            asked=list(dict.fromkeys([*self.asked, *other.asked])),
            cuts=list(cuts.values()),
            base={**self.base, **other.base},
            groups={**groups, **other.groups},
        )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    pairs = ((name, before.get(name), now.get(name)) for name in {**before, **now})
    return [f"{name} was {old!r}, is {new!r}" for name, old, new in pairs if old != new]


class _Schema(msgspec.Struct):
    schema: int = 0


def _grown(before: CutInfo, cut: CutInfo) -> CutInfo:
    cells = dict(before.cells)
    for task, keys in cut.cells.items():
        cells[task] = dict(sorted({**cells.get(task, {}), **keys}.items()))
    examples = {**before.examples, **cut.examples}
    limits = {**before.limits, **cut.limits}
    return msgspec.structs.replace(cut, cells=cells, examples=examples, limits=limits)
