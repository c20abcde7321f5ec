"""What a terminal shows of an analysis: which rank of one adapter, or which of several adapters."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from rich.cells import cell_len

from aurac.show import views, wording
from aurac.show.browser import one_answer, written_instead
from aurac.show.tabular import render_table
from aurac.show.views import View
from aurac.terminal import one_line, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aurac.analysis import Analysis
    from aurac.records.run import StoredRun
    from aurac.show.tabular import Columns


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
        details: Also wins and losses, and the mean loss of a token.
    """
    width = width or shutil.get_terminal_size().columns
    tasks = [View(analysis, task) for task in analysis.ranks]
    blocks = [wrapped(f"{wording.measured_with(run)}.", width)] if run else []
    if of := views.mean_view(analysis):
        title = f"Mean over {len(analysis.averaged)} tasks: AURAC in percent"
        lines = [wrapped(title, width), fitted(views.overview_table(of), width)]
        blocks.append("\n".join([*lines, *(wrapped(note, width) for note in wording.apart(of))]))
        blocks += _differences(of, width, details=details)
    for of in tasks:
        blocks += _task(of, run, width, details=details)
        room = max(20, (width - 20) // 2)  # for a text; the number of an example stands before them
        for caption, table in written_instead(of, run, room) if details else ():
            blocks.append(f"{wrapped(caption, width)}\n{fitted(table, width, [*table][1:])}")
    last = [wording.how_to_ask(tasks, run), *wording.other_bases(run), *wording.unwritten(run)]
    last += wording.overlaps(run)
    blocks += [wrapped(line, width) for line in last]
    return "\n\n".join(block for block in blocks if block)


def _task(of: View, run: StoredRun | None, width: int, *, details: bool) -> Iterator[str]:
    """One adapter: which rank to ship; several: which is better, and what of the leader to ship."""
    first, title = of.keys[0], wording.heading(of, metric=details)
    if len(of.keys) == 1:
        columns, title = views.ranks_table(of, first), f"{of.names[first]} on {title}"
    else:
        columns = views.accuracy_table(of)
        title += f"; AURAC over ranks {of.some_ranks}" * bool(of.some_ranks)
    lines = [wrapped(one_line(title), width), fitted(columns, width)]
    yield "\n".join([*lines, *(wrapped(note, width) for note in wording.notes(of, columns))])
    yield from _differences(of, width, details=details)
    for sentence, command in wording.conclusions(of, run):
        yield wrapped(sentence, width) + (f"\n  {command}" if command else "")
    if wording.not_above_base(of):
        yield wrapped(one_answer(of, run), width)
    if details and (losses := views.nats_table(of)):
        yield f"{views.NATS}\n{fitted(losses, width)}"


def _differences(of: View, width: int, *, details: bool) -> Iterator[str]:
    if of.pairs:
        caption = wording.caption_of_pairs(of) + wording.how_to_compare(of)
        table = fitted(views.difference_table(of, counts=details), width)
        yield f"{wrapped(caption, width)}\n{table}"
        yield wrapped(wording.verdict(of), width)


def fitted(columns: Columns, width: int, texts: Sequence[str] = ()) -> str:
    """A table within `width`: long names are cut in the middle, columns go on below.

    The columns named in `texts` are aligned left.
    """
    most = max(12, width // 3)
    first, *heads = shortened(list(columns), most)
    names, *cells = columns.values()
    names = shortened(names, most)
    room = width - max(map(cell_len, [first, *names]))
    blocks: list[Columns] = [{}]
    left = room
    for head, column in zip(heads, cells, strict=True):
        needed = 2 + max(map(cell_len, [head, *column]))
        if blocks[-1] and needed > left:
            blocks.append({})
            left = room
        blocks[-1][head] = column
        left -= needed
    return "\n\n".join(render_table({first: names, **block}, left=texts) for block in blocks)


def shortened(names: list[str], limit: int) -> list[str]:
    """Names cut in the middle to `limit` characters, or to more where two would look alike."""
    for most in range(limit, max(map(len, names), default=0) + 1):
        cut = [one_line(name, most) for name in names]
        if len({*cut}) == len({*names}):
            return cut
    return [one_line(name) for name in names]
