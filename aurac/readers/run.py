"""A run folder (results.json and cells/) → curves with their documents."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.curves.curve import Curve
from aurac.errors import AuracError, RunFolderError
from aurac.hashing import sha256_json
from aurac.runs.provenance import differences

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

Groups = dict[str, list[str]]


def read_run(folder: Path, metric: str | None = None) -> tuple[list[Curve], Groups]:
    """Curves of a run, an adapter's default truncation first, and its arms of several seeds.

    Args:
        folder: Holds ``results.json`` of schema 1 and the cells it names.
        metric: Another of the metrics that the cells hold.

    Raises:
        RunFolderError: Not JSON, another schema, or a cell that is missing or damaged.
    """
    results = _json(folder / "results.json")
    if results.get("schema") != 1:
        raise RunFolderError(
            f"{folder / 'results.json'} has schema {results.get('schema')!r}", expected="schema 1"
        )
    try:
        prompts = {t["name"]: t.get("prompts_sha256") for t in results.get("tasks", [])}
        seeds = {a["name"]: a.get("seed") for a in results.get("adapters", [])}
        rows = sorted(results["curves"], key=lambda row: not row.get("default", True))
        rows = [row for row in rows if _has_a_point(row)]
        reader = CellReader(folder, _clusters(folder, results.get("tasks", [])))
        curves = [
            _curve(row, reader, metric, prompts.get(row["task"]), seeds.get(row["adapter"]))
            for row in rows
        ]
        groups = arms_of(results.get("adapters", []), results.get("groups"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{folder / 'results.json'} lacks or garbles {error}") from error
    if not curves:
        raise RunFolderError(f"{folder / 'results.json'} holds no curves")
    return curves, groups


def _has_a_point(row: Mapping[str, Any]) -> bool:
    """Whether a curve has an accuracy at any rank; one without is left out, and that is said."""
    if any(value is not None for value in row["accuracy"]):
        return True
    why = next(iter((row.get("missing") or {}).values()), "no reason recorded")
    logger.warning(
        "%s on %s has no accuracy at any rank (%s) and is left out", row["id"], row["task"], why
    )
    return False


def _clusters(folder: Path, tasks: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Task → document → what it shares with others, of the tasks that were clustered.

    The labels stand with the documents, not in the cells: they change no answer, so that a finished
    run can be clustered by another field without computing anything again.
    """
    found = {}
    for task in tasks:
        if not task.get("cluster"):
            continue
        where = str(task["documents"])
        _stay_inside(folder, where)
        content = _json(folder / where)
        found[task["name"]] = dict(zip(content["doc_ids"], content["clusters"], strict=True))
    return found


def _stay_inside(folder: Path, where: str) -> None:
    path = folder / where
    if os.path.isabs(where) or ".." in path.relative_to(folder).parts:  # noqa: PTH117
        raise RunFolderError(f"{where} is outside {folder}")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} holds a {type(content).__name__}", expected="an object")
    return content


class CellReader:
    """Reads cells below a run folder; equal labels become the same tuple, to be joined quickly."""

    def __init__(self, folder: Path, clusters: Mapping[str, Mapping[str, str]]) -> None:
        self.folder, self._clusters = folder, clusters
        self._seen: dict[tuple[str, ...], tuple[str, ...]] = {}

    def read(self, where: str | Sequence[str], metric: str) -> dict[str, Any]:
        """Scores and labels of one point; of a group's members one after the other.

        Raises:
            RunFolderError: A cell is outside the folder, missing, damaged, or lacks the metric.
        """
        paths = [where] if isinstance(where, str) else list(where)
        parts = [self._one(path, metric) for path in paths]
        several = len(parts) > 1
        scores = np.concatenate([part["scores"] for part in parts])
        found: dict[str, Any] = {"scores": scores}
        found["identities"] = [part["identity"] for part in parts]
        for name in ("doc_ids", "doc_hashes", "strata"):
            if any(part[name] is None for part in parts):
                found[name] = None
                continue
            labels: list[str] = []
            for i, part in enumerate(parts):
                prefix = f"{i}:" if several and name == "doc_ids" else ""
                labels += [f"{prefix}{label}" for label in part[name]]
            found[name] = self._seen.setdefault(tuple(labels), tuple(labels))
        if found["strata"] is None and several:  # the members of a group are fixed, like subjects
            members = tuple(str(i) for i, part in enumerate(parts) for _ in part["scores"])
            found["strata"] = self._seen.setdefault(members, members)
        return found

    def clusters(self, task: str, doc_ids: Sequence[str]) -> tuple[str, ...] | None:
        """What the documents of a task share, the same tuple each time; None where nothing."""
        labels = self._clusters.get(task)
        if labels is None:
            return None
        found = tuple(labels[str(doc)] for doc in doc_ids)
        return self._seen.setdefault(found, found)

    def _one(self, where: str, metric: str) -> dict[str, Any]:
        _stay_inside(self.folder, where)
        path = self.folder / where
        cell = _json(path)
        _check_whole(cell, path)
        column = cell.get("metrics", {}).get(metric)
        if column is None:
            known = ", ".join(cell.get("metrics", {})) or "none"
            raise RunFolderError(f"{path} holds no metric {metric!r}", expected=f"one of {known}")
        scores = np.asarray(column, dtype=np.float64)
        found = {name: cell.get(name) for name in ("doc_ids", "doc_hashes", "strata")}
        for name, labels in found.items():
            if labels is not None and len(labels) != scores.size:
                raise RunFolderError(f"{path} has {len(labels)} {name} for {scores.size} scores")
        return {"scores": scores, **found, "identity": cell.get("identity") or {}}


