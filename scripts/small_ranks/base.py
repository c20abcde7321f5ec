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
ASKED = yaml.safe_load(Path(__file__).with_name("asked.yaml").read_text("utf-8"))
OLD, FRESH = range(47, 55), range(55, 63)  # seeds
GRADES = ("value", "text", "result")  # of a MAWPS answer; the first one decides
TASKS: dict[str, str] = ASKED["tasks"]


class Way(NamedTuple):
    """A recipe under a cut."""

    recipe: str
    basis: str
    rescale: str


WAYS = {name: Way(*way) for name, way in ASKED["ways"].items()}
Scores = dict[int, dict[int, "Array"]]  # seed → rank → (3, n) scores, a row for each grade


@dataclass
class Stored:
    """The study as far as it is there.

    Attributes:
        scores: Task and way → scores.
        base: Task → (3, n) scores of the base alone.
        factors: Task and way → seed → rank → factor of a fitted scale.
        units: Task → (n,) codes of what its examples share: a template.
        examples: Task → identities of its examples, the same in every run.
    """

    scores: dict[tuple[str, Way], Scores] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    base: dict[str, Array] = field(default_factory=dict)
    factors: dict[tuple[str, Way], dict[int, Any]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    units: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, list[DocumentKey]] = field(default_factory=dict)


def read() -> Stored:
    """All runs of the small base; a MAWPS answer is graded by its equation's value, too."""
    stored = Stored()
    found = FOLDER.rglob("smollm2/run/run.json")
    for path in sorted(found, key=lambda path: (len(path.parts), path)):  # the base is the study's
        run = read_run(path.parent)
        recipes = {a.name: (a.recipe or {})["name"] for a in run.adapters}
        cells: Any = {(c.adapter, c.basis, c.rescale): c.cells for c in run.cuts}
        for curve in run.curves:
            task, name = str(curve.task), recipes[str(curve.adapter)].removesuffix(" per rank")
            recipe = name.partition(f"-{task}-")[2]
            way = Way(ASKED["same"].get(recipe, recipe), str(curve.basis), str(curve.rescale))
            _add(stored, run, curve, way, cells[curve.adapter, curve.basis, curve.rescale][task])
    return stored


def _add(stored: Stored, run: StoredRun, curve: Curve, way: Way, cells: dict[int, str]) -> None:
    task, seed = str(curve.task), int(curve.seed or 0)
    identities = zip(curve.doc_ids or (), curve.doc_hashes or (), curve.prompts or (), strict=True)
    keys = [DocumentKey(*each) for each in identities]
    if task not in stored.examples:
        stored.examples[task], stored.units[task] = keys, _units(run, task, keys)
        base = np.asarray(curve.base_scores)
        stored.base[task] = _grades(run, run.manifest.base[task], base, keys)
    if stored.examples[task] != keys:
        raise ValueError(f"{curve.label} has other examples than the adapters before it.")
    for rank, text in zip(curve.ranks, np.asarray(curve.outcomes), strict=True):
        stored.scores[task, way][seed][rank] = _grades(run, cells[rank], text, keys)
    if curve.factors:
        stored.factors[task, way][seed] = curve.factors


def _grades(run: StoredRun, cell: str, text: Array, keys: list[DocumentKey]) -> Array:
    """(3, n) scores of a cell: by value, by text as the task's metric has it, by the result."""
    known = run.documents.told.get("mawps")
    targets = dict(zip(known.keys, known.targets, strict=True)) if known else {}
    if keys[0] not in targets:
        return np.stack([text] * len(GRADES))
    answers, wanted = run.store.read(cell).responses(keys), [str(targets[key]) for key in keys]
    pairs = list(zip(answers, wanted, strict=True))
    by_value, by_result = (
        [math.isclose(value(of(x)), value(of(y)), rel_tol=1e-6) for x, y in pairs]
        for of in (str, lambda answer: "".join(re.findall(r"(?:^|=)\s*(-?[\d.]+)\s*$", answer)))
    )
    return np.array([by_value, text, by_result], dtype=np.float64)


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


def _units(run: StoredRun, task: str, keys: list[DocumentKey]) -> Any:
    """Codes of the templates: those of the word problems, MAWPS questions without their numbers."""
    found = {}
    for path in run.folder.glob(f"documents/{task}.jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for row in (row for row in map(json.loads, lines) if "doc" in row):
                plain = re.sub(r"\d[\d.,]*", "#", row["doc"]["question"])
                found[row["doc_hash"]] = row["doc"].get("template") or plain
    return np.unique([found[key.content] for key in keys], return_inverse=True)[1]


@cache
def planned() -> tuple[dict[str, str], dict[tuple[str, str], set[int]]]:
    """What the study's files say: labels of recipes, and the seeds of each on each task.

    This function alone reads them.
    """
    labels: dict[str, str] = dict(ASKED["labels"])
    seeds: dict[tuple[str, str], set[int]] = defaultdict(set)
    for path in filter(Path.is_file, map(FOLDER.joinpath, ASKED["files"])):
        study = yaml.safe_load(path.read_text(encoding="utf-8"))
        labels |= study["labels"]
        for task, about in study["tasks"].items():
            for name in about.get("recipes", study["recipes"]):
                seeds[name, task] |= set(study["recipes"][name].get("seeds", study["seeds"]))
    return labels, seeds


def rate(recipe: str) -> str:
    """The learning rate that the search of a recipe chose, in brackets; nothing where none did."""
    tasks = searches().get(recipe, {}).get("tasks", {}).values()
    rates = {task["chosen"]["learning_rate"] for task in tasks if "chosen" in task}
    text = " and ".join(f"{chosen:g}".lstrip("0") for chosen in sorted(rates))
    return f" (rate {text})" if text else ""


@cache
def searches() -> dict[str, Any]:
    """Recipe → what its search found, as `search.json` has it."""
    found: dict[str, Any] = {}
    for path in sorted(FOLDER.rglob("smollm2/search.json")):
        found |= json.loads(path.read_text(encoding="utf-8"))
    return found
