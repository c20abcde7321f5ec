"""The figures of a report: drawn, saved, inlined and captioned."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from aurac.report import plots
from aurac.report.content import Picture
from aurac.report.escape import one_line, slug
from aurac.report.model import DELTA, best_default, highlighted, ordered
from aurac.report.plots import BASE, LABEL_SIZE, PROPERTIES, STYLE_FILE
from aurac.report.tables import percent, points, size

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from aurac.report.comparisons import Group
    from aurac.report.documents import Changes
    from aurac.report.model import CurveRow, Run
    from aurac.report.plots import Looks


WIDTH = 5.6
HEIGHT = 3.7
_POINTS = 72


@contextmanager
def styled() -> Iterator[None]:
    """The package's style and nothing of the reader's own matplotlibrc."""
    import matplotlib as mpl
    from matplotlib import style

    with mpl.rc_context(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the text formats have it whole.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        style.use(STYLE_FILE)
        yield


def single(
    draw: Callable[[Axes], Axes],
    *,
    labels: Sequence[str] = (),
    height: float = HEIGHT,
    top: float = 0.12,
) -> Figure:
    """A figure with one Axes, a right margin that holds `labels`, and `top` inches above."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    margin = (text_width(labels) + 24) / _POINTS / WIDTH if labels else 0.03
    ax = figure.add_axes((0.115, 0.5 / height, 0.885 - margin, 1 - (0.5 + top) / height))
    draw(ax)
    return figure


def text_width(labels: Sequence[str], size: float = LABEL_SIZE) -> float:
    """Width in points of the longest label; text that stays text may come out a little wider."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font, paths = FontProperties(size=size), TextToPath()
    return max(
        paths.get_text_width_height_descent(label, font, ismath=False)[0] for label in labels
    )


def grid(draws: Sequence[Callable[[Axes], Axes]], *, across: int, height: float) -> Figure:
    """Small multiples, `across` in a row, each `height` inches high."""
    from matplotlib.figure import Figure

    down = -(-len(draws) // across)
    figure = Figure(figsize=(WIDTH, down * height), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    for ax, draw in zip(axes.flat, draws, strict=False):
        draw(ax)
    for ax in list(axes.flat)[len(draws) :]:
        ax.remove()
    return figure


def rows(
    draw: Callable[[Axes], Axes], *, labels: Sequence[str], height: float, top: float
) -> Figure:
    """A figure with one Axes whose rows are named at the left by `labels`.

    Args:
        draw: Draws on the Axes.
        labels: Of the rows.
        height: Of the rows and the axis below, in inches.
        top: Inches above, for a legend.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height + top))
    left = (text_width(labels) + 16) / _POINTS / WIDTH
    height += top
    ax = figure.add_axes((left, 0.5 / height, 0.97 - left, 1 - (0.5 + top) / height))
    draw(ax)
    return figure


def save(figure: Figure, stem: Path, *, formats: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Write `stem` in every format without a date, a version or a random id in the file."""
    paths = []
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        figure.savefig(path, format=kind, metadata=_anonymous(kind))
        paths.append(path)
    return paths


def _anonymous(kind: str) -> dict[str, str | None]:
    return {
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "png": {"Software": None},
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    }.get(kind, {})  # type: ignore[return-value]


def inline_svg(
    figure: Figure, name: str, title: str, alt: str, hover: Sequence[Sequence[str]] = ()
) -> str:
    """The figure as an `<svg>` element for a page.

    Text stays text, colours are custom properties that the page defines for light and dark, ids
    carry `name` so that many figures fit in one page, and title and description name it.

    Args:
        figure: A drawn figure.
        name: A prefix for ids; letters, digits, dots, dashes and underscores.
        title: What the figure is.
        alt: What it shows.
        hover: For the curve with the gid `curve-0`, `curve-1`, … a text for each of its points.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "savefig.transparent": True}):
        figure.savefig(buffer, format="svg", metadata=_anonymous("svg"))
    raw = buffer.getvalue()
    svg = raw[raw.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for at, texts in enumerate(hover):
        svg = _with_hover(svg, f"curve-{at}", texts)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    for colour, variable in PROPERTIES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: ([0-9.]+px) [^;\"]+", r"font-size: \1", svg)
    svg = re.sub(r"font: (bold|700) ([0-9.]+px) [^;\"]+", r"font-weight: 700; font-size: \2", svg)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    return _named(svg, name, title, alt)


def _with_hover(svg: str, gid: str, texts: Sequence[str]) -> str:
    """Give each marker of a line a `<title>`, which browsers show and readers can reach."""
    start = svg.find(f'<g id="{gid}">')
    if start < 0:
        return svg
    end = svg.find("<g id=", start + 1)
    end = len(svg) if end < 0 else end
    group = svg[start:end]
    if group.count("<use ") != len(texts):
        return svg
    titles = iter(texts)
    filled = re.sub(
        r"(<use [^>]*?)/>",
        lambda m: f"{m[1]}><title>{escape(one_line(next(titles)))}</title></use>",
        group,
    )
    return svg[:start] + filled + svg[end:]


def _named(svg: str, name: str, title: str, alt: str) -> str:
    """Role, title and description; the size is left to the page, coordinates to two decimals."""
    head, rest = svg[: svg.index(">") + 1], svg[svg.index(">") + 1 :]
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    names = f'role="img" aria-labelledby="{name}-title {name}-desc"'
    head = head.replace("<svg ", f"<svg {names} ", 1)
    labels = (
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(alt)}</desc>'
    )
    rest = re.sub(r"(\d\.\d\d)\d+", r"\1", rest)
    return re.sub(r"\s*\n\s*", "\n", f"{head}{labels}{rest}").strip()