def _check_whole(cell: Mapping[str, Any], path: Path) -> None:
    """A cell as the store writes it carries a checksum; one made by hand may have none."""
    if "identity" not in cell and "checksum" not in cell:
        return
    if sha256_json({k: v for k, v in cell.items() if k != "checksum"}) != cell.get("checksum"):
        raise RunFolderError(
            f"{path} is damaged: its checksum does not hold",
            fix="give the command of the run again: it computes that cell anew",
        )


def _check_alike(label: str, points: Mapping[int, Mapping[str, Any]]) -> None:
    """Cells of one curve were made alike: same base, documents, prompts, dtype, engine."""
    first_rank, first = next(iter(points.items()))
    for rank, point in points.items():
        for one, other in zip(first["identities"], point["identities"], strict=True):
            unlike = differences(one, other)
            if unlike:
                raise RunFolderError(
                    f"the cells of {label} at ranks {first_rank} and {rank} differ in "
                    f"{', '.join(unlike)}: they make no curve"
                )


def _curve(
    row: Mapping[str, Any],
    reader: CellReader,
    metric: str | None,
    prompts: str | None,
    seed: int | None,
) -> Curve:
    chosen = metric or row["metric"]
    plain = Curve.coerce({**row, "seed": seed, "metric": chosen})
    cells = {int(r): where for r, where in (row.get("cells") or {}).items() if where}
    if any(rank not in cells for rank in plain.ranks):
        return plain
    points = {rank: reader.read(cells[rank], chosen) for rank in plain.ranks}
    first = points[plain.ranks[0]]
    for rank, point in points.items():
        if point["doc_ids"] != first["doc_ids"]:
            raise RunFolderError(
                f"the cells of {plain.label} have different documents at ranks {plain.ranks[0]} "
                f"and {rank}"
            )
    _check_alike(plain.label, points)
    try:
        return Curve.from_outcomes(
            plain.ranks,
            np.stack([point["scores"] for point in points.values()]),
            doc_ids=first["doc_ids"],
            doc_hashes=first["doc_hashes"],
            strata=first["strata"],
            clusters=reader.clusters(row["task"], first["doc_ids"]),
            adapter=plain.adapter,
            task=plain.task,
            metric=chosen,
            method=plain.method,
            base=plain.base,
            basis=plain.basis,
            rescale=plain.rescale,
            seed=seed,
            prompts=prompts,
            baseline=plain.baseline,
            missing=plain.missing,
            sizes=plain.sizes,
        )
    except AuracError as error:
        raise RunFolderError(f"the cells of {plain.label}: {error}") from error


def arms_of(
    adapters: Sequence[Mapping[str, Any]], said: Mapping[str, Sequence[str]] | None = None
) -> Groups:
    """Adapters that are seeds of one recipe: ``arm name -> adapters``.

    Args:
        adapters: Of ``results.json``; those whose recorded recipes differ in the seed only are one
            arm.
        said: The arms that were named when the run was made; they come before what is recorded.
    """
    return regrouped(_recorded_arms(adapters), said or {})


def regrouped(known: Mapping[str, Sequence[str]], said: Mapping[str, Sequence[str]]) -> Groups:
    """Arms with those in `said` in the place of any that share a name or a member with them."""
    taken = {member for members in said.values() for member in members}
    kept = {n: list(m) for n, m in known.items() if not taken & set(m) and n not in said}
    return kept | {name: list(members) for name, members in said.items()}


def _recorded_arms(adapters: Sequence[Mapping[str, Any]]) -> Groups:
    same: dict[str, list[Mapping[str, Any]]] = {}
    for adapter in adapters:
        if adapter.get("recipe") and adapter.get("seed") is not None:
            recipe = adapter["recipe"]
            if isinstance(recipe, dict):
                recipe = {k: v for k, v in recipe.items() if k != "seed"}
            key = json.dumps([adapter.get("method"), recipe], sort_keys=True, default=str)
            same.setdefault(key, []).append(adapter)
    groups: Groups = {}
    for members in same.values():
        names = [member["name"] for member in members]
        if len(names) < 2 or len({member["seed"] for member in members}) < len(names):
            continue
        groups[_common_name(names, taken=groups)] = names
    return groups


def _common_name(names: Sequence[str], taken: Groups) -> str:
    first, last = min(names), max(names)
    same = next(
        (i for i, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), len(first)
    )
    shared = first[:same].rstrip("-_ ./0123456789")
    for ending in ("seed", "-s", "_s"):
        shared = shared.removesuffix(ending).rstrip("-_ ./")
    return shared if shared and shared not in taken else " + ".join(names)
