"""What an adapter is, in numbers: sizes, scales, rank weights, energy by rank, vLLM's limits.

Energy is the squared Frobenius norm of the trained update, ``B · P · A`` where P is recorded and
``s_R · B · A`` otherwise. All of it comes from R × R matrices, never from the (out, in) one, and
from one pass over the modules, so that an adapter of any size needs the memory of one module.

vLLM's rules are those of its ``LoRAConfig`` (``max_lora_rank``) and ``PEFTHelper`` (one r, one α,
no bias, no ``modules_to_save``), 2025-2026; vLLM itself is not needed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from aurac.adapters.adapter import Adapter, Factors, only
from aurac.adapters.nesting import default_nested_ranks
from aurac.adapters.truncate import default_basis, default_rescale, singular_values, triangles
from aurac.records.cut import Derived
from aurac.records.serving import VLLM_RANKS, vllm_rank

FAR = 0.1  # distance of the published from the trained update above which a note warns


class AtRank(msgspec.Struct):
    """An adapter at one rank; a scale or weights that differ between modules are ``None``."""

    rank: int
    parameters: int
    bytes: int
    published_scale: float | None
    trained_weights: list[float] | None
    ratio_first: float | None
    published_distance: float | None


Shares = dict[str, list[float | None]]  # basis to the share of the energy at each rank


class Energy(msgspec.Struct):
    """Shares of the energy at some ranks, the mean over modules and those of each module."""

    ranks: list[int]
    mean: Shares
    modules: dict[str, Shares]


class Description(msgspec.Struct, kw_only=True):
    """Everything that ``aurac inspect`` shows, in the order of its JSON."""

    name: str
    source: str | None
    format: str
    sha256: str
    base: str | None
    base_sha256: str | None
    method: str | None
    nested_ranks: list[int] | None
    weights: list[float] | None
    update: str | None
    rule: str | None
    alpha: float | None
    trained_rank: int
    modules: int
    module_ranks: dict[int, int]
    dtypes: list[str]
    dora: bool
    extra_tensors: int
    default_basis: str
    default_rescale: str
    derived: Derived | None
    recipe: Mapping[str, object] | None
    seed: int | None
    by_rank: list[AtRank]
    energy: Energy
    vllm_max_lora_rank: int | None
    vllm_refusal: str | None
    notes: list[str]


def describe(adapter: Adapter, ranks: Sequence[int] | None = None) -> Description:
    """What an adapter is, by default at powers of two; it is read once, a module at a time."""
    shown = tuple(ranks or default_nested_ranks(adapter.rank))
    measured = {name: _measure(adapter, name, f, shown) for name, f in adapter.walk()}
    ranks_of_modules = Counter(f.rank for f in adapter.modules.values())
    by_rank = [
        _at_rank(adapter, r, [m.parts[k] for m in measured.values()]) for k, r in enumerate(shown)
    ]
    trained, basis = adapter.training, default_basis(adapter)
    return Description(
        name=adapter.name,
        source=None if adapter.source is None else str(adapter.source),
        format=adapter.format,
        sha256=adapter.sha256,
        base=adapter.base,
        base_sha256=adapter.base_sha256,
        method=trained.method,
        nested_ranks=trained.nested_ranks,
        weights=trained.weights,
        update=trained.update,
        rule=adapter.rule,
        alpha=adapter.alpha,
        trained_rank=adapter.rank,
        modules=len(adapter.modules),
        module_ranks=dict(sorted(ranks_of_modules.items())),
        dtypes=sorted({str(f.A.dtype).removeprefix("torch.") for f in adapter.modules.values()}),
        dora=adapter.dora,
        extra_tensors=len(adapter.extras),
        default_basis=basis,
        default_rescale=default_rescale(adapter, basis),
        derived=adapter.derived,
        recipe=adapter.recipe,
        seed=adapter.seed,
        by_rank=by_rank,
        energy=_energies(shown, {name: measured[name].energy for name in adapter.modules}),
        vllm_max_lora_rank=max_lora_rank(adapter),
        vllm_refusal=vllm_refusal(adapter),
        notes=[*adapter.notes, *_remarks(adapter, by_rank)],
    )


class _Part(NamedTuple):
    """One module at one rank: published and trained scales, and the distance of the updates."""

    published: float
    trained: tuple[float, ...] | None
    distance: float
    size: float


class _Measured(NamedTuple):
    """Energy and distances of one module, from one pass over it."""

    energy: Shares
    parts: list[_Part]


def _measure(adapter: Adapter, name: str, f: Factors, ranks: Sequence[int]) -> _Measured:
    a, b = triangles(f)
    # (BᵀB) ∘ (AAᵀ): the inner products of the rank-one updates; R × R, so the rest is cheap.
    gram: NDArray[np.float64] = ((b.mT @ b) * (a.mT @ a)).sum(dim=0).numpy()
    p = adapter.rank_weights(name)
    weights = np.full(f.rank, f.scale(f.rank)) if p is None else p
    parts = [_part(adapter, f, p, gram, min(r, f.rank)) for r in ranks]
    return _Measured(_energy(gram, weights, singular_values(a, b, weights), ranks), parts)


def _part(
    adapter: Adapter, f: Factors, p: NDArray[np.float64] | None, gram: NDArray[np.float64], r: int
) -> _Part:
    s = f.scale(r)
    if p is None:
        return _Part(s, None, 0.0, 0.0)
    trained = np.full(r, s) if adapter.trained_at_each_rank else p[:r]
    inner = gram[:r, :r]
    apart, size = (float(v @ inner @ v) for v in (trained - s, trained))
    return _Part(s, tuple(map(float, trained)), apart, size)


def _at_rank(adapter: Adapter, r: int, parts: Sequence[_Part]) -> AtRank:
    trained = only(part.trained for part in parts)
    distance, size = (math.fsum(values) for values in zip(*(q[2:] for q in parts), strict=True))
    first = parts[0].published
    return AtRank(
        rank=r,
        parameters=adapter.parameters(r),
        bytes=adapter.bytes(r),
        published_scale=only(part.published for part in parts),
        trained_weights=None if trained is None else list(trained),
        ratio_first=trained[0] / first if trained and first else None,
        published_distance=math.sqrt(max(distance, 0.0) / size) if size > 0 else None,
    )


def _energy(
    gram: NDArray[np.float64],
    p: NDArray[np.float64],
    sigma: NDArray[np.float64],
    ranks: Sequence[int],
) -> Shares:
    """The share of a module's energy that each rank captures, in both bases."""
    products = np.outer(p, p) * gram
    total = float(products.sum())
    best = np.cumsum(sigma**2)
    if not total > 0:
        return {"prefix": [None] * len(ranks), "svd": [None] * len(ranks)}
    R = len(p)
    tails = [float(products[min(r, R) :, min(r, R) :].sum()) for r in ranks]
    return {
        "prefix": [1.0 - x / total for x in tails],
        "svd": [float(best[min(r, R) - 1] / best[-1]) for r in ranks],
    }


