"""Rewrites stored runs of schema 3, in which tasks have sets of examples, as runs of schema 4.

    python -m scripts.convert_runs FOLDER…

In schema 4 a task has one list of examples. Cells stay as they are. Every accuracy is computed from
the lines of the cells by what `run.json` said before, and is held equal to what aurac reads after.
"""

from __future__ import annotations

import gzip
import itertools
import json
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.files import write_json
from aurac.records.documents import Documents
from aurac.records.manifest import RUN_SCHEMA
from aurac.records.run import read_run
from aurac.runs.manifest import label

if TYPE_CHECKING:
    from collections.abc import Iterable

EQUAL = 1e-12  # rounding of a mean


def main() -> None:
    """Convert each folder, or say what differs."""
    for folder in map(Path, sys.argv[1:]):
        before = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if before["schema"] == RUN_SCHEMA:
            print(f"{folder}: is of schema {RUN_SCHEMA} already")
            continue
        known = accuracies(folder, before)
        files = [folder / f"{stem}.{end}" for stem in stems(before) for end in ("json", "jsonl.gz")]
        write_json(folder / "run.json", converted(folder, before))
        after = {
            (c.task, c.adapter, c.basis, c.rescale, rank): value
            for c in read_run(folder).curves
            for rank, value in zip(c.ranks, c.accuracy, strict=True)
        }
        every = {*known, *after}
        if different := {k for k in every if abs(known.get(k, 9) - after.get(k, 9)) > EQUAL}:
            sys.exit(f"{folder}: {len(different)} accuracies differ, {min(different)} among them")
        for path in files:
            path.unlink()
        print(f"{folder}: {len(after)} accuracies are as before")


def stems(run: dict[str, Any]) -> list[str]:
    """The beginnings of the names of the files of examples."""
    every = (
        stem for t in run["tasks"] for each in t["sets"] for stem in each["documents"].values()
    )
    return [*dict.fromkeys(every)]


def converted(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """The content of `run.json`; the files of the examples get their new names."""
    keys = {s: json.loads((folder / f"{s}.json").read_text("utf-8"))["keys"] for s in stems(run)}
    run["cells"] = cells = dict[str, int]()
    for task in run["tasks"]:
        if task["members"]:
            sys.exit(f"{folder}: the group {task['name']} cannot be converted")
        name, sets = task["name"], task.pop("sets")
        every = sorted((each["documents"][name] for each in sets), key=lambda stem: len(keys[stem]))
        for shorter, longer in itertools.pairwise(every):
            if keys[longer][: len(keys[shorter])] != keys[shorter]:
                sys.exit(f"{folder}: examples of {name} changed between two commands")
        task["examples"] = {name: len(keys[every[-1]])}
        task["split"] = write_documents(folder, name, every[-1])
        cells[run["base"][name]] = len(keys[every[-1]])
        for cut in run["cuts"]:
            for stem, ranks in cut["asked"].get(name, {}).items():
                for rank in ranks:
                    key = cut["cells"][name][str(rank)]
                    cells[key] = max(cells.get(key, 0), len(keys[stem]))
    for cut in run["cuts"]:
        del cut["asked"]
    return run | {"schema": RUN_SCHEMA}


def write_documents(folder: Path, task: str, stem: str) -> int:
    """Write the files of a task under their new names; the size of its split."""
    documents, prompts = Documents(folder), (folder / f"{stem}.jsonl.gz").read_bytes()
    head, *rows = map(json.loads, gzip.decompress(prompts).splitlines())
    told = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
    contents = [row["doc"] for row in rows[: len(told["keys"])]]
    names = [name for name in contents[0] if all(each.get(name) is not None for each in contents)]
    told["fields"] = {name: [label(each[name]) for each in contents] for name in names}
    documents.path(task, "jsonl.gz").write_bytes(prompts)
    write_json(documents.path(task, "json"), told)
    return int(head["original"])


def accuracies(folder: Path, run: dict[str, Any]) -> dict[Any, float]:
    """(task, adapter, basis, rescale, rank) → accuracy on a task's largest set of examples."""
    cells, found = outcomes_of(folder), dict[Any, float]()
    for task in run["tasks"]:
        name = task["name"]
        told = (folder / f"{each['documents'][name]}.json" for each in task["sets"])
        every = [json.loads(path.read_text(encoding="utf-8"))["keys"] for path in told]
        keys = [tuple(key) for key in max(every, key=len)]
        for cut in run["cuts"]:
            for rank, key in cut["cells"].get(name, {}).items():
                values = cells.get(key, {}).get(task["metric"], {})
                if all(k in values for k in keys):
                    row = name, cut["adapter"], cut["basis"], cut["rescale"], int(rank)
                    found[row] = sum(values[k] for k in keys) / len(keys)
    return found


def outcomes_of(folder: Path) -> dict[str, dict[Any, dict[Any, float]]]:
    """Key of a cell → metric → example → its first outcome; of a loose file before the archive."""
    found, archive = dict[str, dict[Any, dict[Any, float]]](), folder / "cells.tar.xz"
    if archive.exists():
        with tarfile.open(archive) as tar:
            files = [(Path(m.name).stem, tar.extractfile(m)) for m in tar if m.isfile()]
            found = {key: outcomes(file) for key, file in files if file}
    loose = (folder / "cells").glob("*.jsonl")
    return found | {path.stem: outcomes(path.open("rb")) for path in loose}


def outcomes(lines: Iterable[bytes]) -> dict[Any, dict[Any, float]]:
    """Metric → example → its first outcome."""
    found: dict[Any, dict[Any, float]] = {}
    for line in lines:
        record = json.loads(line)
        for metric, column in record["content"].get("metrics", {}).items():
            for key, value in zip(record["content"]["documents"], column, strict=True):
                found.setdefault(metric, {}).setdefault(tuple(key), value)
    return found


if __name__ == "__main__":
    main()
