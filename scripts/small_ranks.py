"""Writes `reports/small_ranks/README.md` from what the study stores, with its reports and figures.

python -m scripts.small_ranks
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from aurac.analysis.frames import MEAN
from aurac.analysis.schema import Key
from aurac.show import numbers
from aurac.show.charts import COLOURS, MARKERS, plot, styled
from aurac.show.tabular import render_table
from aurac.show.views import View, names_of
from aurac.study import Work, load_study
from aurac.study.design import groups_of, parts_of, tasks_of
from aurac.study.report import report
from aurac.study.search import Trials, score
from aurac.study.work import TRAININGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from matplotlib.axes import Axes

    from aurac.analysis.schema import Record
    from aurac.study.report import Reported

STUDY = Path(__file__).parents[1] / "reports/small_ranks/study.yaml"
TITLES = {
    "aurac_word_problems": "word problems",
    "mawps": "MAWPS",
    "smollm2": "SmolLM2-135M",
    "gemma": "Gemma-3-270M",
}
HEADS = ("base", "task", "method", "trials", "adapters")
RANK = 16  # of study.yaml
GAIN = 0.02  # of study.yaml: one that would pay for another way of training

PAGE = """# Which way to a small rank?

{answer}

[study.yaml](study.yaml) is the design, with hypotheses, what is said of each, limits, and what was
changed after a first search; it was committed before the first adapter of the seeds.

{results}## What is there

{there}

`search/` has the outcome of every example of the trials, `run/` that of the adapters of the seeds,
[trainings.jsonl](trainings.jsonl) losses, seconds, tokens and memory of each training (the machine
was shared, so the seconds are no measure). To go on, with the data of
[`scripts/study_data.py`](../../scripts/study_data.py) beside the file, in two processes of one
thread, which share the adapters and are half as fast again as one of two threads:

```bash
aurac study reports/small_ranks/study.yaml --out reports/small_ranks --dry-run
OMP_NUM_THREADS=1 aurac study reports/small_ranks/study.yaml --out reports/small_ranks    # twice
```
"""
RESULTS = """## Comparisons that were declared

{primary}

Points of AURAC over ranks 1, 2, 4 and 8, mean over the tasks of a base, paired seeds; the 95 %
intervals of all {count} hold together. They leave out what the search chose by chance. A difference
that is smaller than half the width of its interval could hardly have been shown.

On each task, with intervals as wide, and of each seed:

{apart}

## AURAC of every way and cut

{scores}

In percent, with 95 % intervals over examples and seeds, each alone; beside it the accuracy at the
trained rank, which AURAC leaves out. A star marks the cut that was the best one on validation
examples. A fitted scale takes the place of P. The report of each base has the accuracy at every
rank.

![Accuracy against rank, each method under its own cut](figures/accuracy.png)

## Learning rate, cut and P, each alone

![AURAC by learning rate, by cut, with and without P](figures/effects.png)

On validation examples, one seed, mean over the tasks of a base; each method under each cut at its
own best rate, on the left under the cut that was chosen. Chosen were, beside the rates that are the
best ones with both by SVD, which the second comparison does not take:

{chosen}

## What it costs

{costs}

Of the trainings of one adapter, with those that it goes on from.

