"""The tables of a report: which rows and columns they have, and what their captions say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aurac.analysis.rows import grouped
from aurac.analysis.sentences import none_enough
from aurac.curves.area import area_name
from aurac.curves.display import (
    count,
    counted,
    enough,
    interval,
    percent,
    points,
    reached,
    show_span,
    size,
)
from aurac.show.appearance import short_names, ticks
from aurac.show.findings import (
    ordered,
    scale,
    truncation,
    unequal_documents,
)
from aurac.show.table import NONE, Cell, Table, estimate, number, share, table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from aurac.analysis.choice_rows import Choice, Configuration, RankRow, RankTest
    from aurac.analysis.rows import ScoreRow
    from aurac.records.run import CurveRow
    from aurac.show.findings import Findings

_MAX_RANK_COLUMNS = 12
_WEAK = "‡"
_MAX_GROUPS = 60
_PAPER_ROWS = 40


def measured_on(curves: Iterable[CurveRow]) -> str:
    """Metric and documents of a table's curves, to end a caption's first sentence."""
    rows = list(curves)
    counts = ", ".join(dict.fromkeys(count(c.n_docs) for c in rows if c.n_docs))
    documents = f", {counts} documents" if counts else ""
    return f"metric {', '.join(dict.fromkeys(c.metric for c in rows))}{documents}."


def aurac_table(findings: Findings, task: str, curves: Sequence[CurveRow], name: str) -> Table:
    """The headline table of one task, or of the seeds behind it; what may be the best is bold."""
    rows, best = ordered(curves), findings.may_be_best(task)
    ends = [end for c in rows if c.log2 for end in (c.log2.low, c.log2.high) if end is not None]
    low, width = (min(ends), max(ends) - min(ends) or 1.0) if ends else (0.0, 1.0)

    def place(share: float) -> float:
        return (share - low) / width

    def area(curve: CurveRow) -> Cell:
        value, bar = curve.log2, None
        if value and value.low is not None and value.high is not None:
            bar = (place(value.low), place(value.value), place(value.high))
        cell = estimate(value, best=curve.id in best, method=curve.score_method)
        return replace(cell, bar=bar)

    rated = [row for row in findings.analysis.scores if row.task == task]
    linear = {row.label: row.linear.method for row in rated if row.linear}
    caption = (
        f"{task}: AURAC in percent, largest first, with 95 % intervals of each row alone; "
        f"{measured_on(rows)}{_bold_means(findings, task, rows)}{_means_over(rows)}"
    )
    body = (
        (
            Cell(c.label),
            area(c),
            estimate(c.linear, method=linear.get(c.name)),
            share(c.mean),
            share(c.baseline),
            Cell(rank_range(c)),
            Cell(c.method or "not recorded"),
            Cell(truncation(c)),
        )
        for c in rows
    )
    titles = ("AURAC [95 %]", "linear axis", "mean", "base")
    last = ("ranks", "method", "truncation")
    return table(name, caption, body, "adapter", numeric=titles, last=last)


def _means_over(curves: Sequence[CurveRow]) -> str:
    """Over how many training seeds rows are means, a sentence after a space."""
    counts = grouped((c for c in curves if c.members), lambda curve: curve.seeds)
    if not counts:
        return ""
    most, *others = sorted(counts, key=lambda number: -len(counts[number]))
    less = "; ".join(f"{n} for {', '.join(c.label for c in counts[n])}" for n in others)
    few = f" ({less})" if less else ""
    return f" Means over {most} training seeds{few}, intervals over documents and seeds."


def paper_table(findings: Findings, task: str, name: str) -> Table:
    """The headline table of one task for a paper, of its rows with the largest AURAC."""
    every, best = findings.run.of_task(task), findings.may_be_best(task)
    curves = ordered(every)[:_PAPER_ROWS]
    names = short_names(curves)
    rows: list[tuple[Cell, ...]] = [
        (
            Cell(names[c.label]),
            Cell(truncation(c)),
            Cell(f"{c.ranks[0]}–{c.ranks[-1]}" if len(c.ranks) > 1 else NONE),
            estimate(c.log2, best=c.id in best, marked=False),
            estimate(c.linear, marked=False),
            share(c.mean),
        )
        for c in curves
    ]
    bases = dict.fromkeys(c.baseline for c in curves if c.baseline is not None)
    if len(bases) == 1:
        rows.append((Cell("base model"), Cell(""), Cell("0"), *[share(next(iter(bases)))] * 3))
    one = [curve for curve in curves if not curve.members]
    means = "; ".join(f"{c.label} {c.seeds}" for c in curves if c.members)
    seeds = f"; training seeds: {means}" if means else ""
    seeds += f"; one training run {'of the others' if means else 'each'}" if one else ""
    rest = len(every) - len(curves)
    left = f" The {rest} lowest rows are left out." if rest else ""
    over = "documents and seeds" if means else "documents"
    measured = measured_on(every).removesuffix(".")
    caption = f"AURAC on {task} in percent with 95 % intervals over {over}; {measured}{seeds}."
    caption += f"{_bold_means(findings, task, curves)}{left}"
    titles = ("AURAC (log2)", "AURAC (linear)", "mean")
    return table(name, caption, rows, "adapter", "truncation", "ranks", numeric=titles)


def _bold_means(findings: Findings, task: str, curves: Collection[CurveRow]) -> str:
    """What bold says in a table of scores, a sentence after a space; empty where none is bold."""
    if documents := unequal_documents(curves):
        return f" The rows are of {documents} documents, so none is the best."
    leader, best = findings.leaders.get(task), findings.may_be_best(task)
    if leader is None or not any(curve.id in best for curve in curves):
        return ""
    untested = ", ".join(curve.label for curve in curves if curve.name in leader.untested)
    rest = f" (of these, not tested against the largest: {untested})" if untested else ""
    if bounded := ", ".join(findings.label(task, name) for name in leader.bounded):
        rest += f", without those that a bound for this task alone leaves out: {bounded}"
    best_of = ""
    if leader.estimate is not None and leader.estimate.low is not None:
        best_of = f" (as the best of {leader.compared} it has {interval(leader.estimate)})"
    return (
        f" Bold: the largest{best_of}, and all that no other row is shown to be better than{rest}."
    )


def rank_range(curve: CurveRow) -> str:
    """The ranks of a curve in few characters."""
    if not curve.ranks:
        return "none"
    if len(curve.ranks) <= 2:
        return ", ".join(map(str, curve.ranks))
    return f"{curve.ranks[0]}–{curve.ranks[-1]} ({len(curve.ranks)})"


def rank_table(
    task: str,
    curves: Sequence[CurveRow],
    name: str,
    above: Mapping[str, Mapping[int, bool]] | None = None,
) -> Table:
    """Accuracy at every rank, one row for each curve; a missing rank is a dash.

    `above` are the ranks shown to be above the base, by the id of a curve; others are marked.
    """
    ranks = sorted({rank for curve in curves for rank in (*curve.ranks, *curve.missing)})
    few = len(ranks) <= _MAX_RANK_COLUMNS
    shown = ranks if few else ticks(ranks, "log2", _MAX_RANK_COLUMNS - 1)
    rows, marked = [], False
    for curve in ordered(curves):
        known = dict(zip(curve.ranks, curve.accuracy, strict=True))
        weak = {rank for rank, shows in (above or {}).get(curve.id, {}).items() if not shows}
        cells = ((share(known.get(rank)), f" {_WEAK}" * (rank in weak)) for rank in shown)
        marks = (replace(cell, text=cell.text + mark) for cell, mark in cells)
        rows.append((Cell(curve.label), share(curve.baseline), *marks))
        marked = marked or bool(weak)
    left = "" if shown == ranks else f" {len(ranks) - len(shown)} ranks more are in points.csv."
    weak_mark = f" {_WEAK}: not shown to be above the base (5 % error for each alone)."
    caption = f"{task}: accuracy in percent at each rank; base is the model alone.{left}"
    caption += weak_mark if marked else ""
    return table(name, caption, rows, "adapter", numeric=("base", *rank_titles(shown)))


def rank_titles(ranks: Iterable[int]) -> list[str]:
    """The heads of columns by rank; rank 0 is the base."""
    return [f"r = {rank}" if rank else "base" for rank in ranks]


def weight_table(curves: Sequence[CurveRow], name: str) -> Table | None:
    """What each rank weighs in the areas; one row for each grid and axis."""
    ranks = sorted({rank for curve in curves for rank in curve.ranks})
    if not 3 <= len(ranks) <= _MAX_RANK_COLUMNS:  # two ranks weigh the same, whatever the axis
        return None
    several = len({curve.ranks for curve in curves if curve.axis_weights}) > 1
    rows = {}
    for curve in curves:
        for axis, weights in curve.axis_weights.items():
            known = dict(zip(curve.ranks, weights, strict=True))
            where = f"{axis}, ranks {rank_range(curve)}" if several else axis
            rows[axis, curve.ranks] = (Cell(where), *(share(known.get(rank)) for rank in ranks))
    caption = "Weight of each rank in AURAC, in percent; a row adds up to 100."
    titles = rank_titles(ranks)
    return table(name, caption, rows.values(), "axis", numeric=titles) if rows else None


def choice_table(findings: Findings, task: str, choice: Choice, name: str) -> Table:
    """Size against accuracy: the configurations that no smaller one equals."""
    caption = (
        f"{task}: accuracy in percent (95 % intervals that hold together) of the "
        f"{len(choice.frontier)} configurations, of {len(choice.configurations)}, that no smaller "
        "one equals. Margin needed: the loss against the best configuration, in points rounded "
        "up, that has to be accepted for it to be named (5 % error, the choice included), computed "
        "from these results: choose yours before you see them. Above the base: tested for each "
        f"alone.{' Bold: recommended.' if choice.chosen else ''}"
    )
    if why := none_enough(choice, choice.frontier):
        caption += f" {why}"
    shown = configuration_table(choice.frontier, choice, called=findings.called)
    return replace(shown, name=name, caption=caption)


def configuration_table(
    shown: Iterable[Configuration],
    choice: Choice,
    *,
    called: Callable[[Configuration], str],
    accuracy: str = "accuracy [95 %]",
) -> Table:
    """Sizes and accuracies of configurations, and the margin at which each would be named."""
    demanded = choice.min_accuracy is not None
    needs_margin = choice.margin is not None or not demanded
    rows = [
        (
            Cell(called(configuration), best=configuration is choice.chosen),
            Cell(size(configuration.bytes), configuration.bytes),
            estimate(configuration),
            *[_least(configuration.least or None)] * demanded,
            *[margin_cell(configuration.needed)] * needs_margin,
            Cell({True: "yes", False: "not shown", None: NONE}[configuration.above_base]),
        )
        for configuration in shown
    ]
    titles = ["size", accuracy, *["at least (%)"] * demanded, *["margin needed"] * needs_margin]
    return table("", "", rows, "configuration", numeric=titles, last=("above the base",))


def _least(shown: float | None) -> Cell:
    return Cell(NONE if shown is None else reached(shown), shown)


def margin_cell(needed: float | None) -> Cell:
    """The smallest margin that is enough, in points, rounded up."""
    return Cell("none is enough" if needed is None else enough(needed, 2), needed)


def loss_table(findings: Findings, task: str, tested: Sequence[RankRow], name: str) -> Table:
    """What each rank loses against the best one of its curve, and which are within the margin."""
    ranks = sorted({test.rank for row in tested for test in row.tests})
    rows, margin = [], findings.margin
    for row in tested:
        tests, best = {test.rank: test for test in row.tests}, row.best
        cells = (_loss_cell(tests.get(rank), margin) for rank in ranks)
        head = findings.label(task, row.label), NONE if best is None else str(best)
        rows.append((*map(Cell, head), *cells))
    steps = [step for row in tested for step in row.tests]
    caption = (
        f"{task}: accuracy lost against the most accurate rank of the same curve, in points over "
        "the same documents."
    )
    if any(step.upper < 1.0 and step.joint is not None for step in steps):
        caption += (
            " In brackets: an upper bound, rounded up, on the loss against whichever rank of that "
            "curve is truly best, not only the one named (95 % confidence for all bounds of the "
            "table together). The margin at which a rank is named allows for the choice instead, "
            "so it may be larger or smaller."
        )
        if any(step.joint is None for step in steps):
            caption += " Other truncations than the default have no bound."
        if margin is not None:
            caption += (
                f" Bold: the bound is below {points(margin)}, the margin. That does not say to "
                "ship the rank: another curve may have a better one."
            )
    if left := len([c for c in findings.run.of_task(task) if c.ranks]) - len(tested):
        caption += f" Not shown: {counted(left, 'more curve')}."
    if any(step.upper >= 1.0 for step in steps):
        needed = max(row.choice.seeds_needed for row in tested)
        caption += f" An upper bound for the ranks of one curve takes at least {needed} seeds."
    return table(name, caption, rows, "adapter", "best rank", numeric=rank_titles(ranks))


def _loss_cell(step: RankTest | None, margin: float | None) -> Cell:
    if step is None:
        return Cell(NONE)
    if step.upper >= 1.0 or step.joint is None:  # of too few seeds, or not among those tested
        return share(step.loss)
    upper = NONE if step.joint >= 1.0 else enough(step.joint)
    text = f"{percent(step.loss)} ({upper})"
    return Cell(text, step.loss, best=margin is not None and step.joint < margin)


def basis_table(findings: Findings, task: str, name: str) -> Table | None:
    """SVD minus prefix at every rank."""
    pairs = [row for row in findings.analysis.closely.bases if row.task == task]
    ranks = sorted({rank for row in pairs for rank in row.gaps})
    rows, moved, same, fitted = [], [], False, False
    for row in pairs:
        prefix, svd = (findings.row(task, way) for way in (row.prefix, row.svd))
        without_p = prefix.method == "matryoshka" and prefix.rescale == "rule"
        if prefix.trained_rank in row.gaps and "fit" in {prefix.rescale, svd.rescale}:
            fitted = True
        elif prefix.trained_rank in row.gaps and not without_p:
            same, pair = True, findings.pair(svd, prefix)
            if pair and pair.gained and pair.lost:
                at = pair.ranks.index(prefix.trained_rank)
                changed = counted(pair.gained[at] + pair.lost[at], "document")
                moved.append(f"{changed} of {prefix.called}")
        ways = f"{prefix.called}, {scale(svd)} against {scale(prefix)}"
        rows.append((Cell(ways), *(estimate(row.gaps.get(rank)) for rank in ranks)))
    caption = (
        f"{task}: accuracy by SVD minus that by prefix, its first components, each with the scale "
        "that its row names, in points with 95 % intervals for each rank alone, over the same "
        "documents. SVD − prefix in AURAC is among the paired differences."
    )
    if same:
        known = (
            f"rounding alone changed {', '.join(moved)}" if moved else "what differs is rounding"
        )
        but = " where no scale is fitted" if fitted else ""
        caption += f" At the trained rank both are the same function{but}: {known}."
    return table(name, caption, rows, "adapter", numeric=rank_titles(ranks)) if ranks else None


def group_table(findings: Findings, task: str, name: str) -> Table:
    """One row for each group of documents, one column for each curve."""
    strata = findings.strata(task)
    curves = list(dict.fromkeys(row.curve for row in strata))
    names = list(dict.fromkeys(row.stratum for row in strata))
    at = {(row.stratum, row.curve): row for row in strata}
    rows = []
    for group in names[:_MAX_GROUPS]:
        first = at[group, curves[0]]
        areas = (estimate(at[group, curve].log2) for curve in curves)
        rows.append((Cell(group), number(first.n_docs), share(first.baseline), *areas))
    left = len(names) - _MAX_GROUPS
    caption = (
        f"{task}: AURAC in percent with 95 % intervals on each group of documents. The intervals "
        "are not adjusted for the number of groups: with many, some stand out by chance."
        f"{f' {left} more groups are in groups.csv.' if left > 0 else ''}"
    )
    titles = ("documents", "base", *(findings.label(task, curve) for curve in curves))
    return table(name, caption, rows, "group", numeric=titles)


def budget_table(findings: Findings, task: str, scores: Sequence[ScoreRow], name: str) -> Table:
    """AURAC over a budget, and the amounts that it is over."""
    axis, curves = scores[0].axis, [findings.row(task, row.label) for row in scores]
    rows = [
        (
            Cell(curve.label),
            estimate(row.budget),
            Cell(show_span(row.span or (), axis), (row.span or (None,))[0]),
            Cell(rank_range(curve)),
            Cell(truncation(curve)),
        )
        for row, curve in zip(scores, curves, strict=True)
    ]
    area = area_name(axis)
    caption = f"{task}: {area} in percent with 95 % intervals, largest first; {measured_on(curves)}"
    titles, last = (f"{area} [95 %]", axis), ("ranks", "truncation")
    return table(name, caption, rows, "adapter", numeric=titles, last=last)
