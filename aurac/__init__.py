"""Rank-accuracy evaluation of low-rank adapters: how good is an adapter at every rank?

The public names, listed in `__init__.pyi`, are loaded on first use, so that ``import aurac`` and
`score` need nothing heavier than numpy, and a notebook that only integrates numbers never waits
for torch.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

_public, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    """The version, or a public name, imported from its module when it is asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("aurac")
    try:
        return _public(name)
    except AttributeError:
        from aurac.arguments import nearest

        near = nearest(name, __all__)
        hint = f"; did you mean aurac.{near}?" if near else ""
        raise AttributeError(f"aurac has no attribute {name!r}{hint}") from None


def __dir__() -> list[str]:
    return __all__
