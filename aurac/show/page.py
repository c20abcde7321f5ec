"""The content of a report, the same for Markdown and HTML: sections of text, tables and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aurac.analysis import analyse
from aurac.curves.numbers import confidence, listed
from aurac.show import views, wording
from aurac.show.browser import answers
from aurac.show.charts import plot, plot_differences
from aurac.show.escape import unique_slugs
from aurac.show.views import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from matplotlib.axes import Axes

    from aurac.analysis import Analysis
    from aurac.records.run import StoredRun
    from aurac.show.tabular import Columns

    Draw = Callable[[Callable[[Axes], Axes], str], Path]

FOLDED_TASKS: Final = 4  # with more tasks each is folded
MOST_PAIRS: Final = 6  # lines of a figure of differences


@dataclass(frozen=True)
class Table:
    """Columns of texts with their caption, and below it what some of them mean."""

    caption: str
    columns: Columns
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
class Fold:
    """Blocks that are folded away; at the top of a page a section with its heading."""

    title: str
    blocks: tuple[Any, ...]


@dataclass
class Page:
    """A report; of its blocks a text is a paragraph."""

    title: str
    lead: list[str]
    verdict: list[str | Code]
    first: list[Any]
    sections: list[Fold]


class Pages:
    """Makes the page of a run, and its figures as it goes: `draw` saves one under a name."""

    def __init__(self, run: StoredRun, analysis: Analysis, draw: Draw) -> None:
        self.run, self.analysis, self.draw = run, analysis, draw
        asked = analysis.question
        self.names = views.names_of(analysis, asked.labels)
        self.primary: View | None = None  # over the tasks together
        if asked.primary:
            primary = analyse(run, asked.but(pairs=asked.primary, primary=()))
            (first, *more) = primary.ranks
            of = views.mean_view(primary, self.names) if more else View(primary, first, self.names)
            self.primary = of
        self.views = [View(analysis, task, self.names) for task in analysis.ranks]
        self.mean = views.mean_view(analysis, self.names)
        self.slugs = unique_slugs([of.task for of in self.views])

    def page(self) -> Page:
        """Title, verdict, figure and table first; then each task; then how to make it again."""
        several, question = len(self.views) > 1, self.analysis.question.title
        rows = list(self.names.values()) or [adapter.name for adapter in self.run.adapters]
        names = f"{listed(rows, 3)} on {listed([task.name for task in self.run.tasks])}"
        what = f"; {wording.heading(self.views[0])}" if len(self.views) == 1 else ""
        base = [f"{wording.measured_with(self.run)}{what}.", *wording.other_bases(self.run)]
        page = Page(
            title=question or names,
            lead=[" ".join([f"{names}."] * bool(question) + base)],
            verdict=list(self.verdict()),
            first=[*self.overview()],
            sections=[],
        )
        for of in self.views:
            blocks = [*(self.answer(of) if several else ()), *self.details(of)]
            fold = several and len(self.views) > FOLDED_TASKS
            shown = (Fold(wording.heading(of), tuple(blocks)),) if fold else tuple(blocks)
            if blocks:
                page.sections.append(Fold(of.task if several else "Details", shown))
        page.sections += self.end()
        return page

    def verdict(self) -> Iterator[str | Code]:
        """What the run says, in sentences, with the commands that make what is to be shipped."""
        if self.primary is not None:
            yield from wording.results(self.primary, self.primary.pairs)
        if self.mean is not None and (text := wording.verdict(self.mean)):
            yield f"Mean over {len(self.analysis.averaged)} tasks: {text}"
        for of in self.views:
            task = f"{of.task}: " if len(self.views) > 1 else ""
            texts = [(wording.verdict(of), "")] if self.mean is None else []
            for text, command in [*texts, *wording.conclusions(of, self.run)]:
                yield from [f"{task}{text}"] if text else []
                yield from [Code(command)] if command else []
        if text := wording.how_to_ask(self.views, None):
            yield text
        yield from wording.overlaps(self.run)

    def overview(self) -> Iterator[Any]:
        """One task; of several the mean over them and its differences; before, what is primary."""
        if self.primary is not None:
            caption = f"Primary comparisons: {wording.caption_of_pairs(self.primary)}"
            yield Table(caption, views.difference_table(self.primary))
        if len(self.views) == 1:
            yield from self.answer(self.views[0])
        elif (of := self.mean) is not None:
            columns, notes = views.overview_table(of), tuple(wording.apart(of))
            yield Table("AURAC in percent, of each task.", columns, notes=notes)
            yield from self.differences(of)

    def differences(self, of: View) -> Iterator[Table]:
        """Differences of AURAC, unless they are the primary ones, which stand first."""
        columns = views.difference_table(of)
        if self.primary is None or columns != views.difference_table(self.primary):
            yield Table(wording.caption_of_pairs(of) + wording.how_to_compare(of), columns)

    def answer(self, of: View) -> Iterator[Any]:
        """The figure of a task, differences and its table."""
        yield self.figure(of)
        if of.pairs:
            yield from self.differences(of)
        one = len(of.keys) == 1
        columns = (
            views.ranks_table(of, of.keys[0]) if one else views.accuracy_table(of, bounds=True)
        )
        brackets = "" if of.rolling else f" in percent with {confidence(of.level)} intervals"
        over = f" AURAC is over ranks {of.some_ranks}." if of.some_ranks else ""
        notes = tuple(wording.notes(of, columns))
        yield Table(f"{of.measure} at each rank{brackets}.{over}", columns, notes=notes)

    def figure(self, of: View) -> Figure:
        """Accuracy against rank."""
        svg = self.draw(lambda ax: plot(of, ax), f"rank-accuracy-{self.slugs[of.task]}")
        bars = f"bars: {confidence(of.level)} intervals of each rank alone"
        if of.shipped:
            lost = f"the most that a rank may lose ({confidence(wording.LEVEL)} confidence)"
            bars = f"bars: {lost}. A rank passes if its bar, and those of all larger ranks, "
            bars += "stay above the margin line"
        caption = f"{of.measure} against rank{f'; {bars}' if of.bars else ''}."
        return Figure(caption, f"{of.measure} against rank; a table has the numbers.", svg)

    def details(self, of: View) -> Iterator[Any]:
        """Differences at each rank, answers, and what is folded."""
        known = {(a, b) for a, b, _ in of.rank_pairs}
        pairs = [pair for r in of.pairs if (pair := (r.a, r.b)) in known][:MOST_PAIRS]
        if pairs:
            name = f"rank-differences-{self.slugs[of.task]}"
            alone = f"{confidence(of.level)} intervals, each alone"
            some = f" The first {MOST_PAIRS} pairs; rank_pairs.csv has all."
            shown = some if len(of.pairs) > MOST_PAIRS else ""
            yield Figure(
                f"Differences between adapters at each rank, in points; bars: {alone}.{shown}",
                "Differences between adapters against rank; the table below has the numbers.",
                self.draw(lambda ax: plot_differences(of, pairs, ax), name),
            )
            caption = f"The same in numbers: differences of accuracy in points; {alone}."
            yield Table(caption, views.rank_difference_table(of, pairs))
        if (found := answers(of, self.run)) is not None:
            yield found
        if losses := views.nats_table(of):
            yield Fold(views.NATS, (Table(f"{views.NATS}.", losses),))
        members = next((task.members for task in self.run.tasks if task.name == of.task), ())
        if members:
            table = Table("AURAC in percent.", views.member_table(of, members))
            yield Fold(f"Each of {len(members)} tasks of {of.task}", (table,))

    def end(self) -> Iterator[Fold]:
        """What else to know, failed cells, and how to make the run again."""
        if notes := (*self.analysis.question.notes, *wording.unwritten(self.run)):
            yield Fold("What else to know", notes)
        if failures := self.run.failures:
            columns = {
                "adapter": [f.adapter or "base" for f in failures],
                "rank": [str(f.rank) for f in failures],
                "task": [f.task for f in failures],
                "reason": [f.reason for f in failures],
            }
            yield Fold("Failed cells", (Table("Not measured.", columns, ("task", "reason")),))
        command = self.run.provenance.get("command")
        shown = [Code(str(command))] if command else []
        fold = Fold("Versions, hashes and checkpoints", tuple(self.reproduce()))
        yield Fold("The run's last command", (*shown, fold))

    def reproduce(self) -> Iterator[Any]:
        """Versions and hashes."""
        known = self.run.provenance
        words = ("base", "base_sha256", "dtype", "device", "started", "seconds")
        facts = {word: str(known[word]) for word in words if known.get(word) is not None}
        for word in ("versions", "machine"):
            facts[word] = ", ".join(f"{key} {value}" for key, value in known.get(word, {}).items())
        named = {"what": [word.replace("_", " ") for word in facts], "value": [*facts.values()]}
        yield Table("The run.", named, ("value",))
        rows = self.run.adapters
        for row in rows:
            yield from (f"{row.name}: {note}" for note in row.notes)
        columns = {
            "adapter": [row.name for row in rows],
            "method": [row.method or "" for row in rows],
            "seed": ["" if row.seed is None else str(row.seed) for row in rows],
            "trained rank": [str(row.trained_rank or "") for row in rows],
            "SHA-256": [str(row.sha256 or "")[:16] for row in rows],
            "path": [str(row.path or "") for row in rows],
        }
        yield Table("The checkpoints.", columns, ("method", "SHA-256", "path"))
