"""Cells on disk: content-addressed, checksummed, each file whole or absent.

A cell is one adapter at one rank on one task: the outcome of every document. Its file is named by
the hash of its identity, so a cell that exists is the right one, and a run that is started again
computes only what is missing. A cell that could not be computed has a record of its own instead,
and one that is being computed may have a checkpoint.

Schemas. A reader ignores fields that it does not know, so a field may be added without a new
schema. A change of meaning raises the number, and `read_record` then turns the older form into the
new one as it reads (files are never rewritten). A file of a newer schema is refused and left alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any

from aurac.errors import RunFolderError
from aurac.files import json_by_key, sweep_scraps, write_atomic
from aurac.hashing import sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aurac.runs.partial import CellCheckpoint
    from aurac.runs.provenance import CellIdentity

logger = logging.getLogger(__name__)

CELL_SCHEMA = 1
_SUFFIX = ".json"
_KEY_LENGTH = 64
_HEAD = ("schema", "checksum")  # of a checkpoint, beside its content


class CellStore:
    """The `cells/`, `failed/` and `partial/` folders of a run."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.folder = run_folder / "cells"
        self.failed = run_folder / "failed"
        self.partial = run_folder / "partial"

    def path(self, identity: CellIdentity) -> Path:
        """Where the cell of this identity lies."""
        return self.folder / f"{identity.key}{_SUFFIX}"

    def has(self, key: str) -> bool:
        """Whether there is a cell; whether it is whole shows when it is read."""
        return (self.folder / f"{key}{_SUFFIX}").is_file()

    def keys(self) -> set[str]:
        """Keys of all cells, from one listing of the folder."""
        return _keys_in(self.folder)

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
            RunFolderError: The run folder cannot be written; no partial file is left.
        """
        head = {"schema": CELL_SCHEMA, "key": identity.key, "identity": identity.to_dict()}
        path = self.path(identity)
        self._write(path, {**head, **content})
        self._drop(self.failed, identity.key)
        self.drop_partials(identity.key)
        return path

    def fail(self, identity: CellIdentity, content: dict[str, Any]) -> None:
        """Record that a cell could not be computed: `reason`, `kind`, and what else is known.

        Raises:
            RunFolderError: The run folder cannot be written.
        """
        head = {"schema": CELL_SCHEMA, "key": identity.key, "identity": identity.to_dict()}
        self._write(self.failed / f"{identity.key}{_SUFFIX}", {**head, **content})

    def failure(self, key: str) -> dict[str, Any] | None:
        """The record of a failed cell; None without one, or where it is damaged."""
        path = self.failed / f"{key}{_SUFFIX}"
        if not path.is_file():
            return None
        try:
            return read_record(path)
        except ValueError as error:
            logger.warning("the record of failure %s is damaged (%s)", path.name, error)
            return None

    def failed_keys(self) -> set[str]:
        """Keys of the cells with a record of failure."""
        return _keys_in(self.failed)

    def forgive(self, key: str) -> None:
        """Forget a failure, so that the cell is tried again."""
        self._drop(self.failed, key)

    def save_partial(self, key: str, part: str, content: dict[str, Any]) -> bool:
        """Keep what is done of a cell; whether that worked (a full disk does not stop the cell)."""
        try:
            self._write(self.partial / f"{key}.{part}{_SUFFIX}", {"schema": CELL_SCHEMA, **content})
        except RunFolderError as error:
            logger.warning("no checkpoint within a cell: %s", error)
            return False
        return True

    def load_partial(self, key: str, part: str) -> dict[str, Any] | None:
        """What was done of a cell before, if it is there and whole."""
        path = self.partial / f"{key}.{part}{_SUFFIX}"
        if not path.is_file():
            return None
        try:
            return read_record(path)
        except ValueError as error:
            logger.warning("checkpoint %s is damaged (%s) and not used", path.name, error)
            return None

    def partials(self, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(part, content) of what was done of a cell before, as far as it is whole."""
        if self.partial.is_dir():
            for path in sorted(self.partial.glob(f"{key}.*{_SUFFIX}")):
                part = path.name.removeprefix(f"{key}.").removesuffix(_SUFFIX)
                content = self.load_partial(key, part)
                if content is not None:
                    yield part, {k: v for k, v in content.items() if k not in _HEAD}

    def checkpoint(self, key: str) -> CellCheckpoint:
        """Where an evaluation keeps what is done of a cell."""
        from aurac.runs.partial import CellCheckpoint

        return CellCheckpoint(self, key)

    def has_partial(self, key: str) -> bool:
        """Whether something of this cell was kept."""
        return self.partial.is_dir() and any(self.partial.glob(f"{key}.*{_SUFFIX}"))

    def drop_partials(self, key: str) -> None:
        """Remove the checkpoints of a cell."""
        if self.partial.is_dir():
            for path in self.partial.glob(f"{key}.*{_SUFFIX}"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def tidy(self) -> None:
        """Remove what killed processes of this machine left half-written."""
        sweep_scraps(self.run_folder)
        for folder in self.run_folder.iterdir():
            if folder.is_dir():
                sweep_scraps(folder)

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        content["checksum"] = sha256_json(content)
        try:
            write_atomic(path, json_by_key(content))
        except OSError as error:
            raise cannot_write(self.run_folder, error) from error

    def _drop(self, folder: Path, key: str) -> None:
        with contextlib.suppress(OSError):
            (folder / f"{key}{_SUFFIX}").unlink(missing_ok=True)


def cannot_write(folder: Path, error: OSError) -> RunFolderError:
    """The error for a run folder that takes no more: what is in it is whole."""
    return RunFolderError(
        f"the run folder {folder} cannot be written ({error.strerror or error})",
        expected="a writable folder with space left",
        fix="what is in it is whole: put that right and give the same command again",
    )


def read_record(path: Path) -> dict[str, Any]:
    """Read one file of the store and verify its checksum.

    Raises:
        ValueError: Not JSON, without a schema, or content that does not match the checksum.
        RunFolderError: Its schema is newer than this aurac.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"unreadable: {error}") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise ValueError(f"no record of schema {CELL_SCHEMA}")
    found: dict[str, Any] = content
    # The checksum first: a flipped bit may look like a newer schema.
    checksum = content.get("checksum")
    if sha256_json({k: v for k, v in content.items() if k != "checksum"}) != checksum:
        raise ValueError("its checksum does not hold")
    if schema > CELL_SCHEMA:
        raise RunFolderError(
            f"{path} has schema {schema}, written by a newer aurac",
            expected=f"schema {CELL_SCHEMA}",
            fix="update aurac, or choose another --out",
        )
    return found


def read_cell(path: Path) -> dict[str, Any]:
    """Read one cell file and verify its checksum, and that it is the cell its name says.

    Raises:
        ValueError: Not JSON, without a schema, or content that does not match checksum and name.
        RunFolderError: Its schema is newer than this aurac.
    """
    cell = read_record(path)
    if cell.get("key") != path.name.removesuffix(_SUFFIX):
        raise ValueError("its content is that of another cell")
    return cell


def _keys_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(_SUFFIX)]
    except FileNotFoundError:
        return set()
    length = _KEY_LENGTH + len(_SUFFIX)
    return {name[:_KEY_LENGTH] for name in names if len(name) == length and name[0] != "."}
