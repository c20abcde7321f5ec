"""Names of tensors in a file without a config, and the pairs of factors that they name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml

from aurac.adapters.formats.storage import check_factor
from aurac.errors import CheckpointError, UsageError, first_line

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SIDES: Final = ("A", "B", "alpha")
_USUAL_NAMES: Final = {
    side: re.compile(rf"(?:base_model\.model\.)?(?P<module>.+)\.lora_{side}(?:\.weight)?")
    for side in "AB"
}


@dataclass(frozen=True)
class FactorTensors:
    """The tensors of a file, sorted, in the file's own shapes."""

    pairs: Mapping[str, tuple[Tensor, Tensor]]  # A and B by module path
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
        if key in self.names:
            return self.names[key]
        for side, pattern in self.patterns.items():
            match = pattern.fullmatch(key)
            if match is not None:
                return match["module"], side
        return None


def key_map(mapping: Mapping[str, Any] | None) -> KeyMap:
    """The map that a user gives; by default ``<module>.lora_A`` and ``.lora_B`` as PEFT has them.

    It is ``{"A": pattern, "B": pattern[, "alpha": pattern]}`` with ``{module}`` once in each
    pattern, or ``{module: {"A": key, "B": key[, "alpha": key]}, …}``.
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
    if value is None or not math.isfinite(value):
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
