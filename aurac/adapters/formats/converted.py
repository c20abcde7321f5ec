"""Adapters of MLX, torchtune and llama.cpp, converted to plain factors.

Their layouts are those of mlx-lm 0.32 (``tuner/lora.py``; before 0.20 a config held ``alpha`` too),
torchtune 0.6 (``models/convert_weights.py``) and llama.cpp (``convert_lora_to_gguf.py`` and, for
the scale, ``llama_adapter_lora_weight::get_scale``).

torchtune and llama.cpp rotate neighbouring rows of q and k where transformers rotates the two
halves of a head. Their B is in their own order, so it is put back: that needs the number of heads,
which the base model tells.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from aurac.adapters.adapter import Adapter, Factors, Nesting
from aurac.adapters.formats.key_map import KeyMap, sort_tensors
from aurac.adapters.formats.peft import DORA_NOTE, with_magnitudes, with_sidecar
from aurac.adapters.formats.peft_config import CONFIG, WEIGHTS, is_peft_alpha, is_peft_rank
from aurac.adapters.formats.sidecar import read_sidecar, sidecar_path
from aurac.adapters.formats.tensors import read_tensors
from aurac.adapters.formats.untrusted import (
    check_factor,
    check_fields,
    read_json,
    reason,
    regular_file,
)
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from aurac.adapters.compatibility import BaseSource
    from aurac.adapters.nesting import Rule

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
# The same for torchtune, by the model_type of transformers.
_TORCHTUNE_REORDERS: Final = {
    **dict.fromkeys(("llama", "mistral", "gemma", "gemma2"), True),
    **dict.fromkeys(("qwen2", "qwen3"), False),
}
_TORCHTUNE: Final = re.compile(
    r"(layers\.(?P<layer>\d+)\.)?(?P<module>(attn|mlp)\.\w+|output)"
    r"\.(lora_(?P<side>[ab])\.weight|magnitude)"
)
_TORCHTUNE_MODULES: Final = {
    **{f"attn.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"},
    "attn.output_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.down_proj",
    "mlp.w3": "mlp.up_proj",
}


def is_mlx(folder: Path) -> bool:
    """Whether a folder holds an adapter of mlx-lm."""
    return (folder / MLX_WEIGHTS).exists() and not any((folder / w).exists() for w in WEIGHTS)


def read_mlx(folder: Path, given: str | None = None) -> Adapter:
    """The adapter in a folder of mlx-lm: ``adapters.safetensors`` beside its own config.

    A module computes ``x W + scale · (x @ lora_a) @ lora_b`` with lora_a (in, R) and lora_b
    (R, out), whatever the rank: the rule ``none``. DoRA's magnitudes are called ``m``. ``given`` is
    the base's name where the user gives it.
    """
    config = read_json(folder / CONFIG)
    kind, rank, scale = _mlx_settings(config, folder / CONFIG)
    weights = folder / MLX_WEIGHTS
    tensors = sort_tensors(read_tensors(weights), _MLX_KEYS, weights)
    modules = {name: _plain(A.mT, B.mT, "none", scale) for name, (A, B) in tensors.pairs.items()}
    others = dict(tensors.others)
    if kind == "dora":
        matches = ((_MLX_MAGNITUDE.fullmatch(key), key) for key in tensors.others)
        magnitudes = {m["module"]: check_factor(others.pop(k), k, weights) for m, k in matches if m}
        modules = with_magnitudes(modules, magnitudes, weights)
    _refuse_others(others, weights)
    for name, f in modules.items():
        if f.rank != rank or name.rpartition(".")[2].startswith("embed"):
            raise CheckpointError(
                f"{weights} has factors of rank {f.rank} for {name}",
                expected=f"linear layers of rank {rank}, which {CONFIG} gives",
            )
    base = config.get("model")
    return _recorded(
        folder,
        given,
        modules=modules,
        nesting=Nesting("lora", (rank,)),
        base=base if isinstance(base, str) else None,
        notes=(DORA_NOTE,) if kind == "dora" else (),
        format="mlx",
    )


def _mlx_settings(config: Mapping[str, Any], where: Path) -> tuple[str, int, float]:
    """``lora`` or ``dora``, the rank and the scale."""
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise CheckpointError(f"{where} has fine_tune_type {kind!r}"[:300], expected="lora or dora")
    fields = config.get("lora_parameters")
    if not isinstance(fields, dict) or not {"rank", "scale"} <= set(fields):
        raise CheckpointError(
            f"{where} gives no lora_parameters with rank and scale",
            expected=f"the config that mlx-lm writes beside {MLX_WEIGHTS}",
        )
    number = ("a finite number", is_peft_alpha)
    check_fields(
        fields, {"rank": ("a rank", is_peft_rank), "scale": number, "alpha": number}, where
    )
    scale, rank = float(fields["scale"]), int(fields["rank"])
    if fields.get("alpha") is not None:
        scale *= fields["alpha"] / rank
    return kind, rank, scale


def read_gguf(
    path: Path, base: str | None, bases: Callable[[str], BaseSource] | None = None
) -> Adapter:
    """The adapter in a GGUF file of llama.cpp.

    A module computes ``W x + α / R · B (A x)``, or ``W x + B (A x)`` where α is 0. Quantised
    factors come in float32. ``base`` is its name, where the file does not say; ``bases`` lead from
    a name to the base, whose modules and heads are needed.
    """
    fields, contents = _gguf_contents(path)
    arch, alpha = _gguf_settings(fields, path)
    url = str(fields.get("general.base_model.0.repo_url", ""))
    recorded = url.partition("huggingface.co/")[2] or None
    skeleton = _skeleton(path, base or recorded, bases)
    # llama.cpp leaves norms of an adapter out too.
    state = {k: t for k, t in contents.items() if not k.endswith("_norm.weight")}
    tensors = sort_tensors(state, _GGUF_KEYS, path)
    _refuse_others(tensors.others, path)
    names = _gguf_modules(skeleton, arch)
    unknown = sorted(set(tensors.pairs) - set(names))
    if unknown:
        raise CheckpointError(
            f"{path} has factors for {unknown[0]}, which is no linear layer of the base",
            fix="it was trained on another base",
        )
    modules = {}
    for key, (A, B) in tensors.pairs.items():
        if _GGUF_REORDERS[arch]:
            B = _reordered(names[key], B, skeleton, path)  # noqa: PLW2901
        modules[names[key]] = _plain(A, B, "rank" if alpha else "none", alpha or 1.0)
    left_out = len(contents) - len(state)
    notes = (f"{left_out} norm weights are left out, as in llama.cpp",) if left_out else ()
    return _recorded(path, base, modules=modules, base=recorded, notes=notes, format="gguf")


def _gguf_settings(fields: Mapping[str, Any], path: Path) -> tuple[str, float]:
    """The architecture and α."""
    if fields.get("general.type") != "adapter" or fields.get("adapter.type") != "lora":
        raise CheckpointError(f"{path} is a GGUF file but no LoRA adapter", fix="check the file")
    if fields.get("adapter.alora.invocation_tokens"):
        raise CheckpointError(f"{path} is an aLoRA adapter, which acts after its tokens alone")
    arch, alpha = str(fields.get("general.architecture")), fields.get("adapter.lora.alpha", 0.0)
    if arch not in _GGUF_REORDERS or not is_peft_alpha(alpha):
        raise CheckpointError(
            f"{path} is for architecture {arch} with alpha {alpha!r}"[:300],
            expected=f"one of {', '.join(_GGUF_REORDERS)} and a finite number",
        )
    return arch, alpha


def is_torchtune(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has torchtune's names."""
    return bool(state) and all(_TORCHTUNE.fullmatch(key) for key in state)


