"""The tables of the study, as records: each is a CSV file, and the appendix shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.show import numbers
from aurac.show.tabular import render_table
from scripts.small_ranks.base import (
    BASE,
    GRADES,
    MAWPS,
    SAME,
    WORDS,
    Stored,
    Way,
    planned,
    searches,
    trainings,
)
from scripts.small_ranks.claims import (
    RANKS,
    SCOPES,
    TRAINED,
    WAYS,
    Asked,
    Claim,
    areas,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Record = dict[str, Any]
TITLES = {WORDS: "word problems", MAWPS: "MAWPS"}
CUTS = {
    ("svd", "keep"): "SVD",
    ("svd", "fit"): "SVD, fitted scale",
    ("prefix", "fit"): "prefix, fitted scale",
    ("prefix", "trained"): "prefix with P",
    ("prefix", "rule"): "prefix",
}
OWN = {  # recipes whose cuts have other words
    "matryoshka_prefix": "prefix without P",
    "lora_per_rank": "none",
    "lora_rank": "none",
    "squeeze": "none",
}


def cut(way: Way) -> str:
    """A cut in words; of an adapter that was trained at the rank there is none."""
    own = OWN.get(way.recipe) if way.rescale == "rule" or way.recipe == "lora_rank" else None
    return own or CUTS[way.basis, way.rescale]


def label(way: Way) -> str:
    """A recipe and its cut."""
    return f"{planned().labels[way.recipe]} ({cut(way)})"


def ends(found: Claim | None) -> str:
    """A value with its interval in points."""
    return "" if found is None else numbers.interval(found.value, found.low, found.high)


def differences(by_value: Mapping[Asked, Claim], by_text: Mapping[Asked, Claim]) -> list[Record]:
    """Every difference that is there, of MAWPS also by the text of the equations."""
    return [
        {"kind": each.kind, "tasks": each.tasks}
        | {"a": label(WAYS[each.a]), "b": label(WAYS[each.b]), "ranks": each.ranks}
        | {"seeds": len(found.seeds), "points": found, "a is": verdict(found)}
        | ({} if each.tasks == TITLES[WORDS] else {"by text": by_text[each]})
        | {"of each seed": ", ".join(map(numbers.percent, found.each))}
        for each, found in by_value.items()
    ]


def bracketed(drawn: tuple[float, float]) -> str:
    """Both ends in points, rounded away from the claim."""
    return f"[{numbers.lower(drawn[0])}, {numbers.upper(drawn[1])}]"


def accuracies(stored: Stored, known: Mapping[tuple[str, Way, str], Claim]) -> list[Record]:
    """Accuracy at each rank and AURAC of every way, with its interval, and MAWPS by each grade."""
    rows: list[Record] = [
        {"tasks": TITLES[task], "method": "the base alone", "ranks": "0"}
        | {grade: scores[0][0][at].mean() for at, grade in enumerate(GRADES)}
        for (task, way), scores in stored.scores.items()
        if way == BASE
    ]
    for (tasks, way, over), found in known.items():
        record: Record = {"tasks": tasks, "method": planned().labels[way.recipe]}
        record |= {"cut": cut(way), "ranks": over, "seeds": len(found.seeds), "value": found}
        for grade in GRADES[1:] if tasks != TITLES[WORDS] else ():
            each = [areas(stored, task, way, over, grade) for task in SCOPES[tasks]]
            record[grade] = np.mean([[some[s].mean() for s in found.seeds] for some in each])
        rows.append(record)
    return rows


def wide(rows: Iterable[Record]) -> list[Record]:
    """Accuracies with a row for each way, AURAC's interval and grades at its end."""
    found: dict[tuple[str, ...], Record] = {}
    for row in rows:
        names = {name: row.get(name, "") for name in ("tasks", "method", "cut", "seeds")}
        record = found.setdefault(tuple(map(str, names.values())), names)
        if row["ranks"] == "1 to 8":
            record |= {"AURAC": row["value"], "by text": row.get("text", "")}
            record["by result"] = row.get("result", "")
        else:
            value = row["value"]
            record[row["ranks"]] = value.value if isinstance(value, Claim) else value
    return list(found.values())


