"""The run folder: whose it is, what is added to it, and who works on which cell."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec
from filelock import FileLock, Timeout

from aurac.curves.numbers import listed
from aurac.curves.question import Question
from aurac.errors import RunFolderError
from aurac.records.cells import CellStore, writing
from aurac.records.documents import Documents
from aurac.records.lines import DocumentKey
from aurac.records.manifest import RUN_FILE, Manifest

Lists = Mapping[str, Sequence[DocumentKey]]
"""Task (no group) → its examples."""
MOST_DEATHS = 5  # processes that ended within one cell before it counts as failed


def known_names(path: Path) -> dict[str, str]:
    """Hash of an adapter → the name that a run folder has given it."""
    if not (path / RUN_FILE).is_file():
        return {}
    return {adapter.sha256: adapter.name for adapter in Manifest.read(path).adapters}


class RunFolder:
    """A run folder, as runs write it.

    Attributes:
        path: Of the folder, which may not be there yet.
        cells: What is computed.
        locks: Of the processes that work on it; may be deleted while none does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells = CellStore(path)
        self.locks = path / "locks"

    def check(self, manifest: Manifest, lists: Lists) -> Manifest | None:
        """What the folder holds, or None if that is nothing yet.

        Raises:
            RunFolderError: A command cannot be added to it: it is of another run, or of none, or
                an example of a task has changed.
        """
        there = {each.name for each in self.path.iterdir()} if self.path.is_dir() else set()
        if RUN_FILE not in there:
            foreign = any(not name.startswith(".") for name in there)
            begun = self.locks.name in there  # by a command that was interrupted
            if self.path.is_file() or (foreign and not begun):
                raise RunFolderError(f"{self.path} holds other files: give a new folder with --out")
            return None
        known, documents = Manifest.read(self.path), Documents(self.path)
        if conflicts := known.conflicts(manifest):
            why = "; ".join(conflicts)
            text = f"{self.path} holds another run ({why}): give a new folder with --out"
            raise RunFolderError(text)
        for task, keys in lists.items():
            if changed := documents.changed(task, keys):
                which = listed([str(place + 1) for place in changed])
                many = "examples" if len(changed) > 1 else "example"
                raise RunFolderError(
                    f"{many} {which} of {task} changed: give a new folder with --out"
                )
        return known

    def record(
        self,
        manifest: Manifest,
        lists: Lists = MappingProxyType({}),
        write: Callable[[str], None] | None = None,
    ) -> None:
        """Add what a command asks for, one process at a time: examples, and then `run.json`.

        Args:
            manifest: What is added.
            lists: Task (no group) → its examples.
            write: Writes the files of a task, whose list here is shorter.

        Raises:
            RunFolderError: As `check`; or the folder cannot be written.
        """
        with writing(self.path):
            self.locks.mkdir(parents=True, exist_ok=True)
            with FileLock(self.locks / "run.lock"):
                known, documents = self.check(manifest, lists), Documents(self.path)
                for task, keys in lists.items():
                    if write and (known is None or len(keys) > len(documents.keys(task))):
                        write(task)
                (known.grown(manifest) if known else manifest).write(self.path)

    def ask(self, question: Question) -> None:
        """Keep a question as the last one."""
        with writing(self.path):
            self.locks.mkdir(exist_ok=True)
            with FileLock(self.locks / "run.lock"):
                manifest = Manifest.read(self.path)
                msgspec.structs.replace(manifest, question=question).write(self.path)

    def take(self, key: str) -> FileLock | None:
        """The lock of a cell; None where another process holds it.

        It goes with its process, however that ends, and its file stays. It saves work and protects
        nothing: of examples that two processes compute, the first outcome counts.
        """
        self.locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.locks / f"{key}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        return lock

    @contextlib.contextmanager
    def begun(self, key: str) -> Iterator[int]:
        """Work on a cell; yields how many processes ended within it since it last grew."""
        mark = self.locks / f"{key}.begun"
        deaths = mark.stat().st_size if mark.exists() else 0
        if deaths >= MOST_DEATHS:
            yield deaths
            return
        with mark.open("ab") as file:
            file.write(b".")
        try:
            yield deaths
        finally:
            mark.unlink(missing_ok=True)

    def grown(self, key: str) -> None:
        """Something of the cell is kept: those that ended within it did not end in vain."""
        mark = self.locks / f"{key}.begun"
        if mark.exists():  # on Ray workers do not mark
            mark.write_bytes(b".")
