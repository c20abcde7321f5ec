"""What the shell offers for an argument; nothing heavy is imported, for it runs at every TAB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

_PACKAGE = Path(__file__).parents[1]


def tasks(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The bundled tasks; with `a,b` typed, the rest of the last one."""
    from aurac.tasks import BUNDLED

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in BUNDLED if name.startswith(last)]


def recipes(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The built-in recipes."""
    root = _PACKAGE / "training" / "recipes"
    names = sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))
    return [name for name in names if name.startswith(incomplete)]


def bases(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The packaged models."""
    from aurac.models.packaged import PACKAGED

    return [name for name in PACKAGED if name.startswith(incomplete)]
