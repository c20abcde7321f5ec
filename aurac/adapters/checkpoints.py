"""What is given on a command line: a path, a name, or several, and the adapters that it means."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aurac.adapters.adapter import Adapter
from aurac.adapters.family import Family, make_family, members_of
from aurac.adapters.formats import adapters_in, load_adapter
from aurac.errors import CheckpointError
from aurac.models.packaged import GIVE_BASE

logger = logging.getLogger(__name__)


class NamedCheckpoint(NamedTuple):
    """`PATH` (folder, file or hub id), `NAME=PATH`, or a family: `PATH` with `{1,2,4}` in it."""

    name: str | None
    paths: tuple[str, ...]

    @classmethod
    def of(cls, given: str) -> NamedCheckpoint:
        """Read it; something that exists is a path."""
        if _exists(given):
            return cls(None, (given,))
        name, sign, path = given.partition("=")
        if not sign or not name or not path or set(name) & set("/:{\\"):
            name, path = "", given
        braces = re.fullmatch(r"([^{}]*)\{([^{}]+,[^{}]+)\}([^{}]*)", path)
        if braces is None or _exists(path):
            return cls(name or None, (path,))
        head, inside, tail = braces.groups()
        paths = tuple(f"{head}{word.strip()}{tail}" for word in inside.split(","))
        return cls(name or Path(head + tail).name.rstrip("_-.") or given, paths)


def _exists(path: str) -> bool:
    return os.path.exists(os.path.expanduser(path))  # noqa: PTH110, PTH111 - pathlib's may raise


def load_adapters(
    checkpoints: Sequence[str | Path], base: str | None = None
) -> list[tuple[Path, Adapter | Family]]:
    """Each adapter or family with where it was read from; none of them twice."""
    loaded: dict[str, tuple[Path, Adapter | Family]] = {}
    for checkpoint in checkpoints:
        adapter = _load(NamedCheckpoint.of(str(checkpoint)), base)
        if adapter.sha256 in loaded:
            other = loaded[adapter.sha256][0]
            raise CheckpointError(f"{checkpoint} and {other} are the same adapter: leave one out")
        loaded[adapter.sha256] = Path(checkpoint), adapter
    return list(loaded.values())


def named(
    loaded: Sequence[tuple[Path, Adapter | Family]], known: Mapping[str, str]
) -> dict[str, Adapter | Family]:
    """Unique name → adapter; names that clash are told apart by their folder or a number.

    `known` are the names of a run folder, by hash: adapters that are given without a name have
    these, and no other one of them gets one.
    """
    names: dict[str, Adapter | Family] = {}
    for path, adapter in loaded:
        own = NamedCheckpoint.of(str(path)).name
        if own and own in {name for sha, name in known.items() if sha != adapter.sha256}:
            raise CheckpointError(
                f"the run has another adapter called {own}: give {path} another name"
            )
        taken = {*names, *(() if own else known.values())}
        name, number = None if own else known.get(adapter.sha256), 2
        if name is None:
            name = adapter.name
            if name in taken and path.parent.name:
                name = f"{path.parent.name}/{path.name}"
            while name in taken:
                name, number = f"{adapter.name}-{number}", number + 1
            if name != adapter.name and adapter.name in known.values():
                logger.warning(
                    "the run has another adapter called %s: this one is %s", adapter.name, name
                )
        names[name] = adapter
    return names


def _load(checkpoint: NamedCheckpoint, base: str | None) -> Adapter | Family:
    """An adapter, or a family: a folder of several, or a path with braces."""
    paths, folder = checkpoint.paths, Path(checkpoint.paths[0]).expanduser()
    inside = adapters_in(folder) if len(paths) == 1 else ()
    if len(inside) > 1:
        paths = tuple(map(str, inside))
    elif len(paths) == 1:
        return load_adapter(paths[0], name=checkpoint.name, base=base)
    members = [load_adapter(path, base=base) for path in paths]
    source = folder if inside else None
    return make_family(checkpoint.name or (folder.name if inside else ""), members, source)


def common_base(adapters: Mapping[str, Adapter | Family], named: str | None) -> str:
    """The base that was named, or the one that all adapters record; a CheckpointError otherwise."""
    if named:
        return named
    recorded = {name: adapter.base for name, adapter in adapters.items() if adapter.base}
    names = sorted(set(recorded.values()))
    if len(names) > 1:
        listed = "; ".join(f"{name} on {base}" for name, base in recorded.items())
        raise CheckpointError(
            f"the adapters were trained on different bases ({listed}): compare them in separate "
            "runs, or give --base if these names mean the same model"
        )
    if not names:
        raise CheckpointError(f"no base is recorded with {', '.join(adapters)}: {GIVE_BASE}")
    return names[0]


def named_members(adapters: Mapping[str, Adapter | Family]) -> dict[str, Adapter]:
    """Name → adapter, those of a family one by one."""
    return {
        f"{name}, rank {member.rank}" if isinstance(adapter, Family) else name: member
        for name, adapter in adapters.items()
        for member in members_of(adapter)
    }
