"""PEFT's own keys and shapes of factors, and the way there and back.

aurac keeps every kind of module so that the first r rows of A and columns of B are rank r. PEFT
does so for plain layers; its experts, grouped convolutions, and a merged layer that must become a
plain one, lie otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from aurac.adapters.adapter import Factors

PREFIX: Final = "base_model.model."


def factor_keys(name: str, f: Factors) -> tuple[str, str]:
    """PEFT's keys of a module's A and B."""
    a, b = ("embedding_A", "embedding_B") if f.kind == "embedding" else ("A.weight", "B.weight")
    return f"{PREFIX}{name}.lora_{a}", f"{PREFIX}{name}.lora_{b}"


def peft_shapes(f: Factors, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) in the shapes that PEFT keeps for this kind of module."""
    r = A.shape[0]
    if f.kind == "conv":
        return A.reshape(r, -1, *f.layout), B.reshape(-1, r, *(1 for _ in f.layout))
    if f.kind == "grouped_conv":
        groups, *kernel = f.layout
        A = A.reshape(r, groups, -1).permute(1, 0, 2).reshape(groups * r, -1, *kernel)
        return A, B.reshape(-1, r, *(1 for _ in kernel))
    if f.kind == "experts":
        return unstack_experts(A, B, f.layout[0])
    if f.kind == "merged":
        return _plain_from_merged(A, B, f.layout)
    return A, B


def stack_experts(A: Tensor, B: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Expert-major A (E·r, in) and expert-fastest B (out, r·E) as (r, E·in) and (E·out, r)."""
    rank = A.shape[0] // experts
    A = A.reshape(experts, rank, -1).permute(1, 0, 2).reshape(rank, -1)
    B = B.reshape(-1, rank, experts).permute(2, 0, 1).reshape(-1, rank)
    return A, B


def unstack_experts(A: Tensor, B: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`stack_experts`."""
    rank = A.shape[0]
    A = A.reshape(rank, experts, -1).permute(1, 0, 2).reshape(experts * rank, -1)
    B = B.reshape(experts, -1, rank).permute(1, 2, 0).reshape(-1, rank * experts)
    return A, B


def _plain_from_merged(A: Tensor, B: Tensor, mask: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The g groups of a merged layer as one update of rank r · g: A (r · g, in), B (out, r · g).

    Component i of each group stands next to component i of the others, so that the first g · r
    rows are rank r; outside its group a column of B is zero.
    """
    on = [k for k, enabled in enumerate(mask) if enabled]
    r, g = A.shape[0], len(on)
    blocks = B.reshape(g, -1, r)
    whole = torch.zeros(len(mask), blocks.shape[1], r, g, dtype=B.dtype, device=B.device)
    for j, k in enumerate(on):
        whole[k, :, :, j] = blocks[j]
    return A.reshape(r * g, -1), whole.reshape(-1, r * g)


def merged_from_peft(name: str, f: Factors, mask: tuple[int, ...] | None) -> Factors:
    """The inverse for a plain layer that a side-car says was a merged one; ``f`` without a mask.

    Raises:
        CheckpointError: When the factors are none of a merged layer with those groups.
    """
    if mask is None:
        return f
    on = [k for k, enabled in enumerate(mask) if enabled]
    g, out = len(on), f.B.shape[0]
    fits = f.kind == "linear" and g and f.rank % g == 0 and out % len(mask) == 0
    wrong = CheckpointError(
        f"the factors of {name} are not those of a merged layer with groups {list(mask)}",
        fix="the side-car or the weights were changed",
    )
    if not fits:
        raise wrong
    r = f.rank // g
    whole = f.B.reshape(len(mask), out // len(mask), r, g)
    B = torch.cat([whole[k, :, :, j] for j, k in enumerate(on)])
    if not f.B.is_meta and int(torch.count_nonzero(f.B)) != int(torch.count_nonzero(B)):
        raise wrong
    return replace(f, A=f.A.reshape(r, -1), B=B, kind="merged", layout=tuple(mask))
