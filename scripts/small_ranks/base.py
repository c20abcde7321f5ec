"""What is stored of the study of small ranks, and what was planned."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from aurac.records.lines import DocumentKey
from aurac.records.run import StoredRun, read_run

if TYPE_CHECKING:
    from aurac.curves.curve import Curve
    from aurac.stats.estimate import Array

FOLDER = Path(__file__).parents[2] / "reports/small_ranks"
STUDIES = ("study.yaml", "more.yaml", "fresh.yaml", "rank_1.yaml", "rank_4.yaml")
WORDS, MAWPS = "aurac_word_problems", "mawps"
BOTH = (WORDS, MAWPS)
OLD, FRESH = range(47, 55), range(55, 63)  # seeds
GRADES = ("value", "text", "result")  # of a MAWPS answer; the first one decides
SAME = {  # recipe → the one whose fields it has
    "lora_fresh": "lora",
    "matryoshka_fresh": "matryoshka",
    "dylora_eight_mawps": "dylora_eight",
    "lora_rank_1": "lora_rank",
    "lora_rank_4": "lora_rank",
}


class Way(NamedTuple):
    """A recipe under a cut."""

    recipe: str
    basis: str
    rescale: str


BASE = Way("base", "", "")  # of rank 0 and seed 0


@dataclass
class Stored:
    """The study as far as it is there.

    Attributes:
        scores: Task and way → seed → rank → (3, n) scores, a row for each grade.
        factors: Likewise → seed → rank → factor of a fitted scale.
        units: Task → (n,) codes of what its examples share: a template.
        examples: Task → identities of its examples, the same in every run.
    """

    scores: dict[tuple[str, Way], dict[int, dict[int, Array]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    factors: dict[tuple[str, Way], dict[int, Any]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    units: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, list[DocumentKey]] = field(default_factory=dict)


def read() -> Stored:
    """All runs of the small base; a MAWPS answer is graded by its equation's value, too."""
    stored = Stored()
    for path in sorted(FOLDER.rglob("smollm2/run/run.json")):
        run = read_run(path.parent)
        recipes = {a.name: (a.recipe or {})["name"] for a in run.adapters}
        for curve in run.curves:
            task, name = str(curve.task), recipes[str(curve.adapter)].removesuffix(" per rank")
            recipe = name.partition(f"-{task}-")[2]
            way = Way(SAME.get(recipe, recipe), str(curve.basis), str(curve.rescale))
            _add(stored, run, curve, way)
    return stored


def _add(stored: Stored, run: StoredRun, curve: Curve, way: Way) -> None:
    task, seed = str(curve.task), int(curve.seed or 0)
    identities = zip(curve.doc_ids or (), curve.doc_hashes or (), curve.prompts or (), strict=True)
    keys = [DocumentKey(*each) for each in identities]
    if task not in stored.examples:
        stored.examples[task], stored.units[task] = keys, _units(run, task, keys)
    if stored.examples[task] != keys:
        raise ValueError(f"{curve.label} has other examples than the adapters before it.")
    stored.scores[task, way][seed] |= _graded(run, curve, keys)
    if curve.factors:
        stored.factors[task, way][seed] = curve.factors
    base = stored.scores[task, BASE]
    if not base:
        base[0][0] = _grades(run, run.manifest.base[task], np.asarray(curve.base_scores), keys)


def _graded(run: StoredRun, curve: Curve, keys: list[DocumentKey]) -> dict[int, Array]:
    where = (curve.adapter, curve.basis, curve.rescale)
    cut = next(c for c in run.cuts if (c.adapter, c.basis, c.rescale) == where)
    cells, outcomes = cut.cells[str(curve.task)], np.asarray(curve.outcomes)
    return {
        rank: _grades(run, cells[rank], row, keys)
        for rank, row in zip(curve.ranks, outcomes, strict=True)
    }


def _grades(run: StoredRun, cell: str, text: Array, keys: list[DocumentKey]) -> Array:
    """(3, n) scores of a cell: by value, by text as the task's metric has it, by the result."""
    known = next((d for stem, d in run.documents.items() if f"/{MAWPS}-" in stem), None)
    targets = dict(zip(known.keys, known.targets, strict=True)) if known else {}
    if keys[0] not in targets:
        return np.stack([text] * len(GRADES))
    pairs = list(zip(run.store.read(cell).responses(keys), map(targets.get, keys), strict=True))
    right = (
        [math.isclose(of(answer), of(str(target)), rel_tol=1e-6) for answer, target in pairs]
        for of in (value, result)
    )
    by_value, by_result = (np.array(each, dtype=np.float64) for each in right)
    return np.stack([by_value, text, by_result])


@cache
def value(answer: str) -> float:
    """Of the equation before the last equals sign; NaN, which equals nothing, of none."""
    equation = (answer.rpartition("=")[0] or answer).strip()
    if re.search(r"\*\*|//|[\d.)]\s*\(|[^\d.\s()*/+-]", equation):
        return math.nan
    try:
        return float(eval(equation))  # noqa: S307 - digits, brackets and four operators alone
    except (ArithmeticError, SyntaxError, TypeError, ValueError):
        return math.nan


@cache
def result(answer: str) -> float:
    """The number behind the last equals sign; NaN where there is none."""
    try:
        return float(answer.rpartition("=")[2])
    except ValueError:
        return math.nan


def _units(run: StoredRun, task: str, keys: list[DocumentKey]) -> Any:
    """Codes of the templates: those of the word problems, MAWPS questions without their numbers."""
    found = {}
    for path in run.folder.glob(f"documents/{task}-*.jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [row for row in map(json.loads, lines) if "doc" in row]
        for row in rows:
            text = row["doc"].get("template") or re.sub(r"\d[\d.,]*", "#", row["doc"]["question"])
            found[row["doc_hash"]] = text
    return np.unique([found[key.content] for key in keys], return_inverse=True)[1]


class Planned(NamedTuple):
    """What the study's files say: labels of recipes, and the seeds of each on each task."""

    labels: dict[str, str]
    seeds: dict[tuple[str, str], set[int]]


@cache
def planned() -> Planned:
    """Of all files of the study that there are; this function alone reads them."""
    labels: dict[str, str] = {"lora_rank": "LoRA at a rank, rate searched"}
    seeds: dict[tuple[str, str], set[int]] = defaultdict(set)
    for path in filter(Path.is_file, map(FOLDER.joinpath, STUDIES)):
        study = yaml.safe_load(path.read_text(encoding="utf-8"))
        labels |= study["labels"]
        for task, about in study["tasks"].items():
            for name in about.get("recipes", study["recipes"]):
                seeds[name, task] |= set(study["recipes"][name].get("seeds", study["seeds"]))
    return Planned(labels, seeds)


@cache
def searches() -> dict[str, Any]:
    """Recipe → what its search found, as `search.json` has it."""
    found: dict[str, Any] = {}
    for path in sorted(FOLDER.rglob("smollm2/search.json")):
        found |= json.loads(path.read_text(encoding="utf-8"))
    return found


def trainings() -> list[dict[str, Any]]:
    """The lines of every `trainings.jsonl`."""
    paths = sorted(FOLDER.rglob("trainings.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]
