"""The analysis of a study by the names that its page shows: labels of methods, words, tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aurac.analysis.sentences import best_sentences, pair_sentence, rank_sentence, reading
from aurac.records.names import curve_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aurac.analysis.record import Analysis
    from aurac.analysis.rows import BestRow, PairRow


class Names:
    """What a page calls curves and tasks.

    Args:
        analysis: Of the study.
        labels: Method → what to call it.
        tasks: Name of a task in the analysis → in the study's file.
    """

    def __init__(
        self, analysis: Analysis, labels: Mapping[str, str], tasks: Mapping[str, str]
    ) -> None:
        self.tasks = tasks
        ways = {
            (row.task, label): (row.adapter, *row.truncation.split(" · "))
            for row in analysis.scores
            for label in (row.label, f"{row.adapter} · {row.truncation}")
        }
        names = curve_names(((name, cut, scale) for name, cut, scale in ways.values()), labels)
        self._names = {key: names[name, cut, scale] for key, (name, cut, scale) in ways.items()}
        self._anywhere = {label: name for (_, label), name in self._names.items()}

    def analysis(self, known: Analysis) -> Analysis:
        """The same rows under the names of the page; sentences are made again."""
        return replace(
            known,
            scores=tuple(
                replace(
                    row,
                    task=self._task(row.task),
                    adapter=self._names[row.task, row.label],
                    truncation="",
                    other=False,
                    published=False,
                )
                for row in known.scores
            ),
            pairs=tuple(map(self.pair, known.pairs)),
            variants=tuple(map(self.pair, known.variants)),
            aggregates=tuple(
                replace(row, a=self._anywhere[row.a], b=row.b and self._anywhere[row.b])
                for row in known.aggregates
            ),
            best=tuple(map(self._best, known.best)),
            recommended=tuple(
                replace(row, sentence=rank_sentence(row))
                for row in (
                    replace(
                        row,
                        task=self._task(row.task),
                        adapter=self._names[row.task, row.label],
                        other=False,
                    )
                    for row in known.recommended
                    if not row.other
                )
            ),
        )

    def pair(self, row: PairRow) -> PairRow:
        """A pair under the names of the page."""
        a, b = (self._names[row.task, name] for name in (row.a, row.b))
        shown = replace(row, a=a, b=b, task=self._task(row.task))
        return replace(shown, reading=reading(shown), sentence=pair_sentence(shown))

    def _best(self, row: BestRow) -> BestRow:
        def called(labels: Iterable[str]) -> tuple[str, ...]:
            return tuple(self._names[row.task, label] for label in labels)

        shown = replace(
            row,
            task=self._task(row.task),
            leader=row.leader and self._names[row.task, row.leader],
            candidates=called(row.candidates),
            untested=called(row.untested),
            apart=called(row.apart),
        )
        return replace(shown, sentences=tuple(best_sentences(shown)))

    def _task(self, name: str | None) -> str:
        return self.tasks[str(name)]
