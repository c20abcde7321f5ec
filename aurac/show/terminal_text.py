"""What commands print of an analysis: its tables as text, and the sentences beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.analysis.rows import pairings_of
from aurac.analysis.sentences import pairing_note
from aurac.curves.area import axis_title
from aurac.curves.display import interval, percent, points, seconds, size
from aurac.records.serving import against
from aurac.show.table import NONE
from aurac.show.tables import configuration_table
from aurac.show.terminal import aggregate_table, of_one_adapter, pair_table, rank_test_table
from aurac.terminal import terminal_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.analysis.choice_rows import Choice, RankRow
    from aurac.analysis.record import Analysis
    from aurac.analysis.rows import AggregateRow, BestRow, PairRow, ScoreRow
    from aurac.records.decisions import SequentialRecord
    from aurac.records.serving import AdapterCost, ServingCosts, ServingRecord
    from aurac.show.terminal import Extra

FIXED = (
    "p values and intervals of the pairs below are for a number of documents that was fixed "
    "beforehand, and are too optimistic here."
)
WIDE = 120  # columns from which a table has room for words
SHOWN = 60  # rows of a table; --json has all of them


def row_name(row: ScoreRow | RankRow) -> str:
    """The adapter, its truncation where that is not the default one, and the task."""
    return f"{row.label} on {row.task}" if row.task else row.label


def score_lines(rows: Sequence[ScoreRow], *, details: bool) -> list[str]:
    """What to know about each score; with details its method, all axes, and where it falls."""
    lines = []
    for row in rows:
        about = [f"no AURAC, {row.reason}"] if row.reason else []
        about += row.notes
        if weak := [rank for rank, shown in (row.above_base or {}).items() if not shown]:
            ranks = "any rank" if row.below_base else f"rank {', '.join(map(str, weak))}"
            about.append(f"not shown to be above the base at {ranks}")
        if details:
            for name in dict.fromkeys(("log2", "linear", row.axis)):
                area = row.estimate(name)
                if area is not None:
                    about.append(f"{axis_title(name)} {interval(area)} %; {area.method}")
            if row.mean is not None:
                about.append(f"mean over ranks {percent(row.mean)} %")
            about += [f"falls by {points(size)} from rank {r} to {s}" for r, s, size in row.drops]
        lines += [f"{row_name(row)}: {text}" for text in about]
    if not details and any(row.headline and row.headline.low is None for row in rows):
        lines.append("No interval: a point value (no per-document outcomes).")
    return lines


def pair_lines(rows: Sequence[PairRow], title: str, *, details: bool = False) -> list[str]:
    """The table of paired differences in points; with details a sentence on each."""
    if not rows:
        return []
    short = (terminal_width() or WIDE) < WIDE
    every = rows[:SHOWN]
    own = [row for row in every if of_one_adapter(row)] if short else []
    parts = [[row for row in every if row not in own], own]
    tables = [pair_table(part, details=details, short=short).plain() for part in parts if part]
    lines = ["", title, "\n\n".join(tables)]
    if short and any(row.survives is False for row in rows):
        lines.append("* depends on the truncation: --details says of each how it comes out")
    if any(row.conditional for row in rows):
        lines.append("Adapters with one training run: conditional on these checkpoints.")
    # Truncations of one adapter share its seeds, which goes without saying beside other pairs.
    two = [row for row in rows if not of_one_adapter(row)]
    if note := pairing_note(pairings_of(two or rows)):
        lines.append(note)
    if details:
        lines += ["", *(row.sentence for row in rows[:SHOWN])]
    else:
        lines += [row.sentence for row in rows[:SHOWN] if row.value is None]
    if len(rows) > SHOWN:
        lines.append(f"… and {len(rows) - SHOWN} more pairs: see --json")
    return lines


def aggregate_lines(rows: Sequence[AggregateRow], *, details: bool = False) -> list[str]:
    """The aggregates over tasks."""
    return ["", aggregate_table(rows, details=details).plain()] if rows else []


def decided_lines(records: Sequence[SequentialRecord], *, alone: bool = True) -> list[str]:
    """What runs that stopped early decided; not `alone`, above tests that do not hold on them."""
    lines = []
    for record in records:
        lines += ["", "Decided from a random sample of the documents", ""]
        lines += [decision.sentence for decision in record.decisions]
        lines += ["", *record.notes] if record.notes else []
    if lines and not alone:
        lines += ["", FIXED]
    return lines


def best_lines(rows: Sequence[BestRow]) -> list[str]:
    """What may be said of the largest AURAC of each task."""
    return ["", "The largest AURAC", *(" ".join(row.sentences) for row in rows)] if rows else []


def configuration_lines(choice: Choice, *, every: bool) -> list[str]:
    """Sizes and accuracies, and the margin at which each would be shown to be good enough."""
    shown = choice.configurations if every else choice.frontier
    if not shown:
        return []
    title = f"Size against accuracy{f' on {choice.task}' if choice.task else ''}"
    if len(shown) < len(choice.configurations):
        title += ": configurations that no smaller one equals"
    level = f"{100 * (1 - choice.alpha):.3g}"
    note = f"Each margin, in points, is that at which it would be named ({level} % confidence)."
    return [
        title,
        configuration_table(
            shown, choice, accuracy="accuracy [95 %, all together]", digits=2
        ).plain(),
        note,
    ]


def rank_test_lines(row: RankRow) -> list[str]:
    """What was tested of each rank of a curve."""
    if not row.tests:
        return []
    alpha, count = row.choice.alpha, len(row.tests)
    notes = list(dict.fromkeys(test.method for test in row.tests))
    if count > 1:
        each, joint = 100 * (1.0 - alpha), 100 * max(0.0, 1.0 - alpha * count)
        bound = f"each upper bound holds by itself at {each:.3g} %, all {count} at {joint:.3g} %"
        notes.insert(0, bound)
    return ["In points:", rank_test_table(row.tests).plain(), *(f"({note})" for note in notes)]


def serving_sentence(record: ServingRecord, cost: AdapterCost, rank: int) -> str:
    """The time of a token and of a prompt at a rank, against the largest one and merged."""
    own, full = cost.at(rank), cost.full
    if own is None:
        ranks = ", ".join(str(known.rank) for known in cost.ranks)
        return f"What rank {rank} costs to serve was not measured (only {ranks})."
    prefill, decode = record.tokens_per_second(own)
    text = (
        f"Served unmerged ({record.conditions}), rank {rank} takes "
        f"{own.decode.milliseconds} ms a generated token ({decode:.0f} tokens/s) and "
        f"{own.prefill.milliseconds} ms a prompt ({prefill:.0f} tokens/s)"
    )
    if rank != full.rank:
        text += f"; rank {full.rank} takes {full.decode.milliseconds} ms a token "
        text += f"(difference: {against(own, full)})"
    if cost.mergeable:
        text += f". Merged, any rank takes {record.merged.decode.milliseconds} ms a token"
    return f"{text}."


def ship_lines(result: Analysis, served: ServingCosts, *, details: bool) -> list[str]:
    """Of each task what to ship, what it costs to serve, and the trade-off without a demand."""
    lines = []
    for choice in result.choices:
        lines.append(" ".join(choice.sentences))
        chosen = choice.chosen
        measured = served.of(chosen.adapter, chosen.truncation) if chosen else None
        if measured and chosen:
            lines.append(serving_sentence(*measured, chosen.rank))
        if details or not choice.declared:
            lines += ["", *configuration_lines(choice, every=details)]
    return lines


def rank_lines(result: Analysis, *, details: bool) -> list[str]:
    """Of each curve its smallest rank; with details all tests, and truncations compared."""
    lines = []
    if not details:
        said: dict[str, list[str]] = {}  # what is the same of several curves is said once
        for row in result.recommended:
            if not row.other:
                name, _, text = row.sentence.partition(": ")
                said.setdefault(text, []).append(name)
        lines += [f"{', '.join(names)}: {text}" for text, names in said.items()]
    else:
        for row in result.recommended:
            lines += [row.sentence, *rank_test_lines(row), ""]
        title = "Which truncation to use for this adapter, paired"
        lines += pair_lines(result.variants, title, details=True)
        lines += [row.sentence for row in result.pairs if row.survives is not None]
    if result.advice:
        lines += ["", *(row.sentence for row in result.advice)]
    return lines


def rank_columns(result: Analysis, served: ServingCosts) -> Extra:
    """Columns of a table of curves: the smallest rank to use, its accuracy, size and speed."""
    rows = {(row.task, row.label): row for row in result.recommended}
    timed = any(served.of(row.adapter, row.truncation) for row in rows.values())

    def columns(score: ScoreRow) -> dict[str, str]:
        row = rows[score.task, score.label]
        chosen, every = row.choice.chosen, row.choice.configurations
        largest = max((c.rank for c in every), default=0)
        cells = {"use rank": f"{chosen.rank} of {largest}" if chosen else NONE}
        cells["accuracy"] = percent(chosen.accuracy if chosen else None)
        if any(c.bytes for c in every):
            cells["size"] = size(chosen.bytes if chosen else None)
        if any(c.seconds for c in every):
            cells["a document"] = seconds(chosen.seconds if chosen else None)
        if timed:
            cost = served.at(row.adapter, row.truncation, row.rank)
            cells["a token (ms)"] = cost.decode.milliseconds if cost else NONE
        return cells

    return columns
