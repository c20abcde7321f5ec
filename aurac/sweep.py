"""The plan of a run (variant × rank × task) and its execution, one cell at a time.

The plan is a pure function of adapters, tasks and settings. Running it asks the store for each cell
first, so that the same command after an interruption computes only what is missing.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aurac.adapters import Adapter, attach, default_nested_ranks, default_rescale, prepare
from aurac.adapters.truncate import BASES, RESCALES
from aurac.errors import AuracError, RankError, UsageError
from aurac.provenance import CellIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from aurac.adapters.truncate import Basis, Rescale
    from aurac.bases import LoadedBase
    from aurac.evaluation.built import BuiltTask, CellOutcome
    from aurac.evaluation.options import EngineOptions
    from aurac.store import CellStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Variant:
    """One way of truncating one adapter: a curve per task comes out of it.

    Attributes:
        name: The adapter's name, unique in the run.
        adapter: The adapter.
        basis, rescale: How it is truncated.
        role: `default` (the curve that is compared), `published` (the published inference of a
            nested adapter, shown beside it) or `extra` (asked for as well).
        ranks: Ranks to evaluate, ascending.
        fit_factors: rank → factor, for rescale `fit`.
    """

    name: str
    adapter: Adapter
    basis: Basis
    rescale: Rescale
    role: str
    ranks: tuple[int, ...]
    fit_factors: dict[int, float] | None = None

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

    @property
    def label(self) -> str:
        """For progress and messages."""
        who = "base" if self.variant is None else f"{self.variant.label} · rank {self.rank}"
        return f"{self.task.name} · {who}"


def parse_ranks(spec: str | Sequence[int], adapter: Adapter) -> tuple[int, ...]:
    """`pow2` (1, 2, 4, … and R), `all` (1..R) or explicit ranks, for one adapter.

    Raises:
        RankError: Not one of these, or a rank that the adapter does not have.
    """
    R = adapter.rank
    if spec == "pow2":
        return default_nested_ranks(R)
    if spec == "all":
        return tuple(range(1, R + 1))
    parts = spec.split(",") if isinstance(spec, str) else list(spec)
    try:
        ranks = sorted({int(part) for part in parts})
    except ValueError as error:
        raise RankError(
            f"ranks {spec!r}",
            expected="pow2, all, or whole numbers such as 1,2,4",
            fix="correct --ranks",
        ) from error
    for rank in ranks:
        adapter.check_rank(rank)
    return tuple(ranks)


def variants_of(
    name: str,
    adapter: Adapter,
    ranks: tuple[int, ...],
    bases: Sequence[Basis] = ("prefix",),
    rescales: Sequence[Rescale] | None = None,
) -> list[Variant]:
    """The curves to draw for one adapter: the first is the default, the published one is added.

    Where no rescale is asked for, each basis takes the adapter's own default. An adapter whose
    recorded P is not constant is always shown under the published inference (`prefix`, `rule`) too.

    Raises:
        UsageError: An unknown basis or rescale, or one that this adapter cannot have.
    """
    for given, known, option in ((bases, BASES, "basis"), (rescales or (), RESCALES, "rescale")):
        for value in given:
            if value not in known:
                raise UsageError(f"{option} {value!r}", expected=" or ".join(known))
    chosen = [(b, r) for b in bases for r in (rescales or (default_rescale(adapter, b),))]
    wanted = [(b, r) for b, r in chosen if not (b == "svd" and r in ("rule", "trained"))]
    if not wanted:
        raise UsageError(
            f"rescale {', '.join(rescales or ())} with basis svd",
            expected="keep or fit: the SVD mixes the components that the rule and P speak of",
            fix="leave --rescale out, or give --rescale keep",
        )
    variants = [
        Variant(name, adapter, b, r, "extra" if k else "default", ranks)
        for k, (b, r) in enumerate(dict.fromkeys(wanted))
    ]
    if default_rescale(adapter, "prefix") == "trained" and ("prefix", "rule") not in wanted:
        variants.append(Variant(name, adapter, "prefix", "rule", "published", ranks))
    return variants


def plan(
    variants: Iterable[Variant],
    tasks: Sequence[BuiltTask],
    base: LoadedBase,
    batching: str,
    lm_eval: str,
) -> list[PlannedCell]:
    """All cells in the order they run: the base first, then each variant's ranks ascending."""

    def identity(variant: Variant | None, rank: int, task: BuiltTask) -> CellIdentity:
        factors = variant.fit_factors if variant else None
        return CellIdentity(
            adapter_sha256=variant.adapter.sha256 if variant else None,
            base_sha256=base.sha256,
            rank=rank,
            basis=variant.basis if variant else None,
            rescale=variant.rescale if variant else None,
            fit_factor=factors[rank] if factors else None,
            task=task.name,
            task_version=str(task.version),
            documents_sha256=task.documents_sha256,
            prompts_sha256=task.prompts_sha256,
            dtype=base.dtype,
            device_kind=base.device.split(":")[0],
            batching=batching,
            lm_eval=lm_eval,
        )

    cells = [PlannedCell(None, 0, task, identity(None, 0, task)) for task in tasks]
    for variant in variants:
        for rank in variant.ranks:
            cells += [PlannedCell(variant, rank, t, identity(variant, rank, t)) for t in tasks]
    return cells


