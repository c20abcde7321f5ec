"""Truncation: the first r components in trained order, or the best r of the trained update.

The scale after truncation (``rescale``) is a choice that can outweigh the method:

- ``rule`` re-evaluates the scaling rule at r, the published inference of all three methods;
- ``keep`` holds the scale of the trained rank;
- ``trained`` keeps the first r entries of the diagonal P that training used, folded into A (for
  DyLoRA, whose P at rank r is s_r itself, that is ``rule``). The other three leave P out, also of
  factors that have it folded in already;
- ``fit`` multiplies ``keep`` by one factor per rank, found on held-out examples.

With ``svd`` the update is ``B · P · A`` where P is recorded and ``s_R · B · A`` otherwise, and the
best rank-r approximation (Eckart and Young, 1936) comes from QR factorisations of B and Aᵀ and the
SVD of an R × R core, never from the (out, in) matrix. At the trained rank nothing is decomposed:
the factors are the adapter's own, bit for bit, with P folded in where it is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from aurac.adapters.adapter import Adapter, Derived, Factors
from aurac.errors import CheckpointError, UsageError
from aurac.models.weights import all_finite

Basis = Literal["prefix", "svd"]
BasisOption = Literal["auto", "prefix", "svd"]  # auto: :func:`default_basis`
Rescale = Literal["rule", "keep", "trained", "fit"]
Dtype = Literal["float32", "bfloat16", "float16"]

BASES: Final[tuple[Basis, ...]] = get_args(Basis)
RESCALES: Final[tuple[Rescale, ...]] = get_args(Rescale)
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)


@dataclass(frozen=True, eq=False, repr=False)
class Prepared:
    """An adapter ready for every rank: its truncations are slices."""

    adapter: Adapter  #: that it was made from
    basis: Basis
    rescale: Rescale
    full: Mapping[str, Factors]  #: at full rank, where nothing is decomposed
    sliced: Mapping[str, Factors]  #: in the basis: the first r components are the truncation

    @property
    def rank(self) -> int:
        """R, the largest rank."""
        return self.adapter.rank

    def at(self, rank: int, factor: float | None = None) -> Adapter:
        """The truncation at ``rank``; the adapter itself where that changes nothing.

        The rescale ``fit`` needs its factor of that rank.
        """
        r, ruled = self.adapter.check_rank(rank), by_rule(self.adapter, self.rescale)
        if r == self.rank and self.full is self.adapter.modules:
            return self.adapter
        cut = {name: self.module(name, r, factor) for name in self.adapter.modules}
        derived = self._record(r, factor)
        return replace(
            self.adapter,
            modules={name: replace(f, B=f.B.contiguous()) for name, f in cut.items()},
            folded=derived.rescale == "trained" and not ruled,
            # The nested ranks mean something only with the rule and the trained rank.
            nesting=self.adapter.nesting
            if ruled and len({f.rank for f in self.adapter.modules.values()}) == 1
            else None,
            derived=derived,
        )

    def module(self, name: str, r: int, factor: float | None = None) -> Factors:
        """A module of the truncation at rank ``r``, its factors as views.

        One of a lower rank keeps its own.
        """
        if self.rescale != "fit":
            factor = 1.0
        elif factor is None:
            raise UsageError(f"rescale fit needs a factor for rank {r}, which aurac compare finds")
        f = (self.full if r == self.rank else self.sliced)[name]
        return replace(f, A=f.A[:r], B=f.B[:, :r], alpha=f.alpha * factor)

    def _record(self, r: int, factor: float | None) -> Derived:
        """How the truncation at rank ``r`` was made, for its side-car."""
        adapter, before = self.adapter, self.adapter.derived
        basis: str = self.basis
        rescale: str = self.rescale
        if before and basis == "prefix":
            basis = before.basis  # the first components of an SVD are those of an SVD
        elif r == adapter.rank and basis == "svd" and not is_svd(adapter):
            # Nothing is decomposed there, and P is in the weights.
            basis, rescale = "prefix", "trained" if rescale == "keep" else rescale
        return Derived(
            basis=basis,
            rescale=rescale,
            rank=r,
            from_rank=before.from_rank if before else adapter.rank,
            from_sha256=before.from_sha256 if before else adapter.sha256,
            trained=adapter.trained,
            fit_factor=factor if rescale == "fit" else None,
        )


def default_basis(adapter: Adapter, rescale: Rescale | None = None) -> Basis:
    """``prefix`` where training ordered the components, ``svd`` otherwise.

    Nested ranks order them. The rescales ``rule`` and ``trained`` are about a prefix.
    """
    if is_svd(adapter):
        return "svd"
    nested = adapter.trained is not None and len(adapter.trained.ranks) > 1
    ordered = nested or default_rescale(adapter) == "trained"
    return "prefix" if ordered or rescale in ("rule", "trained") else "svd"


def default_rescale(adapter: Adapter, basis: Basis = "prefix") -> Rescale:
    """``keep`` for svd, ``trained`` where P is recorded and not constant, ``rule`` otherwise.

    A constant P that was folded in is kept, so that full rank is what was trained.
    """
    if basis == "svd" or is_svd(adapter):
        return "keep"
    known = (relative_weights(adapter, name) for name in adapter.modules)
    with_p = any(x is not None and (adapter.folded or bool((x != x[0]).any())) for x in known)
    was_cut_with_p = adapter.folded and adapter.nesting is None
    return "trained" if with_p or was_cut_with_p else "rule"


def prepare(
    adapter: Adapter,
    basis: BasisOption = "prefix",
    rescale: Rescale | None = None,
) -> Prepared:
    """Turn an adapter into the basis in which its truncations at every rank are slices.

    A cut that it cannot have is refused.
    """
    chosen = default_basis(adapter, rescale) if basis == "auto" else basis
    rescale = default_rescale(adapter, chosen) if rescale is None else rescale
    check_cut(adapter, chosen, rescale)
    full = sliced = factors_of(adapter, with_p=rescale == "trained" or chosen == "svd")
    if chosen == "svd" and not is_svd(adapter):
        sliced = {name: _svd(adapter, name) for name in adapter.modules}
    if not by_rule(adapter, rescale):
        sliced = _at_trained_scale(sliced)
        if full is not adapter.modules or rescale == "fit":
            full = _at_trained_scale(full)
    return Prepared(adapter, chosen, rescale, full, sliced)


def factors_of(adapter: Adapter, *, with_p: bool) -> Mapping[str, Factors]:
    """The modules with the trained P folded into A, or without it.

    They are the adapter's own where its factors have it so, and where P is constant or unknown.
    """
    folds = with_p - adapter.folded
    relative = {name: relative_weights(adapter, name) for name in adapter.modules}
    if folds == 0 or not any(p is not None for p in relative.values()):
        return adapter.modules
    return {
        name: replace(f, A=times_p(f.A, relative[name], folds))
        for name, f in adapter.modules.items()
    }


def _at_trained_scale(modules: Mapping[str, Factors]) -> dict[str, Factors]:
    """The modules with the scale of their trained rank, whatever they are cut to."""
    return {n: replace(f, rule="none", alpha=f.scale(f.rank)) for n, f in modules.items()}


def by_rule(adapter: Adapter, rescale: Rescale) -> bool:
    """Whether a cut has the scaling rule's factor of its rank; else it keeps the trained rank's."""
    return rescale == "rule" or (rescale == "trained" and adapter.trained_at_each_rank)


def check_cut(adapter: Adapter, basis: Basis, rescale: Rescale) -> None:
    """Refuse a basis and a rescale that this adapter cannot have together (UsageError)."""
    if basis not in BASES or rescale not in RESCALES:
        raise UsageError(
            f"basis {basis!r} with rescale {rescale!r}: there are the bases auto, "
            f"{', '.join(BASES)} and the rescales {', '.join(RESCALES)}"
        )
    if basis == "svd" and rescale in ("rule", "trained"):
        raise UsageError(
            f"rescale {rescale} needs basis prefix: components of an SVD have no trained order; "
            "with svd give keep or fit"
        )
    if rescale == "trained" and not (adapter.nesting or adapter.folded):
        raise UsageError(
            f"rescale trained needs to know how adapter {adapter.name!r} was trained, which is not "
            "recorded: give --method and --nested-ranks"
        )


def times_p(A: Tensor, relative: Tensor | None, folds: int, dtype: Any = None) -> Tensor:
    """A with P folded in (1), taken out (-1) or as it is (0), rounded once; `relative` is p / s_R.

    A row whose p is 0 was folded to 0 and stays so.
    """
    if relative is None or folds == 0:
        return A
    factor = relative if folds > 0 else torch.where(relative == 0, 0, 1 / relative)
    wide = A.to("cpu" if A.is_mps else A.device, torch.float64)  # MPS has no float64
    return (wide * factor.to(wide.device)[:, None]).to(dtype or A.dtype)


def relative_weights(adapter: Adapter, name: str) -> Tensor | None:
    """``p / s_R`` of a module in fp64, shape (R,); ``None`` where it is 1 throughout or unknown."""
    f = adapter.modules[name]
    p, s = adapter.rank_weights(name), f.scale(f.rank)
    if p is None or s == 0 or np.all(p == s):
        return None
    return torch.from_numpy(p / s).to(f.A.device)


def _svd(adapter: Adapter, name: str) -> Factors:
    """A module whose first r components are the best rank-r approximation of its trained update.

    The update of each block is decomposed from QR factorisations of B and Aᵀ and the SVD of an
    R × R core. Singular values are split evenly, ``A = √σ · Vᵀ``, ``B = U · √σ``; the scale s_R
    stays outside. Where R exceeds a side of the matrix the missing components are zero.
    """
    f = adapter.modules[name]
    A, B = f.stacked()
    left, right = B.double(), A.mT.double()
    relative = relative_weights(adapter, name)
    if relative is not None and not adapter.folded:
        right = right * relative
    (q_left, r_left), (q_right, r_right) = torch.linalg.qr(left), torch.linalg.qr(right)
    u, s, vt = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
    root = s.clamp_min(0).sqrt()[..., None, :]
    k = s.shape[-1]
    a, b = torch.zeros_like(A), torch.zeros_like(B)
    b[..., :k] = q_left @ (u * root)
    a.mT[..., :k] = q_right @ (vt.mT * root)
    a, b = a.permute(1, 0, 2).reshape(f.rank, -1), b.reshape(-1, f.rank)
    return replace(f, A=a, B=b)


def in_dtype(adapter: Adapter, dtype: Dtype | None) -> Adapter:
    """The adapter with all of its tensors in ``dtype``, whose range they must not leave."""
    if dtype is None:
        return adapter
    if dtype not in DTYPES:
        raise UsageError(f"there is no dtype {dtype!r} for adapters, only {', '.join(DTYPES)}")

    def cast(tensor: Any) -> Any:
        if tensor is None:
            return None
        if not all_finite(rounded := tensor.to(getattr(torch, dtype))):
            raise CheckpointError(f"adapter {adapter.name!r} leaves the range of {dtype}")
        return rounded

    modules = {
        name: replace(f, A=cast(f.A), B=cast(f.B), magnitude=cast(f.magnitude))
        for name, f in adapter.modules.items()
    }
    extras = {key: cast(tensor) for key, tensor in adapter.extras.items()}
    return replace(adapter, modules=modules, extras=extras)


def is_svd(adapter: Adapter) -> bool:
    """Whether its components are those of an SVD already."""
    return adapter.derived is not None and adapter.derived.basis == "svd"
