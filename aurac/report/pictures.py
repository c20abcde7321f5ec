"""The figures of one report: which curves are in them, drawn, saved and captioned."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from aurac.report import charts, figures, paper, plots, style, words
from aurac.report.blocks import Picture
from aurac.report.certified import DELTA, points
from aurac.report.documents import best_default
from aurac.report.escape import one_line, slug
from aurac.report.tables import highlighted, ordered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from aurac.report.documents import Changes
    from aurac.report.model import CurveRow, Run
    from aurac.report.plots import Looks
    from aurac.report.strata import Group

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
        self.looks: Looks = style.looks(run.curves)
        self.few = len({curve.adapter for curve in run.curves}) <= len(style.SERIES)
        self.files: list[Path] = []
        self.slugs = unique_slugs(run.task_names)

    def looked(self, curves: Sequence[CurveRow]) -> Looks:
        """The run's looks; where a hue would come twice in one figure, looks of its own."""
        return self.looks if self.few else {**self.looks, **style.looks(curves)}

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
            self.files += paper.write(draw, self.folder / "paper" / name)
        with figures.styled():
            figure = figures.single(draw, labels=_short([*labels, *bases]))
            return self._save(
                figure,
                name,
                title=f"Accuracy against rank on {task}",
                caption=" ".join(
                    [words.curve_caption(task, chosen, axis, bands, rest=rest), *self._marks(task)]
                ),
                alt=words.curve_alt(task, chosen, rest, self.certified),
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
        draw = partial(charts.cost, curves=curves, looked=self.looked(curves))
        if self.detailed:
            self.files += paper.write(draw, self.folder / "paper" / f"cost-{self.slugs[task]}")
        with figures.styled():
            labels = _short([c.label for c in curves])
            figure = figures.single(draw, labels=labels, height=3.6, top=0.55)
            return self._save(
                figure,
                f"cost-{self.slugs[task]}",
                title=f"Accuracy against adapter size on {task}",
                caption=f"{task}: accuracy against the size of the truncated adapter and its "
                "number of parameters; each mark is a rank.",
                alt=words.cost_alt(task, curves),
                series=curves,
            )

    def changes(self, task: str, found: Sequence[Changes], curves: Sequence[CurveRow]) -> Picture:
        """Documents gained and lost at each rank, a panel for each curve."""
        tints = {c.label: self.looked(curves)[style.key(c)].colour for c in curves}
        most = (
            max(step.gained / item.n_docs for item in found for step in item.steps),
            max(step.lost / item.n_docs for item in found for step in item.steps),
        )
        draws: list[Callable[[Any], Any]] = [
            partial(charts.gained_lost, changes=item, colour=tints[item.label], most=most)
            for item in found
        ]
        wide = max(len(item.steps) for item in found) > 6
        seeds = (
            " Over several seeds, the documents of all of them."
            if any(curve.members for curve in curves)
            else ""
        )
        with figures.styled():
            figure = figures.grid(draws, across=1 if wide or len(draws) == 1 else 2, height=1.9)
            return self._save(
                figure,
                f"changes-{self.slugs[task]}",
                title=f"Documents gained and lost on {task}",
                caption=f"{task}: documents gained (filled, up) and lost (hatched, down) at each "
                "rank against the next lower one. Panels share their scale (share of documents)."
                f"{seeds}",
                alt=words.change_alt(task, found),
            )

    def groups(self, task: str, found: Sequence[Group]) -> Picture:
        """The areas on each group of a task's documents."""
        curves = list({group.curve.id: group.curve for group in found}.values())
        count = len({group.name for group in found})
        with figures.styled():
            figure = figures.rows(
                partial(charts.dots, found=found, looked=self.looked(curves)),
                labels=[one_line(group.name, plots.LABEL_CHARS) for group in found],
                height=0.6 + count * (0.2 + 0.07 * len(curves)),
                top=0.08 if len(curves) < 2 else 0.2 + 0.22 * -(-len(curves) // 2),
            )
            return self._save(
                figure,
                f"groups-{self.slugs[task]}",
                title=f"AURAC on each group of {task}",
                caption=f"{task}: AURAC (log2) on each group of documents, with 95 % intervals.",
                alt=words.group_alt(task, found),
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
        self.files += figures.save(figure, self.folder / name)
        hover = [words.hover_texts(c, plots.marked(c)) for c in series] if self.detailed else []
        svg = (
            figures.inline_svg(figure, name, one_line(title), one_line(alt), hover)
            if inline
            else ""
        )
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
