"""Builds the examples and requests of tasks, as ``lm_eval.simple_evaluate`` does.

With `listing` and `evaltask` the border to lm-eval. It uses more than lm-eval's documented surface
(entries of the index, requests, filters, samplers); ``tests/tasks/test_oracle.py`` checks it.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from aurac.curves.metrics import ANY_TASK, matching
from aurac.errors import AuracError, DataError, TaskError, UsageError
from aurac.tasks import local_data
from aurac.tasks.bundled import BUNDLED, include_path
from aurac.tasks.evaltask import EvalTask, Example, TaskGroup, check_cluster, compiled_once
from aurac.tasks.listing import is_data, is_file, stock_tasks, task_folder
from aurac.tasks.metrics import choose_metric
from aurac.tasks.options import TaskOptions
from aurac.tasks.seeds import seeded

_log = logging.getLogger(__name__)
_LOGGERS = ("lm_eval", "datasets", "huggingface_hub", "urllib3")
_BARS = ("lm_eval.api.task", "lm_eval.api.model", "lm_eval.models.huggingface")


def build_tasks(
    names: Sequence[str],
    *,
    tokenizer: Any,
    options: TaskOptions | None = None,
    by_token: bool = True,
) -> list[EvalTask | TaskGroup]:
    """Look tasks up and build their requests, once for every rank and every adapter.

    The prompts are those of ``lm_eval.simple_evaluate([name])`` with its default seeds; a longer
    ``options.limit`` adds examples and leaves the prompts of the first ones as they are.

    Args:
        names: Bundled tasks, any task, group or tag that lm-eval knows, or paths to YAML files or
            to files of examples.
        tokenizer: The base's tokenizer; used for its chat template and its end token only.
        options: What the tasks are told.
        by_token: Whether whoever answers says of each token if it is the argmax.

    Returns:
        One entry for each task. A group gives one for each task in it and then one for itself.

    Raises:
        TaskError, DataError, UsageError: Tasks, data or options that do not serve.
    """
    options = options or TaskOptions()
    if options.apply_chat_template and not getattr(tokenizer, "chat_template", None):
        raise UsageError("The tokenizer has no chat template: leave --apply-chat-template out.")
    stock = not all(name in BUNDLED or is_data(name) for name in names)
    builder = _Builder(options, tokenizer, stock=stock, by_token=by_token)
    with quiet(), compiled_once():
        built = [task for name in dict.fromkeys(names) for task in builder.build(name)]
    _check_names(names, built, options)
    return built


def _check_names(
    names: Sequence[str], built: Sequence[EvalTask | TaskGroup], options: TaskOptions
) -> None:
    """Refuse a task that comes twice, and options for one that is not evaluated."""
    known = [task.name for task in built]
    if twice := {name for name in known if known.count(name) > 1}:
        raise TaskError(f"Task {min(twice)} was asked for more than once.")
    for option in ("data", "metric", "cluster"):
        also = names if option == "data" else ()
        if unknown := {*getattr(options, option)}.difference(known, also, {ANY_TASK, ""}):
            raise UsageError(f"--{option} names {min(unknown)}, which is not evaluated.")
    wanted = options.metric.get(ANY_TASK)
    if wanted and not any(matching(wanted, task.usable) for task in built):
        there = sorted({key for task in built for key in task.usable})
        raise TaskError(f"No task reports the metric {wanted}, but {', '.join(there)}.")


class _Builder:
    """Builds one name after another with the same options."""

    def __init__(
        self, options: TaskOptions, tokenizer: Any, *, stock: bool, by_token: bool
    ) -> None:
        self._options, self._tokenizer = options, tokenizer
        self._stock, self._by_token = stock, by_token
        self._local: set[str] = set()  # tasks whose data are files of the user
        self._template: partial[str] | None = None
        if options.apply_chat_template:
            self._template = partial(chat_text, tokenizer)

    @cached_property
    def _manager(self) -> Any:
        """Knows the bundled tasks, those of ``--include-path`` and lm-eval's own."""
        from lm_eval.tasks import TaskManager
        from lm_eval.tasks._index import Entry, Kind

        folder = self._options.include_path
        paths = [str(include_path()), *([str(folder)] if folder else [])]
        manager = TaskManager(include_defaults=False, include_path=paths)
        for name, row in stock_tasks().items() if self._stock else ():
            path = task_folder() / row.file if row.file else None
            entry = Entry(name, Kind[row.kind], path, tags=set(row.tags))
            manager.task_index.setdefault(name, entry)
        return manager

    def build(self, requested: str) -> list[EvalTask | TaskGroup]:
        """The tasks of one name, a group's members before the group."""
        limit = self._options.limit_of(requested)
        try:
            with seeded():
                loaded, name = (self._own if is_data(requested) else self._load)(requested)
                group = loaded.get("groups", {}).get(name)
                parent = None if group is None else group.name
                built = [self._built(n, task, parent, limit) for n, task in loaded["tasks"].items()]
        except AuracError:
            raise
        except Exception as error:
            raise _not_built(requested, error) from error
        if group is None:
            return list(built)
        pooled = TaskGroup(group.name, str(group.version), tuple(built))
        return [*built, replace(pooled, metric=self._metric(pooled))]

    def _load(self, requested: str) -> tuple[dict[str, Any], str]:
        """lm-eval's tasks and groups, with local data in the place of the hub's, and the name."""
        from lm_eval.tasks._index import TaskIndex

        manager, name = self._manager, requested
        if is_file(requested):
            of_file = TaskIndex.entry_from_path(Path(requested))
            manager.task_index[name := of_file.name] = of_file
        factory = manager._factory
        original, files = factory._load_full_config, partial(self._files, requested, name)

        def full_config(entry: Any, overrides: Any = None) -> Any:
            config = original(entry, overrides)
            if not isinstance(config.get("task"), str):
                return config
            if is_file(requested):
                self._local.add(config["task"])
            if split := self._options.split:
                if "class" in config:
                    raise UsageError(f"Task {config['task']} is a Python class: leave --split out.")
                config = _of_split(config, split)
            found = files(config)
            if not found:
                return config
            self._local.add(config["task"])
            shots = self._options.num_fewshot
            shots = config.get("num_fewshot") if shots is None else shots
            return local_data.with_local_examples(config, found, fewshot=bool(shots))

        with patch.object(factory, "_load_full_config", full_config):
            loaded = manager.load([name])
        if not loaded["tasks"]:
            raise TaskError(f"Group {name} holds no task.")
        return loaded, name

    def _own(self, path: str) -> tuple[dict[str, Any], str]:
        """The task of a file of examples, which have their own prompts."""
        from aurac.tasks.own_data import OwnData

        for name in ("apply_chat_template", "system_instruction", "num_fewshot", "split"):
            if getattr(self._options, name):
                option = name.replace("_", "-")
                raise UsageError(f"The examples of {path} are whole prompts: leave --{option} out.")
        task = OwnData(Path(path), self._tokenizer, by_token=self._by_token)
        return {"tasks": {task.config.task: task}}, task.config.task

    def _files(
        self, requested: str, name: str, config: Mapping[str, Any]
    ) -> local_data.Files | None:
        """The files of a task's splits that the user gave, if any."""
        leaf, data = config["task"], self._options.data
        whole = data.get(name, data.get(requested))
        if folder := data.get(leaf, whole if leaf == name else None):
            return local_data.find_splits(Path(folder))
        if whole is None:
            return None
        for part in (leaf, config.get("dataset_name")):
            if part and (Path(whole) / part).is_dir():
                return local_data.find_splits(Path(whole) / part)
        raise DataError(f"{whole} has no sub-folder for {leaf}, a task of {name}.")

    def _built(self, name: str, task: Any, group: str | None, limit: float | None) -> EvalTask:
        # task.task_name is not read: it draws from the generator that prompts may draw from.
        if getattr(task, "MULTIMODAL", False):
            raise TaskError(f"Task {name} shows images or sounds, and aurac evaluates text.")
        if getattr(task, "UNSAFE_CODE", False):
            raise TaskError(f"Task {name} runs code that the model writes, which aurac does not.")
        self._set_fewshot(name, task)
        if self._options.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
            settings = dict(self._options.gen_kwargs)
            task.set_config(key="generation_kwargs", value=settings, update=True)
        if limit is not None and limit < 1:  # a share, which lm-eval rounds up
            limit = math.ceil(len(task.eval_docs) * limit)
        templates: dict[str, Any] = {
            "system_instruction": self._options.system_instruction,
            "apply_chat_template": self._template is not None,
            "fewshot_as_multiturn": self._options.fewshot_as_multiturn is not False,
            "chat_template": self._template,
        }
        limit = limit if limit is None else int(limit)
        task.build_all_requests(limit=limit, rank=0, world_size=1, **templates)
        examples = _examples(task)
        contents = [example.content for example in examples]
        if name in self._local:
            columns = sorted(local_data.prompt_columns(task.config))
            local_data.check_examples(f"task {name}", contents, columns)
        if cluster := self._cluster(name, group, task):
            check_cluster(name, contents, cluster)
        built = EvalTask(
            name=name,
            version=str(task.VERSION),
            metric="",
            options=self._options,
            task=task,
            templates=templates,
            examples=examples,
            group=group,
            cluster=cluster,
        )
        return replace(built, metric=self._metric(built))

    def _set_fewshot(self, name: str, task: Any) -> None:
        """As ``simple_evaluate``: number, then seed, before each build."""
        default, wanted = task.get_config("num_fewshot"), self._options.num_fewshot
        if wanted is not None and default == 0 != wanted:
            _log.warning("task %s fixes itself to zero-shot and stays so", name)
        elif wanted is not None or default is None:
            task.set_config(key="num_fewshot", value=wanted or 0)
        sampler = getattr(task, "sampler", None) if self._options.fewshot == "fixed" else None
        if sampler is not None and task.get_config("num_fewshot"):
            first_n = importlib.import_module("lm_eval.api.samplers").get_sampler("first_n")
            task.sampler = first_n(list(sampler.fewshot_docs()))
        task.set_fewshot_seed(seed=self._options.seed)

    def _metric(self, task: EvalTask | TaskGroup) -> str:
        """What was asked of the task or its group; what was asked of all only where it has that."""
        asked = self._options.metric
        for key in filter(None, (task.name, task.group)):
            if key in asked:
                return choose_metric(task.name, task.usable, asked[key])
        wanted = asked.get(ANY_TASK)
        has = wanted is not None and matching(
            wanted, [k for k, used in task.usable.items() if used]
        )
        return choose_metric(task.name, task.usable, wanted if has else None)

    def _cluster(self, name: str, group: str | None, task: Any) -> str | None:
        """The field that examples are clustered by: asked for, else what the task itself says."""
        for key in (name, group):
            if key is not None and key in self._options.cluster:
                return self._options.cluster[key]
        stated = (task.config.metadata or {}).get("cluster")
        return str(stated) if stated is not None else None


