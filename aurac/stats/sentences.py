"""The sentence that belongs beside a number, no stronger than the data, in percent and points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.curves.area import area_name
from aurac.curves.display import declared, percent, points, show_span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aurac.stats.margins import MarginTest
    from aurac.stats.noninferiority import AccurateRank, NonInferiorRank
    from aurac.stats.paired import Difference
    from aurac.stats.rows import BestRow


PAIRED, INDEPENDENT = "paired by seed", "independent seeds"
"""How the seeds of two recipes are compared."""


def show_p(p: float) -> str:
    """A p value as a paper prints it."""
    return "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".", 1)


def verdict(result: Difference, p_holm: float | None, alpha: float) -> int | None:
    """+1 where b is better, -1 where a is, 0 where neither is significantly.

    None without a test, and where a group has two seeds and the difference is not significant: they
    say so little of how seeds vary that nothing follows from it.
    """
    p = result.p if p_holm is None else p_holm
    if p is None:
        return None
    if p > alpha:
        return None if result.parts.fewest == 2 else 0
    return 1 if result.estimate.value > 0 else -1


def pair_sentence(
    a: str, b: str, task: str | None, result: Difference, p_holm: float | None
) -> str:
    """One sentence on a paired difference, b - a."""
    estimate = result.estimate
    where = f" on {task}" if task else ""
    value, low, high = estimate.value, estimate.low, estimate.high
    if low is None or high is None:
        return f"{b} − {a}{where} is {points(value)}; nothing more can be said of it."
    p = result.p if p_holm is None else p_holm
    alpha = 1.0 - estimate.level
    sign = verdict(result, p_holm, alpha)
    if sign == -1:  # name the better one first
        a, b, value, low, high = b, a, -value, -high, -low
    ends = f"{_share(estimate.level)} interval {percent(low)} to {percent(high)}"
    scope = "conditional on these checkpoints"
    if not result.conditional:
        scope = f"for another draw of documents and training seeds ({_over_seeds(result)})"
    if p is None:
        return f"{b} − {a}{where}: {points(value)} ({ends}), {scope}; not tested."
    test = f"{'p' if p_holm is None else 'Holm p'} {show_p(p)}"
    if sign:
        return (
            f"{b} is better than {a}{where} by {points(value)} ({ends}; significant, {test}), "
            f"{scope}."
        )
    head = f"The difference {b} − {a}{where} ({points(value)}, {ends}) is not significant ({test})"
    if sign is None:
        return (
            f"{head}, {scope}: no verdict, since two seeds of a recipe do not show how much seeds "
            "vary."
        )
    alone = "" if low <= 0.0 <= high else ", although this pair's own interval leaves 0 out"
    missed = ""
    if result.mde is not None:
        missed = (
            f" With these documents the test detects {points(result.mde)} or more (80 % power)."
        )
    return f"{head}{alone}, {scope}.{missed}"


def _over_seeds(result: Difference) -> str:
    """How seeds were compared, and what is assumed of them."""
    return f"{result.parts.pairing}; assumes that seeds vary about normally"


def pairing_note(pairings: Mapping[str, str | None]) -> str:
    """How the seeds of some pairs were compared, by the pairs' names; empty without seeds."""
    by_kind: dict[str, list[str]] = {}
    for name, kind in pairings.items():
        if kind is not None:
            by_kind.setdefault(kind, []).append(name)
    if not by_kind:
        return ""
    most, *others = sorted(by_kind, key=lambda kind: -len(by_kind[kind]))
    text = "".join(f"; {kind}: {', '.join(by_kind[kind])}" for kind in others)
    return f"Seeds of differences: {most}{text}. Tests assume that seeds vary about normally."


def _share(level: float) -> str:
    return f"{100 * level:.4g} %"


def rank_sentence(adapter: str, task: str | None, result: NonInferiorRank) -> str:
    """One sentence on the smallest non-inferior rank."""
    who = f"{adapter} on {task}" if task else adapter
    scope = ", this checkpoint alone" if result.conditional else ""
    sure = f"({_share(1 - result.alpha)} confidence{scope})"
    margin = f"at a margin of {declared(result.margin)} {sure}"
    if result.seeds > 1 and result.smallest_margin >= 1.0:
        return _few_seeds(who, margin, result)
    needed = f"{percent(result.smallest_margin, 2)} points"
    if result.rank == result.reference:
        return (
            f"{who}: no rank below {result.reference} is non-inferior to it {margin}; that takes a "
            f"margin of more than {needed}."
        )
    saved = "" if result.saved is None else f", {100 * result.saved:.0f} % smaller"
    return (
        f"{who}: rank {result.rank} is non-inferior to rank {result.reference} {margin}{saved}; "
        f"{percent(result.flip_rate)} % of the documents change."
    )


