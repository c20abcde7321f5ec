"""Load an adapter from a folder, a file or a hub id, with what the user states about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.adapters.adapter import Adapter, Factors, Nesting
from aurac.adapters.formats.hub import locate
from aurac.adapters.formats.peft_config import CONFIG, WEIGHTS
from aurac.adapters.formats.peft_read import read_peft
from aurac.adapters.formats.state_dict import BaseSource, ModelInMemory, read_state_dict
from aurac.adapters.nesting import METHODS, RULES, Method, Rule, Update
from aurac.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

STATE_DICTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def load_adapter(
    path: str | Path,
    *,
    method: Method | None = None,
    scaling: Rule | None = None,
    alpha: float | None = None,
    nested_ranks: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    update: Update | None = None,
    base: str | None = None,
    enable_lora: Sequence[bool] | None = None,
    keys: Mapping[str, Any] | None = None,
    base_model: nn.Module | None = None,
    bases: Callable[[str], BaseSource] | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    name: str | None = None,
    lazy: bool = False,
) -> Adapter:
    """Read an adapter from a folder, a file or a hub id.

    Args:
        path: PEFT folder, research or loralib state dict, or ``owner/name[@revision][:subfolder]``.
        method: How it was trained, where the file does not say.
        scaling: Its scaling rule, where the file does not say.
        alpha: The α of that rule.
        nested_ranks: S, the nested ranks.
        weights: One weight per nested rank.
        update: DyLoRA's update.
        base: The name of its base model.
        enable_lora: For loralib's ``MergedLinear``, which of a layer's groups are on.
        keys: For a file with names of its own: ``{"A": pattern, "B": pattern[, "alpha": pattern]}``
            with ``{module}`` in each, or for each module its ``{"A": key, "B": key}``.
        base_model: The base itself (on the meta device will do), to settle an orientation that
            shapes alone leave open.
        bases: The same as a function of the base's name, called only for a state-dict file.
        revision: Which one of a hub id.
        subfolder: Which one, when a folder or a hub id holds several adapters.
        name: What to call it; the last part of the path by default.
        lazy: Read the numbers of a PEFT safetensors file only when they are asked for, module by
            module (``Adapter.walk``, ``Adapter.loaded``).

    Raises:
        CheckpointError: When it is missing, damaged, refused, or does not say enough.
        UsageError: When what is given does not fit together.
    """
    overrides = LoadOverrides(
        method=method,
        scaling=scaling,
        alpha=alpha,
        nested_ranks=None if nested_ranks is None else tuple(nested_ranks),
        weights=None if weights is None else tuple(weights),
        update=update,
        base=base,
        enable_lora=None if enable_lora is None else tuple(map(bool, enable_lora)),
        keys=keys,
    )
    located = locate(path, revision=revision, subfolder=subfolder)
    try:
        source = _adapter_path(located.path, located.subfolder)
        if source.is_dir():
            _check_peft(overrides, source)
            adapter = apply_overrides(read_peft(source, lazy=lazy), overrides)
        else:
            model = None if base_model is None else ModelInMemory(base_model)
            find_base = bases if model is None else lambda _: model
            adapter = read_state_dict(source, overrides, find_base)
            adapter = apply_overrides(adapter, replace(overrides, scaling=None, alpha=None))
    except OSError as error:
        raise CheckpointError(f"cannot read {located.path}: {error.strerror or error}") from error
    return adapter if name is None else replace(adapter, name=name)


@dataclass(frozen=True)
class LoadOverrides:
    """What the user states about an adapter file; ``None`` leaves what is recorded."""

    method: Method | None = None
    scaling: Rule | None = None
    alpha: float | None = None
    nested_ranks: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None
    update: Update | None = None
    base: str | None = None
    enable_lora: tuple[bool, ...] | None = None
    keys: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in METHODS:
            raise UsageError(f"--method {self.method}", expected=f"one of {', '.join(METHODS)}")
        if self.scaling is not None and self.scaling not in RULES:
            raise UsageError(f"--scaling {self.scaling}", expected=f"one of {', '.join(RULES)}")
        if self.enable_lora is not None and not any(self.enable_lora):
            raise UsageError("--enable-lora without a group that is on", expected="at least one 1")


def apply_overrides(adapter: Adapter, overrides: LoadOverrides) -> Adapter:
    """``adapter`` with what the user states; a note says where that replaces the record.

    Raises:
        UsageError: For a rule without its alpha, or nested ranks and method without each other.
    """
    notes = list(adapter.notes)
    modules = _scaled(adapter, overrides, notes)
    nesting = _nested(adapter, overrides, notes)
    base = adapter.base
    if overrides.base is not None:
        if base is not None and base != overrides.base:
            notes.append(f"the base given, {overrides.base}, replaces the recorded {base}")
        base = overrides.base
    return replace(adapter, modules=modules, nesting=nesting, base=base, notes=tuple(notes))


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
    stated = (overrides.method, overrides.nested_ranks, overrides.weights, overrides.update)
    if all(value is None for value in stated):
        return old
    method = overrides.method or (old.method if old else None)
    if method is None:
        raise UsageError("--nested-ranks without a method", fix="give --method too")
    ranks = overrides.nested_ranks or (old.ranks if old else None)
    if ranks is None and method == "lora":
        ranks = (adapter.rank,)
    if ranks is None:
        raise UsageError(f"--method {method} without nested ranks", fix="give --nested-ranks too")
    kept = old.weights if old is not None and old.ranks == ranks else ()
    update = overrides.update or (old.update if old is not None and old.method == method else None)
    new = Nesting(method, ranks, overrides.weights or kept, update)
    if old is not None and new != old:
        notes.append(f"the training given, {_summary(new)}, replaces the recorded {_summary(old)}")
    return new


def _summary(nesting: Nesting) -> str:
    return f"{nesting.method} with nested ranks {','.join(map(str, nesting.ranks))}"


def _check_peft(overrides: LoadOverrides, folder: Path) -> None:
    if overrides.enable_lora is not None or overrides.keys is not None:
        raise UsageError(
            f"--enable-lora or a key map for {folder}, a PEFT folder, which names its own tensors",
            expected="them for a single file",
        )


def _adapter_path(path: Path, subfolder: str | None) -> Path:
    """The PEFT folder or the state-dict file at or directly below ``path``."""
    if subfolder is not None:
        return _adapter_path(_subfolder(path, subfolder), None)
    if path.is_dir():
        return _in_folder(path)
    if path.name in (CONFIG, *WEIGHTS) and (path.parent / CONFIG).is_file():
        return path.parent
    if path.suffix.lower() in STATE_DICTS:
        return path
    raise CheckpointError(
        f"{path} is no checkpoint", expected=f"a PEFT folder or a file in {', '.join(STATE_DICTS)}"
    )


def _subfolder(path: Path, subfolder: str) -> Path:
    folder = path / subfolder
    if Path(subfolder).is_absolute() or ".." in Path(subfolder).parts or not folder.is_dir():
        raise CheckpointError(f"{path} has no folder {subfolder}")
    return folder


def _in_folder(folder: Path) -> Path:
    if (folder / CONFIG).exists():
        return folder
    inner = sorted(p.parent for p in folder.glob(f"*/{CONFIG}"))
    if len(inner) == 1:
        return inner[0]
    if inner:
        raise CheckpointError(
            f"{folder} holds {len(inner)} adapters: {', '.join(p.name for p in inner)}",
            fix="name one of these folders",
        )
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".pt", ".pth", ".ckpt"))
    if len(files) == 1:
        return files[0]
    if files:
        raise CheckpointError(
            f"{folder} holds {len(files)} checkpoints: {', '.join(p.name for p in files[:8])}",
            fix="name one of these files",
        )
    raise CheckpointError(f"{folder} holds no adapter", expected=f"{CONFIG} or one .pt file in it")
