"""Base models: found by name, loaded, placed on a device; where aurac keeps what it fetches."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The cache folder (not created here): `AURAC_CACHE` if set, else the XDG (platform) cache."""
    folder = os.environ.get("AURAC_CACHE")
    if folder:
        return Path(folder).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("aurac", appauthor=False)
