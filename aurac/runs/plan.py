"""The plan of a run: variant × rank × task, in the order in which curves become useful.

The plan is a pure function of adapters, tasks and settings: every process that is given the same
request makes the same cells in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from aurac.adapters import Adapter, Family, default_nested_ranks, default_rescale
from aurac.adapters.truncate import (
    BASES,
    RESCALES,
    Basis,
    BasisOption,
    Rescale,
    default_basis,
    has_p_in_weights,
    is_svd,
)
from aurac.errors import RankError, UsageError
from aurac.models.base import LoadedBase
from aurac.records.cell import CellIdentity, DocumentKey
from aurac.records.results_file import Role
from aurac.records.store import Cell
from aurac.runs.status import PlanRow
from aurac.tasks.task import BuiltTask


@dataclass(frozen=True, eq=False)
class Variant:
    """One way of truncating one adapter: a curve per task comes out of it.

    Attributes:
        name: The adapter's name, unique in the run.
        adapter: The adapter, or a family of one adapter for each rank.
        basis, rescale: How it is truncated; each member of a family by its own default.
        role: `default` (the curve that is compared), `published` (as the method is published,
            shown beside it: without P, or the prefix beside SVD) or `extra` (asked for as well).
        ranks: Ranks to evaluate, ascending.
        fit_factors: rank → factor, for rescale `fit`.
        called: The name of the curve, see `aurac.curves.names`.
    """

    name: str
    adapter: Adapter | Family
    basis: Basis
    rescale: Rescale
    role: Role
    ranks: tuple[int, ...]
    fit_factors: dict[int, float] | None = None
    called: str = ""

    def member(self, rank: int) -> Adapter:
        """The adapter that is truncated to a rank."""
        return self.adapter.member(rank)

    def rescale_at(self, rank: int) -> Rescale:
        """How its scale is chosen at a rank."""
        if isinstance(self.adapter, Family):
            return default_rescale(self.member(rank))
        return self.rescale

    def amounts(self) -> Sequence[tuple[int | None, int | None]]:
        """Parameters and bytes of the truncated adapter at each rank."""
        return [(self.adapter.parameters(r), self.adapter.bytes(r)) for r in self.ranks]

    @property
    def label(self) -> str:
        """Unique in the run."""
        return f"{self.name} · {self.basis} · {self.rescale}"


@dataclass(frozen=True, eq=False)
class PlannedCell:
    """A cell to evaluate; `variant` None is the base alone (rank 0)."""

    variant: Variant | None
    rank: int
    task: BuiltTask
    identity: CellIdentity
    documents: tuple[DocumentKey, ...]

    def of(self, task: BuiltTask) -> PlannedCell:
        """The same cell with the documents of `task`, which is cut from this one's."""
        return replace(self, task=task, documents=task.keys)

    def missing(self, stored: Cell | None) -> list[int]:
        """Places of the documents that a stored cell does not have."""
        if stored is None:
            return list(range(len(self.documents)))
        absent = set(stored.missing)
        return [place for place, key in enumerate(self.documents) if key in absent]

    def blocks(self, places: Sequence[int]) -> list[list[int]]:
        """Places of documents in the blocks in which they are computed."""
        return blocks_of(places, block_size(self.task, self.identity.device_kind))

    def requests(self, places: Sequence[int]) -> int:
        """How many requests these documents are."""
        return sum(end - start for start, end in (self.task.spans[place] for place in places))

    @property
    def scoring(self) -> str:
        """How its documents are scored, see `aurac.records.cell.SCORING_PARTS`."""
        return self.task.leaf.scoring

    @property
    def row(self) -> PlanRow:
        """The cell as the run folder's plan has it."""
        curve = self.variant.label if self.variant else None
        sizes = self.task.n_requests, len(self.documents)
        return PlanRow(self.identity.key, curve, self.rank, self.task.name, *sizes, self.scoring)

    @property
    def label(self) -> str:
        """For logs, progress and messages."""
        place = f"{self.variant.called} at rank {self.rank}" if self.variant else "base"
        return f"{place} on {self.task.name}"


