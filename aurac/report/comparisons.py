"""Tables of paired results; apart from `tables` because they need what `paired` computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.report.blocks import Cell, Column, Table
from aurac.report.certified import points
from aurac.report.tables import NONE, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aurac.report.model import CurveRow
    from aurac.report.paired import Difference
    from aurac.stats import Certificate, Step


def difference_table(task: str, found: Sequence[Difference], name: str) -> Table:
    """One row for each pair, with what the documents could have shown."""
    titles = ("difference [95 %]", "p (Holm)", "detectable", "documents")
    columns = (
        Column("curve"),
        Column("minus"),
        *(Column(title, numeric=True) for title in titles),
        Column("reading"),
    )
    caption = (
        f"{task}: paired differences of AURAC (log2) in points, over the same documents. p is "
        "adjusted (Holm) for every pair of adapters on every task of this run, shown here or not; "
        "between truncations of one adapter, for all those. Detectable: the smallest true "
        "difference that these documents would show four times in five."
    )
    return Table(name, caption, columns, tuple(_difference_row(item) for item in found))


def _difference_row(item: Difference) -> tuple[Cell, ...]:
    return (
        Cell(item.first.label),
        Cell(item.second.label),
        Cell(with_interval(item), item.value),
        Cell(p_value(item.adjusted), item.adjusted),
        Cell(percent(item.detectable), item.detectable),
        Cell(str(item.n_docs), item.n_docs),
        Cell("significant" if item.certain else "not significant"),
    )


def with_interval(item: Difference) -> str:
    """The difference in points with its interval in brackets."""
    if item.low is None or item.high is None:
        return percent(item.value)
    return f"{percent(item.value)} [{percent(item.low)}, {percent(item.high)}]"


def p_value(p: float | None) -> str:
    """A p value in as many digits as it deserves."""
    if p is None:
        return NONE
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def loss_table(
    task: str,
    found: Sequence[tuple[CurveRow, Certificate]],
    joint: Mapping[str, Mapping[int, float]],
    note: str,
    name: str,
) -> Table:
    """What each smaller rank loses against the highest one, and which ranks are non-inferior.

    Args:
        task: Opens the caption.
        found: Curves with their certificates.
        joint: As `aurac.report.certified.joint_bounds`.
        note: Whose margin it is.
        name: Of the table.
    """
    ranks = sorted({step.rank for _, certificate in found for step in certificate.steps})
    rows = []
    for curve, certificate in found:
        at = {step.rank: step for step in certificate.steps}
        cells = [
            _loss_cell(at.get(rank), joint.get(curve.id, {}).get(rank), certificate.delta)
            for rank in ranks
        ]
        rows.append((Cell(curve.label), Cell(str(certificate.reference)), *cells))
    columns = (
        Column("curve"),
        Column("against rank"),
        *(Column(f"r = {rank}", numeric=True) for rank in ranks),
    )
    caption = (
        f"{task}: accuracy lost against the highest rank, in points over the same documents, and "
        "in brackets an upper bound on that loss; all bounds of the table hold together with 95 % "
        f"confidence. In bold: non-inferior at a margin of {points(found[0][1].delta)} (one-sided "
        "paired tests downward from the highest rank, with an error of 5 % for each curve alone, "
        f"at most {min(100, 5 * len(found))} % for some curve of the table). {note}"
    )
    return Table(name, caption, columns, tuple(rows))


def _loss_cell(step: Step | None, bound: float | None, delta: float) -> Cell:
    if step is None:
        return Cell(NONE)
    if step.delta_needed >= 1.0:  # from too few seeds nothing follows for another one
        return Cell(percent(step.loss), step.loss)
    upper = NONE if bound is None or bound >= 1.0 else percent(bound)
    text = f"{percent(step.loss)} ({upper})"
    return Cell(text, step.loss, best=step.delta_needed < delta)
