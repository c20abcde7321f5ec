"""PEFT folders: ``adapter_config.json`` beside its weights, under PEFT's own keys."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.formats.adalora import adalora_as_lora, is_adalora
from aurac.adapters.formats.outline import OUTLINE, read_outline
from aurac.adapters.formats.peft_config import (
    CONFIG,
    MAGNITUDE,
    PREFIX,
    WEIGHTS,
    PeftConfig,
    base_of,
    is_there,
    owner_of,
    parse_config,
)
from aurac.adapters.formats.peft_shapes import (
    factors_from_peft,
    merged_from_peft,
    peft_shapes,
    with_parameters,
)
from aurac.adapters.formats.sidecar import SIDECAR, Sidecar, read_sidecar, sidecar_path
from aurac.adapters.formats.tensors import SafetensorsFile, read_tensors
from aurac.adapters.formats.untrusted import check_factor, read_json
from aurac.adapters.nesting import peft_alpha, rule_alpha
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from aurac.adapters.compatibility import BaseSource
    from aurac.adapters.formats.peft_config import Skeleton

DORA_NOTE: Final = (
    "the trained magnitudes of DoRA act at every rank from 1 on, so rank 0 (the plain base) is not "
    "the limit of small ranks"
)
# Of a base whose embeddings were resized PEFT writes the saved modules again under these names.
_TWICE = re.compile(r"\.(?:modules_to_save|original_module)\.")
_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?P<weight>\.weight)?"
)


def read_peft(
    folder: Path,
    *,
    lazy: bool = False,
    given: str | None = None,
    bases: Callable[[str], BaseSource] | None = None,
) -> Adapter:
    """The adapter in a PEFT folder, its side-car included.

    With ``lazy`` the numbers stay in the safetensors file: the adapter is an outline, as it always
    is where they were removed. ``bases`` lead from the base's name to the base, for parameters
    whose order the config leaves open; ``given`` is its name where the user gives it.
    """
    config = read_json(folder / CONFIG)
    if not is_adalora(config):
        parse_config(config, folder / CONFIG)  # refused before the weights are read
    weights = [folder / name for name in WEIGHTS if (folder / name).exists()]
    removed = not weights and (folder / OUTLINE).exists()
    if not weights and not removed:
        files = ", ".join(sorted(path.name for path in folder.glob("*.pt")))
        raise CheckpointError(
            f"{folder} has an {CONFIG} but no weights",
            expected=f"{' or '.join(WEIGHTS)} in it",
            fix=f"name a file in it, as for torchtune's adapters: {files[:200]}" if files else None,
        )
    notes = [f"{weights[1].name} is ignored beside {weights[0].name}"] if len(weights) > 1 else []
    inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if inner:
        shown = ", ".join(inner[:5]) + (", …" if len(inner) > 5 else "")
        notes.append(f"the folder holds other adapters too, named with their subfolder: {shown}")
    path = sidecar_path(folder)
    sidecar = read_sidecar(path)

    def skeleton(needed: bool) -> nn.Module | None:  # noqa: FBT001
        base = given or (sidecar and sidecar.base) or base_of(config)
        return None if bases is None else bases(base or "").skeleton(needed=needed)

    if removed:
        tensors, values = read_outline(folder)
        adapter = from_state(config, tensors, where=folder, name=folder.name, skeleton=skeleton)
        adapter = replace(adapter, values=values)
    else:
        adapter = _read_weights(config, weights[0], folder.name, skeleton)
    adapter = replace(adapter, source=folder, notes=(*adapter.notes, *notes))
    if sidecar is not None:
        adapter = with_sidecar(adapter, sidecar, path, given=given)
    return adapter if lazy or removed else adapter.loaded()


def _read_weights(
    config: Mapping[str, Any], weights: Path, name: str, skeleton: Skeleton
) -> Adapter:
    """The adapter of a config and its weights; for safetensors without numbers (an outline)."""
    if is_adalora(config):
        plain, state, scale, notes = adalora_as_lora(config, read_tensors(weights), weights)
        adapter = from_state(plain, state, where=weights, name=name)
        modules = {n: replace(f, rule="none", alpha=scale) for n, f in adapter.modules.items()}
        notes = (*notes, *adapter.notes)
        return replace(adapter, modules=modules, notes=notes, format="peft, from AdaLoRA")
    if weights.suffix != ".safetensors":
        state = read_tensors(weights)
        return from_state(config, state, where=weights, name=name, skeleton=skeleton)
    file = SafetensorsFile(weights)
    adapter = from_state(config, file.outline(), where=weights, name=name, skeleton=skeleton)
    experts = {n: f.parameter for n, f in adapter.modules.items() if f.kind == "experts"}
    parsed = replace(parse_config(config, weights), parameters=experts)
    return replace(adapter, values=StoredValues(file, parsed))


@dataclass(frozen=True)
class StoredValues:
    """The numbers of a PEFT adapter in a safetensors file, read one module at a time."""

    file: SafetensorsFile
    config: PeftConfig
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def factors(self, module: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """A and B of a module, in aurac's own shapes, and its magnitude."""
        suffix, (a, b) = "weight", (f"{PREFIX}{module}.lora_{side}.weight" for side in "AB")
        if a not in self.file.keys:
            suffix, (a, b) = "embedding", (f"{PREFIX}{module}.lora_embedding_{s}" for s in "AB")
        pair = {"A": (suffix, self._read(a)), "B": (suffix, self._read(b))}
        f = factors_from_peft(module, pair, self.config, self.file.path)
        f = merged_from_peft(module, f, self.groups.get(module))
        magnitude = self._read(f"{PREFIX}{module}.{MAGNITUDE}") if self.config.dora else None
        return f.A, f.B, magnitude

    def beside_factors(self, key: str) -> Tensor:
        """A tensor beside the factors."""
        return check_factor(self.file.read(f"{PREFIX}{key}"), key, self.file.path)

    def _read(self, key: str) -> Tensor:
        return check_factor(self.file.read(key), key, self.file.path)


