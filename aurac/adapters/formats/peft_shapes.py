"""PEFT's shapes of factors, to and from aurac's own.

aurac keeps every kind of module so that the first r rows of A and columns of B are rank r. PEFT
does so for plain layers alone: experts are rearranged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from torch import Tensor, nn

from aurac.adapters.adapter import Factors
from aurac.adapters.compatibility import module_in_model
from aurac.adapters.formats.peft_config import PeftConfig, Skeleton
from aurac.errors import CheckpointError


def peft_shapes(f: Factors, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) in the shapes that PEFT keeps for this kind of module."""
    if f.kind != "experts":
        return A, B
    r, E = A.shape[0], f.blocks
    # PEFT lays A out expert by expert, and the components of B with the experts varying fastest.
    A = A.reshape(r, E, -1).permute(1, 0, 2).flatten(0, 1)
    return A, B.reshape(E, -1, r).permute(1, 2, 0).reshape(-1, r * E)


def _own_shapes(A: Tensor, B: Tensor, E: int) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`peft_shapes` for E experts."""
    R = A.shape[0] // E
    A = A.reshape(E, R, -1).permute(1, 0, 2).flatten(1).contiguous()
    return A, B.reshape(-1, R, E).permute(2, 0, 1).reshape(-1, R)


def factors_from_peft(
    module: str, pair: Mapping[str, Tensor], config: PeftConfig, where: object, *, embedding: bool
) -> Factors:
    """A module's factors in aurac's own shapes, from PEFT's own A and B."""
    if set(pair) != {"A", "B"}:
        raise CheckpointError(f"{where} has only lora_{min(pair)} for {module}")
    A, B = pair["A"], pair["B"]
    rank, alpha = config.of(module)
    experts = module in config.parameters and not embedding
    if A.ndim != 2 or B.ndim != 2:
        raise CheckpointError(f"{where} adapts the convolution {module}, which cannot be cut")
    E = max(A.shape[0] // rank, 1) if experts else 1
    if A.shape[0] != E * rank or B.shape[1] != E * rank:
        raise CheckpointError(
            f"{where} has factors of shapes {tuple(A.shape)} and {tuple(B.shape)} for {module}, "
            f"whose rank is {rank} by its config"
        )
    if not experts:
        return Factors(A, B, alpha, config.rule, "embedding" if embedding else "linear")
    A, B = _own_shapes(A, B, E)
    parameter = config.parameters[module]
    return Factors(A, B, alpha, config.rule, "experts", E, parameter=parameter)


def with_parameters(
    config: PeftConfig, modules: Iterable[str], skeleton: Skeleton, where: object
) -> PeftConfig:
    """``config`` with the parameter that each module's factors adapt, for ``target_parameters``.

    PEFT wraps the parameters of one module in their order in the base: ``experts.base_layer`` has
    the factors of the first, ``experts`` those of the last. ``skeleton`` gives the base's modules;
    it is told whether they are needed, because the config leaves ranks or alphas open.
    """
    targets = config.target_parameters
    wrapped: dict[str, list[str]] = {}
    for name in sorted(modules, key=len, reverse=True) if targets else ():
        wrapped.setdefault(module_in_model(name), []).append(name)
    named = {plain: _named_parameters(plain, targets) for plain in wrapped}
    short = any("." not in target for target in targets)  # any module may have that parameter
    scales = ({config.scale_of(f"{n}.{leaf}") for leaf in leaves} for n, leaves in named.items())
    needed = short or any(len(scales_of_one) > 1 for scales_of_one in scales)
    base = skeleton(needed)
    if base is None and needed:
        raise CheckpointError(
            f"{where} adapts parameters by name, and only the base says which of them its factors "
            "belong to: give --base"
        )
    if base is not None:
        present = dict(base.named_modules())
        named = {n: _parameters_of(n, present.get(n), targets) for n in named}
    parameters: dict[str, str] = {}
    for plain, names in wrapped.items():
        leaves = named[plain]
        known = base is not None or len(leaves) == 1
        if leaves and (len(names) > len(leaves) or (known and len(names) < len(leaves))):
            raise CheckpointError(
                f"{where} has {len(names)} pairs of factors for the parameters "
                f"{', '.join(leaves)} of {plain}, so it was trained on another base"
            )
        if leaves:
            parameters |= zip(names, leaves if known else [""] * len(names), strict=True)
    return msgspec.structs.replace(config, parameters=parameters)


def _named_parameters(module: str, targets: Iterable[str]) -> list[str]:
    """The parameters that ``target_parameters`` name for a module, as far as names tell."""
    pairs = (target.rpartition(".")[::2] for target in targets)
    return sorted({leaf for owner, leaf in pairs if f".{module}".endswith(f".{owner}")})


def _parameters_of(name: str, module: nn.Module | None, targets: Iterable[str]) -> list[str]:
    """The parameters of the base's own ``module`` that ``target_parameters`` name, in order."""
    own = [] if module is None else [n for n, _ in module.named_parameters(recurse=False)]
    return [n for n in own if any(f".{name}.{n}".endswith(f".{target}") for target in targets)]
