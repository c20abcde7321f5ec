"""``adapter_config.json``: fields that are understood; any other that is set is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta
from torch import nn

from aurac.adapters.compatibility import module_in_model
from aurac.adapters.formats.storage import checked
from aurac.adapters.nesting import Rule
from aurac.errors import CheckpointError
from aurac.models.packaged import hub_id, published

Skeleton = Callable[[], nn.Module | None]  # the base's modules, if a base is named
PeftRank = Annotated[int, Meta(ge=1)]
Number = TypeVar("Number", int, float)

CONFIG = "adapter_config.json"
NOTE: Final = "aurac"  # the key of aurac's record in the field `auto_mapping`
PREFIX: Final = "base_model.model."
MAGNITUDE: Final = "lora_magnitude_vector"
# Fields that an export carries over when they are set; the rest is written anew or left out.
CARRIED: Final = (
    *("auto_mapping", "base_model_name_or_path", "bias", "exclude_modules", "fan_in_fan_out"),
    *("layers_pattern", "layers_to_transform", "lora_dropout"),
    *("modules_to_save", "revision", "target_modules", "target_parameters", "task_type"),
    "trainable_token_indices",
)
UNDERSTOOD: Final = frozenset(
    {*CARRIED, "alpha_pattern", "init_lora_weights", "lora_alpha", "r", "rank_pattern"}
    | {"use_dora", "use_rslora"}
    # They change nothing at inference, whatever they hold:
    | {"corda_config", "ephemeral_gpu_offload", "eva_config", "inference_mode", "loftq_config"}
    | {"lora_ga_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size"}
    | {"runtime_config"}
)
# Initialisations that leave the base as it is; with any other the adapter belongs to another base.
_PLAIN_INITS: Final = (None, True, False, "gaussian", "orthogonal", "eva")


class PeftConfig(msgspec.Struct, frozen=True):
    """The understood part of an ``adapter_config.json``, with PEFT's own defaults."""

    r: PeftRank = 8
    lora_alpha: float = 8.0
    use_rslora: bool = False
    use_dora: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    rank_pattern: dict[str, PeftRank] = {}
    alpha_pattern: dict[str, float] = {}
    target_parameters: list[str] = []
    base_model_name_or_path: str = ""
    revision: str = ""
    note: dict[str, Any] = {}  # what aurac recorded in it, see `formats/sidecar.py`
    carried: dict[str, Any] = {}  # the fields that an export carries over, as they were

    @property
    def rule(self) -> Rule:
        """The scaling rule."""
        return "sqrt" if self.use_rslora else "rank"

    @property
    def base(self) -> str | None:
        """The base that it names, see `base_name`."""
        return base_name(self.base_model_name_or_path, self.revision)

    def scale_of(self, name: str) -> tuple[int, float]:
        """The r and ``lora_alpha`` of what PEFT calls ``name`` when it looks into the patterns."""
        rank = _matching(self.rank_pattern, name, self.r)
        return rank, _matching(self.alpha_pattern, name, self.lora_alpha)


def pattern_name(module: str, parameter: str) -> str:
    """What PEFT holds against patterns: the module, or the parameter that is adapted alone."""
    return f"{module_in_model(module)}.{parameter}" if parameter else module


def parse_config(config: Mapping[str, object], where: object) -> PeftConfig:
    """Check the fields of an ``adapter_config.json``; CheckpointError for what is refused."""
    kind, init = str(config.get("peft_type")), config.get("init_lora_weights", True)
    if kind.upper() != "LORA":
        raise CheckpointError(
            f"{where} is of PEFT's type {kind}, and only LORA is a pair of factors that can be cut"
        )
    if init not in _PLAIN_INITS:
        raise CheckpointError(
            f"{where} was initialised with {init!r}, which changes the base: save it with PEFT's "
            "path_initial_model_for_weight_conversion"
        )
    if refused := [k for k, v in config.items() if k not in UNDERSTOOD and is_set(v)]:
        raise CheckpointError(f"{where} sets {refused[0]}, with which it cannot be cut exactly")
    known = {k: v for k, v in config.items() if k in UNDERSTOOD}
    if isinstance(mapping := config.get("auto_mapping"), Mapping):
        known["note"] = mapping.get(NOTE)
        known["auto_mapping"] = {k: v for k, v in mapping.items() if k != NOTE}
    carried = {key: known[key] for key in CARRIED if is_set(known.get(key))}
    return checked({**known, "carried": carried}, PeftConfig, where)


def base_name(name: str | None, revision: str | None) -> str | None:
    """A base that a config names, as ``owner/name@revision`` where it asks for a revision."""
    if revision in (None, "", "main") or hub_id(name) is None:
        return name or None
    return f"{name}@{revision}"


def base_fields(base: str | None, own: Mapping[str, Any]) -> dict[str, str | None]:
    """The fields of a config that name ``base``: its ``own``, or those that others understand."""
    name, revision = own.get("base_model_name_or_path"), own.get("revision")
    if base_name(name, revision) != base:
        name, revision = published(base), None
        if hub_id(base) is not None and "@" in str(base):
            name, _, revision = str(base).partition("@")
    return {"base_model_name_or_path": name, "revision": revision}


def is_set(value: object) -> bool:
    """Whether a field of the config holds something; PEFT writes most of them unset."""
    return value not in (None, False, [], {}, "")


def _matching(patterns: Mapping[str, Number], module: str, default: Number) -> Number:
    """The value of the first pattern that ends ``module``, as PEFT matches them."""
    ending = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(ending, patterns.get(module, default))
