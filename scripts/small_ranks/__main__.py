"""Writes `reports/small_ranks/README.md` from what the study stores, with its reports and figures.

python -m scripts.small_ranks
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from aurac.show.charts import styled
from aurac.study import Work, load_study
from aurac.study.report import report
from aurac.study.search import Survey, survey
from scripts.small_ranks import figures, tables
from scripts.small_ranks.base import TITLES, Base

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from aurac.study.design import Part

HERE = Path(__file__).parent
STUDY = HERE.parents[1] / "reports/small_ranks/study.yaml"
HEADS = ("base", "task", "method", "trials", "adapters")
OPEN = "**Not answered yet:** nothing is concluded from what is there.\n"


def main() -> None:
    """Write the page, and the reports and figures of the bases that are done."""
    work = Work(load_study(STUDY), STUDY.parent)
    every = [(part, survey(work, part)) for part in work.study.parts]
    counted = [there(work, part, found) for part, found in every]
    pairs = [pair for part in work.study.parts for pair in part.primary]
    declared = {work.study.labels[key.adapter] for pair in pairs for key in pair}
    bases = [
        Base(work.study, part, found, done, left={row[2] for row in rows if not _whole(row)})
        for (part, found), rows in zip(every, counted, strict=True)
        if all(_whole(row) for row in rows if row[2] in declared) and (done := report(work, part))
    ]
    rows = [row for each in counted for row in each]
    found = results(bases, work) if bases else ""
    said = tables.answer(bases[0], (HERE / "answer.md").read_text("utf-8")) if bases else OPEN
    page = (HERE / "page.md").read_text(encoding="utf-8")
    text = page.format(answer=said, there=tables.table(HEADS, rows), results=found)
    STUDY.with_name("README.md").write_text(text, encoding="utf-8")


def there(work: Work, part: Part, found: Survey) -> list[list[str]]:
    """Trials and adapters of each recipe and task: how many are there, of how many."""
    rows = []
    for group, plans in part.groups.items():
        for plan in plans:
            mine = [step for step in found.steps if step.adapter.plan == plan]
            names = [TITLES[part.alias], TITLES[plan.task], work.study.labels[group]]
            counts = []
            for where in ("search", "run"):
                states = [step.state for step in mine if step.where == where]
                done = sum(state in ("done", "diverged") for state in states)
                counts.append(f"{done} of {len(states)}" if states else "")
            rows.append([*names, *counts])
    return rows


def _whole(row: list[str]) -> bool:
    return all(len({*cell.split(" of ")}) < 2 for cell in row[3:])


def results(bases: list[Base], work: Work) -> str:
    """The tables, and the figures beside them."""
    _save(figures.accuracies, bases, "accuracy", sum(len(base.tasks) for base in bases), 1)
    _save(figures.effects, bases, "effects", 2, len(bases))
    page = (HERE / "results.md").read_text(encoding="utf-8")
    return page.format(
        primary=tables.primaries(bases),
        count=next(r.comparisons for b in bases if b.primary for r in b.primary.tables.pairs),
        excluded=tables.excluded(bases),
        apart=tables.apart(bases),
        explored=tables.explored(bases),
        at_ranks=tables.at_ranks(bases),
        scores=tables.scores(bases),
        points=tables.points(bases),
        fitted=tables.fitted(bases),
        by_value=tables.by_value(bases),
        costs=tables.costs(work, bases),
        chosen=tables.chosen(bases),
    )


def _save(
    draw: Callable[[list[Base], list[Axes]], None],
    bases: list[Base],
    name: str,
    columns: int,
    rows: int,
) -> None:
    with styled():
        figure = Figure(figsize=(4.2 * columns, 4.8 * rows), layout="constrained")
        draw(bases, list(figure.subplots(rows, columns, squeeze=False).flat))
        folder = STUDY.with_name("figures")
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
