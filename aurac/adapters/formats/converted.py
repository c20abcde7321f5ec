"""Adapters of MLX and llama.cpp, converted to plain factors.

Their layouts are those of mlx-lm 0.32 (``tuner/lora.py``; before 0.20 a config held ``alpha`` too)
and llama.cpp (``convert_lora_to_gguf.py`` and, for the scale,
``llama_adapter_lora_weight::get_scale``).

llama.cpp rotates neighbouring rows of q and k where transformers rotates the two halves of a head.
Its B is in that order, so it is put back: that needs the number of heads, which the base tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import numpy as np
import torch
from typing_extensions import override

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.formats.peft import DORA_NOTE, with_magnitudes
from aurac.adapters.formats.peft_config import CONFIG, PeftAlpha, PeftRank
from aurac.adapters.formats.sidecar import Format, Source
from aurac.adapters.formats.state_dict import KeyMap, sort_tensors
from aurac.adapters.formats.storage import (
    WEIGHTS,
    check_factor,
    checked,
    read_json,
    read_tensors,
    reason,
    regular_file,
)
from aurac.adapters.methods import Nesting
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn


_LANGUAGE_MODEL: Final = {"task_type": "CAUSAL_LM"}
MLX_WEIGHTS: Final = "adapters.safetensors"
_MLX_KEYS: Final = KeyMap({s: re.compile(rf"(?P<module>.+)\.lora_{s.lower()}") for s in "AB"})
_MLX_MAGNITUDE: Final = re.compile(r"(?P<module>.+)\.m")
_GGUF_KEYS: Final = KeyMap(
    {s: re.compile(rf"(?P<module>.+)\.weight\.lora_{s.lower()}") for s in "AB"}
)
# Whether llama.cpp reorders q and k of an architecture; others are not known here.
_GGUF_REORDERS: Final = {
    **dict.fromkeys(("llama", "granite", "smollm3", "arcee"), True),
    **dict.fromkeys(("qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"), False),
}


class _MlxLora(msgspec.Struct):
    rank: PeftRank
    scale: PeftAlpha
    alpha: PeftAlpha | None = None


class _MlxConfig(msgspec.Struct):
    lora_parameters: dict[str, Any] = {}
    fine_tune_type: Literal["lora", "dora"] = "lora"
    model: Any = None


class Mlx(Format):
    """Folders of mlx-lm: ``adapters.safetensors`` beside its own config.

    A module computes ``x W + scale · (x @ lora_a) @ lora_b`` with lora_a (in, R) and lora_b
    (R, out), whatever the rank: the rule ``none``. DoRA's magnitudes are called ``m``.
    """

    files = (CONFIG, MLX_WEIGHTS)

    @override
    def recognises(self, source: Source) -> bool:
        """Whether it is a folder with such weights, and none of PEFT's."""
        folder = source.path
        return (folder / MLX_WEIGHTS).exists() and not any((folder / w).exists() for w in WEIGHTS)

    @override
    def read(self, source: Source) -> Adapter:
        """The adapter in the folder."""
        where, weights = source.path / CONFIG, source.path / MLX_WEIGHTS
        config = checked(read_json(where), _MlxConfig, where)
        if not {"rank", "scale"} <= set(config.lora_parameters):
            raise CheckpointError(
                f"{where} gives no lora_parameters with rank and scale",
                expected=f"the config that mlx-lm writes beside {MLX_WEIGHTS}",
            )
        lora = checked(config.lora_parameters, _MlxLora, where)
        scale = lora.scale if lora.alpha is None else lora.scale * (lora.alpha / lora.rank)
        tensors = sort_tensors(read_tensors(weights), _MLX_KEYS, weights)
        modules = {n: _factors(A.mT, B.mT, scale) for n, (A, B) in tensors.pairs.items()}
        others = dict(tensors.others)
        if dora := config.fine_tune_type == "dora":
            matches = ((_MLX_MAGNITUDE.fullmatch(key), key) for key in tensors.others)
            norms = {m["module"]: check_factor(others.pop(k), k, weights) for m, k in matches if m}
            modules = with_magnitudes(modules, norms, weights)
        _refuse_others(others, weights)
        for name, f in modules.items():
            if f.rank != lora.rank or name.rpartition(".")[2].startswith("embed"):
                raise CheckpointError(
                    f"{weights} has factors of rank {f.rank} for {name}",
                    expected=f"linear layers of rank {lora.rank}, which {CONFIG} gives",
                )
        return Adapter(
            name=source.path.name,
            modules=modules,
            nesting=Nesting("lora", (lora.rank,)),
            base=config.model if isinstance(config.model, str) else None,
            peft_config=_LANGUAGE_MODEL,
            source=source.path,
            notes=(DORA_NOTE,) if dora else (),
            format="mlx",
        )


