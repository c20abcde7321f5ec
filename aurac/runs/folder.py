"""Opening a run folder: which run it holds, what may be added, and why cells in it are not used."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from aurac.curves.names import label_names
from aurac.errors import RunFolderError
from aurac.files import Json, names_in, sha256_json, unwritable, write_json
from aurac.records.cell import CellIdentity, SchemaNumber, read_record, refuse_newer
from aurac.records.decisions import AFTER, BEFORE, Declaration
from aurac.records.results_file import (
    REQUEST_FILE,
    RESULTS_FILE,
    RESULTS_SCHEMA,
    SUBSETS,
    Record,
    TaskDocuments,
)
from aurac.records.store import CellStore
from aurac.tasks.options import Prompting

logger = logging.getLogger(__name__)

REQUEST_SCHEMA = 1
_MOST_READ = 64  # cells that are read to say why they are not used
_MOST_MERGES = 5
_LISTED = 5  # names in a message
_WHICH = ("task", "rank", "basis", "rescale", "adapter_sha256")
_OF_PROMPTS = {
    *("split", "num_fewshot", "fewshot", "seed", "chat_template", "tokenizer"),
    *Prompting.__annotations__,
}
"""Settings that change the documents or the prompts of every task."""


class RequestSettings(Record, frozen=True, kw_only=True):
    """What must be the same for two requests to share a run folder."""

    base_sha256: str | None = None
    dtype: str | None = None
    device_kind: str | None = None
    batching: str | None = None
    seed: int | None = None
    fewshot: str | None = None
    num_fewshot: int | None = None
    chat_template: bool | str | None = None
    split: str | None = None
    tokenizer: str | None = None
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: str | None = None
    repeats: int | None = None
    max_length: int | None = None


class RequestedTask(Record, frozen=True, kw_only=True):
    """A task's first prompt, hashed, and how many documents were asked for."""

    first_prompt: str
    documents: int


class RunRequest(Record, frozen=True, kw_only=True):
    """`run.json`: all that was ever asked for: name → SHA-256, labels with ranks, and tasks."""

    schema: int = REQUEST_SCHEMA
    settings: RequestSettings
    adapters: dict[str, str]
    curves: list[tuple[str, list[int]]]
    tasks: dict[str, RequestedTask]
    primary: Declaration | UnsetType = UNSET

    @classmethod
    def read(cls, folder: Path) -> RunRequest | None:
        """The request that a run folder records; None where it cannot be read."""
        try:
            return read_record(folder / REQUEST_FILE, cls)
        except RunFolderError:
            return None


def open_run_folder(
    out: str | Path | None, tasks: Sequence[str], request: RunRequest, command: str | None = None
) -> Path:
    """Make the run folder, or add this request to the run that it holds; see `find_run_folder`.

    Raises:
        RunFolderError: It holds something else, and nothing in it is touched; or it cannot be
            written.
    """
    folder, begun = find_run_folder(out, tasks, request, command)
    try:
        if not begun:
            with contextlib.suppress(FileExistsError):  # another process began it a moment ago
                write_json(folder / REQUEST_FILE, request.to_dict(), exclusive=True)
        for _ in range(_MOST_MERGES):  # processes that add to one run at once see each other's
            before = _same_run(folder, request, command)
            union = _union(before, request, folder)
            if union == before:
                break
            write_json(folder / REQUEST_FILE, union.to_dict())
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def find_run_folder(
    out: str | Path | None, tasks: Sequence[str], request: RunRequest, command: str | None = None
) -> tuple[Path, bool]:
    """The folder that a request runs in, and whether a run has begun there; nothing is written.

    Without `out` it is one below `runs`, named for tasks and request. `command` suggests another.

    Raises:
        RunFolderError: It holds another run or other files, or cannot be read.
    """
    folder = Path(out) if out else _default_folder(tasks, request)
    names = names_in(folder)
    if (folder / REQUEST_FILE).is_file():
        for name, known in ((REQUEST_FILE, REQUEST_SCHEMA), (RESULTS_FILE, RESULTS_SCHEMA)):
            schema = None
            with contextlib.suppress(RunFolderError):  # missing or damaged: it is written again
                schema = read_record(folder / name, SchemaNumber).schema
            refuse_newer(schema, known, folder / name)
        _same_run(folder, request, command)
        return folder, True
    temporary = f".{REQUEST_FILE}."  # of another process that begins the same run just now
    if any(not name.startswith(temporary) for name in names) and REQUEST_FILE not in names:
        raise RunFolderError(
            f"--out {folder} holds other files",
            expected="a new or empty folder, or the folder of this same run",
            fix="choose another --out",
        )
    return folder, False