def parse_ranks(spec: str | Sequence[int], adapter: Adapter | Family) -> tuple[int, ...]:
    """`pow2` (1, 2, 4, … and R), `all` (1..R) or explicit ranks, for one adapter.

    Of a family `pow2` and `all` are the ranks that it has.

    Raises:
        RankError: Not one of these, or a rank that the adapter does not have.
    """
    if isinstance(adapter, Family) and spec in ("pow2", "all"):
        return adapter.ranks
    ranks = ranks_of(spec, adapter.rank)
    for rank in ranks:
        adapter.check_rank(rank)
    return ranks


def ranks_of(spec: str | Sequence[int], R: int) -> tuple[int, ...]:
    """What `parse_ranks` reads, for the trained rank `R`; explicit ranks as they are."""
    if spec == "pow2":
        return default_nested_ranks(R)
    if spec == "all":
        return tuple(range(1, R + 1))
    parts = spec.split(",") if isinstance(spec, str) else list(spec)
    try:
        return tuple(sorted({int(part) for part in parts}))
    except ValueError as error:
        raise RankError(
            f"ranks {spec!r}",
            expected="pow2, all, or whole numbers such as 1,2,4 (`aurac compare`: or auto)",
        ) from error


def variants_of(
    name: str,
    adapter: Adapter | Family,
    ranks: tuple[int, ...],
    bases: Sequence[BasisOption] = ("auto",),
    rescales: Sequence[Rescale] | None = None,
) -> list[Variant]:
    """The curves to draw for one adapter: the first is the default, the published one is added.

    Where no rescale is asked for, each basis takes the adapter's own default. The published
    inference (`prefix`, `rule`) is always shown too of an adapter whose recorded P is not constant,
    unless it is in the weights already, and of one that `auto` cuts by SVD.

    Raises:
        UsageError: An unknown basis or rescale, or one that this adapter cannot have.
    """
    _check_known(bases, ("auto", *BASES), "basis")
    _check_known(rescales or (), RESCALES, "rescale")
    if isinstance(adapter, Family):  # each member as it was trained: nothing to choose
        rescale = default_rescale(adapter.member(ranks[-1]))
        return [Variant(name, adapter, "prefix", rescale, "default", ranks)]
    own, beside = _auto(adapter, ranks, rescales)
    named: list[Basis] = [own if basis == "auto" else basis for basis in bases]
    scales: dict[Basis, Rescale] = {b: default_rescale(adapter, b) for b in named}
    if own == "prefix" and is_svd(adapter):  # measured whole: the scale kept is that of its rule
        scales["prefix"] = "rule"
    every = [(b, r) for b in named for r in (rescales or (scales[b],))]
    wanted = [(b, r) for b, r in every if not (b != "prefix" and r in ("rule", "trained"))]
    if not wanted:
        raise UsageError(
            f"rescale {', '.join(rescales or ())} with basis {', '.join(bases)}",
            expected="keep or fit: the SVD mixes the components that the rule and P speak of",
            fix="leave --rescale out, or give --rescale keep",
        )
    variants = [
        Variant(name, adapter, b, r, "extra" if k else "default", ranks)
        for k, (b, r) in enumerate(dict.fromkeys(wanted))
    ]
    without_p = default_rescale(adapter) == "trained" and not has_p_in_weights(adapter)
    beside = (beside and "auto" in bases) or without_p
    if beside and ("prefix", "rule") not in wanted:
        variants.append(Variant(name, adapter, "prefix", "rule", "published", ranks))
    return variants


def _check_known(values: Sequence[str], known: Sequence[str], option: str) -> None:
    for value in {*values} - {*known}:
        raise UsageError(f"{option} {value!r}", expected=f"one or more of {', '.join(known)}")