"""
OPEN = "**Not answered yet:** nothing is concluded from what is there."
ORDER = ("lora", "dylora", "matryoshka", "published", "trunk", "squeeze")  # of colours
SVD = ("svd", "keep")
CUTS = {
    SVD: "SVD",
    ("svd", "fit"): "SVD, fitted scale",
    ("prefix", "fit"): "prefix, fitted scale",
}
OTHER_CUTS = {
    "matryoshka": "prefix with P",
    "published": "prefix without P",
    "lora_per_rank": "trained at each rank",
    "squeeze": "trained on at each rank",
}


def main() -> None:
    """Write the page, and the reports and figures of the bases that are done."""
    work = Work(load_study(STUDY), STUDY, STUDY.parent)
    every = [Trials(work, part, dry=True) for part in parts_of(work.study)]
    counted = [there(trials) for trials in every]
    bases = [
        Base(trials, done)
        for trials, rows in zip(every, counted, strict=True)
        if all(_whole(row) for row in rows) and (done := report(trials))
    ]
    rows = [row for each in counted for row in each]
    found = results(bases, work) if bases else ""
    text = PAGE.format(answer=OPEN, there=_table(HEADS, rows), results=found)
    STUDY.with_name("README.md").write_text(text, encoding="utf-8")


def there(trials: Trials) -> list[list[str]]:
    """Trials and adapters of each recipe and task: how many are there, of how many at least."""
    work, part = trials.work, trials.part
    rows = []
    for group in groups_of(work.study):
        adapters = trials.run(group)
        for task in tasks_of(work.study, part):
            mine = [adapter for adapter in adapters if adapter.task == task]
            tried = trials.winners[group].trials.get(task, ()) if group in trials.winners else ()
            found = sum(bool(scores) for _, scores in tried)
            left = sum((a.task, a.group) == (task, group) for a in trials.left)
            done = len(mine) - len(work.missing(part, mine))
            if mine:
                names = [TITLES[part.alias], TITLES[task], work.study.labels[group]]
                tries = f"{found} of {found + left}" if found + left else ""
                rows.append([*names, tries, f"{done} of {len(mine)}"])
    return rows


def _whole(row: list[str]) -> bool:
    return all(len({*cell.split(" of ")}) < 2 for cell in row[3:])


class Base:
    """A base that is done: its searches and its report."""

    def __init__(self, trials: Trials, done: Reported) -> None:
        self.trials, self.analysis, self.primary = trials, done.analysis, done.primary
        self.study, self.name = trials.work.study, TITLES[trials.part.alias]
        self.tasks = list(tasks_of(self.study, trials.part))
        self.rows = {(row.task, row.key): row for row in done.analysis.rows}
        self.keys = list(dict.fromkeys(row.key for row in done.analysis.rows))
        self.declared = done.primary.question.pairs if done.primary else ()
        known = {key.adapter for key in self.keys}
        labels = {name: label for name, label in self.study.labels.items() if name in known}
        self.names = names_of(done.analysis, labels)

    def scores(self, task: str) -> dict[Key, Record]:
        """The records of a task."""
        return {r["key"]: r for r in self.analysis.tables["scores"] if r["task"] == task}

    @property
    def mean(self) -> str:
        """The mean over tasks, or the only one."""
        return MEAN if len(self.tasks) > 1 else self.tasks[0]

    def own(self, group: str) -> Key:
        """The row of a recipe under its own cut."""
        rows = self.analysis.rows
        return next(row.key for row in rows if row.first and row.key.adapter == group)

    def best(self, group: str, cut: tuple[str, str]) -> float:
        """The mean over tasks of the highest AURAC of a recipe's trials under a cut, in percent."""
        trials = self.trials.winners[group].trials.values()
        return float(100 * np.mean([max(s.get(cut, 0.0) for _, s in tried) for tried in trials]))

    def difference(self, task: str, a: Key, b: Key) -> tuple[list[float], float]:
        """AURAC of a minus that of b with its interval, and p, as the declared family has them."""
        records = self.primary.tables["pairs"] if self.primary else ()
        found = {(r["a"], r["b"]): r for r in records if r["task"] == task}
        record = found.get((a, b)) or found[b, a]
        values = [record["difference"], record["low"], record["high"]]
        if (a, b) not in found:
            values = [-record["difference"], -record["high"], -record["low"]]
        return values, record["p"]

    def words(self, a: Key, b: Key) -> str:
        """A difference of two rows."""
        labels = self.study.labels
        return f"{labels[a.adapter]} ({self.cut(a)}) − {labels[b.adapter]} ({self.cut(b)})"

    def cut(self, key: Key) -> str:
        """A cut in words."""
        other = OTHER_CUTS.get(key.adapter, "prefix, own scale")
        return CUTS.get((str(key.basis), str(key.rescale)), other)


def results(bases: list[Base], work: Work) -> str:
    """The tables, and the figures beside them."""
    _save(accuracies, bases, "accuracy", sum(len(base.tasks) for base in bases), 1)
    _save(effects, bases, "effects", 3, len(bases))
    pairs = [row for base in bases for row in primaries(base)]
    return RESULTS.format(
        primary=_table(
            ("base", "difference", "points [95 %]", "p", "shown", "gain of 2 points"), pairs
        ),
        count=next(r["comparisons"] for b in bases if b.primary for r in b.primary.tables["pairs"]),
        apart=_table(
            ("task", "difference", "points [95 %]", "seeds"), [r for b in bases for r in apart(b)]
        ),
        scores=scores(bases),
        costs=costs(work, bases),
        chosen=chosen(bases),
    )


def primaries(base: Base) -> Iterator[list[str]]:
    """The declared comparisons of a base, in their direction."""
    for a, b in base.declared:
        values, p = base.difference(base.mean, a, b)
        shown = "better" if values[1] > 0 else "worse" if values[2] < 0 else "neither"
        gain = "excluded" if values[2] < GAIN else "shown" if values[1] > GAIN else "open"
        ends = numbers.interval(*values)
        yield [base.name, base.words(a, b), ends, numbers.p_value(p), shown, gain]


def apart(base: Base) -> Iterator[list[str]]:
    """The same on each task, and of each seed."""
    for a, b in base.declared:
        for task in base.tasks:
            ours, theirs = ({c.seed: c for c in base.rows[task, key].curves} for key in (a, b))
            ranks = base.analysis.ranks[task]
            each = [
                score(ours[seed], ranks, "aurac") - score(theirs[seed], ranks, "aurac")
                for seed in sorted(ours, key=str)
            ]
            ends = numbers.interval(*base.difference(task, a, b)[0])
            seeds = ", ".join(map(numbers.percent, each))
            yield [f"{base.name}, {TITLES[task]}", base.words(a, b), ends, seeds]


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
            whole = RANK in row.ranks if row else False
            cells += [f"{mark}{text}", numbers.percent(row.accuracy(RANK)) if row and whole else ""]
        rows.append([labels[key.adapter], keys[key], *cells])
    alone = [next(iter(base.scores(task).values()))["base"] for base, task in columns]
    rows.append(["the base alone", "", *(c for x in alone for c in (numbers.percent(x), ""))])
    heads = [
        h
        for b, t in columns
        for h in (f"{b.name}, {TITLES[t]}", f"rank {RANK}, {TITLES[t]}, {b.name}")
    ]
    return _table(("method", "cut", *heads), rows)