def from_torchtune(
    state: Mapping[str, Tensor], base: BaseSource | None, path: Path
) -> dict[str, Tensor]:
    """The tensors of torchtune's ``adapter_0.pt`` under transformers' names, in its order."""
    skeleton = _skeleton(path, None, None if base is None else lambda _: base)
    kind = str(_text_config(skeleton).model_type)
    if kind not in _TORCHTUNE_REORDERS:
        raise CheckpointError(
            f"{path} is torchtune's, and the base is of type {kind}",
            expected=f"one of {', '.join(_TORCHTUNE_REORDERS)}, whose order of rows is known",
        )
    plain: dict[str, Tensor] = {}
    for key, tensor in state.items():
        match = _TORCHTUNE.fullmatch(key)
        inner = match and (match["layer"] is None or _TORCHTUNE_MODULES.get(match["module"]))
        if not match or not inner:
            raise CheckpointError(f"{path} has {key!r}, whose name in transformers is not known")
        if match["side"] is None:
            raise CheckpointError(f"{path} is a DoRA adapter of torchtune's, which is not read")
        module = f"model.layers.{match['layer']}.{inner}" if match["layer"] else "lm_head"
        side = match["side"].upper()
        if side == "B" and _TORCHTUNE_REORDERS[kind]:
            tensor = _reordered(module, tensor, skeleton, path)  # noqa: PLW2901
        plain[f"{module}.lora_{side}"] = tensor
    return plain


def torchtune_alpha(path: Path) -> float | None:
    """The α in the ``adapter_config.json`` that torchtune writes beside its file."""
    beside = path.parent / CONFIG
    alpha = read_json(beside).get("lora_alpha") if beside.exists() else None
    return float(alpha) if alpha is not None and is_peft_alpha(alpha) else None


def _gguf_contents(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The fields and the tensors of a GGUF file, dequantised; those in float16 stay so."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    class Reader(GGUFReader):
        """A reader that stops where the file ends, instead of reading nothing without an end."""

        def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **more: Any) -> Any:
            value = super()._get(offset, dtype, count, *rest, **more)
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


def _skeleton(path: Path, name: str | None, bases: Callable[[str], BaseSource] | None) -> nn.Module:
    """The base's modules on the meta device, with its config."""
    skeleton = None if bases is None else bases(name or "").skeleton(needed=True)
    if skeleton is None or not hasattr(skeleton, "config"):
        raise CheckpointError(
            f"{path} can only be read beside its base, which tells the number of heads",
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


def _plain(A: Tensor, B: Tensor, rule: Rule, alpha: float) -> Factors:
    return Factors(A.contiguous(), B.contiguous(), float(alpha), rule)


def _refuse_others(others: Mapping[str, Tensor], path: Path) -> None:
    if others:
        raise CheckpointError(
            f"{path} has a tensor {min(others)!r} beside its factors", expected="factors alone"
        )


def _recorded(source: Path, given: str | None, **fields: Any) -> Adapter:
    """The adapter in a folder or file, with what its side-car records."""
    name = source.name if source.is_dir() else source.stem
    adapter = Adapter(name=name, source=source, peft_config={"task_type": "CAUSAL_LM"}, **fields)
    path = sidecar_path(source)
    sidecar = read_sidecar(path)
    if sidecar is None:
        return adapter
    sidecar = replace(sidecar, nesting=sidecar.nesting or adapter.nesting)
    return with_sidecar(adapter, sidecar, path, given=given)
