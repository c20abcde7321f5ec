"""What commands print of an analysis: its tables as text, and the sentences beside them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from aurac.analysis.choice import NO_OUTCOMES
from aurac.analysis.rows import pairings_of
from aurac.analysis.sentences import ALL_ZERO, compared_with, none_enough, pairing_note, up_to
from aurac.curves.area import axis_title
from aurac.curves.display import interval, percent, points, sentence_case, size
from aurac.records.serving import against
from aurac.show.findings import negated, turned
from aurac.show.names import Names
from aurac.show.table import NONE, text_table
from aurac.show.tables import configuration_table
from aurac.show.terminal import aggregate_table, pair_table, rank_test_table
from aurac.terminal import terminal_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.analysis.choice_rows import Choice, Configuration
    from aurac.analysis.record import Analysis
    from aurac.analysis.rows import AggregateRow, BestRow, PairRow, ScoreRow
    from aurac.records.serving import AdapterCost, ServingCosts, ServingRecord
    from aurac.show.table import Table

_TESTS = """upper bound: on the loss of one rank alone, with {level:.3g} % confidence
needed by itself: the margin from which a rank passes, against {against}
{each}anks are tested from the largest down, and each waits for the larger ones to pass. {held}So \
this margin can be larger than the upper bound."""
_EACH = "Against each rank that may be the best by itself, r"
_HELD = "One that is held up may also pass by itself, at a stricter error rate. "
_WAITS = "; equal ones of an adapter: a rank waits for the larger ones to pass"
_NEEDS = (
    "It takes the outcomes of documents: a run folder, or a table with doc_id and score. `aurac "
    "score` prints what is known."
)
MOST = 6  # rows of a trade-off beside a choice
WIDE = 120  # columns from which a table has room for words
SHOWN = 60  # rows of a table; --json has all of them


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
        name = f"{row.label} on {row.task}" if row.task else row.label
        lines += [f"{name}: {text}" for text in about]
    if not details and any(row.headline and row.headline.low is None for row in rows):
        lines.append("No interval: a point value (no per-document outcomes).")
    return lines


def pair_lines(
    pairs: Sequence[PairRow], variants: Sequence[PairRow], title: str, *, details: bool = False
) -> list[str]:
    """The differences of `pairs` of adapters and of `variants` of one; all of each with details."""
    pairs, variants = ([_larger_first(row) for row in each] for each in (pairs, variants))
    rows = [*pairs, *variants]
    if not rows:
        return []
    short = (terminal_width() or WIDE) < WIDE
    lines = ["", title, pair_table(rows[:SHOWN], details=details, short=short).plain()]
    said = ["reading: the better one"] if any(row.verdict for row in rows) else []
    if any(row.survives is False for row in rows):
        place = "below" if details else "aurac score --details"
        said.append(f"§ depends on the truncation: {place}")
    lines += ["; ".join(said)] if short and said else []
    if any(row.detectable or row.too_small for row in rows):
        found = "detectable: points from which the test finds a difference (80 % power)"
        if any(row.too_small for row in rows):
            found = "detectable: points that the test finds (80 % power); –: more than scores allow"
        lines.append(found)
    if any(row.conditional for row in rows):
        lines.append("Adapters with one training run: conditional on these checkpoints.")
    # Truncations of one adapter share its seeds, which goes without saying beside other pairs.
    if note := pairing_note(pairings_of(pairs or variants)):
        lines.append(note)
    if details:
        lines += ["", *(row.sentence for row in rows[:SHOWN])]
    else:
        lines += [row.sentence for row in rows[:SHOWN] if row.value is None]
    if len(rows) > SHOWN:
        lines.append(f"… and {len(rows) - SHOWN} more pairs: see --json")
    return lines


def zero_lines(scores: Sequence[ScoreRow]) -> list[str]:
    """The tasks on which no answer is right, which says more of these."""
    right: dict[str | None, bool] = {}
    for row in scores:
        right[row.task] = right.get(row.task, False) or any(row.accuracy)
    every = (f" on {task}" if task else "" for task, known in right.items() if not known)
    return [f"{sentence_case(ALL_ZERO.format(on))}." for on in every]


def shared_lines(
    scores: Sequence[ScoreRow], pairs: Sequence[PairRow], aggregates: Sequence[AggregateRow]
) -> list[str]:
    """The ranks of differences that are over fewer than a score of the two, `--support common`."""
    own = {(row.task, row.label): row.ranks for row in scores}
    rows = [
        row
        for row in map(_larger_first, pairs[:SHOWN])
        if row.value is not None
        and row.ranks
        and {own.get((row.task, name), row.ranks) for name in (row.a, row.b)} != {row.ranks}
    ]
    lines = [
        f"{row.b} − {row.a}{f' on {row.task}' if row.task else ''}: over ranks "
        f"{', '.join(map(str, row.ranks))}, which both have; scores are over all ranks."
        for row in rows
    ]
    fewer = {frozenset((row.a, row.b)) for row in rows}
    for row in _aggregates_larger_first(aggregates, pairs):
        if row.b is not None and row.estimate and frozenset((row.a, row.b)) in fewer:
            where = "over the ranks that both have on each task"
            lines.append(f"{row.b} − {row.a}, all tasks: {where}; scores are over all ranks.")
    return lines


def larger_first(result: Analysis) -> Analysis:
    """The analysis with the larger AURAC of each pair before the minus, in its sentence, too."""
    pairs, variants = (tuple(map(_larger_first, each)) for each in (result.pairs, result.variants))
    return replace(result, pairs=pairs, variants=variants)


def _larger_first(row: PairRow) -> PairRow:
    """The pair with the larger AURAC before the minus, unless comparisons were declared."""
    if row.exploratory is not None or (row.value or 0.0) >= 0.0:
        return row
    if row.estimate is None:
        return replace(row, a=row.b, b=row.a, value=-(row.value or 0.0))
    return turned(row)


def _aggregates_larger_first(
    rows: Sequence[AggregateRow], pairs: Sequence[PairRow]
) -> list[AggregateRow]:
    """Differences over tasks as `_larger_first` has those of each task."""
    declared = any(row.exploratory is not None for row in pairs)
    return [
        row
        if row.b is None or row.estimate is None or row.estimate.value >= 0.0 or declared
        else replace(row, a=row.b, b=row.a, estimate=negated(row.estimate))
        for row in rows
    ]


def aggregate_lines(
    rows: Sequence[AggregateRow], pairs: Sequence[PairRow], *, details: bool = False
) -> list[str]:
    """The aggregates over tasks, in the direction of the `pairs` of each task."""
    turned = _aggregates_larger_first(rows, pairs)
    return ["", aggregate_table(turned, details=details).plain()] if rows else []


def best_lines(rows: Sequence[BestRow], *, declared: bool) -> list[str]:
    """What may be said of the largest AURAC of each task; `declared`: comparisons were."""
    lines = ["", "The largest AURAC", *(" ".join(row.sentences) for row in rows)] if rows else []
    if not declared and any(row.untested and row.within is not None for row in rows):
        lines.append("--primary adds a pair, such as one of other truncations.")
    return lines


def configuration_lines(choice: Choice, names: Names, *, every: bool) -> list[str]:
    """Sizes and accuracies, and the margin at which each would be shown to be good enough."""
    shown = choice.configurations if every else _trade_off(choice)
    if not shown:
        return []
    why, led = none_enough(choice, shown), choice.margin is not None and choice.needed is None
    if led and choice.min_accuracy is not None:
        choice = replace(choice, margin=None)  # a column with no number
    measure = "Size" if any(row.bytes for row in shown) else "Rank"
    title = f"{measure} against accuracy{f' on {choice.task}' if choice.task else ''}"
    level, head = f"{100 * (1 - choice.alpha):.3g}", "accuracy [95 %, all rows together]"
    made = configuration_table(shown, choice, called=names.called, accuracy=head)
    if not every:
        alike = any(b.accuracy <= a.accuracy for a, b in pairwise(shown))
        margins = choice.margin is not None or choice.min_accuracy is None
        both = f" in accuracy and {'margin' if margins else 'what is shown'}"
        title += f": rows that no smaller one matches{both if alike else ''}"
    lines = ["", title]
    lines.append(made.filled().plain())
    needs_margin = choice.margin is not None or choice.min_accuracy is None
    if choice.min_accuracy is not None:
        said = f"at least: shown with {level} % confidence, the choice among rows included"
        reached = [(row.label, row.least) for row in shown]
        lines.append(said + _WAITS * (len({*reached}) < len(reached)))
    if needs_margin:
        best = compared_with(choice)
        best = best if choice.reference else best.replace("best", "true best")
        said = f"margin needed: points lost against {best}, rounded up ({level} % confidence)"
        known = [(row.label, row.needed) for row in shown if row.needed is not None]
        lines.append(said + _WAITS * (len({*known}) < len(known)))
        lines += [why] if why and (choice.few_seeds or not led) else []
    if why and choice.baseline is not None:
        lines.append("above the base: each row by itself")
    return lines


def _trade_off(choice: Choice) -> Sequence[Configuration]:
    """The frontier and what is chosen, the smallest first; of many those beside it."""
    chosen = choice.chosen
    rows = [c for c in choice.configurations if c is chosen or c in choice.frontier]
    at = rows.index(chosen) if chosen else len(rows)
    first = max(0, min(at - MOST // 2, len(rows) - MOST))
    return rows[first : first + MOST]


def serving_sentence(record: ServingRecord, cost: AdapterCost, rank: int) -> str:
    """The time of a token and of a prompt at a rank, against the largest one and merged."""
    own, full = cost.at(rank), cost.full
    if own is None:
        ranks = ", ".join(str(known.rank) for known in cost.ranks)
        return f"What rank {rank} costs to serve was not measured (only {ranks})."
    prefill, decode = record.tokens_per_second(own)
    text = (
        f"Served unmerged ({record.conditions}), rank {rank} takes "
        f"{own.decode.milliseconds} ms a generated token ({decode:.1f} tokens/s) and "
        f"{own.prefill.milliseconds} ms a prompt ({prefill:.0f} tokens/s)"
    )
    if rank != full.rank:
        text += f"; rank {full.rank} takes {full.decode.milliseconds} ms a token "
        text += f"(difference: {against(own, full)})"
    return f"{text}. Merged, any rank takes {record.merged.decode.milliseconds} ms a token."


def recommended_lines(
    result: Analysis, served: ServingCosts, below: Sequence[Sequence[str]], *, details: bool
) -> list[str]:
    """Of each task what to ship, what it costs to serve, the lines `below` that, the trade-off.

    The trade-off of several tasks, and each curve by itself, are details.
    """
    lines, names = list[str](), Names(result)
    for choice, further in zip(result.choices, below, strict=True):
        lines += ["", " ".join(choice.sentences)]
        lines += [_NEEDS] if choice.reason == NO_OUTCOMES else []
        chosen = choice.chosen
        if chosen and (measured := served.of(chosen.adapter, chosen.truncation)):
            lines.append(serving_sentence(*measured, chosen.rank))
        lines += further
        if details or not choice.declared or len(result.choices) == 1:
            lines += configuration_lines(choice, names, every=details)
    number = sum(len(choice.configurations) for choice in result.choices)
    if details and result.recommended:
        lines += ["", *rank_lines(result, served, names)]
    elif number > 1 and not details:
        more = f"--details: all {number} configurations{up_to(result.choices[0])}"
        if len({row.label for row in result.recommended}) > 1:
            more += ", each adapter by itself; --adapter NAME: one"
        lines.append(more)
    return lines[1:]


def rank_lines(result: Analysis, served: ServingCosts, names: Names) -> list[str]:
    """Each curve by itself: its smallest rank, all tests, and its truncations compared."""
    against = {row.choice.against for row in result.recommended if row.choice.against}
    rest = f"against {' and '.join(against)}" if against else "not against the others"
    head = f"Each adapter by itself, {rest}: the smallest rank to use"
    lines = [head, rank_table(result, served, names).plain(), ""]
    tested = [row for row in result.recommended if row.tests]
    for row in map(names.rank, result.recommended):
        lines.append(row.sentence)
        if row.tests:
            lines += ["In points:", rank_test_table(row.tests, row.choice).plain()]
            for method in dict.fromkeys(t.method for t in row.tests):
                ranks = ", ".join(str(t.rank) for t in row.tests if t.method == method)
                lines.append(f"upper bound at rank {ranks}: {method}")
        lines.append("")
    for choice in (row.choice for row in tested[:1]):
        whole = {"each": "R", "held": ""} if choice.reference else {"each": _EACH, "held": _HELD}
        best, level = compared_with(choice), 100 * (1 - choice.alpha)
        lines.append(_TESTS.format(level=level, against=best, **whole))
    title = "Which truncation to use for this adapter, paired"
    asked = {row.label for row in result.recommended}
    variants = [names.pair(row) for row in result.variants if asked & {row.a, row.b}]
    return lines + pair_lines([], variants, title)


def rank_table(result: Analysis, served: ServingCosts, names: Names) -> Table:
    """The smallest rank of each curve, its accuracy, size and speed."""
    rows = result.recommended
    several = len({row.task for row in rows}) > 1
    body = []
    for row in rows:
        chosen, ranks = row.choice.chosen, [c.rank for c in row.choice.configurations]
        cells = [names.on_task(row) if several else names.of(row)]
        cells += [f"{chosen.rank} of {max(ranks)}" if chosen else "none shown"]
        cells += [percent(chosen.accuracy), size(chosen.bytes)] if chosen else [NONE, NONE]
        cost = served.at(row.adapter, row.truncation, row.rank)
        body.append([*cells, cost.decode.milliseconds if cost else NONE])
    head = ["adapter", "use rank", "accuracy (%)", "size", "a token (ms)"]
    return text_table(head, body).filled()
