"""The table of paired differences: every pair with its p values, verdict and truncations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.analysis.sentences import NORMAL_SEEDS
from aurac.curves.area import area_name
from aurac.curves.display import show_span
from aurac.show.caveats import study_sentences
from aurac.show.findings import significant, truncation
from aurac.show.table import NONE, Cell, Table, estimate, number, p_value, share, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.analysis.rows import PairRow
    from aurac.show.findings import Findings


def pair_cells(pair: PairRow | None) -> tuple[Cell, Cell, Cell]:
    """Difference with interval, adjusted p, and the difference that the test detects."""
    if pair is None:
        return Cell(NONE), Cell(NONE), Cell(NONE)
    value = estimate(pair.estimate) if pair.estimate else share(pair.value)
    return value, p_value(pair.p_holm), share(pair.detectable)


def difference_table(findings: Findings, task: str, pairs: Sequence[PairRow], name: str) -> Table:
    """One row for each pair, with what the documents could have shown."""
    axis, rows = pairs[0].axis, []
    seeds = any(pair.pairing for pair in pairs)
    for pair in (pair for pair in pairs if pair.estimate):
        sides = [findings.row(task, name) for name in (pair.b, pair.a)]
        difference, adjusted, least = pair_cells(pair)
        rows.append(
            (
                *(Cell(side.label) for side in sides),
                *([Cell(show_span(pair.span, axis), pair.span[0])] if pair.span else []),
                *(difference, p_value(pair.p), adjusted, least, number(pair.n_docs)),
                Cell(" − ".join(truncation(side) for side in sides)),
                *([Cell(pair.pairing or NONE)] if seeds else []),
                Cell(verdict(pair)),
            )
        )
    family = "for all pairs of this run, of adapters and of truncations, on every task"
    if any(pair.exploratory is not None for pair in pairs):
        family = "within the primary comparisons, and within the exploratory ones"
    of_study = findings.of_study and pairs[0].span is None
    title = holm_title(of_study=of_study)
    family = family.replace("of this run", "of the study") if of_study else family
    caption = (
        f"{task}: paired differences of {area_name(axis)} in points, over the same documents. "
        f"p: unadjusted. {title}: adjusted {family}. Detectable: the difference that the test at "
        "its adjusted level finds with 80 % power."
    )
    notes = [] if findings.of_study else study_sentences(findings.analysis.caveats)
    notes += [NORMAL_SEEDS] if seeds else []
    caption = " ".join([caption, *notes])
    over = [axis] if pairs[0].span else []
    titles = (*over, "difference [95 %]", "p", title, "detectable", "documents")
    last = ("truncations", *(["seeds"] if seeds else []), "result")
    return table(name, caption, rows, "adapter", "minus", numeric=titles, last=last)


def holm_title(*, of_study: bool) -> str:
    """The head of a column of adjusted p values."""
    return "p (Holm, study)" if of_study else "p (Holm)"


def verdict(pair: PairRow) -> str:
    """Whether a difference is significant, and in which family it was tested."""
    text = "significant" if significant(pair) else "not significant"
    if pair.verdict is None:
        text = "not tested" if pair.p is None else "no verdict (two seeds)"
    kind = {None: "", True: ", exploratory", False: ", primary"}[pair.exploratory]
    return f"{text}{kind}"
