"""The figures of one report: which curves are in them, drawn, saved and captioned."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from aurac.report import figures, plots, style, words
from aurac.report.blocks import Picture
from aurac.report.escape import one_line, slug
from aurac.report.tables import ordered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from aurac.report.documents import Changes
    from aurac.report.model import CurveRow, Run
    from aurac.report.plots import Looks

_PANEL_CURVES = 30
_PANEL_BEST = 3


class Pictures:
    """Draws figures into one folder and remembers the files.

    Args:
        run: What was measured.
        folder: Where the files go.
        formats: Of the files.
        hover: Whether each point in a page carries its numbers.
    """

    def __init__(self, run: Run, folder: Path, formats: Sequence[str], *, hover: bool) -> None:
        self.run, self.folder, self.formats, self.hover = run, folder, formats, hover
        self.looks: Looks = style.looks(run.curves)
        self.few = len({curve.adapter for curve in run.curves}) <= len(style.SERIES)
        self.files: list[Path] = []
        self.slugs = unique_slugs(run.task_names)

    def highlighted(self, task: str) -> list[CurveRow]:
        """The curves in colour: the best default ones, then other inferences of these adapters."""
        curves = [curve for curve in self.run.of_task(task) if curve.ranks]
        default = ordered([c for c in curves if c.is_default])[: style.MAX_HIGHLIGHTED]
        names = {curve.adapter for curve in default}
        rest = [c for c in curves if not c.is_default and (c.adapter in names or not default)]
        chosen = [*default, *rest][: style.MAX_HIGHLIGHTED]
        return [curve for curve in curves if curve in chosen]

    def looked(self, curves: Sequence[CurveRow]) -> Looks:
        """The run's looks; where a hue would come twice in one figure, looks of its own."""
        return self.looks if self.few else {**self.looks, **style.looks(curves)}

    def rank_accuracy(self, task: str, axis: str = "log2") -> Picture:
        """Accuracy against rank for one task."""
        every = [curve for curve in self.run.of_task(task) if curve.ranks]
        chosen = self.highlighted(task)
        draw = partial(
            plots.rank_accuracy,
            curves=every,
            axis=axis,
            looked=self.looked(chosen),
            highlight={curve.id for curve in chosen},
        )
        rest = len(every) - len(chosen)
        bands = plots.banded(chosen)
        name = f"rank-accuracy-{self.slugs[task]}{'' if axis == 'log2' else '-linear'}"
        labels = [curve.label for curve in chosen]
        bases = list(plots.baselines(every))
        with figures.styled():
            figure = figures.single(draw, labels=_short([*labels, *bases]))
            return self._save(
                figure,
                name,
                title=f"Accuracy against rank on {task}",
                caption=words.curve_caption(task, chosen, axis, bands, rest=rest),
                alt=words.curve_alt(task, chosen, rest),
                series=chosen,
            )

    def overview(self, tasks: Sequence[str]) -> Picture:
        """All tasks as small multiples."""
        draws = [partial(self._panel, task=task) for task in tasks]
        with figures.styled():
            figure = figures.grid(draws, across=3, height=1.6)
            return self._save(
                figure,
                "overview",
                title="Rank-accuracy curves of all tasks",
                caption=words.overview_caption(_PANEL_BEST, shared=self.few),
                alt=words.overview_alt(self.run, tasks),
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
        with figures.styled():
            figure = figures.single(draw, labels=_short([c.label for c in curves]), height=3.2)
            return self._save(
                figure,
                f"cost-{self.slugs[task]}",
                title=f"Accuracy against adapter size on {task}",
                caption=f"{task}: accuracy against the size of the truncated adapter; each mark is "
                "a rank.",
                alt=words.cost_alt(task, curves),
                series=curves,
            )

    def changes(self, task: str, found: Sequence[Changes], curves: Sequence[CurveRow]) -> Picture:
        """Documents gained and lost at each rank, a panel for each curve."""
        tints = {c.label: self.looked(curves)[style.key(c)].colour for c in curves}
        steps = [step for item in found for step in item.steps]
        most = (max(step.gained for step in steps), max(step.lost for step in steps))
        draws: list[Callable[[Any], Any]] = [
            partial(plots.gained_lost, changes=item, colour=tints[item.label], most=most)
            for item in found
        ]
        wide = max(len(item.steps) for item in found) > 6
        with figures.styled():
            figure = figures.grid(draws, across=1 if wide or len(draws) == 1 else 2, height=1.9)
            return self._save(
                figure,
                f"changes-{self.slugs[task]}",
                title=f"Documents gained and lost on {task}",
                caption=f"{task}: documents gained (filled, up) and lost (hatched, down) at each "
                "rank against the next lower one. Panels share their scale.",
                alt=words.change_alt(task, found),
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
    ) -> Picture:
        self.files += figures.save(figure, self.folder / name, formats=self.formats)
        hover = [words.hover_texts(c, plots.marked(c)) for c in series] if self.hover else []
        svg = figures.inline_svg(figure, name, one_line(title), one_line(alt), hover)
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