class Gguf(Format):
    """GGUF files of llama.cpp.

    A module computes ``W x + α / R · B (A x)``, or ``W x + B (A x)`` where α is 0. Quantised
    factors come in float32. The base's modules and heads are needed.
    """

    suffixes = (".gguf",)

    @override
    def read(self, source: Source) -> Adapter:
        """The adapter in the file."""
        path = source.path
        fields, contents = _gguf_contents(path)
        arch, alpha = _gguf_settings(fields, path)
        url = str(fields.get("general.base_model.0.repo_url", ""))
        recorded = url.partition("huggingface.co/")[2] or None
        skeleton = _skeleton(source, recorded)
        # llama.cpp leaves norms of an adapter out too.
        state = {k: t for k, t in contents.items() if not k.endswith("_norm.weight")}
        tensors = sort_tensors(state, _GGUF_KEYS, path)
        _refuse_others(tensors.others, path)
        names = _gguf_modules(skeleton, arch)
        if unknown := sorted(set(tensors.pairs) - set(names)):
            raise CheckpointError(
                f"{path} has factors for {unknown[0]}, which is no linear layer of the base",
                fix="it was trained on another base",
            )
        modules = {}
        for key, (A, stored) in tensors.pairs.items():
            name = names[key]
            B = _reordered(name, stored, skeleton, path) if _GGUF_REORDERS[arch] else stored
            f = _factors(A, B, alpha or 1.0)
            modules[name] = replace(f, rule="rank") if alpha else f
        left_out = len(contents) - len(state)
        return Adapter(
            name=path.stem,
            modules=modules,
            base=recorded,
            peft_config=_LANGUAGE_MODEL,
            source=path,
            notes=(f"{left_out} norm weights are left out, as in llama.cpp",) if left_out else (),
            format="gguf",
        )


def _gguf_settings(fields: Mapping[str, object], path: Path) -> tuple[str, float]:
    """The architecture and α."""
    if fields.get("general.type") != "adapter" or fields.get("adapter.type") != "lora":
        raise CheckpointError(f"{path} is a GGUF file but no LoRA adapter", fix="check the file")
    if fields.get("adapter.alora.invocation_tokens"):
        raise CheckpointError(f"{path} is an aLoRA adapter, which acts after its tokens alone")
    arch, alpha = str(fields.get("general.architecture")), fields.get("adapter.lora.alpha", 0.0)
    if isinstance(alpha, (int, float)) and abs(alpha) <= 1e9 and arch in _GGUF_REORDERS:
        return arch, alpha
    raise CheckpointError(
        f"{path} is for architecture {arch} with alpha {alpha!r}"[:300],
        expected=f"one of {', '.join(_GGUF_REORDERS)} and a finite number",
    )


def _gguf_contents(path: Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    """The fields and the tensors of a GGUF file, dequantised; those in float16 stay so."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    class Reader(GGUFReader):
        """A reader that stops where the file ends, instead of reading nothing without an end."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            value = super()._get(offset, dtype, count, override_order)
            if len(value) != int(count):
                raise ValueError("it claims more than it holds")
            return value

    regular_file(path)
    try:
        reader = Reader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {}
        for t in reader.tensors:
            with np.errstate(all="ignore"):  # what is not finite is refused with its name
                data = t.data if t.data.dtype == "float16" else dequantize(t.data, t.tensor_type)
            tensors[t.name] = torch.from_numpy(data.copy())
    except Exception as error:
        raise CheckpointError(f"{path} is not a readable GGUF file: {reason(error)}") from error
    return fields, tensors


def _gguf_modules(skeleton: nn.Module, arch: str) -> dict[str, str]:
    """llama.cpp's names of the base's linear layers → their paths in the base."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kinds = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    names = get_tensor_name_map(kinds[arch], int(_text_config(skeleton).num_hidden_layers))
    linear = [n for n, m in skeleton.named_modules() if isinstance(m, torch.nn.Linear)]
    return {known: name for name in linear if (known := names.get_name(name)) is not None}


def _skeleton(source: Source, own: str | None = None) -> nn.Module:
    """The base's modules on the meta device, with its config."""
    skeleton = source.skeleton(own, needed=True)
    if skeleton is None or not hasattr(skeleton, "config"):
        raise CheckpointError(
            f"{source.path} can only be read beside its base, which tells the number of heads",
            fix="give --base",
        )
    return skeleton


def _reordered(module: str, B: Tensor, skeleton: nn.Module, path: Path) -> Tensor:
    """B of q and k with the rows of each head in transformers' order; any other B itself."""
    kind = module.rpartition(".")[2]
    if kind not in ("q_proj", "k_proj"):
        return B
    config = _text_config(skeleton)
    heads = config.num_attention_heads if kind == "q_proj" else config.num_key_value_heads
    if B.ndim != 2 or B.shape[0] % (2 * heads):
        raise CheckpointError(
            f"{path} has a B of shape {tuple(B.shape)} for {module}",
            expected=f"rows for {heads} heads, as in the base",
            fix="it was trained on another base",
        )
    return B.reshape(heads, -1, 2, B.shape[1]).transpose(1, 2).reshape(B.shape)


def _text_config(skeleton: nn.Module) -> Any:
    return skeleton.config.get_text_config()  # type: ignore[union-attr, operator]


def _factors(A: Tensor, B: Tensor, scale: float) -> Factors:
    return Factors(A.contiguous(), B.contiguous(), float(scale), "none")


def _refuse_others(others: Mapping[str, Tensor], path: Path) -> None:
    if others:
        raise CheckpointError(
            f"{path} has a tensor {min(others)!r} beside its factors", expected="factors alone"
        )
