"""What an adapter file cannot say itself: recorded beside it, or stated by the user.

The record is ``aurac.json`` beside ``adapter_config.json`` (an unknown key there would make PEFT
warn), or ``<file>.aurac.json`` beside a single checkpoint file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from aurac.adapters.adapter import Adapter, Factors, Nesting
from aurac.adapters.formats.untrusted import check_fields, finite_number, read_json
from aurac.adapters.methods import method_named, methods
from aurac.adapters.nesting import RULES, UPDATES, Rule, Update
from aurac.errors import AuracError, CheckpointError, RunFolderError, UsageError
from aurac.files import write_json
from aurac.models.device import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

SIDECAR = "aurac.json"
VERSION = 1
_AS_RECORDED = (
    *("rule", "alpha", "base", "recorded_base", "base_sha256", "recipe", "seed", "derived", "keys"),
)


@dataclass(frozen=True)
class Sidecar:
    """The recorded facts; a field is ``None`` where nothing is recorded."""

    nesting: Nesting | None = None
    rule: Rule | None = None
    alpha: float | None = None
    base: str | None = None
    recorded_base: str | None = None  # the checkpoint's own, which ``base`` replaces on purpose
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
    trained, installed = adapter.training, versions()
    groups = {name: list(f.layout) for name, f in adapter.modules.items() if f.kind == "merged"}
    return {
        "aurac_adapter": VERSION,
        **{key: trained[key] for key in ("method", "nested_ranks", "weights")},
        "rule": adapter.rule,
        "alpha": adapter.alpha,
        "update": trained["update"],
        "recipe": None if adapter.recipe is None else dict(adapter.recipe),
        "seed": adapter.seed,
        "base": adapter.base,
        "base_sha256": adapter.base_sha256,
        "derived": None if adapter.derived is None else dict(adapter.derived),
        "versions": {name: installed.get(name) for name in ("aurac", "peft", "torch")},
        **({"groups": groups} if groups else {}),
    }


def read_sidecar(path: Path) -> Sidecar | None:
    """The side-car at ``path``; ``None`` when there is none."""
    if not path.exists():
        return None
    record = read_json(path)
    if record.get("aurac_adapter") != VERSION:
        raise CheckpointError(
            f"{path} has version {record.get('aurac_adapter')!r}",
            expected=f"version {VERSION}",
            fix="it may come from a newer aurac",
        )
    check_fields(record, _FIELDS, path)
    mask = record.get("enable_lora")
    return Sidecar(
        nesting=_nesting(record, path),
        enable_lora=None if mask is None else tuple(map(bool, mask)),
        groups={name: tuple(mask) for name, mask in (record.get("groups") or {}).items()},
        **{key: record.get(key) for key in _AS_RECORDED},
    )


def save_sidecar(adapter: Adapter, *, force: bool = False) -> Path:
    """Write the side-car of an adapter beside the checkpoint that it was read from.

    Raises:
        UsageError: The adapter came from nowhere, or its scale contradicts PEFT's config.
        RunFolderError: Another side-car is there (``force`` replaces it), or it cannot be written.
    """
    if adapter.source is None:
        raise UsageError(f"adapter {adapter.name!r} was not read from a path", fix="save it whole")
    path = sidecar_path(adapter.source)
    if adapter.format.startswith(("peft", "mlx", "gguf")) and any(
        "the scaling given" in note for note in adapter.notes
    ):
        raise UsageError(
            f"a side-car of {adapter.name!r} with another scale than it records itself",
            fix="write a new adapter with aurac truncate --rescale rule instead",
        )
    replaced = {} if adapter.recorded_base is None else {"recorded_base": adapter.recorded_base}
    record = {**to_json(adapter), **replaced, **adapter.sidecar_fields}
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


def _is_mask(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 1000 and {*map(repr, value)} <= {"0", "1"}


_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "method": ("the name of an installed method", lambda v: isinstance(v, str) and v in methods()),
    "nested_ranks": ("a list of ranks", lambda v: isinstance(v, list)),
    "weights": ("a list of numbers", lambda v: isinstance(v, list) and all(map(finite_number, v))),
    "rule": (f"one of {', '.join(RULES)}", lambda v: v in RULES),
    "alpha": ("a finite number", finite_number),
    "update": ("prefix or frozen", lambda v: v in UPDATES),
    "seed": ("a whole number", lambda v: isinstance(v, int)),
    **dict.fromkeys(
        ("base", "recorded_base", "base_sha256"), ("a string", lambda v: isinstance(v, str))
    ),
    **dict.fromkeys(("recipe", "derived", "keys"), ("an object", lambda v: isinstance(v, dict))),
    "enable_lora": ("a list of 0 and 1", _is_mask),
    "groups": (
        "a list of 0 and 1 for each merged layer",
        lambda v: isinstance(v, dict) and all(map(_is_mask, v.values())),
    ),
}


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


@dataclass(frozen=True)
class LoadOverrides:
    """What the user states about an adapter file; ``None`` leaves what is recorded.

    Attributes:
        method: How it was trained.
        scaling: Its scaling rule.
        alpha: The α of that rule.
        nested_ranks: S, the nested ranks.
        weights: One weight per nested rank.
        mask_type: The same for MatryoshkaLoRA's research code: ``diag`` adds the nested ranks up
            (weights of 1), ``binary`` takes their mean (1 / |S|).
        update: DyLoRA's update.
        base: The name of its base model.
        enable_lora: For loralib's ``MergedLinear``, which of a layer's groups are on.
        keys: For a file with names of its own: ``{"A": pattern, "B": pattern[, "alpha": pattern]}``
            with ``{module}`` in each, or for each module its ``{"A": key, "B": key}``.
    """

    method: str | None = None
    scaling: Rule | None = None
    alpha: float | None = None
    nested_ranks: Sequence[int] | None = None
    weights: Sequence[float] | None = None
    mask_type: Literal["diag", "binary"] | None = None
    update: Update | None = None
    base: str | None = None
    enable_lora: Sequence[bool] | None = None
    keys: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.method is not None:
            method_named(self.method)
        if self.scaling is not None and self.scaling not in RULES:
            raise UsageError(f"--scaling {self.scaling}", expected=f"one of {', '.join(RULES)}")
        if self.mask_type not in (None, "diag", "binary"):
            raise UsageError(f"--mask-type {self.mask_type!r}", expected="diag or binary")
        if self.enable_lora is not None and not any(self.enable_lora):
            raise UsageError("--enable-lora without a group that is on", expected="at least one 1")


def apply_overrides(adapter: Adapter, overrides: LoadOverrides) -> Adapter:
    """``adapter`` with what the user states; a note says where that replaces the record."""
    notes = list(adapter.notes)
    modules = _scaled(adapter, overrides, notes)
    nesting = _nested(adapter, overrides, notes)
    base, recorded = adapter.base, adapter.recorded_base
    if overrides.base is not None and base != overrides.base:
        if base is not None:
            notes.append(f"the base given, {overrides.base}, replaces the recorded {base}")
        base, recorded = overrides.base, base
    return replace(
        adapter,
        modules=modules,
        nesting=nesting,
        base=base,
        recorded_base=recorded,
        notes=tuple(notes),
    )


def _scaled(adapter: Adapter, overrides: LoadOverrides, notes: list[str]) -> Mapping[str, Factors]:
    if overrides.scaling is None and overrides.alpha is None:
        return adapter.modules
    modules: dict[str, Factors] = {}
    changed = False
    for name, f in adapter.modules.items():
        rule = f.rule if overrides.scaling is None else overrides.scaling
        alpha = f.alpha if overrides.alpha is None else float(overrides.alpha)
        if overrides.alpha is None and rule != f.rule:
            raise UsageError(
                f"--scaling {rule} against the recorded {f.rule}",
                fix="give --alpha with it, because the recorded alpha belongs to the other rule",
            )
        changed = changed or (rule, alpha) != (f.rule, f.alpha)
        modules[name] = replace(f, rule=rule, alpha=alpha)
    if changed:
        now = next(iter(modules.values()))
        notes.append(
            f"the scaling given, {now.rule} with alpha {now.alpha:g}, replaces the recorded "
            f"{adapter.rule or 'mixed'} with alpha {adapter.alpha or 'per module'}"
        )
    return modules


def _nested(adapter: Adapter, overrides: LoadOverrides, notes: list[str]) -> Nesting | None:
    old = adapter.nesting
    given = overrides.method, overrides.nested_ranks, overrides.weights, overrides.update
    if all(value is None for value in (*given, overrides.mask_type)):
        return old
    method = overrides.method or (old.method if old else None)
    if method is None:
        raise UsageError("--nested-ranks without a method", fix="give --method too")
    ranks = tuple(overrides.nested_ranks or (old.ranks if old else ())) or None
    if ranks is None and not method_named(method).nested:
        ranks = (adapter.rank,)
    if ranks is None:
        raise UsageError(f"--method {method} without nested ranks", fix="give --nested-ranks too")
    if adapter.format == "research":
        ranks = _up_to_rank(ranks, adapter.rank, notes)
    elif adapter.derived is None and max(ranks) != adapter.rank:
        raise adapter.wrong_ranks(ranks)
    kept = old.weights if old is not None and old.ranks == ranks else ()
    weights = tuple(overrides.weights or kept)
    if overrides.mask_type is not None:
        if method != "matryoshka":
            raise UsageError(f"--mask-type of a {method} adapter", expected="--method matryoshka")
        weights = (1 / len(ranks) if overrides.mask_type == "binary" else 1.0,) * len(ranks)
    update = overrides.update or (old.update if old is not None and old.method == method else None)
    new = Nesting(method, ranks, weights, update)
    if old is not None and new != old:
        notes.append(f"the training given, {_summary(new)}, replaces the recorded {_summary(old)}")
    return new


def _up_to_rank(ranks: tuple[int, ...], R: int, notes: list[str]) -> tuple[int, ...]:
    """The nested ranks that the research code trains: those up to R, whatever it was given."""
    kept = tuple(r for r in ranks if r <= R)
    if kept != ranks:
        above = ", ".join(str(r) for r in ranks if r > R)
        notes.append(f"nested ranks above its rank {R} ({above}) are left out, as in training")
    if kept and max(kept) < R:
        notes.append(f"components above its last nested rank {max(kept)} were not trained")
    return kept


def _summary(nesting: Nesting) -> str:
    return f"{nesting.method} with nested ranks {','.join(map(str, nesting.ranks))}"
