"""`serving.json`: what the adapters of a run cost to serve, as `aurac cost --save` measured it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from aurac.errors import RunFolderError
from aurac.files import Json, write_json
from aurac.records.cell import read_record
from aurac.records.results_file import RESULTS_FILE, Results, run_folder

SERVING_FILE = "serving.json"
SERVING_SCHEMA = 1
_LEVEL = 0.95
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def vllm_rank(rank: int) -> int | None:
    """The smallest ``--max-lora-rank`` that takes a rank of PEFT; None above the largest."""
    return next((least for least in VLLM_RANKS if least >= rank), None)


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one quantity, or a difference of two, in each round.

    `low` to `high` is a 95 % interval of the median from order statistics; null below 6 rounds.
    """

    median: float
    low: float | None = None
    high: float | None = None
    rounds: list[float]

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Times:
        """The times of some rounds.

        The interval goes from the k-th smallest value to the k-th largest, with the largest k for
        which a median of independent rounds is missed in 5 % at most (sign test).
        """
        from scipy.stats import binom

        n, ordered = len(rounds), sorted(rounds)
        k = int(binom.ppf((1 - _LEVEL) / 2, n, 0.5))
        low, high = (ordered[k - 1], ordered[n - k]) if k else (None, None)
        median = statistics.median(ordered)
        return cls(median=median, low=low, high=high, rounds=list(rounds))

    def minus(self, other: Times) -> Times:
        """The difference, paired round by round."""
        return Times.of([a - b for a, b in zip(self.rounds, other.rounds, strict=True)])

    @property
    def milliseconds(self) -> str:
        """``12.3 [12.1, 12.6]``, or the median alone."""
        ends = [end for end in (self.low, self.high) if end is not None]
        digits = max(0, 2 - int(math.log10(max(1.0, 1000 * abs(self.median)))))
        median, *shown = (
            f"{1000 * value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
            for value in (self.median, *ends)
        )
        return f"{median} [{', '.join(shown)}]" if shown else median


NOISE = "within noise"


def against(cost: RankCost, full: RankCost) -> str:
    """How much longer a generated token takes than at the full rank, in words."""
    if cost.rank == full.rank:
        return ""
    gap = cost.decode.minus(full.decode)
    if gap.low is None or gap.high is None:
        return "too few repeats"
    return NOISE if gap.low <= 0 <= gap.high else f"{gap.milliseconds} ms"


class RankCost(msgspec.Struct, frozen=True, kw_only=True):
    """One rank of one adapter, unmerged, or the base (rank 0).

    `prefill` is one forward pass over the prompts, `decode` one further token for every prompt.
    """

    rank: int
    parameters: int = 0
    bytes: int = 0
    prefill: Times
    decode: Times

    @property
    def seconds(self) -> dict[str, dict[str, float | None]]:
        """The median of a prompt and of a token, with the ends of its interval."""
        times = {"prompt": self.prefill, "token": self.decode}
        return {k: {"median": t.median, "low": t.low, "high": t.high} for k, t in times.items()}


class AdapterCost(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter of the run costs at its ranks, in ascending order; merged, as the base."""

    name: str
    sha256: str
    ranks: list[RankCost]

    @property
    def full(self) -> RankCost:
        """The largest rank that was measured."""
        return self.ranks[-1]

    def at(self, rank: int) -> RankCost | None:
        """The cost of a rank; None where it was not measured."""
        return next((cost for cost in self.ranks if cost.rank == rank), None)


class ServingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`serving.json`: one measurement of the base and of every rank, in the same rounds.

    Attributes:
        schema: 1.
        aurac: The version that wrote it.
        measured: When it ended (UTC).
        base, base_sha256, dtype, device: What was loaded, and where.
        batch, prompt_tokens, new_tokens, repeats: Prompts at once, their length, generated tokens
            for each, rounds.
        machine, versions: Hardware and packages.
        merged: The base, which is also any rank merged into it.
        adapters: Each adapter's ranks.
    """

    schema: int = SERVING_SCHEMA
    aurac: str
    measured: str
    base: str
    base_sha256: str
    dtype: str
    device: str
    batch: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}
    merged: RankCost
    adapters: list[AdapterCost]

    def to_dict(self) -> dict[str, Json]:
        """Plain JSON values."""
        return dict(msgspec.to_builtins(self))

    def write(self, folder: Path) -> Path:
        """Write it as `serving.json` of a run folder, in the place of an earlier one."""
        path = folder / SERVING_FILE
        try:
            write_json(path, self.to_dict())
        except OSError as error:
            raise RunFolderError(f"{path} cannot be written ({error.strerror})") from error
        return path

    def rows(self) -> list[dict[str, str | float | None]]:
        """A flat row for the base (without an adapter) and for each rank, times in seconds."""
        costs = [("", self.merged), *((a.name, cost) for a in self.adapters for cost in a.ranks)]
        rows = []
        for name, cost in costs:
            row: dict[str, str | float | None] = {"adapter": name or None, "rank": cost.rank}
            row |= {"parameters": cost.parameters, "bytes": cost.bytes}
            for kind, times in (("prompt", cost.prefill), ("token", cost.decode)):
                ends = {f"{kind}_low": times.low, f"{kind}_high": times.high}
                row |= {f"{kind}_seconds": times.median, **ends}
            rows.append(row)
        return rows

    def cost_of(self, names: Iterable[str], basis: str) -> AdapterCost | None:
        """The cost of an adapter, or of the first of a recipe's seeds, which have one shape.

        None where none was measured, and where a budget spent by energy gives the modules other
        ranks than those that were.
        """
        costs = {adapter.name: adapter for adapter in self.adapters}
        measured = (costs[name] for name in names if name in costs)
        return None if basis == "energy" else next(measured, None)

    def tokens_per_second(self, cost: RankCost) -> tuple[float, float]:
        """Of prompts and generated, over all prompts together."""
        tokens = self.batch * self.prompt_tokens
        return tokens / cost.prefill.median, self.batch / cost.decode.median

    @property
    def conditions(self) -> str:
        """Where and how it was measured, in words."""
        place = self.machine.get("gpu") or self.machine.get("cpu") or self.device
        prompts = f"{self.batch} prompts" if self.batch > 1 else "one prompt"
        return f"{place}, {self.dtype}, {prompts} of {self.prompt_tokens} tokens"


