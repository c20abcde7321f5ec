"""Where aurac keeps what it fetches or makes once: `AURAC_CACHE`, else the platform's cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The cache folder (not created here): `AURAC_CACHE` if set, else the XDG (platform) cache."""
    chosen = os.environ.get("AURAC_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("aurac", appauthor=False)
