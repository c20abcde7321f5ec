"""Figures of an analysis: accuracy and differences against rank, the same bytes on every machine.

Colours hold 3:1 against white and stay apart for the common kinds of colour blindness.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from aurac.curves.numbers import percent, points
from aurac.files import write_atomic
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from aurac.curves.question import Key
    from aurac.show.views import View

COLOURS: Final = (
    *("#0067a5", "#c44e00", "#00795a", "#a6478c"),
    *("#2f93c8", "#8a3600", "#35a37f", "#6e2a5c"),
)
MARKERS: Final = "os^D<Xv*"
REST, BASE = "#c3c8ce", "#5b636c"
DASHES: Final[tuple[Any, ...]] = ("--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))  # of further cuts
NAME, SHORT = 50, 16  # characters of a line in a legend, and where two stand beside each other
WIDTH, PAPER = (5.4, 3.9), (3.25, 2.7)  # inches; PAPER is a column
LEGEND = 0.7  # inches of it that have room


@contextmanager
def styled(*, small: bool = False) -> Iterator[None]:
    """The package's style, `small` for a column, and nothing of the reader's own matplotlibrc."""
    from matplotlib import style

    folder = Path(__file__).parent / "templates"
    sheets = [folder / "paper.mplstyle", *([folder / "column.mplstyle"] if small else [])]
    with style.context(sheets, after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def looks(of: View, keys: Collection[Key]) -> dict[Key, dict[str, Any]]:
    """How each of `keys` is drawn: the first eight adapters have a hue, further cuts are dashed.

    An adapter has its hue in every task of a run.
    """
    adapters = list(dict.fromkeys(row.key.adapter for row in of.analysis.rows))
    cuts: Counter[str] = Counter()
    found = {}
    for key in filter(keys.__contains__, of.keys):
        at, cut = adapters.index(key.adapter), cuts[key.adapter]
        cuts[key.adapter] += 1
        found[key] = {
            "color": COLOURS[at] if at < len(COLOURS) else REST,
            "marker": MARKERS[at] if at < len(MARKERS) else ".",
            "linestyle": DASHES[(cut - 1) % len(DASHES)] if cut else "-",
        }
    return found


def plot(
    of: View,
    ax: Axes,
    *,
    keys: Sequence[Key] | None = None,
    legend: Literal["inside", "below"] | None = "below",
) -> Axes:
    """Draw the accuracy of each adapter against rank, in percent, and what may be shipped of one.

    Of all rows or those of `keys`; the legend is in the axes, or below them in a figure of its own.
    """
    scale = 1 if of.rolling else 100
    known = [row for row in of.scores if row.aurac is not None and len(of.keys) > 1]
    areas = {row.key: percent(row.aurac) for row in known}
    shown = of.keys if keys is None else keys
    _lines(ax, of, scale, {key: areas.get(key, "") for key in shown})
    _shipped(ax, of)
    for value in sorted({p.accuracy for p in of.points if p.rank == 0}):
        label = f"base: {percent(value)} %" if of.shipped else "base"
        ax.axhline(scale * value, color=BASE, linestyle=(0, (6, 3)), linewidth=1, label=label)
    ax.set_ylabel(one_line(of.measure, NAME) + ("" if of.rolling else " (%)"))
    _ranks_below(ax)
    if legend:
        _legend(ax, "AURAC in percent" if areas else None, below=legend == "below")
    return ax


def _legend(ax: Axes, title: str | None = None, *, below: bool = True) -> None:
    """Names of the lines, each once."""
    handles, labels = ax.get_legend_handles_labels()
    first = dict(zip(reversed(labels), reversed(handles), strict=True))
    names = [name for name in dict.fromkeys(labels) if not name.startswith("_")]
    where: dict[str, Any] = {"title": title, "handles": [first[name] for name in names]}
    where["labels"] = [textwrap.fill(one_line(name), NAME) for name in names]
    if below:
        columns = 2 if max(map(len, names), default=0) <= SHORT else 1
        ax.figure.legend(loc="outside lower center", ncols=columns, **where)
    else:
        ax.legend(**where)


def _lines(ax: Axes, of: View, scale: float, areas: Mapping[Key, str]) -> None:
    """A line for each adapter, named with its AURAC, and its intervals, those of several apart."""
    for at, (key, look) in enumerate(looks(of, areas).items()):
        found = [point for point in of.of(key) if point.rank]
        if not found:
            continue
        grey = look["color"] == REST
        label = "_" if grey else f"{of.names[key]} {areas[key]}".rstrip()
        value, low, high = _ends(found, "accuracy", scale)
        apart = 2 ** (0.04 * (at - (len(areas) - 1) / 2)) if of.bars else 1.0
        ranks = [point.rank * apart for point in found]
        ax.plot(ranks, value, label=label, zorder=1 if grey else 3, **look)
        if of.shipped:  # the most that each rank may lose
            lost = np.array([point.loss_bound or 0.0 for point in found])
            low, high = value[-1] - scale * lost, value
        if of.bars and not np.isnan(low).any():
            ends = [value - low, high - value]
            ax.errorbar(ranks, value, ends, fmt="none", ecolor=look["color"], elinewidth=1)


def _ends(records: Sequence[Any], name: str, scale: float) -> Iterator[NDArray[np.float64]]:
    """A value of each record, and the ends of its interval."""
    for each in (name, "low", "high"):
        yield scale * np.array([getattr(record, each) for record in records], dtype=np.float64)


def _shipped(ax: Axes, of: View) -> None:
    """The margin and the rank to ship of the one adapter."""
    if (record := of.shipped) is None:
        return
    heights = {point.rank: 100 * point.accuracy for point in of.of(of.keys[0])}
    reference, rank = record.reference or 0, record.rank or 0
    floor = heights[reference] - 100 * record.margin
    named = f"margin: {points(record.margin)} below rank {reference}"
    ax.axhline(floor, color=BASE, linestyle=":", linewidth=1, label=named)
    look: dict[str, Any] = {"color": BASE, "markersize": 11, "fillstyle": "none"}
    ax.plot([rank], [heights[rank]], "o", label=f"ship rank {rank}", **look)
    ax.set_ylim(ax.get_ylim())  # a base far below would flatten the bars


def plot_differences(of: View, pairs: Sequence[tuple[Key, Key]], ax: Axes) -> Axes:
    """Draw differences between adapters at each rank in points, with intervals of each alone."""
    for at, (a, b) in enumerate(pairs):
        found = [record for (x, y, _), record in of.rank_pairs.items() if (x, y) == (a, b)]
        value, low, high = _ends(found, "difference", 100)
        shift = 2 ** (0.09 * (at - (len(pairs) - 1) / 2))
        ax.errorbar(
            [record.rank * shift for record in found],
            value,
            yerr=None if np.isnan(low).any() else [value - low, high - value],
            color=COLOURS[(at + 3) % len(COLOURS)],  # not those of the first three adapters
            marker=MARKERS[at % len(MARKERS)],
            elinewidth=1,
            label=f"{of.names[a]} − {of.names[b]}",
        )
    ax.axhline(0, color=BASE, linewidth=1)
    ax.set_ylabel("Difference (points)")
    _ranks_below(ax)
    _legend(ax)
    return ax


def _ranks_below(ax: Axes) -> None:
    """Scale, ticks and name of the axis of ranks."""
    from matplotlib.ticker import LogLocator

    ax.set_xscale("log", base=2)
    ax.set_xlabel("Rank (log2 axis)")
    ax.minorticks_off()
    ax.xaxis.set_major_locator(LogLocator(2))
    ax.xaxis.set_major_formatter("{x:g}")


def save(draw: Callable[[Axes], Axes], stem: Path, *, paper: bool = True) -> list[Path]:
    """Draw one Axes as `stem` with .png and .svg, and for a paper's column as .pdf.

    No file holds a date, a version or a random id.
    """
    from matplotlib.figure import Figure

    paths = []
    for small, kinds in ((False, ("svg", "png")), (True, ("pdf",) if paper else ())):
        with styled(small=small):
            figure = Figure(figsize=PAPER if small else WIDTH)
            draw(figure.subplots())
            _grow(figure)
            figure.set_layout_engine("constrained")
            for kind in kinds:
                content = io.BytesIO()
                figure.savefig(content, format=kind, metadata=_ANONYMOUS[kind])
                paths.append(stem.with_name(f"{stem.name}.{kind}"))
                write_atomic(paths[-1], content.getvalue())
    return paths


def _grow(figure: Figure) -> None:
    """Add the height of a long legend, so that the axes keep theirs."""
    figure.draw_without_rendering()
    heights = [legend.get_window_extent().height / figure.dpi for legend in figure.legends]
    figure.set_figheight(figure.get_figheight() + max(0.0, max(heights, default=0.0) - LEGEND))


_ANONYMOUS: Final[Mapping[str, Any]] = {
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "png": {"Software": None},
    "pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")),
}
