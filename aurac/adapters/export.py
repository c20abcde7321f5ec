"""Truncations on disk: PEFT folders of several ranks, or a base with one rank merged in."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from aurac.adapters.compatibility import check_fits, is_conv1d
from aurac.adapters.formats.peft_config import WEIGHTS
from aurac.adapters.formats.peft_tensors import PREFIX, factor_keys, peft_shapes, peft_state
from aurac.adapters.formats.peft_write import (
    METADATA,
    SafetensorsWriter,
    check_free,
    dump_records,
    fresh_folder,
    write_records,
)
from aurac.adapters.truncate import prepare_module, prepare_outline
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from aurac.adapters.adapter import Adapter, Factors
    from aurac.adapters.truncate import Basis, Prepared, Rescale


def save_truncations(
    adapter: Adapter,
    folders: Mapping[int, Path],
    *,
    basis: Basis = "prefix",
    rescale: Rescale | None = None,
    fit_factors: Mapping[int, float] | None = None,
    force: bool = False,
) -> dict[int, Adapter]:
    """Write the truncation at each rank to its folder, all in one pass over the adapter.

    The files are those that ``save_adapter(truncate(adapter, rank))`` writes, byte for byte. Each
    folder appears complete or not at all, and none appears before all of them are written.

    Args:
        adapter: What to truncate; an outline (``load_adapter(…, lazy=True)``) keeps memory small.
        folders: The folder of each rank.
        basis: ``prefix`` or ``svd``.
        rescale: What decides the scale; ``default_rescale`` of the adapter by default.
        fit_factors: For ``fit``, one factor per rank.
        force: Replace folders that hold an adapter.

    Returns:
        What was written at each rank, as outlines.

    Raises:
        RankError: For a rank that the adapter does not have.
        UsageError: For a basis and rescale that do not go together.
        CheckpointError: When the adapter holds numbers that are not finite or leave its type.
        RunFolderError: When a folder is taken or cannot be written to.
    """
    prepared = prepare_outline(adapter, basis, rescale, fit_factors)
    outlines = {adapter.check_rank(r): _outline(prepared, r) for r in folders}
    for folder in folders.values():
        check_free(folder, force=force)
    with ExitStack() as stack:
        fresh = {r: stack.enter_context(fresh_folder(folder)) for r, folder in folders.items()}
        files = {}
        for r, outline in outlines.items():
            path = fresh[r] / WEIGHTS[0]
            files[r] = SafetensorsWriter(path, peft_state(outline), METADATA)
        for name, f in adapter.walk():
            A, B = prepare_module(prepared, name, f, rows=max(folders))
            for r, file in files.items():
                _put(file, name, prepared.cut(name, A, B, r))
        for key in adapter.extras:
            extra = adapter.read_extra(key)
            for file in files.values():
                file.put(f"{PREFIX}{key}", extra)
        written = {r: replace(o, derived=prepared.record(r)) for r, o in outlines.items()}
        for r, file in files.items():
            file.finish()
            write_records(fresh[r], dump_records(written[r]))
    return written


def save_merged(prepared: Prepared, rank: int, model: Any, tokenizer: Any, folder: Path) -> Path:
    """Merge and write a plain model folder, complete or not at all.

    Raises:
        RunFolderError: When something is already there, or the folder cannot be written to.
        CheckpointError: See :func:`merge`.
    """
    check_free(folder, force=False)
    merge(model, prepared, rank)
    with fresh_folder(folder) as into:
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)
    return folder


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


def _put(file: SafetensorsWriter, name: str, f: Factors) -> None:
    for key, tensor in zip(factor_keys(name, f), peft_shapes(f, f.A, f.B), strict=True):
        file.put(key, tensor)


def _outline(prepared: Prepared, r: int) -> Adapter:
    """The truncation at rank ``r`` without numbers."""
    modules = {}
    for name, f in prepared.adapter.modules.items():
        modules[name] = prepared.cut(name, f.A.to("meta"), f.B.to("meta"), r)
    extras = {key: tensor.to("meta") for key, tensor in prepared.adapter.extras.items()}
    return replace(prepared.assemble(modules, {"rank": r}), extras=extras, values=None)


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
