"""AdaLoRA adapters of PEFT, converted to plain LoRA.

AdaLoRA (arXiv 2303.10512) computes ``B · (A ∘ E) x · α / (r₀ + 1e-5)`` with one number of E per
component and r₀ the rank that training began with, whatever ranks its budget left the modules. With
E folded into A that is a low-rank update of a constant scale: rule ``none``. The product is the one
that PEFT computes, in the same type, so nothing is lost.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from aurac.adapters.formats.peft_config import PREFIX, is_peft_alpha, is_peft_rank
from aurac.adapters.formats.untrusted import check_factor
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_ADALORA: Final = "ADALORA"
_ADALORA_FIELDS: Final = frozenset(
    {"target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"}
    | {"total_step", "rank_pattern", "r", "lora_alpha", "peft_type", "alpha_pattern", "use_rslora"}
)
_ADALORA_PART = re.compile(r"(?P<module>.+)\.lora_(?P<side>[ABE])")


def is_adalora(config: Mapping[str, Any]) -> bool:
    """Whether a config is AdaLoRA's."""
    kind = config.get("peft_type")
    return isinstance(kind, str) and kind.upper() == _ADALORA


def _adalora_scale(config: Mapping[str, Any], where: object) -> float:
    """``α / (r₀ + 1e-5)``; refused where PEFT would not compute that from the fields."""
    alpha, first = config.get("lora_alpha", 8), config.get("init_r", 12)
    if not is_peft_alpha(alpha) or alpha <= 0:
        raise CheckpointError(f"{where} gives lora_alpha = {alpha!r}"[:300], expected="above 0")
    if not is_peft_rank(first):
        raise CheckpointError(f"{where} gives init_r = {first!r}"[:300], expected="a rank")
    return float(alpha) / (first + 1e-5)


def adalora_as_lora(
    config: Mapping[str, Any], state: Mapping[str, Tensor], where: object
) -> tuple[dict[str, Any], dict[str, Tensor], float, tuple[str, ...]]:
    """Config, tensors, scale and notes of the plain LoRA adapter that an AdaLoRA adapter is."""
    scale = _adalora_scale(config, where)
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
    return lora, plain, scale, tuple(notes)


def _adalora_parts(
    module: str, sides: Mapping[str, Tensor], where: object
) -> tuple[Tensor, Tensor, Tensor]:
    missing = [side for side in "ABE" if side not in sides]
    if missing:
        raise CheckpointError(f"{where} has no lora_{missing[0]} for {module}")
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