def _of_split(config: Mapping[str, Any], split: str) -> dict[str, Any]:
    """With another split to evaluate; where lm-eval draws from it, too, that has to be said.

    Only of a named `fewshot_split` does it see that a prompt must not have its own example.
    """
    pool = config.get("training_split") or config.get("validation_split")
    own = config.get("fewshot_split") or (config.get("fewshot_config") or {}).get("samples")
    shots = {"fewshot_split": pool} if pool == split and not own else {}
    return {**config, "test_split": split, **shots}


def _not_built(task: str, error: Exception) -> TaskError:
    from datasets.exceptions import DatasetGenerationError

    if isinstance(error, StopIteration):  # lm-eval looks at the first example
        return TaskError(f"The data of task {task} have no example.")
    if isinstance(error, ConnectionError):
        way = "local files can take their place (--data; `data` in a study)"
        return TaskError(f"The data of task {task} cannot be fetched ({error}); {way}.")
    if isinstance(error, DatasetGenerationError):
        return TaskError(f"The data of task {task} cannot be read ({error.__cause__ or error}).")
    hint = "a path, key, metric, split or column may be misspelt, see docs/howto/task.md"
    end = f"; {hint}." if is_file(task) else "."
    return TaskError(f"lm-eval cannot build task {task} ({type(error).__name__}: {error}){end}")


