"""Reading PEFT folders: ``adapter_config.json`` beside its weights, of LoRA or AdaLoRA.

AdaLoRA (arXiv 2303.10512) computes ``B · (A ∘ E) x · α / (r₀ + 1e-5)`` with one number of E per
component and r₀ the rank that training began with, whatever ranks its budget left the modules. With
E folded into A that is a low-rank update of a constant scale: rule ``none``. The product is the one
that PEFT computes, in the same type, so nothing is lost.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.formats.peft_config import (
    CONFIG,
    WEIGHTS,
    PeftConfig,
    is_peft_alpha,
    is_peft_rank,
    owner_of,
    parse_config,
)
from aurac.adapters.formats.peft_tensors import PREFIX, factors_from_peft, merged_from_peft
from aurac.adapters.formats.sidecar import Sidecar, read_sidecar, sidecar_path
from aurac.adapters.formats.untrusted import (
    SafetensorsFile,
    check_factor,
    read_json,
    read_tensors,
)
from aurac.adapters.nesting import peft_alpha, rule_alpha
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?P<weight>\.weight)?"
)
_ADALORA: Final = "ADALORA"
_ADALORA_FIELDS: Final = frozenset(
    {"target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"}
    | {"total_step", "rank_pattern", "r", "lora_alpha", "peft_type", "alpha_pattern", "use_rslora"}
)
_ADALORA_PART = re.compile(r"(?P<module>.+)\.lora_(?P<side>[ABE])")


def read_peft(folder: Path, *, lazy: bool = False) -> Adapter:
    """The adapter in a PEFT folder, its side-car included.

    Args:
        folder: The folder.
        lazy: Leave the numbers in the safetensors file: the adapter is an outline.

    Raises:
        CheckpointError: When something is missing, damaged, contradictory or not understood.
    """
    config = read_json(folder / CONFIG)
    if not _is_adalora(config):
        parse_config(config, folder / CONFIG)  # refused before the weights are read
    weights = [folder / name for name in WEIGHTS if (folder / name).exists()]
    if not weights:
        raise CheckpointError(
            f"{folder} has an {CONFIG} but no weights", expected=f"{' or '.join(WEIGHTS)} in it"
        )
    notes = [f"{weights[1].name} is ignored beside {weights[0].name}"] if len(weights) > 1 else []
    inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if inner:
        shown = ", ".join(inner[:5]) + (", …" if len(inner) > 5 else "")
        notes.append(f"the folder holds other adapters too, named with their subfolder: {shown}")
    adapter = _read_weights(config, weights[0], folder.name)
    adapter = replace(adapter, source=folder, notes=(*adapter.notes, *notes))
    sidecar = read_sidecar(sidecar_path(folder))
    if sidecar is not None:
        adapter = with_sidecar(adapter, sidecar, sidecar_path(folder))
    return adapter if lazy else adapter.loaded()


def _read_weights(config: Mapping[str, Any], weights: Path, name: str) -> Adapter:
    """The adapter of a config and its weights; for safetensors without numbers (an outline)."""
    if _is_adalora(config):
        return _from_adalora(config, read_tensors(weights), where=weights, name=name)
    if weights.suffix != ".safetensors":
        return from_state(config, read_tensors(weights), where=weights, name=name)
    file = SafetensorsFile(weights)
    adapter = from_state(config, file.outline(), where=weights, name=name)
    return replace(adapter, values=StoredValues(file, parse_config(config, weights)))


@dataclass(frozen=True)
class StoredValues:
    """The numbers of a PEFT adapter in a safetensors file, read one module at a time."""

    file: SafetensorsFile
    config: PeftConfig
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def factors(self, module: str) -> tuple[Tensor, Tensor]:
        """A and B of a module, in aurac's own shapes."""
        suffix, (a, b) = "weight", (f"{PREFIX}{module}.lora_{side}.weight" for side in "AB")
        if a not in self.file.keys:
            suffix, (a, b) = "embedding", (f"{PREFIX}{module}.lora_embedding_{s}" for s in "AB")
        A, B = (check_factor(self.file.read(key), key, self.file.path) for key in (a, b))
        pair = {"A": (suffix, A), "B": (suffix, B)}
        f = factors_from_peft(module, pair, self.config, self.file.path)
        f = merged_from_peft(module, f, self.groups.get(module))
        return f.A, f.B

    def beside_factors(self, key: str) -> Tensor:
        """A tensor beside the factors."""
        return check_factor(self.file.read(f"{PREFIX}{key}"), key, self.file.path)