def accuracy_sentence(adapter: str, task: str | None, result: AccurateRank) -> str:
    """One sentence on the smallest rank that is accurate enough."""
    who = f"{adapter} on {task}" if task else adapter
    least = f"{percent(result.minimum).removesuffix('.0')} % accurate"
    if result.rank is None:
        ((top, low),) = result.lowest.items()
        return (
            f"{who}: not even rank {top} is shown to be at least {least} (lower bound "
            f"{percent(low)} %)."
        )
    low = result.lowest[result.rank]
    sure = f"{_share(1 - result.alpha)} confidence"
    return f"{who}: rank {result.rank} is at least {least} (lower bound {percent(low)} %, {sure})."


def _few_seeds(who: str, margin: str, result: NonInferiorRank) -> str:
    from aurac.stats.noninferiority import seeds_needed

    each = f"each of these {result.seeds} checkpoints"
    needed = f"at least {seeds_needed(result.alpha)} are needed"
    holds = f"In {each} rank {result.checkpoints} is non-inferior to rank {result.reference}"
    if result.checkpoints in (None, result.reference):
        holds = f"Nor is any rank non-inferior in {each}"
    return (
        f"{who}: of the recipe no rank below {result.reference} can be called non-inferior from "
        f"{result.seeds} seeds ({needed}). {holds} {margin}."
    )


def margin_sentence(test: MarginTest) -> str:
    """One sentence on a margin test: the difference, its bounds and the margin."""
    estimate = test.difference.estimate
    where = f" on {test.task}" if test.task else ""
    head = {
        "not shown": f"{test.a} is not shown to be "
        f"{'equivalent' if test.equivalent else 'non-inferior'} to {test.b}{where}",
        "inferior": f"{test.a} is inferior to {test.b}{where} by more than the margin",
    }.get(test.verdict, f"{test.a} is {test.verdict} to {test.b}{where}")
    area = f"{area_name(test.axis)}{f' ({test.axis})' if test.span is None else ''}"
    over = "" if test.span is None else f" ({show_span(test.span, test.axis)})"
    difference = f"{area} {test.a} − {test.b} is {points(estimate.value)}{over}"
    if estimate.low is None or estimate.high is None:
        return f"{head}: {difference}, which has no interval ({estimate.method})."
    low, high = percent(estimate.low), percent(estimate.high)
    ends = f" {high if test.verdict == 'inferior' else low}"
    bound = f"one-sided {_share(1 - test.alpha)} bound"
    bound += f"s {low} and {high}" if test.equivalent else ends
    scope = "conditional on these checkpoints"
    if not test.difference.conditional:
        scope = f"over documents and training seeds ({_over_seeds(test.difference)})"
    return f"{head}: {difference}, {bound}, margin {declared(test.margin)}, {scope}."


def best_sentences(row: BestRow) -> list[str]:
    """What may be said of the row with the largest area on a task, or why none is named."""
    where = f" on {row.task}" if row.task else ""
    if row.leader is None or row.estimate is None:
        return [f"No adapter is named the best{where}: {row.reason}."]
    result, level, sure = row.estimate, _share(row.level), _share(row.sure)
    interval = f"{level} interval {percent(result.low)} to {percent(result.high)}"
    ends = "no interval" if result.low is None else interval
    lead = f"{row.leader} has the largest {area_name(row.axis)}{where}, {percent(result.value)} %"
    lines = [f"{lead} ({ends}, widened because the largest of {row.compared} was picked)."]
    if result.low is None:
        lines = [f"{lead} of {row.compared} ({ends})."]
    if len(row.candidates) == 1:
        lines.append(f"It is the best of them ({sure} confidence).")
    else:
        none = f"; none beats {row.leader} by more than {points(row.within)}" if row.within else ""
        lines.append(
            f"The best may be any of {', '.join(row.candidates)} ({sure} confidence{none})."
        )
    if row.apart:
        lines.append(f"Over other ranks, and so not compared: {', '.join(row.apart)}.")
    if row.recommended and (test := row.recommended.result):
        adjusted = f"alpha {row.recommended.alpha:.2g}, since it was picked from {row.compared}"
        rank = f"Rank {test.rank} of {row.leader} is non-inferior to rank {test.reference}"
        if test.rank == test.reference:
            rank = f"No rank of {row.leader} below {test.reference} is shown to be non-inferior"
        lines.append(f"{rank} at a margin of {declared(test.margin)} ({adjusted}).")
    return lines
