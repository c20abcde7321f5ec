"""State dicts of factors without a config: the MatryoshkaLoRA research code's and loralib's.

Both name their tensors ``<module>.lora_A`` and ``<module>.lora_B``. The research code keeps A as
(in, R) and B as (R, out); loralib and Huawei's DyLoRA keep (R, in) and (out, R). Which one a file
is follows from the shapes of all its modules, or from the base's own; it is never guessed. Neither
says how it is scaled, so the user does.

DyLoRA's code multiplies both factors by √(R/b) and the product by α/R: α/b in all, the rule "rank".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from aurac.adapters.adapter import Adapter, Factors, Nesting
from aurac.adapters.features import is_conv1d, module_features
from aurac.adapters.formats.given import FLAGS, Given, override
from aurac.adapters.formats.sidecar import Sidecar, read_sidecar, sidecar_path
from aurac.adapters.formats.tensors import check_factor, read_tensors
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

Orientation = Literal["research", "loralib"]
Features = Mapping[str, tuple[int, int]]

_FACTOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.weight)?")


def read_state_dict(path: Path, said: Given, base_model: nn.Module | None = None) -> Adapter:
    """The adapter in a state-dict file.

    Args:
        path: The file; a side-car ``<file>.aurac.json`` beside it is read too.
        said: What the user says about it.
        base_model: The base, for orientations that shapes alone leave open and for files that hold
            a whole model.

    Raises:
        CheckpointError: When it is damaged, ambiguous, or its scale is neither recorded nor given.
    """
    state = read_tensors(path)
    pairs, others = _pairs(state, path)
    _check_others(others, base_model, path)
    recorded = read_sidecar(sidecar_path(path)) or Sidecar()
    rule, alpha = said.scaling or recorded.rule, said.alpha
    alpha = recorded.alpha if alpha is None else alpha
    method = said.method or (recorded.nesting.method if recorded.nesting else None)
    ranks = said.nested_ranks or (recorded.nesting.ranks if recorded.nesting else None)
    missing = [
        flag
        for flag, value in (
            (FLAGS["method"], method),
            (FLAGS["scaling"], rule),
            (FLAGS["alpha"], alpha),
            (FLAGS["nested_ranks"], ranks or (method == "lora" or None)),
        )
        if value is None
    ]
    if missing or rule is None or alpha is None or method is None:
        raise CheckpointError(
            f"{path} does not say how it was trained and scaled", fix=f"give {' '.join(missing)}"
        )
    orientation = _orientation(pairs, base_model, path)
    modules = {
        module: Factors(*_turn(A, B, orientation, module, path), float(alpha), rule)
        for module, (A, B) in pairs.items()
    }
    adapter = Adapter(
        name=path.stem,
        modules=modules,
        nesting=recorded.nesting,
        base=recorded.base,
        base_sha256=recorded.base_sha256,
        peft_config={"task_type": "CAUSAL_LM", "fan_in_fan_out": _in_conv1d(base_model, modules)},
        recipe=recorded.recipe,
        seed=recorded.seed,
        source=path,
        derived=recorded.derived,
        format=orientation,
        notes=tuple(_scale_notes(said, recorded)),
    )
    if adapter.nesting is None:
        adapter = replace(adapter, nesting=Nesting(method, ranks or (adapter.rank,)))
    return override(adapter, replace(said, scaling=None, alpha=None))


def _in_conv1d(base: nn.Module | None, modules: Mapping[str, Factors]) -> bool:
    """What PEFT calls ``fan_in_fan_out``; unknown without the base, where PEFT finds out itself."""
    return base is not None and any(
        is_conv1d(m) for name, m in base.named_modules() if name in modules
    )


def _scale_notes(said: Given, recorded: Sidecar) -> Iterable[str]:
    if recorded.rule is not None and said.scaling not in (None, recorded.rule):
        yield f"the scaling given, {said.scaling}, replaces the recorded {recorded.rule}"
    if recorded.alpha is not None and said.alpha not in (None, recorded.alpha):
        yield f"the alpha given, {said.alpha:g}, replaces the recorded {recorded.alpha:g}"


def _pairs(
    state: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in state.items():
        match = _FACTOR.fullmatch(key)
        if match is None:
            others[key] = tensor
            continue
        half = halves.setdefault(match["module"], {})
        if match["side"] in half:
            raise CheckpointError(f"{path} has lora_{match['side']} of {match['module']} twice")
        half[match["side"]] = check_factor(tensor, key, path)
    if not halves:
        raise CheckpointError(f"{path} holds no lora_A and lora_B tensors", fix="check the file")
    for module, half in halves.items():
        if len(half) != 2:
            raise CheckpointError(f"{path} has only lora_{'/'.join(half)} for {module}")
    return {module: (half["A"], half["B"]) for module, half in halves.items()}, others


def _check_others(others: Mapping[str, Tensor], base: nn.Module | None, path: Path) -> None:
    """Tensors beside the factors are fine when they are the base's own, and refused otherwise."""
    if not others:
        return
    known = {} if base is None else base.state_dict()
    for key, tensor in others.items():
        own = known.get(key)
        if own is None or own.is_meta or own.shape != tensor.shape:
            raise CheckpointError(
                f"{path} has a tensor {key!r} beside its factors, which no base vouches for",
                expected="factors alone, or a whole model with its --base",
            )
        if not torch.equal(own.cpu().to(tensor.dtype), tensor):
            raise CheckpointError(f"{path} has a tensor {key!r} that differs from the base's own")