def by_rate(rows: list[Record]) -> list[Record]:
    """Trials with a column for each rate; the chosen one stands behind them."""
    found: dict[tuple[str, ...], Record] = {}
    chosen = {(row["method"], row["tasks"]): row["rate"] for row in rows if row["chosen"]}
    for row in rows:
        names = {name: row[name] for name in ("method", "tasks", "cut")}
        record = found.setdefault(tuple(names.values()), names)
        record[row["rate"]] = row["AURAC"]
    return [row | {"chosen": chosen[row["method"], row["tasks"]]} for row in found.values()]


def factors(stored: Stored) -> list[Record]:
    """The factors of fitted scales, the geometric mean over seeds."""
    rows = []
    for (task, way), seeds in stored.factors.items():
        record = {"tasks": TITLES[task], "method": planned().labels[way.recipe], "cut": cut(way)}
        logs = {r: np.mean([np.log(f[r]) for f in seeds.values()]) for r in (*RANKS, TRAINED)}
        rows.append(record | {str(r): f"{np.exp(mean):.2f}" for r, mean in logs.items()})
    return rows


def trials() -> list[Record]:
    """AURAC of every trial of a learning rate on 150 validation examples, under each cut."""
    rows = []
    for recipe, found in searches().items():
        for task, known in found["tasks"].items():
            for trial in known.get("trials", ()):
                rate = trial["learning_rate"]
                record = {"method": planned().labels[recipe], "tasks": TITLES[task]}
                record |= {"rate": f"{rate:g}"}
                record["chosen"] = "yes" if known["chosen"].get("learning_rate") == rate else ""
                for name, score in trial["scores"].items():
                    basis, rescale = name.split()
                    own = " *" if [basis, rescale] == found["cut"] else ""
                    rows.append(
                        record | {"cut": cut(Way(recipe, basis, rescale)) + own} | {"AURAC": score}
                    )
    return rows


def costs() -> list[Record]:
    """Tokens, seconds and memory of every training."""
    rows = []
    for line in trainings():
        if "tokens" in line:
            record = {"recipe": line["recipe"], "seed": line["seed"], "tokens": line["tokens"]}
            memory = numbers.size(line["memory"])
            rows.append(record | {"seconds": f"{line['seconds']:.0f}", "memory": memory})
    return rows


def there(stored: Stored) -> list[Record]:
    """Adapters of each recipe and task: how many are evaluated under every cut, of how many."""
    plan, rows = planned(), []
    for (recipe, task), seeds in plan.seeds.items():
        same = "matryoshka_prefix" if recipe == "published" else SAME.get(recipe, recipe)
        known = [s for (of, way), s in stored.scores.items() if (of, way.recipe) == (task, same)]
        cuts = [seeds & set(found) for found in known]
        done = set.intersection(*filter(None, cuts)) if any(cuts) else set()
        tried = searches().get(recipe, {}).get("tasks", {}).get(task, {}).get("trials", ())
        record = {"method": plan.labels[recipe], "task": TITLES[task], "trials": str(len(tried))}
        rows.append(record | {"adapters": f"{len(done)} of {len(seeds)}"})
    return rows


def flat(row: Record) -> Record:
    """A record of a CSV file: percent or points, with the ends of intervals apart."""
    cells: Record = {}
    for name, value in row.items():
        if isinstance(value, Claim):
            known = {"": value.value, " low": value.low, " high": value.high}
            if name == "points":
                known |= dict(zip((" bootstrap low", " bootstrap high"), value.drawn, strict=True))
                cells["p"] = f"{value.p:.3g}"
            cells |= {f"{name}{end}": f"{100 * number:.3f}" for end, number in known.items()}
        else:
            cells[name] = f"{100 * value:.3f}" if isinstance(value, float) else value
    return cells


def shown(row: Record) -> Record:
    """A record as people read it."""
    cells: Record = {}
    for name, value in row.items():
        if isinstance(value, Claim):
            cells["points [95 %]" if name == "points" else name] = ends(value)
            if name == "points":
                cells |= {"bootstrap": bracketed(value.drawn), "p": numbers.p_value(value.p)}
        else:
            cells[name] = numbers.percent(value) if isinstance(value, float) else str(value)
    return cells


def table(rows: Iterable[Record], *columns: str) -> str:
    """Some columns of records as Markdown; a column that no row has is left out."""
    kept = [shown(row) for row in rows]
    heads = columns or tuple(dict.fromkeys(name for row in kept for name in row))
    cells = {head: [row.get(head, "") for row in kept] for head in heads}
    return render_table({head: column for head, column in cells.items() if any(column)}, "markdown")
