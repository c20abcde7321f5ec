"""Which tasks lm-eval has and what each needs, read from its YAML files without importing it.

lm-eval parses its 14,000 files in each process; this index is kept under their names and times.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml
from msgspec import UNSET

from aurac.arguments import alike, suggestion
from aurac.engine.tokens import most_new_tokens
from aurac.errors import TaskError
from aurac.files import sha256_json, write_json
from aurac.models import cache_root
from aurac.readers.data_files import cached_size, suffix_of
from aurac.tasks import BUNDLED, load_split

logger = logging.getLogger(__name__)

_SCHEMA = 1
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}  # as lm-eval
_YAML = (".yaml", ".yml")
_METRICS = {  # lm-eval's, where a task lists none
    "loglikelihood": ("perplexity", "acc"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Unresolved(_Loader):
    """Leaves `!function` as text, as lm-eval does for its index."""


_Unresolved.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


class IndexRow(NamedTuple):
    """One name."""

    kind: str  # `TASK`, `PY_TASK`, `GROUP` or `TAG`, as lm-eval calls them
    path: str | None  # the YAML file; None for a tag
    tags: list[str]  # of a task or group the tags that it bears, of a tag the tasks that bear it


class TaskFacts(NamedTuple):
    """What evaluating a task, group or tag takes, as far as its YAML says it."""

    name: str
    kind: str  # as in `IndexRow`, or `BUNDLED`
    output_type: str | None = None  # lm-eval's, such as ``multiple_choice`` or ``generate_until``
    num_fewshot: int | None = None  # examples in each prompt unless told otherwise
    data: str | None = None  # data set of the hub and its configuration, or the package
    split: str | None = None  # the one that is evaluated
    # How many it has, of a bundled task or one whose data are in the cache here
    documents: int | None = None
    writes: int | None = None  # most tokens that are generated for each document; 0 where none are
    members: tuple[str, ...] = ()  # tasks of a group or tag
    refused: str | None = None  # why aurac does not evaluate it
    metrics: tuple[str, ...] = ()  # ``name,filter``; by default the first is integrated


class TaskYaml(msgspec.Struct, rename={"class_": "class"}):
    """What is read of a task's or group's YAML; any value may stand there."""

    task: Any = None
    group: Any = UNSET
    class_: Any = UNSET
    tag: Any = None
    output_type: Any = "generate_until"
    num_fewshot: Any = None
    dataset_path: Any = None
    dataset_kwargs: Any = None
    dataset_name: Any = None
    training_split: Any = None
    validation_split: Any = None
    test_split: Any = None
    fewshot_split: Any = None
    fewshot_config: Any = None
    generation_kwargs: Any = None
    metric_list: Any = None
    filter_list: Any = None
    unsafe_code: Any = None
    doc_to_image: Any = None
    doc_to_audio: Any = None

    @property
    def kind(self) -> str:
        """As in `IndexRow`."""
        if self.class_ is not UNSET:
            return "PY_TASK"
        return "TASK" if self.group is UNSET else "GROUP"

    @property
    def source(self) -> str:
        """Where its documents are; a TaskError where files are to be read and none is named."""
        given = self.dataset_kwargs if isinstance(self.dataset_kwargs, dict) else {}
        if files := given.get("data_files") or given.get("data_dir"):
            return f"dataset_kwargs: data_files: {files}"
        if self.dataset_path in ("json", "csv", "parquet", "text"):
            raise TaskError(
                f"task {self.task!r} has `dataset_path: {self.dataset_path}` and names no files",
                expected="`dataset_kwargs: {data_files: {test: FILE}}` in its YAML",
            )
        return f"dataset_path: {self.dataset_path}"

    def split_called(self, name: str) -> Any:
        """Its own name for `test` or `validation`; a TaskError where it has no such split."""
        splits = {"test": self.test_split, "validation": self.validation_split}
        if not splits.get(name):
            there = " or ".join(each for each, named in splits.items() if named)
            raise TaskError(
                f"task {self.task!r} has no {name} split",
                expected=there,
                fix=f"name one as `{name}_split` in a YAML of your own",
            )
        return splits[name]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it reports, ``name,filter``."""
        rows = self.metric_list or [{"metric": n} for n in _METRICS.get(str(self.output_type), ())]
        listed = [row for row in rows if isinstance(row, dict) and "metric" in row]
        names = [str(row["metric"]).rpartition(".")[2] for row in listed]
        filters = [row.get("name") for row in self.filter_list or [{"name": "none"}]]
        return tuple(f"{name},{each}" for name in names for each in filters)

    @property
    def refused(self) -> str | None:
        """Why aurac does not evaluate such a task; None where it does."""
        if self.unsafe_code:
            return "runs code that the model writes"
        if self.doc_to_image or self.doc_to_audio:
            return "shows images or sounds"
        if self.output_type == "loglikelihood_rolling":
            return "has a perplexity, not an accuracy"
        return None