def _orientation(
    pairs: Mapping[str, tuple[Tensor, Tensor]], base: nn.Module | None, path: Path
) -> Orientation:
    """Which of the two orientations all modules allow, by shape and then by the base's features."""
    possible: set[Orientation] = {"research", "loralib"}
    features = {} if base is None else module_features(base, pairs)
    for module, (A, B) in pairs.items():
        fits = _fitting(A, B)
        if not fits:
            raise CheckpointError(
                f"{path} has factors of shapes {tuple(A.shape)} and {tuple(B.shape)} for {module}, "
                "which share no rank",
                fix="a grouped MergedLinear of loralib is not supported",
            )
        if module in features:
            inside, out = features[module]
            fits &= _fitting_base(A, B, (inside, out))
            if not fits:
                raise CheckpointError(
                    f"{path} has factors of {tuple(A.shape)} and {tuple(B.shape)} for {module}",
                    expected=f"{inside} in and {out} out as in the base",
                )
        possible &= fits
    if len(possible) == 1:
        return possible.pop()
    if not possible:
        raise CheckpointError(f"{path} mixes modules of both orientations")
    raise CheckpointError(
        f"{path} has only square shapes, which leave open whether lora_A is (in, R) or (R, in)",
        fix="give --base, whose own shapes may settle it",
    )


def _fitting(A: Tensor, B: Tensor) -> set[Orientation]:
    fits: set[Orientation] = set()
    if A.ndim == 2 and B.ndim == 2:
        if A.shape[1] == B.shape[0]:
            fits.add("research")
        if A.shape[0] == B.shape[1]:
            fits.add("loralib")
    return fits


def _fitting_base(A: Tensor, B: Tensor, features: tuple[int, int]) -> set[Orientation]:
    fits: set[Orientation] = set()
    if (A.shape[0], B.shape[1]) == features:
        fits.add("research")
    if (A.shape[1], B.shape[0]) == features:
        fits.add("loralib")
    return fits


def _turn(
    A: Tensor, B: Tensor, orientation: Orientation, module: str, path: Path
) -> tuple[Tensor, Tensor]:
    A, B = (A.T.contiguous(), B.T.contiguous()) if orientation == "research" else (A, B)
    if A.shape[0] != B.shape[1]:
        raise CheckpointError(
            f"{path} has factors of ranks {A.shape[0]} and {B.shape[1]} for {module}"
        )
    return A, B
