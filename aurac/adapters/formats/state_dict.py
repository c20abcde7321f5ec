"""State dicts of factors without a config: the MatryoshkaLoRA research code's and loralib's.

Both name their tensors ``<module>.lora_A`` and ``<module>.lora_B``. Which orientation a file has
follows from the shapes of all its modules, or from the base's own; it is never guessed. None of
them says how it is scaled, so the user does. DyLoRA's code multiplies both factors by √(R/b) and
the product by α/R: α/b in all, the rule "rank".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.compatibility import features_of
from aurac.adapters.formats.storage import both_factors, check_factor, read_tensors
from aurac.adapters.nesting import Rule
from aurac.errors import CheckpointError
from aurac.models.base import base_skeleton, load_model, resolve_base

Pairs = Mapping[str, tuple[Tensor, Tensor]]
_NAMES: Final = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.weight)?"
)


FILES: tuple[str, ...] = ("*.pt",)
SUFFIXES: tuple[str, ...] = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def recognises(path: Path) -> bool:
    """Whether a path is a file that may hold tensors."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def read(path: Path, base: str | None, scale: tuple[Rule, float] | None) -> Adapter:
    """The adapter in a file; the base settles an orientation that its shapes leave open.

    A file may hold a whole model beside the factors, whose tensors are then those of the base.
    """
    pairs, others = pair_factors(read_tensors(path), _NAMES, path)
    if scale is None:
        raise CheckpointError(
            f"{path} does not say how it was trained and scaled: make it a plain PEFT adapter "
            "with aurac truncate FILE --out FOLDER --method … --scaling … --alpha … "
            "--nested-ranks …"
        )
    if others:
        _check_others(others, path, base)
    possible = _orientations(pairs, {}, path)
    if len(possible) > 1 and (skeleton := base_skeleton(base)) is not None:
        possible = _orientations(pairs, dict(skeleton.named_modules()), path)
    if len(possible) > 1:
        raise CheckpointError(
            f"{path} has only square shapes, which leave open whether lora_A is (in, R) or "
            "(R, in): give --base"
        )
    (orientation,) = possible
    if orientation == "research":
        pairs = {n: (A.T.contiguous(), B.T.contiguous()) for n, (A, B) in pairs.items()}
    rule, alpha = scale
    return Adapter(
        name=path.stem,
        modules={n: Factors(A, B, alpha, rule) for n, (A, B) in pairs.items()},
        peft_config={"task_type": "CAUSAL_LM"},
        source=path,
        format=orientation,
    )


def _orientations(pairs: Pairs, modules: Mapping[str, nn.Module], path: Path) -> set[str]:
    """The orientations that all pairs allow, with the base's own modules as far as known."""
    possible = {"research", "loralib"}
    for module, (A, B) in pairs.items():
        known = features_of(modules[module]) if module in modules else None
        fits = set()
        if A.shape[-1] == B.shape[0] and known in (None, (A.shape[0], B.shape[-1])):
            fits.add("research")
        if A.shape[0] == B.shape[-1] and known in (None, (A.shape[-1], B.shape[0])):
            fits.add("loralib")
        possible &= fits
        if not possible:
            raise CheckpointError(
                f"{path} has factors of shapes {tuple(A.shape)} and {tuple(B.shape)} for {module}, "
                "which are no pair of its orientation, or belong to another base"
            )
    return possible


def _check_others(others: Mapping[str, Tensor], path: Path, base: str | None) -> None:
    """Refuse a tensor beside the factors unless it equals the base's own."""
    whole = load_model(resolve_base(base), "auto") if base else nn.Module()
    known = {**dict(whole.named_buffers()), **whole.state_dict()}
    for key, tensor in others.items():
        own = known.get(key)
        if own is None or not torch.equal(own.to(tensor.dtype), tensor):
            raise CheckpointError(
                f"{path} has a tensor {key!r} beside its factors that is not one of the "
                f"base {base or '(give --base)'}"
            )


def pair_factors(
    state: Mapping[str, Tensor], names: re.Pattern[str], path: Path
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """A and B by module, and every other tensor; ``names`` has the groups module and side."""
    halves: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if match := names.fullmatch(key):
            half = halves.setdefault(match["module"], {})
            half[match["side"].upper()] = check_factor(tensor, key, path)
        else:
            others[key] = tensor
    if not halves:
        raise CheckpointError(f"{path} holds no lora_A and lora_B tensors")
    return {module: both_factors(half, module, path) for module, half in halves.items()}, others
