"""Several runs as one, or the reason why they cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aurac.errors import RunFolderError
from aurac.report.documents import identities
from aurac.report.escape import one_line
from aurac.report.model import CurveRow, Run, labelled
from aurac.runs.schema import differences

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What has to be the same for the numbers of one task to stand in one table.
_TASK_KEYS = {
    "documents_sha256": "other documents",
    "prompts_sha256": "other prompts",
    "metric": "another metric",
    "num_fewshot": "another number of few-shot examples",
    "limit": "another limit",
    "version": "another version of the task",
}


def merge(runs: Sequence[Run]) -> Run:
    """One run with the curves of all.

    The same curve in two runs (one adapter hash, one inference) is shown once.

    Raises:
        RunFolderError: The runs differ in base, numeric type, documents, prompts or metric, or use
            one adapter name for two checkpoints.
    """
    first = runs[0]
    for other in runs[1:]:
        _same_setting(first, other)
    tasks = _tasks(runs)
    adapters = _adapters(runs)
    curves: dict[tuple[str, ...], CurveRow] = {}
    for run in runs:
        for curve in run.curves:
            identity = (curve.adapter, curve.task, curve.metric, curve.basis, curve.rescale)
            known = curves.setdefault(identity, curve)
            if known.ranks != curve.ranks or known.accuracy != curve.accuracy:
                raise RunFolderError(
                    f"{one_line(curve.label)} on {one_line(curve.task)} has other numbers in "
                    f"{_place(run)}",
                    expected="one result for one curve",
                    fix="report the runs one by one",
                )
    return replace(
        first,
        curves=labelled(list(curves.values())),
        tasks=tuple(tasks.values()),
        adapters=tuple(adapters.values()),
        failures=tuple(failure for run in runs for failure in run.failures),
        provenance=tuple(item for run in runs for item in run.provenance),
        roots=tuple(root for run in runs for root in run.roots),
        groups={name: members for run in runs for name, members in run.groups.items()},
    )


def _same_setting(first: Run, other: Run) -> None:
    mine, theirs = first.provenance[0], other.provenance[0]
    pairs = {
        "another base model": (_base(mine), _base(theirs)),
        "another numeric type": (mine.get("dtype"), theirs.get("dtype")),
    }
    for what, (a, b) in pairs.items():
        if a != b:
            raise _refusal(first, other, what, a, b)
    unequal = _unequal_cells(first, other)
    if unequal:
        raise _refusal(first, other, f"their cells differ in {unequal[0]}", *unequal[1:])


def _base(provenance: Mapping[str, Any]) -> object:
    base = provenance.get("base") or {}
    return base.get("sha256") or base.get("name")


def _unequal_cells(first: Run, other: Run) -> tuple[str, object, object] | None:
    """The first difference between the identities of two stored cells of a task both runs have."""
    mine, theirs = identities(first), identities(other)
    for task in mine.keys() & theirs.keys():
        for name in differences(dict(mine[task]), dict(theirs[task])):
            return name, mine[task].get(name), theirs[task].get(name)
    return None


def _tasks(runs: Sequence[Run]) -> dict[str, Mapping[str, Any]]:
    tasks: dict[str, tuple[Run, Mapping[str, Any]]] = {}
    for run in runs:
        for task in run.tasks:
            name = str(task.get("name"))
            origin, known = tasks.setdefault(name, (run, task))
            for key, what in _TASK_KEYS.items():
                if known.get(key) != task.get(key):
                    where = f"{what} on {one_line(name)}"
                    raise _refusal(origin, run, where, known.get(key), task.get(key))
    return {name: task for name, (_, task) in tasks.items()}


def _adapters(runs: Sequence[Run]) -> dict[str, Mapping[str, Any]]:
    adapters: dict[str, tuple[Run, Mapping[str, Any]]] = {}
    for run in runs:
        for adapter in run.adapters:
            name = str(adapter.get("name"))
            origin, known = adapters.setdefault(name, (run, adapter))
            a, b = known.get("sha256"), adapter.get("sha256")
            if a != b:
                raise _refusal(origin, run, f"another adapter named {one_line(name)}", a, b)
    return {name: adapter for name, (_, adapter) in adapters.items()}


def _refusal(first: Run, other: Run, what: str, a: object, b: object) -> RunFolderError:
    values = f"{one_line(a, 24)} and {one_line(b, 24)}"
    return RunFolderError(
        f"{_place(first)} and {_place(other)} cannot be compared: {what} ({values})",
        fix="report them one by one, or measure them again alike",
    )


def _place(run: Run) -> str:
    return one_line(run.roots[0].name) if run.roots else "the other run"
