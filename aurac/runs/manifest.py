"""What a command adds to `run.json`, and the questions and prompts beside it."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.adapters import Family
from aurac.files import write_atomic, write_json
from aurac.models.device import in_use, machine, versions
from aurac.records.manifest import AdapterInfo, CutInfo, Manifest, TaskInfo
from aurac.records.run import TaskQuestions
from aurac.runs.plan import Cell, Way, keys_of

if TYPE_CHECKING:
    from aurac.runs.session import Session
    from aurac.tasks.evaltask import EvalTask


def manifest_of(
    session: Session, ways: Sequence[Way], cells: Sequence[Cell], command: str | None, began: float
) -> Manifest:
    """What this command adds to `run.json`; questions and prompts are written beside it."""
    given, base, tasks = session.settings, session.inputs.base, session.inputs.tasks
    infos = [task_info(session.folder, task) for task in tasks]
    keys: dict[Way | None, dict[str, dict[int, str]]] = {}
    for cell in cells:
        keys.setdefault(cell.way, {}).setdefault(cell.task.name, {})[cell.rank] = cell.key
    examples = {task.name: len(task) for task in session.leaves}
    provenance = {
        "command": command and given.redacted(command),
        "started": dt.datetime.fromtimestamp(began, dt.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {**machine(), **in_use(base.device)} if not given.ray else machine(),
        "device": base.device if given.model == "hf" else session.device_kind,
        "dtype": session.identity["dtype"],
        "base": base.name,
        "base_sha256": base.sha256,
        "backend": session.identity["backend"],
    }
    return Manifest(
        settings=session.identity,
        provenance=provenance,
        adapters=[adapter_info(name, ways) for name in session.inputs.adapters],
        tasks=infos,
        asked=[task.name for task in tasks if task.group is None],
        cuts=[_cut_info(way, keys[way], examples) for way in ways],
        base={task: ranks[0] for task, ranks in keys[None].items()},
        groups={recipe: list(members) for recipe, members in given.group.items()},
    )


def _cut_info(way: Way, cells: dict[str, dict[int, str]], examples: dict[str, int]) -> CutInfo:
    ordered = {task: dict(sorted(keys.items())) for task, keys in cells.items()}
    return CutInfo(
        adapter=way.name,
        basis=way.basis,
        rescale=way.rescale,
        factors=dict(way.factors),
        examples={task: examples[task] for task in ordered},
        cells=ordered,
    )


def adapter_info(name: str, ways: Sequence[Way]) -> AdapterInfo:
    """What readers need of an adapter."""
    own = [way for way in ways if way.name == name]
    adapter, ranks = own[0].adapter, sorted({rank for way in own for rank in way.ranks})
    recipe = dict(adapter.recipe) if adapter.recipe else None
    return AdapterInfo(
        name=name,
        path=_shown_path(adapter.source),
        format="family" if isinstance(adapter, Family) else adapter.format,
        sha256=adapter.sha256,
        method=adapter.method,
        base=adapter.base,
        seed=adapter.seed,
        data_order=adapter.data_order,
        trained_rank=adapter.rank,
        sizes={rank: adapter.bytes(rank) for rank in ranks},
        parameters=adapter.parameters(adapter.rank),
        width=adapter.width,
        recipe=recipe,
        notes=tuple(adapter.notes),
        licence=_licence(adapter.source),
    )


def task_info(folder: Path, task: EvalTask) -> TaskInfo:
    """What readers need of a task; its questions and prompts are written into the run folder."""
    documents, requests = (None, None) if task.members else write_documents(folder, task)
    return TaskInfo(
        name=task.name,
        metric=task.metric,
        metrics=tuple(task.usable),
        examples=len(task),
        version=task.version,
        num_fewshot=task.num_fewshot,
        members=tuple(member.name for member in task.members),
        rolling=task.rolling,
        higher_is_better=task.higher_is_better,
        cluster=task.cluster,
        documents=documents,
        requests=requests,
    )


def write_documents(folder: Path, task: EvalTask) -> tuple[str, str]:
    """Keep the questions and the prompts of a task (no group); the paths in the run folder."""
    stem = f"documents/{task.name.replace('/', '_')}-{task.prompts_sha256[:12]}"
    questions, requests = folder / f"{stem}.json", folder / f"{stem}.jsonl.gz"
    told = task.questions()
    choices: list[Any] = [row["choices"] for row in told]
    content = TaskQuestions(
        keys=list(keys_of(task)),
        questions=[row["question"] for row in told],  # type: ignore[misc]
        targets=[row["target"] for row in told],  # type: ignore[misc]
        choices=choices if any(choices) else None,
        clusters=list(task.clusters) if task.clusters else None,
    )
    write_json(questions, msgspec.to_builtins(content))
    if not requests.exists():
        lines = "\n".join(
            json.dumps(row, ensure_ascii=False) for row in (task.record(), *task.rows())
        )
        write_atomic(requests, gzip.compress(lines.encode("utf-8", "surrogatepass"), 6, mtime=0))
    return f"{stem}.json", f"{stem}.jsonl.gz"


def _licence(source: Path | None) -> str | None:
    """That in the front matter of the README beside an adapter."""
    from huggingface_hub import metadata_load

    if source is None:
        return None
    readme = (source if source.is_dir() else source.parent) / "README.md"
    if not readme.is_file():
        return None
    try:
        licence = (metadata_load(readme) or {}).get("license")
    except ValueError:
        return None
    return licence if isinstance(licence, str) else None


def _shown_path(source: Path | None) -> str | None:
    """Relative where it lies below the working folder, so that results can be shared."""
    if source is None:
        return None
    place, here = source.resolve(), Path.cwd()
    return place.relative_to(here).as_posix() if place.is_relative_to(here) else str(source)
