"""State dicts of factors without a config: the MatryoshkaLoRA research code's, loralib's, others'.

The first two name their tensors ``<module>.lora_A`` and ``<module>.lora_B``; for others the user
gives the names. Which orientation a file has follows from the shapes of all its modules, or from
the base's own; it is never guessed. None of them says how it is scaled, so the user does.

loralib's ``MergedLinear`` adapts some of the n equal groups of a layer's outputs: its A is
(R · g, in), its B (out / n · g, R) for the g groups that are on.

DyLoRA's code multiplies both factors by √(R/b) and the product by α/R: α/b in all, the rule "rank".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from typing_extensions import override

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.compatibility import features_of, is_conv1d
from aurac.adapters.formats.key_map import FactorTensors, key_map, sort_tensors
from aurac.adapters.formats.peft_shapes import stack_blocks
from aurac.adapters.formats.sidecar import Format
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from torch import Tensor

    from aurac.adapters.adapter import Kind
    from aurac.adapters.compatibility import BaseSource
    from aurac.adapters.formats.sidecar import LoadOverrides, Sidecar, Source
    from aurac.adapters.nesting import Rule

Orientation = Literal["research", "loralib"]
Pairs = Mapping[str, tuple["Tensor", "Tensor"]]


class StateDict(Format):
    """Single files of tensors, by the names of their factors or those that the user gives."""

    files: tuple[str, ...] = ("*.pt",)
    suffixes: tuple[str, ...] = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
    complete = False

    @override
    def read(self, source: Source) -> Adapter:
        """The adapter in a file."""
        return read_factors(source, source.tensors, stated_or_recorded(source))


def read_factors(
    source: Source,
    state: Mapping[str, Tensor],
    stated: LoadOverrides,
    orientation: Orientation | None = None,
) -> Adapter:
    """The adapter of a file's tensors; the base settles an ``orientation`` that they leave open.

    A file may hold a whole model beside the factors, whose tensors are then those of the base.
    """
    path, groups = source.path, stated.enable_lora
    tensors = sort_tensors(state, key_map(stated.keys), path)
    _check_others(tensors.others, source.base(), path)
    rule = _scaling(stated, tensors, path)
    skeleton = source.skeleton(needed=not _shapes_suffice(tensors, groups, path))
    shapes = Shapes(tensors.pairs, _features(skeleton, tensors.pairs), groups, path)
    orientation = orientation or shapes.orientation()
    own = dict(tensors.alphas) if source.stated.alpha is None else {}
    alphas = dict.fromkeys(tensors.pairs, stated.alpha) | own
    modules = {}
    for module, alpha in alphas.items():
        A, B, kind, layout = shapes.canonical(module, orientation)
        modules[module] = Factors(A, B, float(alpha or 0.0), rule, kind, layout)
    return Adapter(
        name=path.stem,
        modules=modules,
        peft_config={"task_type": "CAUSAL_LM", "fan_in_fan_out": _in_conv1d(skeleton, modules)},
        source=path,
        format=orientation,
        notes=tuple(_notes(stated, source.sidecar, modules)),
        sidecar_fields={
            **({} if groups is None else {"enable_lora": list(map(int, groups))}),
            **({} if stated.keys is None else {"keys": dict(stated.keys)}),
        },
    )


@dataclass(frozen=True)
class Shapes:
    """The shapes that decide how a file's factors are to be read."""

    pairs: Pairs  # A and B in the file's own shapes, by module
    # (in, out) of the base's own modules, as far as they are known
    features: Mapping[str, tuple[int, int]]
    groups: Sequence[bool] | None  # ``enable_lora`` of merged layers, where the user gives it
    path: Path  # the file, for messages

    def orientation(self) -> Orientation:
        """The one orientation that all modules allow; refused where none or both are possible."""
        possible: set[Orientation] = {"research", "loralib"}
        for module in self.pairs:
            possible &= self._fitting(module)
        if len(possible) == 1:
            return possible.pop()
        if not possible:
            raise CheckpointError(f"{self.path} mixes modules of both orientations")
        raise CheckpointError(
            f"{self.path} has only square shapes, which leave open whether lora_A is (in, R) or "
            "(R, in)",
            fix="give --base, whose own shapes may settle it",
        )

    def canonical(
        self, module: str, orientation: Orientation
    ) -> tuple[Tensor, Tensor, Kind, tuple[int, ...]]:
        """A, B, kind and layout of a module in aurac's own shapes."""
        A, B = self.pairs[module]
        if orientation == "research":
            return A.T.contiguous(), B.T.contiguous(), "linear", ()
        mask = self._mask(module)
        if mask is None:
            return A, B, "linear", ()
        return stack_blocks(A, sum(mask)), B, "merged", tuple(map(int, mask))

    def _fitting(self, module: str) -> set[Orientation]:
        A, B = self.pairs[module]
        fits: set[Orientation] = set()
        if A.ndim == B.ndim == 2:
            if A.shape[1] == B.shape[0]:
                fits.add("research")
            if A.shape[0] % B.shape[1] == 0 and B.shape[0] % (A.shape[0] // B.shape[1]) == 0:
                fits.add("loralib")
        if not fits:
            raise CheckpointError(
                f"{self.path} has factors of shapes {tuple(A.shape)} and {tuple(B.shape)} for "
                f"{module}, which share no rank",
                fix="check the file",
            )
        known = self.features.get(module)
        if known is None:
            # A merged layer is only thought of where no plain one fits, or where the user says so.
            plain = A.shape[0] == B.shape[1] or self.groups is not None
            return fits if plain or "research" not in fits else {"research"}
        if (A.shape[0], B.shape[1]) != known:
            fits.discard("research")
        if "loralib" in fits and not self._loralib_fits(A, B, known):
            fits.discard("loralib")
        if not fits:
            raise CheckpointError(
                f"{self.path} has factors of {tuple(A.shape)} and {tuple(B.shape)} for {module}",
                expected=f"{known[0]} in and {known[1]} out as in the base",
                fix="it was trained on another base, or give --enable-lora for a MergedLinear",
            )
        return fits

    def _loralib_fits(self, A: Tensor, B: Tensor, known: tuple[int, int]) -> bool:
        inside, out = known
        on = A.shape[0] // B.shape[1]
        if A.shape[1] != inside:
            return False
        if on == 1 and (B.shape[0] == out or self.groups is None):
            return B.shape[0] == out
        return out % (B.shape[0] // on) == 0 and B.shape[0] <= out

    def _mask(self, module: str) -> Sequence[bool] | None:
        """Which groups of a merged layer are on; ``None`` for a layer that is not merged."""
        A, B = self.pairs[module]
        on = A.shape[0] // B.shape[1]
        out = None if module not in self.features else self.features[module][1]
        one_group = self.groups is not None and sum(self.groups) == 1
        if on == 1 and (out == B.shape[0] or (out is None and not one_group)):
            return None
        what = f"{module} in {self.path} is a MergedLinear with {on} of its groups on"
        if self.groups is None:
            if out == B.shape[0]:
                return (True,) * on
            raise CheckpointError(
                f"{what}, but the file does not say which",
                fix="give --enable-lora, such as 1,0,1 for the first and the last of three",
            )
        if on == 1 and out is None:
            raise CheckpointError(
                f"{module} in {self.path} may be a whole layer or one group of it",
                fix="give --base, whose own shapes settle it",
            )
        whole = B.shape[0] // on * len(self.groups)
        if sum(self.groups) != on or out not in (None, whole):
            size = "" if out is None else f" of {out} outputs"
            flag = ",".join(str(int(is_on)) for is_on in self.groups)
            raise CheckpointError(
                f"{what}{size}, which --enable-lora {flag} does not fit",
                expected=f"one 0 or 1 for each group, {on} of them 1",
            )
        return self.groups


def _features(base: nn.Module | None, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(in, out) of those of ``names`` that the base has, where they are known."""
    modules = {} if base is None else dict(base.named_modules())
    known = ((name, features_of(modules[name])) for name in names if name in modules)
    return {name: features for name, features in known if features is not None}


def stated_or_recorded(source: Source) -> LoadOverrides:
    """What is stated about a file, or else recorded."""
    stated, recorded = source.stated, source.sidecar
    nesting = recorded.nesting
    groups = None if recorded.enable_lora is None else tuple(map(bool, recorded.enable_lora))
    return replace(
        stated,
        method=stated.method or (nesting.method if nesting else None),
        scaling=stated.scaling or recorded.rule,
        alpha=recorded.alpha if stated.alpha is None else stated.alpha,
        nested_ranks=stated.nested_ranks or (nesting.ranks if nesting else None),
        enable_lora=stated.enable_lora or groups,
        keys=recorded.keys if stated.keys is None else stated.keys,
    )


def _scaling(stated: LoadOverrides, tensors: FactorTensors, path: Path) -> Rule:
    """The scaling rule; it is needed, and so are method, α and nested ranks."""
    known = {
        "--method": stated.method is not None,
        "--scaling": stated.scaling is not None,
        "--alpha": stated.alpha is not None or set(tensors.alphas) == set(tensors.pairs),
        "--nested-ranks": stated.nested_ranks is not None or stated.method == "lora",
    }
    missing = [flag for flag, is_known in known.items() if not is_known]
    if missing or stated.scaling is None:
        raise CheckpointError(
            f"{path} does not say how it was trained and scaled", fix=f"give {' '.join(missing)}"
        )
    return stated.scaling


def _shapes_suffice(tensors: FactorTensors, groups: Sequence[bool] | None, path: Path) -> bool:
    """Whether the file's own shapes settle the orientation, without those of the base."""
    shapes = Shapes(tensors.pairs, {}, groups, path)
    try:
        orientation = shapes.orientation()
        for module in tensors.pairs:
            shapes.canonical(module, orientation)
    except CheckpointError:
        return False
    return True


def _in_conv1d(base: nn.Module | None, modules: Mapping[str, Factors]) -> bool:
    """PEFT's ``fan_in_fan_out``; without the base false, and PEFT corrects it when it loads."""
    return base is not None and any(
        is_conv1d(m) for name, m in base.named_modules() if name in modules
    )


def _notes(
    stated: LoadOverrides, recorded: Sidecar, modules: Mapping[str, Factors]
) -> Iterable[str]:
    if recorded.rule is not None and stated.scaling != recorded.rule:
        yield f"the scaling given, {stated.scaling}, replaces the recorded {recorded.rule}"
    if recorded.alpha is not None and stated.alpha != recorded.alpha:
        yield f"the alpha given, {stated.alpha:g}, replaces the recorded {recorded.alpha:g}"
    merged = [f for f in modules.values() if f.kind == "merged"]
    if merged:
        yield (
            f"{len(merged)} merged layers: rank r is r components in each group that is on, so an "
            f"export has {merged[0].blocks} times the rank there"
        )


def _check_others(others: Mapping[str, Tensor], base: BaseSource | None, path: Path) -> None:
    """Refuse a tensor beside the factors unless it equals the base's own."""
    if not others:
        return
    whole = nn.Module() if base is None else base.whole()
    known = {**dict(whole.named_buffers()), **whole.state_dict()}
    for key, tensor in others.items():
        in_base = known.get(key)
        if in_base is None or in_base.is_meta or in_base.shape != tensor.shape:
            raise CheckpointError(
                f"{path} has a tensor {key!r} beside its factors, which no base vouches for",
                expected="factors alone, or a whole model with its --base",
            )
        if not torch.equal(in_base.cpu().to(tensor.dtype), tensor):
            raise CheckpointError(f"{path} has a tensor {key!r} that differs from the base's own")
