"""``adapter_config.json``: what is understood, what is refused and why.

A field of PEFT's config that changes the outputs is either read or refused. A field that PEFT 0.21
and earlier do not have is ignored while it is unset and refused when it is set.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aurac.adapters.compatibility import module_in_model
from aurac.adapters.formats.untrusted import check_fields, finite_number
from aurac.adapters.nesting import is_rank
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from aurac.adapters.nesting import Rule

    # The base's modules, or None; told whether they are needed
    Skeleton = Callable[[bool], nn.Module | None]

CONFIG = "adapter_config.json"
PREFIX: Final = "base_model.model."
MAGNITUDE: Final = "lora_magnitude_vector"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Fields that an export carries over when they are set; the rest is written anew or left out.
CARRIED: Final = (
    *("auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out"),
    *("layer_replication", "layers_pattern", "layers_to_transform", "lora_dropout"),
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
PLAIN_INITS = (True, False, None, "gaussian", "orthogonal", "eva")
REFUSED_FIELDS: Mapping[str, str] = {
    "alora_invocation_tokens": "aLoRA acts only after its invocation tokens",
    "arrow_config": "Arrow routes between several adapters",
    "ensure_weight_tying": "tied adapters share factors between input and output embeddings",
    "kasa_config": "KaSA truncates the base's own weights",
    "lora_bias": "the bias of lora_B belongs to no rank",
    "megatron_config": "Megatron layers are sharded",
    "monteclora_config": "MonteCLoRA samples its factors",
    "use_bdlora": "BD-LoRA's factors are block-diagonal",
    "use_qalora": "QALoRA pools its inputs",
    "velora_config": "VeLoRA compresses activations with state of its own",
}
REFUSED_INITS: Mapping[str, str] = {
    "pissa": "PiSSA moves the leading components out of the base",
    "olora": "OLoRA moves a QR factor out of the base",
    "corda": "CorDA moves components out of the base",
    "loftq": "LoftQ replaces the base by a quantised residual",
    "lora_ga": "LoRA-GA shifts the base by its first update",
    "mica": "MiCA derives B from the base's own weights",
}
_TOGETHER: Final = {
    "it adds trained vectors to the prompt or the cache and changes no weight": (
        *("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING"),
        *("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"),
    ),
    "it multiplies the base's weights by a rotation": ("BOFT", "HRA", "OFT", "ROAD"),
    "its update is a function of the base's own weights": (
        *("DEFT", "FROD", "GLORA", "PSOFT", "TINYLORA"),
    ),
    "its update is not of low rank": ("FOURIERFT", "SHIRA", "WAVEFT"),
}
REFUSED_TYPES: Final[Mapping[str, str]] = {
    **{name: why for why, names in _TOGETHER.items() for name in names},
    "ADAMSS": "AdaMSS adapts clusters of the base's own singular subspaces",
    "BEFT": "BEFT trains biases alone",
    "C3A": "C3A is a block-circular convolution",
    "DELORA": "DeLoRA normalises each component, by the base's norm as well",
    "GRALORA": "GraLoRA adapts a grid of blocks, each with factors of its own",
    "HIRA": "HiRA multiplies the base's weights element by element",
    "IA3": "(IA)3 rescales activations and has no rank",
    "LILY": "Lily routes between factors that layers share",
    "LN_TUNING": "it trains normalisation layers and has no rank",
    "LOHA": "LoHa multiplies two low-rank products element by element",
    "LOKR": "LoKr is a Kronecker product",
    "MISS": "MiSS shares one factor across blocks of inputs",
    "OSF": "OSF trains the base's own singular values and vectors",
    "PEANUT": "PEANuT is a nonlinear function of the base's weights",
    "POLY": "Poly mixes several adapters per task",
    "PVERA": "PVeRA samples its update",
    "RANDLORA": "RandLoRA sums random bases to full rank",
    "SHADOW": "ShadowPEFT runs a second network beside the base",
    "SUPERTUNING": "Super-Tuning changes single entries of the base's weights",
    "TRAINABLE_TOKENS": "it trains rows of the embedding and has no rank",
    "UNILORA": "Uni-LoRA reads all factors from one shared vector",
    "VBLORA": "VB-LoRA composes factors from a bank of shared vectors",
    "VERA": "VeRA shares frozen random factors between layers",
    "XLORA": "X-LoRA mixes several adapters per token",
}
# Those whose models say that PEFT's own save_as_lora takes them.
LORA_CONVERTIBLE: Final = frozenset(
    {"C3A", "DELORA", "FOURIERFT", "GRALORA", "LOHA", "LOKR", "MISS", "PSOFT", "RANDLORA"}
    | {"TINYLORA", "UNILORA", "VBLORA", "VERA", "WAVEFT"}
)
APPROXIMABLE: Final = (
    "PEFT's save_as_lora makes a plain LoRA adapter of a loaded one, approximately"
)


@dataclass(frozen=True)
class PeftConfig:
    """The understood part of an ``adapter_config.json``."""

    r: int
    lora_alpha: float
    rule: Rule
    bias: str
    dora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    carried: Mapping[str, Any]
    notes: tuple[str, ...]
    # Of ``target_parameters``: module of the factors → parameter, empty where that is open
    parameters: Mapping[str, str] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """The rank that PEFT gives the factors of a module."""
        return self.scale_of(pattern_name(module, self.parameters.get(module, "")))[0]

    def alpha_of(self, module: str) -> float:
        """The ``lora_alpha`` that PEFT gives the factors of a module."""
        return self.scale_of(pattern_name(module, self.parameters.get(module, "")))[1]

    def scale_of(self, name: str) -> tuple[int, float]:
        """The r and ``lora_alpha`` of what PEFT calls ``name`` when it looks into the patterns."""
        rank = self.rank_pattern.get(_pattern_key(self.rank_pattern, name), self.r)
        alpha = self.alpha_pattern.get(_pattern_key(self.alpha_pattern, name), self.lora_alpha)
        return rank, alpha


def pattern_name(module: str, parameter: str) -> str:
    """What PEFT holds against patterns: the module, or the parameter that is adapted alone."""
    return f"{module_in_model(module)}.{parameter}" if parameter else module


def parse_config(config: Mapping[str, Any], where: object) -> PeftConfig:
    """Check the fields of an ``adapter_config.json``."""
    _refuse_type(config, where)
    _refuse_fields(config, where)
    _refuse_init(config, where)
    notes = _unknown_fields(config, where)
    check_fields(config, _TYPES, where)
    carried = {key: config[key] for key in CARRIED if is_set(config.get(key))}
    return PeftConfig(
        r=_field(config, "r", 8),
        lora_alpha=float(_field(config, "lora_alpha", 8)),
        rule="sqrt" if config.get("use_rslora") else "rank",
        bias=_field(config, "bias", "none"),
        dora=bool(config.get("use_dora")),
        rank_pattern=dict(_field(config, "rank_pattern", {})),
        alpha_pattern={k: float(v) for k, v in _field(config, "alpha_pattern", {}).items()},
        carried=carried,
        notes=notes,
    )


def base_of(config: Mapping[str, Any]) -> str | None:
    """The base that a config names, as ``owner/name@revision`` where it asks for a revision."""
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not name or not revision or revision == "main" or not _HUB_ID.fullmatch(name):
        return name or None
    return name if is_there(name) else f"{name}@{revision}"


def is_there(base: str) -> bool:
    """Whether the name of a base is that of something on this machine; any text may be asked."""
    return os.path.exists(base)  # noqa: PTH110 - pathlib's raises for names that are too long


def base_fields(base: str | None) -> dict[str, str | None]:
    """The fields of a config that name ``base``: the inverse of :func:`base_of`."""
    name, at, revision = (base or "").partition("@")
    if not at or not _HUB_ID.fullmatch(name) or is_there(str(base)):
        return {"base_model_name_or_path": base, "revision": None}
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


def _field(config: Mapping[str, Any], key: str, default: Any) -> Any:
    value = config.get(key)
    return default if value is None else value


def _refuse_type(config: Mapping[str, Any], where: object) -> None:
    kind = config.get("peft_type")
    if not isinstance(kind, str):
        raise CheckpointError(
            f"{where} names no PEFT method", expected='a "peft_type" of LORA', fix="check the file"
        )
    if kind.upper() != "LORA":
        why = REFUSED_TYPES.get(kind.upper(), "it is not a plain low-rank update")
        raise CheckpointError(
            f"{where} is a {kind[:60]} adapter, which is refused: {why}",
            expected="a plain LoRA adapter",
            fix=APPROXIMABLE if kind.upper() in LORA_CONVERTIBLE else None,
        )


def _refuse_fields(config: Mapping[str, Any], where: object) -> None:
    for key, why in REFUSED_FIELDS.items():
        if is_set(config.get(key)):
            raise CheckpointError(
                f"{where} sets {key}, which is refused: {why}", expected="a plain LoRA adapter"
            )


def _refuse_init(config: Mapping[str, Any], where: object) -> None:
    init = config.get("init_lora_weights", True)
    if init is None or isinstance(init, bool) or init in PLAIN_INITS:
        return
    known = str(init).split("_niter_", maxsplit=1)[0]
    why = REFUSED_INITS.get(known, "it is not known what that does to the base")
    raise CheckpointError(
        f"{where} was initialised with {init!r}, which is refused: {why}",
        expected="an adapter of the unchanged base",
        fix="convert it: PEFT's save_pretrained takes path_initial_model_for_weight_conversion",
    )


def _unknown_fields(config: Mapping[str, Any], where: object) -> tuple[str, ...]:
    notes = []
    for key in sorted(set(config) - UNDERSTOOD - set(REFUSED_FIELDS)):
        if is_set(config[key]):
            raise CheckpointError(
                f"{where} sets {key!r} = {str(config[key])[:60]!r}, which is not understood",
                fix="it may come from a newer PEFT; aurac will not guess what it does",
            )
        notes.append(f"the config has an unknown field {key!r}, which is unset")
    return tuple(notes)


def _pattern_key(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that ends ``module``, as PEFT matches them."""
    for key in patterns:
        if re.match(rf"(.*\.)?({key})$", module):
            return key
    return module


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _is_pattern(value: object, accepts: Callable[[object], bool]) -> bool:
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        return False
    return all(accepts(v) for v in value.values()) and all(map(_compiles, value))


