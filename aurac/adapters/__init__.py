"""Adapters: the value, its truncations, the files it lives in and the model it is attached to.

``attach`` and ``truncate`` here are the functions; their modules are reached with
``from aurac.adapters.attach import …``.
"""

from __future__ import annotations

from aurac.adapters.adapter import Adapter, Factors
from aurac.adapters.attach import LiveAdapter, attach
from aurac.adapters.compatibility import check_base, check_fits
from aurac.adapters.export import save_adapter, truncate
from aurac.adapters.family import Family, members_of
from aurac.adapters.formats import load_adapter
from aurac.adapters.formats.peft import adapter_from_peft
from aurac.adapters.methods import Nesting
from aurac.adapters.nesting import default_nested_ranks
from aurac.adapters.truncate import default_rescale, prepare

__all__ = [
    "Adapter", "Factors", "Family", "LiveAdapter", "Nesting", "adapter_from_peft", "attach",
    "check_base", "check_fits", "default_nested_ranks", "default_rescale", "load_adapter",
    "members_of", "prepare", "save_adapter", "truncate",
]  # fmt: skip
