"""lm-eval as it stands, quietly and isolated: tasks, seeds, hashes, errors and its own model."""

from __future__ import annotations

import importlib
import json
import logging
import math
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import cache, lru_cache, partial
from io import StringIO
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np

from aurac.arguments import suggestion
from aurac.errors import AuracError, DataError, TaskError, UsageError
from aurac.tasks import BUNDLED, include_path
from aurac.tasks.index import (
    IndexRow,
    TaskYaml,
    check_names,
    included_tasks,
    task_index,
    task_of,
)

_log = logging.getLogger(__name__)

PYTHON_SEED = 0
OTHER_SEED = 1234
"""The seeds that ``lm_eval.simple_evaluate`` sets by default, before it loads a task."""
LOGGERS = ("lm_eval", "datasets", "huggingface_hub")
BAR_MODULES = ("lm_eval.api.task", "lm_eval.api.model", "lm_eval.models.huggingface")
_UNDEFINED = "UndefinedError"  # jinja2's
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_UNREACHABLE = frozenset(
    {"ConnectError", "ConnectTimeout", "ConnectionError", "DatasetNotFoundError", "ReadTimeout"}
    | {"HfHubHTTPError", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}
)


def translated(
    error: Exception,
    leaf: str,
    settings: TaskYaml,
    *,
    requested: str,
    local: bool,
    source: str,
) -> AuracError:
    """A library's error, raised while the documents or prompts of task ``leaf`` were made.

    The user asked for it by the name ``requested``; ``settings`` are its YAML; ``local``: its
    documents came from local files, else from ``source``.
    """
    cause: BaseException = error
    while type(cause).__name__.startswith("DatasetGeneration") and cause.__cause__:
        cause = cause.__cause__
    if known := _unknown_name(cause, leaf, settings):
        wrong_data = local and known.expected
        return DataError(known.given, expected=known.expected) if wrong_data else known
    reason = f"{type(cause).__name__}: {cause}"
    if reason.startswith("ValueError: Sample larger than population"):  # of random.sample
        return UsageError(
            f"task {leaf!r} has too few documents for this number of few-shot examples",
            fix="give a smaller --num-fewshot",
        )
    if isinstance(cause, KeyError):  # of a key, or of a sentence that quotes one
        said = str(*cause.args[:1])
        reason = said if "'" in said else f"there is no {cause}"
    if local:
        return DataError(
            f"local data of task {leaf!r} does not fit its definition ({reason})",
            expected="the columns of the task's hub data set",
        )
    if unreachable(error):
        return DataError(
            f"the documents of task {leaf!r} are not on this machine and the hub cannot be reached",
            fix=f"give local files with --data {requested}=FOLDER",
        )
    read = cause is not error or isinstance(error, FileNotFoundError)
    fix = f"check the documents that its YAML names: {source}" if read else None
    return TaskError(f"lm-eval cannot build task {leaf!r} ({reason})", fix=fix)


def _unknown_name(cause: BaseException, leaf: str, settings: TaskYaml) -> TaskError | None:
    """A metric that lm-eval does not have, or a split or field that the documents do not have."""
    from lm_eval.api.registry import METRIC_REGISTRY

    if isinstance(cause, KeyError) and cause.args == (None,):  # it has no aggregation
        for name in (metric.partition(",")[0] for metric in settings.metrics):
            if name not in METRIC_REGISTRY:
                names = list(METRIC_REGISTRY)
                fix = suggestion(name, names) or f"lm-eval has {', '.join(names)}"
                return TaskError(f"task {leaf!r}: there is no metric {name!r}", fix=fix)
    key = cause.args[0] if isinstance(cause, KeyError) and cause.args else None
    fields = " and ".join(name for name in _SPLITS if key and getattr(settings, name) == key)
    for frame, _ in walk_tb(cause.__traceback__ if fields else None):
        there = getattr(frame.f_locals.get("self"), "dataset", None)
        if isinstance(there, dict) and key not in there:
            splits = f"a split of its documents: {', '.join(map(repr, there))}"
            return TaskError(f"{fields} of task {leaf!r}: {cause}", expected=splits)
    for frame, _ in walk_tb(cause.__traceback__ if type(cause).__name__ == _UNDEFINED else None):
        document, place = frame.f_locals.get("doc"), frame.f_code.co_name
        if isinstance(document, dict) and place.startswith("doc_to"):
            known = f"fields of its documents: {', '.join(map(repr, document))}"
            return TaskError(f"{place} of task {leaf!r}: {cause}", expected=known)
    return None


