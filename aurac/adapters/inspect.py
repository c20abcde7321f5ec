"""What an adapter is, in numbers: sizes, scales, rank weights, and its energy by rank.

Energy is the squared Frobenius norm of the trained update, ``B · P · A`` where P is recorded and
``s_R · B · A`` otherwise. It comes from R × R matrices, never from the (out, in) one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.compatibility import served_by_vllm
from aurac.adapters.formats import load_adapter
from aurac.adapters.nesting import default_nested_ranks
from aurac.adapters.truncate import by_rule, default_basis, default_rescale, factors_of
from aurac.curves.checks import only
from aurac.curves.names import slot_bytes, slot_rank

if TYPE_CHECKING:
    from peft import PeftModel

_RECORDED = (
    *("name", "format", "sha256", "base", "base_sha256", "method", "nesting", "folded", "rule"),
    *("alpha", "dora", "dtype", "derived", "recipe", "seed", "data_order", "notes"),
)


@dataclass(frozen=True)
class AtRank:
    """An adapter at one rank.

    Attributes:
        rank: The rank.
        parameters: Their number.
        bytes: The size of its tensors.
        slot: The smallest ``--max-lora-rank`` that serves it; ``None`` where vLLM does not.
        slot_bytes: What a vLLM server sets aside for it.
        scale: The factor outside of A and B in the best cut; ``None`` where modules differ.
        prefix: The share of the energy in the first components, the mean over modules.
        svd: The share in the best approximation of that rank.
    """

    rank: int
    parameters: int
    bytes: int
    slot: int | None
    slot_bytes: int | None
    scale: float | None
    prefix: float | None
    svd: float | None


@dataclass(frozen=True)
class Description:
    """What ``aurac inspect`` shows of an adapter.

    Attributes:
        adapter: The adapter.
        basis: The basis of its best cut.
        rescale: The rescale of that.
        p: The diagonal P of its first module; ``None`` where none is recorded or none is fixed.
        by_rank: Sizes and energies at powers of two.
    """

    adapter: Adapter
    basis: str
    rescale: str
    p: list[float] | None
    by_rank: list[AtRank]

    @property
    def facts(self) -> dict[str, Any]:
        """All of it by name, as ``aurac inspect --json`` prints it."""
        modules = self.adapter.modules.values()
        return {
            **{name: getattr(self.adapter, name) for name in _RECORDED},
            "source": None if self.adapter.source is None else str(self.adapter.source),
            "trained_rank": self.adapter.rank,
            "modules": len(modules),
            "module_ranks": dict(sorted(Counter(f.rank for f in modules).items())),
            "extra_tensors": len(self.adapter.extras),
            **{name: getattr(self, name) for name in ("basis", "rescale", "p", "by_rank")},
        }


def inspect(adapter: Adapter | str | Path | PeftModel) -> Description:
    """What an adapter, or what `load_adapter` finds, is; sizes and energies at powers of two."""
    if not isinstance(adapter, Adapter):
        adapter = load_adapter(adapter)
    ranks = default_nested_ranks(adapter.rank)
    shares = [_energy(f, ranks) for f in factors_of(adapter, with_p=True).values()]
    known = [each for each in shares if each is not None]
    mean = np.mean(known, axis=0) if known else None  # (2, ranks)
    p = adapter.rank_weights(next(iter(adapter.modules)))
    basis, served = default_basis(adapter), served_by_vllm(adapter)
    rescale = default_rescale(adapter, basis)
    own, ruled = adapter.modules.values(), by_rule(adapter, rescale)
    by_rank = [
        AtRank(
            rank=r,
            parameters=adapter.parameters(r),
            bytes=adapter.bytes(r),
            slot=slot_rank(r) if served else None,
            slot_bytes=slot_bytes(r, adapter.width) if served else None,
            scale=only(f.scale(min(r, f.rank) if ruled else f.rank) for f in own),
            prefix=None if mean is None else float(mean[0, k]),
            svd=None if mean is None else float(mean[1, k]),
        )
        for k, r in enumerate(ranks)
    ]
    return Description(adapter, basis, rescale, None if p is None else p.tolist(), by_rank)


def _energy(f: Factors, ranks: Sequence[int]) -> NDArray[np.float64] | None:
    """The shares of a module's energy at each rank by prefix and by SVD, (2, ranks).

    ``None`` where the update is zero. With the R factors of Aᵀ = Q a and B = Q' b, the singular
    values of B A are those of b aᵀ, and bᵀb ∘ aᵀa has the inner products of the rank-one updates.
    """
    A, B = f.stacked()
    a, b = (torch.linalg.qr(side.double(), mode="r").R.cpu() for side in (A.mT, B))
    sigma = torch.linalg.svdvals(b @ a.mT).square().sum(dim=0)
    gram = ((b.mT @ b) * (a.mT @ a)).sum(dim=0)
    total = float(gram.sum())
    if total <= 0:
        return None
    tails = [float(gram[r:, r:].sum()) / total for r in ranks]
    best = [float(sigma[:r].sum() / sigma.sum()) for r in ranks]
    return np.array([[1.0 - tail for tail in tails], best])
