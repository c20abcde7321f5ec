"""A run becomes the content of a report: which sections, in which order, with what in them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aurac.report import tables
from aurac.report.comparisons import find, rings
from aurac.report.content import (
    Block,
    Bullets,
    Cell,
    Code,
    Column,
    Examples,
    Fold,
    Picture,
    Report,
    Section,
    Table,
    Text,
)
from aurac.report.documents import examples, wordings
from aurac.report.escape import one_line
from aurac.report.figures import Pictures
from aurac.report.model import DELTA, MANY_TASKS, area, best_default, highlighted, ordered
from aurac.report.tables import gap_table, group_table, percent, rival_table
from aurac.report.text import answers, caveats, margin_note, rank_sentence

if TYPE_CHECKING:
    from pathlib import Path

    from aurac.report.comparisons import Group
    from aurac.report.model import CurveRow, Interval, Run


_MANY = 20
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


def method(run: Run) -> Section:
    """Everything that is needed to run it again, or to doubt it."""
    blocks: list[Block] = []
    for item in run.provenance:
        if item.get("command"):
            blocks += [Text("Run it again:"), Code(command_line(item["command"]))]
    if run.tasks:
        blocks.append(tables.listing("tasks", "Tasks", _TASK_KEYS, run.tasks))
    if run.adapters:
        adapters = tables.listing("adapters", "Adapters", _ADAPTER_KEYS, run.adapters)
        many = len(adapters.rows) > _MANY
        blocks.append(Fold("Adapters", (adapters,)) if many else adapters)
    recipes = [
        {"adapter": adapter.get("name"), **adapter["recipe"]}
        for adapter in run.adapters
        if isinstance(adapter.get("recipe"), Mapping)
    ]
    if recipes:
        blocks.append(Fold("How the adapters were trained", _recipes(recipes)))
    for at, item in enumerate(run.provenance):
        facts = _facts(item)
        if facts:
            table = tables.settings_table(facts, f"provenance-{at}", "Settings and versions")
            blocks.append(table)
    return Section("method", "Method, settings, hashes, versions", tuple(blocks))


def _recipes(recipes: Sequence[Mapping[str, Any]]) -> tuple[Block, ...]:
    """What differs between the recipes as a table, what is the same in a sentence."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    same = {
        key: recipes[0].get(key)
        for key in keys
        if len(recipes) > 1 and all(recipe.get(key) == recipes[0].get(key) for recipe in recipes)
    }
    differing = {key: key for key in keys if key not in same}
    table = tables.listing("recipes", "Recipes", differing, recipes)
    said = [f"{key} {tables.entry(value)}" for key, value in same.items() if tables.known(value)]
    alike = Text(f"The same for all: {'; '.join(said)}.")
    return (table, alike) if said else (table,)


def command_line(command: Any) -> str:
    """The recorded command as one would type it."""
    if isinstance(command, (list, tuple)):
        return shlex.join(str(part) for part in command)
    return str(command)


