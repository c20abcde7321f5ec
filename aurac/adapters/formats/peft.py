"""PEFT's own adapters: a folder with ``adapter_config.json`` and weights, or a live model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.formats.peft_config import (
    CONFIG,
    MAGNITUDE,
    PREFIX,
    PeftConfig,
    Skeleton,
    owner_of,
    parse_config,
)
from aurac.adapters.formats.peft_shapes import (
    adalora_as_lora,
    factors_from_peft,
    is_adalora,
    merged_from_peft,
    own_shapes,
    peft_shapes,
    with_parameters,
)
from aurac.adapters.formats.sidecar import Format, Source
from aurac.adapters.formats.storage import (
    OUTLINE,
    WEIGHTS,
    SafetensorsFile,
    check_factor,
    read_json,
    read_outline,
    read_tensors,
)
from aurac.adapters.methods import Nesting
from aurac.adapters.nesting import Rule, peft_alpha
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn


DORA_NOTE: Final = (
    "the trained magnitudes of DoRA act at every rank from 1 on, so rank 0 (the plain base) is not "
    "the limit of small ranks"
)
# Of a base whose embeddings were resized PEFT writes the saved modules again under these names.
_TWICE = re.compile(r"\.(?:modules_to_save|original_module)\.")
_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?P<weight>\.weight)?"
)


class Peft(Format):
    """Folders of PEFT: LoRA with its variants, and AdaLoRA, which is converted to plain LoRA.

    What is in a safetensors file is read as an outline. The base settles the order of parameters
    that the config leaves open.
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
        record = read_json(folder / CONFIG)
        # What is refused is refused before the weights are read.
        config = None if is_adalora(record) else parse_config(record, folder / CONFIG)
        base = config.base if config else None
        weights = [folder / name for name in WEIGHTS if (folder / name).exists()]
        if not weights and (config is None or not (folder / OUTLINE).exists()):
            raise CheckpointError(
                f"{folder} has an {CONFIG} but no weights",
                expected=f"{' or '.join(WEIGHTS)} in it",
            )

        def skeleton(needed: bool) -> nn.Module | None:  # noqa: FBT001
            return source.skeleton(base, needed=needed)

        if config is None:
            adapter = _from_adalora(record, weights[0], folder.name)
        elif weights:
            adapter = _read_weights(config, weights[0], folder.name, skeleton)
        else:
            tensors, values = read_outline(folder)
            adapter = from_state(config, tensors, where=folder, name=folder.name, skeleton=skeleton)
            adapter = replace(adapter, values=values)
        notes = _folder_notes(folder, weights)
        return replace(adapter, source=folder, notes=(*adapter.notes, *notes))


def _folder_notes(folder: Path, weights: list[Path]) -> list[str]:
    notes = [f"{weights[1].name} is ignored beside {weights[0].name}"] if len(weights) > 1 else []
    inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if inner:
        shown = ", ".join(inner[:5]) + (", …" if len(inner) > 5 else "")
        notes.append(f"the folder holds other adapters too, named with their subfolder: {shown}")
    return notes


def _from_adalora(record: Mapping[str, object], weights: Path, name: str) -> Adapter:
    config, state, scale, notes = adalora_as_lora(record, read_tensors(weights), weights)
    adapter = from_state(config, state, where=weights, name=name)
    modules = {n: replace(f, rule="none", alpha=scale) for n, f in adapter.modules.items()}
    notes = (*notes, *adapter.notes)
    return replace(adapter, modules=modules, notes=notes, format="peft, from AdaLoRA")


def _read_weights(config: PeftConfig, weights: Path, name: str, skeleton: Skeleton) -> Adapter:
    """The adapter of a config and its weights; for safetensors without numbers (an outline)."""
    if weights.suffix != ".safetensors":
        state = read_tensors(weights)
        return from_state(config, state, where=weights, name=name, skeleton=skeleton)
    file = SafetensorsFile(weights)
    adapter = from_state(config, file.outline(), where=weights, name=name, skeleton=skeleton)
    return replace(adapter, values=StoredValues(file))


