"""The tables of the page."""

from __future__ import annotations

import json
from functools import cache
from re import fullmatch
from tokenize import TokenError
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from aurac.analysis.schema import Key
from aurac.curves.area import quadrature_weights
from aurac.show import numbers
from aurac.show.tabular import render_table
from aurac.study.search import score
from aurac.study.work import TRAININGS
from scripts.small_ranks.base import CUTS, RANKS, SVD, TITLES, Base

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aurac.analysis.schema import Record
    from aurac.study import Work

GAIN = 0.02  # of study.yaml: one that would pay for another way of training


def answer(base: Base, text: str) -> str:
    """The text with the declared differences of a base and its means over tasks filled in."""
    declared = [numbers.interval(*base.difference(base.mean, a, b)[0]) for a, b in base.declared]
    records = base.scores(base.mean).items()
    aurac = {" ".join(filter(None, key)): numbers.percent(r["aurac"]) for key, r in records}
    return text.format(base=base.name, declared=declared, aurac=aurac)


def primaries(bases: list[Base]) -> str:
    """The declared comparisons, in their direction."""
    rows = []
    for base in bases:
        for a, b in base.declared:
            values, p = base.difference(base.mean, a, b)
            shown = "better" if values[1] > 0 else "worse" if values[2] < 0 else "neither"
            gain = "excluded" if values[2] < GAIN else "not excluded"
            ends = numbers.interval(*values)
            row = [base.name, base.words(a, b), ends, numbers.p_value(p), shown, gain]
            rows.append(row)
    return table(("base", "difference", "points [95 %]", "p", "shown", "gain of 2 points"), rows)


def apart(bases: list[Base]) -> str:
    """The same on each task, and of each seed."""
    rows = []
    for base, a, b in ((each, *pair) for each in bases for pair in each.declared):
        for task in base.tasks:
            ours, theirs = ({c.seed: c for c in base.rows[task, key].curves} for key in (a, b))
            ranks = base.analysis.ranks[task]
            each = [
                score(ours[seed], ranks, "aurac") - score(theirs[seed], ranks, "aurac")
                for seed in sorted(ours, key=str)
            ]
            ends = numbers.interval(*base.difference(task, a, b)[0])
            seeds = ", ".join(map(numbers.percent, each))
            rows.append([f"{base.name}, {TITLES[task]}", base.words(a, b), ends, seeds])
    return table(("task", "difference", "points [95 %]", "seeds"), rows)


def by_value(bases: list[Base]) -> str:
    """The declared comparisons on MAWPS, an answer right where its equation has the right value."""
    return "; ".join(f"{', '.join(_by_value(base))} ({base.name})" for base in bases)


def _by_value(base: Base) -> Iterator[str]:
    questions = base.run.questions("mawps").set_index("example")
    right = {example: value(text) for example, text in questions["target"].items()}
    weights = quadrature_weights(base.analysis.ranks["mawps"])
    for a, b in base.declared:
        areas = []
        for key in (a, b):
            for curve in base.rows["mawps", key].curves:
                where = "mawps", curve.adapter, curve.basis, curve.rescale
                cells = [base.run.samples(*where, rank) for rank in base.analysis.ranks["mawps"]]
                each = [
                    np.mean(
                        [value(x) == right[e] for e, x in zip(c.example, c.response, strict=True)]
                    )
                    for c in cells
                ]
                areas.append(weights @ each)
        half = len(areas) // 2
        yield numbers.percent(float(np.mean(areas[:half]) - np.mean(areas[half:])))


@cache
def value(answer: str) -> float:
    """Of an answer's equation; NaN, which equals nothing, where it has none."""
    equation = answer.rpartition("=")[0] or answer
    if "**" in equation or "//" in equation or not fullmatch(r"[\d.\s()*/+-]+", equation):
        return float("nan")
    try:
        return round(float(str(pd.eval(equation, engine="python"))), 6)
    except (ArithmeticError, SyntaxError, TokenError, TypeError, ValueError):
        return float("nan")


