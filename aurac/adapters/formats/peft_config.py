"""``adapter_config.json``: what is understood, what is refused and why.

A field of PEFT's config that changes the outputs is either read or refused. A field that PEFT 0.21
and earlier do not have is ignored while it is unset and refused when it is set.
"""

from __future__ import annotations

import os
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
from aurac.models.packaged import packaged_name
from aurac.records.hub import published

# The base's modules, or None; told whether they are needed
Skeleton = Callable[[bool], nn.Module | None]

# Bounded, so that no file can exhaust memory.
PeftRank = Annotated[int, Meta(ge=1, le=2**20)]
PeftAlpha = Annotated[float, Meta(ge=-1e9, le=1e9)]
_Token = Annotated[int, Meta(ge=0)]
Number = TypeVar("Number", int, float)

CONFIG = "adapter_config.json"
PREFIX: Final = "base_model.model."
MAGNITUDE: Final = "lora_magnitude_vector"
# Fields that an export carries over when they are set; the rest is written anew or left out.
CARRIED: Final = (
    *("auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out"),
    *("layers_pattern", "layers_to_transform", "lora_dropout"),
    *("modules_to_save", "revision", "target_modules", "target_parameters", "task_type"),
    "trainable_token_indices",
)
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Fields that change nothing at inference, whatever they hold.
_INERT: Final = frozenset(
    {"corda_config", "ephemeral_gpu_offload", "eva_config", "inference_mode", "loftq_config"}
    | {"lora_ga_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size"}
    | {"runtime_config"}
)
UNDERSTOOD = frozenset(
    {*CARRIED, *_INERT, "alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "r"}
    | {"rank_pattern", "use_dora", "use_rslora"}
)
# Initialisations that leave the base as it is; with any other the adapter belongs to another base.
_PLAIN_INITS: Final = ("gaussian", "orthogonal", "eva")
REFUSED_FIELDS: Mapping[str, str] = {
    "alora_invocation_tokens": "aLoRA acts only after its invocation tokens",
    "arrow_config": "Arrow routes between several adapters",
    "ensure_weight_tying": "tied adapters share factors between input and output embeddings",
    "kasa_config": "KaSA truncates the base's own weights",
    "layer_replication": "it belongs to a base with repeated layers",
    "lora_bias": "the bias of lora_B belongs to no rank",
    "megatron_config": "Megatron layers are sharded",
    "monteclora_config": "MonteCLoRA samples its factors",
    "use_bdlora": "BD-LoRA's factors are block-diagonal",
    "use_qalora": "QALoRA pools its inputs",
    "velora_config": "VeLoRA compresses activations with state of its own",
}
_REFUSED_INITS: Mapping[str, str] = {
    "pissa": "PiSSA moves the leading components out of the base",
    "olora": "OLoRA moves a QR factor out of the base",
    "corda": "CorDA moves components out of the base",
    "loftq": "LoftQ replaces the base by a quantised residual",
    "lora_ga": "LoRA-GA shifts the base by its first update",
    "mica": "MiCA derives B from the base's own weights",
}


class PeftConfig(msgspec.Struct, frozen=True):
    """The understood part of an ``adapter_config.json``, with PEFT's own defaults."""

    r: PeftRank = 8
    lora_alpha: PeftAlpha = 8.0
    use_rslora: bool = False
    use_dora: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    rank_pattern: dict[str, PeftRank] = {}
    alpha_pattern: dict[str, PeftAlpha] = {}
    fan_in_fan_out: bool = False
    target_modules: str | list[str] = []
    exclude_modules: str | list[str] = []
    modules_to_save: list[str] = []
    target_parameters: list[str] = []
    trainable_token_indices: list[_Token] | dict[str, list[_Token]] = []
    base_model_name_or_path: str = ""
    revision: str = ""
    task_type: str = ""
    lora_dropout: PeftAlpha = 0.0
    auto_mapping: dict[str, Any] = {}
    carried: dict[str, Any] = {}  # the fields that an export carries over, as they were
    notes: tuple[str, ...] = ()
    # Of ``target_parameters``: module of the factors → parameter, empty where that is open
    parameters: dict[str, str] = {}

    @property
    def rule(self) -> Rule:
        """The scaling rule."""
        return "sqrt" if self.use_rslora else "rank"

    @property
    def base(self) -> str | None:
        """The base that it names, as ``owner/name@revision`` where it asks for a revision."""
        name, revision = self.base_model_name_or_path, self.revision
        if revision in ("", "main") or not _HUB_ID.fullmatch(name) or is_there(name):
            return packaged_name(name) or None
        return f"{name}@{revision}"

    def of(self, module: str) -> tuple[int, float]:
        """The r and ``lora_alpha`` that PEFT gives the factors of a module."""
        return self.scale_of(pattern_name(module, self.parameters.get(module, "")))

    def scale_of(self, name: str) -> tuple[int, float]:
        """The r and ``lora_alpha`` of what PEFT calls ``name`` when it looks into the patterns."""
        rank = _matching(self.rank_pattern, name, self.r)
        return rank, _matching(self.alpha_pattern, name, self.lora_alpha)


def pattern_name(module: str, parameter: str) -> str:
    """What PEFT holds against patterns: the module, or the parameter that is adapted alone."""
    return f"{module_in_model(module)}.{parameter}" if parameter else module


def parse_config(config: Mapping[str, object], where: object) -> PeftConfig:
    """Check the fields of an ``adapter_config.json``."""
    notes = _check_fields(config, where)
    known = checked({k: v for k, v in config.items() if k in UNDERSTOOD}, PeftConfig, where)
    for field in ("rank_pattern", "alpha_pattern"):
        if not all(map(_compiles, getattr(known, field))):
            raise CheckpointError(
                f"{where} gives {field} = {config[field]!r}"[:300], expected="regular expressions"
            )
    carried = {key: config[key] for key in CARRIED if is_set(config.get(key))}
    return msgspec.structs.replace(known, carried=carried, notes=notes)


def is_there(base: str) -> bool:
    """Whether the name of a base is that of something on this machine; any text may be asked."""
    return os.path.exists(base)  # noqa: PTH110 - pathlib's raises for names that are too long


def base_fields(base: str | None) -> dict[str, str | None]:
    """The fields of a config that name ``base`` as other programs find it, see `published`."""
    name, at, revision = (base or "").partition("@")
    if not at or not _HUB_ID.fullmatch(name) or is_there(str(base)):
        return {"base_model_name_or_path": published(base), "revision": None}
    return {"base_model_name_or_path": name, "revision": revision}


def owner_of(key: str, saved: tuple[str, ...]) -> str | None:
    """The module of ``modules_to_save`` that a key belongs to, as its full path."""
    path = key.split(".")
    for end in range(len(path) - 1, 0, -1):
        head = ".".join(path[:end])
        if any(head.endswith(name) for name in saved):  # as PEFT matches them: any suffix
            return head
    return None


def is_set(value: object) -> bool:
    """Whether a field of the config holds something; PEFT writes most of them unset."""
    return value not in (None, False, [], {}, "")


def _check_fields(config: Mapping[str, object], where: object) -> tuple[str, ...]:
    """Refuse another method, initialisation or field than those that are understood.

    Returns:
        A note for each unknown field that is unset.
    """
    kind, init = config.get("peft_type"), config.get("init_lora_weights", True)
    plain = "a plain LoRA adapter"
    if not isinstance(kind, str):
        raise CheckpointError(
            f"{where} names no PEFT method", expected='a "peft_type" of LORA', fix="check the file"
        )
    if kind.upper() != "LORA":
        raise CheckpointError(
            f"{where} is a {kind[:60]} adapter, which is refused: it is no plain low-rank update",
            expected="LoRA, with DoRA or rsLoRA if you like, or AdaLoRA",
            fix="PEFT's save_as_lora makes approximate LoRA adapters of some of the other types",
        )
    for key, why in REFUSED_FIELDS.items():
        if is_set(config.get(key)):
            raise CheckpointError(f"{where} sets {key}, which is refused: {why}", expected=plain)
    if not (init is None or isinstance(init, bool) or init in _PLAIN_INITS):
        known = str(init).split("_niter_", maxsplit=1)[0]
        why = _REFUSED_INITS.get(known, "it is not known what that does to the base")
        raise CheckpointError(
            f"{where} was initialised with {init!r}, which is refused: {why}",
            expected="an adapter of the unchanged base",
            fix="convert it: PEFT's save_pretrained takes path_initial_model_for_weight_conversion",
        )
    unknown = sorted(set(config) - UNDERSTOOD - set(REFUSED_FIELDS))
    for key in unknown:
        if is_set(config[key]):
            raise CheckpointError(
                f"{where} sets {key!r} = {str(config[key])[:60]!r}, which is not understood",
                fix="it may come from a newer PEFT; aurac will not guess what it does",
            )
    return tuple(f"the config has an unknown field {key!r}, which is unset" for key in unknown)


def _matching(patterns: Mapping[str, Number], module: str, default: Number) -> Number:
    """The value of the first pattern that ends ``module``, as PEFT matches them."""
    ending = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(ending, patterns.get(module, default))


def _compiles(pattern: str) -> bool:
    # A pattern is data from the file; nested repetition would let it run for ever.
    if re.search(r"[+*}]\)?[+*{]", pattern) or len(pattern) > 500:
        return False
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        return False
    return True
