"""Arithmetic on tensors too large to copy: in fp64, a block of rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aurac.adapters.adapter import Factors

_BLOCK: Final = 4096  # rows in fp64 at a time


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor that is not empty holds neither NaN nor infinities.

    The extremes carry a NaN, so that one pass without a mask of the tensor's size decides.
    """
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low) and torch.isfinite(high))


@dataclass
class TallQR:
    """A QR factorisation in fp64 whose Q stays in blocks of rows."""

    # (…, rows, k) each, orthonormal columns, and what each is multiplied by from the right to be
    # its rows of Q
    blocks: list[tuple[Tensor, Tensor]]
    r: Tensor  # (…, min(n, R), R), upper triangular

    def write(self, small: Tensor, into: Tensor) -> None:
        """Write ``Q @ small``, rounded once, and give Q's memory back block by block."""
        start = 0
        self.blocks.reverse()
        while self.blocks:
            q, top = self.blocks.pop()
            into[..., start : start + q.shape[-2], :] = q @ (top @ small)
            start += q.shape[-2]


def tall_qr(matrix: Tensor, columns: Tensor | None = None) -> TallQR:
    """The QR factorisation of ``matrix · diag(columns)``, (…, n, R), by blocks of rows.

    Each block is factored by itself and the triangles once more together (TSQR; Demmel, Grigori,
    Hoemmen and Langou, 2012), which is as stable as one factorisation of the whole.
    """
    parts = [torch.linalg.qr(_exact(block, columns)) for block in matrix.split(_BLOCK, dim=-2)]
    if len(parts) == 1:
        q, r = parts[0]
        return TallQR([(q, torch.eye(r.shape[-2], dtype=r.dtype, device=r.device))], r)
    top, r = torch.linalg.qr(torch.cat([part.R for part in parts], dim=-2))
    tops = top.split([part.R.shape[-2] for part in parts], dim=-2)
    return TallQR([(part.Q, block) for part, block in zip(parts, tops, strict=True)], r)


def triangle(matrix: Tensor) -> Tensor:
    """R of :func:`tall_qr` alone, (…, min(n, R), R)."""
    parts = [
        torch.linalg.qr(_exact(block, None), mode="r").R for block in matrix.split(_BLOCK, dim=-2)
    ]
    if len(parts) == 1:
        return parts[0]
    return torch.linalg.qr(torch.cat(parts, dim=-2), mode="r").R


def triangles(f: Factors) -> tuple[Tensor, Tensor]:
    """The R factors of Aᵀ and B in fp64, (E, min(R, in), R) and (E, min(R, out), R)."""
    A, B = f.stacked()
    return triangle(A.mT).cpu(), triangle(B).cpu()


def singular_values(a: Tensor, b: Tensor, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The singular values of ``B · diag(weights) · A``, descending, shape (R,).

    ``a`` and ``b`` are those of :func:`triangles`. A stack of blocks is one block-diagonal update:
    its values are those of the blocks, pooled by position.
    """
    R = a.shape[-1]
    sigma = torch.linalg.svdvals((b * torch.from_numpy(weights)) @ a.mT)
    pooled = sigma.square().sum(dim=0).sqrt().numpy()
    return np.pad(pooled, (0, R - pooled.shape[0]))


def _exact(block: Tensor, columns: Tensor | None) -> Tensor:
    exact = block.double()
    return exact if columns is None else exact * columns.to(exact.device)
