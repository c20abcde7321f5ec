"""What an adapter file cannot say itself: recorded beside it, or stated by the user.

The record is ``aurac.json`` beside ``adapter_config.json`` (an unknown key there would make PEFT
warn), or ``<file>.aurac.json`` beside a single checkpoint file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from aurac.adapters.adapter import (
    Adapter,
    Factors,
)
from aurac.adapters.formats.peft_config import CONFIG, is_there
from aurac.adapters.formats.peft_shapes import merged_from_peft
from aurac.adapters.formats.storage import checked, read_json, read_tensors
from aurac.adapters.methods import Nesting, method_named
from aurac.adapters.nesting import RULES, Rule, Update, peft_alpha, rule_alpha
from aurac.errors import AuracError, CheckpointError, RunFolderError, UsageError
from aurac.files import write_json
from aurac.models.base import KnownBase
from aurac.models.device import versions
from aurac.records.cut import Derived
from aurac.records.hub import published

if TYPE_CHECKING:
    from torch import Tensor, nn


SIDECAR = "aurac.json"
VERSION = 1
_Mask = Annotated[list[Literal[0, 1]], Meta(min_length=1, max_length=1000)]
_Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]
KeyNames = Mapping[str, str | Mapping[str, str]]  # see `keys` of `load_adapter`


class Sidecar(msgspec.Struct, frozen=True):
    """The recorded facts; a field is ``None`` where nothing is recorded."""

    method: str | None = None
    nested_ranks: list[Any] | None = None
    weights: list[_Finite] = []
    update: Update | None = None
    rule: Rule | None = None
    alpha: _Finite | None = None
    base: str | None = None
    recorded_base: str | None = None  # the checkpoint's own, which ``base`` replaces on purpose
    base_sha256: str | None = None
    recipe: dict[str, Any] | None = None
    seed: int | None = None
    derived: Derived | None = None
    enable_lora: _Mask | None = None
    keys: KeyNames | None = None
    groups: dict[str, _Mask] = {}

    @property
    def nesting(self) -> Nesting | None:
        """How the ranks were trained, where method and ranks are recorded."""
        if self.method is None or self.nested_ranks is None:
            return None
        return Nesting(self.method, tuple(self.nested_ranks), tuple(self.weights), self.update)


def sidecar_path(checkpoint: Path) -> Path:
    """The side-car's path of a folder or a file."""
    if checkpoint.is_dir():
        return checkpoint / SIDECAR
    return checkpoint.with_name(f"{checkpoint.name}.{SIDECAR}")


def to_json(adapter: Adapter) -> dict[str, object]:
    """The side-car of an adapter as a JSON object."""
    trained, installed = adapter.training, versions()
    groups = {name: list(f.layout) for name, f in adapter.modules.items() if f.kind == "merged"}
    return {
        "aurac_adapter": VERSION,
        "method": trained.method,
        "nested_ranks": trained.nested_ranks,
        "weights": trained.weights,
        "rule": adapter.rule,
        "alpha": adapter.alpha,
        "update": trained.update,
        "recipe": None if adapter.recipe is None else dict(adapter.recipe),
        "seed": adapter.seed,
        "base": adapter.base,
        "base_sha256": adapter.base_sha256,
        "derived": msgspec.to_builtins(adapter.derived),
        "versions": {name: installed.get(name) for name in ("aurac", "peft", "torch")},
        **({"groups": groups} if groups else {}),
    }


def read_sidecar(path: Path) -> Sidecar:
    """The side-car at ``path``; an empty one when there is none."""
    if not path.exists():
        return Sidecar()
    record = read_json(path)
    if record.get("aurac_adapter") != VERSION:
        raise CheckpointError(
            f"{path} has version {record.get('aurac_adapter')!r}",
            expected=f"version {VERSION}",
            fix="it may come from a newer aurac",
        )
    sidecar = checked(record, Sidecar, path)
    try:
        _ = sidecar.nesting
    except AuracError as error:
        raise CheckpointError(f"{path} gives {error.text}") from error
    return sidecar


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
            fix="write a new adapter with `aurac truncate --rescale rule` instead",
        )
    replaced = {} if adapter.recorded_base is None else {"recorded_base": adapter.recorded_base}
    record = {**to_json(adapter), **replaced, **adapter.sidecar_fields}
    old = read_json(path) if path.exists() and not force else {}
    if any(old.get(k) not in (None, value) for k, value in record.items() if k != "versions"):
        raise RunFolderError(f"{path} says something else", fix="give --force to replace it")
    try:
        write_json(path, record)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot write {path}: {error}") from error
    return path


@dataclass(frozen=True)
class LoadOverrides:
    """What the user states about an adapter file, see ``load_adapter``; ``None``: as recorded."""

    method: str | None = None
    scaling: Rule | None = None
    alpha: float | None = None
    nested_ranks: Sequence[int] | None = None
    weights: Sequence[float] | None = None
    mask_type: Literal["diag", "binary"] | None = None
    update: Update | None = None
    base: str | None = None
    enable_lora: Sequence[bool] | None = None
    keys: KeyNames | None = None

    def __post_init__(self) -> None:
        if self.method is not None:
            method_named(self.method)
        if self.scaling is not None and self.scaling not in RULES:
            raise UsageError(f"--scaling {self.scaling!r}", expected=f"one of {', '.join(RULES)}")
        if self.mask_type not in (None, "diag", "binary"):
            raise UsageError(f"--mask-type {self.mask_type!r}", expected="diag or binary")
        if self.enable_lora is not None and not any(self.enable_lora):
            raise UsageError("--enable-lora without a group that is on", expected="at least one 1")


