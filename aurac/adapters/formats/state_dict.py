"""State dicts of factors without a config: the MatryoshkaLoRA research code's, loralib's, others'.

The first two name their tensors ``<module>.lora_A`` and ``<module>.lora_B``; for others the user
gives the names. Which orientation a file has follows from the shapes of all its modules, or from
the base's own; it is never guessed. None of them says how it is scaled, so the user does.

DyLoRA's code multiplies both factors by √(R/b) and the product by α/R: α/b in all, the rule "rank".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
import yaml
from torch import nn

from aurac.adapters.adapter import Adapter, Factors, Nesting
from aurac.adapters.compatibility import is_conv1d, module_features
from aurac.adapters.formats.orientation import Shapes
from aurac.adapters.formats.sidecar import Sidecar, read_sidecar, sidecar_path
from aurac.adapters.formats.untrusted import check_factor, finite_number, read_tensors
from aurac.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch import Tensor

    from aurac.adapters.formats.sidecar import LoadOverrides
    from aurac.adapters.nesting import Rule

SIDES: Final = ("A", "B", "alpha")
_USUAL_NAMES: Final = {
    side: re.compile(rf"(?:base_model\.model\.)?(?P<module>.+)\.lora_{side}(?:\.weight)?")
    for side in "AB"
}


@dataclass(frozen=True)
class FactorTensors:
    """The tensors of a file, sorted, in the file's own shapes.

    Attributes:
        pairs: A and B by module path.
        alphas: The α that the file itself gives a module.
        others: Every other tensor.
    """

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    alphas: Mapping[str, float]
    others: Mapping[str, Tensor]


@dataclass(frozen=True)
class KeyMap:
    """From a key of a file to (module, side).

    Attributes:
        patterns: A regular expression with a group ``module`` for each side.
        names: Keys that are named one by one.
    """

    patterns: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def lookup(self, key: str) -> tuple[str, str] | None:
        """The module and side of ``key``; ``None`` when it is no factor."""
        if key in self.names:
            return self.names[key]
        for side, pattern in self.patterns.items():
            match = pattern.fullmatch(key)
            if match is not None:
                return match["module"], side
        return None


class BaseSource(Protocol):
    """The base model, whose shapes or numbers settle what a file leaves open."""

    def skeleton(self, *, needed: bool) -> nn.Module | None:
        """The model's modules on the meta device.

        Args:
            needed: Fetch the base if it is not on this machine; ``None`` is returned otherwise.
        """

    def whole(self) -> nn.Module:
        """The model with its numbers."""


class ModelInMemory:
    """A base that is loaded already; on the meta device it serves for its shapes alone."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def skeleton(self, *, needed: bool) -> nn.Module:  # noqa: ARG002 - the protocol has it
        """The model itself."""
        return self._model

    def whole(self) -> nn.Module:
        """The model itself."""
        return self._model


def read_state_dict(
    path: Path, overrides: LoadOverrides, bases: Callable[[str], BaseSource] | None = None
) -> Adapter:
    """The adapter in a state-dict file.

    Args:
        path: The file; a side-car ``<file>.aurac.json`` beside it is read too.
        overrides: What the user states about it.
        bases: From the base's name to the base, for orientations that shapes alone leave open and
            for files that hold a whole model.

    Raises:
        CheckpointError: When it is damaged, ambiguous, or its scale is neither recorded nor given.
    """
    recorded = read_sidecar(sidecar_path(path)) or Sidecar()
    keys = key_map(overrides.keys if overrides.keys is not None else recorded.keys)
    tensors = sort_tensors(read_tensors(path), keys, path)
    base = None if bases is None else bases(overrides.base or recorded.base or "")
    _check_others(tensors.others, base, path)
    method, rule, ranks = _training(overrides, recorded, tensors, path)
    groups = overrides.enable_lora or recorded.enable_lora
    skeleton = None
    if base is not None:
        skeleton = base.skeleton(needed=not _shapes_suffice(tensors, groups, path))
    features = {} if skeleton is None else module_features(skeleton, tensors.pairs)
    shapes = Shapes(tensors.pairs, features, groups, path)
    orientation = shapes.orientation()
    modules = {}
    for module in tensors.pairs:
        A, B, kind, layout = shapes.canonical(module, orientation)
        alpha = overrides.alpha
        if alpha is None:
            alpha = tensors.alphas.get(module, recorded.alpha)
        modules[module] = Factors(A, B, float(alpha or 0.0), rule, kind, layout)
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
        notes=tuple(_notes(overrides, recorded, modules)),
        sidecar_fields=_reading(overrides, recorded),
    )
    if adapter.nesting is None:
        adapter = replace(adapter, nesting=Nesting(method, ranks or (adapter.rank,)))
    return adapter


def key_map(mapping: Mapping[str, Any] | None) -> KeyMap:
    """The map that a user gives; by default ``<module>.lora_A`` and ``.lora_B`` as PEFT has them.

    Args:
        mapping: ``{"A": pattern, "B": pattern[, "alpha": pattern]}`` with ``{module}`` once in each
            pattern, or ``{module: {"A": key, "B": key[, "alpha": key]}, …}``.

    Raises:
        UsageError: For anything else.
    """
    if mapping is None:
        return KeyMap(patterns=_USUAL_NAMES)
    if _names_sides(mapping):
        return KeyMap(patterns={side: _pattern(side, mapping[side]) for side in mapping})
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


