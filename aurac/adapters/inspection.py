"""What a checkpoint is, in numbers: sizes, scales, rank weights and the energy of each rank.

Energy is the squared Frobenius norm of the trained update, ``B · P · A`` where P is recorded and
``s_R · B · A`` otherwise. All of it comes from R × R matrices, never from the (out, in) one.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aurac.adapters.nesting import default_nested_ranks
from aurac.adapters.truncate import default_rescale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aurac.adapters.adapter import Adapter, Factors

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
FAR = 0.1  # a published inference further than this from the trained function is worth a warning


def describe(adapter: Adapter, ranks: Sequence[int] | None = None) -> dict[str, Any]:
    """Everything that ``aurac inspect`` says, as JSON values.

    Args:
        adapter: The adapter.
        ranks: The ranks of the tables; powers of two up to R by default.
    """
    shown = tuple(ranks or default_nested_ranks(adapter.rank))
    nesting = adapter.nesting
    by_rank = [_at_rank(adapter, r) for r in shown]
    layers = {name: _energy(adapter, name, shown) for name in adapter.modules}
    return {
        "name": adapter.name,
        "source": None if adapter.source is None else str(adapter.source),
        "format": adapter.format,
        "sha256": adapter.sha256,
        "base": adapter.base,
        "base_sha256": adapter.base_sha256,
        "method": adapter.method,
        "nested_ranks": None if nesting is None else list(nesting.ranks),
        "weights": None if nesting is None else list(nesting.weights),
        "update": None if nesting is None else nesting.update,
        "rule": adapter.rule,
        "alpha": adapter.alpha,
        "trained_rank": adapter.rank,
        "modules": len(adapter.modules),
        "module_ranks": {str(r): n for r, n in sorted(_ranks(adapter).items())},
        "dtypes": sorted({str(f.A.dtype).removeprefix("torch.") for f in adapter.modules.values()}),
        "extra_tensors": len(adapter.extras),
        "default_rescale": default_rescale(adapter),
        "derived": None if adapter.derived is None else dict(adapter.derived),
        "recipe": None if adapter.recipe is None else dict(adapter.recipe),
        "seed": adapter.seed,
        "by_rank": by_rank,
        "energy": {
            "ranks": list(shown),
            "mean": {
                basis: [_mean([e[basis][k] for e in layers.values()]) for k in range(len(shown))]
                for basis in ("prefix", "svd")
            },
            "modules": layers,
        },
        "vllm_max_lora_rank": next((r for r in VLLM_RANKS if r >= adapter.rank), None),
        "notes": [*adapter.notes, *_remarks(adapter, by_rank)],
    }


def spectrum(f: Factors, p: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The singular values of one module's trained update, descending, shape (R,).

    A stack of experts is one block-diagonal update: its values are those of the experts, pooled by
    position.
    """
    weights = torch.from_numpy(_weights(f, p))
    A, B = _stacked(f)
    _, r_b = torch.linalg.qr(B * weights)
    _, r_a = torch.linalg.qr(A.mT)
    sigma = torch.linalg.svdvals(r_b @ r_a.mT)
    pooled = sigma.square().sum(dim=0).sqrt().numpy()
    return np.pad(pooled, (0, f.rank - pooled.shape[0]))


def _at_rank(adapter: Adapter, r: int) -> dict[str, Any]:
    published, trained, distance, size = [], [], 0.0, 0.0
    for name, f in adapter.modules.items():
        own = min(r, f.rank)
        s = f.scale(own)
        p = adapter.rank_weights(name) if adapter.method != "dylora" else np.full(f.rank, s)
        published.append(s)
        if p is None:
            continue
        trained.append(p[:own])
        gram = _gram(f, own)
        distance += float((np.outer(p[:own] - s, p[:own] - s) * gram).sum())
        size += float((np.outer(p[:own], p[:own]) * gram).sum())
    same = len({tuple(p) for p in trained}) == 1
    return {
        "rank": r,
        "parameters": adapter.parameters(r),
        "bytes": adapter.bytes(r),
        "published_scale": published[0] if len(set(published)) == 1 else None,
        "trained_weights": [float(x) for x in trained[0]] if same else None,
        "ratio_first": float(trained[0][0] / published[0]) if same and published[0] else None,
        "published_distance": math.sqrt(max(distance, 0.0) / size) if size > 0 else None,
    }


def _energy(adapter: Adapter, name: str, ranks: Sequence[int]) -> dict[str, list[float | None]]:
    """The share of a module's energy that each rank captures, in both bases."""
    f = adapter.modules[name]
    p = _weights(f, adapter.rank_weights(name))
    products = np.outer(p, p) * _gram(f, f.rank)
    total = float(products.sum())
    sigma = spectrum(f, p)
    best = np.cumsum(sigma**2)
    if not total > 0:
        return {"prefix": [None] * len(ranks), "svd": [None] * len(ranks)}
    rest = [float(products[min(r, f.rank) :, min(r, f.rank) :].sum()) for r in ranks]
    return {
        "prefix": [1.0 - x / total for x in rest],
        "svd": [float(best[min(r, f.rank) - 1] / best[-1]) for r in ranks],
    }


def _gram(f: Factors, r: int) -> NDArray[np.float64]:
    """``(BᵀB) ∘ (AAᵀ)`` of the first r components: the inner products of the rank-one updates."""
    A, B = _stacked(f)
    a, b = A[:, :r], B[:, :, :r]
    both: NDArray[np.float64] = ((b.mT @ b) * (a @ a.mT)).sum(dim=0).numpy()
    return both


def _stacked(f: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    """A as (E, R, in) and B as (E, out, R) in fp64; E is 1 except for experts."""
    A, B = f.A.double().cpu(), f.B.double().cpu()
    if f.kind != "experts":
        return A[None], B[None]
    E = f.layout[0]
    return A.reshape(f.rank, E, -1).permute(1, 0, 2), B.reshape(E, -1, f.rank)


def _weights(f: Factors, p: NDArray[np.float64] | None) -> NDArray[np.float64]:
    return np.full(f.rank, f.scale(f.rank)) if p is None else p


def _ranks(adapter: Adapter) -> Counter[int]:
    return Counter(f.rank for f in adapter.modules.values())


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _remarks(adapter: Adapter, by_rank: Sequence[dict[str, Any]]) -> list[str]:
    remarks = []
    if adapter.nesting is None and adapter.derived is None:
        remarks.append(
            "the training method is not recorded: a prefix is a guess unless its ranks were nested"
        )
    elif adapter.method == "lora":
        remarks.append("plain LoRA: prefix truncation is not what it was trained for")
    far = by_rank[-1]["published_distance"] or 0.0
    if far > FAR:
        ratio = by_rank[-1]["ratio_first"]
        remarks.append(
            f"the published inference is {far:.0%} away from the trained function at rank "
            f"{by_rank[-1]['rank']}"
            + (f"; its first component was trained {ratio:.3g} times as strong" if ratio else "")
        )
    if adapter.base is None:
        remarks.append("the base model is not recorded")
    if adapter.rank not in VLLM_RANKS:
        larger = next((r for r in VLLM_RANKS if r > adapter.rank), None)
        remarks.append(
            f"vLLM serves it with --max-lora-rank {larger}"
            if larger
            else f"vLLM serves ranks up to {VLLM_RANKS[-1]}"
        )
    return remarks
