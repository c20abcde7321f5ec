"""What is stored of the study of small ranks: the scores of every answer, by recipe and cut."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import yaml

import aurac

if TYPE_CHECKING:
    from aurac.stats.estimate import Array

FOLDER = Path(__file__).parents[2] / "reports/small_ranks"
OLD_RUN, FRESH_RUN = FOLDER / "smollm2/run", FOLDER / "fresh/smollm2/run"
ASKED = yaml.safe_load(Path(__file__).with_name("asked.yaml").read_text("utf-8"))
TASKS: dict[str, str] = ASKED["tasks"]
GRADES = ("value", "score")  # of a MAWPS answer: by the value of its equation, and by its text


class Way(NamedTuple):
    """A recipe under a cut, and what tables call it."""

    recipe: str
    basis: str
    rescale: str
    label: str


WAYS = {name: Way(*way) for name, way in ASKED["ways"].items()}
_NAMES = {way[:3]: name for name, way in WAYS.items()}
Scores = dict[int, dict[int, "Array"]]  # seed → rank → (2, n) scores, a row for each grade


@dataclass
class Outcomes:
    """All answers of the study.

    Attributes:
        scores: Task and the name of a way → scores.
        base: Task → accuracy of the base alone.
        rates: Recipe → learning rate.
        factors: Task and the name of a way → rank → factors of the fitted scale, one a seed.
        questions: Task → n texts, the same in both runs.
        templates: Task → (n,) numbers of the templates that the questions were made from. On MAWPS
            questions that differ in their numbers alone have the same one.
    """

    scores: dict[tuple[str, str], Scores] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    base: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    factors: dict[tuple[str, str], dict[int, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    questions: dict[str, list[str]] = field(default_factory=dict)
    templates: dict[str, Any] = field(default_factory=dict)


def read() -> Outcomes:
    """Both runs: that of the fresh seeds and that of the first ones, which has the base's row."""
    found = Outcomes()
    for folder in (FRESH_RUN, OLD_RUN):
        _add(found, aurac.load_run(folder))
    fresh = aurac.load_run(FRESH_RUN).ask(clusters={"aurac_word_problems": "template"})
    named = next(curve for curve in fresh.curves if curve.task == "aurac_word_problems")
    labels = dict(zip(named.doc_ids or (), named.clusters or (), strict=True))
    known = {
        "aurac_word_problems": [labels[key] for key in sorted(labels, key=int)],
        "mawps": [re.sub(r"\d[\d.,]*", "#", text) for text in found.questions["mawps"]],
    }
    found.templates = {
        task: np.unique(texts, return_inverse=True)[1] for task, texts in known.items()
    }
    return found


def _add(found: Outcomes, run: aurac.Run) -> None:
    recipes = {each.name: _recipe(each.recipe or {}) for each in run.adapters}
    found.rates |= {_recipe(x.recipe): x.recipe["learning_rate"] for x in run.adapters if x.recipe}
    for curve in run.curves:
        way = _NAMES[recipes[str(curve.adapter)], str(curve.basis), str(curve.rescale)]
        for rank, factor in curve.factors.items():
            found.factors[str(curve.task), way][rank].append(factor)
    answers = run.samples().astype({"example": int})
    texts = zip(answers["response"], answers["target"], strict=True)
    by_value = [same_value(*pair) for pair in texts]
    answers["value"] = np.where(answers["task"] == "mawps", by_value, answers["score"])
    names = ["task", "adapter", "basis", "rescale", "seed", "rank"]
    for key, unsorted in answers.groupby(names, dropna=False):
        rows, of = unsorted.sort_values("example"), dict(zip(names, cast("Any", key), strict=True))
        task, rank = of["task"], of["rank"]
        questions = rows["question"].tolist()
        if found.questions.setdefault(task, questions) != questions:
            raise ValueError(
                f"{of['adapter']} answered other questions than the adapters before it."
            )
        scores = rows[[*GRADES]].to_numpy(dtype=np.float64).T
        if rank == 0:
            found.base[task] = float(scores[0].mean())
        else:
            way = _NAMES[recipes[of["adapter"]], of["basis"], of["rescale"]]
            found.scores[task, way][int(of["seed"])][rank] = scores


def _recipe(recipe: dict[str, Any]) -> str:
    """The name of a recipe in the study, which the name of an adapter's recipe ends with."""
    name: str = recipe["name"].removesuffix(" per rank").split("-")[-1]
    return str(ASKED["same"].get(name, name))


@cache
def same_value(answer: str, reference: str) -> bool:
    """Whether the equations of an answer and of the reference have the same value."""
    return math.isclose(value(answer), value(reference), rel_tol=1e-6)


def value(answer: str) -> float:
    """Of the equation before the last equals sign; NaN, which equals nothing, of none."""
    equation = (answer.rpartition("=")[0] or answer).strip()
    if re.search(r"\*\*|//|[\d.)]\s*\(|[^\d.\s()*/+-]", equation):
        return math.nan
    try:
        return float(eval(equation))  # noqa: S307 - digits, brackets and four operators alone
    except (ArithmeticError, SyntaxError, TypeError, ValueError):
        return math.nan
