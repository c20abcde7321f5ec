"""PEFT's own adapters: a folder with ``adapter_config.json`` and weights, or a live model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor
from typing_extensions import override

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.formats.peft_config import (
    CONFIG,
    MAGNITUDE,
    PREFIX,
    PeftConfig,
    Skeleton,
    parse_config,
)
from aurac.adapters.formats.peft_shapes import factors_from_peft, peft_shapes, with_parameters
from aurac.adapters.formats.sidecar import Sidecar, recorded, with_sidecar
from aurac.adapters.formats.source import Format, Source
from aurac.adapters.formats.storage import WEIGHTS, check_factor, read_json, read_tensors
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn


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


class Peft(Format):
    """Folders of PEFT with LoRA and its variants, and the side-car that aurac writes into them.

    The base settles the order of parameters that the config leaves open.
    """

    files = (CONFIG, *WEIGHTS)

    @override
    def recognises(self, source: Source) -> bool:
        """Whether it is a folder with a config."""
        return (source.path / CONFIG).exists()

    @override
    def read(self, source: Source) -> Adapter:
        """The adapter in the folder."""
        folder = source.path
        config = parse_config(read_json(folder / CONFIG), folder / CONFIG)
        weights = [folder / name for name in WEIGHTS if (folder / name).exists()]
        if not weights:
            raise CheckpointError(f"{folder} has an {CONFIG} but no {' or '.join(WEIGHTS)}")

        def skeleton(needed: bool) -> nn.Module | None:  # noqa: FBT001
            return source.skeleton(config.base, needed=needed)

        state = read_tensors(weights[0])
        adapter = from_state(config, state, where=weights[0], name=folder.name, skeleton=skeleton)
        return with_sidecar(replace(adapter, source=folder), folder)


def from_state(
    config: PeftConfig,
    state: Mapping[str, Tensor],
    *,
    where: object,
    name: str,
    skeleton: Skeleton = lambda _needed: None,
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
    config = with_parameters(config, pairs, skeleton, where)
    modules = {
        module: factors_from_peft(module, pair, config, where, embedding=module in embeddings)
        for module, pair in pairs.items()
    }
    if config.use_dora:
        modules = with_magnitudes(modules, magnitudes, where)
    return Adapter(
        name=name,
        modules=modules,
        base=config.base,
        peft_config={**config.carried, **({"bias": config.bias} if config.bias != "none" else {})},
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


def adapter_from_peft(
    model: Any, adapter_name: str = "default", record: Sidecar | None = None
) -> Adapter:
    """The adapter of that name in a live ``PeftModel``, its factors copied to the CPU.

    How it was trained is what `aurac.nested` knows of it, where no record says it. A record of
    another scale, and features that are refused in files, are a CheckpointError.
    """
    from peft import get_peft_model_state_dict

    where = f"model adapter {adapter_name!r}"
    # As the JSON that PEFT would save; it keeps some fields as sets.
    fields = json.loads(json.dumps(model.peft_config[adapter_name].to_dict(), default=sorted))
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    copied = {key: _whole(t).to("cpu", copy=True) for key, t in state.items()}
    adapter = from_state(parse_config(fields, where), copied, where=where, name=adapter_name)
    nested = vars(model).get(NESTED)
    if record is None and nested is not None and nested.adapter_name == adapter_name:
        record = nested.record
    return adapter if record is None else recorded(adapter, record, where)


def _whole(tensor: Tensor) -> Tensor:
    """The tensor; of one that FSDP has sharded all its parts, for which every process must ask."""
    gathered = getattr(tensor.detach(), "full_tensor", None)
    return gathered() if callable(gathered) else tensor.detach()
