"""One base of the study of small ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import asdict

from aurac.curves.checks import MEAN
from aurac.show.views import names_of
from aurac.study.design import groups_of, tasks_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from aurac.analysis import Analysis
    from aurac.curves.question import Key
    from aurac.study.report import Reported
    from aurac.study.search import Trials

Record = dict[str, Any]
TITLES = {
    "aurac_word_problems": "word problems",
    "mawps": "MAWPS",
    "smollm2": "SmolLM2-135M",
    "gemma": "Gemma-3-270M",
}
RANKS = (1, 2, 4, 8, 16)  # of study.yaml
SVD = ("svd", "keep")
CUTS = {
    SVD: "SVD",
    ("svd", "fit"): "SVD, fitted scale",
    ("prefix", "fit"): "prefix, fitted scale",
}
OTHER_CUTS = {
    "matryoshka": "prefix with P",
    "matryoshka_prefix": "prefix with P",
    "published": "prefix without P",
    "lora_per_rank": "trained at each rank",
    "squeeze": "trained on at each rank",
}


class Base:
    """A base whose declared comparisons are done: its searches and its report."""

    def __init__(self, trials: Trials, done: Reported, left: Collection[str]) -> None:
        self.trials, self.analysis, self.primary = trials, done.analysis, done.primary
        self.run, self.study, self.name = done.run, trials.work.study, TITLES[trials.part.alias]
        self.tasks = list(tasks_of(self.study, trials.part))
        labels = self.study.labels
        self.whole = {group for group in groups_of(self.study) if labels[group] not in left}
        rows = [row for row in done.analysis.rows if row.key.adapter in self.whole]
        self.rows = {(row.task, row.key): row for row in rows}
        self.keys = list(dict.fromkeys(row.key for row in rows))
        self.declared = done.primary.question.pairs if done.primary else ()
        known = {key.adapter for key in self.keys}
        self.names = names_of(done.analysis, {n: x for n, x in labels.items() if n in known})

    def groups(self, task: str) -> list[str]:
        """The recipes of a task that are done."""
        return [group for group in groups_of(self.study, task) if group in self.whole]

    def scores(self, task: str) -> dict[Key, Record]:
        """The records of a task."""
        return {r.key: asdict(r) for r in self.analysis.tables.scores if r.task == task}

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

    def words(self, a: Key, b: Key) -> str:
        """A difference of two rows."""
        return f"{self.label(a)} − {self.label(b)}"

    def label(self, key: Key) -> str:
        """A recipe and its cut."""
        return f"{self.study.labels[key.adapter]} ({self.cut(key)})"

    def cut(self, key: Key) -> str:
        """A cut in words."""
        other = OTHER_CUTS.get(key.adapter, "prefix, own scale")
        return CUTS.get((str(key.basis), str(key.rescale)), other)


def difference(analysis: Analysis | None, task: str, a: Key, b: Key) -> Record:
    """AURAC of a minus that of b with its interval, and p; None where they were not compared."""
    for pair in analysis.tables.pairs if analysis else ():
        if (pair.task, pair.a, pair.b) == (task, a, b):
            return asdict(pair)
        if (pair.task, pair.a, pair.b) == (task, b, a):
            ends = {"low": pair.high and -pair.high, "high": pair.low and -pair.low}
            return asdict(pair) | ends | {"difference": -pair.difference}
    return dict.fromkeys(("difference", "low", "high", "p"))
