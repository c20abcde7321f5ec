"""What the user states about an adapter; a note says where that replaces what is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aurac.adapters.adapter import Adapter
from aurac.adapters.methods import Nesting, method_named
from aurac.adapters.nesting import Rule, Update
from aurac.errors import UsageError


def with_scaling(adapter: Adapter, rule: Rule | None, alpha: float | None) -> Adapter:
    """The adapter with this scaling rule and α in all of its modules."""
    own = adapter.modules
    if rule and alpha is None and any(f.rule != rule for f in own.values()):
        raise UsageError(f"--scaling {rule} needs --alpha: the recorded one is of another rule")
    if alpha is None:
        return adapter
    given = {n: replace(f, rule=rule or f.rule, alpha=float(alpha)) for n, f in own.items()}
    if all((f.rule, f.alpha) == (given[n].rule, given[n].alpha) for n, f in own.items()):
        return adapter
    return replace(_noted(adapter, "the scaling given replaces the recorded one"), modules=given)


def with_training(
    adapter: Adapter,
    method: str | None,
    nested_ranks: Sequence[int] | None,
    weights: Sequence[float] | None,
    update: Update | None,
) -> Adapter:
    """The adapter trained in this way; ``None`` is what is recorded, or the method's default."""
    if (method, nested_ranks, weights, update) == (None,) * 4:
        return adapter
    old = adapter.nesting
    method = str(method or adapter.method)
    if nested_ranks is not None:
        # The research code trains those up to R, whatever it is given.
        ranks = tuple(r for r in nested_ranks if r <= adapter.rank)
        if not ranks or ranks[-1] < adapter.rank:
            adapter = _noted(adapter, "components above the last nested rank were not trained")
    elif method_named(method).nested and old is None:
        raise UsageError(f"--method {method} needs --nested-ranks")
    else:
        ranks = old.ranks if old else (adapter.rank,)
    weights = weights or (old.weights if old and old.ranks == ranks else ())
    update = update or (old.update if old and old.method == method else None)
    nesting = Nesting(method, ranks, tuple(weights), update)
    if old not in (None, nesting):
        adapter = _noted(adapter, "the training given replaces the recorded one")
    return replace(adapter, nesting=nesting)


def with_base(adapter: Adapter, base: str | None) -> Adapter:
    """The adapter as one of this base."""
    if adapter.base and base not in (None, adapter.base):
        adapter = _noted(adapter, f"the base given, {base}, replaces the recorded {adapter.base}")
    return replace(adapter, base=base or adapter.base)


def _noted(adapter: Adapter, note: str) -> Adapter:
    return replace(adapter, notes=(*adapter.notes, note))