# Inches: a column and the text width of the common two-column layouts.
WIDTHS = {"column": 3.25, "wide": 6.75}
PAPER_HEIGHT = 2.35
LEGEND = 7.5
SMALL = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": LEGEND,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
}
_ROW = 0.16  # inches of a legend's row


def write_paper(draw: Callable[..., Axes], stem: Path) -> list[Path]:
    """Draw and save both widths.

    Args:
        draw: Draws on the Axes given; takes `labels`, which is switched off.
        stem: Path of the files without `-column.pdf` and `-wide.pdf`.
    """
    import matplotlib as mpl

    paths = []
    stem.parent.mkdir(parents=True, exist_ok=True)
    for name, width in WIDTHS.items():
        with styled():
            mpl.rcParams.update(SMALL)  # type: ignore[arg-type]
            drawn = paper_figure(draw, width)
            paths += save(drawn, stem.with_name(f"{stem.name}-{name}"), formats=("pdf",))
    return paths


def paper_figure(draw: Callable[..., Axes], width: float) -> Figure:
    """One Axes with its legend below."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, PAPER_HEIGHT), layout="constrained")
    drawn.get_layout_engine().set(w_pad=0.02, h_pad=0.02)  # type: ignore[union-attr, call-arg]
    ax = draw(drawn.add_subplot(), labels=False)
    handles = _handles(ax)
    longest = text_width([str(handle.get_label()) for handle in handles], LEGEND)
    across = max(1, min(len(handles), int((72 * width - 10) // (longest + 34))))
    rows = -(-len(handles) // across)
    drawn.set_size_inches(width, PAPER_HEIGHT + _ROW * rows)
    drawn.legend(
        handles=handles,
        loc="outside lower center",
        ncols=across,
        handlelength=2.2,
        columnspacing=1.0,
    )
    return drawn


def _handles(ax: Axes) -> list[Any]:
    """The named curves, then what else is in the axes: base, level line, ring."""
    from matplotlib.lines import Line2D

    lines = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    kinds = {str(line.get_gid()).rpartition("-")[2] for line in ax.get_lines()}
    others = {
        "base": {"color": BASE, "linestyle": (0, (6, 3)), "label": "base (rank 0)"},
        "full": {"color": BASE, "linestyle": (0, (1, 2)), "label": "full rank of the best"},
        "ring": {
            "color": BASE,
            "linestyle": "none",
            "marker": "o",
            "markersize": 7,
            "markerfacecolor": "none",
            "label": "non-inferior rank",
        },
    }
    more: list[Any] = [
        Line2D([], [], linewidth=1.0, **looks)  # type: ignore[arg-type]
        for kind, looks in others.items()
        if kind in kinds
    ]
    return [*lines, *more]


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


_PANEL_CURVES = 30
_PANEL_BEST = 3


class Pictures:
    """Draws figures into one folder and remembers the files.

    Args:
        run: What was measured.
        folder: Where the files go.
        detailed: Whether each point in a page carries its numbers, and there are PDFs for papers.
        certified: Id of a curve → its smallest non-inferior rank.
        delta: The loss that the certificates tolerate.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        *,
        detailed: bool,
        certified: Mapping[str, int] | None = None,
        delta: float = DELTA,
    ) -> None:
        self.certified, self.delta = dict(certified or {}), delta
        self.run, self.folder, self.detailed = run, folder, detailed
        self.looks: Looks = plots.looks(run.curves)
        self.few = len({curve.adapter for curve in run.curves}) <= len(plots.SERIES)
        self.files: list[Path] = []
        self.slugs = unique_slugs(run.task_names)

    def looked(self, curves: Sequence[CurveRow]) -> Looks:
        """The run's looks; where a hue would come twice in one figure, looks of its own."""
        return self.looks if self.few else {**self.looks, **plots.looks(curves)}

    def rank_accuracy(self, task: str, axis: str = "log2", *, inline: bool = True) -> Picture:
        """Accuracy against rank for one task; without `inline` only the files are made."""
        every = [curve for curve in self.run.of_task(task) if curve.ranks]
        chosen = highlighted(self.run, task)
        draw = self.drawing(task, axis)
        rest = len(every) - len(chosen)
        bands = plots.banded(chosen)
        name = f"rank-accuracy-{self.slugs[task]}{'' if axis == 'log2' else '-linear'}"
        labels = [curve.label for curve in chosen]
        bases = list(plots.baselines(every))
        if axis == "log2" and self.detailed:
            self.files += write_paper(draw, self.folder / "paper" / name)
        with styled():
            figure = single(draw, labels=_short([*labels, *bases]))
            return self._save(
                figure,
                name,
                title=f"Accuracy against rank on {task}",
                caption=" ".join(
                    [curve_caption(task, chosen, axis, bands, rest=rest), *self._marks(task)]
                ),
                alt=curve_alt(task, chosen, rest, self.certified),
                series=chosen,
                inline=inline,
            )

    def drawing(self, task: str, axis: str = "log2") -> Callable[..., Any]:
        """Draws the curves of one task on the Axes it is given."""
        chosen = highlighted(self.run, task)
        leader = best_default(self.run, task)
        return partial(
            plots.rank_accuracy,
            curves=[curve for curve in self.run.of_task(task) if curve.ranks],
            axis=axis,
            looked=self.looked(chosen),
            highlight={curve.id for curve in chosen},
            certified=self.certified,
            full={leader.id} if leader and len(leader.ranks) > 1 else set(),
        )

    def _marks(self, task: str) -> list[str]:
        """What the level line and the rings mean, where the figure has them."""
        leader = best_default(self.run, task)
        parts = []
        if leader and len(leader.ranks) > 1:
            parts.append(
                f"The dotted level line is {leader.label} at its highest rank, "
                f"{leader.ranks[-1]}: the distance to it is what truncation loses."
            )
        if any(curve.id in self.certified for curve in highlighted(self.run, task)):
            parts.append(
                "A ring is the smallest rank that is non-inferior to the highest at a margin of "
                f"{points(self.delta)} (95 % confidence for each curve alone)."
            )
        return parts

    def overview(self, tasks: Sequence[str]) -> Picture:
        """All tasks as small multiples."""
        draws = [partial(self._panel, task=task) for task in tasks]
        with styled():
            figure = grid(draws, across=3, height=1.6)
            return self._save(
                figure,
                "overview",
                title="Rank-accuracy curves of all tasks",
                caption=overview_caption(_PANEL_BEST, shared=self.few),
                alt=overview_alt(self.run, tasks),
            )

    def _panel(self, ax: Axes, task: str) -> Axes:
        curves = [curve for curve in self.run.of_task(task) if curve.ranks]
        chosen = ordered([curve for curve in curves if curve.is_default])[:_PANEL_BEST]
        drawn = [*chosen, *[c for c in ordered(curves) if c not in chosen][:_PANEL_CURVES]]
        ids = {curve.id for curve in chosen}
        looked = self.looked(chosen)
        plots.rank_accuracy(ax, drawn, looked=looked, highlight=ids, labels=False)
        ax.set_title(one_line(task, 24), fontsize=9)
        ax.set(xlabel="", ylabel="")
        shown = plots.ticks({rank for curve in drawn for rank in curve.ranks}, "log2", most=5)
        ax.set_xticks(shown, [str(rank) for rank in shown])
        ax.tick_params(labelsize=8)
        for artist in (*ax.get_lines(), *ax.collections):
            artist.set_gid(None)
        for line in ax.get_lines():
            line.set_markersize(3)
            line.set_linewidth(min(line.get_linewidth(), 1.2))
        return ax

    def cost(self, task: str, curves: Sequence[CurveRow]) -> Picture:
        """Accuracy against bytes for one task."""
        draw = partial(plots.cost, curves=curves, looked=self.looked(curves))
        if self.detailed:
            self.files += write_paper(draw, self.folder / "paper" / f"cost-{self.slugs[task]}")
        with styled():
            labels = _short([c.label for c in curves])
            figure = single(draw, labels=labels, height=3.6, top=0.55)
            return self._save(
                figure,
                f"cost-{self.slugs[task]}",
                title=f"Accuracy against adapter size on {task}",
                caption=f"{task}: accuracy against the size of the truncated adapter and its "
                "number of parameters; each mark is a rank.",
                alt=cost_alt(task, curves),
                series=curves,
            )

    def changes(self, task: str, found: Sequence[Changes], curves: Sequence[CurveRow]) -> Picture:
        """Documents gained and lost at each rank, a panel for each curve."""
        tints = {c.label: self.looked(curves)[plots.key(c)].colour for c in curves}
        most = (
            max(step.gained / item.n_docs for item in found for step in item.steps),
            max(step.lost / item.n_docs for item in found for step in item.steps),
        )
        draws: list[Callable[[Any], Any]] = [
            partial(plots.gained_lost, changes=item, colour=tints[item.label], most=most)
            for item in found
        ]
        wide = max(len(item.steps) for item in found) > 6
        seeds = (
            " Over several seeds, the documents of all of them."
            if any(curve.members for curve in curves)
            else ""
        )
        with styled():
            figure = grid(draws, across=1 if wide or len(draws) == 1 else 2, height=1.9)
            return self._save(
                figure,
                f"changes-{self.slugs[task]}",
                title=f"Documents gained and lost on {task}",
                caption=f"{task}: documents gained (filled, up) and lost (hatched, down) at each "
                "rank against the next lower one. Panels share their scale (share of documents)."
                f"{seeds}",
                alt=change_alt(task, found),
            )

    def groups(self, task: str, found: Sequence[Group]) -> Picture:
        """The areas on each group of a task's documents."""
        curves = list({group.curve.id: group.curve for group in found}.values())
        count = len({group.name for group in found})
        with styled():
            figure = rows(
                partial(plots.dots, found=found, looked=self.looked(curves)),
                labels=[one_line(group.name, plots.LABEL_CHARS) for group in found],
                height=0.6 + count * (0.2 + 0.07 * len(curves)),
                top=0.08 if len(curves) < 2 else 0.2 + 0.22 * -(-len(curves) // 2),
            )
            return self._save(
                figure,
                f"groups-{self.slugs[task]}",
                title=f"AURAC on each group of {task}",
                caption=f"{task}: AURAC (log2) on each group of documents, with 95 % intervals.",
                alt=group_alt(task, found),
            )

    def _save(
        self,
        figure: Figure,
        name: str,
        *,
        title: str,
        caption: str,
        alt: str,
        series: Sequence[CurveRow] = (),
        inline: bool = True,
    ) -> Picture:
        self.files += save(figure, self.folder / name)
        hover = [hover_texts(c, plots.marked(c)) for c in series] if self.detailed else []
        svg = inline_svg(figure, name, one_line(title), one_line(alt), hover) if inline else ""
        toggles = tuple((f"{name}-curve-{at}", curve.label) for at, curve in enumerate(series))
        file = f"{self.folder.name}/{name}.svg"
        return Picture(name, title, caption, alt, file, svg, toggles)


def _short(labels: Sequence[str]) -> list[str]:
    return [one_line(label, plots.LABEL_CHARS) for label in labels]


def unique_slugs(tasks: Sequence[str]) -> dict[str, str]:
    """A file name for each task; two tasks that would share one are numbered."""
    found: dict[str, str] = {}
    for task in tasks:
        name, at = slug(task), 2
        while name in found.values():
            name, at = f"{slug(task)}-{at}", at + 1
        found[task] = name
    return found
