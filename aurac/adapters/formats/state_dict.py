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
from typing_extensions import override

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.compatibility import features_of
from aurac.adapters.formats.source import Format, Source
from aurac.adapters.formats.storage import check_factor, read_tensors
from aurac.errors import CheckpointError
from aurac.models.base import base_with_weights

Pairs = Mapping[str, tuple[Tensor, Tensor]]
Features = Mapping[str, tuple[int, int]]
_NAMES: Final = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.weight)?"
)


class StateDict(Format):
    """Single files of tensors."""

    files = ("*.pt",)
    suffixes = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")

    @override
    def read(self, source: Source) -> Adapter:
        """The adapter in a file; the base settles an orientation that the tensors leave open.

        A file may hold a whole model beside the factors, whose tensors are then those of the base.
        """
        path, stated = source.path, source.stated
        pairs, others = pair_factors(read_tensors(path), _NAMES, path)
        if stated.method is None or stated.scaling is None or stated.alpha is None:
            raise CheckpointError(
                f"{path} does not say how it was trained and scaled: make it a plain PEFT adapter "
                "with aurac truncate FILE --out FOLDER --method … --scaling … --alpha … "
                "--nested-ranks …"
            )
        _check_others(others, source)
        possible = _orientations(pairs, {}, path)
        if len(possible) > 1 and (base := source.skeleton(needed=True)) is not None:
            modules = dict(base.named_modules())
            features = {n: features_of(modules[n]) for n in pairs if n in modules}
            possible = _orientations(pairs, {n: f for n, f in features.items() if f}, path)
        if len(possible) > 1:
            raise CheckpointError(
                f"{path} has only square shapes, which leave open whether lora_A is (in, R) or "
                "(R, in): give --base"
            )
        (orientation,) = possible
        turned = orientation == "research"
        how = float(stated.alpha), stated.scaling
        return Adapter(
            name=path.stem,
            modules={
                n: Factors(A.T.contiguous(), B.T.contiguous(), *how)
                if turned
                else Factors(A, B, *how)
                for n, (A, B) in pairs.items()
            },
            peft_config={"task_type": "CAUSAL_LM"},
            source=path,
            format=orientation,
        )


def _orientations(pairs: Pairs, features: Features, path: Path) -> set[str]:
    """The orientations that all modules allow; ``features`` are (in, out) of the base's own."""
    possible = {"research", "loralib"}
    for module, (A, B) in pairs.items():
        known = features.get(module)
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


def _check_others(others: Mapping[str, Tensor], source: Source) -> None:
    """Refuse a tensor beside the factors unless it equals the base's own."""
    if not others:
        return
    whole = source.base_model or base_with_weights(source.stated.base) or nn.Module()
    known = {**dict(whole.named_buffers()), **whole.state_dict()}
    for key, tensor in others.items():
        own = known.get(key)
        if own is None or own.is_meta or not torch.equal(own.cpu().to(tensor.dtype), tensor):
            raise CheckpointError(
                f"{source.path} has a tensor {key!r} beside its factors that is not one of the "
                f"base {source.stated.base or '(give --base)'}"
            )


def pair_factors(
    state: Mapping[str, Tensor], names: re.Pattern[str], path: Path
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """A and B by module, and every other tensor; ``names`` has the groups ``module`` and ``side``.

    Refused are half a pair, no factors at all, and a tensor that cannot be a factor.
    """
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
    if single := next((m for m, half in halves.items() if set(half) != {"A", "B"}), None):
        raise CheckpointError(f"{path} has only one of lora_A and lora_B for {single}")
    return {module: (half["A"], half["B"]) for module, half in halves.items()}, others
