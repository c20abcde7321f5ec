"""The sentence that belongs beside a number, no stronger than the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aurac.stats.noninferiority import Certificate
    from aurac.stats.paired import Difference


def verdict(found: Difference, p_holm: float | None, alpha: float) -> int | None:
    """+1 where b is better, -1 where a is, 0 where neither was shown; None without a test."""
    p = found.p if p_holm is None else p_holm
    if p is None:
        return None
    return 0 if p > alpha else (1 if found.estimate.value > 0 else -1)


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
    sign = verdict(found, p_holm, 1 - estimate.level)
    p = found.p if p_holm is None else p_holm
    said = "" if p is None else f", {'Holm p' if p_holm is not None else 'p'} {show_p(p)}"
    if sign:
        better, worse = (b, a) if sign > 0 else (a, b)
        return f"{head}: {better} is better than {worse}{said}."
    mde = "" if found.mde is None else f"; a difference below {found.mde:.3f} would often be missed"
    return f"{head}: neither is shown to be better{said}{mde}."


def show_p(p: float) -> str:
    """A p value as a paper prints it."""
    return "< .001" if p < 0.001 else f"= {p:.3f}"


def certificate_sentence(adapter: str, task: str | None, found: Certificate) -> str:
    """One sentence on the smallest certified rank."""
    where = f" on {task}" if task else ""
    scope = ", conditional on this checkpoint" if found.conditional else ""
    if found.rank == found.reference:
        return (
            f"{adapter}{where}: no rank below {found.reference} is certified to lose less than "
            f"{found.delta:g} (alpha {found.alpha:g}); the smallest delta that could have certified"
            f" one is {found.smallest_delta:.4f}{scope}."
        )
    saved = "" if found.saved is None else f", {found.saved:.0%} smaller"
    return (
        f"{adapter}{where}: rank {found.rank} is certified to lose less than {found.delta:g} "
        f"against rank {found.reference} (alpha {found.alpha:g}){saved}; {found.flip_rate:.1%} of "
        f"the documents change, and the smallest delta that could have certified a smaller rank "
        f"than {found.reference} is {found.smallest_delta:.4f}{scope}."
    )
