"""The closing table of the command line; plain text wherever the output is no terminal."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from aurac.curves.display import CurveLine, curve_table
from aurac.show.escape import one_line
from aurac.show.model import Run, as_published, as_run, ordered

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.console import Group

    from aurac.records.schema import Results

_MAX_ROWS = 40


def terminal_table(
    results: Results, width: int | None = None, best: Collection[tuple[str | None, str]] = ()
) -> Group:
    """The AURAC of every curve, with the accuracy at each rank where there is room.

    Args:
        results: Of a run.
        width: Characters in a line: by default the terminal's, 80 without one.
        best: Task and name (`Analysis.candidates`) of the curves that are set in bold.
    """
    run = as_run(results)
    width = width or shutil.get_terminal_size((80, 24)).columns
    rows = [curve for task in run.task_names for curve in ordered(run.of_task(task))]
    lines = [
        CurveLine(
            task=one_line(curve.task),
            adapter=one_line(curve.adapter),
            truncation=one_line(f"{curve.basis}/{curve.rescale}{'*' if curve.published else ''}"),
            accuracy={
                **({} if curve.baseline is None else {0: curve.baseline}),
                **dict(zip(curve.ranks, curve.accuracy, strict=True)),
            },
            area=curve.log2,
            bold=(curve.task, curve.name) in best,
        )
        for curve in rows[:_MAX_ROWS]
    ]
    title = "Accuracy and AURAC in percent, largest AURAC first"
    return curve_table(lines, width, title=title, caption=_caption(run, len(rows) - len(lines)))


def _caption(run: Run, left: int) -> str:
    metrics = ", ".join(dict.fromkeys(one_line(curve.metric) for curve in run.curves))
    counts = sorted({curve.n_docs for curve in run.curves if curve.n_docs})
    documents = "–".join(str(n) for n in dict.fromkeys([counts[0], counts[-1]])) if counts else "?"
    # A group's cells are its members'.
    groups = {task.name for task in run.tasks if task.members}
    holes = {(c.id, c.task, r) for c in run.curves if c.task not in groups for r in c.missing}
    missing = len(holes) + len({failure.task for failure in run.failures if failure.rank == 0})
    parts = [f"metric {metrics}", f"{documents} documents"]
    published = as_published(run.curves)
    parts += [f"* {published}"] if published else []
    parts += [f"{missing} cells missing"] if missing else []
    parts += [f"{left} more rows in table.csv"] if left > 0 else []
    return "; ".join(parts)
