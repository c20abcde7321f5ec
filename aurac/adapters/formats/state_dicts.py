"""State dicts of factors without a config: the MatryoshkaLoRA research code's, loralib's, others'.

The first two name their tensors ``<module>.lora_A`` and ``<module>.lora_B``; for others the user
gives the names. Which orientation a file has follows from the shapes of all its modules, or from
the base's own; it is never guessed. None of them says how it is scaled, so the user does.

DyLoRA's code multiplies both factors by √(R/b) and the product by α/R: α/b in all, the rule "rank".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from aurac.adapters.adapter import Adapter, Factors, Nesting
from aurac.adapters.features import is_conv1d, module_features
from aurac.adapters.formats.base_source import BaseSource, NoBase
from aurac.adapters.formats.given import FLAGS, Given, override
from aurac.adapters.formats.keys import Found, key_map, sort_tensors
from aurac.adapters.formats.orientation import Shapes
from aurac.adapters.formats.sidecar import Sidecar, read_sidecar, sidecar_path
from aurac.adapters.formats.tensors import read_tensors
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from aurac.adapters.nesting import Method, Rule


def read_state_dict(
    path: Path, said: Given, bases: Callable[[str], BaseSource] | None = None
) -> Adapter:
    """The adapter in a state-dict file.

    Args:
        path: The file; a side-car ``<file>.aurac.json`` beside it is read too.
        said: What the user says about it.
        bases: From the base's name to the base, for orientations that shapes alone leave open and
            for files that hold a whole model.

    Raises:
        CheckpointError: When it is damaged, ambiguous, or its scale is neither recorded nor given.
    """
    recorded = read_sidecar(sidecar_path(path)) or Sidecar()
    keys = key_map(said.keys if said.keys is not None else recorded.keys)
    found = sort_tensors(read_tensors(path), keys, path)
    name = said.base or recorded.base
    base = bases(name or "") if bases is not None else NoBase()
    _check_others(found.others, base, path)
    method, rule, ranks = _trained(said, recorded, found, path)
    groups = said.enable_lora or recorded.enable_lora
    skeleton = base.skeleton(needed=_open(found, groups, path))
    features = {} if skeleton is None else module_features(skeleton, found.pairs)
    shapes = Shapes(found.pairs, features, groups, path)
    orientation = shapes.orientation()
    alpha = recorded.alpha if said.alpha is None else said.alpha
    modules = {}
    for module in found.pairs:
        A, B, kind, layout = shapes.turn(module, orientation)
        own = found.alphas.get(module, alpha) if said.alpha is None else said.alpha
        modules[module] = Factors(A, B, float(own or 0.0), rule, kind, layout)
    adapter = Adapter(
        name=path.stem,
        modules=modules,
        nesting=recorded.nesting,
        base=recorded.base,
        base_sha256=recorded.base_sha256,
        peft_config={"task_type": "CAUSAL_LM", "fan_in_fan_out": _in_conv1d(skeleton, modules)},
        recipe=recorded.recipe,
        seed=recorded.seed,
        source=path,
        derived=recorded.derived,
        format=orientation,
        notes=tuple(_notes(said, recorded, modules)),
        reading=_reading(said, recorded),
    )
    if adapter.nesting is None:
        adapter = replace(adapter, nesting=Nesting(method, ranks or (adapter.rank,)))
    return override(adapter, replace(said, scaling=None, alpha=None))


def _trained(
    said: Given, recorded: Sidecar, found: Found, path: Path
) -> tuple[Method, Rule, tuple[int, ...] | None]:
    """Method, scaling rule and nested ranks, given or recorded.

    Raises:
        CheckpointError: When one of them, or α, is neither.
    """
    rule = said.scaling or recorded.rule
    alpha = recorded.alpha if said.alpha is None else said.alpha
    method = said.method or (recorded.nesting.method if recorded.nesting else None)
    ranks = said.nested_ranks or (recorded.nesting.ranks if recorded.nesting else None)
    each = set(found.alphas) == set(found.pairs)
    known = {
        "method": method is not None,
        "scaling": rule is not None,
        "alpha": alpha is not None or each,
        "nested_ranks": ranks is not None or method == "lora",
    }
    missing = [FLAGS[key] for key, there in known.items() if not there]
    if missing or rule is None or method is None:
        raise CheckpointError(
            f"{path} does not say how it was trained and scaled", fix=f"give {' '.join(missing)}"
        )
    return method, rule, ranks


def _open(found: Found, groups: tuple[bool, ...] | None, path: Path) -> bool:
    """Whether shapes alone leave something open that the base's own would settle."""
    shapes = Shapes(found.pairs, {}, groups, path)
    try:
        orientation = shapes.orientation()
        for module in found.pairs:
            shapes.turn(module, orientation)
    except CheckpointError:
        return True
    return False


def _in_conv1d(base: nn.Module | None, modules: Mapping[str, Factors]) -> bool:
    """What PEFT calls ``fan_in_fan_out``; unknown without the base, where PEFT finds out itself."""
    return base is not None and any(
        is_conv1d(m) for name, m in base.named_modules() if name in modules
    )


def _reading(said: Given, recorded: Sidecar) -> dict[str, object]:
    """What the side-car of this file must say beside scale and training, to be read again."""
    groups = said.enable_lora or recorded.enable_lora
    keys = said.keys if said.keys is not None else recorded.keys
    return {
        **({} if groups is None else {"enable_lora": list(map(int, groups))}),
        **({} if keys is None else {"keys": dict(keys)}),
    }


def _notes(said: Given, recorded: Sidecar, modules: Mapping[str, Factors]) -> Iterable[str]:
    if recorded.rule is not None and said.scaling not in (None, recorded.rule):
        yield f"the scaling given, {said.scaling}, replaces the recorded {recorded.rule}"
    if recorded.alpha is not None and said.alpha not in (None, recorded.alpha):
        yield f"the alpha given, {said.alpha:g}, replaces the recorded {recorded.alpha:g}"
    merged = [f for f in modules.values() if f.kind == "merged"]
    if merged:
        yield (
            f"{len(merged)} merged layers: rank r is r components in each group that is on, so an "
            f"export has {merged[0].blocks} times the rank there"
        )


def _check_others(others: Mapping[str, Tensor], base: BaseSource, path: Path) -> None:
    """Tensors beside the factors are fine when they are the base's own, and refused otherwise."""
    if not others:
        return
    whole = base.whole()
    known = {**dict(whole.named_buffers()), **whole.state_dict()}
    for key, tensor in others.items():
        own = known.get(key)
        if own is None or own.is_meta or own.shape != tensor.shape:
            raise CheckpointError(
                f"{path} has a tensor {key!r} beside its factors, which no base vouches for",
                expected="factors alone, or a whole model with its --base",
            )
        if not torch.equal(own.cpu().to(tensor.dtype), tensor):
            raise CheckpointError(f"{path} has a tensor {key!r} that differs from the base's own")
