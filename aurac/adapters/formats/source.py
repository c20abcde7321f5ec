"""A checkpoint that is being read: where it is, what the user states about it, and its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from aurac.adapters.adapter import Adapter
from aurac.adapters.methods import Nesting, method_named
from aurac.adapters.nesting import Rule, Update
from aurac.errors import UsageError
from aurac.models.base import base_skeleton


@dataclass(frozen=True)
class Stated:
    """What the user states about an adapter file, see ``load_adapter``; ``None``: as recorded."""

    method: str | None = None
    scaling: Rule | None = None
    alpha: float | None = None
    nested_ranks: Sequence[int] | None = None
    weights: Sequence[float] | None = None
    update: Update | None = None
    base: str | None = None


@dataclass(frozen=True)
class Source:
    """A checkpoint: its folder or file, and what is stated about it."""

    path: Path
    stated: Stated

    def skeleton(self, needed: bool, own: str | None = None) -> nn.Module | None:  # noqa: FBT001
        """The modules of the base that is stated, else of ``own``, on the meta device.

        ``None`` where they are not needed, or no base is named.
        """
        return base_skeleton(self.stated.base or own) if needed else None


class Format:
    """One kind of checkpoint; a new one is a subclass, listed in `formats.FORMATS`."""

    files: tuple[str, ...] = ()  #: fetched of a hub's repository; a name stands for its folder, too
    suffixes: tuple[str, ...] = ()  #: of its single files, if it has any

    def recognises(self, source: Source) -> bool:
        """Whether a folder or file is of this kind: here, a file with one of the suffixes."""
        return source.path.suffix.lower() in self.suffixes and not source.path.is_dir()

    def read(self, source: Source) -> Adapter:
        """The adapter as its files describe it."""
        raise NotImplementedError


def as_stated(adapter: Adapter, stated: Stated) -> Adapter:
    """``adapter`` with what the user states; a note says where that replaces the record."""
    own, rule, alpha, notes = adapter.modules, stated.scaling, stated.alpha, list(adapter.notes)
    if rule and alpha is None and any(f.rule != rule for f in own.values()):
        raise UsageError(f"--scaling {rule} needs --alpha: the recorded one is of another rule")
    modules = own
    if alpha is not None:
        modules = {n: replace(f, rule=rule or f.rule, alpha=float(alpha)) for n, f in own.items()}
    if any((f.rule, f.alpha) != (modules[n].rule, modules[n].alpha) for n, f in own.items()):
        notes.append("the scaling given replaces the recorded one")
    nesting = _nested(adapter, stated, notes)
    if adapter.nesting not in (None, nesting):
        notes.append("the training given replaces the recorded one")
    if adapter.base and stated.base not in (None, adapter.base):
        notes.append(f"the base given, {stated.base}, replaces the recorded {adapter.base}")
    base = stated.base or adapter.base
    return replace(adapter, modules=modules, nesting=nesting, base=base, notes=tuple(notes))


def _nested(adapter: Adapter, stated: Stated, notes: list[str]) -> Nesting | None:
    old, given = adapter.nesting, stated.nested_ranks
    if (stated.method, given, stated.weights, stated.update) == (None,) * 4:
        return old
    method = str(stated.method or adapter.method)
    if given is not None:
        # The research code trains those up to R, whatever it is given.
        ranks = tuple(r for r in given if r <= adapter.rank)
        if not ranks or ranks[-1] < adapter.rank:
            notes.append("components above the last nested rank were not trained")
    elif method_named(method).nested and old is None:
        raise UsageError(f"--method {method} needs --nested-ranks")
    else:
        ranks = old.ranks if old else (adapter.rank,)
    weights = stated.weights or (old.weights if old and old.ranks == ranks else ())
    update = stated.update or (old.update if old and old.method == method else None)
    return Nesting(method, ranks, tuple(weights), update)
