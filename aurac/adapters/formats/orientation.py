"""The orientation of factors without a config: decided from shapes, never guessed.

The research code keeps A as (in, R) and B as (R, out); loralib and most others keep (R, in) and
(out, R). loralib's ``MergedLinear`` adapts some of the n equal groups of a layer's outputs: its A
is (R · g, in), its B (out / n · g, R) for the g groups that are on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from aurac.adapters.formats.peft import stack_blocks
from aurac.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from aurac.adapters.adapter import Kind

Orientation = Literal["research", "loralib"]
Pairs = Mapping[str, tuple["Tensor", "Tensor"]]


class CanonicalFactors(NamedTuple):
    """The factors of a module in aurac's own shapes."""

    A: Tensor
    B: Tensor
    kind: Kind
    layout: tuple[int, ...]


@dataclass(frozen=True)
class Shapes:
    """The shapes that decide how a file's factors are to be read.

    Attributes:
        pairs: A and B in the file's own shapes, by module.
        features: (in, out) of the base's own modules, as far as they are known.
        groups: ``enable_lora`` of merged layers, where the user gives it.
        path: The file, for messages.
    """

    pairs: Pairs
    features: Mapping[str, tuple[int, int]]
    groups: tuple[bool, ...] | None
    path: Path

    def orientation(self) -> Orientation:
        """The one orientation that all modules allow.

        Raises:
            CheckpointError: When none or both are possible.
        """
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

    def canonical(self, module: str, orientation: Orientation) -> CanonicalFactors:
        """The factors of a module in aurac's own shapes.

        Raises:
            CheckpointError: For a merged layer whose groups are not known.
        """
        A, B = self.pairs[module]
        if orientation == "research":
            return CanonicalFactors(A.T.contiguous(), B.T.contiguous(), "linear", ())
        mask = self._mask(module)
        if mask is None:
            return CanonicalFactors(A, B, "linear", ())
        return CanonicalFactors(stack_blocks(A, sum(mask)), B, "merged", tuple(map(int, mask)))

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

    def _mask(self, module: str) -> tuple[bool, ...] | None:
        """Which groups of a merged layer are on; ``None`` for a layer that is not merged.

        Raises:
            CheckpointError: When neither the user nor the base says, or they contradict the shapes.
        """
        A, B = self.pairs[module]
        on = A.shape[0] // B.shape[1]
        out = None if module not in self.features else self.features[module][1]
        if on == 1 and (out == B.shape[0] or (out is None and not self._one_group)):
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
            raise CheckpointError(
                f"{what}{size}, which --enable-lora {self._mask_flag} does not fit",
                expected=f"one 0 or 1 for each group, {on} of them 1",
            )
        return self.groups

    @property
    def _one_group(self) -> bool:
        return self.groups is not None and sum(self.groups) == 1

    @property
    def _mask_flag(self) -> str:
        return ",".join(str(int(on)) for on in self.groups or ())
