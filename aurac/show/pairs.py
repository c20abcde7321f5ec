"""The table of paired differences: every pair with its p values, verdict and truncations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.analysis.sentences import NORMAL_SEEDS
from aurac.curves.area import area_name
from aurac.curves.display import counted, show_span
from aurac.show.caveats import study_sentences
from aurac.show.render import Text
from aurac.show.sentences import elsewhere
from aurac.show.table import NONE, Cell, Table, estimate, number, p_value, share, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.analysis.rows import PairRow
    from aurac.show.findings import Findings


def pair_cells(pair: PairRow, *, marked: bool) -> tuple[Cell, Cell, Cell]:
    """Difference with interval, adjusted p, and the difference that the test detects."""
    value = estimate(pair.estimate, marked=marked) if pair.estimate else share(pair.value)
    return value, p_value(pair.p_holm), share(pair.detectable)


def difference_table(findings: Findings, task: str, pairs: Sequence[PairRow], name: str) -> Table:
    """One row for each pair, with what the documents could have shown."""
    axis, rows = pairs[0].axis, []
    seeds = any(pair.pairing for pair in pairs)
    several = len({pair.n_docs for pair in pairs}) > 1
    for pair in pairs:
        difference, adjusted, least = pair_cells(pair, marked=True)
        rows.append(
            (
                *(Cell(findings.label(task, name)) for name in (pair.b, pair.a)),
                *([Cell(show_span(pair.span, axis), pair.span[0])] if pair.span else []),
                *(difference, p_value(pair.p), adjusted, least),
                *([number(pair.n_docs)] if several else []),
                *([Cell(pair.pairing or NONE)] if seeds else []),
                Cell(findings.reading(pair) + ", primary" * (pair.exploratory is False)),
            )
        )
    family = "for all pairs of this run, of adapters and of truncations, on every task"
    if any(pair.exploratory is not None for pair in pairs):
        family = "within the primary comparisons, and within the exploratory ones"
    of_study = findings.of_study and pairs[0].span is None
    title = "p (Holm, study)" if of_study else "p (Holm)"
    family = family.replace("of this run", "of the study") if of_study else family
    same = (
        "the same documents" if several else f"the same {counted(pairs[0].n_docs or 0, 'document')}"
    )
    caption = (
        f"{task}: paired differences of {area_name(axis)} in points, over {same}. "
        f"p: unadjusted. {title}: adjusted {family}; the result goes by it. Detectable: the "
        "difference that the test at its adjusted level finds with 80 % power."
    )
    if any(pair.too_small for pair in pairs):
        caption = f"{caption[:-1]}; {NONE}: more than the scores leave room for."
    notes = [] if findings.of_study else study_sentences(findings.analysis.caveats)
    if findings.of_study and any(pair.survives is False for pair in pairs):
        notes = ["analysis.json has what other truncations show in the place of a pair's own."]
    caption = " ".join([caption, *notes, *([NORMAL_SEEDS] if seeds else [])])
    over = [axis] if pairs[0].span else []
    titles = (*over, "difference [95 %]", "p", title, "detectable")
    titles = (*titles, "documents") if several else titles
    last = ("seeds", "result") if seeds else ("result",)
    return table(name, caption, rows, "adapter", "minus", numeric=titles, last=last)


def difference_blocks(
    findings: Findings, task: str, pairs: Sequence[PairRow], name: str
) -> tuple[Table | Text, ...]:
    """The table, and below it what other truncations show where they change a result."""
    made, text = difference_table(findings, task, pairs, name), elsewhere(findings, pairs)
    return (made, Text(text)) if text else (made,)
