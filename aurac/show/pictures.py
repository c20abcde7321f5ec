"""The figures of one report: which curves are in them, their captions and alternative texts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from aurac.curves.area import BUDGETS, axis_title
from aurac.curves.display import counted, interval, percent, points, size
from aurac.show import appearance, figures, plots
from aurac.show.escape import unique_slugs
from aurac.show.findings import ordered, unequal_documents
from aurac.show.render import Picture
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from aurac.analysis.record import Changes, StratumRow
    from aurac.records.results_file import Area
    from aurac.records.run import CurveRow
    from aurac.records.serving import ServingRecord
    from aurac.show.documents import Served
    from aurac.show.findings import Findings
    from aurac.stats.mean import Estimate

STEP = "Rank step"
_PANEL_CURVES = 30
_PANEL_BEST = 3
KEY = [
    ("gained", {"color": appearance.BASE}),
    ("lost", {"facecolor": appearance.PAPER, "edgecolor": appearance.BASE, "hatch": "////"}),
]


class Pictures:
    """Draws figures into one folder and remembers the files.

    Where the run has few tasks, each point in a page carries its numbers, figures have a narrow
    form for telephones, and there are PDFs for papers. `seeds` draws each training seed.
    """

    def __init__(self, findings: Findings, folder: Path, *, seeds: bool = False) -> None:
        self.run, self.seeds, self.highlighted = findings.run, seeds, findings.highlighted
        self.folder, self.detailed, self.margin = folder, not findings.many, findings.margin
        self.ringed, self.best = findings.ringed, findings.best
        self.styles = appearance.styles(self.run.curves)
        self.few = len({curve.adapter for curve in self.run.curves}) <= len(appearance.SERIES)
        self.files: list[Path] = []
        self.slugs = unique_slugs(self.run.task_names)

    def _styles(self, curves: Sequence[CurveRow]) -> appearance.Styles:
        """The run's styles; where a hue would come twice in one figure, hues of its own."""
        return self.styles if self.few else appearance.styles(self.run.curves, curves)

    def _context(self, task: str) -> str:
        """Task, base and number of documents: what a figure needs to stand alone."""
        curves = self.run.of_task(task)
        bases = dict.fromkeys(one_line(c.base, 28) for c in curves if c.base)
        n_docs = max((c.n_docs or 0 for c in curves), default=0)
        parts = [one_line(task, 28), *list(bases)[:1], f"{n_docs} documents" if n_docs else ""]
        return " · ".join(part for part in parts if part)

    def rank_accuracy(
        self,
        task: str,
        axis: str = "log2",
        *,
        inline: bool = True,
        areas: Mapping[str, Area | Estimate] | None = None,
    ) -> Picture:
        """Accuracy against rank, or a budget, for one task; a page shows it where it is `inline`.

        `areas` are AURAC over the budget by curve id; only these curves are drawn.
        """
        every = [c for c in self.run.of_task(task) if c.ranks and (areas is None or c.id in areas)]
        coloured = [c for c in self.highlighted(task) if c in every]
        left = [c for c in every if c not in coloured and not c.is_default]
        every = [c for c in every if c not in left]
        draw = partial(
            plots.rank_accuracy,
            curves=every,
            axis=axis,
            style=self._styles(coloured),
            highlight={curve.id for curve in coloured},
            areas=areas,
            ringed=self.ringed,
            seeds=self.seeds,
            left=len(left),
        )
        name = f"rank-accuracy-{self.slugs[task]}{'' if axis == 'log2' else f'-{axis}'}"
        against = axis if axis in BUDGETS else "rank"
        rest = [c for c in every if c not in coloured]
        return self._save_lines(
            name,
            task,
            against,
            draw,
            paper=axis != "linear" and self.detailed,
            caption=self._curve_caption(task, coloured, axis, rest, left),
            alt=self._curve_alt(task, coloured, against, rest),
            series=coloured,
            areas=areas,
            inline=inline,
            axis=axis,
        )

    def overview(self, tasks: Sequence[str]) -> Picture:
        """All tasks as small multiples."""
        draws = [partial(self._panel, task=task) for task in tasks]
        hues = "keep their hue from panel to panel" if self.few else "have other hues in each panel"
        leaders = ((task, self.best[task]) for task in tasks)
        lines = [
            f"{task}: {f'{c.label} leads with {percent(c.area)} %' if c else 'no curve leads'}."
            for task, c in leaders
        ]
        top = [curve for task in tasks for curve in self._top(task)]
        names = appearance.short_names(top)
        looks = {names[c.label]: self.styles[appearance.key(c)].options for c in top}
        most = max(map(len, looks), default=0)
        grid = partial(
            figures.grid,
            draws,
            height=1.6,
            axes_titles=(appearance.rank_title("log2"), appearance.ACCURACY),
            keys=list(looks.items()) if self.few else [],
        )
        return self._save(
            "overview",
            lambda: grid(across=min(3, len(tasks)), key_across=3 if most <= 20 else 2),
            lambda: grid(across=1, width=figures.NARROW, key_across=2 if most <= 16 else 1),
            title="Rank-accuracy curves of all tasks",
            caption="Accuracy in percent against rank on every task, log2 axis. The best "
            f"{_PANEL_BEST} curves of each task are in colour and {hues}; others are grey, "
            "the dashed line is the base model.",
            alt=f"Small multiples, one for each task. {' '.join(lines)}",
        )

    def _top(self, task: str) -> list[CurveRow]:
        return ordered(c for c in self.run.of_task(task) if c.ranks)[:_PANEL_BEST]

    def _panel(self, ax: Axes, task: str) -> Axes:
        curves = [curve for curve in self.run.of_task(task) if curve.ranks]
        coloured = self._top(task)
        drawn = [*coloured, *[c for c in ordered(curves) if c not in coloured][:_PANEL_CURVES]]
        style, ids = self._styles(coloured), {curve.id for curve in coloured}
        plots.rank_accuracy(ax, drawn, style=style, highlight=ids, labels=False)
        ax.set_title(one_line(task, 24), fontsize=9)
        ax.set(xlabel="", ylabel="")
        shown = appearance.ticks({rank for curve in drawn for rank in curve.ranks}, "log2", most=5)
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
        ends = [
            f"{c.label} goes from {size(c.bytes[0])} and {percent(c.accuracy[0])} % to "
            f"{size(c.bytes[-1])} and {percent(c.accuracy[-1])} %"
            for c in curves
        ]
        return self._save_lines(
            f"cost-{self.slugs[task]}",
            task,
            "adapter size",
            partial(plots.cost, curves=curves, style=self._styles(curves)),
            paper=self.detailed,
            top=0.78,
            caption=f"{task}: accuracy against the size of the truncated adapter and its number of "
            "parameters; each mark is a rank. Dashes, dots and the numbers beside names (AURAC "
            "over ranks) are as in accuracy against rank.",
            alt=f"Accuracy against adapter size on {task}. {'; '.join(ends)}.",
            series=curves,
        )

    def latency(
        self, name: str, task: str, record: ServingRecord, measured: Sequence[Served], caption: str
    ) -> Picture:
        """Accuracy against the time of a generated token for one task."""
        curves = [one.curve for one in measured]
        shown = [
            f"{served.curve.label} takes {served.points[0][0].decode.milliseconds} ms at rank "
            f"{served.points[0][0].rank} and {served.points[-1][0].decode.milliseconds} ms at rank "
            f"{served.points[-1][0].rank}"
            for served in measured
        ]
        return self._save_lines(
            name,
            task,
            "latency",
            partial(plots.latency, record=record, measured=measured, style=self._styles(curves)),
            caption=f"{task}: {caption}",
            alt=f"Accuracy against the time of a generated token on {task}. {'; '.join(shown)}. "
            f"The base takes {record.merged.decode.milliseconds} ms.",
            series=curves,
        )

    def changes(self, task: str, changes: Sequence[Changes], curves: Sequence[CurveRow]) -> Picture:
        """Documents gained and lost at each rank, a panel for each curve."""
        style = self._styles(curves)
        tints = {c.label: style[appearance.key(c)].colour for c in curves}
        every = [(step, item.n_docs) for item in changes for step in item.steps]
        most = max(step.gained / n for step, n in every), max(step.lost / n for step, n in every)
        shares = any(curve.members for curve in curves)
        draw = partial(plots.gained_lost, most=most, shares=shares)
        draws = [partial(draw, changes=item, colour=tints[item.label]) for item in changes]
        bars = []
        for item in changes:
            steps = (
                "{} to {}: {} gained, {} lost".format(
                    a, b, *plots.counts(step, item, shares=shares)
                )
                for (a, b), step in zip(item.pairs, item.steps, strict=True)
            )
            bars.append(f"{item.label}: {', '.join(steps)}")
        wide = max(len(item.steps) for item in changes) > 6
        across = 1 if wide or len(draws) % 2 else 2
        context = self._context(task)
        grid = partial(figures.grid, draws, axes_titles=(STEP, ""), keys=KEY)
        unit = ", in percent of the answers of a curve's seeds" if shares else ""
        return self._save(
            f"changes-{self.slugs[task]}",
            lambda: grid(across=across, height=1.9 if across > 1 else 1.5, title=context),
            lambda: grid(across=1, height=1.8, width=figures.NARROW),
            title=f"Documents gained and lost: {context}",
            caption=f"{task}: documents gained (filled, up) and lost (hatched, down) at each rank "
            f"against the next lower one{unit}. Panels share their scale.",
            alt=f"Bars of documents gained and lost on {task}. {'; '.join(bars)}.",
        )

    def groups(
        self, task: str, strata: Sequence[StratumRow], curves: Mapping[str, CurveRow]
    ) -> Picture:
        """The areas on each group of a task's documents, of curves by the names in `strata`."""
        values: dict[str, list[str]] = {}
        for row in strata:
            value = f"{curves[row.curve].label} {percent(row.log2.value)} %"
            values.setdefault(row.stratum, []).append(value)
        listed = "; ".join(f"{name}: {', '.join(several)}" for name, several in values.items())
        top = 0.32 if len(curves) < 2 else 0.44 + 0.22 * -(-len(curves) // 2)
        style = self._styles(list(curves.values()))
        context = self._context(task)
        return self._save(
            f"groups-{self.slugs[task]}",
            lambda: figures.single(
                partial(plots.groups, strata=strata, curves=curves, style=style),
                left=[one_line(name, appearance.LABEL_CHARS) for name in values],
                height=0.6 + top + len(values) * (0.2 + 0.07 * len(curves)),
                top=top,
                title=context,
            ),
            title=f"AURAC on each group: {context}",
            caption=f"{task}: AURAC (log2) on each group of documents, with 95 % intervals.",
            alt=f"AURAC on each group of {task}. {listed}.",
        )

    def _save_lines(
        self,
        name: str,
        task: str,
        against: str,
        draw: Callable[..., Axes],
        *,
        series: Sequence[CurveRow],
        areas: Mapping[str, Area | Estimate] | None = None,
        paper: bool = False,
        top: float = 0.45,
        **picture: Any,
    ) -> Picture:
        """Lines that are named at the right; in a column, and for a paper, below."""
        axis = picture.get("axis", "log2")
        called = appearance.area_labels(series, areas, axis)
        column = partial(figures.column, draw, called=called, title=f"{axis_title(axis)} (%)")
        context = self._context(task)
        if paper:
            self.files += figures.save_for_paper(column, self.folder / "paper" / name)
        return self._save(
            name,
            lambda: figures.single(draw, title=context, top=top),
            partial(column, called=called | {plots.RING: ""}),  # the caption says it
            title=f"Accuracy against {against}: {context}",
            series=series,
            **picture,
        )

    def _save(
        self,
        name: str,
        wide: Callable[[], Figure],
        narrow: Callable[[], Figure] | None = None,
        *,
        title: str,
        caption: str,
        alt: str,
        series: Sequence[CurveRow] = (),
        inline: bool = True,
        axis: str = "log2",
    ) -> Picture:
        hover = [_hover_texts(c, axis) for c in series] if self.detailed else []
        inlined = partial(figures.inline_svg, title=one_line(title), alt=one_line(alt), hover=hover)
        svgs = []
        with figures.styled():
            figure = wide()
            self.files += figures.save(figure, self.folder / name)
            if inline:
                svgs.append(inlined(figure, name))
        if inline and narrow and self.detailed:
            with figures.styled(small=True):
                svgs.append(inlined(narrow(), f"{name}-narrow"))
        file, labels = f"{self.folder.name}/{name}.svg", tuple(curve.label for curve in series)
        return Picture(name, caption, alt, file, tuple(svgs), labels)

    def _curve_caption(
        self,
        task: str,
        coloured: Sequence[CurveRow],
        axis: str,
        rest: Sequence[CurveRow],
        left: Sequence[CurveRow],
    ) -> str:
        """How to read a rank-accuracy figure: only what is in it."""
        metrics = ", ".join(dict.fromkeys(curve.metric for curve in coloured))
        scale = f"{axis}, log2 axis" if axis in BUDGETS else f"rank, {axis} axis"
        parts = [f"{task}: accuracy ({metrics}) against {scale}.", *_bands(coloured)]
        if any(curve.members for curve in coloured):
            thin = "; thin ones are the seeds" if self.seeds else ""
            parts.append(f"Lines are means over training seeds{thin}.")
        looks = [self.styles[appearance.key(curve)] for curve in coloured]
        if published := sorted({look.published for look in looks if look.published}):
            parts.append(f"Dashed with hollow marks: as published ({', '.join(published)}).")
        if any(look.line != "-" and not look.published for look in looks):
            parts.append("Dotted, or dots and dashes, with hollow marks: other truncations.")
        if any(curve.baseline is not None for curve in coloured):
            parts.append("Grey dashed line: the base model.")
        parts.append(f"Numbers beside names: {axis_title(axis)} in percent.")
        if rest:
            parts.append(f"Thin grey lines: {counted(len(rest), 'more curve')}.")
        if left:
            named = "; ".join(f"{c.label} {percent(c.area)}" for c in ordered(left))
            parts.append(f"Not drawn: {named}.")
        if any(curve.missing for curve in coloured):
            parts.append("A gap in a line is a missing rank.")
        if ringed := next((curve for curve in coloured if curve.id in self.ringed), None):
            parts.append(
                f"Ring: {ringed.label} at rank {self.ringed[ringed.id]}, recommended: the smallest "
                f"shown to be within {points(self.margin or 0.0)} of the best configuration."
            )
        return " ".join(parts)

    def _curve_alt(
        self, task: str, curves: Sequence[CurveRow], against: str, rest: Sequence[CurveRow]
    ) -> str:
        """Where each curve starts and ends, its peak and recommended rank, and the base."""
        parts = []
        for c in curves:
            line = f"{c.label}: {percent(c.accuracy[0])} % at rank {c.ranks[0]}"
            if len(c.ranks) > 1:
                line += f", {percent(c.accuracy[-1])} % at rank {c.ranks[-1]}"
                top = max(range(len(c.ranks)), key=lambda i: c.accuracy[i])
                if c.accuracy[top] > c.accuracy[-1]:
                    line += f", highest {percent(c.accuracy[top])} % at rank {c.ranks[top]}"
                if c.id in self.ringed:
                    line += f", rank {self.ringed[c.id]} recommended"
            parts.append(line)
        bases = dict.fromkeys(c.baseline for c in curves if c.baseline is not None)
        base = "".join(f" Base model: {percent(value)} %." for value in bases)
        more = f" {counted(len(rest), 'more curve')} in grey." if rest else ""
        return f"Accuracy against {against} on {task}. {'; '.join(parts)}.{base}{more}"


def _bands(coloured: Sequence[CurveRow]) -> Iterator[str]:
    """Whether the curves are of the same documents, and whose bands are drawn."""
    if documents := unequal_documents(coloured):
        yield f"The curves are of different documents ({documents})."
    if bands := plots.banded(coloured):
        over = " over documents and seeds" if any(c.members for c in bands) else ""
        some = f" ({'; '.join(c.label for c in bands)})" if len(bands) < len(coloured) else ""
        yield f"Bands{some}: 95 % intervals for each rank alone{over}."


def _hover_texts(curve: CurveRow, axis: str) -> list[str]:
    """A text for each marked point of a curve, from left to right."""
    places, marked = plots.along(curve, axis), plots.marked(curve)
    return [
        f"{curve.label}, rank {curve.ranks[at]}: {interval(curve.point(at))} %"
        for at in sorted(range(len(places)), key=places.__getitem__)
        if curve.ranks[at] in marked
    ]
