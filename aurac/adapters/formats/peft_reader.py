"""PEFT checkpoints: ``adapter_config.json`` beside ``adapter_model.safetensors`` or ``.bin``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aurac.adapters.adapter import Adapter, Factors, Kind
from aurac.adapters.extras import owner_of
from aurac.adapters.formats.adalora import as_lora, constant_scale, is_adalora
from aurac.adapters.formats.orientation import stack_groups
from aurac.adapters.formats.peft_config import CONFIG, PeftConfig, parse_config
from aurac.adapters.formats.peft_shapes import PREFIX, merged_from_peft, stack_experts
from aurac.adapters.formats.safetensors_file import SafetensorsFile
from aurac.adapters.formats.sidecar import Sidecar, read_sidecar, sidecar_path
from aurac.adapters.formats.tensors import check_factor, read_json, read_tensors
from aurac.adapters.nesting import peft_alpha, rule_alpha
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?P<weight>\.weight)?"
)


def read_peft(folder: Path, *, lazy: bool = False) -> Adapter:
    """The adapter in a PEFT folder, its side-car included.

    Args:
        folder: The folder.
        lazy: Leave the numbers of a safetensors file where they are: an outline.

    Raises:
        CheckpointError: When something is missing, damaged, contradictory or not understood.
    """
    config = read_json(folder / CONFIG)
    if not is_adalora(config):
        parse_config(config, folder / CONFIG)  # a refusal should not wait for the weights
    found = [folder / name for name in WEIGHTS if (folder / name).exists()]
    if not found:
        raise CheckpointError(
            f"{folder} has an {CONFIG} but no weights", expected=f"{' or '.join(WEIGHTS)} in it"
        )
    notes = [f"{found[1].name} is ignored beside {found[0].name}"] if len(found) > 1 else []
    inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if inner:
        shown = ", ".join(inner[:5]) + (", …" if len(inner) > 5 else "")
        notes.append(f"the folder holds other adapters too, named with their subfolder: {shown}")
    adapter = _read_weights(config, found[0], folder.name)
    adapter = replace(adapter, source=folder, notes=(*adapter.notes, *notes))
    sidecar = read_sidecar(sidecar_path(folder))
    if sidecar is not None:
        adapter = with_sidecar(adapter, sidecar, sidecar_path(folder))
    return adapter if lazy else adapter.loaded()


def _read_weights(config: Mapping[str, Any], weights: Path, name: str) -> Adapter:
    """The adapter of a config and its weights; of safetensors the outline, with where it lies."""
    if is_adalora(config):
        return from_adalora(config, read_tensors(weights), where=weights, name=name)
    if weights.suffix != ".safetensors":
        return from_state(config, read_tensors(weights), where=weights, name=name)
    file = SafetensorsFile(weights)
    adapter = from_state(config, file.outline(), where=weights, name=name)
    return replace(adapter, values=StoredValues(file, parse_config(config, weights)))


def from_adalora(
    config: Mapping[str, Any], state: Mapping[str, Tensor], *, where: object, name: str
) -> Adapter:
    """The adapter of an AdaLoRA config and state dict, converted to plain factors.

    Raises:
        CheckpointError: See :func:`from_state` and :mod:`aurac.adapters.formats.adalora`.
    """
    scale = constant_scale(config, where)
    lora, plain, notes = as_lora(config, state, where)
    adapter = from_state(lora, plain, where=where, name=name)
    modules = {n: replace(f, rule="none", alpha=scale) for n, f in adapter.modules.items()}
    return replace(
        adapter, modules=modules, notes=(*notes, *adapter.notes), format="peft, from AdaLoRA"
    )


@dataclass(frozen=True)
class StoredValues:
    """The numbers of a PEFT checkpoint in a safetensors file, one module at a time."""

    file: SafetensorsFile
    config: PeftConfig
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def factors(self, module: str) -> tuple[Tensor, Tensor]:
        """A and B of a module, in aurac's own shapes."""
        sort, (a, b) = "weight", (f"{PREFIX}{module}.lora_{side}.weight" for side in "AB")
        if a not in self.file.keys:
            sort, (a, b) = "embedding", (f"{PREFIX}{module}.lora_embedding_{s}" for s in "AB")
        A, B = (check_factor(self.file.read(key), key, self.file.path) for key in (a, b))
        pair = {"A": (sort, A), "B": (sort, B)}
        f = _factors(module, pair, self.config, self.file.path)
        f = merged_from_peft(module, f, self.groups.get(module))
        return f.A, f.B

    def beside(self, key: str) -> Tensor:
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
            extras[short] = check_factor(_explained(short, tensor, parsed, where), key, where)
            continue
        sort = "embedding" if match["embedding"] else "weight"
        if bool(match["weight"]) == bool(match["embedding"]):
            raise CheckpointError(f"{where} has a foreign key {key!r}")
        pairs.setdefault(match["module"], {})[match["side"]] = (
            sort,
            check_factor(tensor, key, where),
        )
    modules = {module: _factors(module, pair, parsed, where) for module, pair in pairs.items()}
    return Adapter(
        name=name,
        modules=modules,
        base=parsed.carried.get("base_model_name_or_path"),
        peft_config={**parsed.carried, **({"bias": parsed.bias} if parsed.bias != "none" else {})},
        notes=(*parsed.notes, *_notes(parsed, modules, extras)),
        extras=extras,
    )


