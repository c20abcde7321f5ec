"""The names of lm-eval's tasks and their files, without importing lm-eval.

`lm_eval.tasks.TaskManager` parses 14,000 files; its listing is kept as one JSON file in the cache
folder, under lm-eval's version.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from aurac.errors import TaskError
from aurac.files import write_atomic
from aurac.models import cache_root
from aurac.readers.data_files import suffix_of
from aurac.tasks.bundled import BUNDLED, include_path

_SCHEMA = 2


class ListedTask(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the tasks of a name are.

    Attributes:
        kind: `TASK`, `PY_TASK` (a Python class), `GROUP` or `TAG`, as lm-eval calls them.
        file: Its YAML file, below lm-eval's folder of tasks where it lies there; None of a tag.
        tags: Tasks of a tag.
    """

    kind: str
    file: str | None = None
    tags: tuple[str, ...] = ()


@cache
def stock_tasks() -> dict[str, ListedTask]:
    """Name → row of every task, group and tag of the installed lm-eval, and the bundled tasks."""
    file = cache_root() / "lm_eval" / f"tasks-{version('lm_eval')}-{_SCHEMA}.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, ListedTask])
    except (OSError, msgspec.DecodeError):
        rows = _listed(include_path=str(include_path()))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, msgspec.json.encode(rows))
    except OSError:  # a cache that cannot be written costs seconds, not the answer
        pass
    return rows


@cache
def included_tasks(folder: str) -> dict[str, ListedTask]:
    """The tasks of the user's ``--include-path``; a TaskError where the folder holds none."""
    rows = _listed(include_path=folder, include_defaults=False)
    if not rows:
        raise TaskError(f"--include-path {folder} holds no task as lm-eval's YAML.")
    return rows


def all_tasks(folder: Path | str | None = None) -> dict[str, ListedTask]:
    """Everything that goes by name; ``folder`` is the user's ``--include-path``."""
    return {**stock_tasks(), **(included_tasks(str(folder)) if folder else {})}


def task_folder() -> Path:
    """lm-eval's folder of tasks."""
    (folder,) = find_spec("lm_eval").submodule_search_locations  # type: ignore[union-attr, misc]
    return Path(folder) / "tasks"


def _listed(**where: Any) -> dict[str, ListedTask]:
    """The tasks that a `lm_eval.tasks.TaskManager` with these arguments finds."""
    from lm_eval.tasks import TaskManager

    return {name: _row(entry) for name, entry in TaskManager(**where).task_index.items()}


def _row(entry: Any) -> ListedTask:
    path, root = entry.yaml_path, task_folder()
    if path is not None:
        path = path.relative_to(root) if path.is_relative_to(root) else path.absolute()
    tags = tuple(sorted(entry.tags)) if entry.kind.name == "TAG" else ()
    return ListedTask(entry.kind.name, None if path is None else path.as_posix(), tags)


def is_file(name: str) -> bool:
    """Whether a task is given by its YAML file."""
    return name.endswith((".yaml", ".yml"))


def is_data(name: str) -> bool:
    """Whether a task is given by a file of its examples."""
    return bool(suffix_of(Path(name)))


def expand(names: Iterable[str], folder: Path | str | None = None) -> list[str]:
    """Names of tasks with patterns such as ``mmlu_*`` replaced by what they match, each once.

    Raises:
        TaskError: lm-eval has no such task, or there is no such file. Nothing heavy is loaded.
    """
    tasks: list[str] = []
    for name in names:
        if is_file(name) or is_data(name):
            if not Path(name).is_file():
                raise TaskError(f"The task file {name} does not exist.")
            tasks.append(name)
        elif name in BUNDLED and not folder:
            tasks.append(name)
        else:
            known = all_tasks(folder)
            matching = [name] if name in known else fnmatch.filter(sorted(known), name)
            if not matching:
                raise _unknown(name, known)
            tasks += matching
    return list(dict.fromkeys(tasks))


def _unknown(name: str, known: Iterable[str]) -> TaskError:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.75)
    near = "`lm-eval ls tasks` lists the names."
    if Path(name).is_file():
        near = "a file of examples ends in .jsonl, .json, .parquet or .csv, one of a task in .yaml."
    elif Path(f"{name}.yaml").is_file():
        near = f"did you mean ./{name}.yaml?"
    elif close:
        near = f"did you mean {', '.join(close)}?"
    return TaskError(f"Task {name!r} is not known to lm-eval {version('lm_eval')}; {near}")
