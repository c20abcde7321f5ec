"""Which tasks lm-eval has, read from its YAML files without importing it.

lm-eval parses all of its 14,000 files whenever it is asked for a task. Names, kinds and tags stand
in a few top-level keys, so only these are read here, once for each state of the files: the index is
kept in the cache under the names, sizes and times of the files.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import logging
import os
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from aurac.errors import TaskError
from aurac.files import sha256_json, write_json
from aurac.models import cache_root
from aurac.tasks import BUNDLED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


logger = logging.getLogger(__name__)

_SCHEMA = 1
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}  # as lm-eval
_KEYS = re.compile(
    rb"""^["']?(task|group|tag|class|include)["']?[ \t]*:.*(?:\n(?:[ \t#-].*)?)*""", re.MULTILINE
)
_SIMPLE = re.compile(rb"""["']?\w+["']?[ \t]*:[ \t]+(["']?)([A-Za-z_][\w.-]*)\1\s*""")
_CONSTANTS = {b"true", b"false", b"yes", b"no", b"on", b"off", b"null", b"y", b"n"}
_NEAR, _NEARLY_AS_NEAR = 0.7, 0.1  # similarity of difflib: the least, and the loss to the best
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Unresolved(_Loader):
    """Leaves `!function` as text, as lm-eval does for its index."""


_Unresolved.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


class IndexRow(NamedTuple):
    """One name.

    Attributes:
        kind: `TASK`, `PY_TASK`, `GROUP` or `TAG`, as lm-eval calls them.
        path: The YAML file; None for a tag.
        tags: Of a task or group the tags that it bears, of a tag the tasks that bear it.
    """

    kind: str
    path: str | None
    tags: list[str]


@cache
def task_index() -> dict[str, IndexRow]:
    """Name → row for every task, group and tag of the installed lm-eval."""
    root = _tasks_folder()
    files = sorted(_yaml_files(root))
    name = sha256_json([_SCHEMA, version("lm_eval"), str(root), files])
    kept = cache_root() / "lm_eval" / f"{name[:32]}.json"
    try:
        return {name: IndexRow(*row) for name, row in json.loads(kept.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError):
        found = read_index(path for path, _, _ in files)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        for old in kept.parent.glob("*.json"):
            old.unlink(missing_ok=True)
        write_json(kept, found)
    except OSError as error:  # a read-only cache costs time, not the answer
        logger.info("the index of tasks could not be kept: %s", error)
    return found


def check_names(names: Sequence[str], include_path: Path | str | None = None) -> None:
    """Refuse a mistyped task before anything heavy is loaded; paths of YAML files pass.

    Args:
        names: Of tasks, groups or tags.
        include_path: A folder with further tasks.

    Raises:
        TaskError: lm-eval knows no such task; the nearest names are given.
    """
    included = included_tasks(include_path) if include_path else {}
    for name in names:
        if Path(name).suffix not in (".yaml", ".yml") and name not in (*BUNDLED, *included):
            _check(name, {**task_index(), **included})


def included_tasks(folder: Path | str) -> dict[str, IndexRow]:
    """The tasks of a folder of one's own.

    Raises:
        TaskError: There is no such folder, or no task in it.
    """
    files = [path for path, _, _ in _yaml_files(folder)] if Path(folder).is_dir() else []
    index = read_index(files)
    if not index:
        raise TaskError(
            f"--include-path {str(folder)!r} holds no task",
            expected="a folder with tasks as lm-eval's YAML",
        )
    return index


def _check(name: str, index: dict[str, IndexRow]) -> None:
    if name in index:
        return
    near = nearest(name, [*BUNDLED, *index])
    raise TaskError(
        f"task {name!r} is not known to lm-eval {version('lm_eval')}",
        expected=f"a task such as {', '.join(near)}" if near else None,
        fix="lm-eval ls tasks lists them all" if not near else None,
    )


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """At most three names that are spelled nearly as `name`, the nearest first."""
    plain = {_plain(each): each for each in known}
    scored = [
        (difflib.SequenceMatcher(None, each, _plain(name)).ratio(), each)
        for each in difflib.get_close_matches(_plain(name), plain, n=3, cutoff=_NEAR)
    ]
    best = max(scored, default=(0.0, ""))[0]
    return [plain[each] for score, each in scored if score >= best - _NEARLY_AS_NEAR]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _tasks_folder() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise TaskError("lm-eval is not installed", fix="pip install lm-eval")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def _yaml_files(folder: Path | str) -> Iterator[tuple[str, int, int]]:
    """(path, size, time of change) of all YAML files below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name not in _IGNORED:
                    yield from _yaml_files(entry.path)
            elif entry.name.endswith(".yaml"):
                found = entry.stat()
                yield entry.path, found.st_size, found.st_mtime_ns


def read_index(paths: Iterable[str]) -> dict[str, IndexRow]:
    """The index of these files, as `lm_eval.tasks.TaskManager` makes it.

    Args:
        paths: In order; of two files with one name the first counts. A file that is no task or
            cannot be read is left out.
    """
    index: dict[str, IndexRow] = {}
    for path in sorted(paths):
        try:
            keys = _top_keys(Path(path), ())
            _add(index, path, keys)
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            logger.debug("no task in %s (%s)", path, error)
    return index


def _add(index: dict[str, IndexRow], path: str, keys: dict[str, Any]) -> None:
    kind = "PY_TASK" if "class" in keys else "GROUP" if "group" in keys else "TASK"
    name = keys["group" if kind == "GROUP" else "task"]
    if not isinstance(name, str):
        raise TypeError(f"the name {name!r} is no text")
    if name in index:
        return
    asked = keys.get("tag") or []
    tags = [asked] if isinstance(asked, str) else list(asked)
    index[name] = IndexRow(kind, path, sorted(set(tags)))
    if kind != "GROUP":
        for tag in tags:
            row = index.setdefault(tag, IndexRow("TAG", None, []))
            if name not in row.tags:
                row.tags.append(name)


def _top_keys(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The keys that name a task, with those of included files beneath."""
    if path in seen:
        raise ValueError(f"{path} includes itself")
    keys: dict[str, Any] = {}
    for match in _KEYS.finditer(path.read_bytes()):
        simple = _SIMPLE.fullmatch(match[0])
        if simple and (simple[1] or simple[2].lower() not in _CONSTANTS):
            keys[match[1].decode()] = simple[2].decode()
        elif match[1] == b"class":
            keys["class"] = True
        else:
            keys.update(yaml.load(match[0], Loader=_Unresolved))  # noqa: S506 - it is a safe loader
    includes = keys.pop("include", [])
    beneath: dict[str, Any] = {}
    for include in [includes] if isinstance(includes, str) else includes:
        beneath.update(_top_keys((path.parent / include).resolve(), (*seen, path)))
    return beneath | keys
