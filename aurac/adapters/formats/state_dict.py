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

    from aurac.adapters.formats.load import Given
    from aurac.adapters.nesting import Method, Rule

FLAGS = {
    "method": "--method",
    "scaling": "--scaling",
    "alpha": "--alpha",
    "nested_ranks": "--nested-ranks",
    "base": "--base",
}
SIDES: Final = ("A", "B", "alpha")
_USUAL = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.weight)?")


@dataclass(frozen=True)
class Found:
    """The factors of a file, as they lie in it.

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

    def place(self, key: str) -> tuple[str, str] | None:
        """The module and side of ``key``; ``None`` when it is neither half of any."""
        if key in self.names:
            return self.names[key]
        for side, pattern in self.patterns.items():
            match = pattern.fullmatch(key)
            if match is not None:
                return match["module"], side
        return None


class _UsualNames(KeyMap):
    """``<module>.lora_A`` and ``<module>.lora_B``, with or without PEFT's prefix and suffix."""

    def place(self, key: str) -> tuple[str, str] | None:
        match = _USUAL.fullmatch(key)
        return None if match is None else (match["module"], match["side"])


class BaseSource(Protocol):
    """A base that is looked at while a checkpoint is read."""

    def skeleton(self, *, needed: bool) -> nn.Module | None:
        """The model's modules, on the meta device; ``None`` when that would mean to fetch it.

        Args:
            needed: Whether something depends on it, so that fetching is right.
        """

    def whole(self) -> nn.Module:
        """The model with its numbers."""


class HeldBase:
    """A model that is in memory already (on the meta device will do for its shapes)."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def skeleton(self, *, needed: bool) -> nn.Module:  # noqa: ARG002 - it is always at hand
        """The model itself."""
        return self._model

    def whole(self) -> nn.Module:
        """The model itself."""
        return self._model


class NoBase:
    """Nothing is known of the base."""

    def skeleton(self, *, needed: bool) -> None:
        """Nothing."""

    def whole(self) -> nn.Module:
        """An empty model, which vouches for nothing."""
        from torch import nn

        return nn.Module()


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
    return adapter


def key_map(given: Mapping[str, Any] | None) -> KeyMap:
    """The map that a user gives; the usual names by default.

    Args:
        given: ``{"A": pattern, "B": pattern[, "alpha": pattern]}`` with ``{module}`` once in each
            pattern, or ``{module: {"A": key, "B": key[, "alpha": key]}, …}``.

    Raises:
        UsageError: For anything else.
    """
    if given is None:
        return _UsualNames()
    if {"A", "B"} <= set(given) <= set(SIDES) and all(isinstance(v, str) for v in given.values()):
        return KeyMap(patterns={side: _pattern(side, given[side]) for side in given})
    names: dict[str, tuple[str, str]] = {}
    for module, keys in given.items():
        if not (
            isinstance(keys, Mapping)
            and {"A", "B"} <= set(keys) <= set(SIDES)
            and all(isinstance(key, str) for key in keys.values())
        ):
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


def read_key_map(path: Path) -> dict[str, Any]:
    """The key map in a JSON or YAML file.

    Raises:
        UsageError: When it cannot be read or holds no mapping.
    """
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"the key map {path} cannot be read: {line}") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UsageError(f"the key map {path} holds no mapping", expected="module: {A: …, B: …}")
    return value


def sort_tensors(state: Mapping[str, Tensor], keys: KeyMap, path: Path) -> Found:
    """Put each tensor where it belongs.

    Raises:
        CheckpointError: For a half twice, half a pair, a key that the map names and the file lacks,
            no factors at all, or a tensor that cannot be a factor.
    """
    missing = sorted(set(keys.names) - set(state))
    if missing:
        raise CheckpointError(f"{path} has no tensor {missing[0]!r}, which the key map names")
    halves: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in state.items():
        place = keys.place(key)
        if place is None:
            others[key] = tensor
            continue
        module, side = place
        half = halves.setdefault(module, {})
        if side in half:
            raise CheckpointError(f"{path} has {_called(side)} of {module} twice")
        half[side] = check_factor(tensor, key, path)
    if not halves:
        raise CheckpointError(
            f"{path} holds no lora_A and lora_B tensors",
            fix="check the file, or give --a-key and --b-key if they have other names",
        )
    for module, half in halves.items():
        if not {"A", "B"} <= set(half):
            raise CheckpointError(
                f"{path} has only {' and '.join(map(_called, half))} for {module}"
            )
    alphas = {m: _number(h["alpha"], m, path) for m, h in halves.items() if "alpha" in h}
    return Found({m: (h["A"], h["B"]) for m, h in halves.items()}, alphas, others)


def _called(side: str) -> str:
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
            f"a key pattern {text!r} for {_called(side)}", expected="{module} in it, once"
        )
    return re.compile(f"{re.escape(head)}(?P<module>.+){re.escape(tail)}")


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
