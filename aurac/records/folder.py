"""The run folder: whose it is, what is added to it, and who works on which cell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from aurac.curves.question import Question
from aurac.errors import RunFolderError
from aurac.records.cells import CellStore, writing
from aurac.records.manifest import RUN_FILE, Manifest

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

    def record(self, manifest: Manifest) -> Manifest:
        """Add to `run.json` what a command asks for, one process at a time.

        Returns:
            All that the folder holds.

        Raises:
            RunFolderError: It is of another run, or of none; or the folder cannot be written.
        """
        there = [each.name for each in self.path.iterdir()] if self.path.is_dir() else []
        foreign = any(not name.startswith(".") and name != self.locks.name for name in there)
        if RUN_FILE not in there and (self.path.is_file() or foreign):
            raise RunFolderError(f"{self.path} holds other files: give a new folder with --out")
        with writing(self.path):
            self.locks.mkdir(parents=True, exist_ok=True)
            with FileLock(self.locks / "run.lock"):
                if (self.path / RUN_FILE).is_file():
                    known = Manifest.read(self.path)
                    if conflicts := known.conflicts(manifest):
                        raise RunFolderError(
                            f"{self.path} holds another run ({'; '.join(conflicts)}): give a new "
                            "folder with --out"
                        )
                    manifest = known.grown(manifest)
                manifest.write(self.path)
        return manifest

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
