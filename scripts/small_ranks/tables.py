"""The tables of the study, as frames in percent and points: each is a CSV file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from aurac.curves import numbers
from aurac.show.tabular import render_table
from scripts.small_ranks import base, claims
from scripts.small_ranks.base import ASKED, GRADES, TASKS, Stored, Way

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scripts.small_ranks.claims import Asked, Claim


def method(recipe: str) -> str:
    """What a recipe is called."""
    return base.planned()[0][recipe]


def cut(way: Way) -> str:
    """A cut in words; an adapter that was trained at the rank has none."""
    if way.recipe == "lora_rank":
        return "none"
    own = ASKED["own cuts"].get(way.recipe) if way.rescale == "rule" else None
    return str(own or ASKED["cuts"][f"{way.basis} {way.rescale}"])


def spread(name: str, found: Claim) -> dict[str, float]:
    """A claim and its interval, as three columns."""
    ends = {"": found.value, " low": found.low, " high": found.high}
    return {f"{name}{end}": 100 * number for end, number in ends.items()}


def differences(stored: Stored, by_value: Mapping[Asked, Claim]) -> pd.DataFrame:
    """Every difference that is there, of MAWPS also by the text of the equations."""
    rows, by_text = list[dict[str, Any]](), claims.answers(stored, "text")
    for each, found in by_value.items():
        row: dict[str, Any] = each._asdict()
        for side in ("a", "b"):
            way = base.WAYS[row[side]]
            row[side] = f"{method(way.recipe)} ({cut(way)})"
        row |= {"seeds": len(found.seeds), **spread("points", found)}
        row |= {"bootstrap low": 100 * found.drawn[0], "bootstrap high": 100 * found.drawn[1]}
        row |= {"p": found.p, "a is": claims.verdict(found)}
        row |= spread("by text", by_text[each]) if each.tasks != "word problems" else {}
        rows.append(row | {"of each seed": ", ".join(map(numbers.percent, found.each))})
    return pd.DataFrame(rows)


def accuracies(stored: Stored, known: Mapping[tuple[str, Way, str], Claim]) -> pd.DataFrame:
    """Accuracy at each rank and AURAC of every way, with its interval, and MAWPS by each grade."""
    rows: list[dict[str, Any]] = [
        {"tasks": TASKS[task], "method": "the base alone", "cut": "", "seeds": 1, "ranks": "0"}
        | dict(zip(GRADES, 100 * scores.mean(axis=1), strict=True))
        for task, scores in stored.base.items()
    ]
    for (tasks, way, over), found in known.items():
        row: dict[str, Any] = {"tasks": tasks, "method": method(way.recipe), "cut": cut(way)}
        row |= {"seeds": len(found.seeds), "ranks": over, **spread("value", found)}
        for grade in GRADES[1:] if tasks != "word problems" else ():
            each = [claims.areas(stored, t, way, over, grade) for t in claims.SCOPES[tasks]]
            row[grade] = 100 * np.mean([[some[s].mean() for s in found.seeds] for some in each])
        rows.append(row)
    return pd.DataFrame(rows)


def factors(stored: Stored) -> pd.DataFrame:
    """The factors of fitted scales, the geometric mean over seeds."""
    return pd.DataFrame(
        {"tasks": TASKS[task], "method": method(way.recipe), "cut": cut(way)}
        | {str(rank): f"{mean:.2f}" for rank, mean in np.exp(logs.mean()).items()}
        for (task, way), seeds in stored.factors.items()
        for logs in [np.log(pd.DataFrame([*seeds.values()]))]
    )


def trials() -> pd.DataFrame:
    """AURAC of every trial of a learning rate on validation examples, and the chosen rate."""
    return pd.DataFrame(
        {"method": method(recipe), "tasks": TASKS[task]}
        | {"chosen": str(known["chosen"]["learning_rate"]), "rate": str(trial["learning_rate"])}
        | {"cut": cut(way) + " *" * ([*way[1:]] == found["cut"]), "AURAC": 100 * score}
        for recipe, found in base.searches().items()
        for task, known in found["tasks"].items()
        for trial in known.get("trials", ())
        for name, score in trial["scores"].items()
        for way in [Way(recipe, *name.split())]
    )


def trainings() -> pd.DataFrame:
    """Tokens, seconds and memory of every training."""
    paths = sorted(base.FOLDER.rglob("trainings.jsonl"))
    frame = pd.concat([pd.read_json(path, lines=True) for path in paths])
    return frame[["recipe", "seed", "tokens", "seconds", "memory"]]


def there(stored: Stored) -> pd.DataFrame:
    """Adapters of each recipe and task: how many are evaluated under every cut, of how many."""
    rows = []
    for (recipe, task), seeds in base.planned()[1].items():
        same = task, ASKED["same"].get(recipe, recipe)
        cuts = [seeds & {*s} for (of, way), s in stored.scores.items() if (of, way.recipe) == same]
        done = set.intersection(*filter(None, cuts)) if any(cuts) else set()
        tried = base.searches().get(recipe, {}).get("tasks", {}).get(task, {}).get("trials", ())
        row = {"method": method(recipe), "task": TASKS[task], "trials": len(tried)}
        rows.append(row | {"adapters": f"{len(done)} of {len(seeds)}"})
    return pd.DataFrame(rows)


def pivot(frame: pd.DataFrame, column: str, values: str) -> pd.DataFrame:
    """A column for each value of one, in the order of their rows."""
    kept = ["tasks", "method", "cut", *({"chosen", "seeds"} & {*frame})]
    return frame.pivot_table(values, kept, column, sort=False).reset_index()


def shown(frame: pd.DataFrame, *names: str) -> str:
    """Columns as people read them in Markdown; of `x low` and `x high` an interval."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    heads = names or tuple(map(str, frame))
    return render_table({name: [_text(name, row) for row in rows] for name in heads}, "markdown")


def _text(name: str, row: Mapping[Any, Any]) -> str:
    x, low, high = (row.get(f"{name}{end}") for end in ("", " low", " high"))
    if low is not None and high is not None:
        text = numbers.interval((low if x is None else x) / 100, low / 100, high / 100)
        return text.partition(" ")[2] if x is None else text
    if name == "p":
        return numbers.p_value(x)
    return "" if x is None else numbers.percent(x / 100) if isinstance(x, float) else str(x)
