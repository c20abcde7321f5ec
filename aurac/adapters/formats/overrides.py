"""Load overrides: what the user states about an adapter file, which wins over what it records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aurac.adapters.adapter import Adapter, Factors, Nesting
from aurac.adapters.methods import method_named
from aurac.adapters.nesting import RULES, Rule, Update
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class LoadOverrides:
    """What the user states about an adapter file; ``None`` leaves what is recorded."""

    method: str | None = None
    scaling: Rule | None = None
    alpha: float | None = None
    nested_ranks: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None
    update: Update | None = None
    base: str | None = None
    enable_lora: tuple[bool, ...] | None = None
    keys: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.method is not None:
            method_named(self.method)
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
    stated = (overrides.method, overrides.nested_ranks, overrides.weights, overrides.update)
    if all(value is None for value in stated):
        return old
    method = overrides.method or (old.method if old else None)
    if method is None:
        raise UsageError("--nested-ranks without a method", fix="give --method too")
    ranks = overrides.nested_ranks or (old.ranks if old else None)
    if ranks is None and not method_named(method).nested:
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
