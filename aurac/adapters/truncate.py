"""Truncation: the first r components in trained order, or the best r of the trained update.

The scale after truncation (``rescale``) is a choice that can outweigh the method:

- ``rule`` re-evaluates the scaling rule at r, the published inference of all three methods;
- ``keep`` holds the scale of the trained rank;
- ``trained`` keeps the first r entries of the diagonal P that training used, folded into A (for
  DyLoRA, whose P at rank r is s_r itself, that is ``rule``);
- ``fit`` multiplies ``keep`` by one factor per rank, found on held-out documents.

With ``svd`` the update is ``B · P · A`` where P is recorded and ``s_R · B · A`` otherwise, and the
best rank-r approximation (Eckart and Young, 1936) comes from QR factorisations of B and Aᵀ and the
SVD of an R × R core, never from the (out, in) matrix.

``energy`` takes the same components and spends the parameters of a uniform rank r where the
singular values of the update, scaled as it acts, are largest over all modules: each module has a
rank of its own, at least 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray
from torch import Tensor

from aurac.adapters.adapter import Adapter, Factors, all_finite
from aurac.adapters.methods import orders_components
from aurac.adapters.nesting import Rule, peft_scale
from aurac.errors import CheckpointError, UsageError
from aurac.records.cut import Derived

Basis = Literal["prefix", "svd", "energy"]
BasisOption = Literal["auto", "prefix", "svd", "energy"]  # auto: :func:`default_basis`
Rescale = Literal["rule", "keep", "trained", "fit"]

BASES: Final[tuple[Basis, ...]] = get_args(Basis)
RESCALES: Final[tuple[Rescale, ...]] = get_args(Rescale)


@dataclass(frozen=True, eq=False)
class Prepared:
    """An adapter ready for every rank: prefix slices of its modules are the truncations.

    Attributes:
        adapter: The adapter that it was made from.
        basis: ``prefix``, ``svd`` or ``energy``.
        rescale: What decides the scale.
        modules: By module path A (R, in), with any weights folded in, and B (out, R).
        fit_factors: For ``fit`` the factor of each rank.
        spectra: For ``energy`` the singular values of each module's update, descending, (R,).
    """

    adapter: Adapter
    basis: Basis
    rescale: Rescale
    modules: Mapping[str, tuple[Tensor, Tensor]]
    fit_factors: Mapping[int, float] | None = None
    spectra: Mapping[str, NDArray[np.float64]] | None = None

    def __repr__(self) -> str:
        return f"Prepared({self.adapter!r}, {self.basis} · {self.rescale})"

    @property
    def rank(self) -> int:
        """R, the largest rank."""
        return self.adapter.rank

    def at(self, rank: int) -> Adapter:
        """The truncation at ``rank`` as an adapter, of the slices that a live model runs on.

        Raises:
            RankError: For a rank that the adapter does not have.
            UsageError: For a rank without a fitted factor.
        """
        r = self.adapter.check_rank(rank)
        ranks, modules = self.module_ranks(r), {}
        for name, (A, B) in self.modules.items():
            f, own = self.adapter.modules[name], ranks[name]
            rule, alpha = self._rule(f, r)
            modules[name] = replace(f, A=A[:own], B=B[:, :own].contiguous(), rule=rule, alpha=alpha)
        return replace(
            self.adapter,
            modules=modules,
            # P follows from the rule, so it is only still known where the rule is kept.
            nesting=self.adapter.nesting if self._by_rule else None,
            derived=self.record(r),
        )

    def module_ranks(self, r: int) -> dict[str, int]:
        """The rank of each module in the truncation at ``r``: its own where that is lower.

        For ``energy`` the parameters of these are spent, one component of each module first, then
        by descending singular value as long as they suffice.
        """
        factors = self.adapter.modules
        ranks = {name: min(r, f.rank) for name, f in factors.items()}
        if self.spectra is None:
            return ranks
        costs = {name: (f.A.numel() + f.B.numel()) // f.rank for name, f in factors.items()}
        left = sum((rank - 1) * costs[name] for name, rank in ranks.items())
        ranks = dict.fromkeys(ranks, 1)
        components = [(-s, name) for name, values in self.spectra.items() for s in values[1:]]
        for _, name in sorted(components):
            if costs[name] <= left:
                ranks[name] += 1
                left -= costs[name]
        return ranks

    def scaling(self, name: str, r: int, module_rank: int | None = None) -> float:
        """The factor of a module at rank ``r`` as plain PEFT computes it from an export."""
        f = self.adapter.modules[name]
        rule, alpha = self._rule(f, r)
        rank = self.module_ranks(r)[name] if module_rank is None else module_rank
        return peft_scale(rule, alpha, rank, f.rank_multiple)

    @property
    def _by_rule(self) -> bool:
        return self.rescale == "rule" or (
            self.rescale == "trained" and self.adapter.trained_at_each_rank
        )

    def _rule(self, f: Factors, r: int) -> tuple[Rule, float]:
        """The rule and α that an export at rank ``r`` carries for one module."""
        if self._by_rule:
            return f.rule, f.alpha
        kept = f.scale(f.rank)
        if self.rescale == "fit":
            kept *= _factor(self.fit_factors, r)
        return "none", kept

    def record(self, r: int) -> Derived:
        """How the truncation at rank ``r`` was made, for its side-car."""
        adapter, before = self.adapter, self.adapter.derived or Derived()
        own = structs.replace(before, from_rank=None, from_sha256=None, trained=None)
        return Derived(
            basis=before.basis or "prefix" if self.basis == "prefix" else self.basis,
            rescale=self.rescale,
            rank=r,
            from_rank=before.from_rank or adapter.rank,
            from_sha256=before.from_sha256 or adapter.sha256,
            trained=before.trained if adapter.nesting is None else adapter.training,
            fit_factor=_factor(self.fit_factors, r) if self.rescale == "fit" else None,
            before=own if adapter.derived else None,
        )


def default_basis(adapter: Adapter, rescale: Rescale | None = None) -> Basis:
    """``prefix`` where training ordered the components, ``svd`` otherwise.

    Nested ranks order them, so does a P that is not constant, and a method's own ``finish``. The
    rescales ``rule`` and ``trained`` are about a prefix.
    """
    if is_svd(adapter):
        return "svd"
    record = (adapter.derived or Derived()).trained or adapter.training
    ordered = len(record.nested_ranks or ()) > 1 or orders_components(record.method)
    if ordered or rescale in ("rule", "trained") or default_rescale(adapter) == "trained":
        return "prefix"
    return "svd"


def default_rescale(adapter: Adapter, basis: Basis = "prefix") -> Rescale:
    """``keep`` for svd, ``trained`` where P is recorded and not constant, ``rule`` otherwise."""
    if basis != "prefix" or is_svd(adapter):
        return "keep"
    if has_p_in_weights(adapter):
        return "trained"
    for name in adapter.modules:
        p = adapter.rank_weights(name)
        if p is not None and not np.all(p == p[0]):
            return "trained"
    return "rule"


def prepare(
    adapter: Adapter,
    basis: BasisOption = "prefix",
    rescale: Rescale | None = None,
    fit_factors: Mapping[int, float] | None = None,
) -> Prepared:
    """Turn an adapter into the basis whose prefix slices are its truncations at every rank.

    Raises:
        UsageError: For an unknown word, a basis and rescale that do not go together, ``trained``
            where training is not recorded, or ``fit`` without factors.
        CheckpointError: When folding or the SVD leaves the range of the adapter's dtype.
    """
    adapter = adapter.loaded()
    prepared = prepare_outline(adapter, basis, rescale, fit_factors)
    modules = {name: _in_basis(prepared, name, f) for name, f in adapter.modules.items()}
    return replace(prepared, modules=modules)


def prepare_outline(
    adapter: Adapter,
    basis: BasisOption = "prefix",
    rescale: Rescale | None = None,
    fit_factors: Mapping[int, float] | None = None,
) -> Prepared:
    """What :func:`prepare` does, checked, without its modules: for an adapter of any size."""
    if basis == "auto":
        basis = default_basis(adapter, rescale)
    if basis not in BASES:
        raise UsageError(f"basis {basis!r}", expected=f"one of auto, {', '.join(BASES)}")
    rescale = default_rescale(adapter, basis) if rescale is None else rescale
    _check_rescale(adapter, basis, rescale, fit_factors)
    spectra = None
    if basis == "energy":
        spectra = {name: _spectrum(adapter, name, f) for name, f in adapter.walk()}
    return Prepared(adapter, basis, rescale, {}, fit_factors, spectra)


def _check_rescale(
    adapter: Adapter, basis: Basis, rescale: Rescale, fit_factors: Mapping[int, float] | None
) -> None:
    if rescale not in RESCALES:
        raise UsageError(f"rescale {rescale!r}", expected=f"one of {', '.join(RESCALES)}")
    if basis != "prefix" and rescale in ("rule", "trained"):
        raise UsageError(
            f"rescale {rescale} with basis {basis}",
            expected="keep, or fit in compare: components of an SVD have no trained order",
        )
    if rescale == "fit" and not fit_factors:
        raise UsageError("rescale fit without factors", fix="fit them on held-out documents first")
    recorded = adapter.nesting or has_p_in_weights(adapter)
    if rescale == "trained" and not recorded:
        raise UsageError(
            f"rescale trained for adapter {adapter.name!r}, whose training is not recorded",
            fix="give --method and --nested-ranks, or use rule or keep",
        )


def _in_basis(prepared: Prepared, name: str, f: Factors) -> tuple[Tensor, Tensor]:
    """A and B of one module in the basis of an outline from :func:`prepare_outline`."""
    adapter = prepared.adapter
    if prepared.basis != "prefix":
        if is_svd(adapter):
            return f.A, f.B  # in that basis already: its prefixes are the best approximations
        return _svd(f, _relative(adapter, name), name)
    relative = _relative(adapter, name) if prepared.rescale == "trained" else None
    if relative is None:
        return f.A, f.B
    folded = (f.A.double() * relative.to(f.A.device)[:, None]).to(f.A.dtype)
    return _finite(folded, name), f.B


def _relative(adapter: Adapter, name: str) -> Tensor | None:
    """``p / s_R`` of a module in fp64, shape (R,); ``None`` where it is 1 throughout or unknown."""
    f = adapter.modules[name]
    p = adapter.rank_weights(name)
    if p is None:
        return None
    relative = p / f.scale(f.rank) if f.scale(f.rank) != 0 else np.ones_like(p)
    return None if np.all(relative == 1.0) else torch.from_numpy(relative)


def _svd(f: Factors, relative: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Factors whose first r components are the best rank-r approximation of the trained update.

    The update of each block is decomposed from QR factorisations of B and Aᵀ and the SVD of an
    R × R core. Singular values are split evenly, ``A = √σ · Vᵀ``, ``B = U · √σ``; the scale s_R
    stays outside. Where R exceeds a side of the matrix the missing components are zero.
    """
    R = f.rank
    A, B = f.stacked()
    left, right = B.double(), A.mT.double()
    if relative is not None:
        right = right * relative.to(right.device)
    (q_left, r_left), (q_right, r_right) = torch.linalg.qr(left), torch.linalg.qr(right)
    u, s, vt = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
    root = s.clamp_min(0).sqrt()[..., None, :]
    k = s.shape[-1]
    a, b = torch.zeros_like(A), torch.zeros_like(B)
    b[..., :k] = q_left @ (u * root)
    a.mT[..., :k] = q_right @ (vt.mT * root)
    a, b = a.permute(1, 0, 2).reshape(R, -1), b.reshape(-1, R)
    return _finite(a, name), _finite(b, name)


