"""State dicts of factors without a config: the MatryoshkaLoRA research code's, loralib's, others'.

The first two name their tensors ``<module>.lora_A`` and ``<module>.lora_B``; for others the user
gives the names. Which orientation a file has follows from the shapes of all its modules, or from
the base's own; it is never guessed. None of them says how it is scaled, so the user does.

loralib's ``MergedLinear`` adapts some of the n equal groups of a layer's outputs: its A is
(R · g, in), its B (out / n · g, R) for the g groups that are on.

DyLoRA's code multiplies both factors by √(R/b) and the product by α/R: α/b in all, the rule "rank".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeGuard

import torch
import yaml
from torch import Tensor, nn
from typing_extensions import override

from aurac.adapters.adapter import Adapter, Factors, Kind
from aurac.adapters.compatibility import features_of, is_conv1d
from aurac.adapters.formats.peft_shapes import stack_blocks
from aurac.adapters.formats.sidecar import Format, KeyNames, LoadOverrides, Sidecar, Source
from aurac.adapters.formats.storage import check_factor
from aurac.adapters.nesting import Rule
from aurac.errors import CheckpointError, UsageError, first_line
from aurac.models.base import KnownBase

Orientation = Literal["research", "loralib"]
Pairs = Mapping[str, tuple[Tensor, Tensor]]
_USUAL_NAMES: Final = {
    side: re.compile(rf"(?:base_model\.model\.)?(?P<module>.+)\.lora_{side}(?:\.weight)?")
    for side in "AB"
}


class StateDict(Format):
    """Single files of tensors, by the names of their factors or those that the user gives."""

    files: tuple[str, ...] = ("*.pt",)
    suffixes: tuple[str, ...] = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
    complete = False

    @override
    def read(self, source: Source) -> Adapter:
        """The adapter in a file; the base settles an orientation that the tensors leave open.

        A file may hold a whole model beside the factors, whose tensors are then those of the base.
        """
        stated = _stated_or_recorded(source)
        path, groups = source.path, stated.enable_lora
        tensors = sort_tensors(source.tensors, key_map(stated.keys), path)
        _check_others(tensors.others, source.base(), path)
        rule = _scaling(stated, tensors, path)
        skeleton = source.skeleton(needed=not _shapes_suffice(tensors, groups, path))
        own_modules = {} if skeleton is None else dict(skeleton.named_modules())
        base = {name: own_modules[name] for name in tensors.pairs if name in own_modules}
        features = {name: known for name, m in base.items() if (known := features_of(m))}
        turned = any(map(is_conv1d, base.values()))  # where not known, PEFT corrects the field
        shapes = Shapes(tensors.pairs, features, groups, path)
        orientation = shapes.orientation()
        own = dict(tensors.alphas) if source.stated.alpha is None else {}
        alphas = dict.fromkeys(tensors.pairs, stated.alpha) | own
        modules = {}
        for module, alpha in alphas.items():
            A, B, kind, layout = shapes.canonical(module, orientation)
            modules[module] = Factors(A, B, float(alpha or 0.0), rule, kind, layout)
        return Adapter(
            name=path.stem,
            modules=modules,
            peft_config={"task_type": "CAUSAL_LM", "fan_in_fan_out": turned},
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
        (inside, out), on = known, A.shape[0] // B.shape[1]
        if A.shape[1] != inside or B.shape[0] == out or (on == 1 and self.groups is None):
            return A.shape[1] == inside and B.shape[0] == out
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


def _stated_or_recorded(source: Source) -> LoadOverrides:
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


def _check_others(others: Mapping[str, Tensor], base: KnownBase | None, path: Path) -> None:
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


class FactorTensors(NamedTuple):
    """The tensors of a file, sorted, in the file's own shapes."""

    pairs: Pairs  # A and B by module path
    alphas: Mapping[str, float]  # the α that the file itself gives a module
    others: Mapping[str, Tensor]  # every other tensor


@dataclass(frozen=True)
class KeyMap:
    """From a key of a file to (module, side)."""

    # A regular expression with a group ``module`` for each side
    patterns: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    # Keys that are named one by one
    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def lookup(self, key: str) -> tuple[str, str] | None:
        """The module and side of ``key``; ``None`` when it is no factor."""
        matches = ((pattern.fullmatch(key), side) for side, pattern in self.patterns.items())
        return self.names.get(key) or next(((m["module"], s) for m, s in matches if m), None)


