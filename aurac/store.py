"""Cells on disk: content-addressed, checksummed, each file whole or absent.

A cell is one adapter at one rank on one task: the outcome of every document. Its file is named by
the hash of its identity, so a cell that exists is the right one, and a run that is started again
computes only what is missing.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from aurac.files import write_json
from aurac.hashing import sha256_json

if TYPE_CHECKING:
    from pathlib import Path

    from aurac.provenance import CellIdentity

logger = logging.getLogger(__name__)

CELL_SCHEMA = 1


class CellStore:
    """The `cells/` folder of a run."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "cells"

    def path(self, identity: CellIdentity) -> Path:
        """Where the cell of this identity lies."""
        return self.folder / f"{identity.key}.json"

    def get(self, identity: CellIdentity) -> dict[str, Any] | None:
        """The cell, or None where it is missing or its checksum does not hold (then it is said)."""
        path = self.path(identity)
        if not path.is_file():
            return None
        try:
            return read_cell(path)
        except ValueError as error:
            logger.warning("%s is damaged (%s) and is computed again", path.name, error)
            return None

    def put(self, identity: CellIdentity, content: dict[str, Any]) -> Path:
        """Write a cell (fields of the cell schema beside `schema`, `key`, `identity`, `checksum`).

        Raises:
            OSError: The run folder cannot be written; no partial file is left.
        """
        cell = {"schema": CELL_SCHEMA, "key": identity.key, "identity": identity.to_dict()}
        cell.update(content)
        cell["checksum"] = sha256_json(cell)
        path = self.path(identity)
        write_json(path, cell)
        return path


def read_cell(path: Path) -> dict[str, Any]:
    """Read one cell file and verify its checksum.

    Raises:
        ValueError: Not JSON, another schema, or content that does not match the checksum.
    """
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"unreadable: {error}") from error
    if not isinstance(cell, dict) or cell.get("schema") != CELL_SCHEMA:
        raise ValueError(f"no cell of schema {CELL_SCHEMA}")
    checksum = cell.get("checksum")
    if sha256_json({k: v for k, v in cell.items() if k != "checksum"}) != checksum:
        raise ValueError("its checksum does not hold")
    return cell