@dataclass(frozen=True)
class StoredValues:
    """The numbers of a PEFT adapter in a safetensors file, read one module at a time."""

    file: SafetensorsFile

    def factors(self, module: str, outline: Factors) -> Factors:
        """The outline of a module with its numbers."""
        A, B = (self._read(key) for key in _factor_keys(module, outline))
        if outline.kind == "merged":
            plain = replace(outline, A=A, B=B, kind="linear", layout=())
            return merged_from_peft(module, plain, outline.layout)
        A, B = own_shapes(outline.kind, outline.layout, A, B)
        dora = outline.magnitude is not None
        magnitude = self._read(f"{PREFIX}{module}.{MAGNITUDE}") if dora else None
        return replace(outline, A=A, B=B, magnitude=magnitude)

    def beside_factors(self, key: str) -> Tensor:
        """A tensor beside the factors."""
        return check_factor(self.file.read(f"{PREFIX}{key}"), key, self.file.path)

    def _read(self, key: str) -> Tensor:
        return check_factor(self.file.read(key), key, self.file.path)


def from_state(
    config: PeftConfig,
    state: Mapping[str, Tensor],
    *,
    where: object,
    name: str,
    skeleton: Skeleton = lambda _needed: None,
) -> Adapter:
    """The adapter of a PEFT config and a state dict in PEFT's own key format."""
    pairs, magnitudes, extras = _sorted(state, config, where)
    config = with_parameters(config, pairs, skeleton, where)
    modules = {
        module: factors_from_peft(module, pair, config, where) for module, pair in pairs.items()
    }
    if config.use_dora:
        modules = with_magnitudes(modules, magnitudes, where)
    return Adapter(
        name=name,
        modules=modules,
        base=config.base,
        peft_config={**config.carried, **({"bias": config.bias} if config.bias != "none" else {})},
        notes=(*config.notes, *_notes(config, modules, extras)),
        extras=extras,
    )


def _sorted(
    state: Mapping[str, Tensor], config: PeftConfig, where: object
) -> tuple[dict[str, dict[str, tuple[str, Tensor]]], dict[str, Tensor], dict[str, Tensor]]:
    """Factors (suffix of the key and tensor, by module and side), magnitudes, and all else."""
    pairs: dict[str, dict[str, tuple[str, Tensor]]] = {}
    extras: dict[str, Tensor] = {}
    magnitudes: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not key.startswith(PREFIX):
            raise CheckpointError(
                f"{where} has a foreign key {key!r}", expected=f"keys under {PREFIX}"
            )
        short = key.removeprefix(PREFIX)
        if _TWICE.sub(".", key) in state.keys() - {key}:
            continue
        match = _FACTOR.fullmatch(short)
        if config.use_dora and short.endswith(f".{MAGNITUDE}"):
            magnitudes[short.removesuffix(f".{MAGNITUDE}")] = check_factor(tensor, key, where)
        elif match is None:
            _check_explained(short, config, where)
            extras[short] = check_factor(tensor, key, where)
        elif bool(match["weight"]) == bool(match["embedding"]):
            raise CheckpointError(f"{where} has a foreign key {key!r}")
        else:
            suffix = "embedding" if match["embedding"] else "weight"
            pair = pairs.setdefault(match["module"], {})
            pair[match["side"]] = suffix, check_factor(tensor, key, where)
    return pairs, magnitudes, extras


def with_magnitudes(
    modules: Mapping[str, Factors], magnitudes: Mapping[str, Tensor], where: object
) -> dict[str, Factors]:
    """The modules of a DoRA adapter, each of which needs a magnitude vector."""
    unpaired = sorted(set(modules) ^ set(magnitudes))
    if unpaired:
        lacking, other = (
            (MAGNITUDE, "factors") if unpaired[0] in modules else ("factors", MAGNITUDE)
        )
        raise CheckpointError(
            f"{where} is a DoRA adapter without {lacking} for {unpaired[0]}, which has {other}",
            expected="both for each module",
            fix="save it again; without its magnitudes a DoRA adapter is another function",
        )
    return {name: replace(f, magnitude=magnitudes[name]) for name, f in modules.items()}


