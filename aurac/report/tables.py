"""The tables of a report: which rows and columns they have, and what their captions say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aurac.curves.area import area_name
from aurac.curves.display import count, interval, percent, points, seconds, show_span, signed, size
from aurac.report.content import NONE, Cell, Column, Table
from aurac.report.model import bold_means, ordered
from aurac.stats.sentences import show_p

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from aurac.report.comparisons import BasisPair, Difference, Group, Tested
    from aurac.report.documents import Changes, Speed
    from aurac.report.model import CurveRow, Interval
    from aurac.runs.schema import DecisionRecord, SequentialRecord
    from aurac.stats import RankTest

_MAX_RANK_COLUMNS = 12
_MAX_ITEM_COLUMNS = 4
_MAX_GROUPS = 60
_MAX_DECISIONS = 60
MOST_DRAWN = 6


def columns(*titles: str, numeric: Iterable[str] = ()) -> tuple[Column, ...]:
    """Columns of text, then columns of numbers."""
    return (*map(Column, titles), *(Column(title, numeric=True) for title in numeric))


def share(value: float | None, *, best: bool = False) -> Cell:
    """A fraction in percent, or a difference in points."""
    return Cell(percent(value), value, best)


def number(value: int | None) -> Cell:
    """A whole number."""
    return Cell(count(value), value)


def estimate(value: Interval | Difference | None, *, best: bool = False) -> Cell:
    """A fraction with its interval."""
    return Cell(interval(value), value.value if value else None, best)


def p_value(pair: Difference | None) -> Cell:
    """The adjusted p value of a difference."""
    return probability(pair.adjusted if pair else None)


def probability(p: float | None) -> Cell:
    """A p value."""
    return Cell(NONE if p is None else show_p(p).removeprefix("= "), p)


def aurac_table(task: str, curves: Sequence[CurveRow], best: Collection[str], name: str) -> Table:
    """The headline table of one task; the best are all that are not significantly worse."""
    rows = ordered(curves)
    ends = [end for c in rows if c.log2 for end in (c.log2.low, c.log2.high) if end is not None]
    low, width = (min(ends), max(ends) - min(ends) or 1.0) if ends else (0.0, 1.0)

    def area(curve: CurveRow) -> Cell:
        value, bar = curve.log2, None
        if value and value.low is not None and value.high is not None:
            places = ((x - low) / width for x in (value.low, value.value, value.high))
            bar = tuple(places)
        leads = curve.id in best
        return Cell(interval(value), value.value if value else None, leads, bar)  # type: ignore[arg-type]

    metric = ", ".join(dict.fromkeys(c.metric for c in rows))
    counts = ", ".join(dict.fromkeys(count(c.n_docs) for c in rows if c.n_docs))
    seeds = "; ".join(f"{c.label}: {c.seeds} seeds" for c in rows if c.members)
    over = (
        f" Means over training seeds ({seeds}), intervals over documents and seeds."
        if seeds
        else ""
    )
    caption = (
        f"{task}: AURAC in percent with 95 % intervals, largest first; metric {metric}"
        f"{f', {counts} documents' if counts else ''}. {bold_means(rows)}{over}"
    )
    body = tuple(
        (
            Cell(c.label),
            area(c),
            estimate(c.linear),
            share(c.mean),
            share(c.baseline),
            Cell(rank_range(c)),
            Cell(c.method or "not recorded"),
            Cell(c.truncation),
        )
        for c in rows
    )
    heads = columns("adapter", numeric=("AURAC [95 %]", "linear axis", "mean", "base"))
    return Table(name, caption, heads + columns("ranks", "method", "truncation"), body)


def rank_range(curve: CurveRow) -> str:
    """The ranks of a curve in few characters."""
    if not curve.ranks:
        return "none"
    if len(curve.ranks) <= 2:
        return ", ".join(map(str, curve.ranks))
    return f"{curve.ranks[0]}–{curve.ranks[-1]} ({len(curve.ranks)})"


def rank_table(task: str, curves: Sequence[CurveRow], name: str) -> Table:
    """Accuracy at every rank, one row for each curve; a missing rank is a dash."""
    ranks = sorted({rank for curve in curves for rank in (*curve.ranks, *curve.missing)})
    shown = ranks if len(ranks) <= _MAX_RANK_COLUMNS else _some(ranks)
    rows = []
    for curve in ordered(curves):
        known = dict(zip(curve.ranks, curve.accuracy, strict=True))
        cells = (share(known.get(rank)) for rank in shown)
        rows.append((Cell(curve.label), share(curve.baseline), *cells))
    left = "" if shown == ranks else f" {len(ranks) - len(shown)} ranks more are in points.csv."
    caption = f"{task}: accuracy in percent at each rank; base is the model alone.{left}"
    heads = columns("adapter", numeric=("base", *(f"r = {rank}" for rank in shown)))
    return Table(name, caption, heads, tuple(rows))


def _some(ranks: Sequence[int]) -> list[int]:
    last = len(ranks) - 1
    powers = [rank for rank in ranks if rank & (rank - 1) == 0 or rank == ranks[-1]]
    if 4 <= len(powers) <= _MAX_RANK_COLUMNS:
        return powers
    picked = {round(i * last / (_MAX_RANK_COLUMNS - 1)) for i in range(_MAX_RANK_COLUMNS)}
    return [ranks[i] for i in sorted(picked)]


def weight_table(curves: Sequence[CurveRow], name: str) -> Table | None:
    """What each rank weighs in the areas; one row for each grid and axis."""
    ranks = sorted({rank for curve in curves for rank in curve.ranks})
    if not 3 <= len(ranks) <= _MAX_RANK_COLUMNS:  # two ranks weigh the same, whatever the axis
        return None
    several = len({curve.ranks for curve in curves if curve.axis_weights}) > 1
    rows = {}
    for curve in curves:
        for axis, weights in curve.axis_weights.items():
            if len(weights) == len(curve.ranks):
                known = dict(zip(curve.ranks, weights, strict=True))
                where = f"{axis}, ranks {rank_range(curve)}" if several else axis
                cells = (share(known.get(rank)) for rank in ranks)
                rows[axis, curve.ranks] = (Cell(where), *cells)
    if not rows:
        return None
    heads = columns("axis", numeric=(f"r = {rank}" for rank in ranks))
    caption = "Weight of each rank in AURAC, in percent; a row adds up to 100."
    return Table(name, caption, heads, tuple(rows.values()))


def cost_table(task: str, curves: Sequence[CurveRow], name: str) -> Table | None:
    """Parameters and bytes with the accuracy there: a row for each rank where all cost the same."""
    curves, first = ordered(curves), curves[0]
    if all(
        (c.ranks, c.parameters, c.bytes) == (first.ranks, first.parameters, first.bytes)
        for c in curves
    ):
        rows = [
            (
                Cell(str(rank), rank),
                number(first.parameters[at]),
                Cell(size(first.bytes[at]), first.bytes[at]),
                *(share(curve.accuracy[at]) for curve in curves),
            )
            for at, rank in enumerate(first.ranks)
        ]
        heads = columns("rank", numeric=("parameters", "size", *(c.label for c in curves)))
        caption = f"{task}: what an adapter costs at each rank, and the accuracy there in percent."
        return Table(name, caption, heads, tuple(rows))
    rows = []
    for curve in curves:
        last = len(curve.ranks) - 1
        for at in sorted({0, (last + 1) // 2, last}) if curve.ranks else []:
            if curve.parameters[at] is not None or curve.bytes[at] is not None:
                rows.append(
                    (
                        Cell(curve.label),
                        Cell(str(curve.ranks[at]), curve.ranks[at]),
                        number(curve.parameters[at]),
                        Cell(size(curve.bytes[at]), curve.bytes[at]),
                        share(curve.accuracy[at]),
                    )
                )
    heads = columns("adapter", numeric=("rank", "parameters", "size", "accuracy (%)"))
    caption = f"{task}: what the adapter costs at its lowest, middle and highest rank."
    return Table(name, caption, heads, tuple(rows)) if rows else None


def speed_table(task: str, speeds: Mapping[str, Mapping[int, Speed]], name: str) -> Table | None:
    """Tokens for each second in the model and time for each document, by curve and rank."""
    ranks = sorted({rank for by_rank in speeds.values() for rank in by_rank})
    if not ranks:
        return None
    rows = []
    for label, by_rank in speeds.items():
        cells = []
        for rank in ranks:
            at = by_rank.get(rank)
            text = f"{count(at.tokens)}/s, {seconds(at.seconds)}" if at else NONE
            cells.append(Cell(text, at.tokens if at else None))
        rows.append((Cell(label), *cells))
    caption = (
        f"{task}: measured during this run: tokens computed in each second inside the model, and "
        "wall time for each document. Documents share batches and prefixes, so this is the "
        "speed of an evaluation, not the latency of one answer."
    )
    heads = columns("adapter", numeric=(f"r = {rank}" if rank else "base" for rank in ranks))
    return Table(name, caption, heads, tuple(rows))


def change_table(task: str, changes: Sequence[Changes], name: str) -> Table:
    """Documents gained and lost, one row for each step of each curve."""
    rows = tuple(
        (
            Cell(item.label),
            Cell(f"{a} → {b}", step.upper),
            number(step.gained),
            number(step.lost),
            Cell(signed(step.gained - step.lost), step.gained - step.lost),
            share((step.gained + step.lost) / item.n_docs),
        )
        for item in changes
        for step, (a, b) in zip(item.steps, item.pairs, strict=True)
    )
    heads = columns("adapter", numeric=("step", "gained", "lost", "net", "changed (%)"))
    caption = f"{task}: documents whose score rose or fell against the next lower rank."
    return Table(name, caption, heads, rows)


def end_table(changes: Sequence[Changes], name: str) -> Table:
    """Documents gained and lost from the lowest to the highest rank, one row for each curve."""
    rows = tuple(
        (
            Cell(item.task),
            Cell(item.label),
            Cell(" → ".join(item.pairs[0])),
            number(item.steps[0].gained),
            number(item.steps[0].lost),
            number(item.n_docs),
        )
        for item in changes
    )
    heads = columns("task", "adapter", "ranks", numeric=("gained", "lost", "documents"))
    caption = "Documents that the leading curve of each task gains and loses with the rank."
    return Table(name, caption, heads, rows)


def difference_table(task: str, pairs: Sequence[Difference], name: str) -> Table:
    """One row for each pair, with what the documents could have shown."""
    axis = pairs[0].axis
    rows = tuple(
        (
            Cell(pair.first.label),
            Cell(pair.second.label),
            *([Cell(show_span(pair.span, axis), pair.span[0])] if pair.span else []),
            estimate(pair),
            p_value(pair),
            share(pair.detectable),
            number(pair.n_docs),
            Cell("significant" if pair.significant else "not significant"),
        )
        for pair in pairs
    )
    caption = (
        f"{task}: paired differences of {area_name(axis)} in points, over the same documents. "
        "p is adjusted (Holm) for every pair of adapters on every task of this run; between "
        "truncations of one adapter, for all those. Detectable: the difference that the test finds "
        "with 80 % power."
    )
    titles = ["difference [95 %]", "p (Holm)", "detectable", "documents"]
    titles = [axis, *titles] if pairs[0].span else titles
    heads = columns("adapter", "minus", numeric=titles) + columns("result")
    return Table(name, caption, heads, rows)


def loss_table(
    task: str,
    tested: Sequence[Tested],
    joint: Mapping[str, Mapping[int, float]],
    note: str,
    name: str,
) -> Table:
    """What each smaller rank loses against the highest one, and which ranks are non-inferior."""
    ranks = sorted({one.rank for _, test in tested for one in test.tests})
    rows = []
    for curve, test in tested:
        steps, bounds = {one.rank: one for one in test.tests}, joint.get(curve.id, {})
        cells = (_loss_cell(steps.get(rank), bounds.get(rank), test.margin) for rank in ranks)
        rows.append((Cell(curve.label), Cell(str(test.reference)), *cells))
    caption = (
        f"{task}: accuracy lost against the highest rank, in points over the same documents, with "
        "an upper bound in brackets (95 % confidence for all bounds of the table together). Bold: "
        f"shown to lose less than {points(tested[0][1].margin)} (one-sided paired tests downward "
        "from the highest rank, 5 % error for each curve alone, at most "
        f"{min(100, 5 * len(tested))} % for some curve of the table). {note}"
    )
    heads = columns("adapter", "against rank", numeric=(f"r = {rank}" for rank in ranks))
    return Table(name, caption, heads, tuple(rows))


def _loss_cell(step: RankTest | None, bound: float | None, margin: float) -> Cell:
    if step is None:
        return Cell(NONE)
    if step.margin_needed >= 1.0:  # from too few seeds nothing follows for another one
        return share(step.loss)
    upper = NONE if bound is None or bound >= 1.0 else percent(bound)
    return Cell(f"{percent(step.loss)} ({upper})", step.loss, best=step.margin_needed < margin)


def basis_table(task: str, pairs: Sequence[BasisPair], name: str) -> Table:
    """AURAC of the same adapter cut in two ways and their paired difference."""
    rows = []
    for pair in pairs:
        gap = pair.difference
        result = "not paired" if gap is None else "not significant"
        if gap is not None and gap.significant:
            result = "prefix is better" if gap.value > 0 else "SVD is better"
        rows.append(
            (
                Cell(pair.label),
                estimate(pair.prefix.log2),
                estimate(pair.svd.log2),
                estimate(gap),
                p_value(gap),
                share(gap.detectable if gap else None),
                Cell(result),
            )
        )
    caption = (
        f"{task}: the same adapter cut to its first components (prefix) and by SVD: AURAC in "
        "percent, and prefix minus SVD in points over the same documents. p is adjusted (Holm) for "
        "all pairs of truncations of this report."
    )
    titles = ("prefix [95 %]", "SVD [95 %]", "difference [95 %]", "p (Holm)", "detectable")
    heads = columns("adapter", numeric=titles) + columns("result")
    return Table(name, caption, heads, tuple(rows))


def basis_rank_table(task: str, pairs: Sequence[BasisPair], name: str) -> Table | None:
    """Prefix minus SVD at every rank."""
    ranks = sorted({rank for pair in pairs for rank in pair.gaps})
    if not ranks:
        return None
    rows = [(Cell(p.label), *(estimate(p.gaps.get(rank)) for rank in ranks)) for p in pairs]
    caption = (
        f"{task}: accuracy of the prefix minus that of the SVD, in points with 95 % intervals for "
        "each rank alone, over the same documents."
    )
    heads = columns("adapter", numeric=(f"r = {rank}" for rank in ranks))
    return Table(name, caption, heads, tuple(rows))


def group_table(task: str, groups: Sequence[Group], name: str) -> Table:
    """One row for each group, one column for each curve."""
    curves = list({group.curve.id: group.curve for group in groups}.values())
    names = list(dict.fromkeys(group.name for group in groups))
    at = {(group.name, group.curve.id): group for group in groups}
    rows = []
    for row in names[:_MAX_GROUPS]:
        first = at[row, curves[0].id]
        areas = (estimate(at[row, curve.id].log2) for curve in curves)
        rows.append((Cell(row), number(first.n_docs), share(first.baseline), *areas))
    left = len(names) - _MAX_GROUPS
    caption = (
        f"{task}: AURAC in percent with 95 % intervals on each group of documents. The intervals "
        "are not adjusted for the number of groups: with many, some stand out by chance."
        f"{f' {left} more groups are in groups.csv.' if left > 0 else ''}"
    )
    heads = columns("group", numeric=("documents", "base", *(curve.label for curve in curves)))
    return Table(name, caption, heads, tuple(rows))


def listing(
    name: str, caption: str, keys: Mapping[str, str], items: Sequence[Mapping[str, Any]]
) -> Table:
    """What is known about each item: a column for each of a few items, else a row for each.

    `keys` are titles and the fields behind them; the first names the item, and those that no item
    has are left out.
    """
    used = {title: key for title, key in keys.items() if any(known(i.get(key)) for i in items)}
    titles = list(used)
    values = [[entry(item.get(key)) for item in items] for key in used.values()]
    if len(items) <= _MAX_ITEM_COLUMNS:
        body = zip(titles[1:], values[1:], strict=True)
        rows = tuple((Cell(title), *map(Cell, row)) for title, row in body)
        return Table(name, caption, columns(titles[0], *values[0]), rows)
    rows = tuple(tuple(map(Cell, row)) for row in zip(*values, strict=True))
    return Table(name, caption, columns(*titles), rows)


def known(value: Any) -> bool:
    """Whether a value of `results.json` says anything."""
    return value is not None and value not in ("", [], {})


def entry(value: Any) -> str:
    """A value of `results.json` as text; a dash where there is none."""
    return _plain(value) if known(value) else NONE


def _plain(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def drawn(record: SequentialRecord) -> list[DecisionRecord]:
    """The decisions whose looks are drawn."""
    return [one for one in record.decisions if one.path][:MOST_DRAWN]


def decision_table(decisions: Sequence[DecisionRecord]) -> Table:
    """What a run that stopped early decided."""
    caption = (
        "Differences in points, b - a (of a rank: against the largest). Estimate: median-unbiased "
        "after stopping. Intervals: repeated, valid at every look. p: sequential, adjusted for all "
        "questions (Holm)."
    )
    heads = columns("task", "question", "verdict", numeric=("documents", "look", "z", "boundary"))
    heads += columns(numeric=("estimate", "interval", "p"))
    rows = []
    for one in decisions[:_MAX_DECISIONS]:
        who = f"{one.b} - {one.a}" if one.b else one.a
        who += f", rank {one.rank}" if one.rank else ""
        value = one.mean if one.estimate is None else one.estimate
        ends = (
            NONE
            if one.low is None or one.high is None
            else f"{percent(one.low)} to {percent(one.high)}"
        )
        rows.append(
            (
                Cell(one.task),
                Cell(who),
                Cell(one.verdict),
                Cell(f"{one.documents:,} of {one.of:,}", one.documents),
                Cell(f"{one.look} of {one.looks}", one.look),
                Cell(NONE if one.z is None else f"{one.z:.2f}".replace("-", "−"), one.z),
                Cell(NONE if one.boundary is None else f"{one.boundary:.2f}", one.boundary),
                Cell(percent(value), value),
                Cell(ends),
                probability(one.p_adjusted),
            )
        )
    return Table("decisions", caption, heads, tuple(rows))
