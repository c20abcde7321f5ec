"""Figures of an analysis: accuracy and differences against rank, the same bytes on every machine.

Colours hold 3:1 against white and stay apart for the common kinds of colour blindness.
"""

from __future__ import annotations

import io
import math
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aurac.files import write_atomic
from aurac.show.numbers import accuracy, known
from aurac.show.views import TaskView, view
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from aurac.analysis import Analysis

COLOURS: Final = (
    *("#0067a5", "#c44e00", "#00795a", "#a6478c"),
    *("#2f93c8", "#8a3600", "#35a37f", "#6e2a5c"),
)
MARKERS: Final = "os^D<Xv*"
FIRST: Final = {"lora": 0, "dylora": 1, "matryoshka": 2, "nested_loss": 3}  # colour of a method
REST, BASE = "#c3c8ce", "#5b636c"
BANDS: Final = 3
DASHES: Final = ("--", ":", "-.")
NAME: Final = 32  # characters of a name in a legend
WIDTH, PAPER = (5.4, 3.9), (3.25, 2.7)  # inches; PAPER is a column
LEGEND = 0.7  # inches of it that have room


@contextmanager
def styled(*, small: bool = False) -> Iterator[None]:
    """The package's style, `small` for a column, and nothing of the reader's own matplotlibrc."""
    import matplotlib as mpl
    from matplotlib import style

    folder = Path(__file__).parent / "templates"
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        style.use([folder / "paper.mplstyle", *([folder / "column.mplstyle"] if small else [])])
        yield


def looks(of: TaskView) -> dict[str, dict[str, Any]]:
    """How each adapter is drawn: its hue by its method, further cuts of it dashed; eight have one.

    An adapter has its hue in every task of a run.
    """
    hues = dict[str, int]()
    every = of.analysis.rows.values()
    adapters = dict.fromkeys((row.adapter, (row.method or "").lower()) for row in every)
    for adapter, method in adapters:
        if (hue := FIRST.get(method)) is not None and hue not in hues.values():
            hues[adapter] = hue
    free = iter([hue for hue in range(len(COLOURS)) if hue not in hues.values()])
    for adapter, _ in adapters:
        if adapter not in hues and (hue := next(free, None)) is not None:
            hues[adapter] = hue
    cuts: dict[str, int] = {}
    found = {}
    for name in of.names:
        row = of.analysis.rows.get((of.task, name))
        hue = hues.get(row.adapter) if row else None
        cut = 0
        if row:
            cut = cuts[row.adapter] = cuts.get(row.adapter, -1) + 1
        found[name] = {
            "color": REST if hue is None else COLOURS[hue],
            "marker": "." if hue is None else MARKERS[hue],
            "linestyle": DASHES[(cut - 1) % len(DASHES)] if cut else "-",
        }
    return found


def plot(
    analysis: Analysis,
    task: str,
    ax: Axes | None = None,
    *,
    axis: str = "log2",
    legend: bool = True,
) -> Axes:
    """Draw the accuracy of each adapter of a task against rank, in percent.

    Bands are the intervals of the first three adapters, each rank alone; the legend is ordered by
    AURAC.

    Args:
        analysis: What is drawn.
        task: One of its tasks.
        ax: Where to draw; by default a new figure.
        axis: Of the ranks, "log2" or "linear".
        legend: Whether names stand in a legend.

    Returns:
        The axes.
    """
    of = view(analysis, task)
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=WIDTH, layout="constrained").subplots()
    scale = 1 if of.rolling else 100
    _lines(ax, of, axis, scale)
    for value in _bases(of):
        ax.axhline(scale * value, color=BASE, linestyle=(0, (6, 3)), linewidth=1, label="base")
    ax.set_ylabel(one_line(of.metric, NAME) if of.rolling else "Accuracy (%)")
    _ranks_below(ax, of.ranks, axis)
    if legend:
        title = "AURAC in percent" if _areas(of, axis) else None
        look: dict[str, Any] = {"loc": "outside lower center", "ncols": _columns(of.names)}
        ax.figure.legend(*_entries(ax), title=title, **look)
    return ax


def _areas(of: TaskView, axis: str) -> dict[str, float]:
    """AURAC of each of several adapters that has one."""
    column = "aurac" if axis == "log2" else "aurac_linear"
    areas = dict(zip(of.scores["adapter"], of.scores[column], strict=True))
    return {k: v for k, v in areas.items() if known(v)} if len(of.names) > 1 else {}