@dataclass(frozen=True)
class Source:
    """A checkpoint that is being read, and what is stated and recorded about it.

    Attributes:
        path: Its folder or file.
        stated: What the user states.
        bases: From the name of a base to the base.
    """

    path: Path
    stated: LoadOverrides
    bases: Callable[[str], KnownBase] | None = None

    @cached_property
    def sidecar(self) -> Sidecar:
        """What is recorded beside it."""
        return read_sidecar(sidecar_path(self.path))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a single file."""
        return read_tensors(self.path)

    def base(self, own: str | None = None) -> KnownBase | None:
        """The base: the one stated, else recorded, else the file's ``own``; ``None`` without."""
        name = self.stated.base or self.sidecar.base or own or ""
        return None if self.bases is None else self.bases(name)

    def skeleton(self, own: str | None = None, *, needed: bool) -> nn.Module | None:
        """The base's modules on the meta device, or ``None``; fetched only if ``needed``."""
        base = self.base(own)
        return None if base is None else base.skeleton(needed=needed)


class Format:
    """One kind of checkpoint; a new one is a subclass, listed in `aurac.adapters.formats.FORMATS`.

    Attributes:
        files: What is fetched of a hub repository, as patterns; a name stands for its folder, too.
        suffixes: Of its single files, if it has any.
        complete: Whether its files say how their tensors are named and scaled.
    """

    files: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    complete: bool = True

    def recognises(self, source: Source) -> bool:
        """Whether a folder or file is of this kind: here, a file with one of the suffixes."""
        return source.path.suffix.lower() in self.suffixes and not source.path.is_dir()

    def read(self, source: Source) -> Adapter:
        """The adapter without its side-car; it may be an outline (``Adapter.values``)."""
        raise NotImplementedError


def with_record(adapter: Adapter, source: Source, *, rescale: bool) -> Adapter:
    """``adapter`` with what its side-car records, which may not contradict it.

    The side-car may name another base where its hash decides, where it says that it replaces the
    checkpoint's own, or where the user gives one. With ``rescale`` its scale is checked and taken.
    """
    sidecar, where = source.sidecar, sidecar_path(source.path)
    modules = dict(adapter.modules)
    for name, f in adapter.modules.items() if rescale else ():
        modules[name] = _rescaled(name, f, sidecar, where)
    return replace(
        _with_base(adapter, sidecar, where, source.stated.base),
        modules=modules,
        nesting=sidecar.nesting or adapter.nesting,
        base_sha256=sidecar.base_sha256,
        recipe=sidecar.recipe,
        seed=sidecar.seed,
        derived=sidecar.derived,
    )


def _with_base(adapter: Adapter, sidecar: Sidecar, where: Path, given: str | None) -> Adapter:
    """``adapter`` on the base that its file and the side-car name."""
    file, record = adapter.base, sidecar.base
    known = (record, sidecar.recorded_base, published(record))
    if not file or not record or file in known or given or _same_folder(file, record):
        return replace(adapter, base=record or file)
    names = f"{CONFIG if where.name == SIDECAR else 'the file'} names base {file}, {where} {record}"
    if sidecar.base_sha256 is None:
        raise CheckpointError(names, expected="one base", fix="give --base, which then decides")
    here = record if is_there(record) and not is_there(file) else file
    note = f"{names}; {here} is taken, and its weights have to have the hash that is recorded"
    # The hash is that of the side-car's.
    trained_on = record if here == file else None
    return replace(adapter, base=here, recorded_base=trained_on, notes=(*adapter.notes, note))


def _same_folder(a: str, b: str) -> bool:
    """Whether two names lead to the same folder on this machine."""
    return is_there(a) and is_there(b) and Path(a).samefile(b)


def _rescaled(name: str, plain: Factors, sidecar: Sidecar, where: Path) -> Factors:
    """Factors with groups, rule and α of the side-car, which must compute the same scale."""
    f = merged_from_peft(name, plain, sidecar.groups.get(name))
    if f is plain and sidecar.rule is None and sidecar.alpha is None:
        return f
    lora_alpha = plain.peft_scale[1]
    rule = f.rule if sidecar.rule is None else sidecar.rule
    if rule != f.rule and (rule, f.rule) != ("none", "rank"):
        raise CheckpointError(
            f"{where} says scaling {rule}, but {CONFIG} says {f.rule}",
            fix="restore the one that was changed",
        )
    alpha = rule_alpha(rule, lora_alpha, f.rank, f.rank_multiple)
    if sidecar.alpha is not None:
        recorded = peft_alpha(rule, sidecar.alpha, f.rank, f.rank_multiple)
        if not math.isclose(recorded, lora_alpha, rel_tol=1e-9):
            raise CheckpointError(
                f"{where} has alpha {sidecar.alpha:g}, but {CONFIG} {_said(where, lora_alpha)}",
                fix="restore the one that was changed",
            )
        alpha = float(sidecar.alpha)
    return replace(f, rule=rule, alpha=alpha)


def _said(beside: Path, lora_alpha: float) -> str:
    """The ``lora_alpha`` of a config, or that it has none."""
    config = beside.with_name(CONFIG)
    record = read_json(config) if config.is_file() else {}
    if "peft_type" not in record or record.get("lora_alpha") or record.get("alpha_pattern"):
        return f"lora_alpha {lora_alpha:g}"
    return f"has no lora_alpha, for which PEFT takes {lora_alpha:g}"


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
                f"--scaling {rule!r} against the recorded {f.rule}",
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