def _energies(ranks: Sequence[int], modules: dict[str, Shares]) -> Energy:
    mean: Shares = {}
    for basis in ("prefix", "svd"):
        columns = zip(*(shares[basis] for shares in modules.values()), strict=True)
        known = [[value for value in column if value is not None] for column in columns]
        mean[basis] = [float(np.mean(values)) if values else None for values in known]
    return Energy(list(ranks), mean, modules)


def _remarks(adapter: Adapter, by_rank: Sequence[AtRank]) -> list[str]:
    remarks = []
    if adapter.nesting is None and adapter.derived is None:
        remarks.append(
            "the training method is not recorded, so it is cut by SVD: give --method and "
            "--nested-ranks if its ranks were nested"
        )
    elif adapter.method == "lora":
        remarks.append("plain LoRA has no order in its ranks, so it is cut by SVD")
    last = by_rank[-1]
    far, ratio = last.published_distance or 0.0, last.ratio_first
    if far > FAR and default_rescale(adapter) == "trained":
        stronger = f"; its first component was trained {ratio:.3g} times as strong" if ratio else ""
        where = f"away from the trained function at rank {last.rank}"
        remarks.append(f"as published (without P) it is {far:.0%} {where}{stronger}")
    if adapter.base is None:
        remarks.append("the base model is not recorded")
    return remarks


def max_lora_rank(adapter: Adapter) -> int | None:
    """The smallest ``--max-lora-rank`` that takes it; ``None`` when it is above the largest."""
    return vllm_rank(max(f.peft_scale[0] for f in adapter.modules.values()))


def vllm_refusal(adapter: Adapter) -> str | None:
    """Why vLLM would not serve an export, or would serve it wrongly; ``None`` when it serves it."""
    factors = adapter.modules.values()
    kinds = {f.kind for f in factors} - {"linear", "merged"}
    scales = [f.peft_scale for f in factors]
    reasons = {
        "it does not serve DoRA": adapter.dora,
        "it does not load tensors beside the low-rank factors": bool(adapter.extras),
        f"it does not serve factors of {', '.join(sorted(kinds))} as PEFT lays them out": kinds,
        "it knows one rank and one alpha for all modules, and would scale some wrongly": (
            only(scales) is None
        ),
        f"it serves ranks up to {VLLM_RANKS[-1]}": max_lora_rank(adapter) is None,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)
