"""The five frames of an analysis: the columns of each, their types and what they mean."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from aurac.curves.question import Key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

Record = dict[str, Any]


FRAMES = {
    name: tuple(columns.split())
    for name, columns in {
        "scores": "task adapter basis rescale cut aurac low high aurac_linear base examples seeds"
        " seed_sd reason",
        "points": "task adapter basis rescale cut rank accuracy low high above_base loss"
        " loss_bound unfinished nats bytes slot",
        "pairs": "task a a_basis a_rescale b b_basis b_rescale difference low high p comparisons"
        " wins losses examples seeds",
        "rank_pairs": "task a a_basis a_rescale b b_basis b_rescale rank difference low high",
        "recommended": "task adapter basis rescale cut rank reference margin loss bound bytes"
        " slot same_slot_rank",
    }.items()
}

COLUMNS: dict[str, tuple[type, str]] = {
    "task": (str, 'the task; "mean over tasks" of several'),
    "adapter": (str, "the adapter, or the recipe of several seeds"),
    "basis": (str, "prefix or svd"),
    "rescale": (str, "rule, keep, trained or fit"),
    "cut": (str, "basis and rescale in words"),
    "a": (str, "the better adapter; `a_basis` and `a_rescale` are its cut"),
    "b": (str, "the other one"),
    "rank": (int, "0 is the base; in recommended: the rank to ship, if any"),
    "aurac": (float, "area under accuracy against log2 rank"),
    "aurac_linear": (float, "area against the rank itself"),
    "accuracy": (float, "mean over examples and seeds"),
    "low": (float, "lower end of the 95 % interval; in pairs for all together"),
    "high": (float, "upper end"),
    "base": (float, "accuracy of the base"),
    "above_base": (bool, "whether it is shown to be above the base (one-sided, 95 %)"),
    "loss": (float, "accuracy lost against the trained rank; a gain is negative"),
    "loss_bound": (float, "upper bound of the loss (one-sided, 95 %)"),
    "bound": (float, "the same, of the rank to ship"),
    "difference": (float, "a minus b, of AURAC or of the accuracy at a rank"),
    "p": (float, "p value for all pairs together (Bonferroni)"),
    "comparisons": (int, "how many comparisons these are"),
    "wins": (int, "examples on which a has the larger area"),
    "losses": (int, "examples on which b has"),
    "examples": (int, "how many"),
    "seeds": (int, "training seeds; of a pair the smaller number"),
    "seed_sd": (float, "standard deviation of AURAC over seeds"),
    "reason": (str, "why there is no AURAC"),
    "reference": (int, "the trained rank"),
    "margin": (float, "the loss that was allowed"),
    "unfinished": (int, "answers, of all seeds, cut off at the limit of tokens"),
    "nats": (float, "mean loss of a token, of the user's own examples"),
    "bytes": (int, "size of the adapter cut to that rank"),
    "slot": (int, "smallest `--max-lora-rank` with which vLLM serves that rank"),
    "same_slot_rank": (
        int,
        "largest rank evaluated that takes no larger slot than the rank to ship",
    ),
}


class Frames:
    """The five frames, of `tables` of records where rows are a `Key` and None is missing."""

    tables: Mapping[str, Sequence[Record]]

    @cached_property
    def scores(self) -> pd.DataFrame:
        """AURAC of each adapter and task, descending; first the mean over tasks."""
        return frame("scores", self.tables["scores"])

    @cached_property
    def points(self) -> pd.DataFrame:
        """The accuracy at each rank; rank 0 is the base."""
        return frame("points", self.tables["points"])

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Differences of AURAC, a minus b, the better one first; adjusted for their table."""
        return frame("pairs", self.tables["pairs"])

    @cached_property
    def rank_pairs(self) -> pd.DataFrame:
        """The same differences at each rank, each interval alone."""
        return frame("rank_pairs", self.tables["rank_pairs"])

    @cached_property
    def recommended(self) -> pd.DataFrame:
        """The rank to ship of each adapter; without rows unless a margin is asked for."""
        return frame("recommended", self.tables["recommended"])

    def records(self, name: str) -> list[Record]:
        """A frame as JSON has it."""
        return plain(name, self.tables[name])


def plain(name: str, records: Sequence[Record]) -> list[Record]:
    """Records with the columns of a frame: of `key` those of its parts, of `a` and `b` as well."""
    made = []
    for record in records:
        cells = dict(record)
        for side in ("key", "a", "b"):
            for part, value in zip(Key._fields, cells.pop(side, ()), strict=False):
                of_pair = side if part == "adapter" else f"{side}_{part}"
                cells[part if side == "key" else of_pair] = value
        made.append({column: cells.get(column) for column in FRAMES[name]})
    return made


def frame(name: str, records: Sequence[Record]) -> pd.DataFrame:
    """Records as a frame; what is missing is NaN."""
    import pandas as pd

    made = pd.DataFrame(plain(name, records), columns=list(FRAMES[name]))
    for label in FRAMES[name]:
        kind, _ = COLUMNS[label if label in COLUMNS else label[2:]]
        cells, whole = made[label], not made[label].isna().any()
        if kind is float or (kind is int and not whole):
            made[label] = cells.astype(float)
        elif kind is int or (kind is bool and whole):
            made[label] = cells.astype(kind)
        else:
            made[label] = cells.astype(object).where(cells.notna(), float("nan"))
    return made
