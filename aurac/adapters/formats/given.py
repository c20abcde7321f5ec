"""What a user says about a checkpoint, and how it meets what the checkpoint says itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aurac.adapters.adapter import Adapter, Factors, Nesting
from aurac.adapters.nesting import METHODS, RULES, Method, Rule, Update
from aurac.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FLAGS = {
    "method": "--method",
    "scaling": "--scaling",
    "alpha": "--alpha",
    "nested_ranks": "--nested-ranks",
    "base": "--base",
}


@dataclass(frozen=True)
class Given:
    """The flags that describe a checkpoint; ``None`` where the user says nothing."""

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

    @property
    def any(self) -> bool:
        """Whether the user said anything."""
        return any(v is not None for v in vars(self).values())


def given(
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
) -> Given:
    """The same as :class:`Given`, from any sequences."""
    return Given(
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


def override(adapter: Adapter, said: Given) -> Adapter:
    """``adapter`` as the user describes it, with a note wherever that contradicts the record."""
    notes = list(adapter.notes)
    modules = _scaled(adapter, said, notes)
    nesting = _nested(adapter, said, notes)
    base = adapter.base
    if said.base is not None:
        if base is not None and base != said.base:
            notes.append(f"the base given, {said.base}, replaces the recorded {base}")
        base = said.base
    return replace(adapter, modules=modules, nesting=nesting, base=base, notes=tuple(notes))


def _scaled(adapter: Adapter, said: Given, notes: list[str]) -> Mapping[str, Factors]:
    if said.scaling is None and said.alpha is None:
        return adapter.modules
    modules: dict[str, Factors] = {}
    changed = False
    for name, f in adapter.modules.items():
        rule = f.rule if said.scaling is None else said.scaling
        alpha = f.alpha if said.alpha is None else float(said.alpha)
        if said.alpha is None and rule != f.rule:
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


def _nested(adapter: Adapter, said: Given, notes: list[str]) -> Nesting | None:
    old = adapter.nesting
    if (said.method, said.nested_ranks, said.weights, said.update) == (None,) * 4:
        return old
    method = said.method or (old.method if old else None)
    if method is None:
        raise UsageError("--nested-ranks without a method", fix="give --method too")
    ranks = said.nested_ranks or (old.ranks if old else None)
    if ranks is None and method == "lora":
        ranks = (adapter.rank,)
    if ranks is None:
        raise UsageError(f"--method {method} without nested ranks", fix="give --nested-ranks too")
    kept = old.weights if old is not None and old.ranks == ranks else ()
    update = said.update or (old.update if old is not None and old.method == method else None)
    new = Nesting(method, ranks, said.weights or kept, update)
    if old is not None and new != old:
        notes.append(f"the training given, {_words(new)}, replaces the recorded {_words(old)}")
    return new


def _words(nesting: Nesting) -> str:
    return f"{nesting.method} with nested ranks {','.join(map(str, nesting.ranks))}"
