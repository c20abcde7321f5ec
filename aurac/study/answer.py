"""The first screen of a study's page: what was found, and one table of all areas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aurac.analysis.record import Analysis
from aurac.analysis.rows import PairRow, grouped
from aurac.analysis.sentences import DEPENDS, depends_sentence, show_p
from aurac.curves.display import interval
from aurac.records.decisions import UNDECLARED
from aurac.show import escape
from aurac.show.table import Cell, Table, estimate, table
from aurac.stats.seeds import INDEPENDENT
from aurac.study.design import Study


def answer(analysis: Analysis) -> Iterable[str]:
    """What the primary comparisons show, and what may be said of the largest AURAC of each task."""
    shown = main_pairs(analysis)
    primary = [row for row in shown if row.exploratory is False]
    for pair, rows in grouped(primary, key=lambda row: f"{row.b} − {row.a}").items():
        by = grouped(rows, key=lambda row: row.reading.removesuffix(DEPENDS))
        short = (f"{said} on {', '.join(str(r.task) for r in some)}" for said, some in by.items())
        yield f"**{escape.markdown(f'{pair}: ' + '; '.join(short))}.**"
        each = (
            f"{row.task} {interval(row.estimate)} (adjusted p {show_p(row.p_holm)})"
            for row in rows
            if row.p_holm is not None
        )
        yield escape.markdown(f"In points of AURAC: {', '.join(each)}.{depends_sentence(*rows)}")
    yield escape.markdown(analysis.primary.sentence) if analysis.primary else UNDECLARED
    said = [] if primary else [*_by_result(shown)]
    said += [(row.sentences[0], " ".join(row.sentences[1:2])) for row in analysis.best]
    yield "\n".join(f"- **{escape.markdown(a)}** {escape.markdown(b)}" for a, b in said)


def main_pairs(analysis: Analysis) -> list[PairRow]:
    """The primary comparisons; of none, the pairs of methods without those of independent seeds."""
    every = [row for row in (*analysis.pairs, *analysis.variants) if row.estimate]
    primary = [row for row in every if row.exploratory is False]
    return primary or [r for r in every if r in analysis.pairs and r.pairing != INDEPENDENT]


def _by_result(rows: Sequence[PairRow]) -> Iterable[tuple[str, str]]:
    """What pairs of methods show, and which they are."""
    several = len({row.task for row in rows}) > 1
    by = grouped(rows, lambda r: "significant" if r.verdict else r.reading.removesuffix(DEPENDS))
    for result, some in by.items():
        pairs = (
            f"{row.b} − {row.a}{f' on {row.task}' if several else ''} {interval(row.estimate)}"
            for row in some
        )
        yield f"{result.capitalize()}, in points of AURAC:", f"{'; '.join(pairs)}."


def areas(analysis: Analysis, study: Study) -> Table:
    """A row for each curve, a column for each task, and the mean over tasks."""
    known, best = {(row.task, row.label): row for row in analysis.scores}, analysis.candidates
    means = {row.a: row.estimate for row in analysis.aggregates if row.b is None and row.estimate}
    means = means if len(study.tasks) > 1 else {}
    methods, rows = list(study.labels.values()), []
    labels = dict.fromkeys(row.label for row in analysis.scores)
    of = {name: name if name in methods else name.rpartition(" (")[0] for name in labels}
    for label in sorted(labels, key=lambda name: methods.index(of[name])):
        seeds = dict.fromkeys(str(row.seeds) for row in analysis.scores if row.label == label)
        cells = [Cell(label), Cell(", ".join(seeds))]
        for task in study.tasks:
            row = known.get((task, label))
            area = row.log2 if row else None
            shown = estimate(area, best=(task, label) in best)
            cells.append(shown if row else Cell(""))
        rows.append([*cells, *([estimate(means.get(label))] if means else [])])
    titles = [*(f"{task} [95 %]" for task in study.tasks), *(["mean [95 %]"] if means else [])]
    return table("areas", "", rows, "method", numeric=["seeds", *titles])
