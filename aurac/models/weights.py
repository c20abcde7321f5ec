"""Whether a base that was loaded has all of its weights, and whether each is a finite number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from aurac.errors import BaseModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

_AGAIN = "download or save the model again"
_LISTED = 3  # tensors that a message names


def check_complete(name: str, model: nn.Module, loading: Mapping[str, Any]) -> None:
    """Check that every parameter came from the files of the base, in its own shape.

    transformers fills what a file lacks with random numbers and only logs it.

    Args:
        name: Of the base.
        model: As it was loaded.
        loading: transformers' `output_loading_info`.

    Raises:
        BaseModelError: Tensors that are missing or have another shape, the first of them by name.
    """
    unlike = sorted(
        f"{key} has shape {tuple(stored)} where the model has {tuple(shape)}"
        for key, stored, shape in loading.get("mismatched_keys") or ()
    )
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    lacking = [f"{key} is missing" for key in sorted(loading.get("missing_keys") or ())]
    lacking = [line for line in lacking if line.removesuffix(" is missing") in parameters]
    wrong = [*unlike, *lacking]
    if wrong:
        more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise BaseModelError(
            f"the weights of base {name!r} do not fit its config.json "
            f"({'; '.join(wrong[:_LISTED])}{more})",
            expected="a causal language model with all of its weights",
            fix=_AGAIN,
        )


def check_finite(name: str, model: nn.Module, dtype: str) -> None:
    """Check that no weight is NaN or infinite, in one pass over the memory that holds them.

    Integer and 8-bit weights, and those that are offloaded, are not looked at.

    Args:
        name: Of the base.
        model: In memory.
        dtype: What it computes in.

    Raises:
        BaseModelError: The first such tensor, by name.
    """
    import torch

    # On an accelerator the reductions are queued first and read afterwards.
    extremes = [
        (key, weight, torch.aminmax(weight.detach()))
        for key, weight in model.named_parameters()
        if weight.is_floating_point()
        and weight.element_size() > 1
        and weight.numel()
        and not weight.is_meta
    ]
    for key, weight, (low, high) in extremes:
        if math.isfinite(low) and math.isfinite(high):
            continue
        bad = int((~torch.isfinite(weight)).sum())
        wider = "give --dtype float32 if the stored weights exceed float16, or "
        raise BaseModelError(
            f"base {name!r} has weights that are NaN or infinite ({bad} of the "
            f"{weight.numel()} in {key})",
            expected="finite weights",
            fix=(wider if dtype == "float16" else "") + _AGAIN,
        )
