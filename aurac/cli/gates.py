"""Gates of `aurac recommend`: what each adapter, by itself, must be shown to be good enough for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aurac.analysis.sentences import demanded, unmet_demands
from aurac.curves.display import enough
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aurac.analysis.choice_rows import Configuration, RankRow
    from aurac.analysis.record import Analysis
    from aurac.records.serving import ServingCosts
    from aurac.show.names import Names


@dataclass(frozen=True)
class Gate:
    """What was tested, of which adapters, and those that are not shown to meet it, with why."""

    does: str
    reason: str
    tested: Sequence[RankRow]
    failing: Sequence[tuple[RankRow, str]]
    passes: Callable[[Configuration], bool]  # whether a recommended one is shown to

    def text(self, names: Names) -> str:
        """The verdict."""
        count, failed = len(self.tested), [row for row, _ in self.failing]
        called = names.on_task if len({row.task for row in self.tested}) > 1 else names.of
        passed = ", ".join(called(row) for row in self.tested if row not in failed)
        alone = len({names.of(row) for row in self.tested}) == 1
        if self.failing:
            listed = ", ".join(f"{names.on_task(row)} ({why})" for row, why in self.failing)
            verdict = f"Gate not passed: {self.reason[0].lower()}{self.reason[1:]}: {listed}."
            if count == 1:
                return verdict
            each = (
                f"{passed} passed, each tested by itself" if passed else "Each was tested by itself"
            )
            return f"{verdict} {each}{'' if alone else '; --adapter NAME tests one'}."
        if alone:
            more = "".join(f" and {row.task}" for row in self.tested[1:])
            return f"{names.on_task(self.tested[0])}{more} {self.does}."
        judged = "Each was judged by itself"
        if all(row.choice.margin is not None and not row.choice.against for row in self.tested):
            judged += ", not against another: a weak adapter passes, too, where it loses little by "
            judged += "being cut"
        return f"Every adapter {self.does}: {passed}. {judged}. --adapter NAME tests one."


def gates(
    result: Analysis, served: ServingCosts, rank: int | None, latency: float | None, measure: str
) -> list[Gate]:
    """The verdict of each demand on the adapter asked about, or on every default truncation.

    `measure` are the commands that measure a latency.

    Raises:
        UsageError: A rank that was not evaluated, or a latency that was not measured.
    """
    asked = len({row.label for row in result.recommended}) == 1
    rows = [row for row in result.recommended if asked or not row.other]
    how = ", ".join(dict.fromkeys(demanded(row.choice) for row in rows))
    how, found = f" ({how}{'' if asked else '; default truncations'})", list[Gate]()
    if rank is not None:
        labels = {(row.task, row.label) for row in rows}
        scores = (row for row in result.scores if (row.task, row.label) in labels)
        known = sorted({rank for row in scores for rank in row.ranks})
        if known and not known[0] <= rank <= known[-1]:
            listed = f"from {known[0]} to {known[-1]}: the ranks are {', '.join(map(str, known))}"
            raise UsageError(f"--require-rank {rank}", expected=listed)
        at = f"at rank {rank}{' or a smaller one' if known and rank > known[0] else ''}{how}"
        failing = [(r, _needed(r, rank)) for r in rows if r.rank is None or r.rank > rank]
        reason, does = f"Not shown to be good enough {at}", f"may be shipped {at}"
        found.append(Gate(does, reason, rows, failing, lambda chosen: chosen.rank <= rank))
    if latency is not None:
        most = f"at most {latency:g} ms a generated token"
        slow = _slow(rows, served, latency, measure)
        reason, passes = f"Not shown to take {most}", partial(_is_fast, served, latency)
        only = rows[0].rank if len(rows) == 1 else None
        at = f"at {f'rank {only}' if only else 'its rank'}{how}"
        found.append(Gate(f"takes {most} {at}", reason + how, rows, slow, passes))
    return found


def _is_fast(served: ServingCosts, limit: float, chosen: Configuration) -> bool:
    cost = served.at(chosen.adapter, chosen.truncation, chosen.rank)
    most = cost.decode.high if cost else None
    return most is not None and 1000 * most <= limit


def _needed(row: RankRow, rank: int) -> str:
    """Why a row may not be shipped at a rank or a smaller one."""
    below = [each for each in row.choice.configurations if each.rank <= rank]
    if row.choice.configurations and not below:
        return f"it has no rank of {rank} or smaller"
    margins = [each.needed for each in below if each.needed is not None]
    if margins and row.choice.margin is not None:
        return f"by itself it takes a margin of {enough(min(margins), 2)} points"
    if row.reason or row.choice.few_seeds:
        return row.reason or "too few seeds"
    return f"not shown to be {unmet_demands(row.choice, below) or 'within any margin'}"


def _slow(
    rows: Sequence[RankRow], served: ServingCosts, limit: float, measure: str
) -> list[tuple[RankRow, str]]:
    """The rows that are not shown to take at most `limit` ms a token, with what each takes."""
    failing: list[tuple[RankRow, str]] = []
    missing, expected = [], None
    for row in rows:
        cost = served.at(row.adapter, row.truncation, row.rank)
        if row.rank is None:
            failing.append((row, "no rank is recommended, so none is timed"))
        elif cost is None or cost.decode.high is None:
            few = f" ({len(cost.decode.rounds)} repeats give no interval)" if cost else ""
            expected = "at least 6 repeats" if few else expected
            missing.append(f"{row.label} at rank {row.rank}{few}")
        elif 1000 * cost.decode.high > limit:
            failing.append((row, f"{cost.decode.milliseconds} ms at rank {row.rank}"))
    if missing:
        problem = f"--max-latency-ms: no latency of {', '.join(missing)} was measured"
        raise UsageError(problem, expected=expected, fix=f"run {measure} first")
    return failing
