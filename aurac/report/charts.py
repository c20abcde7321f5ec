"""Costs, documents gained and lost, and groups of documents, drawn on the Axes that are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.report.escape import one_line
from aurac.report.plots import LABEL_CHARS, LABEL_SIZE, end_labels, percent_axis
from aurac.report.style import AXIS, INK, PAPER, key, looks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.axes._secondary_axes import SecondaryAxis

    from aurac.report.documents import Changes
    from aurac.report.model import CurveRow
    from aurac.report.plots import Looks
    from aurac.report.strata import Group


def cost(
    ax: Axes,
    curves: Sequence[CurveRow],
    *,
    looked: Looks | None = None,
    unit: str = "bytes",
    labels: bool = True,
) -> Axes:
    """Accuracy in percent against what an adapter costs at each rank.

    Args:
        ax: Where to draw.
        curves: The curves of one task; those without the cost are left out.
        looked: Looks that other figures share.
        unit: "bytes" (shown as megabytes) or "parameters" (shown as millions).
        labels: Whether the lines are named at the right edge, outside of the axes.
    """
    looked = looked or looks(curves)
    drawn = [curve for curve in curves if curve.ranks and all(getattr(curve, unit))]
    for at, curve in enumerate(drawn):
        look = looked[key(curve)]
        amounts = [amount / 1e6 for amount in getattr(curve, unit)]
        (line,) = ax.plot(
            amounts,
            [100 * value for value in curve.accuracy],
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            markerfacecolor=PAPER if look.hollow else look.colour,
            markeredgecolor=look.colour,
            label=one_line(curve.label, LABEL_CHARS),
        )
        line.set_gid(f"curve-{at}")
    percent_axis(ax, drawn, (), base=False)
    ax.set_xscale("log")
    _plain_log_ticks(ax)
    ax.set_xlabel("adapter size (MB, log axis)" if unit == "bytes" else "parameters (millions)")
    if unit == "bytes":
        _parameter_axis(ax, drawn)
    if labels:
        ends = [(c.label, 100 * c.accuracy[-1], getattr(c, unit)[-1] / 1e6) for c in drawn]
        end_labels(ax, ends, [looked[key(c)].colour for c in drawn])
    return ax


def _plain_log_ticks(ax: Axes | SecondaryAxis) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())


def _parameter_axis(ax: Axes, curves: Sequence[CurveRow]) -> None:
    """Parameters along the top, where every curve has the same number of bytes for each."""
    ratios = {
        round(size / count, 6)
        for c in curves
        for size, count in zip(c.bytes, c.parameters, strict=False)
        if size and count
    }
    if len(ratios) != 1:
        return
    each = ratios.pop()

    def to_parameters(size: Any) -> Any:
        return size / each

    def to_size(count: Any) -> Any:
        return count * each

    top = ax.secondary_xaxis("top", functions=(to_parameters, to_size))
    _plain_log_ticks(top)
    top.set_xlabel("parameters (millions)")


def gained_lost(
    ax: Axes, changes: Changes, *, colour: str = INK, most: tuple[float, float] | None = None
) -> Axes:
    """Documents gained (up) and lost (down) at each rank against the rank below it.

    Args:
        ax: Where to draw.
        changes: The steps of one curve.
        colour: Of the bars.
        most: The largest share gained and lost in any panel, so that panels share their scale.
    """
    places = range(len(changes.steps))
    up = [step.gained / changes.n_docs for step in changes.steps]
    down = [-step.lost / changes.n_docs for step in changes.steps]
    ax.bar(places, up, width=0.62, color=colour, label="gained")
    ax.bar(places, down, width=0.62, facecolor=PAPER, edgecolor=colour, hatch="////", label="lost")
    ax.axhline(0, color=AXIS, linewidth=0.8)
    highest, lowest = most or (max(up), -min(down))
    top = max(highest, lowest, 1 / changes.n_docs)
    for place, step in enumerate(changes.steps):
        above, below = up[place] + 0.03 * top, down[place] - 0.03 * top
        ax.text(place, above, str(step.gained), ha="center", va="bottom", fontsize=8)
        ax.text(place, below, str(step.lost), ha="center", va="top", fontsize=8)
    ax.set_ylim(-lowest - 0.24 * top, max(highest, 0.1 * top) + 0.16 * top)
    ax.set_xticks(places, [f"{a}→{b}" for a, b in changes.pairs])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(length=0, labelsize=8)
    ax.set_title(one_line(changes.label, LABEL_CHARS))
    return ax


def dots(ax: Axes, found: Sequence[Group], *, looked: Looks | None = None) -> Axes:
    """The area on each group of documents as a dot with its interval, one row for each group.

    Args:
        ax: Where to draw.
        found: Groups of one task, for one curve or several.
        looked: Looks that other figures share.
    """
    curves = list({group.curve.id: group.curve for group in found}.values())
    looked = looked or looks(curves)
    names = list(dict.fromkeys(group.name for group in found))
    for at, curve in enumerate(curves):
        look = looked[key(curve)]
        mine = [group for group in found if group.curve.id == curve.id]
        shift = 0.6 * ((at + 0.5) / len(curves) - 0.5)
        places = [names.index(group.name) + shift for group in mine]
        ends = [
            (100 * (g.log2.low or 0.0), 100 * (g.log2.high or 1.0))
            if g.log2.low is not None
            else (float("nan"), float("nan"))
            for g in mine
        ]
        ax.hlines(places, *zip(*ends, strict=True), color=look.colour, linewidth=1.0, alpha=0.6)
        ax.plot(
            [100 * group.log2.value for group in mine],
            places,
            linestyle="none",
            marker=look.marker,
            color=look.colour,
            label=one_line(curve.label, LABEL_CHARS),
        )
    ax.set_yticks(range(len(names)), [one_line(name, LABEL_CHARS) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("AURAC, log2 axis (%)")
    if len(curves) > 1:
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2,
            borderaxespad=0.2,
            handletextpad=0.3,
            fontsize=LABEL_SIZE,
        )
    return ax