def _check_explained(key: str, config: PeftConfig, where: object) -> None:
    """Refuse a key beside the factors unless the config says why it is there."""
    saved = tuple(config.modules_to_save)
    path = key.split(".")
    whole_module = owner_of(key, saved) is not None
    biased = config.bias != "none" and path[-1] == "bias" and "lora_B" not in path
    tokens = "trainable_token_indices" in config.carried and path[-1] == "trainable_tokens_delta"
    embedding = path[-1] == "weight" and bool({"embed_tokens", "lm_head"} & set(path))
    if whole_module or biased or tokens or embedding:
        return
    if MAGNITUDE in path:
        raise CheckpointError(
            f"{where} has DoRA's {key!r}, but {CONFIG} does not set use_dora",
            fix="restore the one that was changed",
        )
    raise CheckpointError(
        f"{where} has a key {key!r} that its config does not explain",
        expected="pairs of lora_A and lora_B, and what the config names",
    )


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


def _factor_keys(name: str, f: Factors) -> tuple[str, str]:
    """PEFT's own keys of A and B."""
    a, b = ("embedding_A", "embedding_B") if f.kind == "embedding" else ("A.weight", "B.weight")
    return f"{PREFIX}{name}.lora_{a}", f"{PREFIX}{name}.lora_{b}"


def peft_state(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors under PEFT's own keys and in PEFT's own shapes."""
    state: dict[str, Tensor] = {}
    for name, f in adapter.modules.items():
        state |= zip(_factor_keys(name, f), peft_shapes(f, f.A, f.B), strict=True)
        if f.magnitude is not None:
            state[f"{PREFIX}{name}.{MAGNITUDE}"] = f.magnitude
    state.update({f"{PREFIX}{key}": tensor for key, tensor in adapter.extras.items()})
    return state


def adapter_from_peft(
    model: Any,
    adapter_name: str = "default",
    *,
    nesting: Nesting | None,
    rule: Rule,
    alpha: float,
    base: str | None = None,
    base_sha256: str | None = None,
    recipe: Mapping[str, object] | None = None,
    seed: int | None = None,
    name: str = "adapter",
) -> Adapter:
    """The adapter in a live ``PeftModel``, its factors copied to the CPU.

    Args:
        model: The ``PeftModel``.
        adapter_name: Which of its adapters.
        nesting: How its ranks are being trained.
        rule: The scaling rule that training used.
        alpha: The α of that rule. For ``none`` PEFT itself has ``lora_alpha = α·R``.
        base: The base's name.
        base_sha256: The base's content hash.
        recipe: The recipe.
        seed: The seed.
        name: What to call it.

    Raises:
        CheckpointError: When the model's own scale is not the one that is claimed, or it has a
            feature that is refused.
    """
    from peft import get_peft_model_state_dict

    where = f"model adapter {adapter_name!r}"
    # As the JSON that PEFT would save; it keeps some fields as sets.
    record = json.loads(json.dumps(model.peft_config[adapter_name].to_dict(), default=sorted))
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    copied = {key: _whole(t).to("cpu", copy=True) for key, t in state.items()}
    adapter = from_state(parse_config(record, where), copied, where=where, name=name)
    return replace(
        adapter,
        modules={n: _with_rule(n, f, rule, float(alpha)) for n, f in adapter.modules.items()},
        nesting=nesting,
        base=base or adapter.base,
        base_sha256=base_sha256,
        recipe=recipe,
        seed=seed,
    )


def _with_rule(module: str, f: Factors, rule: Rule, alpha: float) -> Factors:
    """The factors under the rule that training used, which has to give PEFT's own scale."""
    lora_alpha = peft_alpha(rule, alpha, f.rank)
    same_rule = (f.rule == "sqrt") == (rule == "sqrt")
    if not same_rule or not math.isclose(f.alpha, lora_alpha, rel_tol=1e-9):
        raise CheckpointError(
            f"{module} of the model scales with lora_alpha {f.alpha:g} ({f.rule})",
            expected=f"{lora_alpha:g}: rule {rule} with alpha {alpha:g} at rank {f.rank}",
        )
    return replace(f, rule=rule, alpha=alpha)


def _whole(tensor: Tensor) -> Tensor:
    """The tensor; of one that FSDP has sharded all its parts, for which every process must ask."""
    gathered = getattr(tensor.detach(), "full_tensor", None)
    return gathered() if callable(gathered) else tensor.detach()
