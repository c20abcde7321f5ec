"""The sentence that belongs beside a number, no stronger than the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aurac.stats.noninferiority import Certificate
    from aurac.stats.paired import Difference


def verdict(result: Difference, p_holm: float | None, alpha: float) -> int | None:
    """+1 where b is better, -1 where a is, 0 where neither is significantly.

    None without a test, and where an arm has two seeds and the difference is not significant: they
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
    if estimate.low is None or estimate.high is None:
        return f"{b} - {a}{where} is {estimate.value:+.3f}; nothing more can be said of it."
    scope = (
        "conditional on these checkpoints"
        if result.conditional
        else "for another draw of documents and training seeds"
    )
    head = (
        f"{b} - {a}{where} = {estimate.value:+.3f} ({estimate.level:.0%} interval "
        f"{estimate.low:+.3f} to {estimate.high:+.3f}), {scope}"
    )
    p = result.p if p_holm is None else p_holm
    if p is None:
        return f"{head}: not tested."
    alpha = 1.0 - estimate.level
    test = f"at the {alpha:.3g} level ({'p' if p_holm is None else 'Holm p'} {show_p(p)})"
    sign = verdict(result, p_holm, alpha)
    if sign:
        better, worse = (b, a) if sign > 0 else (a, b)
        return f"{head}: {better} is better than {worse}, significant {test}."
    if sign is None:
        return (
            f"{head}: no verdict, since two seeds of a recipe do not show how much seeds vary "
            f"(not significant {test})."
        )
    outside = not estimate.low <= 0.0 <= estimate.high
    alone = ", although the interval, which is of this pair alone, leaves 0 out" if outside else ""
    mde = (
        "" if result.mde is None else f"; a difference below {result.mde:.3f} would often be missed"
    )
    return f"{head}: not significant {test}{alone}{mde}."


def show_p(p: float) -> str:
    """A p value as a paper prints it."""
    return "< .001" if p < 0.001 else f"= {p:.3f}"


def certificate_sentence(adapter: str, task: str | None, result: Certificate) -> str:
    """One sentence on the smallest non-inferior rank."""
    where = f" on {task}" if task else ""
    margin = f"margin {result.delta:g}, {1 - result.alpha:.0%} confidence for this adapter alone"
    scope = ", for this checkpoint alone" if result.conditional else ""
    if result.seeds > 1 and result.smallest_delta >= 1.0:
        return _few_seeds(f"{adapter}{where}", margin, result)
    if result.rank == result.reference:
        return (
            f"{adapter}{where}: no rank below {result.reference} is non-inferior to it ({margin}); "
            f"the smallest margin at which one would be is {result.smallest_delta:.4f}{scope}."
        )
    saved = "" if result.saved is None else f", {result.saved:.0%} smaller"
    return (
        f"{adapter}{where}: rank {result.rank} is non-inferior to rank {result.reference} "
        f"({margin}){saved}; {result.flip_rate:.1%} of the documents change, and the smallest "
        f"margin at which a rank below {result.reference} would be is "
        f"{result.smallest_delta:.4f}{scope}."
    )


def _few_seeds(who: str, margin: str, result: Certificate) -> str:
    from aurac.stats.noninferiority import seeds_needed

    each = f"each of these {result.seeds} checkpoints"
    if result.checkpoints in (None, result.reference):
        holds = f"nor is any rank non-inferior in {each} ({margin})"
    else:
        holds = (
            f"in {each} rank {result.checkpoints} is non-inferior to rank {result.reference} "
            f"({margin})"
        )
    return (
        f"{who}: of the recipe no rank below {result.reference} can be called non-inferior from "
        f"{result.seeds} seeds (at least {seeds_needed(result.alpha)} are needed); {holds}."
    )