def unreachable(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, says that the hub or the data set was not reached."""
    while error is not None:
        if any(kind.__name__ in _UNREACHABLE for kind in type(error).__mro__):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def seeded(python: int, others: int) -> Iterator[None]:
    """Seeds Python's, numpy's and torch's global generators; puts the caller's states back."""
    import torch

    state, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 - tasks draw from it
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=list(devices)):
        random.seed(python)
        np.random.seed(others)  # noqa: NPY002
        torch.manual_seed(others)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numbers)  # noqa: NPY002


@contextmanager
def quiet(*, prints: bool = True) -> Iterator[None]:
    """Sends what lm-eval prints, warns and logs to the root logger; its bars are not drawn.

    Without ``prints`` standard output is left alone, for a caller that draws a bar on it.
    """
    import datasets

    output = StringIO()
    with ExitStack() as stack:
        for name in LOGGERS:
            logger = logging.getLogger(name)
            stack.enter_context(_replaced(logger, "handlers", value=[logging.NullHandler()]))
            stack.enter_context(_replaced(logger, "propagate", value=True))
        for name in BAR_MODULES:
            module = importlib.import_module(name)
            silent = partial(_without_bar, module.tqdm)
            stack.enter_context(_replaced(module, "tqdm", value=silent))
        if not datasets.are_progress_bars_disabled():
            datasets.disable_progress_bars()
            stack.callback(datasets.enable_progress_bars)
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        if prints:
            stack.enter_context(redirect_stdout(output))
        try:
            yield
        finally:
            for line in [str(w.message) for w in caught or ()] + output.getvalue().splitlines():
                _log.debug("%s", line)


@contextmanager
def _replaced(owner: Any, name: str, *, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    vars(owner)[name] = value
    try:
        yield
    finally:
        vars(owner)[name] = before


def _without_bar(tqdm: Any, *args: object, **kwargs: object) -> Any:
    return tqdm(*args, **{**kwargs, "disable": True})


@cache
def bundled_manager() -> Any:
    """Knows the bundled tasks only: reading lm-eval's own 14,000 files takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False, include_path=str(include_path()))


@cache
def full_manager(folder: str | None = None) -> Any:
    """Knows all tasks of lm-eval, from the index that is kept of them, and those of a folder."""
    from lm_eval.tasks import TaskManager

    return _with_stock_tasks(TaskManager(include_defaults=False, include_path=folder))


def _with_stock_tasks(manager: Any) -> Any:
    """The manager with lm-eval's own tasks beneath those that it knows."""
    for name, row in task_index().items():
        manager.task_index.setdefault(name, _entry(name, row))
    return manager


def _entry(name: str, row: IndexRow) -> Any:
    from lm_eval.tasks._index import Entry, Kind

    path = Path(row.path) if row.path else None
    return Entry(name, Kind[row.kind], path, tags=set(row.tags))


def find_task(requested: str, folder: Path | str | None = None) -> tuple[Any, str]:
    """The manager that knows a task, group, tag or YAML file, and its name there."""
    included_tasks(folder)  # whatever the task is, a folder that is none is refused
    if Path(requested).suffix in (".yaml", ".yml"):
        return _find_file(Path(requested))
    if requested in BUNDLED:
        return bundled_manager(), requested
    check_names([requested], folder)
    return full_manager(str(folder) if folder else None), requested


def _find_file(path: Path) -> tuple[Any, str]:
    from lm_eval.tasks import TaskManager

    name, row = task_of(path)
    manager = TaskManager(include_defaults=False, include_path=str(path.parent))
    manager.task_index[name] = _entry(name, row)  # in the place of another file's of this name
    return (_with_stock_tasks(manager) if row.kind == "GROUP" else manager), name


@cache
def compile_templates_once() -> None:
    """Keep lm-eval's compiled templates: it compiles them anew for each document and example.

    That is most of the time that building and judging take; a compiled template has no state.
    """
    from lm_eval.utils import env

    env.from_string = lru_cache(maxsize=1024)(env.from_string)


def sample_size(task: Any, limit: float) -> int:
    """As lm-eval: a share of the documents is rounded up."""
    return math.ceil(len(task.eval_docs) * limit) if limit < 1 else int(limit)


def integrable_metrics(task: Any) -> dict[str, bool]:
    """``name,filter`` → whether it is a mean over documents of which more is better."""
    from lm_eval.api.metrics import mean

    better = task.higher_is_better()
    return {
        f"{name},{ensemble.name}": aggregation is mean and bool(better.get(name, True))
        for name, aggregation in task.aggregation().items()
        for ensemble in task._filters
    }


def doc_hash(document: Any) -> str:
    """The ``doc_hash`` of lm-eval's samples."""
    from lm_eval.utils import handle_non_serializable, hash_string

    text = json.dumps(document, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return str(hash_string(text))
