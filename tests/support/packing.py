"""Packs a folder of a run as the documents say: `tar cJf NAME.tar.xz NAME`."""

from __future__ import annotations

import shutil


def pack(folder):
    """Put a folder into the archive beside it, and remove it."""
    archive = shutil.make_archive(str(folder), "xztar", folder.parent, folder.name)
    shutil.rmtree(folder)
    return archive
