"""The plan of a run: every cell, in the order in which curves become useful.

It is a pure function of the inputs: every process that is given the same settings makes the same
cells in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from aurac.adapters import Adapter, Family, default_nested_ranks, default_rescale
from aurac.adapters.cut import Cut
from aurac.adapters.truncate import Basis, Rescale, default_basis, has_p_in_weights
from aurac.errors import UsageError
from aurac.records.lines import CellIdentity, DocumentKey

if TYPE_CHECKING:
    from aurac.tasks.evaltask import EvalTask

BLOCK_EXAMPLES = {"cpu": 128, "server": 256}  # what a kill loses at most
_ACCELERATOR_BLOCK = 1024
_LONG, _BLOCKS_JOINED = 64, 4  # tokens of an answer
_BASE_LEVEL, _FULL_LEVEL, _LOWEST_LEVEL = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Way:
    """One way of truncating one adapter: a curve on each task comes out of it.

    Attributes:
        name: The adapter's name, unique in the run.
        adapter: The adapter, or a family of one adapter for each rank.
        basis, rescale: How it is truncated; each member of a family by its own default.
        ranks: Ranks to evaluate, ascending; the last is the trained rank.
        factors: Rank → factor, of rescale `fit`.
    """

    name: str
    adapter: Adapter | Family
    basis: Basis
    rescale: Rescale
    ranks: tuple[int, ...]
    factors: Mapping[int, float] = field(default_factory=dict)

    def cut(self, rank: int) -> Cut:
        """What is evaluated at a rank: at full rank the adapter itself, whatever the basis."""
        member = self.adapter.member(rank)
        basis, rescale = self.basis, self.rescale
        if isinstance(self.adapter, Family):
            return Cut(member, rank, "prefix", default_rescale(member))
        if rank == member.rank and rescale != "fit" and not has_p_in_weights(member):
            with_p = basis == "svd" or rescale == "trained"
            trained = with_p and default_rescale(member) == "trained"
            basis, rescale = "prefix", "trained" if trained else "rule"
        return Cut(member, rank, basis, rescale, self.factors.get(rank))


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell to evaluate; without a way it is the base alone (rank 0)."""

    way: Way | None
    rank: int
    task: EvalTask
    settings: str

    @cached_property
    def cut(self) -> Cut | None:
        """What answers."""
        return self.way.cut(self.rank) if self.way else None

    @cached_property
    def identity(self) -> CellIdentity:
        """What decides its outcome."""
        cut = self.cut
        return CellIdentity(
            settings=self.settings,
            adapter=cut.adapter.sha256 if cut else None,
            rank=self.rank,
            basis=cut.basis if cut else None,
            rescale=cut.rescale if cut else None,
            factor=cut.factor if cut else None,
            task=self.task.name,
            version=self.task.version,
            scoring=self.task.scoring,
        )

    @cached_property
    def key(self) -> str:
        """Its name in the run folder."""
        return self.identity.key

    @property
    def documents(self) -> tuple[DocumentKey, ...]:
        """The n examples that are asked for."""
        return keys_of(self.task)

    @property
    def label(self) -> str:
        """For progress and messages."""
        if self.way is None:
            return f"the base on {self.task.name}"
        return f"{self.way.name} ({self.way.basis}) at rank {self.rank} on {self.task.name}"

    def blocks(self, places: Sequence[int], device_kind: str) -> list[list[int]]:
        """Ascending places of examples in the blocks of a fixed grid.

        Blocks of short generated answers are larger on a CPU, since each ends with a few long
        answers in flight: two ranks of 384 bundled word problems took 206 passes in one block and
        408 in three.
        """
        size = BLOCK_EXAMPLES.get(device_kind, _ACCELERATOR_BLOCK)
        first: Sequence[Any] = self.task.instances([0])[0].args if places else ()
        written = first[1] if len(first) > 1 and isinstance(first[1], dict) else {}
        if device_kind == "cpu" and written.get("max_gen_toks", _LONG) < _LONG:
            size *= _BLOCKS_JOINED
        return [list(block) for _, block in groupby(places, lambda place: place // size)]


def keys_of(task: EvalTask) -> tuple[DocumentKey, ...]:
    """The n examples of a task that is no group, as cells name them."""
    known = task.__dict__.get("_keys")
    if known is None:
        rows = zip(task.doc_ids, task.doc_hashes, task.prompt_hashes, strict=True)
        known = task.__dict__["_keys"] = tuple(DocumentKey(*row) for row in rows)
    return tuple(known)


def plan(ways: Sequence[Way], tasks: Iterable[EvalTask], settings: str) -> list[Cell]:
    """All cells, those that ways share once for each of them.

    The base comes first, then each way's full rank and lowest, then the middles of what is between:
    after a third of the work every curve has its ends and its middle.
    """
    leaves = [task for task in tasks if not task.members]
    cells = [(_BASE_LEVEL, Cell(None, 0, task, settings)) for task in leaves]
    for way in ways:
        for rank, level in coarse_levels(way.ranks).items():
            cells += [(level, Cell(way, rank, task, settings)) for task in leaves]
    cells.sort(key=lambda pair: pair[0])
    return [cell for _, cell in cells]


def distinct(cells: Iterable[Cell]) -> list[Cell]:
    """Each cell once."""
    return list({cell.key: cell for cell in reversed(list(cells))}.values())[::-1]


def coarse_levels(ranks: Sequence[int]) -> dict[int, int]:
    """Rank → level: the largest first, then the smallest, then the middles of what is between.

    The ranks ascend, and middles are by position: of 1, 2, 4, 8, 16 the middle is 4.
    """
    levels = {ranks[-1]: _FULL_LEVEL}
    levels.setdefault(ranks[0], _LOWEST_LEVEL)
    gaps, level = [(0, len(ranks) - 1)], _LOWEST_LEVEL + 1
    while gaps:
        inner = []
        for low, high in gaps:
            if high - low > 1:
                middle = (low + high) // 2
                levels[ranks[middle]] = level
                inner += [(low, middle), (middle, high)]
        gaps, level = inner, level + 1
    return levels


def parse_ranks(spec: str | Sequence[int], adapter: Adapter | Family) -> tuple[int, ...]:
    """`pow2` (1, 2, 4, …), `all` (1..R) or explicit ranks, and always the trained rank R.

    Of a family `pow2` and `all` are the ranks that it has.

    Raises:
        RankError: A rank that the adapter does not have.
    """
    if isinstance(adapter, Family) and spec in ("pow2", "all"):
        return adapter.ranks
    if spec == "pow2":
        return default_nested_ranks(adapter.rank)
    if spec == "all":
        return tuple(range(1, adapter.rank + 1))
    parts = spec.split(",") if isinstance(spec, str) else spec
    ranks = {adapter.check_rank(int(part)) for part in parts}
    return tuple(sorted({*ranks, adapter.rank}))


def ways_of(
    name: str,
    adapter: Adapter | Family,
    ranks: str | Sequence[int] = "pow2",
    bases: Sequence[str] = (),
    rescales: Sequence[str] = (),
) -> list[Way]:
    """The curves of one adapter: its method's best truncation, or those that were asked for.

    Raises:
        UsageError: A rescale that this adapter cannot have with any of the bases.
    """
    wanted = parse_ranks(ranks, adapter)
    if isinstance(adapter, Family):  # each member as it was trained: nothing to choose
        return [Way(name, adapter, "prefix", default_rescale(adapter.member(wanted[-1])), wanted)]
    first: Rescale | None = rescales[0] if rescales else None  # type: ignore[assignment]
    own = default_basis(adapter, first)
    named: list[Basis] = [own if basis == "auto" else basis for basis in bases or ("auto",)]  # type: ignore[misc]
    pairs = [(b, r) for b in named for r in (rescales or (default_rescale(adapter, b),))]
    usable = [(b, r) for b, r in pairs if b == "prefix" or r in ("keep", "fit")]
    if not usable:
        raise UsageError(
            f"rescale {', '.join(rescales)} does not go with basis {', '.join(bases)}: an SVD "
            "mixes the components that the rule and P speak of, so it has keep and fit"
        )
    return [Way(name, adapter, b, r, wanted) for b, r in dict.fromkeys(usable)]  # type: ignore[arg-type]