def read_serving(folder: Path, results: Results) -> ServingRecord | None:
    """The measurement that a run folder holds; None where there is none.

    A RunFolderError says that it cannot be read, or is about another base or other adapters.
    """
    path = folder / SERVING_FILE
    if not path.is_file():
        return None
    record = read_record(path, ServingRecord)
    again = f"delete it, or measure again: `aurac cost CKPT --save {folder}`"
    if record.schema != SERVING_SCHEMA:
        raise RunFolderError(f"{path} has schema {record.schema}", fix=again)
    shown = {adapter.sha256: adapter.name for adapter in record.adapters}
    names = names_in_run(shown, record.base_sha256, results, folder, again)
    for adapter in record.adapters:
        if adapter.name != names[adapter.sha256]:
            raise RunFolderError(
                f"{path} names {adapter.name!r} what the run names {names[adapter.sha256]!r}",
                fix=again,
            )
    return record


@dataclass(frozen=True)
class ServingCosts:
    """What `aurac cost --save` measured in several runs, whose recipes have the seeds `groups`."""

    records: tuple[ServingRecord, ...]
    groups: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, sources: Iterable[Path], groups: Mapping[str, Sequence[str]]) -> ServingCosts:
        """Of those sources that are run folders, or their results.

        Raises:
            RunFolderError: A measurement of another base or of other adapters.
        """
        folders = map(run_folder, sources)
        runs = [folder for folder in folders if (folder / RESULTS_FILE).is_file()]
        records = (read_serving(folder, Results.read(folder)) for folder in runs)
        return cls(tuple(filter(None, records)), groups)

    def of(self, adapter: str, truncation: str) -> tuple[ServingRecord, AdapterCost] | None:
        """The cost of an adapter or recipe, in the first run that has one."""
        names, basis = (adapter, *self.groups.get(adapter, ())), truncation.partition(" ")[0]
        costs = ((record, record.cost_of(names, basis)) for record in self.records)
        return next(((record, cost) for record, cost in costs if cost), None)

    def at(self, adapter: str, truncation: str, rank: int | None) -> RankCost | None:
        """The cost of a rank."""
        measured = self.of(adapter, truncation)
        return measured[1].at(rank) if measured and rank is not None else None


def names_in_run(
    adapters: Mapping[str, str], base_sha256: str, results: Results, folder: Path, fix: str
) -> dict[str, str]:
    """Adapters' hash → the name that the run gives it.

    `adapters` are hash → how it is called in messages; `fix` says what to do about a difference.

    Raises:
        RunFolderError: The run is about another base, or lacks an adapter.
    """
    evaluated = results.provenance.base.sha256
    if evaluated is not None and evaluated != base_sha256:
        raise RunFolderError(
            f"the base measured ({base_sha256[:12]}) is not that of {folder} ({evaluated[:12]})",
            expected=f"base {results.provenance.base.name}",
            fix=fix,
        )
    known = {adapter.sha256: adapter.name for adapter in results.adapters if adapter.sha256}
    listed = ", ".join(f"{name} ({digest[:12]})" for digest, name in known.items())
    for sha256, name in adapters.items():
        if sha256 not in known:
            raise RunFolderError(
                f"adapter {name} ({sha256[:12]}) was not evaluated in {folder}",
                expected=f"one of {listed}",
                fix=fix,
            )
    return {sha256: known[sha256] for sha256 in adapters}
