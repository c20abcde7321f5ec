"""What a command adds to `run.json`, and the questions and prompts beside it."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from aurac.adapters import members_of
from aurac.adapters.compatibility import served_by_vllm
from aurac.adapters.cut import Sweep
from aurac.files import write_atomic
from aurac.models.device import in_use, machine, versions
from aurac.records.manifest import AdapterInfo, CutInfo, Manifest, TaskInfo
from aurac.records.run import TaskQuestions
from aurac.runs.inputs import Inputs
from aurac.runs.plan import PlannedCell, keys_of
from aurac.tasks.evaltask import EvalTask, TaskGroup


def manifest_of(
    inputs: Inputs,
    command: str | None,
    began: float,
    cells: Sequence[PlannedCell] = (),
    documents: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> Manifest:
    """What a command adds to `run.json`; before anything is computed without cells.

    Args:
        inputs: Of the run.
        command: As it was typed.
        began: When, in seconds since 1970.
        cells: What is evaluated for them.
        documents: Task → the files of its questions and prompts, see `write_documents`.
    """
    given, base, backend = inputs.settings, inputs.base, inputs.backend
    keys: dict[Sweep | None, dict[str, dict[int, str]]] = {}
    for cell in cells:
        keys.setdefault(cell.sweep, {}).setdefault(cell.task.name, {})[cell.rank] = cell.key
    examples = {task.name: len(task) for task in inputs.leaves}
    provenance = {
        "command": command and given.redacted(command),
        "started": dt.datetime.fromtimestamp(began, dt.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {**machine(), **in_use(base.device)} if not given.ray else machine(),
        "device": backend.place,
        "dtype": inputs.identity["dtype"],
        "base": base.name,
        "base_sha256": base.sha256,
        "backend": inputs.identity["backend"],
        "model": given.model,
    }
    return Manifest(
        settings=inputs.identity,
        provenance=provenance,
        adapters=[adapter_info(name, inputs.sweeps) for name in inputs.adapters],
        tasks=[task_info(task, inputs.tokens, documents) for task in inputs.tasks],
        asked=[task.name for task in inputs.tasks if task.group is None],
        cuts=[
            _cut_info(sweep, keys[sweep], examples, given.limit) for sweep in inputs.sweeps if cells
        ],
        base={task: ranks[0] for task, ranks in keys.get(None, {}).items()},
        groups={recipe: list(members) for recipe, members in given.group.items()},
    )


def _cut_info(
    sweep: Sweep,
    cells: dict[str, dict[int, str]],
    examples: dict[str, int],
    limit: float | None,
) -> CutInfo:
    ordered = {task: dict(sorted(keys.items())) for task, keys in cells.items()}
    return CutInfo(
        adapter=sweep.name,
        basis=sweep.basis,
        rescale=sweep.rescale,
        examples={task: examples[task] for task in ordered},
        limits=dict.fromkeys(ordered, limit),
        cells=ordered,
    )


def adapter_info(name: str, sweeps: Sequence[Sweep]) -> AdapterInfo:
    """What readers need of an adapter."""
    own = [sweep for sweep in sweeps if sweep.name == name]
    adapter, ranks = own[0].adapter, sorted({rank for sweep in own for rank in sweep.ranks})
    facts = ("format", "sha256", "method", "base", "seed", "data_order", "notes")
    return AdapterInfo(
        name=name,
        path=_shown_path(adapter.source),
        trained_rank=adapter.rank,
        sizes={rank: adapter.member(rank).bytes(rank) for rank in ranks},
        parameters=adapter.member(adapter.rank).parameters(adapter.rank),
        width=max(member.width for member in members_of(adapter)) if served_by_vllm(adapter) else 0,
        recipe=dict(adapter.recipe) if adapter.recipe else None,
        licence=_licence(adapter.source),
        **{fact: getattr(adapter, fact) for fact in facts},
    )


def task_info(
    task: EvalTask | TaskGroup,
    tokens: Mapping[str, Any],
    documents: Mapping[str, tuple[str, str]],
) -> TaskInfo:
    """What readers need of a task or group."""
    told: dict[str, Any] = {
        "name": task.name,
        "metric": task.metric,
        "metrics": tuple(task.usable),
        "examples": len(task),
        "version": task.version,
    }
    if isinstance(task, TaskGroup):
        first = task.members[0]
        shots = {member.num_fewshot for member in task.members}
        clusters = dict.fromkeys(member.cluster for member in task.members if member.cluster)
        return TaskInfo(
            **told,
            num_fewshot=shots.pop() if len(shots) == 1 else None,
            members=tuple(member.name for member in task.members),
            rolling=first.rolling,
            cluster=", ".join(clusters) or None,
        )
    questions, requests = documents.get(task.name, (None, None))
    return TaskInfo(
        **told,
        num_fewshot=task.num_fewshot,
        rolling=task.rolling,
        cluster=task.cluster,
        documents=questions,
        requests=requests,
        prompting={**task.prompting, **tokens},
        first=keys_of(task)[0],
        scoring=task.scoring,
        token_limit=task.token_limit,
    )


def write_documents(folder: Path, task: EvalTask) -> tuple[str, str]:
    """Keep the questions and the prompts of a task; the paths in the run folder."""
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
    data = msgspec.json.format(msgspec.json.encode(content), indent=0)
    if not questions.exists() or questions.read_bytes() != data:
        write_atomic(questions, data)
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
