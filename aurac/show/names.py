"""An analysis by the names that people read: of curves, of methods of a study, of tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from msgspec import structs

from aurac.analysis.sentences import (
    best_sentences,
    other_truncations,
    pair_sentence,
    rank_sentence,
    reading,
)
from aurac.curves.names import curve_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aurac.analysis.choice_rows import Configuration, RankRow
    from aurac.analysis.record import Analysis
    from aurac.analysis.rows import BestRow, Named, PairRow, ScoreRow
    from aurac.records.decisions import Declaration

Row = TypeVar("Row", "ScoreRow", "RankRow")


class Names:
    """What a page or a terminal calls curves and tasks.

    Args:
        analysis: Of a run, of tables or of a study.
        labels: Adapter, or method of a study → what to call it.
        tasks: Name of a task in the analysis → another, such as that in a study's file.
    """

    def __init__(
        self,
        analysis: Analysis,
        labels: Mapping[str, str] | None = None,
        tasks: Mapping[str, str] | None = None,
    ) -> None:
        self.tasks, self._scores = tasks or {}, analysis.scores
        self._ways = {
            (row.task, label): (row.adapter, row.truncation)
            for row in analysis.scores
            for label in (row.label, f"{row.adapter} · {row.truncation}")
        }
        names = curve_names(self._ways.values(), labels)
        self._names = {key: names.get(way, key[1]) for key, way in self._ways.items()}
        self._anywhere = {label: name for (_, label), name in self._names.items()}

    def way(self, task: str | None, label: str) -> tuple[str, str]:
        """Adapter and truncation of a label in the analysis."""
        return self._ways[task, label]

    def of(self, row: Named) -> str:
        """The name of a row's curve."""
        return self._names[row.task, row.label]

    def anywhere(self, label: str) -> str:
        """The name of a curve by its label in the analysis, on whichever task."""
        return self._anywhere.get(label, label)

    def on_task(self, row: Named) -> str:
        """The name of a row's curve, and its task."""
        return f"{self.of(row)} on {row.task}" if row.task else self.of(row)

    def called(self, configuration: Configuration) -> str:
        """The name of a configuration."""
        return f"{self.of(configuration)} at rank {configuration.rank}"

    def analysis(self, known: Analysis) -> Analysis:
        """The same rows under these names; sentences are made again."""
        return replace(
            known,
            scores=tuple(replace(self._row(row), truncation="") for row in known.scores),
            pairs=tuple(map(self.pair, known.pairs)),
            variants=tuple(map(self.pair, known.variants)),
            aggregates=tuple(
                replace(row, a=self._anywhere[row.a], b=row.b and self._anywhere[row.b])
                for row in known.aggregates
            ),
            best=tuple(map(self._best, known.best)),
            primary=known.primary and self._declared(known.primary),
            recommended=tuple(self.rank(row) for row in known.recommended if not row.other),
        )

    def rank(self, row: RankRow) -> RankRow:
        """The recommended rank of a curve under its name."""
        shown = self._row(row)
        return replace(shown, sentence=rank_sentence(shown))

    def pair(self, row: PairRow) -> PairRow:
        """A pair under these names."""
        a, b = (self._names[row.task, name] for name in (row.a, row.b))
        shown = replace(row, a=a, b=b, task=self._task(row.task))
        others = other_truncations(row, lambda *way: self._names[row.task, " · ".join(way)])
        return replace(shown, reading=reading(shown), sentence=pair_sentence(shown, others))

    def _declared(self, declared: Declaration) -> Declaration:
        pairs = [(self.anywhere(a), self.anywhere(b)) for a, b in declared.pairs]
        return structs.replace(declared, pairs=pairs)

    def _best(self, row: BestRow) -> BestRow:
        def called(labels: Iterable[str]) -> tuple[str, ...]:
            return tuple(self._names[row.task, label] for label in labels)

        shown = replace(
            row,
            task=self._task(row.task),
            leader=row.leader and self._names[row.task, row.leader],
            candidates=called(row.candidates),
            untested=called(row.untested),
            bounded=called(row.bounded),
            apart=called(row.apart),
        )
        same = [score for score in self._scores if score.task == row.task]
        areas = {self.of(s): area.value for s in same if (area := s.estimate(row.axis))}
        return replace(shown, sentences=tuple(best_sentences(shown, areas)))

    def _row(self, row: Row) -> Row:
        return replace(row, task=self._task(row.task), adapter=self.of(row), other=False)

    def _task(self, name: str | None) -> str | None:
        return self.tasks.get(str(name), name)
