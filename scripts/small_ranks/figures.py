"""The figure of the page: accuracy against rank on each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from aurac.show.charts import COLOURS, MARKERS, styled
from scripts.small_ranks.base import ASKED, TASKS, WAYS, rate
from scripts.small_ranks.claims import EACH, TRAINED, Claim

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scripts.small_ranks.base import Way


def draw(known: Mapping[tuple[str, Way, str], Claim], path: Path) -> None:
    """Every line where it is there, with 95 % intervals, its own scale."""
    with styled():
        figure = Figure(figsize=(8.4, 4.6), layout="constrained")
        for ax, task in zip(figure.subplots(1, 2, sharey=True), TASKS.values(), strict=True):
            for at, (name, text, colour, dashes) in enumerate(ASKED["lines"]):
                every = {int(r): known.get((task, WAYS[name], r)) for r in (*EACH, TRAINED)}
                found = {rank: claim for rank, claim in every.items() if claim}
                if found:
                    value, low, high = 100 * np.array([claim[:3] for claim in found.values()]).T
                    look = {"color": COLOURS[colour], "marker": MARKERS[colour], "ls": dashes}
                    beside = [rank * 1.03 ** (at - 2.5) for rank in found]  # bars lie apart
                    around = [value - low, high - value]
                    label = f"{text}{rate(WAYS[name].recipe)}"
                    ax.errorbar(beside, value, around, label=label, elinewidth=0.8, **look)
            ax.set_xscale("log", base=2)
            ax.set_xticks([*map(int, (*EACH, TRAINED))], [*EACH, TRAINED])
            ax.set_xlabel("Rank")
            ax.set_title(f"{task[0].upper()}{task[1:]}")
        figure.axes[0].set_ylabel("Accuracy (%)")
        named = figure.axes[0].get_legend_handles_labels()
        figure.legend(*named, loc="outside lower center", ncols=2, handlelength=4)
        figure.savefig(path, metadata={"Software": None})
