"""Whether an adapter fits a base, whether vLLM serves it, and what the modules of a base are."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.family import Family, members_of
from aurac.errors import CheckpointError, UsageError


def check_fits(adapter: Adapter, model: nn.Module) -> None:
    """Refuse an adapter whose modules ``model`` lacks or has with other features.

    Raises:
        CheckpointError: It is of another base.
        UsageError: The model carries an adapter already.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    present = dict(model.named_modules())
    if any(isinstance(m, BaseTunerLayer) for m in present.values()):
        raise UsageError("the model carries an adapter already: give the plain base model")
    for name, f in adapter.modules.items():
        place = module_in_model(name)
        own: Any = present.get(place)
        if f.parameter:
            place, own = f"{place}.{f.parameter}", getattr(own, f.parameter, None)
        if own is None or not _fits(f, own):
            sizes = tuple(own.shape) if isinstance(own, Tensor) else own and features_of(own)
            inside, out = f.features
            raise CheckpointError(
                f"adapter {adapter.name!r} was trained on another base: it has {inside} in and "
                f"{out} out for {place}, where base {model_name(model)} has {sizes or 'nothing'}"
            )


def _fits(f: Factors, own: nn.Module | Tensor) -> bool:
    """Whether factors and a base's own module, or its parameter, have the same sizes."""
    if not isinstance(own, Tensor):
        return f.kind == "experts" or features_of(own) in (None, f.features)
    shape = (1,) * (3 - own.ndim) + tuple(own.shape)  # one matrix, or a stack of E of them
    same = shape[0] == f.blocks and sorted(shape[1:]) == sorted(f.features)
    return same or not own.is_floating_point()  # of a quantised one the shape says nothing


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


def served_by_vllm(adapter: Adapter | Family) -> bool:
    """Whether vLLM 0.34 serves it: no DoRA, no whole modules or biases, factors of one kind.

    vLLM looks at the config: what that names is refused, though the file may lack it.
    """
    return not any(
        member.dora
        or member.extras
        or member.peft_config.get("modules_to_save")
        or member.peft_config.get("bias", "none") != "none"
        or len({f.kind for f in member.modules.values()}) > 1
        for member in members_of(adapter)
    )


def features_of(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear or embedding layer (the vocabulary is in); ``None`` for any other."""
    inside, out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D":
        inside, out = module.get_parameter("weight").shape  # which both keep as (in, out)
    return (inside, out) if isinstance(inside, int) and isinstance(out, int) else None


def module_in_model(module: str) -> str:
    """The module that factors belong to, without PEFT's wrappers of its other parameters."""
    return re.sub(r"(\.base_layer)+$", "", module)


def model_name(model: nn.Module) -> str:
    """What messages call a model: the name it was loaded by, or its class."""
    config = getattr(model, "config", None)
    return getattr(config, "_name_or_path", "") or type(model).__name__
