"""Rewrites run folders of the shape before this one (`run.json` of schema 2) in place.

    python -m scripts.convert_runs FOLDER…

Cells stay as they are. Every accuracy is held equal before and after. It is kept until the last
run of `reports/small_ranks` that was begun with the earlier shape is in.
"""

from __future__ import annotations

import gzip
import json
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.files import write_atomic, write_json
from aurac.records.manifest import RUN_SCHEMA
from aurac.records.run import read_run

if TYPE_CHECKING:
    from collections.abc import Iterable

EQUAL = 1e-12  # rounding of a mean


def main() -> None:
    """Convert each folder, or say what differs."""
    for folder in map(Path, sys.argv[1:]):
        before = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if before["schema"] == RUN_SCHEMA:
            continue
        known = accuracies(folder, before)
        write_json(folder / "run.json", converted(folder, before))
        (folder / "results.json").unlink(missing_ok=True)
        after = {
            (c.task, c.adapter, c.basis, c.rescale, rank): value
            for c in read_run(folder).curves
            for rank, value in zip(c.ranks, c.accuracy, strict=True)
        }
        every = {*known, *after}
        if different := {k for k in every if abs(known.get(k, 9) - after.get(k, 9)) > EQUAL}:
            sys.exit(f"{folder}: {len(different)} accuracies differ, {min(different)} among them")
        print(f"{folder}: {len(after)} accuracies are as before")


def accuracies(folder: Path, run: dict[str, Any]) -> dict[Any, float]:
    """(task, adapter, basis, rescale, rank) → accuracy, from the lines of the cells.

    As before, over the first examples of a task, as many as were asked of all cuts.
    """
    archive = folder / "cells.tar.xz"
    cells: dict[str, dict[Any, dict[Any, float]]] = {}
    if archive.exists():
        with tarfile.open(archive) as tar:
            files = [(Path(m.name).stem, tar.extractfile(m)) for m in tar if m.isfile()]
            cells = {key: outcomes(file) for key, file in files if file}
    else:
        paths = (folder / "cells").glob("*.jsonl")
        cells = {path.stem: outcomes(path.open("rb")) for path in paths}
    found = {}
    for task in run["tasks"]:
        name, metric = task["name"], task["metric"]
        told = json.loads((folder / task["documents"]).read_text(encoding="utf-8"))
        having = [cut for cut in run["cuts"] if name in cut["cells"]]
        count = min((cut["examples"][name] for cut in having), default=0)
        keys = [tuple(key) for key in told["keys"][:count]]
        for cut in having:
            for rank, key in cut["cells"][name].items():
                values = cells.get(key, {}).get(metric, {})
                if all(k in values for k in keys):
                    row = cut["adapter"], cut["basis"], cut["rescale"], int(rank)
                    found[(name, *row)] = sum(values[k] for k in keys) / count
    return found


def outcomes(lines: Iterable[bytes]) -> dict[Any, dict[Any, float]]:
    """Metric → example → its first outcome."""
    found: dict[Any, dict[Any, float]] = {}
    for line in lines:
        record = json.loads(line)
        for metric, column in record["content"].get("metrics", {}).items():
            for key, value in zip(record["content"]["documents"], column, strict=True):
                found.setdefault(metric, {}).setdefault(tuple(key), value)
    return found


def converted(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """The content of `run.json`, with the files of the examples that it names."""
    sets: dict[tuple[str, int], str] = {}
    for task in run["tasks"]:
        if not task["members"]:
            counts = {cut["examples"].get(task["name"]) for cut in run["cuts"]} - {None}
            for count in sorted({*counts, task["examples"]}):
                sets[task["name"], count] = documents(folder, task, count)
    limits: dict[str, list[Any]] = {}
    for cut in run["cuts"]:
        cut["asked"] = {}
        cut.pop("factors", None)  # each cell has its own
        given, examples = cut.pop("limits", {}), cut.pop("examples")
        for name, count in examples.items():
            stem = sets[name, count]
            limits.setdefault(stem, []).append(given.get(name))
            cut["asked"][name] = {stem: sorted(map(int, cut["cells"][name]))}
    for task in run["tasks"]:
        name = task["name"]
        stems = [stem for (named, _), stem in sets.items() if named == name]
        task["sets"] = [
            {"documents": {name: stem}, "limits": [*dict.fromkeys(limits.get(stem, ()))]}
            for stem in stems
        ]
        for gone in ("documents", "requests", "examples", "first"):
            task.pop(gone, None)
        if task["members"]:
            sys.exit(f"{folder}: the group {name} cannot be converted")
    run["log"] = [run.pop("provenance")]
    run["question"] = {"groups": run.pop("groups")}
    return run | {"schema": RUN_SCHEMA}


def documents(folder: Path, task: dict[str, Any], count: int) -> str:
    """The beginning of the names of the files of the first so many examples."""
    stem = str(task["documents"]).removesuffix(".json")
    told = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
    whole = len(told["keys"]) == count
    target = stem if whole else f"{stem}-{count}"
    if clusters := told.pop("clusters", None):
        told["fields"] = {task["cluster"]: clusters}
    for name in ("keys", "questions", "targets", "choices"):
        told[name] = told[name][:count] if told.get(name) else told.get(name)
    for name, values in told.get("fields", {}).items():
        told["fields"][name] = values[:count]
    if whole and not clusters:
        return stem
    write_json(folder / f"{target}.json", told)
    if not whole:
        with gzip.open(folder / f"{stem}.jsonl.gz", "rb") as lines:
            kept = b"".join(list(lines)[: count + 1])
        write_atomic(folder / f"{target}.jsonl.gz", gzip.compress(kept, 6, mtime=0))
    return target


if __name__ == "__main__":
    main()