def _names_sides(value: object) -> bool:
    """Whether ``value`` gives A and B, and at most α beside them, a text each."""
    return (
        isinstance(value, Mapping)
        and {"A", "B"} <= set(value) <= set(SIDES)
        and all(isinstance(text, str) for text in value.values())
    )


def read_key_map(path: Path) -> dict[str, Any]:
    """The key map in a JSON or YAML file.

    Raises:
        UsageError: When it cannot be read or holds no mapping.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"the key map {path} cannot be read: {line}") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UsageError(f"the key map {path} holds no mapping", expected="module: {A: …, B: …}")
    return value


def sort_tensors(state: Mapping[str, Tensor], keys: KeyMap, path: Path) -> FactorTensors:
    """Sort the tensors of a file into pairs of factors, alphas and others.

    Raises:
        CheckpointError: For a factor twice, half a pair, no factors at all, a tensor that cannot
            be a factor, or a key that the map names and the file lacks.
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
        raise CheckpointError(
            f"{path} holds no lora_A and lora_B tensors",
            fix="check the file, or give --a-key and --b-key if they have other names",
        )
    for module, half in halves.items():
        if not {"A", "B"} <= set(half):
            raise CheckpointError(
                f"{path} has only {' and '.join(map(_side_name, half))} for {module}"
            )
    alphas = {m: _number(h["alpha"], m, path) for m, h in halves.items() if "alpha" in h}
    return FactorTensors({m: (h["A"], h["B"]) for m, h in halves.items()}, alphas, others)


def _side_name(side: str) -> str:
    return side if side == "alpha" else f"lora_{side}"


def _number(tensor: Tensor, module: str, path: Path) -> float:
    value = float(tensor) if tensor.numel() == 1 else None
    if value is None or not finite_number(value):
        raise CheckpointError(
            f"{path} gives {module} an alpha of shape {tuple(tensor.shape)}", expected="one number"
        )
    return value


def _pattern(side: str, text: str) -> re.Pattern[str]:
    head, sign, tail = text.partition("{module}")
    if not sign or "{module}" in tail:
        raise UsageError(
            f"a key pattern {text!r} for {_side_name(side)}", expected="{module} in it, once"
        )
    return re.compile(f"{re.escape(head)}(?P<module>.+){re.escape(tail)}")


def _training(
    overrides: LoadOverrides, recorded: Sidecar, tensors: FactorTensors, path: Path
) -> tuple[str, Rule, tuple[int, ...] | None]:
    """Method, scaling rule and nested ranks, given or recorded.

    Raises:
        CheckpointError: When one of them, or α, is neither.
    """
    rule = overrides.scaling or recorded.rule
    alpha = recorded.alpha if overrides.alpha is None else overrides.alpha
    method = overrides.method or (recorded.nesting.method if recorded.nesting else None)
    ranks = overrides.nested_ranks or (recorded.nesting.ranks if recorded.nesting else None)
    known = {
        "--method": method is not None,
        "--scaling": rule is not None,
        "--alpha": alpha is not None or set(tensors.alphas) == set(tensors.pairs),
        "--nested-ranks": ranks is not None or method == "lora",
    }
    missing = [flag for flag, is_known in known.items() if not is_known]
    if missing or rule is None or method is None:
        raise CheckpointError(
            f"{path} does not say how it was trained and scaled", fix=f"give {' '.join(missing)}"
        )
    return method, rule, ranks


def _shapes_suffice(tensors: FactorTensors, groups: tuple[bool, ...] | None, path: Path) -> bool:
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


def _reading(overrides: LoadOverrides, recorded: Sidecar) -> dict[str, object]:
    """The fields that this file's side-car needs besides scale and training."""
    groups = overrides.enable_lora or recorded.enable_lora
    keys = overrides.keys if overrides.keys is not None else recorded.keys
    return {
        **({} if groups is None else {"enable_lora": list(map(int, groups))}),
        **({} if keys is None else {"keys": dict(keys)}),
    }


def _notes(
    overrides: LoadOverrides, recorded: Sidecar, modules: Mapping[str, Factors]
) -> Iterable[str]:
    if recorded.rule is not None and overrides.scaling not in (None, recorded.rule):
        yield f"the scaling given, {overrides.scaling}, replaces the recorded {recorded.rule}"
    if recorded.alpha is not None and overrides.alpha not in (None, recorded.alpha):
        yield f"the alpha given, {overrides.alpha:g}, replaces the recorded {recorded.alpha:g}"
    merged = [f for f in modules.values() if f.kind == "merged"]
    if merged:
        yield (
            f"{len(merged)} merged layers: rank r is r components in each group that is on, so an "
            f"export has {merged[0].blocks} times the rank there"
        )


def _check_others(others: Mapping[str, Tensor], base: BaseSource | None, path: Path) -> None:
    """Refuse a tensor beside the factors unless it equals the base's own.

    Raises:
        CheckpointError: The base is not known, lacks the tensor or has other numbers there.
    """
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
