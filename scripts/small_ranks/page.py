"""Writes the page of the study, its tables and its figure: no number of them is written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aurac.curves import numbers
from aurac.show.charts import COLOURS, MARKERS, styled
from scripts.small_ranks import claims, outcomes
from scripts.small_ranks.outcomes import ASKED, FOLDER, TASKS, WAYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aurac.stats.estimate import Estimate
    from scripts.small_ranks.claims import Asked, Claim

Accuracies = dict[tuple[str, str, str, str], "Claim"]
TEST = claims.Asked("test", "nested", "lora", "both", "1 to 8")


def main(out: Path = FOLDER) -> None:
    """Write every file of the page below a folder."""
    stored = outcomes.read()
    by_value, by_text = (claims.differences(stored, grade) for grade in outcomes.GRADES)
    accuracies = claims.accuracies(stored)
    for name in ("tables", "figures"):
        (out / name).mkdir(parents=True, exist_ok=True)
    tables = {
        "differences": difference_table(by_value, by_text),
        "accuracies": accuracy_table(stored, accuracies),
    }
    for name, table in tables.items():
        table.to_csv(out / f"tables/{name}.csv", index=False, float_format="%.6g")
    draw(stored, accuracies, out / "figures/accuracy.png")
    template = Path(__file__).with_name("readme.md").read_text(encoding="utf-8")
    known = {"/".join(key): each for key, each in by_value.items()}
    test = by_value[TEST]
    places = {
        "n": {key: _interval(each.found) for key, each in known.items()},
        "p": {key: _interval(each.found, " points") for key, each in known.items()},
        "t": {key: _interval(each.by_template).partition(" ")[2] for key, each in known.items()},
        "m": {key: numbers.percent(each.found.value) for key, each in known.items()},
        "s": {key: ASKED["said"][each.word] for key, each in known.items()},
        "z": {key: ASKED["zero"][each.word] for key, each in known.items()},
        "a": {"/".join(key): numbers.percent(each[0].value) for key, each in accuracies.items()},
        "rate": stored.rates,
        "excluded": [numbers.upper(x.high) for x in (test.found, test.by_template)],
        "by_text": _interval(by_text[TEST].found, " points"),
    }
    (out / "README.md").write_text(template.format(**places), encoding="utf-8")


def _interval(found: Estimate, unit: str = "") -> str:
    return numbers.interval(found.value, found.low, found.high, unit)


def _columns(name: str, found: Estimate) -> dict[str, float]:
    """A mean and its interval in points, as three columns."""
    ends = {name: found.value, f"{name} low": found.low, f"{name} high": found.high}
    return {column: 100 * number for column, number in ends.items()}


def difference_table(
    by_value: Mapping[Asked, Claim], by_text: Mapping[Asked, Claim]
) -> pd.DataFrame:
    """Every difference, by question and by template, and with MAWPS by the text of equations."""
    rows = []
    for key, known in by_value.items():
        row: dict[str, Any] = key._asdict() | {"a": WAYS[key.a].label, "b": WAYS[key.b].label}
        row |= {"seeds": known.named_seeds, **_columns("points", known.found)}
        row |= {"p": known.found.p, "a is": known.word}
        row |= _columns("by template", known.by_template)
        row |= _columns("by text", by_text[key].found) if key.tasks != "word problems" else {}
        rows.append(row | {"of each seed": ", ".join(map(numbers.percent, known.each))})
    return pd.DataFrame(rows)


def accuracy_table(of: outcomes.Outcomes, accuracies: Accuracies) -> pd.DataFrame:
    """Accuracy at each rank and AURAC of every way; of a fitted scale the factors' mean."""
    tasks = {title: task for task, title in TASKS.items()}
    rows: list[dict[str, Any]] = [
        {"tasks": title, "way": "the base alone", "ranks": "0", "accuracy": 100 * of.base[task]}
        for title, task in tasks.items()
    ]
    for (scope, way, ranks, seeds), known in accuracies.items():
        row: dict[str, Any] = {
            "tasks": scope,
            "way": WAYS[way].label,
            "ranks": ranks,
            "seeds": seeds,
        }
        row |= _columns("accuracy", known.found)
        factors = of.factors.get((tasks.get(scope, ""), way), {})
        if ranks.isdigit() and factors:
            row["factor"] = np.exp(np.mean(np.log(factors[int(ranks)])))
        rows.append(row)
    return pd.DataFrame(rows)


def draw(of: outcomes.Outcomes, accuracies: Accuracies, path: Path) -> None:
    """Accuracy against rank on each task, with 95 % intervals, of the old seeds."""
    every = (*claims.RANKS, claims.TRAINED)
    with styled():
        figure = Figure(figsize=(8.4, 4.6), layout="constrained")
        for ax, task in zip(figure.subplots(1, 2, sharey=True), TASKS.values(), strict=True):
            for at, (way, text, colour, dashes) in enumerate(ASKED["lines"]):
                found = {
                    int(ranks): known.found
                    for (tasks, name, ranks, _), known in accuracies.items()
                    if (tasks, name) == (task, way) and ranks in every
                    if known.seeds[-1] in claims.OLD
                }
                if found:
                    value, low, high = 100 * np.array([each[:3] for each in found.values()]).T
                    look = {"color": COLOURS[colour], "marker": MARKERS[colour], "ls": dashes}
                    beside = [rank * 1.03 ** (at - 2.5) for rank in found]  # bars lie apart
                    around = [value - low, high - value]
                    label = f"{text} (rate {of.rates[WAYS[way].recipe]})"
                    ax.errorbar(beside, value, around, label=label, elinewidth=0.8, **look)
            ax.set_xscale("log", base=2)
            ax.set_xticks([*map(int, every)], [*every])
            ax.set_xlabel("Rank")
            ax.set_title(f"{task[0].upper()}{task[1:]}")
        figure.axes[0].set_ylabel("Accuracy (%)")
        named = figure.axes[0].get_legend_handles_labels()
        figure.legend(*named, loc="outside lower center", ncols=2, handlelength=4)
        figure.savefig(path, metadata={"Software": None})
