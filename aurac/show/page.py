"""The content of a report, the same for Markdown and HTML: sections of text, tables and figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from aurac.analysis.frames import MEAN
from aurac.curves.display import percent
from aurac.show import views
from aurac.show.browser import Answers, answers
from aurac.show.charts import plot, plot_differences
from aurac.show.numbers import confidence, rows_of
from aurac.show.screen import heading, how_to_ask, recommended_lines, verdict
from aurac.show.wording import caption_of_pairs, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

    from aurac.analysis import Analysis
    from aurac.records.run import StoredRun
    from aurac.show.views import TaskView

FOLDED_TASKS: Final = 4  # with more tasks each is folded
MOST_PAIRS: Final = 6  # lines of a figure of differences


@dataclass(frozen=True)
class Text:
    """A paragraph; `command` is set as code below it."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Table:
    """A frame of strings with its caption."""

    caption: str
    frame: pd.DataFrame
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A figure that was saved, as files beside each other with the endings .svg and .png."""

    caption: str
    alt: str
    svg: Path


@dataclass(frozen=True)
class Code:
    """A command or a listing."""

    text: str


@dataclass(frozen=True)
class Browser:
    """Answers to look through."""

    answers: Answers


@dataclass(frozen=True)
class Fold:
    """Blocks that are folded away."""

    summary: str
    blocks: tuple[Any, ...]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Any, ...]


@dataclass
class Page:
    """A report."""

    title: str
    lead: str
    verdict: list[Text]
    first: list[Any]
    sections: list[Section] = field(default_factory=list)


class Pages:
    """Makes the page of a run, and its figures as it goes.

    Args:
        run: What was measured.
        analysis: What it says.
        draw: Saves a figure under a name, and gives the path of its SVG.
        slugs: What tasks are called in names of files.
        labels: Other names of adapters, which `analysis` has already.
    """

    def __init__(
        self,
        run: StoredRun,
        analysis: Analysis,
        draw: Callable[[Callable[[Axes], Axes], str], Path],
        slugs: Mapping[str, str],
        labels: Mapping[str, str],
    ) -> None:
        self.run, self.analysis, self.draw, self.slugs = run, analysis, draw, slugs
        self.labels, self.tasks = labels, views.tasks_of(analysis)

    def page(self) -> Page:
        """Verdict, figure and table first; then each task; then how to make it again."""
        views_of = [views.view(self.analysis, task) for task in self.tasks]
        several = len(views_of) > 1
        names = list(dict.fromkeys(name for of in views_of for name in of.names))
        names = names or [adapter.name for adapter in self.run.adapters]
        about = self.run.provenance.get("base")
        what = f"; {heading(views_of[0], self.run)}" if len(views_of) == 1 else ""
        page = Page(
            title=f"{listed(names)} on {listed([task.name for task in self.run.tasks])}",
            lead=f"Base {about}{what}.",
            verdict=self.verdict(views_of) if views_of else [],
            first=[*(self.answer(views_of[0]) if len(views_of) == 1 else self.overview())],
        )
        for of in views_of:
            blocks = [*(self.answer(of) if several else ()), *self.details(of)]
            fold = several and len(views_of) > FOLDED_TASKS
            shown = (Fold(heading(of, self.run), tuple(blocks)),) if fold else tuple(blocks)
            if blocks:
                page.sections.append(Section(of.task if several else "Details", shown))
        page.sections += self.end()
        return page

    def verdict(self, views_of: list[TaskView]) -> list[Text]:
        """What the run says, in sentences."""
        several = len(views_of) > 1
        of = views.view(self.analysis, MEAN) if several else views_of[0]
        said = [Text(verdict(of))] if len(of.pairs) else []
        if several and said:
            said = [Text(f"Mean over {len(self.analysis.averaged)} tasks: {said[0].text}")]
        for each in views_of:
            for line in recommended_lines(each, self.run, each.names[0]):
                sentence, _, command = line.partition("\n  ")
                said.append(Text(f"{each.task}: {sentence}" if several else sentence, command))
        if self.analysis.question.margin is None and not all(of.rolling for of in views_of):
            said.append(Text(how_to_ask(None)))
        return said

    def overview(self) -> Iterator[Any]:
        """Several tasks: the mean over them and its differences."""
        of = views.view(self.analysis, MEAN)
        if len(of.scores):
            yield Table("AURAC in percent, of each task.", views.overview_table(self.analysis))
        if len(of.pairs):
            yield self.differences(of)

    def differences(self, of: TaskView) -> Table:
        """Differences of AURAC."""
        frame = views.difference_table(of)
        return Table(caption_of_pairs(of.pairs, of.level, len(frame)), frame)

    def answer(self, of: TaskView) -> Iterator[Any]:
        """The figure and the table of a task."""
        yield self.figure(of)
        one = len(of.names) == 1
        frame = (
            views.ranks_table(of, of.names[0]) if one else views.accuracy_table(of, intervals=True)
        )
        note = "".join(f" {x}." for x in views.notes(frame, self.analysis.question.margin))
        brackets = "" if of.rolling else f" in percent with {confidence(of.level)} intervals"
        what = of.metric if of.rolling else "Accuracy"
        yield Table(f"{what} at each rank{brackets}.{_shared(of)}{note}", frame)
        if len(of.pairs):
            yield self.differences(of)

    def figure(self, of: TaskView, axis: str = "log2") -> Figure:
        """Accuracy against rank."""
        name = f"rank-accuracy-{self.slugs[of.task]}{'' if axis == 'log2' else '-linear'}"
        svg = self.draw(lambda ax: plot(self.analysis, of.task, ax, axis=axis), name)
        known = of.points["low"].notna().any() and not of.rolling
        bands = f"; bands: {confidence(of.level)} intervals of each rank alone" if known else ""
        return Figure(f"Accuracy against rank, {axis} axis{bands}.", self.alt(of), svg)

    def alt(self, of: TaskView) -> str:
        """A figure in words: the ends of each line."""
        parts = []
        for name in of.names[:8]:
            found = of.of(name).dropna(subset="accuracy")
            found = found[found["rank"] > 0]
            if len(found):
                ends = [found.iloc[0], found.iloc[-1]]
                said = [
                    f"{percent(p.accuracy)} % at rank {p['rank']:.0f}"
                    if not of.rolling
                    else f"{p.accuracy:.4g} at rank {p['rank']:.0f}"
                    for p in ends
                ]
                parts.append(f"{name}: {', '.join(dict.fromkeys(said))}")
        return f"{of.metric if of.rolling else 'Accuracy'} against rank. {'; '.join(parts)}."

    def details(self, of: TaskView) -> Iterator[Any]:
        """Differences at each rank, answers, and what is folded."""
        pairs = [(str(row.a), str(row.b)) for row in rows_of(of.pairs)]
        known = {(str(row.a), str(row.b)) for row in rows_of(of.rank_pairs)}
        pairs = [pair for pair in pairs if pair in known][:MOST_PAIRS]
        if pairs:
            name = f"rank-differences-{self.slugs[of.task]}"
            alone = f"{confidence(of.level)} intervals, each alone"
            shown = f" The first {MOST_PAIRS} pairs." if len(of.pairs) > MOST_PAIRS else ""
            yield Figure(
                f"Differences between adapters at each rank, in points; bars: {alone}.{shown}",
                "Differences between adapters against rank; the table below has the numbers.",
                self.draw(lambda ax: plot_differences(of, pairs, ax), name),
            )
            caption = f"The same in numbers: differences of accuracy in points; {alone}."
            yield Table(caption, views.rank_difference_table(of, pairs))
        if (found := answers(of, self.run)) is not None:
            yield Browser(found)
        ranks = of.shared_ranks
        if not of.rolling and len(ranks) > 1 and len(views.linear_table(of)):
            yield Fold(
                "Linear axis and weights of the ranks",
                (
                    self.figure(of, "linear"),
                    Table("AURAC in percent.", views.linear_table(of)),
                    Table("Weight of each rank in AURAC, in percent.", views.weight_table(ranks)),
                ),
            )
        if (frame := views.member_table(self.run, of, self.labels)) is not None:
            caption = "AURAC in percent."
            yield Fold(f"Each of {len(frame)} tasks of {of.task}", (Table(caption, frame),))

    def end(self) -> Iterator[Section]:
        """Failed cells, and how to make the run again."""
        if failures := self.run.failures:
            frame = pd.DataFrame(
                {
                    "adapter": [f.adapter or "base" for f in failures],
                    "rank": [str(f.rank) for f in failures],
                    "task": [f.task for f in failures],
                    "reason": [f.reason for f in failures],
                }
            )
            yield Section("Failed cells", (Table("Not measured.", frame, ("task", "reason")),))
        yield Section("How to reproduce", tuple(self.reproduce()))

    def reproduce(self) -> Iterator[Any]:
        """Command, versions and hashes."""
        known = self.run.provenance
        if command := known.get("command"):
            yield Code(str(command))
        words = ("base", "base_sha256", "dtype", "device", "backend", "started", "seconds")
        facts = {word: known[word] for word in words if known.get(word) is not None}
        versions = known.get("versions") or {}
        facts["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
        if isinstance(machine := known.get("machine"), dict):
            facts["machine"] = ", ".join(f"{key} {value}" for key, value in machine.items())
        frame = pd.DataFrame(
            {
                "what": [word.replace("_", " ") for word in facts],
                "value": [str(value) for value in facts.values()],
            }
        )
        yield Table("The run.", frame, ("value",))
        rows = self.run.adapters
        for row in rows:
            yield from (Text(f"{row.name}: {note}") for note in row.notes)
        yield Table(
            "The checkpoints.",
            pd.DataFrame(
                {
                    "adapter": [row.name for row in rows],
                    "method": [row.method or "" for row in rows],
                    "seed": ["" if row.seed is None else str(row.seed) for row in rows],
                    "trained rank": [str(row.trained_rank or "") for row in rows],
                    "SHA-256": [str(row.sha256 or "")[:16] for row in rows],
                    "path": [str(row.path or "") for row in rows],
                }
            ),
            ("method", "SHA-256", "path"),
        )


def _shared(of: TaskView) -> str:
    """The ranks that an area is over, where adapters have others too."""
    if of.rolling or not of.shared_ranks or of.ranks == of.shared_ranks:
        return ""
    return f" AURAC is over the ranks that all have: {', '.join(map(str, of.shared_ranks))}."
