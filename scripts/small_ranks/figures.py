"""The figures of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.show.charts import looks, plot
from aurac.show.views import View, names_of
from scripts.small_ranks.base import CUTS, TITLES, Base

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THREE = ("lora", "dylora", "matryoshka")


def accuracies(bases: list[Base], axes: list[Axes]) -> None:
    """Accuracy against rank on each task, every recipe under its own cut."""
    columns = [(base, task) for base in bases for task in base.tasks]
    for ax, (base, task) in zip(axes, columns, strict=True):
        keys = [base.own(group) for group in base.groups(task)]
        labels = {key.adapter: base.label(key) for key in keys}
        of = View(base.analysis, task, names_of(base.analysis, labels))
        _below(plot(of, ax, keys=keys, legend="inside"))
        ax.set_title(f"{base.name}, {TITLES[task]}")


def effects(bases: list[Base], axes: list[Axes]) -> None:
    """For each base a row, of its search: AURAC by learning rate and by cut."""
    for at, base in enumerate(bases):
        rate, cut = axes[2 * at : 2 * at + 2]
        by_rate(base, rate)
        labels = base.study.labels
        for number, group in enumerate(THREE):
            own = ("prefix", "trained" if group == "matryoshka" else "rule")
            heights = [base.best(group, each) for each in (*CUTS, own)]
            beside = np.arange(4) + 0.12 * (number - 1)
            look = _look(base, group) | {"linestyle": ""}
            cut.plot(beside, heights, label=labels[group], **look)
        cut.set_xticks(
            range(4), ["SVD", "SVD,\nfitted", "prefix,\nfitted", "prefix, own\nscale or P"]
        )
        cut.legend()
        for ax in (rate, cut):
            ax.set_ylabel("AURAC (%)")
            ax.set_title(base.name)


def by_rate(base: Base, ax: Axes) -> None:
    """AURAC against the learning rates that every task has, each recipe under its own cut."""
    rates = set[float]()
    for group, won in base.trials.winners.items():
        if group not in base.whole or len(won.trials) < len(base.tasks):
            continue
        tried = [
            {x["learning_rate"]: s[won.cut] for x, s, _ in trials if "learning_rate" in x and s}
            for trials in won.trials.values()
        ]
        xs = sorted(set.intersection(*map(set, tried)))
        values = [100 * np.mean([scores[x] for scores in tried]) for x in xs]
        ax.plot(xs, values, label=base.study.labels[group], **_look(base, group))
        rates |= set(xs)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(rates), [f"{rate:g}" for rate in sorted(rates)])
    ax.set_xlabel("Learning rate")
    ax.legend()
    _below(ax)


def _look(base: Base, group: str) -> dict[str, Any]:
    """As in the figure of accuracies."""
    own = base.own(group)
    return looks(View(base.analysis, base.tasks[0], base.names), [own])[own]


def _below(ax: Axes) -> None:
    """The legend below the axes, where no line runs through it."""
    if legend := ax.get_legend():
        legend.set_loc("upper center")
        legend.set_bbox_to_anchor((0.5, -0.2), ax.transAxes)