def _lines(ax: Axes, of: TaskView, axis: str, scale: float) -> None:
    """A line for each adapter, named with its AURAC, and bands of the first ones."""
    areas = _areas(of, axis)
    for at, (name, look) in enumerate(looks(of).items()):
        found = of.of(name)
        found = found[found["rank"] > 0]
        label = one_line(name, NAME) + (f" {accuracy(areas[name])}" if name in areas else "")
        grey = look["color"] == REST
        shown: dict[str, Any] = {"label": "_" if grey else label, "zorder": 1 if grey else 3}
        ax.plot(found["rank"], scale * found["accuracy"], **shown, **look)
        if at < BANDS and not of.rolling and found["low"].notna().any():
            low, high = (scale * found[end].astype(float) for end in ("low", "high"))
            ax.fill_between(found["rank"], low, high, color=look["color"], alpha=0.12, linewidth=0)


def plot_differences(of: TaskView, pairs: Sequence[tuple[str, str]], ax: Axes) -> Axes:
    """Draw differences between adapters at each rank in points, with intervals of each alone."""
    rows = of.rank_pairs
    for at, (a, b) in enumerate(pairs):
        found = rows[(rows["a"] == a) & (rows["b"] == b)].sort_values("rank")
        value = 100 * found["difference"].astype(float)
        ends = [100 * found[end].astype(float) for end in ("low", "high")]
        spread = (value - ends[0], ends[1] - value) if found["low"].notna().all() else None
        shift = 2 ** (0.09 * (at - (len(pairs) - 1) / 2))
        ax.errorbar(
            found["rank"] * shift,
            value,
            yerr=spread,
            color=COLOURS[at % len(COLOURS)],
            marker=MARKERS[at % len(MARKERS)],
            elinewidth=1,
            label=f"{one_line(a, NAME)} − {one_line(b, NAME)}",
        )
    ax.axhline(0, color=BASE, linewidth=1)
    ax.set_ylabel("Difference (points)")
    _ranks_below(ax, sorted({int(rank) for rank in rows["rank"]}), "log2")
    labels = [f"{a} − {b}" for a, b in pairs]
    ax.figure.legend(loc="outside lower center", ncols=_columns(labels))
    return ax


def _entries(ax: Axes) -> tuple[list[Any], list[str]]:
    """Lines and names of a legend, each name once."""
    handles, labels = ax.get_legend_handles_labels()
    first = dict(zip(reversed(labels), reversed(handles), strict=True))
    names = [name for name in dict.fromkeys(labels) if not name.startswith("_")]
    return [first[name] for name in names], names


def _columns(labels: Sequence[str]) -> int:
    """Columns of a legend below the axes."""
    from matplotlib import rcParams

    room = 34 if rcParams["font.size"] < 9 else 56  # characters
    longest = max((min(len(label), 2 * NAME + 3) for label in labels), default=1) + 9
    return max(1, min(4, room // longest))


def _bases(of: TaskView) -> list[float]:
    values = of.points.loc[of.points["rank"] == 0, "accuracy"].dropna()
    return sorted({float(value) for value in values})


def _ranks_below(ax: Axes, ranks: Sequence[int], axis: str) -> None:
    """Scale, ticks and name of the axis of ranks; the ticks far enough apart to be read."""
    if axis == "log2":
        ax.set_xscale("log", base=2)
    ax.set_xlabel(f"Rank ({axis} axis)")
    ax.minorticks_off()
    if not ranks:
        return
    place: Callable[[float], float] = math.log2 if axis == "log2" else float
    apart = (place(ranks[-1]) - place(ranks[0])) / 10
    shown: list[int] = []
    for rank in (ranks[-1], ranks[0], *reversed(ranks)):
        if all(abs(place(rank) - place(other)) >= 0.99 * apart for other in shown if other != rank):
            shown.append(rank)
    shown = sorted({*shown})
    ax.set_xticks(shown, [str(rank) for rank in shown])
    if len(ranks) == 1:
        ax.set_xlim(ranks[0] / 2, ranks[0] * 2)


def save(draw: Callable[[Axes], Axes], stem: Path, *, paper: bool = True) -> list[Path]:
    """Draw one Axes as `stem` with .png and .svg, and for a paper's column as .pdf.

    No file holds a date, a version or a random id.
    """
    from matplotlib.figure import Figure

    paths = []
    for small, kinds in ((False, ("svg", "png")), (True, ("pdf",) if paper else ())):
        with styled(small=small):
            figure = Figure(figsize=PAPER if small else WIDTH, layout="constrained")
            draw(figure.subplots())
            _grow(figure)
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
