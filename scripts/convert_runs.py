"""Rewrites what `reports/small_ranks` stores in an earlier shape, in place.

    python -m scripts.convert_runs RUN… TRAININGS…

RUN is a run folder, TRAININGS a `trainings.jsonl`. A `run.json` of schema 2 becomes one of schema
3. Recipes get the hash of their data's contents, in which their own hash and the order of the data
are counted anew; the data lie beside the study (`python -m scripts.study_data FOLDER`), or the
study names their hash. Cells stay as they are, and every accuracy is held equal before and after.
This is kept until the last run of the study that was begun with the earlier shape is in.
"""

from __future__ import annotations

import gzip
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.files import write_atomic, write_json
from aurac.records.manifest import RUN_SCHEMA
from aurac.records.run import read_run
from aurac.study import load_study
from aurac.study.design import outline
from aurac.training.recipe import SETTINGS, Recipe, make_recipe

if TYPE_CHECKING:
    from collections.abc import Iterable

EQUAL = 1e-12  # rounding of a mean
STUDY = Path(__file__).parents[1] / "reports/small_ranks"


def main() -> None:
    """Convert each folder and file, or say what differs."""
    hashes = new_hashes()
    for folder in map(Path, sys.argv[1:]):
        if folder.is_file():
            convert_trainings(folder, hashes)
            continue
        before = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if before["schema"] == RUN_SCHEMA:
            known = read(folder)
        else:
            known = accuracies(folder, before)
            before = converted(folder, before)
            (folder / "results.json").unlink(missing_ok=True)
        for adapter in before["adapters"]:
            if adapter["recipe"]:
                adapter.update(identify(adapter, hashes))
        write_json(folder / "run.json", before)
        after = read(folder)
        every = {*known, *after}
        if different := {k for k in every if abs(known.get(k, 9) - after.get(k, 9)) > EQUAL}:
            sys.exit(f"{folder}: {len(different)} accuracies differ, {min(different)} among them")
        print(f"{folder}: {len(after)} accuracies are as before")


def read(folder: Path) -> dict[Any, float]:
    """(task, adapter, basis, rescale, rank) → accuracy, as aurac reads it."""
    return {
        (c.task, c.adapter, c.basis, c.rescale, rank): value
        for c in read_run(folder).curves
        for rank, value in zip(c.ranks, c.accuracy, strict=True)
    }


def new_hashes() -> dict[str, tuple[str, str]]:
    """Hash of a recipe before → its hash, and that of its data; of all that the studies train."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(STUDY.glob("*.yaml")):
        parts = load_study(path).parts.values()
        for plan in (plan for groups in parts for plans in groups.values() for plan in plans):
            for point in plan.points or [{}]:
                for recipe in plan.job(1, point).trainings.values():
                    found[_before(recipe)] = recipe.sha256, recipe.data_sha256
    return found


def _before(recipe: Recipe) -> str:
    """The hash of a recipe when data were known by their name."""
    return replace(recipe, data_sha256="").sha256


def identify(adapter: dict[str, Any], hashes: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """The recipe of an adapter with the hash of its data, and the order of these."""
    recipe = adapter["recipe"]
    if "data_sha256" in recipe:
        return {}
    sha256, data = hashes[recipe["sha256"]]
    known = {key: value for key, value in recipe.items() if key in SETTINGS}
    new = make_recipe({**known, "data_sha256": data})
    if new.sha256 != sha256:
        sys.exit(f"the hash of {adapter['name']} is not that of its study")
    recorded = recipe | new.to_dict() | {"sha256": sha256}
    order = replace(outline(new), recipe=recorded).data_order
    return {"recipe": recorded, "data_order": order}


def convert_trainings(path: Path, hashes: dict[str, tuple[str, str]]) -> None:
    """Rewrite the hashes of a `trainings.jsonl`; where an adapter lay stays as it was.

    So does a training whose recipe stands in no study any more.
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["sha256"] in hashes:
            row["sha256"], row["data_sha256"] = hashes[row["sha256"]]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
    known = sum("data_sha256" in row for row in rows)
    print(f"{path}: {known} of {len(rows)} trainings have the hash of their data")


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
