"""The cells that a `results.json` names, read for exactly the documents of its tasks.

A cell's file may hold more documents than the results that name it: it grows. Which of them are
meant, and in which order, stands in the file of the task's documents.
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NoReturn

from aurac.errors import RunFolderError
from aurac.runs.schema import DocumentKey
from aurac.runs.store import read_cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from aurac.runs.store import Cell


SCHEMA = 1
RESULTS_FILE = "results.json"


def inside(folder: Path, relative: str) -> Path:
    """The path of a file that a run names, which has to lie in the run folder.

    Raises:
        RunFolderError: It does not.
    """
    path = PurePath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise RunFolderError(f"{relative} is outside {folder}")
    return folder / path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        RunFolderError: There is none, or it holds NaN or infinity.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} holds a {type(content).__name__}", expected="an object")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


def read_results(folder: Path) -> dict[str, Any]:
    """The `results.json` of a run folder.

    Raises:
        RunFolderError: Missing, not JSON, of another schema, or without curves.
    """
    path = folder / RESULTS_FILE
    if not path.is_file():
        raise RunFolderError(
            f"{folder} holds no {RESULTS_FILE}",
            expected="a run folder",
            fix="run `aurac compare … --out FOLDER` first, or let an interrupted run finish",
        )
    results = read_json(path)
    if results.get("schema") != SCHEMA:
        raise RunFolderError(
            f"{path} has schema {results.get('schema')!r}", expected=f"schema {SCHEMA}"
        )
    return results


def document_keys(path: Path) -> tuple[DocumentKey, ...] | None:
    """The documents that a task's file of documents lists; None where it has no keys.

    Raises:
        RunFolderError: The file cannot be read.
    """
    keys = read_json(path).get("keys")
    if keys is None:
        return None
    return tuple(DocumentKey(str(doc), str(content), str(prompt)) for doc, content, prompt in keys)


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
        tasks: The rows of `tasks` in its `results.json`.
    """

    def __init__(self, folder: Path, tasks: Sequence[Mapping[str, Any]]) -> None:
        self.folder = folder
        self._tasks = {str(task["name"]): task for task in tasks}
        self._keys: dict[str, tuple[DocumentKey, ...] | None] = {}

    def read(self, task: str, where: str | Sequence[str]) -> list[Cell]:
        """The cells of one point of a curve: one, or one for each member of a group.

        Raises:
            RunFolderError: A cell is outside the folder, missing or damaged.
        """
        paths = [where] if isinstance(where, str) else list(where)
        members = list(self._tasks.get(task, {}).get("members") or ()) or [task]
        if len(members) != len(paths):  # a results.json made by hand may name no members
            members = [""] * len(paths)
        return [
            read_stored(inside(self.folder, path), self.keys(member))
            for path, member in zip(paths, members, strict=True)
        ]

    def keys(self, task: str) -> tuple[DocumentKey, ...] | None:
        """The documents of a task; None where they were not kept."""
        if task not in self._keys:
            where = self._tasks.get(task, {}).get("documents")
            self._keys[task] = document_keys(inside(self.folder, str(where))) if where else None
        return self._keys[task]
