"""The tables of the page."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from re import fullmatch
from tokenize import TokenError
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from aurac.analysis import Question, analyse
from aurac.curves.area import quadrature_weights
from aurac.curves.checks import MEAN
from aurac.curves.question import Key
from aurac.show import numbers
from aurac.show.tabular import render_table
from aurac.study.search import score
from aurac.study.work import TRAININGS
from scripts.small_ranks.base import CUTS, RANKS, SVD, TITLES, Base, Record, difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aurac.analysis import Analysis
    from aurac.curves.area import Axis
    from aurac.curves.curve import Curve
    from aurac.study import Work

GAIN = 0.02  # of study.yaml: one that would pay for another way of training
OWN = ("", "")
RULE, FIT = ("prefix", "rule"), ("prefix", "fit")
EXPLORED = (  # recipes that are compared beside the declared ones, under a cut or each its own
    ("matryoshka_prefix", OWN, "dylora", OWN),
    ("published", OWN, "dylora", OWN),
    ("published", OWN, "matryoshka_prefix", OWN),
    ("lora", FIT, "lora", RULE),
    ("matryoshka", FIT, "matryoshka_prefix", OWN),
    ("matryoshka", FIT, "lora", FIT),
    ("matryoshka", FIT, "dylora", OWN),
    ("lora", OWN, "dylora", OWN),
    ("lora_per_rank", OWN, "lora", OWN),
    ("lora_per_rank", OWN, "matryoshka", OWN),
    ("matryoshka", OWN, "lora_scale", OWN),
    ("matryoshka", OWN, "dylora_eight", OWN),
    ("matryoshka", FIT, "dylora_eight", OWN),
    ("dylora_eight", OWN, "dylora", OWN),
    ("matryoshka_prefix", OWN, "dylora_eight", OWN),
    ("squeeze", OWN, "lora", OWN),
    ("squeeze", OWN, "matryoshka", OWN),
)
AT_RANKS = (  # likewise, at each rank
    ("matryoshka_prefix", "dylora"),
    ("lora_per_rank", "matryoshka"),
    ("lora_per_rank", "lora"),
)
WHOLE, LINEAR = "both, ranks 1 to 16", "both, 1 to 16 over rank"
FLAT = (1, 2)


def answer(base: Base, text: str) -> str:
    """The text with differences of a base filled in.

    Declared differences go by their place, exploratory ones by their first row and second recipe:
    those over both tasks, or on the only one.
    """
    pairs = [difference(base.primary, base.mean, *pair) for pair in base.declared]
    declared = [_interval(pair, "difference") for pair in pairs]
    differences = {}
    for a, b, found in exploratory(base):
        record = next(r for r in reversed(found.values()) if r["difference"] is not None)
        name = " ".join((*filter(None, a), b.adapter))
        differences[name] = _interval(record, "difference")
        for column in (WHOLE, LINEAR):
            differences[f"{name} {column}"] = _interval(found[column], "difference")
    for group, other in AT_RANKS:
        pair = base.own(group), base.own(other)
        differences[f"{group} {other} at 1"] = _at_rank(base, pair, 1)
    return text.format(base=base.name, declared=declared, explored=differences)


def primaries(bases: list[Base]) -> str:
    """The declared comparisons, in their direction."""
    rows = []
    for base in bases:
        for a, b in base.declared:
            found = difference(base.primary, base.mean, a, b)
            shown = "better" if found["low"] > 0 else "worse" if found["high"] < 0 else "neither"
            ends, p = _interval(found, "difference"), numbers.p_value(found["p"])
            rows.append([base.name, base.words(a, b), ends, p, shown])
    return table(("base", "difference", "points [95 %]", "p", "shown"), rows)


def excluded(bases: list[Base]) -> int:
    """In how many declared comparisons the interval is below the gain."""
    pairs = [(base, *pair) for base in bases for pair in base.declared]
    return sum(difference(b.primary, b.mean, *pair)["high"] < GAIN for b, *pair in pairs)


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
            ends = _interval(difference(base.primary, task, a, b), "difference")
            seeds = ", ".join(map(numbers.percent, each))
            rows.append([f"{base.name}, {TITLES[task]}", base.words(a, b), ends, seeds])
    return table(("task", "difference", "points [95 %]", "seeds"), rows)


@cache
def exploratory(base: Base) -> list[tuple[Key, Key, dict[str, Record]]]:
    """The rows of each exploratory pair, and task → difference, of the seeds that both have."""
    pairs = [
        (
            Key(a, *cut) if cut != OWN else base.own(a),
            Key(b, *other) if other != OWN else base.own(b),
        )
        for a, cut, b, other in EXPLORED
        if base.whole.issuperset((a, b))
    ]
    rows = []
    for pair in pairs:
        found = _compared(base, pair, RANKS[:-1], len(pairs))
        whole = _compared(base, pair, RANKS, len(pairs))
        linear = _compared(base, pair, RANKS, len(pairs), "linear")
        each = {task: difference(found, task, *pair) for task in (*base.tasks, MEAN)}
        more = {WHOLE: difference(whole, MEAN, *pair), LINEAR: difference(linear, MEAN, *pair)}
        rows.append((*pair, more | each))
    return rows


def _compared(
    base: Base, pair: tuple[Key, Key], ranks: tuple[int, ...], family: int, axis: Axis = "log2"
) -> Analysis | None:
    """Of the tasks and seeds that both rows have; None where a row lacks a rank."""
    curves, groups = [], dict[str, list[str]]()
    for task in base.tasks:
        rows = [base.rows[task, key] for key in pair if (task, key) in base.rows]
        if len(rows) < len(pair) or any(not {*ranks} <= {*row.ranks} for row in rows):
            continue
        seeds = set.intersection(*({curve.seed for curve in row.curves} for row in rows))
        for row in rows:
            kept = [curve for curve in row.curves if curve.seed in seeds]
            groups.setdefault(row.key.adapter, []).extend(str(curve.adapter) for curve in kept)
            curves += kept if axis == "log2" else [_flat(curve, ranks, axis) for curve in kept]
    if not curves:
        return None
    over = ranks if axis == "log2" else FLAT
    seeds_of = {name: tuple(dict.fromkeys(adapters)) for name, adapters in groups.items()}
    return analyse(curves, Question(groups=seeds_of, pairs=(pair,), family=family, ranks=over))


def _flat(curve: Curve, ranks: tuple[int, ...], axis: Axis) -> Curve:
    """A curve of two ranks with the area of each example at both: its AURAC is that of `axis`."""
    scores = np.asarray(curve.outcomes)[[curve.ranks.index(rank) for rank in ranks]]
    weights = quadrature_weights(ranks, axis) if len(ranks) > 1 else [1.0]
    areas = np.clip(weights @ scores, 0, 1)
    each = np.stack([areas] * len(FLAT))
    return replace(curve, ranks=FLAT, accuracy=tuple(each.mean(axis=1)), outcomes=each)


def explored(bases: list[Base]) -> str:
    """Exploratory differences on each task and over both."""
    tasks = [*dict.fromkeys(task for base in bases for task in base.tasks), MEAN, WHOLE, LINEAR]
    rows = []
    for base in bases:
        for a, b, found in exploratory(base):
            ends = [_interval(found[task], "difference") if task in found else "" for task in tasks]
            rows.append([base.name, base.words(a, b), *ends])
    heads = [({MEAN: "both"} | TITLES).get(task, task) for task in tasks]
    return table(("base", "difference", *heads), rows)


def at_ranks(bases: list[Base]) -> str:
    """Some exploratory differences at each rank, the mean over the tasks that both rows have."""
    rows = []
    for base, *groups in ((base, *pair) for base in bases for pair in AT_RANKS):
        pair = base.own(groups[0]), base.own(groups[1])
        cells = [_at_rank(base, pair, rank) for rank in RANKS[:-1]]
        rows.append([base.name, base.words(*pair), *cells])
    return table(("base", "difference", *map(str, RANKS[:-1])), rows)


@cache
def _at_rank(base: Base, pair: tuple[Key, Key], rank: int) -> str:
    found = _compared(base, pair, (rank,), len(RANKS) - 1, "linear")
    records = [difference(found, task, *pair) for task in (MEAN, *base.tasks)]
    return _interval(next(r for r in records if r["difference"] is not None), "difference")


def by_value(bases: list[Base]) -> str:
    """The declared comparisons on MAWPS, an answer right where its equation has the right value."""
    return "; ".join(f"{', '.join(_by_value(base))} ({base.name})" for base in bases)


def _by_value(base: Base) -> Iterator[str]:
    weights = quadrature_weights(base.analysis.ranks["mawps"])
    for a, b in base.declared:
        areas = []
        for key in (a, b):
            for curve in base.rows["mawps", key].curves:
                where = "mawps", curve.adapter, curve.basis, curve.rescale
                cells = [base.run.samples(*where, rank) for rank in base.analysis.ranks["mawps"]]
                each = [
                    np.mean(
                        [value(x) == value(y) for x, y in zip(c.response, c.target, strict=True)]
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
                rows.append([f"{base.name}, {TITLES[task]}", base.label(row.key), *cells])
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


def fitted(bases: list[Base]) -> str:
    """The factors of the fitted scales, the geometric mean over seeds."""
    rows = []
    for base in bases:
        for task, key in (each for each in base.rows if each[1].rescale == "fit"):
            found = [curve.factors for curve in base.rows[task, key].curves]
            each = np.exp(np.mean([[np.log(x[rank]) for rank in RANKS] for x in found], axis=0))
            rows.append(
                [f"{base.name}, {TITLES[task]}", base.label(key), *(f"{x:.1f}" for x in each)]
            )
    return table(("task", "method", *map(str, RANKS)), rows)


def chosen(bases: list[Base]) -> str:
    """The cut and the learning rates that the search chose."""
    rows = []
    for base in bases:
        for group, won in base.trials.winners.items():
            if group not in base.whole:
                continue
            by_svd = {
                task: max(tried, key=lambda trial: trial.scores.get(SVD, 0.0)).point
                for task, tried in won.trials.items()
                if any(SVD in trial.scores for trial in tried)
            }
            rates = [
                ", ".join(f"{TITLES[t]} {x['learning_rate']:g}" for t, x in points.items() if x)
                for points in (won.points, by_svd)
            ]
            cut = base.cut(Key(group, *won.cut))
            rows.append([base.name, base.study.labels[group], cut, *rates])
    return table(("base", "method", "cut", "learning rate", "best one by SVD"), rows)


def costs(work: Work, bases: list[Base]) -> str:
    """Tokens of a training with the first seed, of all recipes."""
    texts = []
    for base, task in ((each, task) for each in bases for task in each.tasks):
        tokens = set()
        for group in base.groups(task):
            first = next(
                each
                for each in base.trials.adapters
                if (each.plan.group, each.plan.task) == (group, task)
            )
            keys = ((job.recipe.sha256, job.recipe.seed) for job in first.trainings)
            tokens |= {work.trained()[key]["tokens"] for key in keys}
        texts.append(f"{' or '.join(f'{n:,}' for n in tokens)} ({base.name}, {TITLES[task]})")
    return ", ".join(texts)


def _interval(record: Record, name: str) -> str:
    return numbers.interval(record[name], record["low"], record["high"])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As Markdown."""
    columns = map(list, zip(*rows, strict=True))
    return render_table(dict(zip(heads, columns, strict=True)), "markdown")
