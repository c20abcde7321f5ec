"""A run becomes the content of a report: which sections, in which order, with what in them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aurac.curves.area import ALIKE, area_name
from aurac.show import sentences, tables
from aurac.show.caveats import caveats, study_sentences
from aurac.show.documents import answerer, questions, samples, speeds
from aurac.show.findings import Findings, ordered, scored, tested
from aurac.show.pairs import difference_blocks
from aurac.show.pictures import Pictures
from aurac.show.render import (
    Block,
    Bullets,
    Collapsed,
    Examples,
    Report,
    Section,
    Text,
    without,
)
from aurac.show.sections import (
    change_table,
    cost_table,
    method,
    serving_blocks,
    speed_table,
)
from aurac.show.table import NONE, Cell, Column, Table, estimate, p_value, share
from aurac.show.tiles import tiles
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from aurac.analysis.record import Budget
    from aurac.records.run import CurveRow, StoredRun

# With more tasks or rows than this the report summarises; the files have everything.
_MAX_ROWS = 40
_FULL_FIGURES = 8
_GROUP_ROWS = 24
_MAX_PAIRS, _ALL_PAIRS = 15, 200  # pairs that stand open, and in a page at all
_BUDGET = (
    "Here the axis is log2 of the {axis} of the truncated adapter, not its rank. Each area is over "
    "the sizes that its own curve has; areas over different sizes do not compare. A difference is "
    "over the sizes that both were measured at (within {alike}); with fewer than two of them there "
    "is none. Two adapters are compared in their default truncations alone."
)


class Builder:
    """Builds one report, its figures in a folder; the margin is None where none was declared.

    Each of `axes` is a budget, "parameters" or "bytes", with a section of its own. `seeds` draws
    each training seed beneath the mean.
    """

    def __init__(
        self,
        run: StoredRun,
        folder: Path,
        margin: float | None = None,
        axes: Sequence[str] = (),
        *,
        seeds: bool = False,
    ) -> None:
        self.run = run
        self.findings = Findings(run, margin, axes)
        self.large = self.findings.many
        self.pictures = Pictures(self.findings, folder, seeds=seeds)
        self.rows = _MAX_ROWS // 2 if self.large else _MAX_ROWS
        self.slugs = self.pictures.slugs

    def report(self) -> Report:
        """The whole report, in reading order."""
        run, single = self.run, len(self.run.task_names) == 1
        first, other = self.first(), sentences.leads_elsewhere(self.findings)
        scope = *other, sentences.scope(run), *study_sentences(self.findings.analysis.caveats)
        sections = [
            self.answer(),
            self.curves(),
            self.scores(),
            self.paired(),
            *map(self.budget, self.findings.analysis.budgets),
            self.smaller(),
            self.bases(),
            self.costs(),
            self.documents(),
            self.groups(),
            Section("caveats", "What to keep in mind", _bullets(caveats(self.findings))),
            self.words(),
            method(run),
        ]
        return Report(
            title=sentences.title(run),
            lead=sentences.lead(run),
            verdict=sentences.verdicts(self.findings),
            scope=tuple(filter(None, scope)),
            tiles=tiles(self.findings, run.task_names[0]) if single else (),
            first=self._plain(first),
            sections=tuple(
                replace(section, blocks=self._plain(section.blocks))
                for section in sections
                if section.blocks
            ),
            version=run.version,
        )

    def _plain(self, blocks: Sequence[Block]) -> tuple[Block, ...]:
        """With a single task its name is in the title, and need not open every caption."""
        names = self.run.task_names
        return tuple(without(b, f"{names[0]}: ") if len(names) == 1 else b for b in blocks)

    def first(self) -> tuple[Block, ...]:
        """Beside the tiles of a single task its chart; a table and an overview of several."""
        tasks = self._measured()
        if not tasks:
            return ()
        if len(self.run.task_names) == 1:
            return (self.pictures.rank_accuracy(tasks[0]),)
        return (self._leaders(), self.pictures.overview(tasks))

    def _measured(self) -> list[str]:
        return [t for t in self.run.task_names if any(c.ranks for c in self.run.of_task(t))]

    def _leaders(self) -> Table:
        rows = tuple(self._leader(task) for task in self.run.task_names)
        caption = (
            "The curve with the largest AURAC of each task, its lead over the runner-up in points, "
            "and what to ship. Its interval is widened because the best was picked. p is "
            "adjusted for all pairs over all tasks (Holm); pairs without it were not tested."
        )
        numeric = ("AURAC [95 %]", "lead [95 %]", "p")
        titles = ("task", "largest AURAC", numeric[0], "ship", "runner-up", *numeric[1:])
        heads = tuple(Column(title, title in numeric) for title in titles)
        return Table("winners", caption, heads, rows)

    def _leader(self, task: str) -> tuple[Cell, ...]:
        best, none = self.findings.best[task], Cell(NONE)
        if best is None:
            row = self.findings.leaders.get(task)
            return (Cell(task), Cell(str(row.reason) if row else "no score"), *[none] * 5)
        choice = self.findings.choices.get(task)
        chosen = choice.chosen if choice else None
        ship = Cell(self.findings.called(chosen)) if chosen else none
        area = estimate(self.findings.leader_area(best))
        cells = (Cell(task), Cell(best.label), area, ship)
        second = sentences.runner_up(best, self.run)
        if second is None:
            return (*cells, none, none, none)
        pair = self.findings.pair(best, second)
        known = pair.estimate if pair else None
        lead = estimate(known) if known else share(best.area - second.area)
        p = p_value(pair.p_holm if pair else None)
        return (*cells, Cell(second.label), lead, p)

    def answer(self) -> Section:
        """What stands behind the verdict, in sentences."""
        blocks: list[Block] = []
        for task in () if self.large else self.run.task_names:
            lines = sentences.details(self.findings, task)
            several = len(self.run.task_names) > 1 and lines
            blocks += [Text(f"{task}:")] if several else []
            blocks += _bullets(lines)
        return Section("answer", "The answer in words", tuple(blocks))

    def curves(self) -> Section:
        """Rank-accuracy curves and the accuracies as a table."""
        tasks, blocks = self._measured(), list[Block]()
        if len(self.run.task_names) > 1:
            most = _FULL_FIGURES if self.large else len(tasks)
            pictures = [
                self.pictures.rank_accuracy(task, inline=at < most) for at, task in enumerate(tasks)
            ]
            shown = tuple(pictures[:most])
            blocks += [Collapsed("A larger figure for each task", shown)] if self.large else shown
            if left := len(tasks[most:]):
                files = f"The larger figures of the other {left} tasks are in the folder figures."
                blocks.append(Text(files))
        for task in () if self.large else tasks:
            shown_curves = ordered(self.run.of_task(task))[: self.rows]
            name, above = f"ranks-{self.slugs[task]}", self.findings.above_base
            blocks.append(tables.rank_table(task, shown_curves, name, above))
        if not self.large and tasks:
            linear = tuple(self.pictures.rank_accuracy(task, "linear") for task in tasks)
            blocks.append(Collapsed("The same on a linear rank axis", linear))
        return Section("curves", "Accuracy at every rank", tuple(blocks))

    def scores(self) -> Section:
        """AURAC tables, and the weights."""
        blocks, findings = list[Block](), self.findings
        for task in self.run.task_names:
            curves, name = self.run.of_task(task), self.slugs[task]
            shown = ordered(curves)[: self.rows]
            parts: list[Block] = [tables.aurac_table(findings, task, shown, f"aurac-{name}")]
            if len(curves) > len(shown):
                rest = len(curves) - len(shown)
                parts.append(Text(f"The {rest} curves below these are in table.csv."))
            if self.large:
                parts.append(tables.rank_table(task, shown, f"ranks-{name}"))
            seeds = [seed for curve in shown for seed in curve.members][:_MAX_ROWS]
            if seeds:
                inner = (
                    tables.aurac_table(findings, task, seeds, f"seeds-{name}"),
                    tables.rank_table(task, seeds, f"seeds-{name}-r"),
                )
                parts.append(Collapsed("The single checkpoints behind the means over seeds", inner))
            blocks += [Collapsed(task, tuple(parts))] if self.large else parts
        weights = tables.weight_table(self.run.curves, "weights")
        blocks += [weights] if weights else []
        return Section("aurac", "AURAC", tuple(blocks))

    def paired(self) -> Section:
        """All pairs, on the same documents; those beyond the first ones are folded away."""
        blocks = list[Block]()
        for task in () if self.large else self.run.task_names:
            every = self.findings.pairs(task)
            first, rest = every[:_MAX_PAIRS], every[_MAX_PAIRS:]
            name = f"paired-{self.slugs[task]}"
            if first:
                blocks += difference_blocks(self.findings, task, first, name)
            if rest:
                shown = rest[:_ALL_PAIRS]
                folded = difference_blocks(self.findings, task, shown, f"{name}-rest")
                blocks.append(Collapsed(f"The other {len(rest)} pairs of {task}", folded))
        if blocks:
            blocks.append(Text("pairs.csv has these rows as numbers, analysis.json the rest."))
        return Section("paired", "Paired differences", tuple(blocks))

    def budget(self, budget: Budget) -> Section:
        """AURAC over parameters or bytes: figure, areas and differences of each task."""
        axis, findings = budget.axis, self.findings
        blocks: list[Block] = [Text(_BUDGET.format(axis=axis, alike=f"{ALIKE - 1:.0%}"))]
        for task in self.run.task_names:
            scores = [row for row in budget.scores if row.task == task]
            pairs = tested(pair for pair in budget.pairs if pair.task == task)
            slug = self.slugs[task]
            if scores:
                drawn = {
                    findings.row(task, row.label).id: row.budget for row in scores if row.budget
                }
                blocks.append(self.pictures.rank_accuracy(task, axis, areas=drawn))
                name = f"{axis}-{slug}"
                blocks.append(tables.budget_table(findings, task, scores[:_MAX_ROWS], name))
            if pairs:
                name, shown = f"paired-{axis}-{slug}", pairs[:_MAX_ROWS]
                blocks += difference_blocks(findings, task, shown, name)
        reasons = [
            f"{findings.label(task, name)} on {one_line(task)}: {one_line(why)}."
            for task, name, why in budget.reasons
        ]
        reasons += [one_line(pair.sentence, 400) for pair in budget.pairs if not pair.estimate]
        return Section(f"over-{axis}", area_name(axis), (*blocks, *_bullets(reasons)))

    def smaller(self) -> Section:
        """Size against accuracy, and what each rank loses against the best one of its curve."""
        blocks: list[Block] = []
        for task in () if self.large else self.run.task_names:
            choice, name = self.findings.choices.get(task), self.slugs[task]
            if choice and choice.configurations:
                blocks.append(tables.choice_table(self.findings, task, choice, f"choice-{name}"))
            tested = [row for row in self.findings.tests.values() if row.task == task]
            if tested:
                blocks.append(tables.loss_table(self.findings, task, tested, f"losses-{name}"))
        return Section("smaller", "What a smaller rank loses", tuple(blocks))

    def bases(self) -> Section:
        """Prefix against SVD, where the run has both for an adapter."""
        every = (
            (task, tables.basis_table(self.findings, task, f"bases-{slug}"))
            for task, slug in self.slugs.items()
        )
        blocks = [Collapsed(t, (made,)) if self.large else made for t, made in every if made]
        return Section("bases", "Prefix against SVD", tuple(blocks))

    def costs(self) -> Section:
        """Accuracy against what has to be stored, and how fast it was."""
        blocks: list[Block] = []
        for task in self.run.task_names[: 1 if self.large else None]:
            curves = self.findings.highlighted(task)
            coloured = [curve for curve in curves if curve.ranks and all(curve.bytes)]
            name = self.slugs[task]
            if coloured:
                table = cost_table(task, coloured, f"cost-table-{name}")
                blocks += [self.pictures.cost(task, coloured), *([table] if table else [])]
            measured = {c.label: speeds(c) for c in ordered(curves)}
            speed = speed_table(task, measured, f"speed-{name}")
            blocks += [speed] if speed else []
            default = [curve for curve in curves if curve.is_default]
            blocks += serving_blocks(self.run, self.pictures, task, default)
        if self.large and blocks:
            blocks.append(Text("Sizes and accuracies of the other tasks are in points.csv."))
        return Section("cost", "Accuracy against size and speed", tuple(blocks))

    def documents(self) -> Section:
        """Documents gained and lost with the rank, and the answers to look through."""
        blocks: list[Block] = []
        for task in self.run.task_names:
            changed = self.findings.changes(task)
            coloured = self.findings.compared(task)
            if changed and not self.large:
                blocks.append(self.pictures.changes(task, changed, coloured))
                table = change_table(f"{task}: ", changed, f"changes-table-{self.slugs[task]}")
                blocks.append(Collapsed("These numbers as a table", (table,)))
            if not self.large or task == self.run.task_names[0]:
                blocks += self._examples(task, coloured)
        if self.large:
            ends = [x for task in self.run.task_names for x in self.findings.changes(task)]
            ends = [replace(item, label=f"{item.label} on {item.task}") for item in ends]
            blocks += [change_table("", ends, "ends")] if ends else []
        return Section("documents", "Documents gained and lost", tuple(blocks))

    def _examples(self, task: str, curves: Sequence[CurveRow]) -> list[Block]:
        best = self.findings.best[task] or next(iter(scored(self.run, task)), None)
        browse = task == self.run.task_names[0]
        kept = samples(ordered(curves) if browse else [best]) if best else None
        if best is None or kept is None:
            return []
        without = "" if questions(best) else " This run did not keep the questions."
        intro = (
            f"Documents as {answerer(best)} answered them at a low, a middle and its highest rank, "
            f"the first of each kind in the task's order.{without}"
        )
        return [Examples(intro, kept, browse)]

    def groups(self) -> Section:
        """Areas on the groups of each task's documents, where it has groups."""
        blocks: list[Block] = []
        for task in self.run.task_names:
            if strata := self.findings.strata(task):
                table = tables.group_table(self.findings, task, f"groups-{self.slugs[task]}")
                few = len({row.stratum for row in strata}) <= _GROUP_ROWS
                curves = {row.curve: self.findings.row(task, row.curve) for row in strata}
                dots = (
                    [self.pictures.groups(task, strata, curves)] if few and not self.large else []
                )
                blocks += [Collapsed(task, (table,))] if self.large else [*dots, table]
        return Section("groups", "Groups of documents", tuple(blocks))

    def words(self) -> Section:
        """The glossary: the terms that this report uses."""
        published = any(curve.published == "without P" for curve in self.run.curves)
        lines = [
            f"{term}: {meaning}"
            for term, meaning in sentences.GLOSSARY.items()
            if published or "trained P" not in term
        ]
        blocks = (
            (Collapsed("The words of this report", _bullets(lines)),) if self.run.curves else ()
        )
        return Section("words", "Glossary", blocks)


def _bullets(lines: Sequence[str]) -> tuple[Block, ...]:
    return (Bullets(tuple(lines)),) if lines else ()