def _examples(task: Any) -> tuple[Example, ...]:
    """lm-eval's requests by example."""
    by_id: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_id.setdefault(instance.doc_id, []).append(instance)
    return tuple(
        Example(
            doc_id=doc_id,
            content=instances[0].doc,
            instances=tuple(sorted(instances, key=lambda instance: instance.idx)),
            doc_hash=_doc_hash(instances[0].doc),
        )
        for doc_id, instances in by_id.items()
    )


def _doc_hash(content: Any) -> str:
    """The ``doc_hash`` of lm-eval's samples."""
    from lm_eval.utils import handle_non_serializable, hash_string

    text = json.dumps(content, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return str(hash_string(text))


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what lm-eval prints, warns, logs and draws from the terminal; errors pass."""
    import datasets

    with ExitStack() as stack:
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)  # what they log of an error they raise, too
        for name in _BARS:
            module = importlib.import_module(name)
            silent = partial(_without_bar, module.tqdm)
            stack.enter_context(patch.object(module, "tqdm", silent))
        if not datasets.are_progress_bars_disabled():
            datasets.disable_progress_bars()
            stack.callback(datasets.enable_progress_bars)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stdout(io.StringIO()))
        yield


def _without_bar(tqdm: Any, *args: object, **kwargs: object) -> Any:
    return tqdm(*args, **{**kwargs, "disable": True})


def chat_text(
    tokenizer: Any,
    history: list[dict[str, str]],
    add_generation_prompt: bool = True,  # noqa: FBT001, FBT002 - lm-eval's signature
) -> str:
    """A conversation through the tokenizer's chat template, as lm-eval's Hugging Face model does.

    A template that knows no system role gets the history without it.
    """
    from jinja2.exceptions import TemplateError

    render = partial(
        tokenizer.apply_chat_template,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
    )
    try:
        return str(render(history))
    except TemplateError:
        return str(render([turn for turn in history if turn["role"] != "system"]))