def from_state(
    config: Mapping[str, Any], state: Mapping[str, Tensor], *, where: object, name: str
) -> Adapter:
    """The adapter of a PEFT config and a state dict in PEFT's own key format.

    Raises:
        CheckpointError: For half a pair, a foreign key, or a shape that contradicts the config.
    """
    parsed = parse_config(config, where)
    pairs: dict[str, dict[str, tuple[str, Tensor]]] = {}
    extras: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not key.startswith(PREFIX):
            raise CheckpointError(
                f"{where} has a foreign key {key!r}", expected=f"keys under {PREFIX}"
            )
        short = key.removeprefix(PREFIX)
        match = _FACTOR.fullmatch(short)
        if match is None:
            _check_explained(short, parsed, where)
            extras[short] = check_factor(tensor, key, where)
            continue
        suffix = "embedding" if match["embedding"] else "weight"
        if bool(match["weight"]) == bool(match["embedding"]):
            raise CheckpointError(f"{where} has a foreign key {key!r}")
        pairs.setdefault(match["module"], {})[match["side"]] = (
            suffix,
            check_factor(tensor, key, where),
        )
    modules = {
        module: factors_from_peft(module, pair, parsed, where) for module, pair in pairs.items()
    }
    return Adapter(
        name=name,
        modules=modules,
        base=parsed.carried.get("base_model_name_or_path"),
        peft_config={**parsed.carried, **({"bias": parsed.bias} if parsed.bias != "none" else {})},
        notes=(*parsed.notes, *_notes(parsed, modules, extras)),
        extras=extras,
    )


def with_sidecar(adapter: Adapter, sidecar: Sidecar, where: Path) -> Adapter:
    """``adapter`` with the training and scale that its side-car records.

    Raises:
        CheckpointError: When the two contradict each other about the scale.
    """
    modules = {}
    for name, f in adapter.modules.items():
        lora_alpha = peft_alpha(f.rule, f.alpha, f.rank, f.rank_multiple)
        merged = merged_from_peft(name, f, sidecar.groups.get(name))
        modules[name] = _rescaled(merged, lora_alpha, sidecar, where)
    values = adapter.values
    if isinstance(values, StoredValues):
        values = replace(values, groups=sidecar.groups)
    return replace(
        adapter,
        modules=modules,
        values=values,
        nesting=sidecar.nesting,
        base=sidecar.base or adapter.base,
        base_sha256=sidecar.base_sha256,
        recipe=sidecar.recipe,
        seed=sidecar.seed,
        derived=sidecar.derived,
    )


def _rescaled(f: Factors, lora_alpha: float, sidecar: Sidecar, where: Path) -> Factors:
    """``f`` with the rule and α of the side-car, which must agree with ``lora_alpha``."""
    rule = f.rule if sidecar.rule is None else sidecar.rule
    if rule != f.rule and (rule, f.rule) != ("none", "rank"):
        raise CheckpointError(
            f"{where} says scaling {rule}, but {CONFIG} says {f.rule}",
            fix="one of them was changed",
        )
    alpha = rule_alpha(rule, lora_alpha, f.rank, f.rank_multiple)
    if sidecar.alpha is not None:
        recorded = peft_alpha(rule, sidecar.alpha, f.rank, f.rank_multiple)
        if not math.isclose(recorded, lora_alpha, rel_tol=1e-9):
            raise CheckpointError(
                f"{where} has alpha {sidecar.alpha:g}, but {CONFIG} lora_alpha {lora_alpha:g}",
                fix="one of them was changed",
            )
        alpha = float(sidecar.alpha)
    return replace(f, rule=rule, alpha=alpha)


