"""Gates of `aurac recommend`: what each adapter, by itself, must be shown to be good enough for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.analysis.choice_rows import RankRow
    from aurac.analysis.record import Analysis
    from aurac.records.serving import ServingCosts
    from aurac.show.names import Names


@dataclass(frozen=True)
class Gate:
    """What was tested, of which adapters, and those that are not shown to meet it."""

    does: str
    reason: str
    tested: Sequence[RankRow]
    failing: Sequence[RankRow]

    def text(self, names: Names) -> str:
        """The verdict."""
        if self.failing:
            text = f"{self.reason}: {', '.join(map(names.on_task, self.failing))}."
            tested = f" Of {len(self.tested)} tested, each by itself; --adapter NAME tests one."
            return text + tested * (len(self.tested) > 1)
        if len(self.tested) == 1:
            return f"{names.on_task(self.tested[0])} {self.does}."
        return (
            f"Every adapter {self.does}. Each was judged by itself, not against another: a weak "
            "adapter passes, too, where it loses little by being cut. --adapter NAME tests one."
        )


def gates(
    result: Analysis, served: ServingCosts, rank: int | None, latency: float | None
) -> list[Gate]:
    """The verdict of each demand on the adapter asked about, or on every default truncation.

    Raises:
        UsageError: A rank that was not evaluated, or a latency that was not measured.
    """
    asked = len({row.label for row in result.recommended}) == 1
    rows = [row for row in result.recommended if asked or not row.other]
    found = []
    if rank is not None:
        labels = {(row.task, row.label) for row in rows}
        scores = (row for row in result.scores if (row.task, row.label) in labels)
        known = sorted({rank for row in scores for rank in row.ranks})
        if known and not known[0] <= rank <= known[-1]:
            listed = f"from {known[0]} to {known[-1]}: the ranks are {', '.join(map(str, known))}"
            raise UsageError(f"--require-rank {rank}", expected=listed)
        at = f"at rank {rank} or a smaller one"
        failing = [row for row in rows if row.rank is None or row.rank > rank]
        reason = f"Not shown to be good enough {at}"
        found.append(Gate(f"may be shipped {at}", reason, rows, failing))
    if latency is not None:
        most = f"at most {latency:g} ms a generated token"
        slow = [row for row in rows if not _within(row, served, latency)]
        found.append(Gate(f"takes {most} at its rank", f"Not shown to take {most}", rows, slow))
    return found


def _within(row: RankRow, served: ServingCosts, limit: float) -> bool:
    """Whether a row is shown to take at most `limit` ms a token; it must have been measured."""
    if row.rank is None:
        return False
    cost = served.at(row.adapter, row.truncation, row.rank)
    if cost is None or cost.decode.high is None:
        problem = f"no latency of {row.label} at rank {row.rank} was measured"
        expected = "a measurement in the run folder"
        if cost is not None:
            problem, expected = f"{len(cost.decode.rounds)} repeats give no interval", "at least 6"
        raise UsageError(
            f"--max-latency-ms: {problem}",
            expected=expected,
            fix=f"run `aurac cost CKPT --ranks {row.rank},… --save RUN` first",
        )
    return 1000 * cost.decode.high <= limit
