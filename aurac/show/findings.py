"""A run beside its analysis, by the rows that its report shows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from aurac.analysis.findings import MANY_TASKS, MOST_CLOSE
from aurac.analysis.rows import BestRow
from aurac.analysis.sentences import AGAINST, other_truncations, reading
from aurac.analysis.whole import analyse_run
from aurac.records.results_file import Area
from aurac.records.run import WITHOUT_P
from aurac.show.names import Names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aurac.analysis.choice_rows import Configuration
    from aurac.analysis.record import Analysis, Caveat, Changes, Code, StratumRow
    from aurac.analysis.rows import PairRow
    from aurac.records.run import CurveRow, StoredRun
    from aurac.stats.mean import Estimate

_LEVEL = 0.95  # of every interval
_SCALES = {"rule": "scaling rule", "keep": "scale kept", "fit": "scale fitted"}


class Findings:
    """A run beside its analysis: the rows that its report shows, by the names of the analysis.

    Attributes:
        run: Whose rows are shown.
        margin: That was declared for recommendations.
        many: Whether there are so many tasks that the report summarises.
        analysis: Of the run; empty where the curves do not fit together.
        names: Of its curves in files of numbers, which no label changes.
        choices: Task → which configuration to ship.
        above_base: Id of a row → whether each of its ranks is shown to be above the base.
        tests: Id of a row → the tests of its ranks, by itself.
        ringed: Id of a row → the rank that is recommended.
        own: Adapter and task → the recommended rank of a single training.
        leaders: Task → what is said of the largest AURAC, where there are rows to compare.
        candidates: Task → the rows that may be the best, the leader first.
        best: Task → its leader; None where none is named.
        tested: Every pair that was tested, `b` minus `a` as in the analysis.
    """

    def __init__(
        self, run: StoredRun, margin: float | None = None, axes: Sequence[str] = ()
    ) -> None:
        self.run, self.margin = run, margin
        self.many = len(run.task_names) > MANY_TASKS
        self.analysis = analyse_run(run, margin, axes)
        self._rows: dict[tuple[str | None, str], CurveRow] = {}
        for row in sorted(run.curves, key=lambda curve: not curve.is_default):
            for name in (row.adapter, row.full_name):
                self._rows.setdefault((row.task, name), row)
                self._rows.setdefault((None, name), row)
        known = self.analysis
        self.names = Names(known)
        self.choices = {choice.task: choice for choice in known.choices}
        self.above_base = {
            self.row(score.task, score.label).id: score.above_base
            for score in known.scores
            if score.above_base is not None
        }
        seen = known.closely
        self.tests = {self.row(row.task, row.label).id: row for row in seen.tests}
        chosen = (choice.chosen for choice in known.choices)
        self.ringed = {self.row(c.task, c.label).id: c.rank for c in chosen if c}
        self.own = {(row.adapter, row.task): row for row in seen.checkpoints}
        said = {task: _leader(run, task, known) for task in run.task_names}
        self.leaders = {task: row for task, row in said.items() if row}
        self.candidates = {
            task: [self.row(task, name) for name in row.candidates] if row else scored(run, task)
            for task, row in said.items()
        }
        self.best = {task: next(iter(rows), None) for task, rows in self.candidates.items()}
        self.tested = tested((*known.pairs, *known.variants))
        self._between = {
            frozenset(self.row(pair.task, name).id for name in (pair.a, pair.b)): pair
            for pair in self.tested
        }

    def row(self, task: str | None, name: str) -> CurveRow:
        """The row that the analysis calls by this name; without a task the first one."""
        return self._rows[task, name]

    def highlighted(self, task: str) -> list[CurveRow]:
        """The curves in colour: a few that may be best, the best default ones, others to eight."""
        curves = [curve for curve in self.run.of_task(task) if curve.ranks]
        first = self.candidates[task]
        first = first if 0 < 2 * len(first) <= MOST_CLOSE else ordered(curves)[:1]
        default = self.compared(task)
        own = {c.adapter for c in default}
        rest = ordered(c for c in curves if not c.is_default and (not own or c.adapter in own))
        every = dict.fromkeys(c.id for c in (*first, *default, *rest))
        ids = {*list(every)[: max(MOST_CLOSE, len({c.id for c in (*first, *default)}))]}
        return [c for c in curves if c.id in ids]

    def compared(self, task: str) -> list[CurveRow]:
        """The best default curves, of which all is shown."""
        return ordered(c for c in self.run.of_task(task) if c.ranks and c.is_default)[:MOST_CLOSE]

    def label(self, task: str | None, name: str) -> str:
        """What the page calls it."""
        return self.row(task, name).label

    def called(self, configuration: Configuration) -> str:
        """What the page calls a configuration.

        At its trained rank LoRA is the same function by prefix and by SVD.
        """
        row = self.row(configuration.task, configuration.label)
        same = configuration.rank == row.trained_rank and row.method == "lora"
        whole = same and row.rescale in ("rule", "keep")
        return f"{row.called if whole else row.label} at rank {configuration.rank}"

    def reading(self, pair: PairRow) -> str:
        """What a pair shows, in a few words with the names of the page."""
        a, b = (self.label(pair.task, name) for name in (pair.a, pair.b))
        return reading(replace(pair, a=a, b=b))

    def other_truncations(self, pair: PairRow) -> list[str]:
        """What it shows under the other truncations that change its verdict."""
        same = [c for c in self.run.of_task(pair.task or "") if c.log2 and c.ranks == pair.ranks]
        areas = {curve.label: curve.area for curve in same} if pair.span is None else None
        return other_truncations(pair, lambda *way: self.label(pair.task, " · ".join(way)), areas)

    def pair(self, first: CurveRow, second: CurveRow) -> PairRow | None:
        """The difference `first` minus `second`; None where the two were not tested."""
        pair = self._between.get(frozenset((first.id, second.id)))
        return turned(pair) if pair and self.row(pair.task, pair.a).id == first.id else pair

    def changes(self, task: str) -> list[Changes]:
        """Documents gained and lost by the rows of a task."""
        seen = (item for item in self.analysis.closely.changes if item.task == task)
        return [replace(item, label=self.label(task, item.label)) for item in seen]

    def strata(self, task: str) -> list[StratumRow]:
        """The groups of a task's documents in their stored order, for each of a few rows."""
        return [row for row in self.analysis.closely.strata if row.task == task]

    def caveats(self, code: Code) -> list[Caveat]:
        """Those of the analysis with a code."""
        return [caveat for caveat in self.analysis.caveats if caveat.code == code]

    @property
    def of_study(self) -> str:
        """The page of the study that the run is a task of; empty unless its p values are here."""
        known = any(caveat.numbers for caveat in self.caveats("task of a study"))
        return "the study's report.md" if known else ""

    def may_be_best(self, task: str) -> set[str]:
        """Ids of the rows that may be the best of a task."""
        return {curve.id for curve in self.candidates[task]} if task in self.leaders else set()

    def leader(self, curve: CurveRow) -> BestRow | None:
        """What is said of a curve as the leader of its task; None where it is not."""
        return self.leaders.get(curve.task) if self.best[curve.task] is curve else None

    def leader_area(self, curve: CurveRow) -> Area:
        """AURAC of a curve, of a leader with an interval that allows for its having been picked."""
        row = self.leader(curve)
        if row and row.estimate and row.estimate.low is not None:
            return Area(value=curve.area, low=row.estimate.low, high=row.estimate.high)
        return curve.log2 or Area(value=curve.area)

    def below_base(self, curve: CurveRow) -> bool:
        """Whether no rank of a curve is shown to be above a base that is known."""
        above = self.above_base.get(curve.id)
        return bool(above) and not any(above.values()) if above else False

    def pairs(self, task: str) -> list[PairRow]:
        """The pairs that were tested on a task: the primary ones, the leader's, then the others."""
        best = self.best[task]

        def place(pair: PairRow) -> tuple[bool, bool]:
            own = best in (self.row(task, pair.a), self.row(task, pair.b))
            return pair.exploratory is not False, not own

        return sorted((pair for pair in self.tested if pair.task == task), key=place)


