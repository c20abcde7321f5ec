"""Opening a run folder: whose it is, what may be added, and why cells in it are not used."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurac.errors import RunFolderError
from aurac.files import sha256_json, write_json
from aurac.tasks.options import PROMPTING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.runs.schema import CellIdentity
    from aurac.runs.store import CellStore

logger = logging.getLogger(__name__)

REQUEST_FILE = "run.json"
SUBSETS = "subsets"
_MOST_READ = 64  # cells that are read to say why they are not used
_MOST_MERGES = 5
_LISTED = 5  # names in a message
_WHICH = ("task", "rank", "basis", "rescale", "adapter_sha256")
_OF_PROMPTS = {"split", "num_fewshot", "fewshot", "seed", "chat_template", *PROMPTING}
"""Settings that change the documents or the prompts of every task."""


def open_run_folder(
    out: str | Path | None,
    tasks: Sequence[str],
    request: dict[str, Any],
    command: str | None = None,
) -> Path:
    """Make the run folder, or add this request to the run that it holds.

    Args:
        out: See `find_run_folder`, like the next three.
        tasks: See there.
        request: See there.
        command: See there.

    Raises:
        RunFolderError: It holds something else, and nothing in it is touched; or it cannot be
            written.
    """
    folder, begun = find_run_folder(out, tasks, request, command)
    try:
        if not begun:
            with contextlib.suppress(FileExistsError):  # another process began it a moment ago
                write_json(folder / REQUEST_FILE, request, exclusive=True)
        for _ in range(_MOST_MERGES):  # processes that add to one run at once see each other's
            before = check_same_run(folder, request, command)
            union = _union(before, request)
            if union == before:
                break
            write_json(folder / REQUEST_FILE, union)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def find_run_folder(
    out: str | Path | None,
    tasks: Sequence[str],
    request: dict[str, Any],
    command: str | None = None,
) -> tuple[Path, bool]:
    """The folder that a request runs in, and whether a run has begun there; nothing is written.

    Args:
        out: The folder that was named; None: one below `runs`.
        tasks: Their names.
        request: See `aurac.runs.session.Session.request`.
        command: The command line, to suggest another one.

    Raises:
        RunFolderError: It holds another run or other files, or cannot be read.
    """
    folder = place_of(out, tasks, request)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"--out {folder} is a file", expected="a folder")
    if (folder / REQUEST_FILE).is_file():
        check_same_run(folder, request, command)
        return folder, True
    scrap = f".{REQUEST_FILE}."  # of another process that begins the same run just now
    try:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        raise _unwritable(folder, error) from error
    if any(not name.startswith(scrap) for name in names) and REQUEST_FILE not in names:
        raise RunFolderError(
            f"--out {folder} holds other files",
            expected="a new or empty folder, or the folder of this same run",
            fix="choose another --out",
        )
    return folder, False


def _unwritable(folder: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"--out {folder} cannot be written ({error.strerror})", fix="choose another --out"
    )


def place_of(out: str | Path | None, tasks: Sequence[str], request: dict[str, Any]) -> Path:
    """The run folder of a request: the one that was named, else one of its own below `runs`."""
    name = "-".join(tasks)[:60].replace("/", "_")
    prompts = {task: recorded["first_prompt"] for task, recorded in request["tasks"].items()}
    digest = sha256_json({**request, "tasks": prompts})  # however many documents are asked for
    return Path(out) if out else Path("runs") / f"{name}-{digest[:8]}"


def check_same_run(
    folder: Path, request: dict[str, Any], command: str | None = None
) -> dict[str, Any]:
    """The request that a run folder records, if this one may be added to it.

    Raises:
        RunFolderError: It holds another run.
    """
    before = read_request(folder)
    changed: dict[str, Any] = {}
    reasons = [f"its {REQUEST_FILE} cannot be read"]
    if before is not None:
        with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
            _asked(before)
            changed = _changed_settings(before, request)
            reasons = _conflicts(before, request, changed)
            if not reasons:
                return before
    expected = "the same settings, or a new folder"
    elsewhere = _free_folder(folder, changed)
    again = f"`{_with_out(command, elsewhere)}`" if command else f"--out {elsewhere}"
    raise RunFolderError(
        f"--out {folder} holds another run ({'; '.join(reasons)})",
        expected=expected,
        fix=f"give {again} to run this beside it",
    )


def _changed_settings(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    settings = before["settings"]
    return {k: value for k, value in now["settings"].items() if settings.get(k) != value}


def _conflicts(before: dict[str, Any], now: dict[str, Any], changed: dict[str, Any]) -> list[str]:
    """Why `now` cannot be added to the run `before`."""
    reasons = [
        f"{key} was {_worded(before['settings'].get(key))}, is {_worded(value)}"
        for key, value in changed.items()
    ]
    reasons += [
        f"adapter {name} has other content: its weights changed"
        for name, digest in before["adapters"].items()
        if now["adapters"].get(name, digest) != digest
    ]
    if not changed.keys() & _OF_PROMPTS:
        reasons += [
            f"task {name} has other content: its prompts or documents changed"
            for name, recorded in before["tasks"].items()
            if now["tasks"].get(name, recorded)["first_prompt"] != recorded["first_prompt"]
        ]
    return reasons


def _worded(value: Any) -> str:
    return "not given" if value is None else repr(_short(value))


def _free_folder(folder: Path, changed: dict[str, Any]) -> Path:
    """A folder beside this one that is not there, named for the first setting that changed."""
    key, value = next(iter(changed.items()), ("", ""))
    named = re.fullmatch(r"[\w.]{1,12}", str(value)) is not None and value is not None
    stem = f"{folder}-{key.replace('_', '-')}-{value}" if named else f"{folder}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    return next(Path(name) for name in names if not Path(name).exists())


def _with_out(command: str, folder: Path) -> str:
    """A command line with this folder as its --out."""
    words = shlex.split(command)
    kept = [
        word
        for place, word in enumerate(words)
        if word != "--out"
        and not word.startswith("--out=")
        and (place == 0 or words[place - 1] != "--out")
    ]
    return shlex.join([*kept, "--out", str(folder)])


def read_request(folder: Path) -> dict[str, Any] | None:
    """The request that a run folder records; None where it cannot be read."""
    try:
        request = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return request if isinstance(request, dict) else None


def recorded_names(out: str | Path | None) -> dict[str, str]:
    """Adapters' hash → the name that a run folder has given them."""
    adapters = (read_request(Path(out)) or {}).get("adapters") if out else None
    if not isinstance(adapters, dict):
        return {}
    return {digest: name for name, digest in adapters.items() if isinstance(digest, str)}