def _default_folder(names: Sequence[str], request: RunRequest) -> Path:
    """The same however many documents are asked for."""
    tasks = {task: recorded.first_prompt for task, recorded in request.tasks.items()}
    files = [Path(name).suffix in (".yaml", ".yml") for name in names]
    called = (Path(n).stem if is_file else n for n, is_file in zip(names, files, strict=True))
    name = "-".join([*tasks] if len(tasks) == 1 and any(files) else called)
    name = name[:60].replace("/", "_")
    same = {**_undeclared(request), "tasks": tasks}
    return Path("runs") / f"{name}-{sha256_json(same)[:8]}"


def _undeclared(request: RunRequest) -> dict[str, Json]:
    """A request without its primary comparisons, for names of folders."""
    return {name: value for name, value in request.to_dict().items() if name != "primary"}


def _same_run(folder: Path, request: RunRequest, command: str | None) -> RunRequest:
    """The request that a run folder records; refuses a run that this one cannot be added to."""
    before = RunRequest.read(folder)
    changed: dict[str, tuple[Json, Json]] = {}
    reasons = [f"its {REQUEST_FILE} cannot be read"]
    if before is not None:
        changed = _unequal(before.settings.to_dict(), request.settings.to_dict())
        reasons = _conflicts(before, request, changed)
        if not reasons:
            return before
    elsewhere = _free_folder(folder, changed)
    again = f"`{_with_out(command, elsewhere)}`" if command else f"--out {elsewhere}"
    raise RunFolderError(
        f"--out {folder} holds another run ({'; '.join(reasons)})",
        expected="the same settings, or a new folder",
        fix=f"give {again} to run this beside it",
    )


def _unequal(before: Mapping[str, Json], now: Mapping[str, Json]) -> dict[str, tuple[Json, Json]]:
    """Name → what it was and is, where that is not the same; None where it was left out."""
    pairs = {name: (before.get(name), now.get(name)) for name in {**now, **before}}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def _conflicts(
    before: RunRequest, now: RunRequest, changed: dict[str, tuple[Json, Json]]
) -> list[str]:
    """Why `now` cannot be added to the run `before`."""
    reasons = [f"{name} was {_said(old)}, is {_said(new)}" for name, (old, new) in changed.items()]
    reasons += [
        f"adapter {name} has other content: its weights changed"
        for name, digest in before.adapters.items()
        if now.adapters.get(name, digest) != digest
    ]
    if not changed.keys() & _OF_PROMPTS:
        reasons += [
            f"task {name} has other content: its prompts or documents changed"
            for name, task in before.tasks.items()
            if now.tasks.get(name, task).first_prompt != task.first_prompt
        ]
    return reasons


def _said(value: Any) -> str:
    return "not given" if value is None else repr(_short(value))


def _short(value: Any) -> Any:
    return value[:12] if isinstance(value, str) and len(value) == 64 else value


def _free_folder(folder: Path, changed: dict[str, tuple[Json, Json]]) -> Path:
    """A folder beside this one that is not there, named for the first setting that changed."""
    name, (_, value) = next(iter(changed.items()), ("", (None, None)))
    named = value is not None and re.fullmatch(r"[\w.]{1,12}", str(value)) is not None
    stem = f"{folder}-{name.replace('_', '-')}-{value}" if named else f"{folder}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    return next(Path(name) for name in names if not Path(name).exists())


def _with_out(command: str, folder: Path) -> str:
    """A command line with this folder as its --out."""
    words = shlex.split(command)
    kept = [
        word
        for before, word in zip(("", *words), words, strict=False)
        if "--out" not in (before, word) and not word.startswith("--out=")
    ]
    return shlex.join([*kept, "--out", str(folder)])


def recorded_names(out: str | Path | None) -> dict[str, str]:
    """Adapters' hash → the name that a run folder has given them."""
    request = RunRequest.read(Path(out)) if out else None
    return {digest: name for name, digest in request.adapters.items()} if request else {}