def significant(pair: PairRow | None) -> bool:
    """Whether a difference was tested and is significant, after Holm."""
    return pair is not None and bool(pair.verdict)


def negated(known: Estimate) -> Estimate:
    """The difference the other way round."""
    low, high = (None if end is None else -end for end in (known.high, known.low))
    return replace(known, value=-known.value, low=low, high=high)


def turned(pair: PairRow) -> PairRow:
    """The same comparison as a - b."""
    estimate = negated(cast("Estimate", pair.estimate))
    return replace(
        pair,
        a=pair.b,
        b=pair.a,
        value=estimate.value,
        estimate=estimate,
        verdict=None if pair.verdict is None else -pair.verdict,
        gained=pair.lost,
        lost=pair.gained,
        truncations={
            AGAINST.join(ways.split(AGAINST)[::-1]): replace(x, verdict=x.verdict and -x.verdict)
            for ways, x in pair.truncations.items()
        },
    )


def tested(pairs: Iterable[PairRow]) -> list[PairRow]:
    """Those of the pairs that were tested."""
    return [pair for pair in pairs if pair.estimate]


def _leader(run: StoredRun, task: str, known: Analysis) -> BestRow | None:
    """What is said of the largest AURAC of a task; None where one row or none has an AURAC."""
    rows = scored(run, task)
    if len(rows) < 2:
        return None
    if documents := unequal_documents(rows):
        return BestRow(task, len(rows), _LEVEL, reason=f"the rows are of {documents} documents")
    said = next((row for row in known.best if row.task == task), None)
    return said or BestRow(task, len(rows), _LEVEL, reason=known.reason)


def ordered(curves: Iterable[CurveRow]) -> list[CurveRow]:
    """Curves by falling AURAC; those without a score come last, in the order of the run.

    Equal ones are in the order of `aurac.analysis.rows.BestRow`.
    """

    def place(curve: CurveRow) -> tuple[float, bool, str]:
        if curve.log2 is None:
            return 1.0, False, ""
        return -round(curve.area, 12), not curve.is_default, curve.full_name

    return sorted(curves, key=place)


def scored(run: StoredRun, task: str) -> list[CurveRow]:
    """The curves of a task that have an area, the largest first."""
    return ordered(curve for curve in run.of_task(task) if curve.log2)


def unequal_documents(curves: Iterable[CurveRow]) -> str:
    """The numbers of documents in words, where curves of one task have not the same; else empty."""
    counts = sorted({curve.n_docs for curve in curves if curve.n_docs})
    return f"{counts[0]:,} to {counts[-1]:,}" if len(counts) > 1 else ""


def scale(curve: CurveRow) -> str:
    """How the truncated adapter is scaled, in words."""
    if curve.published == WITHOUT_P:
        return f"as published ({WITHOUT_P})"
    if curve.rescale == "trained":
        return "with the trained P"
    return _SCALES.get(curve.rescale, curve.rescale)


def truncation(curve: CurveRow) -> str:
    """Basis and scale, in words."""
    if curve.whole:
        return "none, measured whole"
    if curve.family:
        return "none, an adapter for each rank"
    return f"{'SVD' if curve.basis == 'svd' else curve.basis}, {scale(curve)}"
