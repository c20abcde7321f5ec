"""Recognises a finished run from its files alone, without torch, transformers or lm-eval.

The cache keeps what a finished run was made from: the request, the content of adapters and local
documents, the files of the base, the installed code, and the state of the run folder. The same
command later compares these and reads the results. Where anything differs or cannot be compared (a
checkpoint on the hub, a task of one's own) the identities of the cells decide.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import RunFolderError, UsageError
from aurac.files import sha256_file, sha256_json, write_json
from aurac.models import cache_root
from aurac.models.device import machine, versions
from aurac.notebook.run import Run
from aurac.records.cell import ENGINE_VERSION
from aurac.records.schema import RESULTS_FILE, Results
from aurac.runs.lock import FOLDER as LOCKS
from aurac.runs.log import LOGS
from aurac.runs.settings import NamedCheckpoint, separated, to_plain
from aurac.tasks import BUNDLED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aurac.runs.settings import Execution, Settings

logger = logging.getLogger(__name__)

SCHEMA = 1
_LARGE = 1 << 26  # bytes; larger files, like a base's weights, are compared by size, time and inode
_KEPT = 256  # finished runs that are remembered
_UNCOUNTED = ("__pycache__", LOGS, LOCKS)
_DEVICES = ("nvidia*", "kfd", "dri/render*")
_DEVICE_SWITCHES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Request:
    """A comparison as it was asked for; `out` is the run folder that was named."""

    checkpoints: tuple[str, ...]
    tasks: tuple[str, ...]
    out: str | None
    settings: Settings
    execution: Execution

    @classmethod
    def of(
        cls,
        checkpoints: Sequence[str | Path],
        tasks: Sequence[str],
        out: str | Path | None = None,
        **options: Any,
    ) -> Request:
        """From the keywords of `aurac.compare`; a UsageError where a value is out of range."""
        if not checkpoints or not tasks:
            raise UsageError("nothing to compare", expected="at least one checkpoint and one task")
        settings, execution = separated(options)
        names = tuple(map(str, checkpoints))
        return cls(names, tuple(tasks), str(out) if out else None, settings, execution)

    @property
    def comparable(self) -> bool:
        """Whether all that it depends on can be compared without building it."""
        how = self.execution
        if how.shard or how.profile or how.retry_failed:
            return False
        own_tasks = self.settings.task.include_path is not None or any(
            Path(task).suffix in (".yaml", ".yml") for task in self.tasks
        )
        return not own_tasks and all(path.exists() for path in self.places)

    @property
    def places(self) -> list[Path]:
        """The folders and files of the checkpoints."""
        named = [NamedCheckpoint.of(checkpoint) for checkpoint in self.checkpoints]
        return [Path(path).expanduser() for checkpoint in named for path in checkpoint.paths]

    def record(self) -> Path:
        """Where the cache keeps what is known of it."""
        request = [list(self.checkpoints), list(self.tasks), self.out, str(Path.cwd())]
        text = json.dumps([SCHEMA, *request, to_plain(self.settings)], sort_keys=True, default=str)
        return cache_root() / "finished" / f"{sha256_json(text)[:32]}.json"

    def inputs(self, base: Path) -> str:
        """One hash of all that the cells are made from; `base` is the folder of the base model."""
        places = self.places
        # where the configuration of a checkpoint that is one file may stand
        beside = [
            j for path in places if path.is_file() for j in sorted(path.parent.glob("*.json"))
        ]
        tokenizer = self.settings.model.tokenizer
        named = [Path(tokenizer)] if tokenizer not in (None, "base", "adapter") else []
        content = [*places, *beside, *named, *map(Path, self.settings.task.data.values()), base]
        code = ["aurac"] if set(self.tasks) <= set(BUNDLED) else ["aurac", "lm_eval"]
        return sha256_json(
            [
                [list(_contents(path)) for path in content],
                [list(_states(_package(name))) for name in code],
                [ENGINE_VERSION, versions(), machine(), _devices()],
            ]
        )


def recall(request: Request) -> Run | None:
    """The finished run of a request; None where that is not certain."""
    try:
        if not request.comparable:
            return None
        known = json.loads(request.record().read_text(encoding="utf-8"))
        folder = Path(known["folder"])
        if _folder_state(folder) != known["state"]:
            return None
        if request.inputs(Path(known["base"])) != known["inputs"]:
            return None
        files = tuple(map(Path, known["files"]))
        return Run(folder, Results.read(folder), files, int(known["cells"]))
    except (OSError, ValueError, KeyError, TypeError, RunFolderError) as error:
        logger.debug("no finished run is known (%s)", error)
        return None


class Witness:
    """Looks at the inputs when a run begins, and keeps them when it has ended.

    Files that changed after `started` (seconds since the epoch) may not be those that were read.
    `base` is the folder of the base model.
    """

    def __init__(self, request: Request, base: Path, started: float) -> None:
        self._request, self._base = request, base
        self._inputs: str | None = None
        try:
            if request.comparable and _newest([*request.places, base]) < started:
                self._inputs = request.inputs(base)
        except (OSError, ValueError) as error:
            logger.debug("the inputs cannot be compared later (%s)", error)

    def keep(self, done: Run) -> None:
        """Remember a finished run; a cache that cannot be written costs time only."""
        if self._inputs is None or done.besides or done.shard or done.results.sequential:
            return
        record = {"schema": SCHEMA, "folder": str(done.folder), "base": str(self._base)}
        record |= {"inputs": self._inputs, "files": list(map(str, done.files))}
        try:
            record |= {"cells": done.cells, "state": _folder_state(done.folder)}
            path = self._request.record()
            write_json(path, record)
            kept = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
            for old in kept[:-_KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            logger.info("the finished run cannot be remembered (%s)", error)


def _folder_state(folder: Path) -> str:
    if not (folder / RESULTS_FILE).is_file():
        raise FileNotFoundError(folder / RESULTS_FILE)
    return sha256_json(list(_states(folder)))


def _contents(path: Path) -> Iterator[list[Any]]:
    """The name of each file with its hash; of large ones with what `_states` says."""
    for name, size, changed, inode in _states(path):
        file = path / name if name else path
        yield [name, sha256_file(file)] if size <= _LARGE else [name, size, changed, inode]


def _states(path: Path) -> Iterator[list[Any]]:
    """[name, bytes, time of change, inode] of a file, or of all files below a folder, by name."""
    files = sorted(_files(path)) if path.is_dir() else [path]
    for file in files:
        state = file.stat()
        name = file.relative_to(path).as_posix() if file != path else ""
        yield [name, state.st_size, state.st_mtime_ns, state.st_ino]


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _UNCOUNTED]
        yield from (Path(parent) / name for name in names if not name.startswith("."))


def _newest(paths: Iterable[str | Path]) -> float:
    times = (row[2] for path in paths for row in _states(Path(path).expanduser()))
    return max(times, default=0) / 1e9


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(name)
    return Path(spec.submodule_search_locations[0])


def _devices() -> Sequence[Any]:
    """What the choice of a device depends on."""
    there = sorted(str(path) for kind in _DEVICES for path in Path("/dev").glob(kind))
    return [there, [os.environ.get(name) for name in _DEVICE_SWITCHES]]