def _union(before: RunRequest, request: RunRequest, folder: Path) -> RunRequest:
    """A request for all that either asks for; comparisons that are declared anew are dated."""
    ranks = {label: set(known) for label, known in before.curves}
    for label, more in request.curves:
        ranks[label] = ranks.get(label, set()) | set(more)
    tasks = {
        name: max(before.tasks.get(name, task), task, key=lambda task: task.documents)
        for name, task in request.tasks.items()
    }
    primary = before.primary
    if request.primary and (not primary or primary.pairs != request.primary.pairs):
        declared = AFTER if CellStore(folder).keys() else BEFORE
        primary = msgspec.structs.replace(request.primary, declared=declared)
    return msgspec.structs.replace(
        before,
        primary=primary,
        adapters=before.adapters | request.adapters,
        curves=[(label, sorted(known)) for label, known in ranks.items()],
        tasks=before.tasks | tasks,
    )


def recorded_besides(folder: Path, request: RunRequest) -> list[str]:
    """What a run folder records beyond a request, in words: adapters, tasks, documents, ranks."""
    recorded = RunRequest.read(folder)
    if recorded is None:
        return []
    absent = [name for name in recorded.adapters if name not in request.adapters]
    tasks = [name for name in recorded.tasks if name not in request.tasks]
    parts = [_counted("adapter", absent)] if absent else []
    parts += [_counted("task", tasks)] if tasks else []
    parts += [
        f"{recorded.tasks[name].documents} documents of {name}"
        for name, task in request.tasks.items()
        if name in recorded.tasks and recorded.tasks[name].documents > task.documents
    ]
    wanted, curves = dict(request.curves), dict[tuple[str, ...], list[str]]()
    called = label_names(label for label, _ in recorded.curves)
    for label, ranks in recorded.curves:
        more = tuple(str(rank) for rank in ranks if rank not in wanted.get(label, ()))
        if more and label.rsplit(" · ", 2)[0] not in absent:
            curves.setdefault(more, []).append(label)
    for more, labels in curves.items():
        whose = called[labels[0]] if len(labels) == 1 else f"{len(labels)} curves"
        parts.append(f"{_counted('rank', more)} of {whose}")
    return parts


def _counted(noun: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:_LISTED])}{more}"


def subset_folder(folder: Path, request: RunRequest) -> Path:
    """Where the results of a request lie, if the run folder holds more than it asks for."""
    name = re.sub(r"[^\w.-]+", "_", "-".join(request.adapters))[:60]
    return folder / SUBSETS / f"{name}-{sha256_json(_undeclared(request))[:8]}"


def remove_texts(folder: Path) -> None:
    """Remove the texts of documents and prompts from a run folder; their identities stay."""
    for file in (folder / "documents").glob("*.json"):
        kept = read_record(file, TaskDocuments)
        nothing = [None] * len(kept.doc_ids)
        bare = msgspec.structs.replace(kept, questions=nothing, targets=nothing, choices=None)
        write_json(file, bare.to_dict())
    shutil.rmtree(folder / "requests", ignore_errors=True)


def warn_unused(store: CellStore, planned: Sequence[CellIdentity]) -> list[str]:
    """Warn of cells in the folder that differ from planned ones in settings; returns which."""
    keys, there = {identity.key for identity in planned}, store.keys()
    unused = there - keys
    missing = [identity.to_dict() for identity in planned if identity.key not in there]
    if not unused or not missing:
        return []
    reasons: dict[str, str] = {}
    count = 0
    for key in sorted(unused)[:_MOST_READ]:
        if (cell := store.read(key, ())) is None:
            continue
        old = cell.identity.to_dict()
        alike = [_unequal(old, new) for new in missing if all(new[n] == old[n] for n in _WHICH)]
        nearest = min(alike, key=len, default={})
        count += bool(nearest)
        for name, (before, now) in nearest.items():
            reasons[name] = f"{name} was {_short(before)}, is {_short(now)}"
    if reasons:
        least = "at least " if len(unused) > _MOST_READ else ""
        why = "; ".join(reasons.values())
        logger.warning("%s%d cells in %s are not used, because %s", least, count, store.folder, why)
    return sorted(reasons)