def _check_explained(key: str, config: PeftConfig, where: object) -> None:
    """Refuse a key beside the factors unless the config says why it is there."""
    saved = tuple(config.carried.get("modules_to_save") or ())
    path = key.split(".")
    whole_module = owner_of(key, saved) is not None
    biased = config.bias != "none" and path[-1] == "bias" and "lora_B" not in path
    tokens = "trainable_token_indices" in config.carried and path[-1] == "trainable_tokens_delta"
    embedding = path[-1] == "weight" and bool({"embed_tokens", "lm_head"} & set(path))
    if whole_module or biased or tokens or embedding:
        return
    if "lora_magnitude_vector" in path:
        raise CheckpointError(f"{where} has DoRA's {key!r}, which is refused")
    raise CheckpointError(
        f"{where} has a key {key!r} that its config does not explain",
        expected="pairs of lora_A and lora_B, and what the config names",
    )


def _notes(
    config: PeftConfig, modules: Mapping[str, Factors], extras: Mapping[str, Tensor]
) -> list[str]:
    notes = []
    if "layer_replication" in config.carried:
        if extras:
            raise CheckpointError(
                "layer_replication together with tensors beside the factors is refused",
                expected="one of the two",
            )
        notes.append("it runs on repeated layers of its base; rank 0 is the base without repeats")
    ranks = sorted({f.rank for f in modules.values()})
    if len(ranks) > 1:
        notes.append(
            f"modules have ranks {', '.join(map(str, ranks))}; at rank r a module of a lower rank "
            "keeps its own rank and scale"
        )
    if extras:
        notes.append(
            f"{len(extras)} tensors beside the low-rank factors hold at every rank from 1 on, "
            "so rank 0 (the plain base) is not the limit of small ranks"
        )
    return notes


def _from_adalora(
    config: Mapping[str, Any], state: Mapping[str, Tensor], *, where: object, name: str
) -> Adapter:
    """The adapter of an AdaLoRA config and state dict, converted to plain factors.

    Raises:
        CheckpointError: See :func:`from_state`; also for an AdaLoRA part that is missing or wrong.
    """
    scale = _adalora_scale(config, where)
    lora, plain, notes = _adalora_as_lora(config, state, where)
    adapter = from_state(lora, plain, where=where, name=name)
    modules = {n: replace(f, rule="none", alpha=scale) for n, f in adapter.modules.items()}
    return replace(
        adapter, modules=modules, notes=(*notes, *adapter.notes), format="peft, from AdaLoRA"
    )


def _is_adalora(config: Mapping[str, Any]) -> bool:
    """Whether a config is AdaLoRA's."""
    kind = config.get("peft_type")
    return isinstance(kind, str) and kind.upper() == _ADALORA


def _adalora_scale(config: Mapping[str, Any], where: object) -> float:
    """``α / (r₀ + 1e-5)``.

    Raises:
        CheckpointError: For an α or an initial rank that PEFT would not compute that from.
    """
    alpha, first = config.get("lora_alpha", 8), config.get("init_r", 12)
    if not is_peft_alpha(alpha) or alpha <= 0:
        raise CheckpointError(f"{where} gives lora_alpha = {alpha!r}"[:300], expected="above 0")
    if not is_peft_rank(first):
        raise CheckpointError(f"{where} gives init_r = {first!r}"[:300], expected="a rank")
    return float(alpha) / (first + 1e-5)


def _adalora_as_lora(
    config: Mapping[str, Any], state: Mapping[str, Tensor], where: object
) -> tuple[dict[str, Any], dict[str, Tensor], tuple[str, ...]]:
    """The config and the tensors of the plain LoRA adapter that an AdaLoRA adapter is, and notes.

    Raises:
        CheckpointError: For a missing or wrong part, or when no module kept a component.
    """
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
    return lora, plain, _adalora_notes(len(parts) - len(ranks))


def _adalora_notes(empty: int) -> tuple[str, ...]:
    order = "its components have no order, so a prefix is arbitrary and svd is the one to use"
    notes = [f"converted from AdaLoRA: {order}"]
    if empty:
        notes.append(f"AdaLoRA left {empty} modules without a component")
    return tuple(notes)


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