def triangles(f: Factors) -> tuple[Tensor, Tensor]:
    """The R factors of Aᵀ and B in fp64, (E, min(R, in), R) and (E, min(R, out), R)."""
    A, B = f.stacked()
    a, b = (torch.linalg.qr(side.double(), mode="r").R.cpu() for side in (A.mT, B))
    return a, b


def singular_values(a: Tensor, b: Tensor, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The singular values of ``B · diag(weights) · A``, descending, shape (R,).

    ``a`` and ``b`` are those of :func:`triangles`. A stack of blocks is one block-diagonal update:
    its values are those of the blocks, pooled by position.
    """
    R = a.shape[-1]
    sigma = torch.linalg.svdvals((b * torch.from_numpy(weights)) @ a.mT)
    pooled = sigma.square().sum(dim=0).sqrt().numpy()
    return np.pad(pooled, (0, R - pooled.shape[0]))


def _spectrum(adapter: Adapter, name: str, f: Factors) -> NDArray[np.float64]:
    """The singular values of one module's trained update, scaled as it acts, (R,)."""
    p = adapter.rank_weights(name)
    return singular_values(*triangles(f), np.full(f.rank, f.scale(f.rank)) if p is None else p)


def _finite(tensor: Tensor, name: str) -> Tensor:
    if not all_finite(tensor):
        raise CheckpointError(
            f"the factors of {name} leave the range of {str(tensor.dtype).removeprefix('torch.')}",
            fix="save the adapter in float32 first",
        )
    return tensor


def _factor(factors: Mapping[int, float] | None, r: int) -> float:
    if not factors or r not in factors:
        raise UsageError(f"rank {r} without a fitted factor", fix="fit one for each rank first")
    value = float(factors[r])
    if not np.isfinite(value):
        raise UsageError(f"a fitted factor of {value} for rank {r}", expected="a finite number")
    return value


def has_p_in_weights(adapter: Adapter) -> bool:
    """Whether it was cut with its trained P, which its factors have then."""
    return (adapter.derived or Derived()).rescale == "trained"


def is_svd(adapter: Adapter) -> bool:
    """Whether its components are those of an SVD already."""
    return (adapter.derived or Derived()).basis in ("svd", "energy")
