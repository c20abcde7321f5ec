"""Weights on a node, found by their content: the path of one machine need not hold on another.

What was given is tried first. Then come the folders below each root in `AURAC_WEIGHTS` (a list as
in `PATH`) and below `weights/` in aurac's cache, two levels down.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from aurac.adapters import load_adapter
from aurac.errors import AuracError, BaseModelError, CheckpointError
from aurac.models import cache_root
from aurac.models.base import KnownBase, resolve_base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aurac.runs.settings import Settings

ROOTS = "AURAC_WEIGHTS"


def find_base(name: str, sha256: str) -> str:
    """The base's name, or the folder of this machine that holds those weights.

    Raises:
        BaseModelError: No weights of that content here.
    """
    for candidate in (name, *map(str, _folders_with("config.json"))):
        try:
            if resolve_base(candidate).sha256 == sha256:
                return candidate
        except AuracError:
            continue
    raise BaseModelError(
        f"base {name} with content {sha256[:12]} is not on this node",
        expected=f"it under that name, or in a folder below a root in {ROOTS}",
        fix="bring it to every node",
    )


def find_adapter(given: str, sha256: str, settings: Settings) -> str:
    """The checkpoint as given, or the folder of this machine that holds that adapter.

    Raises:
        CheckpointError: No adapter of that content here.
    """
    said = {k: v for k, v in settings.overrides.items() if v is not None}
    for candidate in (given, *map(str, _folders_with("adapter_config.json"))):
        try:
            adapter = load_adapter(candidate, base=settings.model.base, bases=KnownBase, **said)
            if adapter.sha256 == sha256:
                return candidate
        except AuracError:
            continue
    raise CheckpointError(
        f"adapter {given} with content {sha256[:12]} is not on this node",
        expected=f"it at that path, or in a folder below a root in {ROOTS}",
        fix="bring it to every node",
    )


def _folders_with(name: str) -> Iterator[Path]:
    roots = [Path(root) for root in os.environ.get(ROOTS, "").split(os.pathsep) if root]
    for root in (*roots, cache_root() / "weights"):
        if root.is_dir():
            yield from sorted(
                path.parent for path in (*root.glob(f"*/{name}"), *root.glob(f"*/*/{name}"))
            )