def _auto(
    adapter: Adapter, ranks: Sequence[int], rescales: Sequence[Rescale] | None
) -> tuple[Basis, bool]:
    """What `auto` is for an adapter, and whether its prefix is shown beside it."""
    if ranks[0] == adapter.rank:  # nothing is cut
        return "prefix", False
    basis = default_basis(adapter, rescales[0] if rescales else None)
    return basis, basis == "svd" and not is_svd(adapter)


def plan(
    variants: Iterable[Variant], tasks: Sequence[BuiltTask], base: LoadedBase
) -> list[PlannedCell]:
    """All cells in the order they run: each variant's full rank, the base, lowest ranks, bisection.

    After a third of the work every curve has its ends, its baseline and its middle. Within a level
    tasks that take several times as long come first, so that many processes end together; else the
    cells of a variant stand together and it is attached once, the compared curves first.
    """

    def cell(variant: Variant | None, rank: int, task: BuiltTask) -> PlannedCell:
        identity = _identity(variant, rank, task, base)
        return PlannedCell(variant, rank, task, identity, task.keys)

    cells = [(_BASE_LEVEL, cell(None, 0, task)) for task in tasks]
    for variant in sorted(variants, key=lambda variant: variant.role != "default"):
        for rank, level in coarse_levels(variant.ranks).items():
            cells += [(level, cell(variant, rank, task)) for task in tasks]
    # tasks of one step take about as long as each other
    steps = {task.name: round(math.log(max(task.effort, 1.0), _UNLIKE)) for task in tasks}
    cells.sort(key=lambda pair: (pair[0], -steps[pair[1].task.name]))
    return [planned for _, planned in cells]


def _identity(
    variant: Variant | None, rank: int, task: BuiltTask, base: LoadedBase
) -> CellIdentity:
    factors = variant.fit_factors if variant else None
    return CellIdentity(
        adapter_sha256=variant.member(rank).sha256 if variant else None,
        base_sha256=base.sha256,
        rank=rank,
        basis=variant.basis if variant else None,
        rescale=variant.rescale_at(rank) if variant else None,
        fit_factor=factors[rank] if factors else None,
        task=task.leaf.name,
        task_version=str(task.version),
        num_fewshot=task.num_fewshot,
        fewshot=task.options.fewshot,
        fewshot_seed=task.options.seed,
        chat_template=task.template_sha256,
        split=task.options.split,
        tokenizer=base.tokenizer_sha256,
        dtype=base.dtype,
        device_kind=base.device.split(":")[0],
        lm_eval=task.lm_eval,
        **task.settings,
    )


def blocks_of(places: Sequence[int], size: int) -> list[list[int]]:
    """Ascending places of documents, in blocks of a fixed grid of `size` places."""
    return [list(block) for _, block in groupby(places, lambda place: place // size)]


def block_size(task: BuiltTask, device_kind: str) -> int:
    """Documents in a block: what a kill loses at most, with batches of its own.

    Larger on a CPU for short generated answers, since a block ends with a few long ones in flight:
    two ranks of 384 bundled word problems take 206 passes in one block and 408 in three.
    """
    size = BLOCK_DOCUMENTS.get(device_kind, _ACCELERATOR_BLOCK)
    if device_kind != "cpu" or task.output_type != "generate_until":
        return size
    effort = task.effort / max(1, task.n_docs)
    return size * max(1, min(_MOST_BLOCKS_JOINED, round(_SHORT_ANSWER_EFFORT / effort)))


BLOCK_DOCUMENTS = {"cpu": 128}
_ACCELERATOR_BLOCK = 1024
_MOST_BLOCKS_JOINED = 4
_SHORT_ANSWER_EFFORT = 2000.0  # characters read, see `Requests.effort`; the bundled task has 470
_UNLIKE = 4.0  # tasks whose efforts differ by this factor are not about as long
_FULL_LEVEL, _BASE_LEVEL, _LOWEST_LEVEL = 0, 1, 2


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
