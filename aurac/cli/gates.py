"""Gates of `aurac recommend`: what each adapter, by itself, must be shown to be good enough for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.analysis.choice_rows import RankRow
    from aurac.analysis.record import Analysis
    from aurac.files import Json
    from aurac.records.serving import ServingCosts


@dataclass(frozen=True)
class Gate:
    """One demand on the adapters tested.

    Attributes:
        failing: Those that are not shown to meet it.
        reason: What is said of them.
        text: The verdict.
    """

    failing: Sequence[RankRow]
    reason: str
    text: str

    @property
    def failures(self) -> list[Json]:
        """The elements of ``failed`` in JSON."""
        return [
            {"adapter": row.label, "task": row.task, "reason": self.reason} for row in self.failing
        ]


@dataclass(frozen=True)
class Demands:
    """The largest rank that may be needed, and the most milliseconds a generated token."""

    rank: int | None
    latency: float | None

    @property
    def any(self) -> bool:
        """Whether anything is demanded."""
        return self.rank is not None or self.latency is not None

    def gates(self, result: Analysis, served: ServingCosts) -> list[Gate]:
        """The verdict of each demand on the adapter asked about, or on every default truncation.

        Raises:
            UsageError: A rank that was not evaluated, or a latency that was not measured.
        """
        asked = len({row.label for row in result.recommended}) == 1
        rows = [row for row in result.recommended if asked or not row.other]
        gates = []
        if self.rank is not None:
            _check_rank(self.rank, result, rows)
            failing = [row for row in rows if row.rank is None or row.rank > self.rank]
            at = f"at rank {self.rank} or a smaller one"
            reason = f"Not shown to be good enough {at}"
            gates.append(_gate(result, rows, failing, f"may be shipped {at}", reason))
        if self.latency is not None:
            slow = [row for row in rows if not _within(row, served, self.latency)]
            most = f"at most {self.latency:g} ms a generated token"
            reason = f"Not shown to take {most}"
            gates.append(_gate(result, rows, slow, f"takes {most} at its rank", reason))
        return gates


def _check_rank(rank: int, result: Analysis, rows: Sequence[RankRow]) -> None:
    tested = {(row.task, row.label) for row in rows}
    scores = (row for row in result.scores if (row.task, row.label) in tested)
    known = sorted({rank for row in scores for rank in row.ranks})
    if known and not known[0] <= rank <= known[-1]:
        ends = f"from {known[0]} to {known[-1]}"
        listed = ", ".join(map(str, known))
        raise UsageError(f"--require-rank {rank}", expected=f"{ends}: the ranks are {listed}")


def _gate(
    result: Analysis, rows: Sequence[RankRow], failing: Sequence[RankRow], does: str, reason: str
) -> Gate:
    """With what is said of the adapters tested."""
    from aurac.show.names import Names

    called = Names(result).on_task
    if failing:
        text = f"{reason}: {', '.join(map(called, failing))}."
        if len(rows) > 1:
            text += f" Of {len(rows)} tested, each by itself; --adapter NAME tests one."
    elif len(rows) == 1:
        text = f"{called(rows[0])} {does}."
    else:
        text = (
            f"Every adapter {does}. Each was judged by itself, not against another: a weak adapter "
            "passes, too, where it loses little by being cut. --adapter NAME tests one."
        )
    return Gate(failing, reason, text)


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
