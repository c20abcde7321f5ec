"""The figure of the page: accuracy against rank on each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from aurac.show.charts import COLOURS, MARKERS, styled
from scripts.small_ranks.claims import RANKS, TRAINED, WAYS, Claim

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scripts.small_ranks.base import Way

LINES = {  # way → its name, its colour and whether it is dashed, as a prefix is
    "lora": ("LoRA by SVD", 0, "-"),
    "nested": ("MatryoshkaLoRA by SVD", 2, "-"),
    "each": ("LoRA trained at the rank", 3, "-"),
    "lora prefix": ("LoRA by prefix", 0, "--"),
    "with P": ("MatryoshkaLoRA by prefix, with P", 2, "--"),
    "eight": ("DyLoRA by prefix, eight draws", 1, "--"),
}


def draw(known: Mapping[tuple[str, Way, str], Claim], path: Path) -> None:
    """Every line where it is there, with 95 % intervals, its own scale."""
    with styled():
        figure = Figure(figsize=(8.4, 4.6), layout="constrained")
        panels = zip(figure.subplots(1, 2, sharey=True), ("word problems", "MAWPS"), strict=True)
        for ax, task in panels:
            for at, (name, (text, colour, dashes)) in enumerate(LINES.items()):
                found = {
                    rank: claim
                    for rank in (*RANKS, TRAINED)
                    if (claim := known.get((task, WAYS[name], str(rank))))
                }
                if found:
                    values = 100 * np.array([[c.value, c.low, c.high] for c in found.values()])
                    value, low, high = values.T
                    look = {"color": COLOURS[colour], "marker": MARKERS[colour], "ls": dashes}
                    around = [value - low, high - value]
                    beside = [rank * 1.03 ** (at - 2.5) for rank in found]  # bars lie apart
                    ax.errorbar(beside, value, around, label=text, elinewidth=0.8, **look)
            ax.set_xscale("log", base=2)
            ax.set_xticks((*RANKS, TRAINED), [*map(str, (*RANKS, TRAINED))])
            ax.set_xlabel("Rank")
            ax.set_title(f"{task[0].upper()}{task[1:]}")
        figure.axes[0].set_ylabel("Accuracy (%)")
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3)
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, metadata={"Software": None})
