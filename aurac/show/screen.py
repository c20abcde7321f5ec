"""What a terminal shows of an analysis: which rank of one adapter, or which of several adapters."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from rich.cells import cell_len

from aurac.analysis.frames import MEAN
from aurac.curves.display import counted
from aurac.show.numbers import known
from aurac.show.tabular import render_table
from aurac.show.views import (
    TaskView,
    accuracy_table,
    difference_table,
    linear_table,
    notes,
    overview_table,
    ranks_table,
    shown_pairs,
    tasks_of,
    view,
    weight_table,
)
from aurac.show.wording import (
    caption_of_pairs,
    sentence_against_reference,
    sentence_of_examples,
    sentence_of_pairs,
    sentence_of_recommendation,
    truncate_command,
)
from aurac.stats.planning import examples_for_margin
from aurac.terminal import one_line, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pandas import DataFrame

    from aurac.analysis import Analysis
    from aurac.records.run import StoredRun


def screen(
    analysis: Analysis,
    run: StoredRun | None = None,
    width: int | None = None,
    *,
    details: bool = False,
) -> str:
    """Tables and sentences of an analysis for a terminal.

    Args:
        analysis: What is shown.
        run: Where its checkpoints are, for the commands.
        width: Characters in a line; by default those of the terminal.
        details: Also AURAC on a linear axis and the weights of the ranks.
    """
    width = width or shutil.get_terminal_size().columns
    every = tasks_of(analysis)
    blocks = [*_mean(analysis, width)] if len(every) > 1 else []
    for task in every:
        of = view(analysis, task)
        shown = _one(of, run, width) if len(of.names) == 1 else _several(of, run, width)
        blocks += [*shown, *(_details(of, width) if details else ())]
    alone = all(len(of.names) == 1 and not of.rolling for of in (view(analysis, t) for t in every))
    if analysis.question.margin is None and alone:
        blocks.append(wrapped(how_to_ask(run), width))
    return "\n\n".join(block for block in blocks if block)


def how_to_ask(run: StoredRun | None) -> str:
    """How a margin is given."""
    command = f"aurac recommend {run.folder} --margin 0.02" if run else "--margin 0.02"
    return f"Which rank to ship: {command} names the smallest that loses at most 2 points."


def _mean(analysis: Analysis, width: int) -> Iterator[str]:
    of = view(analysis, MEAN)
    if len(of.scores) > 1:
        title = f"Mean over {len(analysis.averaged)} tasks: AURAC in percent"
        yield f"{title}\n{fitted(overview_table(analysis), width)}"
        yield from _differences(of, width)


def _one(of: TaskView, run: StoredRun | None, width: int) -> Iterator[str]:
    """One adapter: which rank to ship."""
    name = of.names[0]
    frame = ranks_table(of, name)
    yield _titled(f"{name} on {heading(of, run)}", frame, width)
    yield from (wrapped(text, width) for text in recommended_lines(of, run, name))


def _several(of: TaskView, run: StoredRun | None, width: int) -> Iterator[str]:
    """Several adapters: which is better, and with a margin what to ship of the leader."""
    frame = accuracy_table(of)
    title = heading(of, run)
    if of.ranks != of.shared_ranks and of.shared_ranks and not of.rolling:
        ranks = ", ".join(map(str, of.shared_ranks))
        title += f"; AURAC over the ranks that all have: {ranks}"
    yield _titled(title, frame, width, of.analysis.question.margin)
    yield from _differences(of, width)
    yield from (wrapped(text, width) for text in recommended_lines(of, run, of.names[0]))


def heading(of: TaskView, run: StoredRun | None = None) -> str:
    """The task, what is measured, and on how many examples."""
    values = of.metric if of.rolling else f"accuracy in percent ({of.metric})"
    lower = {task.name for task in run.tasks if not task.higher_is_better} if run else set()
    values += ", lower is better" * (of.task in lower)
    count = f", {counted(of.examples, 'example')}" if of.examples else ""
    return f"{of.task}: {values.replace(' ()', '')}{count}"


def _titled(title: str, frame: DataFrame, width: int, margin: float | None = None) -> str:
    lines = [wrapped(one_line(title), width), fitted(frame, width)]
    return "\n".join([*lines, *(wrapped(note, width) for note in notes(frame, margin))])


def _differences(of: TaskView, width: int) -> Iterator[str]:
    if not len(of.pairs):
        return
    caption = wrapped(caption_of_pairs(of.pairs, of.level, len(shown_pairs(of))), width)
    yield f"{caption}\n{fitted(difference_table(of), width)}"
    yield wrapped(verdict(of), width)


def verdict(of: TaskView) -> str:
    """What the differences between adapters show, in one sentence; nothing where none is known."""
    if (reference := of.analysis.question.reference) is not None:
        return sentence_against_reference(of.pairs, of.level, reference)
    return sentence_of_pairs(of.pairs, of.level, of.names[0], seeds=of.seeds)


def recommended_lines(of: TaskView, run: StoredRun | None, name: str) -> list[str]:
    """What to ship of an adapter, with the command that makes it; nothing without a margin."""
    margin, row = of.analysis.question.margin, of.recommendation(name)
    if margin is None or of.rolling:
        return []
    if row is None:
        return [f"{name}: a recommendation needs the outcome of every example at its trained rank."]
    points = of.of(name).set_index("rank")
    full, slots = points["bytes"].get(row.reference), points["slot"]
    several = name if len(of.names) > 1 else ""
    sentence = sentence_of_recommendation(
        row,
        name=several,
        full=full if known(full) else None,
        slots=(slots.get(row.rank), slots.get(row.reference)),
    )
    needed = examples_for_margin(margin)
    if known(row.rank) and row.rank == row.reference and of.examples and of.examples < needed:
        sentence += f" {sentence_of_examples(of.examples, margin, needed)}"
    command = (
        _command(of, run, name, row.rank) if known(row.rank) and row.rank < row.reference else ""
    )
    return [f"{sentence}\n  {command}" if command else sentence]


def _command(of: TaskView, run: StoredRun | None, name: str, rank: int) -> str:
    """The command that truncates; nothing for several seeds, or where no checkpoint is known."""
    row = of.analysis.rows[of.task, name]
    if run is None or len(row.curves) != 1:
        return ""
    paths = {adapter.name: adapter.path for adapter in run.adapters}
    path = paths.get(row.curves[0].adapter or "")
    return truncate_command(row, path, name, int(rank)) if path else ""


def _details(of: TaskView, width: int) -> Iterator[str]:
    ranks = of.shared_ranks
    if len(ranks) > 1 and len(linear_table(of)):
        yield f"AURAC in percent\n{fitted(linear_table(of), width)}"
        yield f"Weight of each rank in AURAC, in percent\n{fitted(weight_table(ranks), width)}"


def fitted(frame: DataFrame, width: int) -> str:
    """A frame as text within `width`: long names are cut in the middle, columns go on below."""
    most = max(12, width // 3)
    frame = frame.set_axis(shortened(list(frame.columns), most), axis=1)
    first = frame.columns[0]
    names = shortened(list(frame[first]), most)
    frame = frame.assign(**{first: names})
    room = width - max(map(cell_len, [first, *names]))
    blocks: list[list[str]] = [[]]
    left = room
    for column in frame.columns[1:]:
        needed = 2 + max(map(cell_len, [column, *frame[column]]))
        if blocks[-1] and needed > left:
            blocks.append([])
            left = room
        blocks[-1].append(column)
        left -= needed
    return "\n\n".join(render_table(frame[[first, *columns]]) for columns in blocks)


def shortened(names: list[str], limit: int) -> list[str]:
    """Names cut in the middle to `limit` characters, or to more where two would look alike."""
    for most in range(limit, max(map(len, names), default=0) + 1):
        cut = [one_line(name, most) for name in names]
        if len({*cut}) == len({*names}):
            return cut
    return [one_line(name) for name in names]
