"""Rank-accuracy evaluation of low-rank adapters: how good is an adapter at every rank?

The public names, listed in `__init__.pyi`, are loaded on first use, so that ``import aurac`` and
`score` need nothing heavier than numpy, and a notebook that only integrates numbers never waits
for torch.
"""

from __future__ import annotations

from typing import Any

from aurac.arguments import nearest, public

_PACKAGES = {"adapters", "analysis", "errors", "readers", "training"}  # reached without an import
_public, __dir__, _names = public(__name__, __file__)
__all__ = [name for name in [*_names, "__version__"] if name not in _PACKAGES]


def __getattr__(name: str) -> Any:
    """The version, or a public name, imported from its module when it is asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("aurac")
    try:
        return _public(name)
    except AttributeError:
        if name.startswith("_"):  # what notebooks and tools ask every object for
            raise
        from importlib import import_module
        from importlib.util import find_spec

        from aurac.notebook import Run

        of_run = [each for each in vars(Run) if not each.startswith("_")]
        near = nearest(name, _names, "aurac.") or nearest(name, of_run, "aurac.load_run(folder).")
        for package in ("analysis", "readers"):
            if name in dir(import_module(f"aurac.{package}")):
                near = f"aurac.{package}.{name}"
        hint = f"; did you mean {near}?" if near else ""
        if find_spec(f"aurac.{name}"):
            hint = f"; import aurac.{name}"
        raise AttributeError(f"aurac has no attribute {name!r}{hint}") from None
