"""The cells that a `results.json` names, read for exactly the documents of its tasks.

A cell's file may hold more documents than the results that name it: it grows. Which of them are
meant, and in which order, stands in the file of the task's documents.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from aurac.errors import RunFolderError
from aurac.runs.schema import TaskDocuments, read_record
from aurac.runs.store import read_cell

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from aurac.runs.schema import DocumentKey, Results
    from aurac.runs.store import Cell


def inside(folder: Path, relative: str) -> Path:
    """The path of a file that a run names, which has to lie in the run folder.

    Raises:
        RunFolderError: It does not.
    """
    path = PurePath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise RunFolderError(f"{relative} is outside {folder}")
    return folder / path


def document_keys(path: Path) -> tuple[DocumentKey, ...] | None:
    """The documents that a task's file of documents lists; None where it has no keys.

    Raises:
        RunFolderError: The file cannot be read.
    """
    keys = read_record(path, TaskDocuments).keys
    return None if keys is None else tuple(keys)


def read_stored(path: Path, documents: Sequence[DocumentKey] | None) -> Cell:
    """A cell with all the documents that were asked for.

    Raises:
        RunFolderError: It is missing or damaged, or lacks some of them.
    """
    again = "give the command of the run again: it computes what is missing"
    try:
        cell = read_cell(path, documents)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error})", fix=again) from error
    if cell is None or (documents is None and cell.damaged):
        raise RunFolderError(f"{path} is missing or damaged", fix=again)
    if cell.missing:
        raise RunFolderError(
            f"{path} lacks {len(cell.missing)} of {len(documents or ())} documents", fix=again
        )
    return cell


class StoredCells:
    """Reads the cells of a run, a group's members one after the other.

    Args:
        folder: The run folder.
        results: Its `results.json`.
    """

    def __init__(self, folder: Path, results: Results) -> None:
        self.folder, self._results = folder, results
        self._keys: dict[str, tuple[DocumentKey, ...] | None] = {}

    def read(self, task: str, paths: Sequence[str]) -> list[Cell]:
        """The cells of one point of a curve: one, or one for each member of a group.

        Raises:
            RunFolderError: A cell is outside the folder, missing or damaged.
        """
        members = self._results.task(task).members or [task]
        if len(members) != len(paths):  # a results.json made by hand may name no members
            members = [""] * len(paths)
        return [
            read_stored(inside(self.folder, path), self.keys(member))
            for path, member in zip(paths, members, strict=True)
        ]

    def keys(self, task: str) -> tuple[DocumentKey, ...] | None:
        """The documents of a task; None where they were not kept."""
        if task not in self._keys:
            where = self._results.task(task).documents
            self._keys[task] = document_keys(inside(self.folder, where)) if where else None
        return self._keys[task]
