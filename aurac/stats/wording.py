"""The sentence that belongs beside a number, no stronger than the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aurac.stats.noninferiority import Certificate
    from aurac.stats.paired import Difference


def verdict(found: Difference, p_holm: float | None, alpha: float) -> int | None:
    """+1 where b is better, -1 where a is, 0 where neither is significantly.

    None without a test, and where an arm has two seeds and the difference is not significant: they
    say so little of how seeds vary that nothing follows from it.
    """
    p = found.p if p_holm is None else p_holm
    if p is None:
        return None
    if p > alpha:
        return None if found.parts.fewest == 2 else 0
    return 1 if found.estimate.value > 0 else -1


def pair_sentence(a: str, b: str, task: str | None, found: Difference, p_holm: float | None) -> str:
    """One sentence on a paired difference, b - a."""
    estimate = found.estimate
    where = f" on {task}" if task else ""
    if estimate.low is None or estimate.high is None:
        return f"{b} - {a}{where} is {estimate.value:+.3f}; nothing more can be said of it."
    scope = (
        "conditional on these checkpoints"
        if found.conditional
        else "for another draw of documents and training seeds"
    )
    head = (
        f"{b} - {a}{where} = {estimate.value:+.3f} ({estimate.level:.0%} interval "
        f"{estimate.low:+.3f} to {estimate.high:+.3f}), {scope}"
    )
    p = found.p if p_holm is None else p_holm
    if p is None:
        return f"{head}: not tested."
    alpha = 1.0 - estimate.level
    test = f"at the {alpha:.3g} level ({'p' if p_holm is None else 'Holm p'} {show_p(p)})"
    sign = verdict(found, p_holm, alpha)
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
    mde = "" if found.mde is None else f"; a difference below {found.mde:.3f} would often be missed"
    return f"{head}: not significant {test}{alone}{mde}."


def show_p(p: float) -> str:
    """A p value as a paper prints it."""
    return "< .001" if p < 0.001 else f"= {p:.3f}"


def certificate_sentence(adapter: str, task: str | None, found: Certificate) -> str:
    """One sentence on the smallest non-inferior rank."""
    where = f" on {task}" if task else ""
    margin = f"margin {found.delta:g}, {1 - found.alpha:.0%} confidence for this adapter alone"
    scope = ", for this checkpoint alone" if found.conditional else ""
    if found.seeds > 1 and found.smallest_delta >= 1.0:
        return _few_seeds(f"{adapter}{where}", margin, found)
    if found.rank == found.reference:
        return (
            f"{adapter}{where}: no rank below {found.reference} is non-inferior to it ({margin}); "
            f"the smallest margin at which one would be is {found.smallest_delta:.4f}{scope}."
        )
    saved = "" if found.saved is None else f", {found.saved:.0%} smaller"
    return (
        f"{adapter}{where}: rank {found.rank} is non-inferior to rank {found.reference} ({margin})"
        f"{saved}; {found.flip_rate:.1%} of the documents change, and the smallest margin at which "
        f"a rank below {found.reference} would be is {found.smallest_delta:.4f}{scope}."
    )


def _few_seeds(who: str, margin: str, found: Certificate) -> str:
    from aurac.stats.noninferiority import seeds_needed

    each = f"each of these {found.seeds} checkpoints"
    if found.checkpoints in (None, found.reference):
        holds = f"nor is any rank non-inferior in {each} ({margin})"
    else:
        holds = (
            f"in {each} rank {found.checkpoints} is non-inferior to rank {found.reference} "
            f"({margin})"
        )
    return (
        f"{who}: of the recipe no rank below {found.reference} can be called non-inferior from "
        f"{found.seeds} seeds (at least {seeds_needed(found.alpha)} are needed); {holds}."
    )