@cache
def task_index() -> dict[str, IndexRow]:
    """Name → row for every task, group and tag of the installed lm-eval."""
    root = _tasks_folder()
    files = sorted(_yaml_files(root))
    name = sha256_json([_SCHEMA, version("lm_eval"), str(root), files])
    file = cache_root() / "lm_eval" / f"{name[:32]}.json"
    try:
        return {name: IndexRow(*row) for name, row in json.loads(file.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError):
        index = read_index(path for path, _, _ in files)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for old in file.parent.glob("*.json"):
            old.unlink(missing_ok=True)
        write_json(file, index)
    except OSError as error:  # a read-only cache costs time, not the answer
        logger.info("the index of tasks could not be kept: %s", error)
    return index


def check_names(names: Sequence[str], include_path: Path | str | None = None) -> None:
    """Refuse a mistyped task before anything heavy is loaded; paths of YAML files pass.

    Of the names that lm-eval has the nearest are in the message. A folder ``include_path`` holds
    further tasks.
    """
    included = included_tasks(include_path)
    for name in names:
        if Path(name).suffix in _YAML or name in (*BUNDLED, *included):
            continue
        if suffix_of(Path(name)) and Path(name).is_file():
            raise TaskError(
                f"{name} is data, and a task is a YAML file that says how it is asked and scored",
                fix="write one beside it, as docs/howto/task.md shows, and give --tasks TASK.yaml",
            )
        if name not in (known := {**task_index(), **included}):
            raise _unknown(name, nearest(name, [*BUNDLED, *known]))


def _unknown(name: str, near: Sequence[str]) -> TaskError:
    """A name that is no task, and what it may be: a file or a folder here, or a name misspelt."""
    if Path(f"{name}.yaml").is_file():
        return TaskError(f"task {name!r} is a file here", fix=f"give --tasks ./{name}.yaml")
    if Path(name).is_dir():
        fix = f"give --tasks TASK --data {name} for its documents, or --include-path {name} for "
        return TaskError(f"task {name!r} is a folder", fix=f"{fix}tasks as YAML")
    return TaskError(
        f"task {name!r} is not known to lm-eval {version('lm_eval')}",
        expected=f"a task such as {', '.join(near)}" if near else None,
        fix=None if near else "search for a part of its name with `aurac tasks WORD`",
    )


def task_of(path: Path) -> tuple[str, IndexRow]:
    """The name in a YAML file and its row; a TaskError where that is no task."""
    if not path.is_file():
        near = suggestion(path.name, (each.name for each in path.parent.glob("*.yaml")))
        fix = near or "`aurac tasks` lists the tasks that go by name"
        raise TaskError(f"task file {path} does not exist", fix=fix)
    if path.suffix == ".yml":
        raise TaskError(f"lm-eval does not read {path}", fix=f"name it {path.stem}.yaml")
    try:
        settings = _read(path)
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        given = f"{path} cannot be read as a task ({error})"
        raise TaskError(given, expected="lm-eval's YAML") from error
    name = settings.group if settings.kind == "GROUP" else settings.task
    if not isinstance(name, str):
        given = f"{path} defines no task: it has no line `task: NAME`"
        raise TaskError(given, expected="lm-eval's YAML")
    return name, IndexRow(settings.kind, str(path), [])


def included_tasks(folder: Path | str | None) -> dict[str, IndexRow]:
    """The tasks of a folder of one's own, if one is given; a TaskError where it has none."""
    if not folder:
        return {}
    files = [path for path, _, _ in _yaml_files(folder)] if Path(folder).is_dir() else []
    index = read_index(files)
    if not index:
        what = "holds no task" if Path(folder).is_dir() else "is no folder"
        raise TaskError(
            f"--include-path {str(folder)!r} {what}",
            expected="a folder with tasks as lm-eval's YAML",
        )
    return index


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """At most three names that are spelled nearly as `name`, the nearest first."""
    plain = {_plain(each): each for each in known}
    return [plain[each] for each in alike(_plain(name), plain, 0.75)]


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
                state = entry.stat()
                yield entry.path, state.st_size, state.st_mtime_ns


def read_index(paths: Iterable[str]) -> dict[str, IndexRow]:
    """The index of these files, as `lm_eval.tasks.TaskManager` makes it in twice the time."""
    index: dict[str, IndexRow] = {}
    for path in sorted(paths):
        try:
            _add(index, path, _read(Path(path)))
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            logger.debug("no task in %s (%s)", path, error)
    return index


def _listed(value: Any) -> list[Any]:
    """A text alone as a list of one, nothing as none."""
    return [value] if isinstance(value, str) else list(value or [])


def _add(index: dict[str, IndexRow], path: str, settings: TaskYaml) -> None:
    kind = settings.kind
    name = settings.group if kind == "GROUP" else settings.task
    if not isinstance(name, str):
        raise TypeError(f"the name {name!r} is no text")
    if name in index:
        return
    tags = _listed(settings.tag)
    index[name] = IndexRow(kind, path, sorted(set(tags)))
    if kind != "GROUP":
        for tag in tags:
            row = index.setdefault(tag, IndexRow("TAG", None, []))
            if name not in row.tags:
                row.tags.append(name)


def search(word: str, include_path: Path | str | None = None) -> list[str]:
    """Names that contain a word or match a pattern such as ``mmlu_*``.

    Those from lm-eval's folder of that name come first, then the shortest.
    """
    rows = {**task_index(), **included_tasks(include_path)}
    pattern = _plain(word) if set("*?[") & set(word) else f"*{_plain(word)}*"

    def order(name: str) -> tuple[bool, int, str]:
        path = rows[name].path if name in rows else None
        return path is None or _plain(Path(path).parent.name) != _plain(word), len(name), name

    matching = (n for n in {*BUNDLED, *rows} if fnmatch.fnmatchcase(_plain(n), pattern))
    return sorted(matching, key=order)


def _row_of(name: str, include_path: Path | str | None) -> IndexRow:
    """Of a name or a YAML file; an unknown one is refused with the nearest names."""
    if name in BUNDLED:
        return IndexRow("BUNDLED", str(Path(__file__).parent / "bundled" / f"{name}.yaml"), [])
    check_names([name], include_path)
    if Path(name).suffix in _YAML:
        return task_of(Path(name))[1]
    return {**task_index(), **included_tasks(include_path)}[name]


def check_split(name: str, split: str | None, include_path: Path | str | None = None) -> None:
    """Refuse an unknown task, and one whose YAML has no such split, but for those of a group."""
    row = _row_of(name, include_path)
    if split and row.path is not None and row.kind in ("TASK", "BUNDLED"):
        _read(Path(row.path)).split_called(split)


def facts_of(name: str, include_path: Path | str | None = None) -> TaskFacts:
    """What a task needs; nothing is fetched. An unknown one is refused with the nearest names."""
    row = _row_of(name, include_path)
    if row.path is None:
        return TaskFacts(name, row.kind, members=tuple(row.tags))
    settings = _read(Path(row.path))
    if row.kind == "GROUP":
        parts = _listed(settings.task)
        members = (p if isinstance(p, str) else p.get("group") or p.get("task") for p in parts)
        return TaskFacts(name, row.kind, members=tuple(map(str, members)))
    facts, own = _task_facts(name, row.kind, settings), name in BUNDLED
    return facts._replace(data="aurac", documents=len(load_split(name, "test"))) if own else facts


def leaves_of(task: TaskFacts) -> set[str]:
    """The tasks of a group or a tag, with those of the groups in it."""
    rows, leaves = task_index(), set[str]()
    for name in task.members:
        inner = name in rows and rows[name].kind in ("GROUP", "TAG")
        leaves |= leaves_of(facts_of(name)) if inner else {name}
    return leaves


def check_data(data: Iterable[str], names: Sequence[str]) -> None:
    """Refuse data of what is none of these tasks by name, nor a leaf of their groups."""
    groups = (leaves_of(facts_of(name)) for name in names if name not in BUNDLED)
    if unknown := {*data}.difference(names, *groups):
        listed = f"one of {', '.join(names)}, or of a task in its group"
        raise TaskError(f"--data {min(unknown)}=…, which is not in --tasks", expected=listed)


def _task_facts(name: str, kind: str, settings: TaskYaml) -> TaskFacts:
    if kind == "PY_TASK":
        return TaskFacts(name, kind)
    path, subset = settings.dataset_path, settings.dataset_name
    split = settings.test_split or settings.validation_split
    generates = settings.output_type == "generate_until"
    return TaskFacts(
        name,
        kind,
        output_type=settings.output_type,
        num_fewshot=int(settings.num_fewshot or 0),
        data=f"{path} ({subset})" if path and subset else path,
        split=split,
        documents=cached_size(path, subset, split),
        writes=most_new_tokens(settings.generation_kwargs or {}) if generates else 0,
        refused=settings.refused,
        metrics=settings.metrics,
    )


def _read(path: Path) -> TaskYaml:
    """A YAML file with what it includes beneath it; a ValueError or TypeError for any other."""
    return msgspec.convert(_merged(path), TaskYaml)


def _merged(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, object]:
    if path in seen:
        raise ValueError(f"{path} includes itself")
    settings = dict(_parsed(path, path.stat().st_mtime_ns))
    beneath: dict[str, object] = {}
    for include in _listed(settings.pop("include", [])):
        beneath |= _merged((path.parent / include).resolve(), (*seen, path))
    return beneath | settings


@lru_cache(maxsize=256)  # dozens of tasks include the same file
def _parsed(path: Path, _changed: int) -> Any:
    return yaml.load(path.read_bytes(), Loader=_Unresolved)  # noqa: S506 - it is a safe loader
