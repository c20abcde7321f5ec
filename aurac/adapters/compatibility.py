"""Whether an adapter and a base fit, and what the modules of a base are."""

from __future__ import annotations

import re

from torch import Tensor, nn

from aurac.adapters.adapter import Adapter, Factors
from aurac.errors import CheckpointError, UsageError


def check_fits(adapter: Adapter, model: nn.Module) -> None:
    """Refuse an adapter whose modules ``model`` lacks or has with other features (CheckpointError).

    A model that carries an adapter already is a UsageError.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    present = dict(model.named_modules())
    if any(isinstance(m, BaseTunerLayer) for m in present.values()):
        raise UsageError("the model carries an adapter already: give the plain base model")
    base = model_name(model)
    for name, f in adapter.modules.items():
        plain = module_in_model(name)
        wrong = _misfit(f, name, plain, present.get(plain), base)
        if wrong:
            raise CheckpointError(
                f"adapter {adapter.name!r} was trained on another base: it has {wrong}"
            )


def _misfit(f: Factors, name: str, plain: str, module: nn.Module | None, base: str) -> str:
    """What a module's factors have that the base's own module does not fit; empty where it does."""
    if module is None:
        return f"factors for {plain}, which base {base} lacks"
    if f.kind == "experts":
        return _parameter_misfit(f, plain, module, base) if f.parameter else ""
    known = features_of(module)
    if known is None or known == f.features:
        return ""
    here, there = (f"{inside} in and {out} out" for inside, out in (f.features, known))
    return f"{here} for {name}, but base {base} has {there}"


def _parameter_misfit(f: Factors, plain: str, module: nn.Module, base: str) -> str:
    """The same for the factors of one parameter, (out, in) or a stack of E of them."""
    name, weight = f"{plain}.{f.parameter}", getattr(module, f.parameter, None)
    if not isinstance(weight, Tensor):
        return f"factors for {name}, which base {base} lacks"
    shape = (1,) * (3 - weight.ndim) + tuple(weight.shape)
    fits = shape[0] == f.blocks and sorted(shape[1:]) == sorted(f.features)
    if fits or not weight.is_floating_point():  # of a quantised one the shape says nothing
        return ""
    return f"{f.blocks} updates of {f.features} for {name}, but base {base} has {shape}"


def check_base(adapter: Adapter, name: str, sha256: str | None) -> None:
    """Refuse a base whose weights have another hash than the adapter's record, if both are known.

    `name` and `sha256` are those of the base in use.
    """
    if sha256 is None or adapter.base_sha256 in (None, sha256):
        return
    trained, now = str(adapter.base_sha256)[:12], sha256[:12]
    raise CheckpointError(
        f"adapter {adapter.name!r} was trained on other weights (hash {trained}) than those of "
        f"base {name} (hash {now}): give --base the base that it was trained on"
    )


def features_of(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear or embedding layer (the vocabulary is in); ``None`` for any other."""
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    inside, out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(inside, int) and isinstance(out, int):
        return inside, out
    weight = getattr(module, "weight", None)
    if is_conv1d(module) and weight is not None and weight.ndim == 2:
        return int(weight.shape[0]), int(weight.shape[1])  # transformers keeps it as (in, out)
    return None


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' ``Conv1D``, which keeps its weight as (in, out)."""
    return type(module).__name__ == "Conv1D"


def module_in_model(module: str) -> str:
    """The module that factors belong to, without PEFT's wrappers of its other parameters."""
    return re.sub(r"(\.base_layer)+$", "", module)


def model_name(model: nn.Module) -> str:
    """What messages call a model: the name it was loaded by, or its class."""
    config = getattr(model, "config", None)
    return getattr(config, "_name_or_path", "") or type(model).__name__
