"""Opening a run folder: whose it is, what may be added, and why cells in it are not used."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import RunFolderError
from aurac.files import write_json
from aurac.hashing import sha256_json
from aurac.runs.store import read_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.runs.provenance import CellIdentity
    from aurac.runs.store import CellStore

logger = logging.getLogger(__name__)

REPORT_FILE = "report.md"  # written last: where it is, the whole report is
REQUEST_FILE = "run.json"
_MOST_READ = 64  # cells that are read to say why they are not used
_WHICH = ("task", "rank", "basis", "rescale", "adapter_sha256")


def open_run_folder(out: str | Path | None, tasks: Sequence[str], request: dict[str, Any]) -> Path:
    """Make the run folder, or accept the one that this request (or a smaller one) began.

    Raises:
        RunFolderError: It holds something else; nothing in it is touched.
    """
    folder = place_of(out, tasks, request)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"--out {folder} is a file", expected="a folder")
    try:
        if not (folder / REQUEST_FILE).is_file():
            _begin(folder, request)
        _continue(folder, request)
    except OSError as error:
        raise RunFolderError(
            f"--out {folder} cannot be written ({error.strerror})", fix="choose another --out"
        ) from error
    return folder


def place_of(out: str | Path | None, tasks: Sequence[str], request: dict[str, Any]) -> Path:
    """The run folder of a request: the one that was named, else one of its own below `runs`."""
    name = "-".join(tasks)[:60].replace("/", "_")
    return Path(out) if out else Path("runs") / f"{name}-{sha256_json(request)[:8]}"


def _begin(folder: Path, request: dict[str, Any]) -> None:
    scrap = f".{REQUEST_FILE}."  # of another process that begins the same run just now
    strangers = (
        [p for p in folder.iterdir() if not p.name.startswith(scrap)] if folder.is_dir() else []
    )
    if strangers and not (folder / REQUEST_FILE).is_file():
        raise RunFolderError(
            f"--out {folder} holds other files",
            expected="a new or empty folder, or the folder of this same run",
            fix="choose another --out",
        )
    try:
        write_json(folder / REQUEST_FILE, request, exclusive=True)
    except FileExistsError:
        logger.info("another process began this run a moment ago")


def _continue(folder: Path, request: dict[str, Any]) -> None:
    if check_same_run(folder, request) != request:
        write_json(folder / REQUEST_FILE, request)


def check_same_run(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The request that a run folder records, if this one may go on there.

    Raises:
        RunFolderError: It holds another run.
    """
    before = read_request(folder)
    reasons = [f"its {REQUEST_FILE} cannot be read"] if before is None else []
    if before is not None:
        try:
            reasons = _conflicts(before, request)
        except (KeyError, TypeError, AttributeError):
            reasons = [f"its {REQUEST_FILE} cannot be read"]
    if before is None or reasons:
        raise RunFolderError(
            f"--out {folder} holds another run ({'; '.join(reasons)})",
            expected="a new folder, or the folder of this same run",
            fix="choose another --out",
        )
    return before


def read_request(folder: Path) -> dict[str, Any] | None:
    """The request that a run folder records; None where it cannot be read."""
    try:
        request = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return request if isinstance(request, dict) else None


def _conflicts(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Why `now` is not the run `before`, or that run with more in it."""
    reasons = [
        f"{key} was {before['settings'].get(key)!r}, is {value!r}"
        for key, value in now["settings"].items()
        if before["settings"].get(key) != value
    ]
    for kind, what in (("adapters", "weights"), ("tasks", "prompts or documents")):
        for name, digest in before[kind].items():
            if now[kind].get(name, digest) != digest:
                reasons.append(f"{kind[:-1]} {name} has other content: its {what} changed")
        if not set(before[kind]) <= set(now[kind]):
            gone = sorted(set(before[kind]) - set(now[kind]))
            reasons.append(f"{kind} {', '.join(gone)} are not asked for now")
    return reasons


def outgrown(folder: Path, request: dict[str, Any]) -> bool:
    """Whether the folder now records a larger request, whose results are for another to write."""
    now = read_request(folder)
    if now is None or now == request:
        return False
    try:
        mine, theirs = _asked(request), _asked(now)
    except (KeyError, TypeError, AttributeError, ValueError):
        return False
    return mine < theirs


def _asked(request: dict[str, Any]) -> set[tuple[Any, ...]]:
    points = {("task", name) for name in request["tasks"]}
    return points | {(label, rank) for label, ranks in request["curves"] for rank in ranks}


def say_why_unused(store: CellStore, asked: Sequence[CellIdentity]) -> list[str]:
    """Names what separates cells in the folder from those that are asked for now.

    Returns:
        The fields of the cells' identities that differ, as they are said in a warning.
    """
    planned = {identity.key: identity for identity in asked}
    there = store.keys()
    unused = there - planned.keys()
    missing = [identity.to_dict() for key, identity in planned.items() if key not in there]
    if not unused or not missing:
        return []
    found: dict[str, str] = {}
    for key in sorted(unused)[:_MOST_READ]:
        try:
            old = read_cell(store.folder / f"{key}.json")["identity"]
        except ValueError:
            continue
        found.update(_nearest_difference(old, missing))
    if found:
        logger.warning(
            "%d cells in %s are not used, because %s",
            len(unused),
            store.folder,
            "; ".join(found.values()),
        )
    return sorted(found)


def _nearest_difference(old: dict[str, Any], missing: list[dict[str, Any]]) -> dict[str, str]:
    """What a missing cell of the same task, rank and truncation has that this one has not."""
    alike = [new for new in missing if all(new[name] == old.get(name) for name in _WHICH[:-1])]
    if not alike:  # a rank or a task that is not asked for now
        return {}
    new = min(alike, key=lambda new: sum(new[name] != old.get(name) for name in new))
    return {
        name: f"{name} was {_short(old.get(name))}, is {_short(value)}"
        for name, value in new.items()
        if old.get(name) != value
    }


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
