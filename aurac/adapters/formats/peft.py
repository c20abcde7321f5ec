"""PEFT's own adapters: a folder with ``adapter_config.json`` and weights, or a live model.

aurac keeps every kind of module so that the first r rows of A and columns of B are rank r. PEFT
does so for plain layers alone: experts are rearranged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from aurac.adapters.adapter import Adapter, Factors, Kind
from aurac.adapters.compatibility import module_in_model
from aurac.adapters.formats.peft_config import (
    CONFIG,
    MAGNITUDE,
    PREFIX,
    PeftConfig,
    Skeleton,
    parse_config,
    pattern_name,
)
from aurac.adapters.formats.sidecar import SIDECAR, with_record
from aurac.adapters.formats.storage import (
    WEIGHTS,
    both_factors,
    check_factor,
    read_fields,
    read_tensors,
)
from aurac.errors import CheckpointError
from aurac.models.base import base_skeleton

DORA_NOTE: Final = (
    "the trained magnitudes of DoRA act at every rank from 1 on, so rank 0 (the plain base) is not "
    "the limit of small ranks"
)
NESTED: Final = "_aurac_nested"  # where a live model has its `aurac.training.nested.Nested`
# Of a base whose embeddings were resized PEFT writes the saved modules again under these names.
_TWICE = re.compile(r"\.(?:modules_to_save|original_module)\.")
_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?:embedding_(?P<embedding>[AB])|(?P<weight>[AB])\.weight)"
)


FILES: tuple[str, ...] = (CONFIG, *WEIGHTS)


def recognises(folder: Path) -> bool:
    """Whether a folder has a config of PEFT's form."""
    return (folder / CONFIG).exists()


def read(folder: Path, base: str | None, _scale: object) -> Adapter:
    """The adapter in a folder, with the side-car that aurac writes beside it.

    The base settles the order of parameters that the config leaves open.
    """
    config = parse_config(read_fields(folder / CONFIG), folder / CONFIG)
    weights = next((folder / n for n in WEIGHTS if (folder / n).exists()), folder / WEIGHTS[0])
    skeleton = partial(base_skeleton, base or config.base)
    adapter = from_state(config, read_tensors(weights), weights, folder.name, skeleton)
    own = folder / SIDECAR
    where, stored = (own, read_fields(own)) if own.exists() else (folder / CONFIG, config.note)
    return with_record(replace(adapter, source=folder), stored, where)


def from_state(
    config: PeftConfig,
    state: Mapping[str, Tensor],
    where: object,
    name: str,
    skeleton: Skeleton = lambda: None,
) -> Adapter:
    """The adapter of a PEFT config and a state dict in PEFT's own key format."""
    pairs: dict[str, dict[str, Tensor]] = {}
    embeddings, extras, magnitudes = set[str](), dict[str, Tensor](), dict[str, Tensor]()
    for key, tensor in state.items():
        if not key.startswith(PREFIX):
            raise CheckpointError(f"{where} has a key {key!r} that PEFT does not write")
        if _TWICE.sub(".", key) in state.keys() - {key}:
            continue
        short, value = key.removeprefix(PREFIX), check_factor(tensor, key, where)
        match = _FACTOR.fullmatch(short)
        if match is not None:
            pairs.setdefault(match["module"], {})[match["embedding"] or match["weight"]] = value
            embeddings |= {match["module"]} if match["embedding"] else set()
        elif config.use_dora and short.endswith(f".{MAGNITUDE}"):
            magnitudes[short.removesuffix(f".{MAGNITUDE}")] = value
        else:
            extras[short] = value
    parameters = _parameters(config, pairs.keys() - embeddings, skeleton, where)
    modules = {}
    for module, pair in pairs.items():
        kind: Kind = "embedding" if module in embeddings else "linear"
        modules[module] = _factors(module, pair, config, where, kind, parameters.get(module))
    if config.use_dora:
        modules = with_magnitudes(modules, magnitudes, where)
    return Adapter(
        name=name,
        modules=modules,
        base=config.base,
        peft_config=config.carried,
        notes=tuple(_notes(config, modules, extras)),
        extras=extras,
    )


def with_magnitudes(
    modules: Mapping[str, Factors], magnitudes: Mapping[str, Tensor], where: object
) -> dict[str, Factors]:
    """The modules of a DoRA adapter, each of which needs a magnitude vector."""
    if unpaired := sorted(set(modules) ^ set(magnitudes)):
        raise CheckpointError(
            f"{where} is a DoRA adapter in which {unpaired[0]} lacks its factors or magnitudes"
        )
    return {name: replace(f, magnitude=magnitudes[name]) for name, f in modules.items()}


def _notes(
    config: PeftConfig, modules: Mapping[str, Factors], extras: Mapping[str, Tensor]
) -> list[str]:
    notes = []
    ranks = sorted({f.rank for f in modules.values()})
    if len(ranks) > 1:
        notes.append(
            f"modules have ranks {', '.join(map(str, ranks))}; at rank r a module of a lower rank "
            "keeps its own rank and scale"
        )
    if config.use_dora:
        notes.append(DORA_NOTE)
    if extras:
        notes.append(
            f"tensors beside the low-rank factors ({len(extras)}) hold at every rank from 1 on, "
            "so rank 0 (the plain base) is not the limit of small ranks"
        )
    return notes