def _union(before: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """A request for all that either asks for."""
    ranks = {label: set(known) for label, known in before["curves"]}
    tasks = {
        name: _larger(before["tasks"].get(name), task) for name, task in request["tasks"].items()
    }
    for label, more in request["curves"]:
        ranks[label] = ranks.get(label, set()) | set(more)
    return {
        **before,
        "adapters": before["adapters"] | request["adapters"],
        "curves": [[label, sorted(known)] for label, known in ranks.items()],
        "tasks": before["tasks"] | tasks,
    }


def _larger(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    return before if before and before["documents"] > now["documents"] else now


def _asked(request: dict[str, Any]) -> set[tuple[str, int]]:
    return {(label, rank) for label, ranks in request["curves"] for rank in ranks}


def held_besides(folder: Path, request: dict[str, Any]) -> list[str]:
    """What a run folder records beyond a request, in words: adapters, tasks, ranks, documents."""
    held = read_request(folder)
    if held is None:
        return []
    try:
        asked = _asked(request)
        absent = [name for name in held["adapters"] if name not in request["adapters"]]
        tasks = [name for name in held["tasks"] if name not in request["tasks"]]
        grown = [
            f"{held['tasks'][name]['documents']} documents of {name}"
            for name, task in request["tasks"].items()
            if name in held["tasks"] and held["tasks"][name]["documents"] > task["documents"]
        ]
        curves: dict[tuple[str, ...], list[str]] = {}
        for label, ranks in held["curves"]:
            more = tuple(str(rank) for rank in ranks if (label, rank) not in asked)
            if more and label.rsplit(" · ", 2)[0] not in absent:
                curves.setdefault(more, []).append(label)
    except (KeyError, TypeError, AttributeError, ValueError):
        return []
    parts = [_counted("adapter", absent), _counted("task", tasks), *grown]
    for more, labels in curves.items():
        whose = labels[0] if len(labels) == 1 else f"{len(labels)} curves"
        parts.append(f"{_counted('rank', more)} of {whose}")
    return [part for part in parts if part]


def _counted(noun: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    plural = "s" if len(names) > 1 else ""
    return f"{noun}{plural} {', '.join(names[:_LISTED])}{more}" if names else ""


def subset_folder(folder: Path, request: dict[str, Any]) -> Path:
    """Where the results of a request lie, if the run folder holds more than it asks for."""
    name = re.sub(r"[^\w.-]+", "_", "-".join(request["adapters"]))[:60]
    return folder / SUBSETS / f"{name}-{sha256_json(request)[:8]}"


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
    count = 0
    for key in sorted(unused)[:_MOST_READ]:
        old = store.read(key, ())
        difference = _nearest_difference(old.identity.to_dict(), missing) if old else {}
        found.update(difference)
        count += bool(difference)
    if found:
        logger.warning(
            "%s%d cells in %s are not used, because %s",
            "at least " if len(unused) > _MOST_READ else "",
            count,
            store.folder,
            "; ".join(found.values()),
        )
    return sorted(found)


def _nearest_difference(old: dict[str, Any], missing: list[dict[str, Any]]) -> dict[str, str]:
    """What a missing cell of the same task, adapter, rank and truncation has instead."""
    alike = [new for new in missing if all(new[name] == old.get(name) for name in _WHICH)]
    if not alike:  # an adapter, a rank or a task that is not asked for now
        return {}
    new = min(alike, key=lambda new: sum(new[name] != old.get(name) for name in new))
    return {
        name: f"{name} was {_short(old.get(name))}, is {_short(value)}"
        for name, value in new.items()
        if old.get(name) != value
    }


def _short(value: Any) -> Any:
    return value[:12] if isinstance(value, str) and len(value) == 64 else value
