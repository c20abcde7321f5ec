"""`run.json`: what a run folder holds, and which cells its curves are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    """An adapter, or a family of one adapter for each rank.

    Attributes:
        name: Unique in the run.
        path: Where it was read from, relative to the working folder where it lies below that.
        format: The format of its file; `family` for a family.
        sha256: Hash of its content.
        method, base: As it records them.
        seed: Of its training.
        data_order: Hash of what fixes, with the seed, the order of its training data.
        trained_rank: Its largest rank.
        sizes: Rank → bytes, at each rank that was evaluated.
        parameters: Of the trained rank.
        width: Inputs and outputs of all adapted modules; 0 where not known.
        recipe: Of its training, where recorded.
        notes: What limits or explains its results, one sentence each.
        licence: As the front matter of its README names it.
    """

    name: str
    path: str | None = None
    format: str = "peft"
    sha256: str = ""
    method: str | None = None
    base: str | None = None
    seed: int | None = None
    data_order: str | None = None
    trained_rank: int
    sizes: dict[int, int] = {}
    parameters: int = 0
    width: int = 0
    recipe: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    licence: str | None = None


class TaskInfo(Record, frozen=True, kw_only=True):
    """A task, or a group of tasks.

    Attributes:
        name: lm-eval's.
        metric: The ``metric,filter`` that is integrated.
        metrics: All that its cells hold.
        examples: How many were evaluated.
        version: lm-eval's version of it.
        num_fewshot: Examples in each prompt; None in a group whose tasks differ.
        members: The tasks of a group.
        rolling: Whether the metric is one of whole texts (perplexity), which has no AURAC.
        higher_is_better: Of the metric.
        cluster: The field by which its examples are clustered.
        documents: The file of its questions in the run folder.
        requests: The file of its prompts in the run folder.
        prompting: What its prompts are made with, beside its own settings.
        first: Its first example.
        token_limit: Most tokens of an answer, where answers are generated.
    """

    name: str
    metric: str
    metrics: tuple[str, ...] = ()
    examples: int = 0
    version: str = ""
    num_fewshot: int | None = None
    members: tuple[str, ...] = ()
    rolling: bool = False
    higher_is_better: bool = True
    cluster: str | None = None
    documents: str | None = None
    requests: str | None = None
    prompting: dict[str, Any] = {}
    first: DocumentKey | None = None
    token_limit: int | None = None


class CutInfo(Record, frozen=True, kw_only=True):
    """One way of truncating one adapter.

    Attributes:
        adapter: Its name in the run.
        basis, rescale: How it is truncated.
        factors: Rank → factor that rescale `fit` found.
        examples: Task (no group) → how many were asked for.
        cells: Task (no group) → rank → key of the cell.
    """

    adapter: str
    basis: str
    rescale: str
    factors: dict[int, float] = {}
    examples: dict[str, int]
    cells: dict[str, dict[int, str]]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that were asked for on any task."""
        return tuple(sorted({rank for cells in self.cells.values() for rank in cells}))


class Manifest(Record, frozen=True, kw_only=True):
    """The content of `run.json`.

    Attributes:
        settings: What may not change once there are cells.
        provenance: Command, times, versions, machine, device, base: of the latest command.
        adapters, tasks: What was evaluated; the tasks of a group stand before it.
        asked: The tasks and groups that were asked for.
        cuts: Adapter by adapter, the default cut first.
        base: Task (no group) → key of the base's cell.
        groups: Recipe → adapters that are its seeds, as given.
    """

    schema: int = RUN_SCHEMA
    settings: dict[str, Any]
    provenance: dict[str, Any] = {}
    adapters: list[AdapterInfo]
    tasks: list[TaskInfo]
    asked: list[str]
    cuts: list[CutInfo]
    base: dict[str, str]
    groups: dict[str, list[str]] = {}

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
        raise RunFolderError(
            f"{path} has schema {schema}; this version of aurac reads {RUN_SCHEMA}"
        )

    def write(self, folder: Path) -> None:
        """Write it into a run folder."""
        write_json(folder / RUN_FILE, self.to_dict())

    def conflicts(self, other: Manifest) -> list[str]:
        """Why another command cannot add to this run; one without cells takes any."""
        if not self.cuts:
            return []
        names = {**self.settings, **other.settings}
        found = _changed(names, self.settings, other.settings)
        hashes = {adapter.name: adapter.sha256 for adapter in other.adapters}
        found += [
            f"adapter {adapter.name} has other weights"
            for adapter in self.adapters
            if hashes.get(adapter.name, adapter.sha256) != adapter.sha256
        ]
        before = {task.name: task for task in self.tasks if task.first}
        for task in (task for task in other.tasks if task.name in before):
            known = before[task.name]
            changed = _changed(
                {**known.prompting, **task.prompting}, known.prompting, task.prompting
            )
            if not changed and known.first != task.first:
                changed = ["its first example is another"]
            found += [f"of task {task.name} {each}" for each in changed]
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


def _changed(names: Iterable[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in names
        if before.get(name) != now.get(name)
    ]


class _Schema(msgspec.Struct):
    schema: int = 0


def _grown(before: CutInfo, cut: CutInfo) -> CutInfo:
    cells = dict(before.cells)
    for task, keys in cut.cells.items():
        cells[task] = dict(sorted({**cells.get(task, {}), **keys}.items()))
    examples = dict(before.examples)
    for task, count in cut.examples.items():
        examples[task] = max(count, examples.get(task, 0))
    factors = {**before.factors, **cut.factors}
    return msgspec.structs.replace(cut, cells=cells, examples=examples, factors=factors)
