"""The sentences of a screen and a report, each made from rows of the frames of an analysis."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from aurac.curves.display import counted, size
from aurac.show.numbers import confidence, interval, known, points, rows_of, upper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pandas import DataFrame

    from aurac.analysis import Row

LEVEL: Final = 0.95  # of the one-sided tests of a recommendation


def sentence_of_recommendation(
    row: Any, *, name: str = "", full: float | None = None, slots: tuple[Any, Any] = (None, None)
) -> str:
    """Which rank to ship, of one row of `Analysis.recommended`.

    Args:
        row: The row, as `DataFrame.itertuples` gives it.
        name: Of the adapter, where there are several.
        full: Bytes of the adapter at its trained rank.
        slots: Bytes of a vLLM slot at the recommended and at the trained rank.
    """
    of, sure, reference = name and f"{name} at ", confidence(LEVEL), f"rank {row.reference}"
    if not known(row.rank):
        nothing = f"Ship no rank of {name}" if name else "Ship no rank"
        return f"{nothing}: {reference} is not shown to be above the base ({sure} confidence)."
    if row.rank == row.reference:
        return (
            f"Ship {of}{reference}: no smaller rank is shown to lose at most "
            f"{points(row.margin)} ({sure} confidence)."
        )
    sizes = f"{size(row.bytes)} instead of {size(full)}; it" if known(row.bytes) and full else "it"
    lost = f"at most {upper(row.bound)} points against" if row.bound > 0 else "nothing against"
    text = f"Ship {of}rank {row.rank}: {sizes} loses {lost} {reference} ({sure} confidence)."
    if not all(map(known, slots)):
        return text
    saved = f"{size(slots[0])} for it instead of {size(slots[1])}"
    none = f"as much for it as for {reference}"
    return f"{text} A vLLM server sets aside {saved if slots[0] < slots[1] else none}."


def sentence_of_examples(examples: int, margin: float, needed: int) -> str:
    """How many examples a margin needs, where no loss can be shown to be below it."""
    if examples >= needed:
        return ""
    return (
        f"With {counted(examples, 'example')} no loss can be shown to be at most "
        f"{points(margin)}; that needs {needed:,} or more."
    )


def truncate_command(row: Row, checkpoint: str, name: str, rank: int) -> str:
    """The command that makes what is recommended of an adapter with one training seed."""
    words = ["aurac", "truncate", checkpoint, "--rank", str(rank)]
    if name != row.adapter and row.basis and row.rescale:  # not the default cut
        words += ["--basis", row.basis, "--rescale", row.rescale]
    folder = checkpoint.rstrip("/").rpartition("/")[2].partition("@")[0]
    return shlex.join([*words, "--out", f"{folder}_r{rank}"])


def sentence_of_pairs(pairs: DataFrame, level: float, leader: str, *, seeds: int = 1) -> str:
    """What the differences of one table show, of the rows of `Analysis.pairs`.

    Args:
        pairs: The rows of one task.
        level: Confidence of the table, such as .95.
        leader: The adapter with the largest AURAC.
        seeds: Training seeds of each adapter; of several the sentence is about methods.
    """
    rows = [row for row in rows_of(pairs) if known(row.p) and row.a == leader]
    if not rows:
        return ""
    better = [row for row in rows if row.p < 1 - level]
    equal = [row for row in rows if row.p >= 1 - level]
    text = f"Of these {'methods' if seeds > 1 else 'checkpoints'} {leader} has the largest AURAC"
    if better:
        text += f" and is better than {_over(better)}"
    if equal:
        lead = "the lead" if len(equal) == 1 else "its leads"
        text += f"; {lead} over {_over(equal)} {_are(equal)} not significant"
    return f"{text}."


def _over(rows: Sequence[Any]) -> str:
    """The losers of some differences; of a single one with its size."""
    names = listed([row.b for row in rows])
    if len(rows) > 1:
        return names
    row = rows[0]
    return f"{names} ({interval(row.difference, row.low, row.high).replace(' [', ' points [')})"


def sentence_against_reference(pairs: DataFrame, level: float, reference: str) -> str:
    """Which adapters are better or worse than the one that all are compared with."""
    rows = [row for row in rows_of(pairs) if known(row.p)]
    better = [row.a for row in rows if row.p < 1 - level and row.b == reference]
    worse = [row.b for row in rows if row.p < 1 - level and row.a == reference]
    both = [(better, "better"), (worse, "worse")]
    parts = [f"{listed(names)} {_are(names)} {how}" for names, how in both if names]
    found = ", and ".join(parts) or "no difference is significant"
    return f"Compared with {reference}, {found}." if rows else ""


def caption_of_pairs(pairs: DataFrame, level: float, shown: int) -> str:
    """What the intervals and p values of the first `shown` rows of differences allow for."""
    text = "Differences of AURAC in points, the better one first"
    if shown < len(pairs):
        text += f" (those of the first adapter; all {len(pairs)} are in pairs.csv)"
    rows = [row for row in rows_of(pairs) if known(row.p)]
    if not rows:
        return f"{text}."
    over = "examples and seeds" if max(row.seeds for row in rows) > 1 else "examples"
    number = int(rows[0].comparisons)
    allowed = f"; intervals ({confidence(level)}) and p hold for all {number} together (Bonferroni)"
    return f"{text}, over {over}{allowed if number > 1 else f'; {confidence(level)} intervals'}."


def _are(names: Sequence[Any]) -> str:
    return "is" if len(names) == 1 else "are"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names as "a, b (prefix) and c"; of many the first and how many more."""
    shown = [f"{a} ({cut})" if cut else a for a, _, cut in (n.partition(", ") for n in names)]
    if len(shown) > most + 1:
        return f"{', '.join(shown[:most])} and {len(shown) - most} others"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