@dataclass(frozen=True)
class Failure:
    """A cell that could not be evaluated, and why."""

    cell: PlannedCell
    reason: str


class Runner:
    """Evaluates planned cells on one loaded base and puts them into the store.

    Args:
        base: The base model, in memory.
        store: Where cells are kept.
        options: Budgets of the engine.
        on_documents: Called with the number of documents done since the last call.
        on_cell: Called before each cell that is computed.
    """

    def __init__(
        self,
        base: LoadedBase,
        store: CellStore,
        options: EngineOptions,
        on_documents: Callable[[int], None] | None = None,
        on_cell: Callable[[PlannedCell], None] | None = None,
    ) -> None:
        self.base, self.store, self.options = base, store, options
        self.on_documents, self.on_cell = on_documents, on_cell

    def run(self, cells: Sequence[PlannedCell]) -> list[Failure]:
        """Compute the cells that the store lacks; a cell that fails does not stop the rest."""
        missing = [cell for cell in cells if self.store.get(cell.identity) is None]
        failures: list[Failure] = []
        for variant, group in _by_variant(missing):
            if variant is None:
                failures += self._run_group(group, lambda _rank: None)
                continue
            prepared = prepare(
                variant.adapter, variant.basis, variant.rescale, fit_factors=variant.fit_factors
            )
            with attach(self.base.model, prepared) as live:
                failures += self._run_group(group, live.set_rank)
        return failures

    def _run_group(
        self, cells: Sequence[PlannedCell], set_rank: Callable[[int], Any]
    ) -> list[Failure]:
        failures = []
        for cell in cells:
            if self.on_cell:
                self.on_cell(cell)
            started = time.perf_counter()
            try:
                set_rank(cell.rank)
                outcome = cell.task.evaluate(
                    self.base.model, self.base.tokenizer, self.options, self.on_documents
                )
            except AuracError as error:
                failures.append(Failure(cell, str(error)))
                continue
            except (RuntimeError, ValueError, ArithmeticError, IndexError, KeyError) as error:
                logger.exception("cell %s failed", cell.label)
                reason = (str(error).strip().splitlines() or [""])[0]
                failures.append(Failure(cell, f"{type(error).__name__}: {reason}"))
                continue
            self._keep(cell, outcome, time.perf_counter() - started)
        return failures

    def _keep(self, cell: PlannedCell, outcome: CellOutcome, seconds: float) -> None:
        task = cell.task
        self.store.put(
            cell.identity,
            {
                "doc_ids": list(task.doc_ids),
                "doc_hashes": list(task.doc_hashes),
                "strata": list(task.strata) if task.strata is not None else None,
                "metrics": {k: [float(x) for x in v] for k, v in outcome.metrics.items()},
                "responses": outcome.responses,
                "logged": outcome.logged,
                "seconds": round(seconds, 3),
            },
        )


def _by_variant(
    cells: Iterable[PlannedCell],
) -> Iterator[tuple[Variant | None, list[PlannedCell]]]:
    """Consecutive cells of one variant together, so that its factors are attached once."""
    import itertools

    for _, group in itertools.groupby(cells, key=lambda cell: id(cell.variant)):
        members = list(group)
        yield members[0].variant, members
