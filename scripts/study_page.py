"""Writes `reports/study/README.md` from the stored cells of the two studies, and their reports.

python -m scripts.study_page
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from aurac.analysis import Question, analyse
from aurac.records.run import read_run
from aurac.show import numbers
from aurac.study import load_study, planned, write_study

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

**This study does not settle it.** It compares three methods on three tasks with five training
seeds, and the methods differ in more than their training:

- **Learning rate.** MatryoshkaLoRA was trained on the word problems at 8e-3, where the longer
  training and the zoo chose 4e-3. At 4e-3 LoRA − MatryoshkaLoRA, both cut by SVD, is {both_svd}
  points (one comparison; [longer training](../longer_training/report.md), 120 steps).
- **Cut.** LoRA is cut by SVD on every task, MatryoshkaLoRA on one. A lead in the table below can
  be that of a cut.
- **DyLoRA's draw.** It drew one rank for each optimizer step. The research code of MatryoshkaLoRA
  draws one for each micro-batch, of which a step had two.
- **Without P.** The learning rate of the published inference was not searched.

AURAC is the area under accuracy against log2 rank, in percent. Differences have 95 % intervals,
adjusted for the {count} comparisons of their table.

{scores}

AURAC in percent with 95 % intervals over examples and training seeds (five; three of LoRA at each
rank, nested losses and DyLoRA 360 steps). LoRA is cut by SVD, the others by prefix, where no cut
is named.

![Accuracy against rank on the word problems]({figure})

**Limits.** One small base model (SmolLM2-135M-Instruct), two tasks of short arithmetic, 120
training steps. Learning rates are the best of a grid of factor 2, searched with one seed on
validation examples for LoRA by prefix, DyLoRA and MatryoshkaLoRA with P. The word problems and
the seeds of MAWPS were extended after first results, and LoRA by SVD was not the first comparison
that was planned; the p values do not allow for that.

Make it again with `aurac study reports/study/study.yaml --out reports/study`;
[study.yaml](study.yaml) is the design, [report.md](report.md) and [that of the longer
training](../longer_training/report.md) have every rank and pair.

# Appendix

## Differences

{pairs}

## Word problems after 120 and 360 steps

{longer_scores}

## Accuracy at each rank

{points}
"""


def main() -> None:
    """Write both reports and the page."""
    analysis, longer = _analysis("study"), _analysis("longer_training")
    names = _Names(load_study(REPORTS / "study/study.yaml").labels)
    longer_names = _Names(load_study(REPORTS / "longer_training/study.yaml").labels)
    text = PAGE.format(
        both_svd=_both_svd(),
        count=analysis.pairs[analysis.pairs["task"] == MEAN]["comparisons"].iloc[0],
        scores=_scores(analysis, names),
        figure=FIGURE,
        pairs="\n\n".join(_pairs(analysis, task, names) for task in TITLES),
        longer_scores=_scores(longer, longer_names),
        points="\n\n".join(_points(analysis, task, names) for task in list(TITLES)[1:]),
    )
    (REPORTS / "study/README.md").write_text(text, encoding="utf-8")


def _both_svd() -> str:
    """LoRA − MatryoshkaLoRA at their chosen learning rates, 120 steps, both cut by SVD."""
    file = REPORTS / "longer_training/study.yaml"
    run = read_run(file.parent / "run")
    groups: dict[str, list[str]] = {"lora": [], "matryoshka": []}
    for adapter in planned(load_study(file), file):
        name = adapter.stored(run, None)
        if adapter.group in groups and name:
            groups[adapter.group].append(name)
    names = {name for members in groups.values() for name in members}
    curves = [c for c in run.curves if c.adapter in names and c.basis == "svd"]
    return _interval(analyse(curves, Question(groups=groups)).pairs.iloc[0], "difference")


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


def _interval(row: Any, name: str) -> str:
    return numbers.interval(row[name], row["low"], row["high"])


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
    """The differences of a task."""
    pairs = analysis.pairs[analysis.pairs["task"] == task]
    title = f"{TITLES[task]}, {pairs['comparisons'].iloc[0]} comparisons"
    rows = [
        {
            title: f"{names(row['a'])} − {names(row['b'])}",
            "points [95 %]": _interval(row, "difference"),
            "p": numbers.p_value(row["p"]),
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
