"""Writes `reports/study/README.md` from the stored cells of the two studies, and their reports.

python -m scripts.study_page
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from aurac.study import load_study, write_study

if TYPE_CHECKING:
    from aurac.analysis import Analysis

REPORTS = Path(__file__).parents[1] / "reports"
MEAN = "mean over tasks"
TITLES = {
    MEAN: "mean",
    "aurac_word_problems": "word problems",
    "mawps": "MAWPS",
    "arc_easy": "ARC-Easy",
}
FIGURE = "figures/rank-accuracy-aurac_word_problems.png"

PAGE = """# Is an adapter that is trained as a hierarchy better than LoRA?

**No, when LoRA is cut by SVD.** On the mean of three tasks LoRA cut by SVD is {lora_matryoshka}
points of AURAC better than MatryoshkaLoRA (p = {p:.3f}), {lora_dylora} better than DyLoRA, and
{lora_prefix} better than itself cut by prefix (its first r components). MatryoshkaLoRA and LoRA
by prefix do not differ significantly ({matryoshka_prefix}). How an adapter is cut matters more
than how it is trained: MatryoshkaLoRA without P, as published, is {without} points worse than
with the P that it is trained with.

AURAC is the area under accuracy against log2 rank, in percent. Differences have 95 % intervals,
adjusted for the {count} comparisons of their table. One small base model ({base}), 120 training
steps, five seeds; [after 360 steps](#longer-training-word-problems-after-120-and-360-steps) LoRA
by SVD leads MatryoshkaLoRA by {longer} points.

{scores}

AURAC in percent with 95 % intervals over examples and training seeds (five; three of LoRA at each
rank, nested losses and DyLoRA 360 steps).

![Accuracy against rank on the word problems]({figure})

Make it again with `aurac study reports/study/study.yaml --out reports/study`;
[study.yaml](study.yaml) is the design, [report.md](report.md) has the accuracy at every rank.
Learning rates are the best of a grid of factor 2 (seed 42) on validation examples.

## Differences

{pairs}

## Longer training: word problems after 120 and 360 steps

{longer_scores}

{longer_pairs}

## Accuracy at each rank

{points}
"""


def main() -> None:
    """Write both reports and the page."""
    analysis, longer = _analysis("study"), _analysis("longer_training")
    names = _Names(load_study(REPORTS / "study/study.yaml").labels)
    longer_names = _Names(load_study(REPORTS / "longer_training/study.yaml").labels)
    pairs = analysis.pairs[analysis.pairs["task"] == MEAN].set_index(["a", "b"])

    def points(a: str, b: str) -> str:
        return _interval(pairs.loc[(a, b)], "difference")

    leading = pairs.loc[("lora", "matryoshka")]
    after = longer.pairs.set_index(["a", "b"]).loc[("lora_long", "matryoshka_long")]
    text = PAGE.format(
        lora_matryoshka=points("lora", "matryoshka"),
        p=leading["p"],
        lora_dylora=points("lora", "dylora"),
        lora_prefix=points("lora", "lora, prefix"),
        matryoshka_prefix=points("matryoshka", "lora, prefix"),
        without=points("matryoshka", "matryoshka, without P"),
        count=leading["comparisons"],
        base="SmolLM2-135M-Instruct",
        longer=_interval(after, "difference"),
        scores=_scores(analysis, names),
        figure=FIGURE,
        pairs="\n\n".join(_pairs(analysis, task, names) for task in TITLES),
        longer_scores=_scores(longer, longer_names),
        longer_pairs=_pairs(longer, "aurac_word_problems", longer_names),
        points="\n\n".join(_points(analysis, task, names) for task in list(TITLES)[1:]),
    )
    (REPORTS / "study/README.md").write_text(text, encoding="utf-8")


def _analysis(name: str) -> Analysis:
    folder = REPORTS / name
    file = folder / "study.yaml"
    return write_study(load_study(file), file, folder)[1]


class _Names:
    """Row of an analysis → what the page calls it."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels

    def __call__(self, row: str) -> str:
        name, _, cut = row.partition(", ")
        return ", ".join(part for part in (self.labels[name], cut.replace(" · ", ", ")) if part)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}".replace("-", "−")


def _interval(row: Any, name: str) -> str:
    return f"{_percent(row[name])} [{_percent(row['low'])}, {_percent(row['high'])}]"


def _scores(analysis: Analysis, names: _Names) -> str:
    """A row for each adapter and cut, a column for each task."""
    scores = analysis.scores
    cells = scores.assign(shown=[_interval(row, "aurac") for _, row in scores.iterrows()])
    table = cells.pivot_table(
        index="adapter", columns="task", values="shown", aggfunc="first", sort=False
    )
    table = table[[task for task in TITLES if task in table]].rename(columns=TITLES).fillna("")
    table.index = [names(row) for row in table.index]
    table.index.name = "method"
    return _markdown(table.reset_index())


def _pairs(analysis: Analysis, task: str, names: _Names) -> str:
    pairs = analysis.pairs[analysis.pairs["task"] == task]
    rows = [
        {
            f"{TITLES[task]}, difference": f"{names(row['a'])} − {names(row['b'])}",
            "points [95 %]": _interval(row, "difference"),
            "p": "< .001" if row["p"] < 0.001 else f"{row['p']:.3f}",
        }
        for _, row in pairs.iterrows()
    ]
    return _markdown(pd.DataFrame(rows))


def _points(analysis: Analysis, task: str, names: _Names) -> str:
    points = analysis.points[analysis.points["task"] == task]
    cells = points.assign(shown=[_interval(row, "accuracy") for _, row in points.iterrows()])
    table = cells.pivot_table(
        index="adapter", columns="rank", values="shown", aggfunc="first", sort=False
    )
    table.index = [names(row) for row in table.index]
    table.index.name = f"{TITLES[task]}, rank"
    return _markdown(table.reset_index())


def _markdown(table: pd.DataFrame) -> str:
    return str(table.to_markdown(index=False, disable_numparse=True))


if __name__ == "__main__":
    main()
