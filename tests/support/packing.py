"""Packs a folder of a run as the documents say: `tar cJf NAME.tar.xz NAME`."""

from __future__ import annotations

import shutil
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def pack(folder: Path) -> Path:
    """Put a folder into the archive beside it, and remove it."""
    archive = folder.with_name(f"{folder.name}.tar.xz")
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    return archive
