"""PEFT's shapes of factors, to and from aurac's own.

aurac keeps every kind of module so that the first r rows of A and columns of B are rank r. PEFT
does so for plain layers alone: experts and merged layers are rearranged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from aurac.adapters.adapter import Factors, Kind
from aurac.adapters.compatibility import module_in_model
from aurac.adapters.formats.peft_config import (
    CONFIG,
    PREFIX,
    PeftConfig,
    PeftRank,
    Skeleton,
    parse_config,
)
from aurac.adapters.formats.storage import check_factor, checked
from aurac.adapters.nesting import rule_alpha
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

_WHOLE = "save it again with all factors of each module"


def peft_shapes(f: Factors, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) in the shapes that PEFT keeps for this kind of module."""
    r = A.shape[0]
    if f.kind == "experts":
        experts = f.layout[0]
        B = B.reshape(experts, -1, r).permute(1, 2, 0).reshape(-1, r * experts)
        return _unstack_blocks(A, experts), B
    if f.kind == "merged":
        return _plain_from_merged(A, B, f.layout)
    return A, B


def own_shapes(kind: Kind, layout: tuple[int, ...], A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`peft_shapes`, but for merged layers: A (R, in) and B (out, R)."""
    if kind == "experts":
        experts, rank = layout[0], A.shape[0] // layout[0]
        # PEFT lays the components of B out with the experts varying fastest.
        B = B.reshape(-1, rank, experts).permute(2, 0, 1).reshape(-1, rank)
        return stack_blocks(A, experts), B
    return A, B


def with_parameters(
    config: PeftConfig,
    modules: Iterable[str],
    skeleton: Skeleton,
    where: object,
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
    needed = short or any(
        len({config.scale_of(f"{plain}.{leaf}") for leaf in leaves}) > 1
        for plain, leaves in named.items()
    )
    settled = not short and all(len(leaves) <= 1 for leaves in named.values())
    base = None if settled else skeleton(needed)
    if base is None and needed:
        raise CheckpointError(
            f"{where} adapts parameters by name, and only the base says which of them its factors "
            "belong to",
            fix="give --base, a model that can be read here",
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
                f"{where} has {len(names)} pairs of factors for parameters of {plain}",
                expected=f"one for each of {', '.join(leaves)}",
                fix="it was trained on another base, or the config was changed",
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


def factors_from_peft(
    module: str, pair: Mapping[str, tuple[str, Tensor]], config: PeftConfig, where: object
) -> Factors:
    """A module's factors in aurac's own shapes.

    ``pair`` has for A and B the suffix of its key (``weight`` or ``embedding``) and the tensor.
    """
    if set(pair) != {"A", "B"}:
        missing = "B" if "A" in pair else "A"
        raise CheckpointError(f"{where} has no lora_{missing} for {module}", fix=_WHOLE)
    (suffix, A), (suffix_b, B) = pair["A"], pair["B"]
    if suffix != suffix_b:
        raise CheckpointError(f"{where} mixes embedding and weight factors for {module}")
    rank, alpha = config.of(module)
    kind, layout = _kind(module, A, B, suffix, config, where)
    A, B = own_shapes(kind, layout, A, B)
    if A.shape[0] != rank or B.shape[1] != rank:
        raise CheckpointError(
            f"{where} has factors of ranks {A.shape[0]} and {B.shape[1]} for {module}",
            expected=f"rank {rank}, which {CONFIG} gives it",
        )
    alpha = rule_alpha(config.rule, alpha, A.shape[0])
    parameter = config.parameters.get(module, "")
    return Factors(A, B, alpha, config.rule, kind, layout, parameter=parameter)


def merged_from_peft(name: str, f: Factors, mask: Sequence[int] | None) -> Factors:
    """A merged layer again from the plain one that was exported; ``f`` itself without a mask."""
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


def stack_blocks(A: Tensor, blocks: int) -> Tensor:
    """A of E blocks, (E · r, in), as (r, E · in): row i holds component i of every block."""
    return A.reshape(blocks, A.shape[0] // blocks, -1).permute(1, 0, 2).flatten(1).contiguous()


def _unstack_blocks(A: Tensor, blocks: int) -> Tensor:
    """The inverse of :func:`stack_blocks`."""
    return A.reshape(A.shape[0], blocks, -1).permute(1, 0, 2).flatten(0, 1)


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


def _kind(
    module: str, A: Tensor, B: Tensor, suffix: str, config: PeftConfig, where: object
) -> tuple[Kind, tuple[int, ...]]:
    """The kind and layout of a module's factors in PEFT's own shapes."""
    shapes = f"{where} has factors of shapes {tuple(A.shape)} and {tuple(B.shape)} for {module}"
    if suffix == "embedding" and A.ndim == B.ndim == 2:
        return "embedding", ()
    if A.ndim != 2 or B.ndim != 2:
        raise CheckpointError(shapes, expected="those of linear layers; convolutions are refused")
    if module not in config.parameters:
        return "linear", ()
    rank = config.of(module)[0]
    experts = A.shape[0] // rank
    if experts < 1 or A.shape[0] != experts * rank or B.shape[1] != experts * rank:
        raise CheckpointError(shapes, expected=f"a multiple of rank {rank} on both")
    return "experts", (experts,)


_ADALORA: Final = "ADALORA"
_ADALORA_FIELDS: Final = frozenset(
    {"target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"}
    | {"total_step", "rank_pattern", "r", "lora_alpha", "peft_type", "alpha_pattern", "use_rslora"}
)
_ADALORA_PART = re.compile(r"(?P<module>.+)\.lora_(?P<side>[ABE])")


def is_adalora(config: Mapping[str, object]) -> bool:
    """Whether a config is AdaLoRA's."""
    kind = config.get("peft_type")
    return isinstance(kind, str) and kind.upper() == _ADALORA


class _AdaLora(msgspec.Struct):
    lora_alpha: Annotated[float, Meta(gt=0, le=1e9)] = 8.0
    init_r: PeftRank = 12


def adalora_as_lora(
    config: Mapping[str, object], state: Mapping[str, Tensor], where: object
) -> tuple[PeftConfig, dict[str, Tensor], float, tuple[str, ...]]:
    """Config, tensors, scale and notes of the plain LoRA adapter that an AdaLoRA adapter is.

    AdaLoRA (arXiv 2303.10512) computes ``B · (A ∘ E) x · α / (r₀ + 1e-5)`` with one number of E per
    component and r₀ the rank that training began with, whatever ranks its budget left the modules.
    With E folded into A that is a low-rank update of a constant scale: rule ``none``. The product
    is the one that PEFT computes, in the same type, so nothing is lost.
    """
    fields = checked(config, _AdaLora, where)
    scale = fields.lora_alpha / (fields.init_r + 1e-5)
    parts: dict[str, dict[str, Tensor]] = {}
    plain: dict[str, Tensor] = {}
    for key, tensor in state.items():
        match = _ADALORA_PART.fullmatch(key.removeprefix(PREFIX))
        if match is None or not key.startswith(PREFIX):
            plain[key] = tensor
        else:
            parts.setdefault(match["module"], {})[match["side"]] = tensor
    ranks: dict[str, int] = {}
    for module, sides in parts.items():
        A, B, E = _adalora_parts(module, sides, where)
        if A.shape[0] == 0:
            continue
        ranks[module] = A.shape[0]
        plain[f"{PREFIX}{module}.lora_A.weight"] = check_factor(A * E, f"{module}.lora_A", where)
        plain[f"{PREFIX}{module}.lora_B.weight"] = B
    if not ranks:
        raise CheckpointError(f"{where} has no module with a component left")
    common = Counter(ranks.values()).most_common(1)[0][0]
    pattern = {re.escape(name): rank for name, rank in ranks.items() if rank != common}
    kept = {key: value for key, value in config.items() if key not in _ADALORA_FIELDS}
    lora = {**kept, "peft_type": "LORA", "r": common, "rank_pattern": pattern, "lora_alpha": 1}
    order = "its components have no order, so a prefix is arbitrary and svd is the one to use"
    notes = [f"converted from AdaLoRA: {order}"]
    if empty := len(parts) - len(ranks):
        notes.append(f"AdaLoRA left {empty} modules without a component")
    return parse_config(lora, where), plain, scale, tuple(notes)


def _adalora_parts(
    module: str, sides: Mapping[str, Tensor], where: object
) -> tuple[Tensor, Tensor, Tensor]:
    missing = [side for side in "ABE" if side not in sides]
    if missing:
        raise CheckpointError(f"{where} has no lora_{missing[0]} for {module}", fix=_WHOLE)
    A, B, E = sides["A"], sides["B"], sides["E"]
    if A.ndim != 2 or B.ndim != 2 or tuple(E.shape) != (A.shape[0], 1) or B.shape[1] != A.shape[0]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (A, E, B))
        raise CheckpointError(
            f"{where} has A, E and B of {shapes} for {module}",
            expected="(r, in), (r, 1) and (out, r)",
        )
    if A.shape[0]:
        for side, tensor in sides.items():
            check_factor(tensor, f"{module}.lora_{side}", where)
    return A, B, E
