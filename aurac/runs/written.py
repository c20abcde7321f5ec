"""What the models write in the place of references: texts for people, which no number needs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from aurac.backends.backend import Backend
from aurac.curves.metrics import WHOLE
from aurac.errors import CellError
from aurac.records.folder import RunFolder
from aurac.records.lines import Written
from aurac.runs.compute import reason_of
from aurac.runs.plan import PlannedCell
from aurac.runs.progress import Progress

logger = logging.getLogger(__name__)

MOST_TEXTS, FEW_TEXTS = 20, 5  # of a cell at an adapter's trained rank, of another one
Wanted = Sequence[tuple[int, int]]
"""Places of examples, each with the number of its first text that is not what a model writes."""
Ask = Callable[[PlannedCell, Wanted], Written]


def write_instead(
    cells: Sequence[PlannedCell], folder: RunFolder, progress: Progress, ask: Ask
) -> None:
    """Keep what greedy decoding writes for the first wrong ones of a user's own examples.

    A text is generated once. Where that fails, the reason is kept, and the same command tries it
    again.
    """
    for cell in cells:
        lock = folder.take(cell.key) if _wanted(cell, folder) else None
        if lock is None:
            continue
        progress.step(f"generating what {cell.label} writes instead")
        try:
            line = _asked(cell, folder, ask)
            folder.cells.keep(cell.identity, line)
        finally:
            lock.release()
        if line.failed:
            logger.warning("what is written instead could not be generated: %s", line.failed)
            return


def _asked(cell: PlannedCell, folder: RunFolder, ask: Ask) -> Written:
    try:
        with folder.begun(cell.key) as deaths:
            if deaths:
                raise CellError("a process ended while it generated them")
            return ask(cell, _wanted(cell, folder))
    except Exception as error:
        logger.debug("no text of %s", cell.label, exc_info=True)
        return Written(documents=[], texts=[], failed=reason_of(error))


def _wanted(cell: PlannedCell, folder: RunFolder) -> Wanted:
    """What is lacking of a cell that is whole."""
    from aurac.tasks.own_data import OwnData

    stored, keys = folder.cells.scores(cell.key), cell.task.keys
    if not isinstance(cell.task.task, OwnData) or stored.missing(keys):
        return []
    whole = stored.values(f"{WHOLE},none", keys) or []
    most = MOST_TEXTS if cell.cut and cell.rank == cell.cut.adapter.rank else FEW_TEXTS
    wrong = [place for place, score in enumerate(whole) if score < 1][:most]
    left = [place for place in wrong if keys[place] not in stored.written]
    greedy = folder.cells.read(cell.key).greedy(keys) if left else None
    return [(place, greedy[place].index(False)) for place in left] if greedy else []


def written(cell: PlannedCell, wanted: Wanted, backend: Backend) -> Written:
    """The texts of some examples, with the token that ends them where they ended."""
    task = cell.task
    examples = [(task.examples[place].content, number) for place, number in wanted]
    requests, ends, limit = task.task.continuations(examples, backend.longest)
    backend.progress = lambda _count: None
    with backend.lm(cell.cut) as lm:
        texts = lm.generate_until(requests)
        cut_off = backend.unfinished(texts, limit)
    each = zip(texts, ends, cut_off, strict=True)
    shown = [text if unfinished else text + end for text, end, unfinished in each]
    return Written(documents=[task.keys[place] for place, _ in wanted], texts=shown)
