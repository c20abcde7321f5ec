"""A run becomes a report: which sections, in which order, with what in them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aurac.report import comparisons, tables
from aurac.report.answers import answers
from aurac.report.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Column,
    Examples,
    Fold,
    Report,
    Section,
    Table,
    Text,
)
from aurac.report.caveats import caveats
from aurac.report.documents import best_default, changes, examples, wordings
from aurac.report.escape import one_line
from aurac.report.paired import differences, losses
from aurac.report.pictures import Pictures
from aurac.report.tables import percent

if TYPE_CHECKING:
    from pathlib import Path

    from aurac.report.model import Run

# With more tasks or rows than this the report summarises; the files have everything.
MANY_TASKS = 4
MANY_ROWS = 40
_FULL_FIGURES = 8
_PAIRED = 5

_AURAC = (
    "AURAC is the area under the rank-accuracy curve divided by its width, so it is a weighted "
    "mean of the accuracies. On the log2 axis, the headline, each doubling of the rank counts "
    "alike; on the linear axis the highest ranks dominate; the mean counts each measured rank "
    "alike."
)
_TASK_KEYS = {
    "task": "name",
    "metric": "metric",
    "few-shot": "num_fewshot",
    "documents": "n_docs",
    "limit": "limit",
    "output": "output_type",
    "version": "version",
    "documents sha256": "documents_sha256",
    "prompts sha256": "prompts_sha256",
}
_ADAPTER_KEYS = {
    "adapter": "name",
    "method": "method",
    "trained rank": "trained_rank",
    "nested ranks": "nested_ranks",
    "rank weights": "weights",
    "scaling rule": "rule",
    "alpha": "alpha",
    "seed": "seed",
    "modules": "modules",
    "update": "update",
    "notes": "notes",
    "path": "path",
    "sha256": "sha256",
}


class Builder:
    """Builds one report.

    Args:
        run: What was measured.
        folder: Where the figures go.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        self.run = run
        self.large = len(run.task_names) > MANY_TASKS
        formats = ("svg", "png") if self.large else ("svg", "png", "pdf")
        self.pictures = Pictures(run, folder, formats, hover=not self.large)
        self.rows = MANY_ROWS // 2 if self.large else MANY_ROWS
        self.slugs = self.pictures.slugs
        most = 1 if self.large else _PAIRED
        self.differences = differences(run, most)

    def report(self) -> Report:
        """The whole report, in reading order."""
        sections = [
            self.answer(),
            self.curves(),
            self.scores(),
            self.paired(),
            self.smaller(),
            self.bases(),
            self.costs(),
            self.documents(),
            self.limits(),
            self.method(),
        ]
        return Report(
            title=self.title(),
            lead=self.lead(),
            sections=tuple(section for section in sections if section.blocks),
            version=self.run.version,
        )

    def title(self) -> str:
        """What was compared, in a line."""
        adapters = list(dict.fromkeys(curve.adapter for curve in self.run.curves))
        tasks = self.run.task_names
        who = ", ".join(adapters) if len(adapters) <= 4 else f"{len(adapters)} adapters"
        where = ", ".join(tasks) if len(tasks) <= 3 else f"{len(tasks)} tasks"
        return one_line(f"{who or 'no adapter'} on {where or 'no task'}", 120)

    def lead(self) -> str:
        """Base, ranks and documents, in a line."""
        bases = dict.fromkeys(str(c.base) for c in self.run.curves if c.base)
        ranks = sorted({rank for curve in self.run.curves for rank in curve.ranks})
        counts = sorted({curve.n_docs for curve in self.run.curves if curve.n_docs})
        parts = [f"base {', '.join(bases)}"] if bases else []
        if ranks:
            span = f"ranks {ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else f"rank {ranks[0]}"
            parts.append(span)
        if counts:
            low, high = counts[0], counts[-1]
            each = " for each task" if len(self.run.task_names) > 1 else ""
            span = str(low) if low == high else f"{low} to {high}"
            parts.append(f"{span} documents{each}")
        return "; ".join(parts)

    def answer(self) -> Section:
        """The first thing a reader wants to know."""
        every = [difference for found in self.differences.values() for difference in found]
        blocks: list[Block] = [Text(line, strong=True) for line in answers(self.run, every)]
        if self.large:
            blocks.append(self._winners())
        return Section("answer", "The answer", tuple(blocks))

    def _winners(self) -> Table:
        rows = [self._winner(task) for task in self.run.task_names]
        columns = (
            Column("task"),
            Column("largest AURAC"),
            Column("AURAC log2 [95 %]", numeric=True),
            Column("runner-up"),
            Column("ahead by [95 %]", numeric=True),
            Column("p", numeric=True),
        )
        caption = (
            "The leading default curve of each task, and its paired distance to the runner-up in "
            "points. p is adjusted for every pair of adapters over all tasks (Holm)."
        )
        return Table("winners", caption, columns, tuple(rows))

    def _winner(self, task: str) -> tuple[Cell, ...]:
        scored = [c for c in tables.ordered(self.run.of_task(task)) if c.is_default and c.log2]
        none = Cell(tables.NONE)
        if not scored:
            return (Cell(task), Cell("no score"), none, none, none, none)
        lead = (Cell(task), Cell(scored[0].label))
        area = Cell(tables.interval(scored[0].log2), tables.area(scored[0]))
        if len(scored) == 1:
            return (*lead, area, none, none, none)
        second = scored[1]
        found = next((d for d in self.differences[task] if d.second is second), None)
        if found is None:
            gap = tables.area(scored[0]) - tables.area(second)
            return (*lead, area, Cell(second.label), Cell(percent(gap), gap), none)
        text = comparisons.with_interval(found)
        p = Cell(comparisons.p_value(found.adjusted), found.adjusted)
        return (*lead, area, Cell(second.label), Cell(text, found.value), p)

    def curves(self) -> Section:
        """Rank-accuracy curves: every task its figure, many tasks an overview first."""
        tasks = [t for t in self.run.task_names if any(c.ranks for c in self.run.of_task(t))]
        pictures = [self.pictures.rank_accuracy(task) for task in tasks]
        if not self.large:
            blocks: list[Block] = [*pictures]
            linear = tuple(self.pictures.rank_accuracy(task, "linear") for task in tasks)
            blocks += [Fold("The same on a linear rank axis", linear)] if linear else []
            return Section("curves", "Accuracy at every rank", tuple(blocks))
        blocks = [self.pictures.overview(tasks)] if tasks else []
        shown = tuple(pictures[:_FULL_FIGURES])
        blocks += [Fold("A larger figure for each task", shown)] if shown else []
        if len(tasks) > _FULL_FIGURES:
            rest = f"The larger figures of the other {len(tasks) - _FULL_FIGURES} tasks are in "
            blocks.append(Text(rest + "the folder figures."))
        return Section("curves", "Accuracy at every rank", tuple(blocks))

    def scores(self) -> Section:
        """AURAC tables, accuracy at every rank, and the weights."""
        blocks: list[Block] = []
        for task in self.run.task_names:
            curves, name = self.run.of_task(task), self.slugs[task]
            shown = tables.ordered(curves)[: self.rows]
            parts: list[Block] = [tables.aurac_table(task, shown, f"aurac-{name}")]
            if len(curves) > len(shown):
                rest = len(curves) - len(shown)
                parts.append(Text(f"The {rest} curves below these are in table.csv."))
            parts.append(tables.rank_table(task, shown, f"ranks-{name}"))
            blocks += [Fold(task, tuple(parts))] if self.large else parts
        weights = tables.weight_table(self.run.curves, "weights")
        if blocks:
            blocks += [Text(_AURAC), *([weights] if weights else [])]
        return Section("aurac", "AURAC", tuple(blocks))

    def paired(self) -> Section:
        """The best curve against the others, on the same documents."""
        blocks: list[Block] = []
        for task in () if self.large else self.run.task_names:
            found = self.differences[task]
            if found:
                name = f"paired-{self.slugs[task]}"
                blocks.append(comparisons.difference_table(task, found, name))
        return Section("paired", "Paired differences", tuple(blocks))

    def smaller(self) -> Section:
        """What a smaller rank loses against the highest one."""
        blocks: list[Block] = []
        for task in () if self.large else self.run.task_names:
            chosen = [c for c in self.pictures.highlighted(task) if c.is_default]
            lost = [loss for curve in chosen for loss in losses(curve)]
            if lost:
                blocks.append(comparisons.loss_table(task, lost, f"losses-{self.slugs[task]}"))
        return Section("smaller", "What a smaller rank loses", tuple(blocks))

    def bases(self) -> Section:
        """Prefix against SVD, where the run has both for an adapter."""
        blocks: list[Block] = []
        for task in self.run.task_names:
            curves = self.run.of_task(task)
            both = {c.adapter for c in curves if c.basis == "svd"}
            both &= {c.adapter for c in curves if c.basis == "prefix"}
            chosen = [c for c in curves if c.adapter in both and c.role != "published"]
            if chosen:
                table = tables.rank_table(task, chosen[:MANY_ROWS], f"bases-{self.slugs[task]}")
                blocks.append(table)
        return Section("bases", "Prefix against SVD", tuple(blocks))

    def costs(self) -> Section:
        """Accuracy against what has to be stored."""
        blocks: list[Block] = []
        for task in self.run.task_names[: 1 if self.large else None]:
            curves = [c for c in self.pictures.highlighted(task) if c.is_default]
            chosen = [curve for curve in curves if curve.ranks and all(curve.bytes)]
            if not chosen:
                continue
            table = tables.cost_table(task, chosen, f"cost-table-{self.slugs[task]}")
            blocks += [self.pictures.cost(task, chosen), *([table] if table else [])]
        if self.large and blocks:
            blocks.append(Text("Sizes and accuracies of the other tasks are in points.csv."))
        return Section("cost", "Accuracy against size", tuple(blocks))

    def documents(self) -> Section:
        """Documents gained and lost with the rank, and a few of them with their answers."""
        blocks: list[Block] = []
        for task in self.run.task_names[: 1 if self.large else None]:
            chosen = [c for c in self.pictures.highlighted(task) if c.is_default]
            found = [item for curve in chosen if (item := changes(curve)) is not None]
            if found:
                blocks.append(self.pictures.changes(task, found, chosen))
                table = tables.change_table(task, found, f"changes-table-{self.slugs[task]}")
                blocks.append(Fold("These numbers as a table", (table,)))
            blocks += self._examples(task)
        if self.large:
            ends = [item for task in self.run.task_names for item in self._ends(task)]
            blocks += [tables.end_table(ends, "ends")] if ends else []
        return Section("documents", "Documents gained and lost", tuple(blocks))

    def _ends(self, task: str) -> list[Any]:
        best = best_default(self.run, task)
        item = changes(best, (best.ranks[0], best.ranks[-1])) if best else None
        return [item] if item else []

    def _examples(self, task: str) -> list[Block]:
        best = best_default(self.run, task)
        shown = examples(self.run, best) if best else []
        if best is None or not shown:
            return []
        asked = "" if wordings(self.run, task) else " This run did not keep the questions."
        text = (
            f"{task}: some documents as {best.label} answered them at a low, a middle and its "
            f"highest rank. The first of each kind in the task's order, nobody picked them.{asked}"
        )
        return [Text(text), Examples(tuple(shown))]

    def limits(self) -> Section:
        """The caveats of this run."""
        lines = caveats(self.run)
        blocks = (Bullets(tuple(lines)),) if lines else ()
        return Section("caveats", "What to keep in mind about this run", blocks)

    def method(self) -> Section:
        """Everything that is needed to run it again, or to doubt it."""
        blocks: list[Block] = []
        for item in self.run.provenance:
            if item.get("command"):
                blocks += [Text("Run it again:"), Code(_command(item["command"]))]
        if self.run.tasks:
            blocks.append(tables.listing("tasks", "Tasks", _TASK_KEYS, self.run.tasks))
        if self.run.adapters:
            adapters = tables.listing("adapters", "Adapters", _ADAPTER_KEYS, self.run.adapters)
            many = len(adapters.rows) > MANY_ROWS // 2
            blocks.append(Fold("Adapters", (adapters,)) if many else adapters)
        recipes = [
            {"adapter": adapter.get("name"), **adapter["recipe"]}
            for adapter in self.run.adapters
            if isinstance(adapter.get("recipe"), Mapping)
        ]
        if recipes:
            keys = dict.fromkeys(key for recipe in recipes for key in recipe)
            table = tables.listing("recipes", "Recipes", {key: key for key in keys}, recipes)
            blocks.append(Fold("How the adapters were trained", (table,)))
        for at, item in enumerate(self.run.provenance):
            facts = _facts(item)
            if facts:
                table = tables.settings_table(facts, f"provenance-{at}", "Settings and versions")
                blocks.append(table)
        return Section("method", "Method, settings, hashes, versions", tuple(blocks))


def _command(command: Any) -> str:
    if isinstance(command, (list, tuple)):
        return shlex.join(str(part) for part in command)
    return str(command)


def _facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance as pairs, nested mappings flattened one level."""
    facts: dict[str, Any] = {}
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            facts |= {f"{name}: {inner}": part for inner, part in value.items()}
        elif name != "command":
            facts[name] = value
    return facts
