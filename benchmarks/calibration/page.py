"""Writes the two tables of a page from the stored results, between the page's two marks.

python -m benchmarks.calibration.page docs/design/statistics-calibration.md
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.calibration.rows import Stored, read

if TYPE_CHECKING:
    from collections.abc import Sequence

BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"


class Procedure(NamedTuple):
    """A line of the first table: its name, the claims of `results.csv`, and what is promised."""

    name: str
    claims: tuple[str, ...]
    promised: str


def _covers(name: str, *claims: str) -> Procedure:
    return Procedure(name, claims, ".95")


def _errs(name: str, *claims: str) -> Procedure:
    return Procedure(name, claims, "≤.05")


def _power(name: str, *claims: str) -> Procedure:
    return Procedure(name, claims, "power .80")


PROCEDURES = (
    _covers("interval, one checkpoint", "one checkpoint covers", "one adapter, interval covers"),
    _covers("interval, clusters", "clusters cover", "clusters, CR2 interval covers"),
    _covers("interval, strata", "strata cover", "strata, interval covers"),
    _covers("interval, mean of tasks", "aggregate covers"),
    _covers(
        "interval, several seeds",
        "group of seeds covers",
        "seeds × documents, one group, covers",
        "study: one method covers",
    ),
    _covers(
        "interval, largest row",
        "the interval of the largest row covers",
        "leader's interval covers",
    ),
    _covers("simultaneous band", "band holds the curve", "simultaneous band holds the whole curve"),
    _covers("pointwise band", "pointwise band holds a rank"),
    _covers("paired difference", "pair, interval covers"),
    _covers(
        "paired difference, two recipes",
        "seeds × documents, two groups, covers",
        "study: two methods, covers",
    ),
    _covers(
        "candidates for the best",
        "the truly best row is a candidate",
        "an equal adapter stays a candidate",
        "best adapter is a candidate",
    ),
    _covers(
        "simultaneous bounds",
        "bound on what beats the leader holds",
        "bounds of a loss table hold together",
    ),
    _errs("p ≤ .05, equal adapters", "pair, p ≤ .05 without a difference"),
    _errs("p ≤ .05, few clusters", "few clusters, p ≤ .05 without a difference"),
    _errs(
        "p ≤ .05, two recipes",
        "two groups, p ≤ 0.05 without a difference",
        "study: two methods, p ≤ .05",
    ),
    Procedure(
        "p ≤ .003, two recipes",
        ("two groups, p ≤ 0.003 without a difference",),
        "≤.003",
    ),
    _errs(
        "p ≤ .05, paired by seed",
        "paired by seed, p ≤ .05 without a difference",
        "study: two truncations of the same seeds, p ≤ .05",
    ),
    _errs(
        "any false verdict of a family (Holm)",
        "any verdict between equal adapters",
        "any primary verdict between equal adapters",
        "any pair named the wrong way",
        "study: any pair significant",
    ),
    _errs(
        "margin between adapters",
        "non-inferior at the margin, shown wrongly",
        "equivalent at the margin, shown wrongly",
    ),
    _errs(
        "non-inferior rank",
        "rank chosen wrongly, non-inferiority test",
        "non-inferior rank, wrong",
        "non-inferior rank of the recipe, wrong",
    ),
    _errs("what to ship loses the margin", "named, loses the margin"),
    _power(
        "detectable difference",
        "power at the reported MDE",
        "power at the printed detectable difference",
    ),
    Procedure("p ≤ .05/22, paired by seed", ("power at p ≤ .05/22, paired by seed",), "power .60"),
)
"""Claims without a promise (power for comparison, rules that aurac does not use) have no line."""


def limits(wanted: str) -> tuple[float | None, float | None]:
    """The least and the most that a target allows; .95 is held to .935, as its simulation errs."""
    numbers = [float(number) for number in re.findall(r"\d*\.\d+", wanted)]
    if not numbers:
        return None, None
    if "±" in wanted:
        return numbers[0] - numbers[1], numbers[0] + numbers[1]
    if "to" in wanted:
        return numbers[0], numbers[1]
    if "≤" in wanted:
        return None, numbers[0]
    return (0.935 if wanted == ".95" else numbers[0]), None


def excess(row: Stored) -> float:
    """How far a row lies beyond its limits; negative inside of them."""
    least, most = limits(row.wanted)
    share = float(row.share)
    above = -1.0 if most is None else share - most
    below = -1.0 if least is None else least - share
    return round(max(above, below), 6)


def _shortfall(procedure: Procedure, row: Stored) -> float:
    """Larger for a row that keeps the promise less well."""
    if procedure.promised == ".95":
        return -float(row.share)
    return float(row.share) if procedure.promised.startswith("≤") else excess(row)


def _limit(row: Stored) -> str:
    """What a row is held to, such as ≥.935; a dash without a limit."""
    least, most = limits(row.wanted)
    if least is not None and most is not None:
        return f"{_short(least)}–{_short(most)}"
    if least is not None:
        return f"≥{_short(least)}"
    return "–" if most is None else f"≤{_short(most)}"


def _short(share: float) -> str:
    return f"{share:.3f}".lstrip("0").removesuffix("0")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def tables(rows: Sequence[Stored]) -> list[str]:
    """Both tables: every procedure with its worst row, and the other rows beyond their limits.

    Rows without a limit of a procedure that has one are lines of their own.
    """
    lines = [
        _line("procedure", "promised (limit)", "worst", "where", "rows"),
        "|---|---|---|---|---|",
    ]
    beyond = [_line("procedure", "found (limit)", "where"), "|---|---|---|"]
    for procedure in PROCEDURES:
        mine = [row for row in rows if row.claim in procedure.claims]
        held = [row for row in mine if _limit(row) != "–"]
        worst = max(held, key=lambda row: _shortfall(procedure, row))
        found = f"**{worst.found}**" if excess(worst) > 0 else worst.found
        promise = f"{procedure.promised} ({_limit(worst)})"
        lines.append(_line(procedure.name, promise, found, worst.where, str(len(held))))
        lines += [
            _line(procedure.name, "none", row.found, row.where, "1")
            for row in mine
            if row not in held
        ]
        others = (row for row in held if excess(row) > 0 and row != worst)
        beyond += [
            _line(procedure.name, f"{row.found} ({_limit(row)})", row.where) for row in others
        ]
    return [*lines, "", "Other rows beyond their limits:", "", *beyond]


def write(path: Path, rows: Sequence[Stored]) -> None:
    """Put the tables between the marks of the page."""
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    text = "\n".join([BEGIN, "", *tables(rows), "", END])
    path.write_text(before + text + after, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), read())
