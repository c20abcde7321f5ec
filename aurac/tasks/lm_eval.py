"""The border to lm-eval: with `aurac.tasks.upstream` the only module that imports it.

What is used beyond lm-eval's documented surface (requests, filters, samplers, the factory's
configuration) is held by ``tests/tasks/test_lm_eval_internals.py``.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aurac.curves.metrics import ANY_TASK, check_asked_of_all, matching
from aurac.engine.tokens import samples_text
from aurac.errors import AuracError, DataError, TaskError, UsageError
from aurac.files import sha256_json
from aurac.tasks import BUNDLED, documents, local_data
from aurac.tasks.index import TaskYaml
from aurac.tasks.metrics import Document, Leaf, choose_metric
from aurac.tasks.options import TaskOptions
from aurac.tasks.requests import chat_text
from aurac.tasks.scoring import scoring_of
from aurac.tasks.task import BuiltTask, cluster_labels
from aurac.tasks.upstream import (
    OTHER_SEED,
    PYTHON_SEED,
    compile_templates_once,
    doc_hash,
    find_task,
    integrable_metrics,
    quiet,
    sample_size,
    seeded,
    translated,
)

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask


_log = logging.getLogger(__name__)


def build_tasks(
    names: Sequence[str],
    *,
    tokenizer: Any,
    options: TaskOptions | None = None,
    partial: bool = False,
) -> list[BuiltTask]:
    """Look tasks up and build their requests, once for every rank and every adapter.

    The prompts are those of ``lm_eval.simple_evaluate([name])`` with its default seeds.

    Args:
        names: Bundled tasks, any task, group or tag that lm-eval knows, or paths to YAML files.
        tokenizer: The base's tokenizer; used for its chat template only.
        options: What the tasks are told.
        partial: There are further tasks, which options may name; see `check_options`.

    Returns:
        One entry for each task. A group gives one for each leaf and then one for itself, pooled.

    Raises:
        TaskError, DataError, UsageError: Tasks, documents or options that do not serve.
    """
    options = options or TaskOptions()
    if isinstance(names, str) or not names:
        raise TaskError("no task was given", expected="a list of at least one name")
    options.check()
    if options.chat_template and not getattr(tokenizer, "chat_template", None):
        raise UsageError("the tokenizer has no chat template", fix="leave --chat-template out")
    compile_templates_once()
    builder = _Builder(options, tokenizer)
    with quiet():
        build = builder.build if options.fewshot_seeds == 1 else builder.drawn
        built = [task for name in dict.fromkeys(names) for task in build(name)]
    if not partial:
        check_options(names, built, options)
    built += [
        task.passing(k)
        for task in built
        if task.group is None or task.members  # of a group the whole
        for k in options.pass_at
        if k > 1  # pass@1 is the mean over samples itself
    ]
    return built


def check_options(names: Sequence[str], built: Sequence[BuiltTask], options: TaskOptions) -> None:
    """Refuse options for tasks that are not evaluated, and a task that comes twice.

    A metric that only some tasks have, and settings of generation that none uses, are warned of.
    """
    known = [task.name for task in built] + list(names)
    for option in ("data", "metric", "cluster"):
        for task in getattr(options, option):
            if task not in known and task not in (ANY_TASK, ""):
                raise UsageError(
                    f"--{option} names {task!r}, which is not evaluated",
                    expected=f"one of {', '.join(dict.fromkeys(known))}",
                )
    asked = {task or ANY_TASK: key for task, key in options.metric.items()}
    usable = {
        task.name: [key for key, usable in task.integrable.items() if usable]
        for task in built
        if task.group is None and task.name not in asked
    }
    check_asked_of_all(asked.get(ANY_TASK), usable, TaskError)
    for name in {task.name for task in built}:
        if sum(task.name == name for task in built) > 1:
            raise TaskError(f"task {name!r} was asked for more than once", fix="leave one of them")
    if options.gen_kwargs and not any(task.generates for task in built):
        _log.warning("--gen-kwargs changes nothing: no task generates text")


def _average(draws: Sequence[BuiltTask], seeds: Sequence[int]) -> list[BuiltTask]:
    """A task under several draws of its examples, each under a name of its own, and the average."""
    first, option = draws[0], f"--fewshot-seeds {len(seeds)}"
    if first.group or first.members:
        raise UsageError(f"{option} for group {first.group or first.name!r}", fix="name its tasks")
    if not first.num_fewshot:
        raise UsageError(
            f"{option} for task {first.name!r}, whose prompts have no examples",
            fix="give --num-fewshot, or leave --fewshot-seeds out",
        )
    if len({task.prompts_sha256 for task in draws}) < len(draws):
        raise UsageError(
            f"{option} for task {first.name!r}, whose examples do not depend on the seed",
            fix="leave --fewshot-seeds out",
        )
    named = [
        replace(task, name=f"{task.name}:seed{seed}", group=task.name)
        for task, seed in zip(draws, seeds, strict=True)
    ]
    return [*named, replace(first, members=tuple(named), drawn=True)]


class _Builder:
    """Builds one name after another with the same options."""

    def __init__(self, options: TaskOptions, tokenizer: Any) -> None:
        self.options = options
        self.metric = {task or ANY_TASK: key for task, key in options.metric.items()}
        self.template: partial[str] | None = None
        self.template_sha256: str | None = None
        if options.chat_template:
            self.template = partial(chat_text, tokenizer)
            self.template_sha256 = sha256_json(tokenizer.chat_template)
        self.limit: float | None = None
        self._requested = ""
        self._folder: Path | None = None  # of its data
        self._at: str | None = None  # the leaf lm-eval is working on, for its error messages
        self._source = ""  # where that says its documents are
        self._settings = TaskYaml()
        self._local: set[str] = set()

    def build(self, requested: str) -> list[BuiltTask]:
        """The tasks of one name, a group's leaves before the group."""
        self.limit = self.options.limit_of(requested)
        with seeded(PYTHON_SEED, OTHER_SEED):
            tasks, group = self._load(requested)
            leaves = [self._requests(name, task) for name, task in tasks.items()]
        parent = group.name if group is not None else None
        built = [self._built(leaf, parent) for leaf in leaves]
        if group is None:
            return built
        pooled = BuiltTask.of_group(group.name, str(group.version), built)
        metric = self._metric(group.name, None, pooled.integrable)
        return [*built, replace(pooled, metric=metric)]

    def _built(self, leaf: Leaf, group: str | None) -> BuiltTask:
        cluster = self._cluster(leaf, group)
        contents = (document.content for document in leaf.documents)
        return BuiltTask(
            name=leaf.name,
            version=str(leaf.task.VERSION),
            metric=self._metric(leaf.name, group, leaf.integrable),
            options=self.options,
            template_sha256=self.template_sha256,
            leaves=(leaf,),
            group=group,
            cluster=cluster,
            clusters=cluster_labels(leaf.name, contents, cluster) if cluster else None,
        )

    def drawn(self, requested: str) -> list[BuiltTask]:
        """The tasks of one name under several draws of the examples, and then their averages."""
        options, draws = self.options, []
        seeds = range(options.seed, options.seed + options.fewshot_seeds)
        for seed in seeds:
            self.options = replace(options, seed=seed)
            draws.append(self.build(requested))
        self.options = options
        return [task for same in zip(*draws, strict=True) for task in _average(same, seeds)]

    def _load(self, requested: str) -> tuple[dict[str, ConfigurableTask], Any | None]:
        manager, name = find_task(requested, self.options.include_path)
        self._requested, self._at = name, None
        self._folder = self.options.data.get(name, self.options.data.get(requested))
        try:
            with self._configured(manager):
                loaded = manager.load([name])
        except AuracError:
            raise
        except Exception as error:
            raise self._translated(error) from error
        if not loaded["tasks"]:
            raise TaskError(f"group {name!r} holds no task")
        return loaded["tasks"], loaded.get("groups", {}).get(name)

    @contextmanager
    def _configured(self, manager: Any) -> Iterator[None]:
        """Let each leaf's configuration pass through `_configuration` while lm-eval loads it."""
        factory = manager._factory
        original = factory._load_full_config

        def full_config(
            entry: Any, overrides: dict[str, object] | None = None
        ) -> dict[str, object]:
            config: dict[str, object] = original(entry, overrides)
            return self._configuration(config) if isinstance(config.get("task"), str) else config

        factory._load_full_config = full_config
        try:
            yield
        finally:
            del factory._load_full_config

    def _configuration(self, config: dict[str, object]) -> dict[str, object]:
        """With the split and the documents that are evaluated; what cannot be run is refused."""
        settings = msgspec.convert(config, TaskYaml)
        self._settings, leaf = settings, settings.task
        self._at = leaf
        if settings.refused:
            given = f"task {leaf!r} {settings.refused}"
            raise TaskError(given, expected="a text task with an accuracy")
        if (split := self.options.split) is not None:
            own = settings.split_called(split)
            config = {**config, "test_split": own, "validation_split": None}
        files = self._files(settings)
        if files is None:
            self._source = settings.source
            return config
        self._local.add(leaf)
        shown, wanted = settings.num_fewshot, self.options.num_fewshot
        if wanted is not None and shown != 0:
            shown = wanted
        return local_data.with_local_documents(
            config, files, num_fewshot=shown or 0, held_out=self.options.held_out
        )

    def _files(self, settings: TaskYaml) -> local_data.Files | None:
        leaf = settings.task
        own = self._folder if leaf == self._requested else None
        if folder := self.options.data.get(leaf, own):
            return local_data.find_splits(Path(folder))
        if self._folder:
            folder = Path(self._folder)
            for name in (leaf, settings.dataset_name):
                if name and (folder / name).is_dir():
                    return local_data.find_splits(folder / name)
            raise DataError(
                f"{folder} has no sub-folder for {leaf!r}, a leaf of {self._requested!r}"
            )
        if leaf in BUNDLED:
            return {split: [path] for split, path in documents(leaf).items()}
        return None

    def _requests(self, name: str, task: Any) -> Leaf:
        # task.task_name is not read here: it draws from the generator that prompts may draw from.
        self._at = name
        self._check_runnable(name, task)
        try:
            self._set_fewshot(name, task)
            if self.options.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
                settings = dict(self.options.gen_kwargs)
                task.set_config(key="generation_kwargs", value=settings, update=True)
            samples = self._set_samples(name, task)
            task.build_all_requests(
                limit=None if self.limit is None else sample_size(task, self.limit),
                rank=0,
                world_size=1,
                system_instruction=self.options.system_instruction,
                apply_chat_template=self.template is not None,
                fewshot_as_multiturn=self.options.fewshot_as_multiturn is not False,
                chat_template=self.template,
            )
        except AuracError:
            raise
        except Exception as error:
            raise self._translated(error) from error
        by_id: dict[int, list[Any]] = {}
        for instance in task.instances:
            by_id.setdefault(instance.doc_id, []).append(instance)
        evaluated = tuple(
            Document(
                doc_id=doc_id,
                content=instances[0].doc,
                instances=tuple(sorted(instances, key=lambda instance: instance.idx)),
                doc_hash=doc_hash(instances[0].doc),
            )
            for doc_id, instances in by_id.items()
        )
        if name in self._local:
            columns = local_data.prompt_columns(task.config)
            local_data.check_documents(name, (d.content for d in evaluated), columns)
        return Leaf(name, task, evaluated, integrable_metrics(task), samples, scoring_of(task))

    def _set_samples(self, name: str, task: Any) -> int:
        """Have each document answered `repeats` times; how many are scored one by one."""
        wanted = self.options.repeats or 1
        kwargs = task.get_config("generation_kwargs") or {}
        sampled = task.OUTPUT_TYPE == "generate_until" and samples_text(kwargs)
        if sampled and not kwargs.get("temperature"):
            raise UsageError(
                f"task {name!r} samples with temperature {kwargs.get('temperature')}",
                expected="a temperature above 0",
                fix="give --gen-kwargs do_sample=true,temperature=0.8",
            )
        if wanted == 1:
            return 1
        if not sampled:
            kind = "is greedy" if task.OUTPUT_TYPE == "generate_until" else "generates no text"
            raise UsageError(
                f"--repeats {wanted} for task {name!r}, which {kind}",
                expected="a task whose answers are sampled",
                fix="give --gen-kwargs do_sample=true,temperature=0.8, or leave the task out",
            )
        if (task.get_config("repeats") or 1) > 1:
            raise UsageError(
                f"--repeats {wanted} for task {name!r}, which scores "
                f"{task.get_config('repeats')} answers of each document together",
                fix="leave --repeats out",
            )
        task.set_config(key="repeats", value=wanted)
        return wanted

    def _check_runnable(self, name: str, task: Any) -> None:
        if getattr(task, "MULTIMODAL", False) or getattr(task, "UNSAFE_CODE", False):
            raise TaskError(f"task {name!r} is not a plain text task")
        if name in self._local:
            columns = local_data.prompt_columns(task.config)
            if absent := sorted(columns - set(task.features)):
                raise DataError(
                    f"local data of task {name!r} has no {', '.join(map(repr, absent))}",
                    expected=f"the columns {', '.join(sorted(columns))}",
                )

    def _set_fewshot(self, name: str, task: Any) -> None:
        """As ``simple_evaluate``: number, then seed, before each build."""
        default = task.get_config("num_fewshot")
        if self.options.num_fewshot is not None and default == 0 != self.options.num_fewshot:
            _log.warning("task %s fixes itself to zero-shot and stays so", name)
        elif self.options.num_fewshot is not None or default is None:
            task.set_config(key="num_fewshot", value=self.options.num_fewshot or 0)
        sampler = getattr(task, "sampler", None) if self.options.fewshot == "fixed" else None
        if sampler is not None and task.get_config("num_fewshot"):
            first_n = importlib.import_module("lm_eval.api.samplers").get_sampler("first_n")
            task.sampler = first_n(list(sampler.fewshot_docs()))
        task.set_fewshot_seed(seed=self.options.seed)

    def _translated(self, error: Exception) -> AuracError:
        leaf = self._at or self._requested
        names, local, source = self._requested, leaf in self._local, self._source
        how = leaf, self._settings
        return translated(error, *how, requested=names, local=local, source=source)

    def _metric(self, name: str, group: str | None, reported: Mapping[str, bool]) -> str:
        for key in (name, group):
            if key in self.metric:
                return choose_metric(name, reported, self.metric[key])
        wanted, usable = self.metric.get(ANY_TASK), [key for key, used in reported.items() if used]
        everywhere = wanted if wanted and matching(wanted, usable) else None  # see `check_options`
        return choose_metric(name, reported, everywhere)

    def _cluster(self, leaf: Leaf, group: str | None) -> str | None:
        """The field that documents are clustered by: asked for, else what the task itself says."""
        for name in (leaf.name, group):
            if name is not None and name in self.options.cluster:
                return self.options.cluster[name]
        stated = (leaf.task.config.metadata or {}).get("cluster")
        return str(stated) if stated is not None else None