def key_map(mapping: KeyNames | None) -> KeyMap:
    """The map that a user gives; by default ``<module>.lora_A`` and ``.lora_B`` as PEFT has them.

    It is ``{"A": pattern, "B": pattern[, "alpha": pattern]}`` with ``{module}`` once in each
    pattern, or ``{module: {"A": key, "B": key[, "alpha": key]}, …}``.
    """
    if mapping is None:
        return KeyMap(patterns=_USUAL_NAMES)
    if _names_sides(mapping):
        patterns = {}
        for side, text in mapping.items():
            head, _, tail = text.partition("{module}")
            if text.count("{module}") != 1:
                given = f"a key pattern {text!r} for {_side_name(side)}"
                raise UsageError(given, expected="{module} in it, once")
            patterns[side] = re.compile(f"{re.escape(head)}(?P<module>.+){re.escape(tail)}")
        return KeyMap(patterns=patterns)
    names: dict[str, tuple[str, str]] = {}
    for module, keys in mapping.items():
        if not _names_sides(keys):
            raise UsageError(
                f"a key map that gives {module!r} {str(keys)[:80]}",
                expected='patterns "A" and "B" with {module}, or for each module its "A" and "B"',
            )
        for side, key in keys.items():
            if key in names:
                raise UsageError(f"a key map that uses {key!r} twice", expected="each key once")
            names[key] = (module, side)
    if not names:
        raise UsageError("an empty key map", expected="at least one module")
    return KeyMap(names=names)


def _names_sides(value: object) -> TypeGuard[Mapping[str, str]]:
    """Whether ``value`` gives A and B, and at most α beside them, a text each."""
    return (
        isinstance(value, Mapping)
        and {"A", "B"} <= set(value) <= {"A", "B", "alpha"}
        and all(isinstance(text, str) for text in value.values())
    )


def read_key_map(path: Path) -> dict[str, str | Mapping[str, str]]:
    """The key map in a JSON or YAML file."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"the key map {path} cannot be read: {first_line(error)}") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UsageError(f"the key map {path} holds no mapping", expected="module: {A: …, B: …}")
    return value


def sort_tensors(state: Mapping[str, Tensor], keys: KeyMap, path: Path) -> FactorTensors:
    """Sort the tensors of a file into pairs of factors, alphas and others.

    Refused are a factor twice, half a pair, no factors at all, a tensor that cannot be a factor,
    and a key that the map names and the file lacks.
    """
    missing = sorted(set(keys.names) - set(state))
    if missing:
        raise CheckpointError(f"{path} has no tensor {missing[0]!r}, which the key map names")
    halves: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in state.items():
        entry = keys.lookup(key)
        if entry is None:
            others[key] = tensor
            continue
        module, side = entry
        half = halves.setdefault(module, {})
        if side in half:
            raise CheckpointError(f"{path} has {_side_name(side)} of {module} twice")
        half[side] = check_factor(tensor, key, path)
    if not halves:
        torchtune = any(key.endswith(".lora_a.weight") for key in state)
        raise CheckpointError(
            f"{path} holds no lora_A and lora_B tensors",
            fix="give the folder in PEFT's format that torchtune's Hugging Face checkpointer writes"
            if torchtune
            else "check the file, or give --a-key and --b-key if they have other names",
        )
    for module, half in halves.items():
        if not {"A", "B"} <= set(half):
            sides = " and ".join(map(_side_name, half))
            raise CheckpointError(f"{path} has only {sides} for {module}")
        if "alpha" in half and half["alpha"].numel() != 1:
            given = f"{path} gives {module} an alpha of shape {tuple(half['alpha'].shape)}"
            raise CheckpointError(given, expected="one number")
    alphas = {module: float(half["alpha"]) for module, half in halves.items() if "alpha" in half}
    pairs = {module: (half["A"], half["B"]) for module, half in halves.items()}
    return FactorTensors(pairs, alphas, others)


def _side_name(side: str) -> str:
    return side if side == "alpha" else f"lora_{side}"
