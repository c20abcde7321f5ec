"""The in and out features of a base's modules, whatever class or quantisation they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable


def features_of(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear, embedding or convolution layer; ``None`` for anything else.

    For an embedding ``in`` is the vocabulary, for a convolution channels × kernel; PEFT's A sees
    all channels of a grouped one too.
    """
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    if is_convolution(module):
        kernel = 1
        for size in module.kernel_size:
            kernel *= size
        return module.in_channels * kernel, module.out_channels
    inside, out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(inside, int) and isinstance(out, int):
        return inside, out
    weight = getattr(module, "weight", None)
    if is_conv1d(module) and weight is not None and weight.ndim == 2:
        return int(weight.shape[0]), int(weight.shape[1])  # transformers keeps it as (in, out)
    return None


def is_convolution(module: nn.Module) -> TypeGuard[nn.Conv1d | nn.Conv2d | nn.Conv3d]:
    """Whether a module is a convolution of torch (transformers' ``Conv1D`` is a linear layer)."""
    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' ``Conv1D``, which keeps its weight as (in, out)."""
    return type(module).__name__ == "Conv1D"


def module_features(model: nn.Module, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(in, out) of those of ``names`` that ``model`` has and whose features are known."""
    found: dict[str, tuple[int, int]] = {}
    modules = dict(model.named_modules())
    for name in names:
        features = features_of(modules[name]) if name in modules else None
        if features is not None:
            found[name] = features
    return found
