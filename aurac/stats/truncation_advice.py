"""Which truncation of an adapter to use, from the paired differences between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aurac.stats.wording import verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.stats.analysis_rows import Analysis, PairRow, ScoreRow


@dataclass(frozen=True)
class Advice:
    """The truncation with the largest AURAC, and what was shown of it.

    Attributes:
        use: The truncation, as ``basis · rescale``.
        value: Its AURAC on the headline axis, a fraction.
        beats: Truncations that it is significantly better than (paired, Holm over all truncations).
        open: Truncations that the difference is not significant to.
    """

    adapter: str
    task: str | None
    use: str
    value: float
    beats: tuple[str, ...]
    open: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What to use, no more surely than was shown."""
        where = f" on {self.task}" if self.task else ""
        text = f"{self.adapter}{where}: {self.use} has the largest AURAC, {self.value:.4f}"
        if self.beats:
            text += f"; it is better than {', '.join(self.beats)}"
        if self.open:
            text += f"; its lead over {', '.join(self.open)} is not significant"
        return f"{text}."

    def to_dict(self) -> dict[str, Any]:
        """An element of ``truncations``."""
        return {
            "adapter": self.adapter,
            "task": self.task,
            "use": self.use,
            "aurac": self.value,
            "better_than": list(self.beats),
            "not_told_apart": list(self.open),
        }


def truncation_advice(result: Analysis) -> list[Advice]:
    """One for every adapter and task that was truncated in several ways and scored in two."""
    pairs = {(row.a, row.b, row.task): row for row in result.variants}
    ways: dict[tuple[str, str | None], list[ScoreRow]] = {}
    for row in result.scores:
        if row.log2 is not None:
            ways.setdefault((row.adapter, row.task), []).append(row)
    return [
        _advice(rows, pairs, result.axis, 1 - result.level)
        for rows in ways.values()
        if len(rows) > 1
    ]


def _advice(
    rows: Sequence[ScoreRow],
    pairs: dict[tuple[str, str, str | None], PairRow],
    axis: str,
    alpha: float,
) -> Advice:
    best = max(rows, key=lambda row: _value(row, axis))
    beats: list[str] = []
    unclear: list[str] = []
    for row in rows:
        if row is best:
            continue
        a, b = (f"{one.adapter} · {one.truncation}" for one in (row, best))
        pair = pairs.get((a, b, row.task)) or pairs.get((b, a, row.task))
        sign = verdict(pair.result, pair.p_holm, alpha) if pair and pair.result else None
        (beats if sign else unclear).append(row.truncation)
    return Advice(
        adapter=best.adapter,
        task=best.task,
        use=best.truncation,
        value=_value(best, axis),
        beats=tuple(beats),
        open=tuple(unclear),
    )


def _value(row: ScoreRow, axis: str) -> float:
    estimate = row.log2 if axis == "log2" else row.linear
    return estimate.value if estimate is not None else -1.0
