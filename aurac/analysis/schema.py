"""The five frames of an analysis: their typed rows, and what the columns mean."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import msgspec
from msgspec.structs import asdict, fields

from aurac.curves.question import Key

if TYPE_CHECKING:
    import pandas as pd


class Cells(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a frame.

    Attributes:
        task: the task; "mean over tasks" of several
    """

    task: str


class _OfRow(Cells, frozen=True, kw_only=True):
    """A row about an adapter under one cut.

    Attributes:
        cut: basis and rescale in words
    """

    key: Key
    cut: str | None


class Area(_OfRow, frozen=True, kw_only=True):
    """AURAC of an adapter on a task, or its mean over tasks.

    Attributes:
        aurac: area under accuracy against log2 rank
        low: lower end of the 95 % interval; in pairs for all together
        high: upper end
        aurac_linear: area against the rank itself
        base: accuracy of the base
        examples: how many
        seeds: training seeds; of a pair the smaller number
        seed_sd: standard deviation of AURAC over seeds
        reason: why there is no AURAC, no interval of it, or no rank to ship
    """

    aurac: float | None = None
    low: float | None = None
    high: float | None = None
    aurac_linear: float | None = None
    base: float | None = None
    examples: int | None = None
    seeds: int
    seed_sd: float | None = None
    reason: str | None = None


class Point(_OfRow, frozen=True, kw_only=True):
    """An adapter at a rank, or the base.

    Attributes:
        rank: 0 is the base; in recommended: the rank to ship, if any
        accuracy: mean over examples and seeds
        above_base: whether it is shown to be above the base (one-sided, 95 %)
        loss: accuracy lost against the trained rank; a gain is negative
        loss_bound: upper bound of the loss (one-sided, 95 %)
        unfinished: answers, of all seeds, cut off at the limit of tokens
        nats: mean loss of a token, of the user's own examples
        bytes: size of the adapter cut to that rank
        slot: smallest `--max-lora-rank` with which vLLM serves that rank
    """

    rank: int
    accuracy: float
    low: float | None
    high: float | None
    above_base: bool | None = None
    loss: float | None = None
    loss_bound: float | None = None
    unfinished: int | None = None
    nats: float | None = None
    bytes: int | None = None
    slot: int | None = None


class Pair(Cells, frozen=True, kw_only=True):
    """A difference of AURAC.

    Attributes:
        a: the better adapter; `a_basis` and `a_rescale` are its cut
        b: the other one
        difference: a minus b, of AURAC or of the accuracy at a rank
        p: p value for all pairs together (Bonferroni)
        comparisons: how many comparisons these are
        wins: examples on which a has the larger area
        losses: examples on which b has
    """

    a: Key
    b: Key
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    comparisons: int = 1
    wins: int | None = None
    losses: int | None = None
    examples: int | None = None
    seeds: int


class RankPair(Cells, frozen=True, kw_only=True):
    """A difference of the accuracy at a rank."""

    a: Key
    b: Key
    rank: int
    difference: float
    low: float | None
    high: float | None


class Advice(_OfRow, frozen=True, kw_only=True):
    """The rank to ship of an adapter, or why there is none.

    Attributes:
        reference: the trained rank; missing where it cannot be tested
        margin: the loss that was allowed
        bound: upper bound of the loss of the rank to ship (one-sided, 95 %)
        smallest_rank: smallest rank that passes, which has the smallest file
    """

    rank: int | None = None
    reference: int | None = None
    margin: float
    loss: float | None = None
    bound: float | None = None
    bytes: int | None = None
    slot: int | None = None
    smallest_rank: int | None = None
    reason: str | None = None


class Tables(msgspec.Struct, frozen=True):
    """The rows of the five frames."""

    scores: list[Area]
    points: list[Point]
    pairs: list[Pair]
    rank_pairs: list[RankPair]
    recommended: list[Advice]


_DTYPES: dict[Any, str] = {int: "int64", int | None: "Int64", bool | None: "boolean"}
_DTYPES |= dict.fromkeys((str, str | None), "object")


def _parts(name: str) -> tuple[str, ...]:
    """The columns of a `Key`."""
    return Key._fields if name == "key" else (name, f"{name}_basis", f"{name}_rescale")


def _columns(row: type[Cells]) -> dict[str, str]:
    """The columns of a frame with the types of pandas."""
    found: dict[str, str] = {}
    for each in fields(row):
        if each.type is Key:
            found |= dict.fromkeys(_parts(each.name), "object")
        else:
            found[each.name] = _DTYPES.get(each.type, "float64")
    return found


FRAMES = {each.name: _columns(get_args(each.type)[0]) for each in fields(Tables)}
"""The columns of each frame with their types in pandas."""


class Frames:
    """The five frames, of typed rows in `tables`."""

    tables: Tables

    @cached_property
    def scores(self) -> pd.DataFrame:
        """AURAC of each adapter and task; first the mean over tasks."""
        return self._frame("scores")

    @cached_property
    def points(self) -> pd.DataFrame:
        """The accuracy at each rank; rank 0 is the base."""
        return self._frame("points")

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Differences of AURAC, the better one first, adjusted for their table."""
        return self._frame("pairs")

    @cached_property
    def rank_pairs(self) -> pd.DataFrame:
        """The same differences at each rank, each interval alone."""
        return self._frame("rank_pairs")

    @cached_property
    def recommended(self) -> pd.DataFrame:
        """The rank to ship of each adapter, where a margin is asked for."""
        return self._frame("recommended")

    def records(self, name: str) -> list[dict[str, Any]]:
        """The rows of a frame by their columns, as JSON has them: None is missing."""
        records = []
        for row in getattr(self.tables, name):
            cells = asdict(row)
            for side in {"key", "a", "b"}.intersection(cells):
                cells |= zip(_parts(side), cells[side], strict=True)
            records.append({column: cells[column] for column in FRAMES[name]})
        return records

    def _frame(self, name: str) -> pd.DataFrame:
        import pandas as pd

        types = FRAMES[name]
        return pd.DataFrame(self.records(name), columns=[*types], dtype=object).astype(types)
