"""A run that stopped early: what it decided, and the looks at which it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.show.content import Block, Bullets, Section, Text
from aurac.show.model import unequal_documents
from aurac.show.table import NONE, Cell, Table, p_value, share, table
from aurac.show.text import LISTED, to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.records.decisions import DecisionRecord
    from aurac.show.model import Run
    from aurac.show.pictures import Pictures

_MAX_DECISIONS = 60
_MOST_DRAWN = 6
_STOPPED_EARLY = (
    "The documents are a random sample, and the run looked at the differences after each block of "
    "them. The p values and intervals in this section hold although it stopped when it had an "
    "answer. Those of pairs and ranks in the sections below are for a number of documents that was "
    "fixed beforehand, and are too optimistic here."
)
_APART = (
    "{task}: the curves, areas and base lines in the sections below are of {documents} documents, "
    "so those of different adapters are not compared."
)


def stopped(run: Run, pictures: Pictures) -> Section:
    """What a run that stopped early decided, and which numbers below that touches."""
    record, blocks = run.sequential, list[Block]()
    if record is not None:
        drawn = [one for one in record.decisions if one.path][:_MOST_DRAWN]
        lines = [*(one.sentence for one in record.decisions[LISTED:]), *record.notes]
        unequal = ((task, unequal_documents(run.of_task(task))) for task in run.task_names)
        lines += [_APART.format(task=task, documents=count) for task, count in unequal if count]
        blocks = [Text(_STOPPED_EARLY), _table(record.decisions)]
        blocks += [pictures.z_paths(drawn)] if drawn else []
        blocks += [Bullets(tuple(lines))] if lines else []
    return Section("stopped", "Decided early", tuple(blocks))


def _table(decisions: Sequence[DecisionRecord]) -> Table:
    caption = (
        "Differences in points, b - a (of a rank: against the largest). Estimate: median-unbiased "
        "after stopping. Intervals: repeated, valid at every look. p: sequential, adjusted for all "
        "questions (Holm)."
    )
    numeric = ("documents", "look", "z", "boundary", "estimate", "interval", "p")
    rows = []
    for one in decisions[:_MAX_DECISIONS]:
        who = f"{one.b} - {one.a}" if one.b else one.a
        who += f", rank {one.rank}" if one.rank else ""
        value = one.mean if one.estimate is None else one.estimate
        unknown = one.low is None or one.high is None
        rows.append(
            (
                Cell(one.task),
                Cell(who),
                Cell(one.verdict),
                Cell(f"{one.documents:,} of {one.of:,}", one.documents),
                Cell(f"{one.look} of {one.looks}", one.look),
                Cell(NONE if one.z is None else f"{one.z:.2f}".replace("-", "−"), one.z),
                Cell(NONE if one.boundary is None else f"{one.boundary:.2f}", one.boundary),
                share(value),
                Cell(NONE if unknown else to(one.low, one.high)),
                p_value(one.p_adjusted),
            )
        )
    return table("decisions", caption, rows, "task", "question", "verdict", numeric=numeric)