def chosen(bases: list[Base]) -> str:
    """The cut and the learning rates that the search chose."""
    rows = []
    for base in bases:
        for group, won in base.trials.winners.items():
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
    return _table(("base", "method", "cut", "learning rate", "best one by SVD"), rows)


def costs(work: Work, bases: list[Base]) -> str:
    """Tokens of all trainings of an adapter of each recipe, and the most memory of one."""
    lines = (work.out / TRAININGS).read_text(encoding="utf-8").splitlines()
    known = {r["folder"]: r for r in map(json.loads, lines) if "tokens" in r}
    rows = []
    for base in bases:
        for task in base.tasks:
            for group in groups_of(work.study, task):
                adapter = next(a for a in base.trials.run(group) if a.task == task)
                jobs = adapter.trainings(work.out)
                made = [known[job.folder.relative_to(work.out).as_posix()] for job in jobs]
                tokens, memory = sum(r["tokens"] for r in made), max(r["memory"] for r in made)
                row = [base.name, TITLES[task], work.study.labels[group], str(len(jobs))]
                rows.append([*row, f"{tokens:,}", numbers.size(memory)])
    return _table(("base", "task", "method", "trainings", "tokens", "peak memory"), rows)


def accuracies(bases: list[Base], axes: list[Axes]) -> None:
    """Accuracy against rank on each task, every recipe under its own cut."""
    columns = [(base, task) for base in bases for task in base.tasks]
    for ax, (base, task) in zip(axes, columns, strict=True):
        of = View(base.analysis, task, base.names)
        keys = [base.own(group) for group in groups_of(base.study, task)]
        plot(of, ax, keys=keys, legend="inside")
        ax.set_title(f"{base.name}, {TITLES[task]}")


def effects(bases: list[Base], axes: list[Axes]) -> None:
    """For each base a row: AURAC by learning rate, by cut, and by where P is."""
    for at, base in enumerate(bases):
        rate, cut, where = axes[3 * at : 3 * at + 3]
        by_rate(base, rate)
        labels = base.study.labels
        for number, group in enumerate(ORDER[:3]):
            own = ("prefix", "trained" if group == "matryoshka" else "rule")
            heights = [base.best(group, each) for each in (*CUTS, own)]
            look: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number]}
            beside = np.arange(4) + 0.12 * (number - 1)
            cut.plot(beside, heights, linestyle="", label=labels[group], **look)
        cut.set_xticks(
            range(4), ["SVD", "SVD,\nfitted", "prefix,\nfitted", "prefix, own\nscale or P"]
        )
        cut.legend()
        ways = {
            "neither": ("lora", "rule"),
            "training": ("published", "rule"),
            "training\nand inference": ("matryoshka", "trained"),
        }
        heights = [base.best(group, ("prefix", rescale)) for group, rescale in ways.values()]
        where.plot(range(3), heights, "o", color=COLOURS[3])
        where.set_xticks(range(3), list(ways))
        where.set_xlabel("P is in")
        for ax in (rate, cut, where):
            ax.set_ylabel("AURAC (%)")
            ax.set_title(base.name)


def by_rate(base: Base, ax: Axes) -> None:
    """AURAC against the learning rates that every task has, each recipe under its own cut."""
    rates = set[float]()
    for group, won in base.trials.winners.items():
        if len(won.trials) < len(base.tasks):
            continue
        tried = [
            {p["learning_rate"]: s[won.cut] for p, s in trials if "learning_rate" in p and s}
            for trials in won.trials.values()
        ]
        xs = sorted(set.intersection(*map(set, tried)))
        number = ORDER.index(group)
        look: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number]}
        values = [100 * np.mean([scores[x] for scores in tried]) for x in xs]
        ax.plot(xs, values, label=base.study.labels[group], **look)
        rates |= set(xs)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(rates), [f"{rate:g}" for rate in sorted(rates)])
    ax.set_xlabel("Learning rate")
    ax.legend()


def _save(
    draw: Callable[[list[Base], list[Axes]], None],
    bases: list[Base],
    name: str,
    columns: int,
    rows: int,
) -> None:
    with styled():
        figure = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
        draw(bases, list(figure.subplots(rows, columns, squeeze=False).flat))
        folder = STUDY.with_name("figures")
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})


def _interval(record: Record, name: str) -> str:
    return numbers.interval(record[name], record["low"], record["high"])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    columns = map(list, zip(*rows, strict=True))
    return render_table(dict(zip(heads, columns, strict=True)), "markdown")


if __name__ == "__main__":
    main()
