"""What the recommended ranks cost to serve, where `aurac cost` measured it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import UsageError
from aurac.records.schema import RESULTS_FILE, Results
from aurac.records.serving import against, read_serving

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aurac.analysis.choice_rows import Configuration, RecommendRow
    from aurac.records.serving import AdapterCost, RankCost, ServingRecord


@dataclass(frozen=True)
class Served:
    """An adapter's costs and the measurement that they are from."""

    record: ServingRecord
    cost: AdapterCost

    def sentence(self, rank: int) -> str:
        """The time of a token and of a prompt at a rank, against the largest one and merged."""
        one, full = self.cost.at(rank), self.cost.full
        if one is None:
            ranks = ", ".join(str(known.rank) for known in self.cost.ranks)
            return f"What rank {rank} costs to serve was not measured (only {ranks})."
        prefill, decode = self.record.tokens_per_second(one)
        text = (
            f"Served unmerged ({self.record.conditions}), rank {rank} takes "
            f"{one.decode.milliseconds} ms a generated token ({decode:.0f} tokens/s) and "
            f"{one.prefill.milliseconds} ms a prompt ({prefill:.0f} tokens/s)"
        )
        if rank != full.rank:
            text += f"; rank {full.rank} takes {full.decode.milliseconds} ms a token "
            text += f"(difference: {against(one, full)})"
        if self.cost.mergeable:
            text += f". Merged, any rank takes {self.record.merged.decode.milliseconds} ms a token"
        return f"{text}."

    def to_dict(self, rank: int) -> dict[str, Any] | None:
        """Seconds at a rank, and merged."""
        one = self.cost.at(rank)
        merged = self.record.merged if self.cost.mergeable else None
        if one is None:
            return None
        return {"unmerged": _seconds(one), "merged": _seconds(merged) if merged else None}


def _seconds(cost: RankCost) -> dict[str, dict[str, float | None]]:
    times = {"prompt": cost.prefill, "token": cost.decode}
    return {k: {"median": t.median, "low": t.low, "high": t.high} for k, t in times.items()}


class Measured:
    """The measurements that run folders, of all sources, hold by adapter.

    The seeds of a recipe have one shape, so the first that was measured speaks for the group.

    Raises:
        RunFolderError: A measurement of another base or of other adapters.
    """

    def __init__(self, sources: Iterable[str], groups: Mapping[str, Sequence[str]]) -> None:
        self._known: dict[str, Served] = {}
        for source in sources:
            path = Path(source).expanduser()
            folder = path.parent if path.name == RESULTS_FILE else path
            if (folder / RESULTS_FILE).is_file():
                record = read_serving(folder, Results.read(folder))
                costs = {one.name: Served(record, one) for one in record.adapters} if record else {}
                self._known = costs | self._known
        for name, members in groups.items():
            first = next((one for one in members if one in self._known), None)
            if first is not None:
                self._known.setdefault(name, self._known[first])

    def of(self, row: RecommendRow | Configuration) -> Served | None:
        """What was measured of a row's adapter; its ranks under `energy` are others."""
        return None if row.truncation.startswith("energy") else self._known.get(row.adapter)

    def within(self, row: RecommendRow, limit: float) -> bool:
        """Whether a row is shown to take at most `limit` ms a token; it must have been measured."""
        if row.rank is None:
            return False
        served = self.of(row)
        one = served.cost.at(row.rank) if served else None
        command = f"run `aurac cost CKPT --ranks {row.rank},… --save RUN` first"
        if one is None:
            raise UsageError(
                f"--max-latency-ms: no latency of {row.label} at rank {row.rank} was measured",
                expected="a measurement in the run folder",
                fix=command,
            )
        if one.decode.high is None:
            raise UsageError(
                f"--max-latency-ms: {len(one.decode.rounds)} repeats give no interval",
                expected="at least 6",
                fix=command,
            )
        return 1000 * one.decode.high <= limit
