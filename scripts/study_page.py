"""Writes `reports/study/README.md` from the stored cells of the two studies, and their reports.

python -m scripts.study_page
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aurac.analysis import Question, analyse
from aurac.records.run import read_run
from aurac.show import numbers
from aurac.show.tabular import render_table
from aurac.show.views import View, names_of
from aurac.study import Work, load_study, write_study
from aurac.study.design import parts_of, planned
from aurac.study.work import RUN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aurac.analysis import Analysis
    from aurac.analysis.schema import Key, Record

    Names = Mapping[Key, str]

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
    names = names_of(analysis, load_study(REPORTS / "study/study.yaml").labels)
    longer_labels = load_study(REPORTS / "longer_training/study.yaml").labels
    longer_names = names_of(longer, longer_labels)
    text = PAGE.format(
        both_svd=_both_svd(),
        count=next(r["comparisons"] for r in analysis.tables["pairs"] if r["task"] == MEAN),
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
    study = load_study(file)
    work = Work(study, file, file.parent)
    (part,) = parts_of(study)
    for adapter in planned(study, file, part):
        name = adapter.stored(run, work.limit(adapter, RUN))
        if adapter.group in groups and name:
            groups[adapter.group].append(name)
    names = {name for members in groups.values() for name in members}
    curves = [c for c in run.curves if c.adapter in names and c.basis == "svd"]
    return _interval(analyse(curves, Question(groups=groups)).tables["pairs"][0], "difference")


def _analysis(name: str) -> Analysis:
    folder = REPORTS / name
    file = folder / "study.yaml"
    ((_, analysis, *_),) = write_study(Work(load_study(file), file, folder))
    return analysis


def _interval(record: Record, name: str) -> str:
    return numbers.interval(record[name], record["low"], record["high"])


def _scores(analysis: Analysis, names: Names) -> str:
    """A row for each adapter and cut, a column for each task."""
    records = analysis.tables["scores"]
    found = {(r["key"], r["task"]): _interval(r, "aurac") for r in records}
    keys, tasks = dict.fromkeys(r["key"] for r in records), {r["task"] for r in records}
    columns = {
        TITLES[task]: [found.get((key, task), "") for key in keys]
        for task in TITLES
        if task in tasks
    }
    return render_table({"method": [names[key] for key in keys], **columns}, "markdown")


def _pairs(analysis: Analysis, task: str, names: Names) -> str:
    """The differences of a task."""
    records = [r for r in analysis.tables["pairs"] if r["task"] == task]
    title = f"{TITLES[task]}, {records[0]['comparisons']} comparisons"
    columns = {
        title: [f"{names[r['a']]} − {names[r['b']]}" for r in records],
        "points [95 %]": [_interval(r, "difference") for r in records],
        "p": [numbers.p_value(r["p"]) for r in records],
    }
    return render_table(columns, "markdown")


def _points(analysis: Analysis, task: str, names: Names) -> str:
    of = View(analysis, task, names)
    columns = {f"{TITLES[task]}, rank": [names[key] for key in of.keys]}
    for rank in [0, *of.ranks]:
        found = {r["key"]: _interval(r, "accuracy") for r in of.points if r["rank"] == rank}
        columns[str(rank)] = [found.get(key, "") for key in of.keys]
    return render_table(columns, "markdown")


if __name__ == "__main__":
    main()