def _compiles(pattern: str) -> bool:
    # A pattern is data from the file; nested repetition would let it run for ever.
    if re.search(r"[+*}]\)?[+*{]", pattern) or len(pattern) > 500:
        return False
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def is_peft_rank(value: Any) -> bool:
    """Whether ``value`` is a rank below a million, so that no file can exhaust memory."""
    return is_rank(value) and value <= 2**20


def is_peft_alpha(value: Any) -> bool:
    """Whether ``value`` is a finite number of at most 10⁹."""
    return finite_number(value) and abs(value) <= 1e9


def _is_ranges(value: object) -> bool:
    """A list of [start, end) with at most a thousand layers in all."""
    if not isinstance(value, list) or not all(isinstance(v, list) and len(v) == 2 for v in value):
        return False
    ends = [end for pair in value for end in pair]
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= 1000 for n in ends):
        return False
    return all(a < b for a, b in value) and sum(b - a for a, b in value) <= 1000


def _is_indices(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_indices(v) for k, v in value.items())
    if not isinstance(value, list):
        return False
    return all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value)


_TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "r": ("a whole number of at least 1", is_peft_rank),
    "lora_alpha": ("a finite number", is_peft_alpha),
    "use_dora": ("true or false", lambda v: isinstance(v, bool)),
    "use_rslora": ("true or false", lambda v: isinstance(v, bool)),
    "fan_in_fan_out": ("true or false", lambda v: isinstance(v, bool)),
    "bias": ("none, all or lora_only", lambda v: v in ("none", "all", "lora_only")),
    "rank_pattern": ("patterns with ranks", lambda v: _is_pattern(v, is_peft_rank)),
    "alpha_pattern": ("patterns with numbers", lambda v: _is_pattern(v, is_peft_alpha)),
    "target_modules": ("names", lambda v: isinstance(v, str) or _is_strings(v)),
    "exclude_modules": ("names", lambda v: isinstance(v, str) or _is_strings(v)),
    "modules_to_save": ("a list of names", _is_strings),
    "layer_replication": ("pairs of layer numbers", _is_ranges),
    "target_parameters": ("a list of names", _is_strings),
    "trainable_token_indices": ("a list of token ids", _is_indices),
    "base_model_name_or_path": ("a string", lambda v: isinstance(v, str)),
    "revision": ("a string", lambda v: isinstance(v, str)),
    "task_type": ("a string", lambda v: isinstance(v, str)),
    "lora_dropout": ("a number", finite_number),
    "auto_mapping": ("an object", lambda v: isinstance(v, dict)),
}