def adapter_from_peft(model: Any, adapter_name: str | None = None) -> Adapter:
    """An adapter of a live ``PeftModel``, as PEFT would save it, copied to the CPU.

    Without a name it is that of `aurac.nested`, else ``default`` or the first. How it was trained
    is what its config notes. A record of another scale, and features that are refused in files, are
    a CheckpointError.
    """
    from peft import get_peft_model_state_dict

    nested, names = vars(model).get(NESTED), [*model.peft_config]
    first = "default" if "default" in names else names[0]
    name = adapter_name or (nested.adapter_name if nested else first)
    where = f"model adapter {name!r}"
    # As the JSON that PEFT would save; it keeps some fields as sets.
    fields = json.loads(json.dumps(model.peft_config[name].to_dict(), default=sorted))
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    copied = {key: _gathered(t).to("cpu", copy=True) for key, t in state.items()}
    config = parse_config(fields, where)
    return with_record(from_state(config, copied, where, name), config.note, where)


def _gathered(tensor: Tensor) -> Tensor:
    """The tensor; of one that FSDP has sharded all its parts, for which every process must ask."""
    gathered = getattr(tensor.detach(), "full_tensor", None)
    return gathered() if callable(gathered) else tensor.detach()


def peft_state(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors under PEFT's own keys and in PEFT's own shapes."""
    state: dict[str, Tensor] = {}
    for name, f in adapter.modules.items():
        ends = ("embedding_A", "embedding_B") if f.kind == "embedding" else ("A.weight", "B.weight")
        keys = (f"{PREFIX}{name}.lora_{end}" for end in ends)
        state |= zip(keys, peft_shapes(f, f.A, f.B), strict=True)
        if f.magnitude is not None:
            state[f"{PREFIX}{name}.{MAGNITUDE}"] = f.magnitude
    state.update({f"{PREFIX}{key}": tensor for key, tensor in adapter.extras.items()})
    return state


def peft_shapes(f: Factors, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) in the shapes that PEFT keeps for this kind of module."""
    if f.kind != "experts":
        return A, B
    r, E = A.shape[0], f.blocks
    # PEFT lays A out expert by expert, and the components of B with the experts varying fastest.
    A = A.reshape(r, E, -1).permute(1, 0, 2).flatten(0, 1)
    return A, B.reshape(E, -1, r).permute(1, 2, 0).reshape(-1, r * E)


def _factors(
    module: str,
    pair: Mapping[str, Tensor],
    config: PeftConfig,
    where: object,
    kind: Kind,
    parameter: str | None,
) -> Factors:
    """A module's factors in aurac's own shapes, from PEFT's own A and B."""
    A, B = both_factors(pair, module, where)
    rank, alpha = config.scale_of(pattern_name(module, parameter or ""))
    E = 1 if parameter is None else max(A.shape[0] // rank, 1)
    if A.shape[0] != E * rank or B.shape[1] != E * rank:
        raise CheckpointError(
            f"{where} has factors of shapes {tuple(A.shape)} and {tuple(B.shape)} for {module}, "
            f"whose rank is {rank} by its config"
        )
    if parameter is None:
        return Factors(A, B, alpha, config.rule, kind)
    # The inverse of `peft_shapes`
    A = A.reshape(E, rank, -1).permute(1, 0, 2).flatten(1).contiguous()
    B = B.reshape(-1, rank, E).permute(2, 0, 1).reshape(-1, rank)
    return Factors(A, B, alpha, config.rule, "experts", E, parameter=parameter)


def _parameters(
    config: PeftConfig, modules: Iterable[str], skeleton: Skeleton, where: object
) -> dict[str, str]:
    """Module of the factors → parameter that they adapt (empty: open), for ``target_parameters``.

    PEFT wraps the parameters of one module in their order in the base: ``experts.base_layer`` has
    the factors of the first, ``experts`` those of the last. ``skeleton`` gives the base's modules,
    which are needed where the config leaves ranks or alphas open.
    """
    targets, parameters = config.target_parameters, dict[str, str]()
    wrapped: dict[str, list[str]] = {}
    for name in sorted(modules, key=len, reverse=True) if targets else ():
        wrapped.setdefault(module_in_model(name), []).append(name)
    named = {plain: _named(plain, targets) for plain in wrapped}
    short = any("." not in target for target in targets)  # any module may have that parameter
    scales = ({config.scale_of(f"{n}.{leaf}") for leaf in leaves} for n, leaves in named.items())
    needed = short or any(len(of_one) > 1 for of_one in scales)
    if (base := skeleton() if needed else None) is not None:
        present = dict(base.named_modules())
        named = {plain: _named(plain, targets, present.get(plain, nn.Module())) for plain in named}
    elif needed:
        raise CheckpointError(
            f"{where} adapts parameters by name, and only the base says which of them its factors "
            "belong to: give --base"
        )
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
    return parameters


def _named(name: str, targets: Sequence[str], module: nn.Module | None = None) -> list[str]:
    """The parameters of a base's module that ``target_parameters`` name, in its own order.

    Without the module they are those that names alone tell, in any order.
    """
    if module is None:
        pairs = (target.rpartition(".")[::2] for target in targets)
        return sorted({leaf for owner, leaf in pairs if f".{name}".endswith(f".{owner}")})
    own = [n for n, _ in module.named_parameters(recurse=False)]
    return [n for n in own if any(f".{name}.{n}".endswith(f".{target}") for target in targets)]
