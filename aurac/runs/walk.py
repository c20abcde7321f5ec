"""The order in which one of many processes tries the cells of a plan that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Generator

TRIED_AT_ONCE = 8  # of the cells that others hold
ENTRIES_FOR_A_LOOK = 100  # of a listing, at the cost of a look for one file, on a shared folder
_SHORTEST_PAUSE, _LONGEST_PAUSE, _PAUSE_PER_CELL, _LIMIT = 0.1, 2.0, 0.1, 60.0  # seconds


def pause_after(pause: float | None, held: int) -> float:
    """Seconds to wait where others hold all cells: longer each time, and the more there are.

    As many processes wait, at most, as cells are left, and all ask the same folder.

    Args:
        pause: The last one; None at first.
        held: How many cells are left.
    """
    if pause is None:
        return _SHORTEST_PAUSE
    return min(2 * pause, max(_LONGEST_PAUSE, min(held * _PAUSE_PER_CELL, _LIMIT)))


def leaps(count: int, draw: random.Random) -> Generator[int, bool, None]:
    """Places of a list to try, ascending; send whether the place just given was free.

    After a free place comes the next one. Where another process is at work or was before, its
    neighbours are likely to be others' too: the walk leaps over up to twice as many places each
    time, so that a process finds work among that of M others with about log M looks. What it leapt
    over it finds the next time it walks.

    Args:
        count: Length of the list.
        draw: Chance, a process's own, so that two processes do not leap alike.
    """
    place = reach = 0
    while place < count:
        free = yield place
        reach = 0 if free else 2 * reach + 1
        place += 1 + draw.randint(0, reach)


def after(walk: Generator[int, bool, None], *, free: bool) -> int | None:
    """The place after the one just given; None at the end."""
    try:
        return walk.send(free)
    except StopIteration:
        return None
