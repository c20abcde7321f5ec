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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.errors import RunFolderError
from aurac.files import sha256_file, sha256_json, write_json
from aurac.models import cache_root
from aurac.models.device import machine, versions
from aurac.notebook import Run
from aurac.records.cell import ENGINE_VERSION, read_record
from aurac.records.results_file import RESULTS_FILE, Results
from aurac.runs.lock import FOLDER as LOCKS
from aurac.runs.log import LOGS
from aurac.runs.settings import NamedCheckpoint
from aurac.tasks import BUNDLED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aurac.runs.settings import Request

logger = logging.getLogger(__name__)

SCHEMA = 1
_LARGE = 1 << 26  # bytes; larger files, like a base's weights, are compared by size, time and inode
_KEPT = 256  # finished runs that are remembered
_UNCOUNTED = ("__pycache__", LOGS, LOCKS)
_DEVICES = ("nvidia*", "kfd", "dri/render*")
_DEVICE_SWITCHES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


class FinishedRun(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache keeps: a run, hashes of its `inputs` and its folder's `state`."""

    schema: int = SCHEMA
    folder: str
    base: str
    inputs: str
    files: list[str]
    cells: int
    state: str


def recall(request: Request) -> Run | None:
    """The finished run of a request; None where that is not certain."""
    try:
        if not comparable(request):
            return None
        known = read_record(record_of(request), FinishedRun)
        folder = Path(known.folder)
        if _folder_state(folder) != known.state:
            return None
        if _inputs(request, Path(known.base)) != known.inputs:
            return None
        return Run(folder, Results.read(folder), tuple(map(Path, known.files)), known.cells)
    except (OSError, ValueError, RunFolderError) as error:
        logger.debug("no finished run is known (%s)", error)
        return None


class InputSnapshot:
    """Looks at the inputs when a run begins, and keeps them when it has ended.

    Files that changed after `started` (since the epoch) may not be those that were read.
    """

    def __init__(self, request: Request, base: Path, started: float) -> None:
        self._request, self._base = request, base
        self._inputs: str | None = None
        try:
            read = [row for path in (*_places(request), base) for row in _states(path)]
            newest = max((changed for _, _, changed, _ in read), default=0) / 1e9
            if newest < started and comparable(request):
                self._inputs = _inputs(request, base)
        except (OSError, ValueError) as error:
            logger.debug("the inputs cannot be compared later (%s)", error)

    def keep(self, done: Run) -> None:
        """Remember a finished run; a cache that cannot be written costs time only."""
        if self._inputs is None or done.besides:
            return
        try:
            known = FinishedRun(
                folder=str(done.folder),
                base=str(self._base),
                inputs=self._inputs,
                files=list(map(str, done.files)),
                cells=done.cells,
                state=_folder_state(done.folder),
            )
            path = record_of(self._request)
            write_json(path, msgspec.to_builtins(known))
            kept = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
            for old in kept[:-_KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            logger.info("the finished run cannot be remembered (%s)", error)


def comparable(request: Request) -> bool:
    """Whether all that a request depends on can be compared without building it."""
    how, task = request.execution, request.settings.task
    if how.retry_failed or task.include_path is not None:
        return False
    own = any(Path(name).suffix in (".yaml", ".yml") for name in request.tasks)
    return not own and all(path.exists() for path in _places(request))


def record_of(request: Request) -> Path:
    """Where the cache keeps what is known of a request."""
    asked = [*request.checkpoints], [*request.tasks], request.out, str(Path.cwd())
    text = json.dumps([SCHEMA, *asked, asdict(request.settings)], sort_keys=True, default=str)
    return cache_root() / "finished" / f"{sha256_json(text)[:32]}.json"


def _places(request: Request) -> list[Path]:
    """The folders and files of the checkpoints."""
    named = [NamedCheckpoint.of(checkpoint) for checkpoint in request.checkpoints]
    return [Path(path).expanduser() for checkpoint in named for path in checkpoint.paths]


def _inputs(request: Request, base: Path) -> str:
    """One hash of all that the cells are made from; `base` is the folder of the base model."""
    places, settings = _places(request), request.settings
    # where the configuration of a checkpoint that is one file may stand
    beside = [j for path in places if path.is_file() for j in sorted(path.parent.glob("*.json"))]
    tokenizer = settings.model.tokenizer
    named = [Path(tokenizer)] if tokenizer not in (None, "base", "adapter") else []
    content = [*places, *beside, *named, *map(Path, settings.task.data.values()), base]
    code = ["aurac"] if set(request.tasks) <= set(BUNDLED) else ["aurac", "lm_eval"]
    return sha256_json(
        [
            [list(_contents(path)) for path in content],
            [list(_states(_package(name))) for name in code],
            [ENGINE_VERSION, versions(), machine(), _devices()],
        ]
    )


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


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(name)
    return Path(spec.submodule_search_locations[0])


def _devices() -> Sequence[Any]:
    """What the choice of a device depends on."""
    there = sorted(str(path) for kind in _DEVICES for path in Path("/dev").glob(kind))
    return [there, [os.environ.get(name) for name in _DEVICE_SWITCHES]]
