"""PEFT folders: ``adapter_config.json`` beside its weights, in PEFT's own keys and shapes.

aurac keeps every kind of module so that the first r rows of A and columns of B are rank r. PEFT
does so for plain layers alone: experts, grouped convolutions and merged layers are rearranged.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aurac.adapters.adapter import Adapter, Factors, Kind
from aurac.adapters.formats.adalora import adalora_as_lora, is_adalora
from aurac.adapters.formats.peft_config import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    PeftConfig,
    owner_of,
    parse_config,
)
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

_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?P<weight>\.weight)?"
)


def read_peft(folder: Path, *, lazy: bool = False) -> Adapter:
    """The adapter in a PEFT folder, its side-car included.

    Args:
        folder: The folder.
        lazy: Leave the numbers in the safetensors file: the adapter is an outline.

    Raises:
        CheckpointError: When something is missing, damaged, contradictory or not understood.
    """
    config = read_json(folder / CONFIG)
    if not is_adalora(config):
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
    if is_adalora(config):
        plain = adalora_as_lora(config, read_tensors(weights), weights)
        adapter = from_state(plain.config, plain.state, where=weights, name=name)
        modules = {
            module: replace(f, rule="none", alpha=plain.scale)
            for module, f in adapter.modules.items()
        }
        notes = (*plain.notes, *adapter.notes)
        return replace(adapter, modules=modules, notes=notes, format="peft, from AdaLoRA")
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


def factor_keys(name: str, f: Factors) -> tuple[str, str]:
    """PEFT's keys of a module's A and B."""
    a, b = ("embedding_A", "embedding_B") if f.kind == "embedding" else ("A.weight", "B.weight")
    return f"{PREFIX}{name}.lora_{a}", f"{PREFIX}{name}.lora_{b}"


def peft_state(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors under PEFT's own keys and in PEFT's own shapes."""
    state: dict[str, Tensor] = {}
    for name, f in adapter.modules.items():
        state.update(zip(factor_keys(name, f), peft_shapes(f, f.A, f.B), strict=True))
    state.update({f"{PREFIX}{key}": tensor for key, tensor in adapter.extras.items()})
    return state


def peft_shapes(f: Factors, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) in the shapes that PEFT keeps for this kind of module."""
    r = A.shape[0]
    if f.kind == "conv":
        return A.reshape(r, -1, *f.layout), B.reshape(-1, r, *(1 for _ in f.layout))
    if f.kind == "grouped_conv":
        groups, *kernel = f.layout
        A = _unstack_blocks(A, groups).reshape(groups * r, -1, *kernel)
        return A, B.reshape(-1, r, *(1 for _ in kernel))
    if f.kind == "experts":
        experts = f.layout[0]
        B = B.reshape(experts, -1, r).permute(1, 2, 0).reshape(-1, r * experts)
        return _unstack_blocks(A, experts), B
    if f.kind == "merged":
        return _plain_from_merged(A, B, f.layout)
    return A, B


def factors_from_peft(
    module: str, pair: Mapping[str, tuple[str, Tensor]], config: PeftConfig, where: object
) -> Factors:
    """A module's factors in aurac's own shapes.

    Args:
        module: Its path in the base.
        pair: For A and B the suffix of its key (``weight`` or ``embedding``) and the tensor.
        config: The adapter's config.
        where: The file, for messages.

    Raises:
        CheckpointError: For half a pair, or a shape that contradicts the config.
    """
    if set(pair) != {"A", "B"}:
        missing = "B" if "A" in pair else "A"
        raise CheckpointError(f"{where} has no lora_{missing} for {module}")
    (suffix, A), (suffix_b, B) = pair["A"], pair["B"]
    if suffix != suffix_b:
        raise CheckpointError(f"{where} mixes embedding and weight factors for {module}")
    rank, alpha = config.rank_of(module), config.alpha_of(module)
    kind, layout, A, B = _canonical(
        module, A, B, suffix=suffix, rank=rank, config=config, where=where
    )
    groups = layout[0] if kind == "grouped_conv" else 1
    if A.shape[0] * groups != rank or B.shape[1] * groups != rank:
        raise CheckpointError(
            f"{where} has factors of ranks {A.shape[0]} and {B.shape[1]} for {module}",
            expected=f"rank {rank}, which {CONFIG} gives it",
        )
    alpha = rule_alpha(config.rule, alpha, A.shape[0], groups)
    return Factors(A, B, alpha, config.rule, kind, layout)


def merged_from_peft(name: str, f: Factors, mask: tuple[int, ...] | None) -> Factors:
    """A merged layer again from the plain one that was exported; ``f`` itself without a mask.

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


def _canonical(
    module: str,
    A: Tensor,
    B: Tensor,
    *,
    suffix: str,
    rank: int,
    config: PeftConfig,
    where: object,
) -> tuple[Kind, tuple[int, ...], Tensor, Tensor]:
    """A as (R, in), B as (out, R), and what is needed to go back."""
    if suffix == "embedding" and A.ndim == B.ndim == 2:
        return "embedding", (), A, B
    if suffix == "weight" and A.ndim == B.ndim and A.ndim in (3, 4, 5):
        kernel = tuple(A.shape[2:])
        if any(n != 1 for n in B.shape[2:]):
            raise CheckpointError(f"{where} has a lora_B of shape {tuple(B.shape)} for {module}")
        groups = A.shape[0] // B.shape[1]
        if groups > 1 and A.shape[0] == groups * B.shape[1] and B.shape[0] % groups == 0:
            A = stack_blocks(A.flatten(1), groups)
            return "grouped_conv", (groups, *kernel), A, B.flatten(1)
        return "conv", kernel, A.flatten(1), B.flatten(1)
    if A.ndim != 2 or B.ndim != 2:
        raise CheckpointError(
            f"{where} has factors of shapes {tuple(A.shape)} and {tuple(B.shape)} for {module}"
        )
    if _is_parameter(module, config):
        experts = A.shape[0] // rank
        if experts < 1 or A.shape[0] != experts * rank or B.shape[1] != experts * rank:
            raise CheckpointError(
                f"{where} has factors of shapes {tuple(A.shape)} and {tuple(B.shape)} for {module}",
                expected=f"a multiple of rank {rank} on both",
            )
        # PEFT lays the components of B out with the experts varying fastest.
        B = B.reshape(-1, rank, experts).permute(2, 0, 1).reshape(-1, rank)
        return "experts", (experts,), stack_blocks(A, experts), B
    return "linear", (), A, B


def _is_parameter(module: str, config: PeftConfig) -> bool:
    """Whether the module's factors belong to a parameter named by ``target_parameters``."""
    plain = module
    while plain.endswith(".base_layer"):
        plain = plain.removesuffix(".base_layer")
    owners = [p.rpartition(".")[0] for p in config.carried.get("target_parameters", ())]
    return any(plain == owner or plain.endswith(f".{owner}") for owner in owners)
