"""A base model with one rank of an adapter added to its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from aurac.adapters.attach import check_fits
from aurac.adapters.features import is_conv1d
from aurac.adapters.formats.peft_shapes import peft_shapes
from aurac.adapters.formats.peft_writer import check_free, fresh_folder
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from aurac.adapters.truncate import Prepared


def merge(model: nn.Module, prepared: Prepared, rank: int) -> None:
    """Add ``s · B[:, :r] · A[:r]`` to the weights of ``model`` in place, in fp64, rounded once.

    Raises:
        CheckpointError: For a module whose weight cannot take the update, for tensors beside the
            factors, or when the adapter does not fit.
        RankError: For a rank that the adapter does not have.
    """
    adapter = prepared.adapter
    adapter.check_rank(rank)
    check_fits(adapter, model)
    if adapter.extras or adapter.peft_config.get("layer_replication"):
        raise CheckpointError(
            f"adapter {adapter.name!r} has tensors beside its factors or repeats layers",
            expected="low-rank factors alone, to be merged",
            fix="merge it with PEFT",
        )
    targets = {name: _weight(model, name, prepared) for name in adapter.modules}
    for name, (weight, transposed) in targets.items():
        f, module = adapter.modules[name], prepared.modules[name]
        r = min(rank, f.rank)
        A, B = peft_shapes(f, module.A[:r].double(), module.B[:, :r].double())
        update = prepared.scaling(name, rank) * (B @ A)
        update = (update.T if transposed else update).to(weight.device)
        weight.data = (weight.data.double() + update).to(weight.dtype)


def save_merged(prepared: Prepared, rank: int, model: Any, tokenizer: Any, folder: Path) -> Path:
    """Merge and write a plain model folder, complete or not at all.

    Raises:
        RunFolderError: When something is already there, or the place cannot be written to.
        CheckpointError: See :func:`merge`.
    """
    check_free(folder, force=False)
    merge(model, prepared, rank)
    with fresh_folder(folder) as into:
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)
    return folder


def _weight(model: nn.Module, name: str, prepared: Prepared) -> tuple[torch.Tensor, bool]:
    """The weight of a linear layer, and whether it is kept as (in, out)."""
    plain_kind = prepared.adapter.modules[name].kind in ("linear", "merged")
    module = model.get_submodule(name) if plain_kind else None
    weight = getattr(module, "weight", None)
    conv1d = module is not None and is_conv1d(module)
    plain = isinstance(module, torch.nn.Linear) and type(module) is torch.nn.Linear
    if weight is None or not weight.dtype.is_floating_point or not (conv1d or plain):
        raise CheckpointError(f"{name} is not a plain linear layer, so nothing is merged into it")
    shared = [n for n, p in model.named_parameters(remove_duplicate=False) if p is weight]
    if len(shared) > 1:
        raise CheckpointError(f"{name} shares its weight with {shared[0]}, which would change too")
    return weight, conv1d
