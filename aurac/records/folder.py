"""The run folder: whose it is, what is added to it, and who works on which cell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aurac.errors import RunFolderError
from aurac.files import sha256_json
from aurac.records.cells import writing
from aurac.records.manifest import RUN_FILE, Manifest

MOST_DEATHS = 5  # processes that ended within one cell before it counts as failed
RESULTS_FILE, RESULTS_SCHEMA = "results.json", 2


def default_folder(
    tasks: Sequence[str], settings: Mapping[str, Any], adapters: Sequence[str]
) -> Path:
    """The folder of a run without `--out`, by tasks, settings and the content of the adapters."""
    name = "-".join(Path(task).stem if task.endswith((".yaml", ".yml")) else task for task in tasks)
    digest = sha256_json([list(tasks), settings, sorted(adapters)])
    return Path("runs") / f"{name[:60].replace('/', '_')}-{digest[:8]}"


def known_names(out: str | None) -> dict[str, str]:
    """Hash of an adapter → the name that a run folder has given it."""
    if out is None or not (Path(out) / RUN_FILE).is_file():
        return {}
    return {adapter.sha256: adapter.name for adapter in Manifest.read(Path(out)).adapters}


def check_folder(folder: Path, settings: Mapping[str, Any], adapters: Mapping[str, str]) -> None:
    """Refuse a folder whose cells are of other settings, or that is no run folder.

    Args:
        folder: May be missing or empty.
        settings: What may not change.
        adapters: Name → hash of the content.
    """
    if not (folder / RUN_FILE).is_file():
        there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        if folder.is_file() or any(not name.startswith(".") and name != "locks" for name in there):
            raise RunFolderError(f"{folder} holds other files: give a new folder with --out")
        return
    before = Manifest.read(folder)
    names = {**before.settings, **settings}
    changed = [
        f"{name} was {before.settings.get(name)!r}, is {settings.get(name)!r}"
        for name in names
        if before.settings.get(name) != settings.get(name)
    ]
    changed += [
        f"adapter {adapter.name} has other weights"
        for adapter in before.adapters
        if adapters.get(adapter.name, adapter.sha256) != adapter.sha256
    ]
    if changed:
        raise RunFolderError(
            f"{folder} holds another run ({'; '.join(changed)}): give a new folder with --out"
        )


def record(folder: Path, manifest: Manifest) -> None:
    """Add to `run.json` what this command asks for, one process at a time."""
    with writing(folder), FileLock(folder / "locks" / "run.lock"):
        if (folder / RUN_FILE).is_file():
            manifest = Manifest.read(folder).grown(manifest)
        manifest.write(folder)


class Locks:
    """One process at a time works on a cell.

    A lock goes with its process, however that ends. It saves work and protects nothing: of examples
    that two processes compute, the first outcome counts.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "locks"
        self.folder.mkdir(parents=True, exist_ok=True)

    def take(self, key: str) -> FileLock | None:
        """The lock of a cell; None where another process holds it."""
        lock = FileLock(self.folder / f"{key}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        return lock

    @contextlib.contextmanager
    def begun(self, key: str) -> Iterator[int]:
        """Work on a cell; yields how many processes ended within it since it last grew."""
        mark = self.folder / f"{key}.begun"
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
        (self.folder / f"{key}.begun").write_bytes(b".")

    def remove(self, keys: Iterable[str]) -> None:
        """Forget cells that are done; the folder goes with the last ones."""
        for name in (*keys, "run"):
            for path in (self.folder / f"{name}.lock", self.folder / f"{name}.begun"):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another process works on others
            self.folder.rmdir()
