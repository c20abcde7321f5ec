"""Several curves become one: those of the training seeds of a recipe, and those of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.analysis.groups import check_groups, group_of
from aurac.analysis.rows import Options, area_record
from aurac.analysis.whole import score_group, seed_notes
from aurac.errors import CurveError, RunFolderError
from aurac.records.cell import differences
from aurac.records.reader import recipe_groups, regrouped
from aurac.records.results_file import Areas
from aurac.records.run import labelled, seeds_of
from aurac.stats.seeds import mean_of_seeds
from aurac.terminal import one_line

if TYPE_CHECKING:
    from aurac.analysis.rows import ScoreRow
    from aurac.curves.curve import Curve
    from aurac.records.results_file import AdapterRecord, TaskRecord
    from aurac.records.run import CurveRow, StoredRun
    from aurac.stats.mean import Estimate

Groups = Mapping[str, Sequence[str]]


def pooled(run: StoredRun, groups: Groups | None = None) -> StoredRun:
    """The run with one curve for each group of training seeds in place of its checkpoints' curves.

    A group whose checkpoints cannot be pooled (a missing rank, other documents, no documents) is
    left as it is, and the run's notes say why. `groups` are added to those of the recipes.

    Raises:
        CurveError: A group names an adapter that the run does not have, or one twice.
    """
    check_groups(groups or {}, (adapter.name for adapter in run.adapters))
    recipes = regrouped(recipe_groups(run.adapters, run.groups), groups or {})
    curves, notes = list(run.curves), list(run.notes)
    several = ((name, adapters) for name, adapters in recipes.items() if len(adapters) > 1)
    for name, adapters in several:
        others = {curve.adapter for curve in run.curves} - set(adapters)
        shown = name if name not in others else f"{name} ({len(adapters)} seeds)"
        for members in _alike(curves, adapters):
            try:
                row = _pool(shown, members, len(adapters))
            except CurveError as error:
                where = f"{one_line(name)} on {one_line(members[0].task)}"
                notes.append(f"The seeds of {where} are not pooled: {one_line(error.text)}.")
                continue
            left = {(member.id, member.task) for member in members[1:]}
            kept = (curve for curve in curves if (curve.id, curve.task) not in left)
            curves = [row if curve is members[0] else curve for curve in kept]
    return replace(run, curves=labelled(curves), notes=tuple(notes))


def _alike(curves: Sequence[CurveRow], adapters: Sequence[str]) -> list[list[CurveRow]]:
    alike: dict[tuple[str, ...], list[CurveRow]] = {}
    for curve in curves:
        if curve.adapter in adapters:
            key = (curve.task, curve.metric, curve.basis, curve.rescale, curve.role)
            alike.setdefault(key, []).append(curve)
    return list(alike.values())


def _pool(name: str, members: Sequence[CurveRow], expected: int) -> CurveRow:
    """The mean of the members over documents and seeds."""
    if len(members) != expected:
        raise CurveError(f"{len(members)} of {expected} checkpoints were measured")
    curves = []
    for member in members:
        seeds = seeds_of(member)
        if seeds is None:
            raise CurveError(f"the stored documents of {member.adapter} are missing or damaged")
        curves += seeds
    score, points = _mean(curves)
    if score.log2 is None or score.linear is None or score.mean is None:
        raise CurveError(score.reason or "no AURAC")

    def shared(column: str) -> tuple[int | None, ...]:
        each = zip(*(getattr(member, column) for member in members), strict=True)
        return tuple(values[0] if len(set(values)) == 1 else None for values in each)

    first = members[0]
    return msgspec.structs.replace(
        first,
        id=f"{name} · {first.basis} · {first.rescale} · {first.task}",
        adapter=name,
        method=first.method if len({member.method for member in members}) == 1 else None,
        accuracy=score.accuracy,
        accuracy_low=tuple(point.low for point in points),
        accuracy_high=tuple(point.high for point in points),
        parameters=shared("parameters"),
        bytes=shared("bytes"),
        cells={},
        score=Areas(
            log2=area_record(score.log2), linear=area_record(score.linear), mean=score.mean
        ),
        score_method=score.log2.method,
        drops=list(score.drops),
        score_notes=list(score.notes),
        seed=None,
        family=all(member.family for member in members),
        members=tuple(members),
    )


def _mean(curves: Sequence[Curve]) -> tuple[ScoreRow, list[Estimate]]:
    """The row of the training seeds of a recipe, and the mean over them at each rank.

    The notes are on seeds that lie far from the others.
    """
    group, settings = group_of(list(curves)), Options()
    row = score_group(group, settings)
    notes = tuple(seed_notes(group, settings.axis)) if row.reason is None else ()
    points = [mean_of_seeds(group.scores(r), group.layout, settings.level) for r in group.ranks]
    return replace(row, notes=notes), points


# What has to be the same for the numbers of one task to stand in one table.
_TASK_KEYS = {
    "documents_sha256": "other documents",
    "prompts_sha256": "other prompts",
    "metric": "another metric",
    "num_fewshot": "another number of few-shot examples",
    "limit": "another limit",
    "version": "another version of the task",
}


def merge(runs: Sequence[StoredRun]) -> StoredRun:
    """One run with the curves of all.

    The same curve in two runs (one adapter hash, one truncation) is shown once.

    Raises:
        RunFolderError: The runs differ in base, numeric type, documents, prompts or metric, or use
            one adapter name for two checkpoints.
    """
    first = runs[0]
    tasks: dict[str, tuple[StoredRun, TaskRecord]] = {}
    adapters: dict[str, tuple[StoredRun, AdapterRecord]] = {}
    curves: dict[tuple[str, ...], CurveRow] = {}
    for run in runs:
        ours, theirs = first.provenance[0], run.provenance[0]
        bases = (made.base.sha256 or made.base.name for made in (ours, theirs))
        _same(first, run, "another base model", *bases)
        _same(first, run, "another numeric type", ours.dtype, theirs.dtype)
        _same_cells(first, run)
        for task in run.tasks:
            origin, known = tasks.setdefault(task.name, (run, task))
            for key, what in _TASK_KEYS.items():
                where = f"{what} on {one_line(task.name)}"
                _same(origin, run, where, getattr(known, key), getattr(task, key))
        for adapter in run.adapters:
            origin, other = adapters.setdefault(adapter.name, (run, adapter))
            what = f"another adapter named {one_line(adapter.name)}"
            _same(origin, run, what, other.sha256, adapter.sha256)
        _add_curves(curves, run)
    every: dict[str, Any] = {
        name: tuple(one for run in runs for one in getattr(run, name))
        for name in ("failures", "provenance", "roots", "serving")
    }
    return replace(
        first,
        curves=labelled(list(curves.values())),
        tasks=tuple(task for _, task in tasks.values()),
        adapters=tuple(adapter for _, adapter in adapters.values()),
        groups={name: members for run in runs for name, members in run.groups.items()},
        primary=next((run.primary for run in runs if run.primary), None),
        **every,
    )


def _add_curves(curves: dict[tuple[str, ...], CurveRow], run: StoredRun) -> None:
    for curve in run.curves:
        identity = (curve.adapter, curve.task, curve.metric, curve.basis, curve.rescale)
        row = curves.setdefault(identity, curve)
        if row.ranks != curve.ranks or row.accuracy != curve.accuracy:
            raise RunFolderError(
                f"{one_line(curve.label)} on {one_line(curve.task)} has other numbers in "
                f"{_folder_of(run)}",
                expected="one result for one curve",
                fix="report the runs one by one",
            )


def _same_cells(first: StoredRun, other: StoredRun) -> None:
    ours, theirs = _identities(first), _identities(other)
    for task in ours.keys() & theirs.keys():
        for name in differences(ours[task], theirs[task]):
            what = f"their cells differ in {name}"
            _same(first, other, what, ours[task].get(name), theirs[task].get(name))


def _identities(run: StoredRun) -> dict[str, dict[str, Any]]:
    """What one stored cell of each task says about how it was made."""
    identities: dict[str, dict[str, Any]] = {}
    for curve in run.curves:
        if curve.task not in identities and curve.source and curve.ranks:
            for cell in (curve.source.cells(curve, curve.ranks[0]) or [])[:1]:
                identities[curve.task] = cell.identity.to_dict()
    return identities


def _same(first: StoredRun, other: StoredRun, what: str, a: object, b: object) -> None:
    if a != b:
        values = f"{one_line(a, 24)} and {one_line(b, 24)}"
        raise RunFolderError(
            f"{_folder_of(first)} and {_folder_of(other)} cannot be compared: {what} ({values})",
            fix="report them one by one, or measure them again alike",
        )


def _folder_of(run: StoredRun) -> str:
    return one_line(run.roots[0].name) if run.roots else "the other run"