def from_state(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    where: object,
    name: str,
    skeleton: Skeleton = lambda _needed: None,
) -> Adapter:
    """The adapter of a PEFT config and a state dict in PEFT's own key format."""
    parsed = parse_config(config, where)
    pairs, magnitudes, extras = _sorted(state, parsed, where)
    parsed = with_parameters(parsed, pairs, skeleton, where)
    modules = {
        module: factors_from_peft(module, pair, parsed, where) for module, pair in pairs.items()
    }
    if parsed.dora:
        modules = with_magnitudes(modules, magnitudes, where)
    return Adapter(
        name=name,
        modules=modules,
        base=base_of(parsed.carried),
        peft_config={**parsed.carried, **({"bias": parsed.bias} if parsed.bias != "none" else {})},
        notes=(*parsed.notes, *_notes(parsed, modules, extras)),
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
        if config.dora and short.endswith(f".{MAGNITUDE}"):
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
        one, other = (MAGNITUDE, "factors") if unpaired[0] in modules else ("factors", MAGNITUDE)
        raise CheckpointError(
            f"{where} is a DoRA adapter without {one} for {unpaired[0]}, which has {other}",
            expected="both for each module",
            fix="save it again; without its magnitudes a DoRA adapter is another function",
        )
    return {name: replace(f, magnitude=magnitudes[name]) for name, f in modules.items()}


def with_sidecar(
    adapter: Adapter, sidecar: Sidecar, where: Path, *, given: str | None = None
) -> Adapter:
    """``adapter`` with the training and scale of its side-car, which may not contradict it.

    The side-car may name another base where its hash decides, where it says that it replaces the
    checkpoint's own, or where the user ``given`` one decides.
    """
    adapter = _with_base(adapter, sidecar, where, given)
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
        base_sha256=sidecar.base_sha256,
        recipe=sidecar.recipe,
        seed=sidecar.seed,
        derived=sidecar.derived,
    )


def _with_base(adapter: Adapter, sidecar: Sidecar, where: Path, given: str | None) -> Adapter:
    """``adapter`` on the base that its file and the side-car name."""
    file, record = adapter.base, sidecar.base
    known = (record, sidecar.recorded_base)
    if not file or not record or file in known or given or _same_folder(file, record):
        return replace(adapter, base=record or file)
    names = f"{CONFIG if where.name == SIDECAR else 'the file'} names base {file}, {where} {record}"
    if sidecar.base_sha256 is None:
        raise CheckpointError(names, expected="one base", fix="give --base, which then decides")
    here = record if is_there(record) and not is_there(file) else file
    note = f"{names}; {here} is taken, and its weights have to have the hash that is recorded"
    # The hash is that of the side-car's.
    trained_on = record if here == file else None
    return replace(adapter, base=here, recorded_base=trained_on, notes=(*adapter.notes, note))


def _same_folder(a: str, b: str) -> bool:
    """Whether two names lead to the same folder on this machine."""
    return is_there(a) and is_there(b) and Path(a).samefile(b)


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
    if MAGNITUDE in path:
        raise CheckpointError(
            f"{where} has DoRA's {key!r}, but {CONFIG} does not set use_dora",
            fix="one of them was changed",
        )
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
    if config.dora:
        notes.append(DORA_NOTE)
    if extras:
        notes.append(
            f"tensors beside the low-rank factors ({len(extras)}) hold at every rank from 1 on, "
            "so rank 0 (the plain base) is not the limit of small ranks"
        )
    return notes


def module_state(name: str, f: Factors) -> dict[str, Tensor]:
    """The tensors of one module under PEFT's own keys and in PEFT's own shapes."""
    a, b = ("embedding_A", "embedding_B") if f.kind == "embedding" else ("A.weight", "B.weight")
    A, B = peft_shapes(f, f.A, f.B)
    state = {f"{PREFIX}{name}.lora_{a}": A, f"{PREFIX}{name}.lora_{b}": B}
    if f.magnitude is not None:
        state[f"{PREFIX}{name}.{MAGNITUDE}"] = f.magnitude
    return state


def peft_state(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors under PEFT's own keys and in PEFT's own shapes."""
    state: dict[str, Tensor] = {}
    for name, f in adapter.modules.items():
        state.update(module_state(name, f))
    state.update({f"{PREFIX}{key}": tensor for key, tensor in adapter.extras.items()})
    return state
