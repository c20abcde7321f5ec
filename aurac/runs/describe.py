"""What a command adds to `run.json`, and the questions and prompts beside it."""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from aurac.adapters import Adapter, Family, members_of
from aurac.adapters.compatibility import served_by_vllm
from aurac.curves.checks import only
from aurac.curves.question import Key, Question
from aurac.files import sha256_text, write_atomic
from aurac.models.device import in_use, machine, versions
from aurac.records.documents import Documents, TaskQuestions
from aurac.records.manifest import AdapterInfo, CutInfo, Manifest, TaskInfo
from aurac.runs.inputs import Inputs
from aurac.runs.plan import Cuts, PlannedCell
from aurac.tasks.evaltask import EvalTask, TaskGroup

_LONGEST_LABEL = 64  # characters of a value by which examples are clustered


def manifest_of(inputs: Inputs, command: str | None, began: float) -> Manifest:
    """What a command adds to `run.json`, but for its cells.

    Args:
        inputs: Of the run.
        command: As it was typed.
        began: When, in seconds since 1970.
    """
    given, base = inputs.settings, inputs.base
    entry = {
        "command": command,
        "started": dt.datetime.fromtimestamp(began, dt.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {**machine(), **in_use(base.device)} if not given.ray else machine(),
        "device": inputs.backend.device_kind,
        "base": base.name,
        "model": given.model,
        **{name: inputs.identity[name] for name in ("dtype", "base_sha256", "backend")},
    }
    return Manifest(
        settings=inputs.identity,
        log=[entry],
        question=Question(given.margin, given.reference, groups=given.groups),
        adapters=[adapter_info(name, each, inputs.cuts) for name, each in inputs.adapters.items()],
        tasks=[task_info(task, inputs.tokens) for task in inputs.tasks],
        asked=[task.name for task in inputs.tasks if task.group is None],
        cuts=[],
        base={},
    )


def with_cells(manifest: Manifest, cells: Sequence[PlannedCell]) -> Manifest:
    """The manifest of a command with its cells."""
    keys: dict[Key | None, dict[str, dict[int, str]]] = {}
    for cell in cells:
        keys.setdefault(cell.curve_key, {}).setdefault(cell.task.name, {})[cell.rank] = cell.key
    base = {task: ranks[0] for task, ranks in keys.pop(None, {}).items()}
    return msgspec.structs.replace(
        manifest,
        cuts=[_cut_info(key, found, manifest.tasks) for key, found in keys.items() if key],
        base=base,
        asked_examples={cell.key: len(cell.task) for cell in cells},
    )


def _cut_info(key: Key, cells: dict[str, dict[int, str]], tasks: Sequence[TaskInfo]) -> CutInfo:
    """A cut with its cells; a factor of `fit` is a group's own, and so are its cells."""
    members = {leaf for task in tasks for leaf in task.members}
    shared = () if key.rescale != "fit" else members
    ordered = {leaf: dict(sorted(keys.items())) for leaf, keys in cells.items()}
    named = {leaf: keys for leaf, keys in ordered.items() if leaf not in shared}
    named |= {f"{t.name}:{leaf}": ordered[leaf] for t in tasks for leaf in t.members}
    return CutInfo(**key._asdict(), cells=named)


def adapter_info(name: str, adapter: Adapter | Family, cuts: Cuts) -> AdapterInfo:
    """What readers need of an adapter."""
    ranks = next(by_rank for key, by_rank in cuts.items() if key.adapter == name)
    facts = ("format", "sha256", "method", "base", "seed", "data_order", "notes")
    return AdapterInfo(
        name=name,
        path=_shown_path(adapter.source),
        trained_rank=adapter.rank,
        sizes={rank: adapter.member(rank).bytes(rank) for rank in ranks},
        folded=adapter.member(adapter.rank).folded,
        width=max(member.width for member in members_of(adapter)) if served_by_vllm(adapter) else 0,
        recipe=dict(adapter.recipe) if adapter.recipe else None,
        licence=_licence(adapter.source),
        **{fact: getattr(adapter, fact) for fact in facts},
    )


def task_info(task: EvalTask | TaskGroup, tokens: Mapping[str, Any]) -> TaskInfo:
    """What readers need of a task or group."""
    leaves = task.members if isinstance(task, TaskGroup) else (task,)
    own: dict[str, Any] = {}
    if isinstance(task, EvalTask):
        own = {"cluster": task.cluster, "scoring": task.scoring, "token_limit": task.token_limit}
        own |= {"prompting": {**task.prompting, **tokens}, "split": len(task.task.eval_docs)}
    return TaskInfo(
        name=task.name,
        metric=task.metric,
        metrics=tuple(task.usable),
        version=task.version,
        examples={leaf.name: len(leaf) for leaf in leaves},
        num_fewshot=only(leaf.num_fewshot for leaf in leaves),
        members=tuple(leaf.name for leaf in leaves if leaf is not task),
        rolling=leaves[0].rolling,
        **own,
    )


def write_documents(folder: Path, task: EvalTask) -> None:
    """Write the examples of a task: prompts first, so that no listed example lacks one."""
    documents, told = Documents(folder), list[Any](task.questions())
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in (task.record(), *task.rows()))
    prompts = gzip.compress(lines.encode("utf-8", "surrogatepass"), 6, mtime=0)
    write_atomic(documents.path(task.name, "jsonl.gz"), prompts)
    choices = [row["choices"] for row in told]
    contents = [example.content for example in task.examples]
    names = [name for name in contents[0] if all(each.get(name) is not None for each in contents)]
    content = TaskQuestions(
        keys=list(task.keys),
        questions=[row["question"] for row in told],
        targets=[row["target"] for row in told],
        choices=choices if any(choices) else None,
        fields={name: [label(each[name]) for each in contents] for name in names},
    )
    data = msgspec.json.format(msgspec.json.encode(content), indent=0)
    write_atomic(documents.path(task.name, "json"), data)


def label(value: Any) -> str:
    """A value by which examples are clustered: its text or JSON, or the hash of a long one."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
    return text if len(text) <= _LONGEST_LABEL else sha256_text(text)[:16]


def _licence(source: Path | None) -> str | None:
    """That in the front matter of the README beside an adapter."""
    from huggingface_hub import metadata_load

    licence = None
    if source is not None:
        with contextlib.suppress(OSError, ValueError):  # none is there, or what it says is damaged
            folder = source if source.is_dir() else source.parent
            licence = (metadata_load(folder / "README.md") or {}).get("license")
    return licence if isinstance(licence, str) else None


def _shown_path(source: Path | None) -> str | None:
    """Relative where it lies below the working folder, so that results can be shared."""
    if source is None:
        return None
    place, here = source.resolve(), Path.cwd()
    return place.relative_to(here).as_posix() if place.is_relative_to(here) else str(source)
