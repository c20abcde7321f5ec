"""Every other method that PEFT 0.21 can write, and why it is no low-rank update at every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROMPT = "it adds trained vectors to the prompt or the cache and changes no weight"
_BASE = "its update is a function of the base's own weights"
_SPARSE = "its update is not of low rank"
_ROTATION = "it multiplies the base's weights by a rotation"

REFUSED_TYPES: Final[Mapping[str, str]] = {
    "ADAMSS": "AdaMSS adapts clusters of the base's own singular subspaces",
    "ADAPTION_PROMPT": _PROMPT,
    "BEFT": "BEFT trains biases alone",
    "BOFT": _ROTATION,
    "C3A": "C3A is a block-circular convolution",
    "CARTRIDGE": _PROMPT,
    "CPT": _PROMPT,
    "DEFT": _BASE,
    "DELORA": "DeLoRA normalises each component, by the base's norm as well",
    "FOURIERFT": _SPARSE,
    "FROD": _BASE,
    "GLORA": _BASE,
    "GRALORA": "GraLoRA adapts a grid of blocks, each with factors of its own",
    "HIRA": "HiRA multiplies the base's weights element by element",
    "HRA": _ROTATION,
    "IA3": "(IA)3 rescales activations and has no rank",
    "LILY": "Lily routes between factors that layers share",
    "LN_TUNING": "it trains normalisation layers and has no rank",
    "LOHA": "LoHa multiplies two low-rank products element by element",
    "LOKR": "LoKr is a Kronecker product",
    "MISS": "MiSS shares one factor across blocks of inputs",
    "MULTITASK_PROMPT_TUNING": _PROMPT,
    "OFT": _ROTATION,
    "OSF": "OSF trains the base's own singular values and vectors",
    "PEANUT": "PEANuT is a nonlinear function of the base's weights",
    "POLY": "Poly mixes several adapters per task",
    "PREFIX_TUNING": _PROMPT,
    "PROMPT_TUNING": _PROMPT,
    "PSOFT": _BASE,
    "PVERA": "PVeRA samples its update",
    "P_TUNING": _PROMPT,
    "RANDLORA": "RandLoRA sums random bases to full rank",
    "ROAD": _ROTATION,
    "SHADOW": "ShadowPEFT runs a second network beside the base",
    "SHIRA": _SPARSE,
    "SUPERTUNING": "Super-Tuning changes single entries of the base's weights",
    "TINYLORA": _BASE,
    "TRAINABLE_TOKENS": "it trains rows of the embedding and has no rank",
    "UNILORA": "Uni-LoRA reads all factors from one shared vector",
    "VBLORA": "VB-LoRA composes factors from a bank of shared vectors",
    "VERA": "VeRA shares frozen random factors between layers",
    "WAVEFT": _SPARSE,
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
