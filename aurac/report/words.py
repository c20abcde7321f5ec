"""Captions and alternative texts: what a figure shows, for those who cannot see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.report.documents import Changes, best_default
from aurac.report.tables import percent, size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from aurac.report.model import CurveRow, Run
    from aurac.report.strata import Group

LISTED = 5
# With more tasks than this a report summarises, and looks closely at the leaders only.
MANY_TASKS = 4


def metrics(curves: Sequence[CurveRow]) -> str:
    """The metrics of the curves, each once."""
    return ", ".join(dict.fromkeys(curve.metric for curve in curves))


def curve_caption(
    task: str, chosen: Sequence[CurveRow], axis: str, bands: Sequence[CurveRow], *, rest: int
) -> str:
    """How to read a rank-accuracy figure: only what is in it."""
    roles = {curve.role for curve in chosen}
    parts = [f"{task}: accuracy ({metrics(chosen)}) against rank, {axis} axis."]
    if any(low is not None for curve in bands for low in curve.low):
        every = len(bands) == sum(curve.is_default for curve in chosen)
        whose = "Bands are" if every else f"The band, of {bands[0].label} only, is made of"
        over = " over documents and seeds" if any(c.members for c in bands) else ""
        parts.append(f"{whose} pointwise 95 % intervals{over}.")
    if any(curve.members for curve in chosen):
        parts.append("A line with thin ones in its hue is the mean over training seeds.")
    if roles != {"default"}:
        parts.append("Solid: the default curve of an adapter.")
    if "published" in roles:
        parts.append("Dashed with hollow marks: its published inference.")
    if "extra" in roles:
        parts.append("Dotted with hollow marks: other truncations.")
    if any(curve.baseline is not None for curve in chosen):
        parts.append("The grey dashed line is the base model.")
    if rest:
        parts.append(f"Thin grey lines: {rest} more curves.")
    if any(curve.missing for curve in chosen):
        parts.append("A gap in a line is a missing rank.")
    return " ".join(parts)


def curve_alt(
    task: str, curves: Sequence[CurveRow], rest: int, certified: Mapping[str, int] | None = None
) -> str:
    """Where each curve starts and ends, its peak and non-inferior rank, and the base."""
    parts = [_curve_clause(curve, (certified or {}).get(curve.id)) for curve in curves]
    bases = dict.fromkeys(c.baseline for c in curves if c.baseline is not None)
    base = "".join(f" Base model: {percent(value)} %." for value in bases)
    more = f" {rest} more curves in grey." if rest else ""
    return f"Accuracy against rank on {task}. {'; '.join(parts)}.{base}{more}"


def _curve_clause(curve: CurveRow, certified: int | None) -> str:
    line = f"{curve.label}: {percent(curve.accuracy[0])} % at rank {curve.ranks[0]}"
    if len(curve.ranks) == 1:
        return line
    line += f", {percent(curve.accuracy[-1])} % at rank {curve.ranks[-1]}"
    top = max(range(len(curve.ranks)), key=lambda i: curve.accuracy[i])
    if curve.accuracy[top] > curve.accuracy[-1]:
        line += f", highest {percent(curve.accuracy[top])} % at rank {curve.ranks[top]}"
    return line if certified is None else f"{line}, rank {certified} non-inferior"


def hover_texts(curve: CurveRow, marked: Collection[int]) -> list[str]:
    """A text for each marked point of a curve."""
    texts = []
    for rank, value, low, high in zip(
        curve.ranks, curve.accuracy, curve.low, curve.high, strict=True
    ):
        if rank not in marked:
            continue
        interval = (
            f" [{percent(low)}, {percent(high)}]" if low is not None and high is not None else ""
        )
        texts.append(f"{curve.label}, rank {rank}: {percent(value)} %{interval}")
    return texts


def overview_caption(best: int, *, shared: bool) -> str:
    """How to read the small multiples."""
    hues = "keep their hue from panel to panel" if shared else "each panel has its own hues"
    return (
        "Every task in one view: accuracy in percent against rank, log2 axis. The best "
        f"{best} default curves of each task are in colour and {hues}; others are grey, the dashed "
        "line is the base model."
    )


def overview_alt(run: Run, tasks: Sequence[str]) -> str:
    """Who leads on each task."""
    lines = []
    for task in tasks:
        best = best_default(run, task)
        who = (
            f"{best.label} leads with an AURAC of {percent(best.log2.value)} %"
            if best and best.log2
            else "no curve with a score"
        )
        lines.append(f"{task}: {who}.")
    return f"Small multiples, one for each task. {' '.join(lines)}"


def cost_alt(task: str, curves: Sequence[CurveRow]) -> str:
    """Size and accuracy at both ends of each curve."""
    parts = [
        f"{c.label} goes from {size(c.bytes[0])} and {percent(c.accuracy[0])} % to "
        f"{size(c.bytes[-1])} and {percent(c.accuracy[-1])} %"
        for c in curves
    ]
    return f"Accuracy against adapter size on {task}. {'; '.join(parts)}."


def change_alt(task: str, found: Sequence[Changes]) -> str:
    """Every bar as a number."""
    parts = []
    for item in found:
        steps = ", ".join(
            f"{a} to {b}: {step.gained} gained, {step.lost} lost"
            for (a, b), step in zip(item.pairs, item.steps, strict=True)
        )
        parts.append(f"{item.label}: {steps}")
    return f"Bars of documents gained and lost on {task}. {'; '.join(parts)}."


def group_alt(task: str, found: Sequence[Group]) -> str:
    """Each group's areas as numbers."""
    lines: dict[str, list[str]] = {}
    for group in found:
        value = f"{group.curve.label} {percent(group.log2.value)} %"
        lines.setdefault(group.name, []).append(value)
    listed = "; ".join(f"{name}: {', '.join(values)}" for name, values in lines.items())
    return f"AURAC on each group of {task}. {listed}."


def some(names: Iterable[str]) -> str:
    """Names each once, cut after a few."""
    listed = list(dict.fromkeys(names))
    if len(listed) <= LISTED:
        return ", ".join(listed)
    return f"{', '.join(listed[:LISTED])} and {len(listed) - LISTED} more"