def points(bases: list[Base]) -> str:
    """Accuracy at each rank of every recipe under its own cut."""
    rows = []
    for base in bases:
        for task in base.tasks:
            for group in base.groups(task):
                row = base.rows[task, base.own(group)]
                cells = [numbers.percent(row.accuracy(r)) if r in row.ranks else "" for r in RANKS]
                label = f"{base.study.labels[group]} ({base.cut(row.key)})"
                rows.append([f"{base.name}, {TITLES[task]}", label, *cells])
    return table(("task", "method", *map(str, RANKS)), rows)


def scores(bases: list[Base]) -> str:
    """A row for each recipe under each cut, those of a cut together."""
    labels = bases[0].study.labels
    keys = {key: base.cut(key) for base in bases for key in base.keys}
    order = [*CUTS.values(), *dict.fromkeys(keys.values())]
    columns = [(base, task) for base in bases for task in base.tasks]
    rows = []
    for key in sorted(keys, key=lambda key: order.index(keys[key])):
        cells = []
        for base, task in columns:
            record = base.scores(task).get(key)
            text = _interval(record, "aurac") if record else ""
            chosen = base.trials.winners.get(key.adapter)
            mark = "*" if chosen and chosen.cut == (key.basis, key.rescale) and text else ""
            row = base.rows.get((task, key))
            whole = RANKS[-1] in row.ranks if row else False
            cells += [
                f"{mark}{text}",
                numbers.percent(row.accuracy(RANKS[-1])) if row and whole else "",
            ]
        rows.append([labels[key.adapter], keys[key], *cells])
    alone = [next(iter(base.scores(task).values()))["base"] for base, task in columns]
    rows.append(["the base alone", "", *(c for x in alone for c in (numbers.percent(x), ""))])
    heads = [
        h
        for b, t in columns
        for h in (f"{b.name}, {TITLES[t]}", f"rank {RANKS[-1]}, {TITLES[t]}, {b.name}")
    ]
    return table(("method", "cut", *heads), rows)


def chosen(bases: list[Base]) -> str:
    """The cut and the learning rates that the search chose."""
    rows = []
    for base in bases:
        for group, won in base.trials.winners.items():
            if group not in base.whole:
                continue
            by_svd = {
                task: max(tried, key=lambda trial: trial[1].get(SVD, 0.0))[0]
                for task, tried in won.trials.items()
                if any(SVD in found for _, found in tried)
            }
            rates = [
                ", ".join(f"{TITLES[t]} {x['learning_rate']:g}" for t, x in points.items() if x)
                for points in (won.points, by_svd)
            ]
            cut = base.cut(Key(group, *won.cut))
            rows.append([base.name, base.study.labels[group], cut, *rates])
    return table(("base", "method", "cut", "learning rate", "best one by SVD"), rows)


def costs(work: Work, bases: list[Base]) -> str:
    """Tokens of all trainings of an adapter of each recipe, and the most memory of one."""
    lines = (work.out / TRAININGS).read_text(encoding="utf-8").splitlines()
    known = {r["folder"]: r for r in map(json.loads, lines) if "tokens" in r}
    rows = []
    for base in bases:
        for task in base.tasks:
            for group in base.groups(task):
                adapter = next(a for a in base.trials.run(group) if a.task == task)
                jobs = adapter.trainings(work.out)
                made = [known[job.folder.relative_to(work.out).as_posix()] for job in jobs]
                tokens, memory = sum(r["tokens"] for r in made), max(r["memory"] for r in made)
                row = [base.name, TITLES[task], work.study.labels[group], str(len(jobs))]
                rows.append([*row, f"{tokens:,}", numbers.size(memory)])
    return table(("base", "task", "method", "trainings", "tokens", "peak memory"), rows)


def _interval(record: Record, name: str) -> str:
    return numbers.interval(record[name], record["low"], record["high"])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As Markdown."""
    columns = map(list, zip(*rows, strict=True))
    return render_table(dict(zip(heads, columns, strict=True)), "markdown")
