"""Tables of paired results; apart from `tables` because they need what `paired` computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aurac.report.blocks import Cell, Column, Table
from aurac.report.tables import NONE, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.report.paired import Difference, Loss


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
        *map(Cell, item.labels),
        Cell(with_interval(item), item.value),
        Cell(p_value(item.adjusted), item.adjusted),
        Cell(percent(item.detectable), item.detectable),
        Cell(str(item.n_docs), item.n_docs),
        Cell("beyond chance" if item.certain else "not told apart"),
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


def loss_table(task: str, found: Sequence[Loss], name: str) -> Table:
    """What each smaller rank loses against the highest one."""
    columns = (
        Column("curve"),
        Column("rank", numeric=True),
        Column("loss", numeric=True),
        Column("loss at most (95 %)", numeric=True),
        Column("documents that change (%)", numeric=True),
        Column("tolerance needed", numeric=True),
    )
    rows = tuple(
        (
            Cell(item.curve.label),
            Cell(str(item.rank), item.rank),
            Cell(percent(item.loss), item.loss),
            Cell(percent(item.upper), item.upper),
            Cell(percent(item.flip_rate), item.flip_rate),
            Cell(percent(item.needed), item.needed),
        )
        for item in found
    )
    caption = (
        f"{task}: accuracy lost against the highest rank of the same curve, in points, on the same "
        "documents. A rank is good enough where the tolerance that was declared before looking is "
        "above the last column (one-sided paired tests downward from the highest rank)."
    )
    return Table(name, caption, columns, rows)
