"""``aurac.json``: what PEFT's own config cannot say about an adapter.

It is stored beside ``adapter_config.json`` (an unknown key there would make PEFT warn), or beside a
single checkpoint file as ``<file>.aurac.json``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, get_args

from aurac.adapters.adapter import Adapter, Nesting
from aurac.adapters.formats.untrusted import finite_number, read_json
from aurac.adapters.methods import methods
from aurac.adapters.nesting import RULES, Rule, Update
from aurac.errors import AuracError, CheckpointError, RunFolderError, UsageError
from aurac.files import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIDECAR = "aurac.json"
VERSION = 1


@dataclass(frozen=True)
class Sidecar:
    """The recorded facts; a field is ``None`` where nothing is recorded."""

    nesting: Nesting | None = None
    rule: Rule | None = None
    alpha: float | None = None
    base: str | None = None
    base_sha256: str | None = None
    recipe: Mapping[str, Any] | None = None
    seed: int | None = None
    derived: Mapping[str, Any] | None = None
    enable_lora: tuple[bool, ...] | None = None
    keys: Mapping[str, Any] | None = None
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def sidecar_path(checkpoint: Path) -> Path:
    """The side-car's path of a folder or a file."""
    if checkpoint.is_dir():
        return checkpoint / SIDECAR
    return checkpoint.with_name(f"{checkpoint.name}.{SIDECAR}")


def to_json(adapter: Adapter) -> dict[str, Any]:
    """The side-car of an adapter as a JSON object."""
    nesting = adapter.nesting
    groups = {name: list(f.layout) for name, f in adapter.modules.items() if f.kind == "merged"}
    return {
        "aurac_adapter": VERSION,
        "method": adapter.method,
        "nested_ranks": None if nesting is None else list(nesting.ranks),
        "weights": None if nesting is None else list(nesting.weights),
        "rule": adapter.rule,
        "alpha": adapter.alpha,
        "update": None if nesting is None else nesting.update,
        "recipe": None if adapter.recipe is None else dict(adapter.recipe),
        "seed": adapter.seed,
        "base": adapter.base,
        "base_sha256": adapter.base_sha256,
        "derived": None if adapter.derived is None else dict(adapter.derived),
        "versions": {name: _version(name) for name in ("aurac", "peft", "torch")},
        **({"groups": groups} if groups else {}),
    }


def read_sidecar(path: Path) -> Sidecar | None:
    """The side-car at ``path``; ``None`` when there is none.

    Raises:
        CheckpointError: When the file is damaged, from a newer aurac, or holds a wrong type.
    """
    if not path.exists():
        return None
    record = read_json(path)
    if record.get("aurac_adapter") != VERSION:
        raise CheckpointError(
            f"{path} has version {record.get('aurac_adapter')!r}",
            expected=f"version {VERSION}",
            fix="it may come from a newer aurac",
        )
    _check_types(record, path)
    return Sidecar(
        nesting=_nesting(record, path),
        rule=record.get("rule"),
        alpha=record.get("alpha"),
        base=record.get("base"),
        base_sha256=record.get("base_sha256"),
        recipe=record.get("recipe"),
        seed=record.get("seed"),
        derived=record.get("derived"),
        enable_lora=_groups(record.get("enable_lora")),
        keys=record.get("keys"),
        groups={name: tuple(mask) for name, mask in (record.get("groups") or {}).items()},
    )


def save_sidecar(adapter: Adapter, *, force: bool = False) -> Path:
    """Write the side-car of an adapter beside the checkpoint that it was read from.

    Args:
        adapter: An adapter that was read from a path.
        force: Replace a side-car that says something else.

    Raises:
        UsageError: For an adapter that came from nowhere, or whose scale contradicts PEFT's config.
        RunFolderError: When another side-car is there, or the place cannot be written to.
    """
    if adapter.source is None:
        raise UsageError(f"adapter {adapter.name!r} was not read from a path", fix="save it whole")
    path = sidecar_path(adapter.source)
    if adapter.format.startswith("peft") and any(
        "the scaling given" in note for note in adapter.notes
    ):
        raise UsageError(
            f"a side-car of {adapter.name!r} with another scale than its adapter_config.json",
            fix="write a new adapter with aurac truncate --rescale rule instead",
        )
    record = {**to_json(adapter), **adapter.sidecar_fields}
    if path.exists() and not force:
        old = read_json(path)
        if any(
            old.get(key) not in (None, value) for key, value in record.items() if key != "versions"
        ):
            raise RunFolderError(f"{path} says something else", fix="give --force to replace it")
    try:
        write_json(path, record)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot write {path}: {error}") from error
    return path


def _check_types(record: Mapping[str, Any], path: Path) -> None:
    fields: dict[str, tuple[str, Any]] = {
        "method": (
            "the name of an installed method",
            lambda v: isinstance(v, str) and v in methods(),
        ),
        "nested_ranks": ("a list of ranks", lambda v: isinstance(v, list)),
        "weights": (
            "a list of numbers",
            lambda v: isinstance(v, list) and all(map(finite_number, v)),
        ),
        "rule": (f"one of {', '.join(RULES)}", lambda v: v in RULES),
        "alpha": ("a finite number", finite_number),
        "update": ("prefix or frozen", lambda v: v in get_args(Update)),
        "recipe": ("an object", lambda v: isinstance(v, dict)),
        "seed": ("a whole number", lambda v: isinstance(v, int)),
        "base": ("a string", lambda v: isinstance(v, str)),
        "base_sha256": ("a string", lambda v: isinstance(v, str)),
        "derived": ("an object", lambda v: isinstance(v, dict)),
        "enable_lora": ("a list of 0 and 1", _is_mask),
        "keys": ("an object", lambda v: isinstance(v, dict)),
        "groups": (
            "a list of 0 and 1 for each merged layer",
            lambda v: isinstance(v, dict) and all(map(_is_mask, v.values())),
        ),
    }
    for key, (expected, accepts) in fields.items():
        value = record.get(key)
        if value is not None and not accepts(value):
            raise CheckpointError(f"{path} gives {key} = {value!r}"[:300], expected=expected)


def _is_mask(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 1000 and {*map(repr, value)} <= {"0", "1"}


def _groups(mask: list[int] | None) -> tuple[bool, ...] | None:
    return None if mask is None else tuple(map(bool, mask))


def _nesting(record: Mapping[str, Any], path: Path) -> Nesting | None:
    method, ranks = record.get("method"), record.get("nested_ranks")
    if method is None or ranks is None:
        return None
    try:
        return Nesting(
            method, tuple(ranks), tuple(record.get("weights") or ()), record.get("update")
        )
    except AuracError as error:
        raise CheckpointError(f"{path} gives {error}") from error


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
