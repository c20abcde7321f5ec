"""``aurac.json`` beside ``adapter_config.json``: what PEFT's own config cannot say.

An unknown key in the config itself would make PEFT warn.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from aurac.adapters.adapter import Adapter, Derived, Factors
from aurac.adapters.formats.storage import checked, read_json
from aurac.adapters.methods import Nesting
from aurac.adapters.nesting import Rule, Update, peft_alpha
from aurac.errors import CheckpointError
from aurac.models.device import versions
from aurac.models.packaged import published

SIDECAR = "aurac.json"
VERSION = 1
_FACTS = ("base", "base_sha256", "recipe", "seed", "derived")  # as the adapter has them


class Sidecar(msgspec.Struct, frozen=True):
    """The recorded facts; a field is ``None`` where nothing is recorded."""

    method: str | None = None
    nested_ranks: list[int] | None = None
    weights: list[float] = []
    update: Update | None = None
    rule: Rule | None = None
    alpha: float | None = None
    base: str | None = None
    base_sha256: str | None = None
    recipe: dict[str, Any] | None = None
    seed: int | None = None
    derived: Derived | None = None
    aurac_adapter: int = VERSION


def sidecar_json(adapter: Adapter) -> dict[str, object]:
    """The side-car of an adapter as a JSON object."""
    nesting, installed = adapter.nesting, versions()
    return msgspec.to_builtins(
        {
            "aurac_adapter": VERSION,
            **{name: getattr(adapter, name) for name in ("method", "rule", "alpha", *_FACTS)},
            "nested_ranks": nesting and nesting.ranks,
            "weights": nesting and nesting.weights,
            "update": nesting and nesting.update,
            "versions": {name: installed.get(name) for name in ("aurac", "peft", "torch")},
        }
    )


def with_sidecar(adapter: Adapter, folder: Path) -> Adapter:
    """``adapter`` with what the side-car in its folder records, if there is one.

    The config's base counts where it was changed since: the side-car names the same one, perhaps
    in other words. A scale that contradicts the config's is refused (CheckpointError).
    """
    path = folder / SIDECAR
    if not path.exists():
        return adapter
    record, nesting = checked(read_json(path), Sidecar, path), None
    if record.method and record.nested_ranks:
        how = tuple(record.nested_ranks), tuple(record.weights), record.update
        nesting = Nesting(record.method, *how)
    if record.aurac_adapter != VERSION:
        raise CheckpointError(f"{path} was written by another version of aurac")
    modules = dict(adapter.modules)
    if rule := record.rule:
        for name, f in adapter.modules.items():
            own = f.alpha / f.rank if rule == "none" else f.alpha
            alpha = own if record.alpha is None else record.alpha
            modules[name] = with_rule(name, f, rule, alpha, path)
    same = adapter.base in (None, record.base, published(record.base))
    facts = {name: getattr(record, name) for name in _FACTS}
    facts["base"] = record.base if record.base and same else adapter.base
    return replace(adapter, modules=modules, nesting=nesting, **facts)


def with_rule(module: str, f: Factors, rule: Rule, alpha: float, where: object) -> Factors:
    """The factors under the rule that training used, which has to give PEFT's own scale."""
    lora_alpha = peft_alpha(rule, alpha, f.rank)
    same_rule = (f.rule == "sqrt") == (rule == "sqrt")
    if not same_rule or not math.isclose(f.alpha, lora_alpha, rel_tol=1e-9):
        raise CheckpointError(
            f"{where}: PEFT's config scales {module} by lora_alpha {f.alpha:g} ({f.rule}), which "
            f"is not rule {rule} with alpha {alpha:g} at rank {f.rank}"
        )
    return replace(f, rule=rule, alpha=alpha)