def _facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance as pairs, nested mappings flattened one level, what is not set in one row."""
    facts: dict[str, Any] = {}
    default = []
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            facts |= {
                f"{name}: {inner}": part for inner, part in value.items() if tables.known(part)
            }
            default += [str(inner) for inner, part in value.items() if not tables.known(part)]
        elif name != "command" and tables.known(value):
            facts[name] = value
    return facts | ({"left at their defaults": ", ".join(default)} if default else {})


# With more tasks or rows than this the report summarises; the files have everything.
MANY_ROWS = 40
_FULL_FIGURES = 8
_GROUP_ROWS = 24

_AURAC = (
    "AURAC is the area under the rank-accuracy curve divided by its width, so it is a weighted "
    "mean of the accuracies. On the log2 axis, the headline, each doubling of the rank counts "
    "alike; on the linear axis the highest ranks dominate; the mean counts each measured rank "
    "alike."
)


class Builder:
    """Builds one report.

    Args:
        run: What was measured.
        folder: Where the figures go.
        delta: The loss against the highest rank that the certificates tolerate, a fraction; None
            where the user gave none.
    """

    def __init__(self, run: Run, folder: Path, delta: float | None = None) -> None:
        self.run, self.delta = run, DELTA if delta is None else delta
        self.margin = margin_note(self.delta, assumed=delta is None)
        self.large = len(run.task_names) > MANY_TASKS
        self.found = find(run, self.delta)
        self.pictures = Pictures(
            run,
            folder,
            detailed=not self.large,
            certified=rings(list(self.found.certificates.values())),
            delta=self.delta,
        )
        self.rows = MANY_ROWS // 2 if self.large else MANY_ROWS
        self.slugs = self.pictures.slugs

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
            self.groups(),
            self.limits(),
            method(self.run),
        ]
        return Report(
            title=self.title(),
            lead=self.lead(),
            sections=tuple(self._plain(section) for section in sections if section.blocks),
            version=self.run.version,
        )

    def _plain(self, section: Section) -> Section:
        """With a single task its name is in the title, and need not open every caption."""
        names = self.run.task_names
        if len(names) != 1:
            return section
        blocks = tuple(_without(block, f"{names[0]}: ") for block in section.blocks)
        return replace(section, blocks=blocks)

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
        every = [difference for found in self.found.pairs.values() for difference in found]
        lines = answers(self.run, every, self.found.leaders)
        if not self.large:
            lines = [*lines, *self._ranks()]
        blocks: list[Block] = [Text(line, strong=True) for line in lines]
        if self.large:
            blocks.append(self._winners())
        return Section("answer", "The answer", tuple(blocks))

    def _ranks(self) -> list[str]:
        """At which rank to use the best adapter of each task, and at what cost."""
        several = len(self.run.task_names) > 1
        lines = []
        for task in self.run.task_names:
            best = best_default(self.run, task)
            if best and best.ranks:
                found, picked_from = self.found.certificate(best), 1
                leader = self.found.leaders.get(task)
                if leader and leader.leader == best.adapter and leader.recommended:
                    found, picked_from = leader.recommended.result, leader.compared
                who = f"{best.label} on {task}" if several else best.label
                lines.append(rank_sentence(best, found, who, picked_from=picked_from))
        return [*lines, self.margin] if any(self.found.joint.values()) else lines

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
            "points. Its interval is widened because the largest was picked. p is adjusted for "
            "every pair of adapters over all tasks (Holm)."
        )
        return Table("winners", caption, columns, tuple(rows))

    def _winner(self, task: str) -> tuple[Cell, ...]:
        scored = [c for c in ordered(self.run.of_task(task)) if c.is_default and c.log2]
        none = Cell(tables.NONE)
        if not scored:
            return (Cell(task), Cell("no score"), none, none, none, none)
        lead = (Cell(task), Cell(scored[0].label))
        score = Cell(tables.interval(self._picked(scored[0])), area(scored[0]))
        if len(scored) == 1:
            return (*lead, score, none, none, none)
        second = scored[1]
        found = next((d for d in self.found.pairs[task] if d.second is second), None)
        if found is None:
            gap = area(scored[0]) - area(second)
            return (*lead, score, Cell(second.label), Cell(percent(gap), gap), none)
        text = tables.with_interval(found)
        p = Cell(tables.p_value(found.adjusted), found.adjusted)
        return (*lead, score, Cell(second.label), Cell(text, found.value), p)

    def _picked(self, curve: CurveRow) -> Interval | None:
        """The area of a leading curve, with an interval that allows for its having been picked."""
        row = self.found.leaders.get(curve.task)
        if curve.log2 is None or row is None or row.leader != curve.adapter or not row.estimate:
            return curve.log2
        return replace(curve.log2, low=row.estimate.low, high=row.estimate.high)

    def curves(self) -> Section:
        """Rank-accuracy curves: every task its figure, many tasks an overview first."""
        tasks = [t for t in self.run.task_names if any(c.ranks for c in self.run.of_task(t))]
        most = _FULL_FIGURES if self.large else len(tasks)
        pictures = [
            self.pictures.rank_accuracy(task, inline=at < most) for at, task in enumerate(tasks)
        ]
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
            shown = ordered(curves)[: self.rows]
            parts: list[Block] = [tables.aurac_table(task, shown, f"aurac-{name}")]
            if len(curves) > len(shown):
                rest = len(curves) - len(shown)
                parts.append(Text(f"The {rest} curves below these are in table.csv."))
            parts.append(tables.rank_table(task, shown, f"ranks-{name}"))
            parts += self._checkpoints(task, shown)
            blocks += [Fold(task, tuple(parts))] if self.large else parts
        weights = tables.weight_table(self.run.curves, "weights")
        if blocks:
            blocks += [Text(_AURAC), *([weights] if weights else [])]
        return Section("aurac", "AURAC", tuple(blocks))

    def _checkpoints(self, task: str, shown: Sequence[CurveRow]) -> list[Block]:
        """The single checkpoints behind the means over seeds."""
        seeds = [seed for curve in shown for seed in curve.members][:MANY_ROWS]
        if not seeds:
            return []
        name = f"seeds-{self.slugs[task]}"
        inner = tables.aurac_table(task, seeds, name), tables.rank_table(task, seeds, f"{name}-r")
        return [Fold("The single checkpoints behind the means over seeds", inner)]

    def paired(self) -> Section:
        """The best curve against the others, on the same documents."""
        blocks: list[Block] = []
        for task in () if self.large else self.run.task_names:
            found = self.found.pairs[task]
            if found:
                name = f"paired-{self.slugs[task]}"
                blocks.append(tables.difference_table(task, found, name))
        return Section("paired", "Paired differences", tuple(blocks))

    def smaller(self) -> Section:
        """What a smaller rank loses against the highest one."""
        blocks: list[Block] = []
        for task in () if self.large else self.run.task_names:
            mine = [(c, f) for c, f in self.found.certificates.values() if c.task == task and f]
            if mine:
                name = f"losses-{self.slugs[task]}"
                blocks.append(tables.loss_table(task, mine, self.found.joint, self.margin, name))
        return Section("smaller", "What a smaller rank loses", tuple(blocks))

    def bases(self) -> Section:
        """Prefix against SVD, where the run has both for an adapter."""
        blocks: list[Block] = []
        for task, found in self.found.rivals.items():
            if not found:
                continue
            name = self.slugs[task]
            parts: list[Block] = [rival_table(task, found, f"rivals-{name}")]
            gaps = gap_table(task, found, f"gaps-{name}")
            parts += [gaps] if gaps else []
            blocks += [Fold(task, tuple(parts))] if self.large else parts
        return Section("bases", "Prefix against SVD", tuple(blocks))

    def costs(self) -> Section:
        """Accuracy against what has to be stored."""
        blocks: list[Block] = []
        for task in self.run.task_names[: 1 if self.large else None]:
            curves = [c for c in highlighted(self.run, task) if c.is_default]
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
        for task, found in self.found.changes.items():
            if found and not self.large:
                chosen = [c for c in highlighted(self.run, task) if c.is_default]
                blocks.append(self.pictures.changes(task, found, chosen))
                table = tables.change_table(task, found, f"changes-table-{self.slugs[task]}")
                blocks.append(Fold("These numbers as a table", (table,)))
            if not self.large or task == self.run.task_names[0]:
                blocks += self._examples(task)
        if self.large:
            ends = [item for found in self.found.changes.values() for item in found]
            blocks += [tables.end_table(ends, "ends")] if ends else []
        return Section("documents", "Documents gained and lost", tuple(blocks))

    def _examples(self, task: str) -> list[Block]:
        best = best_default(self.run, task)
        shown = examples(self.run, best) if best else []
        if best is None or not shown:
            return []
        asked = "" if wordings(self.run, task) else " This run did not keep the questions."
        who = best.members[0].adapter if best.members else best.label
        text = (
            f"{task}: some documents as {who} answered them at a low, a middle and its "
            f"highest rank. The first of each kind in the task's order, nobody picked them.{asked}"
        )
        return [Text(text), Examples(tuple(shown))]

    def groups(self) -> Section:
        """Areas on the groups of each task's documents, where it has groups."""
        blocks: list[Block] = []
        for task, found in self.found.groups.items():
            if found:
                table = group_table(task, found, f"groups-{self.slugs[task]}")
                shown = [Fold(task, (table,))] if self.large else [*self._dots(task, found), table]
                blocks += shown
        return Section("groups", "Groups of documents", tuple(blocks))

    def _dots(self, task: str, found: Sequence[Group]) -> list[Block]:
        names = {group.name for group in found}
        return [self.pictures.groups(task, found)] if len(names) <= _GROUP_ROWS else []

    def limits(self) -> Section:
        """The caveats of this run."""
        lines = caveats(self.run)
        blocks = (Bullets(tuple(lines)),) if lines else ()
        return Section("caveats", "What to keep in mind about this run", blocks)


def _without(block: Block, opening: str) -> Block:
    """A block whose caption or text no longer begins with `opening`."""
    if isinstance(block, Fold):
        return replace(block, blocks=tuple(_without(inner, opening) for inner in block.blocks))
    if isinstance(block, (Picture, Table)) and block.caption.startswith(opening):
        return replace(block, caption=_sentence_case(block.caption.removeprefix(opening)))
    if isinstance(block, Text) and block.text.startswith(opening):
        return replace(block, text=_sentence_case(block.text.removeprefix(opening)))
    return block


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]