def with_sidecar(adapter: Adapter, sidecar: Sidecar, where: Path) -> Adapter:
    """``adapter`` with what its side-car adds.

    Raises:
        CheckpointError: When the two contradict each other about the scale.
    """
    modules = {}
    for name, f in adapter.modules.items():
        lora_alpha = peft_alpha(f.rule, f.alpha, f.rank, f.rank_multiple)
        own = merged_from_peft(name, f, sidecar.groups.get(name))
        modules[name] = _rescaled(own, lora_alpha, sidecar, where)
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
    """``f`` with the rule and α of the side-car, which must say what ``lora_alpha`` says."""
    rule = f.rule if sidecar.rule is None else sidecar.rule
    if rule != f.rule and (rule, f.rule) != ("none", "rank"):
        raise CheckpointError(
            f"{where} says scaling {rule}, but {CONFIG} says {f.rule}",
            fix="one of them was changed",
        )
    alpha = rule_alpha(rule, lora_alpha, f.rank, f.rank_multiple)
    if sidecar.alpha is not None:
        recorded = peft_alpha(rule, sidecar.alpha, f.rank, f.rank_multiple)
        if abs(recorded - lora_alpha) > 1e-9 * abs(lora_alpha):
            raise CheckpointError(
                f"{where} has alpha {sidecar.alpha:g}, but {CONFIG} lora_alpha {lora_alpha:g}",
                fix="one of them was changed",
            )
        alpha = float(sidecar.alpha)
    return replace(f, rule=rule, alpha=alpha)


def _explained(key: str, tensor: Tensor, config: PeftConfig, where: object) -> Tensor:
    """``tensor`` when the config says why a key beside the factors is there."""
    saved = tuple(config.carried.get("modules_to_save") or ())
    path = key.split(".")
    whole_module = owner_of(key, saved) is not None
    biased = config.bias != "none" and path[-1] == "bias" and "lora_B" not in path
    tokens = "trainable_token_indices" in config.carried and path[-1] == "trainable_tokens_delta"
    embedding = path[-1] == "weight" and bool({"embed_tokens", "lm_head"} & set(path))
    if whole_module or biased or tokens or embedding:
        return tensor
    if "lora_magnitude_vector" in path:
        raise CheckpointError(f"{where} has DoRA's {key!r}, which is refused")
    raise CheckpointError(
        f"{where} has a key {key!r} that its config does not explain",
        expected="pairs of lora_A and lora_B, and what the config names",
    )


def _factors(
    module: str, pair: Mapping[str, tuple[str, Tensor]], config: PeftConfig, where: object
) -> Factors:
    if set(pair) != {"A", "B"}:
        missing = "B" if "A" in pair else "A"
        raise CheckpointError(f"{where} has no lora_{missing} for {module}")
    (sort, A), (other, B) = pair["A"], pair["B"]
    if sort != other:
        raise CheckpointError(f"{where} mixes embedding and weight factors for {module}")
    rank, alpha = config.rank_of(module), config.alpha_of(module)
    kind, layout, A, B = _canonical(module, A, B, sort=sort, rank=rank, config=config, where=where)
    groups = layout[0] if kind == "grouped_conv" else 1
    if A.shape[0] * groups != rank or B.shape[1] * groups != rank:
        raise CheckpointError(
            f"{where} has factors of ranks {A.shape[0]} and {B.shape[1]} for {module}",
            expected=f"rank {rank}, which {CONFIG} gives it",
        )
    alpha = rule_alpha(config.rule, alpha, A.shape[0], groups)
    return Factors(A, B, alpha, config.rule, kind, layout)


def _canonical(
    module: str,
    A: Tensor,
    B: Tensor,
    *,
    sort: str,
    rank: int,
    config: PeftConfig,
    where: object,
) -> tuple[Kind, tuple[int, ...], Tensor, Tensor]:
    """A as (R, in), B as (out, R), and what is needed to go back."""
    if sort == "embedding" and A.ndim == B.ndim == 2:
        return "embedding", (), A, B
    if sort == "weight" and A.ndim == B.ndim and A.ndim in (3, 4, 5):
        kernel = tuple(A.shape[2:])
        if any(n != 1 for n in B.shape[2:]):
            raise CheckpointError(f"{where} has a lora_B of shape {tuple(B.shape)} for {module}")
        groups = A.shape[0] // B.shape[1]
        if groups > 1 and A.shape[0] == groups * B.shape[1] and B.shape[0] % groups == 0:
            A = stack_groups(A.flatten(1), groups)
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
        return "experts", (experts,), *stack_experts(A, B, experts)
    return "linear", (), A, B


def _is_parameter(module: str, config: PeftConfig) -> bool:
    """Whether the module's factors belong to a parameter named by ``target_parameters``."""
    plain = module
    while plain.endswith(".base_layer"):
        plain = plain.removesuffix(".base_layer")
    owners = [p.rpartition(".")[0] for p in config.carried.get("target_parameters", ())]
    return any(plain == owner or plain.endswith(f".{owner}") for owner in owners)


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
