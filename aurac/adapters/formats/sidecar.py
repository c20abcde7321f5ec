"""``aurac.json`` beside ``adapter_config.json``: what PEFT's own config cannot say.

An unknown key in the config itself would make PEFT warn. PEFT keeps neither that file nor its path
when it loads a folder. So the same record is also in the config's `auto_mapping`, a dictionary for
such additions, in which a live model has it. Where both are in a folder, ``aurac.json`` counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from aurac.adapters.adapter import Adapter, Derived
from aurac.adapters.formats.peft_config import NOTE
from aurac.adapters.formats.storage import checked
from aurac.adapters.methods import Nesting
from aurac.adapters.nesting import Rule, Update, peft_alpha
from aurac.errors import CheckpointError, UsageError
from aurac.files import write_json
from aurac.models.device import versions
from aurac.models.packaged import published

SIDECAR = "aurac.json"
VERSION = 1
_SAME = ("folded", "base_sha256", "recipe", "seed", "derived")  # fields of the adapter, as it is


class Sidecar(msgspec.Struct, frozen=True):
    """The recorded facts; a field is ``None`` where nothing is recorded."""

    method: str | None = None
    nested_ranks: list[int] | None = None
    weights: list[float] = []
    update: Update | None = None
    folded: bool = False  #: whether the factors have the P of that training folded in
    rule: Rule | None = None
    alpha: float | None = None
    base: str | None = None
    base_sha256: str | None = None
    recipe: Mapping[str, Any] | None = None
    seed: int | None = None
    derived: Derived | None = None
    aurac_adapter: int = VERSION

    @property
    def nesting(self) -> Nesting | None:
        """How the ranks were trained, where method and ranks are recorded."""
        if self.method is None or self.nested_ranks is None:
            return None
        return Nesting(self.method, tuple(self.nested_ranks), tuple(self.weights), self.update)

    @classmethod
    def of(cls, adapter: Adapter) -> Sidecar:
        """What is recorded of an adapter."""
        n, trained = adapter.nesting, dict[str, Any]()
        if n is not None:
            trained = {"method": n.method, "nested_ranks": list(n.ranks), "update": n.update}
            trained["weights"] = list(n.weights)
        own = {name: getattr(adapter, name) for name in ("rule", "alpha", "base", *_SAME)}
        return cls(**trained, **own)

    @property
    def note(self) -> dict[str, Any]:
        """The entry of a config's `auto_mapping`."""
        return {NOTE: msgspec.to_builtins(self)}

    def write(self, folder: Path) -> None:
        """Write the file."""
        write_json(folder / SIDECAR, {**msgspec.to_builtins(self), "versions": versions()})


def with_record(adapter: Adapter, stored: Mapping[str, object], where: object) -> Adapter:
    """``adapter`` with what a side-car or note records, if there is anything in it."""
    if not stored:
        return adapter
    try:
        record = checked(stored, Sidecar, where)
        if record.aurac_adapter != VERSION:
            raise CheckpointError(f"{where} was written by another version of aurac")
        return recorded(adapter, record, where)
    except UsageError as error:
        raise CheckpointError(f"{where}: {error}") from error


def recorded(adapter: Adapter, record: Sidecar, where: object) -> Adapter:
    """``adapter`` as a record has it.

    The config's base counts where it was changed since: the side-car names the same one, perhaps
    in other words. A scale that contradicts the config's is refused (CheckpointError).
    """
    modules = dict(adapter.modules)
    if rule := record.rule:
        for name, f in adapter.modules.items():
            own = peft_alpha(f.rule, f.alpha, f.rank) / (f.rank if rule == "none" else 1)
            alpha = own if record.alpha is None else record.alpha
            scales = [peft_alpha(*each, f.rank) for each in ((f.rule, f.alpha), (rule, alpha))]
            same_rule = (f.rule == "sqrt") == (rule == "sqrt")
            if not same_rule or not math.isclose(*scales, rel_tol=1e-9):
                raise CheckpointError(
                    f"{where}: PEFT's config scales {name} by lora_alpha {scales[0]:g} ({f.rule}), "
                    f"which is not rule {rule} with alpha {alpha:g} at rank {f.rank}"
                )
            modules[name] = replace(f, rule=rule, alpha=alpha)
    same = adapter.base in (None, record.base, published(record.base))
    return replace(
        adapter,
        modules=modules,
        nesting=record.nesting,
        base=record.base if record.base and same else adapter.base,
        **{name: getattr(record, name) for name in _SAME},
    )
