"""A task with its requests: built once, put to one `lm_eval.api.model.LM` after another, judged."""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from numbers import Real
from typing import Any
from unittest.mock import patch

import numpy as np

from aurac.engine.tokens import most_new_tokens
from aurac.errors import AuracError, CellError, TaskError
from aurac.files import Json, sha256_text
from aurac.records.lines import DocumentKey
from aurac.tasks.metrics import plain, scoring_of, usable_metrics
from aurac.tasks.options import TaskOptions
from aurac.tasks.seeds import seeded

_ONE_THREAD = threading.RLock()  # two that patch at once could leave the patch behind


@lru_cache(maxsize=1024)
def _compiled(template: str) -> Any:
    from lm_eval.utils import env

    return type(env).from_string(env, template)


@contextmanager
def compiled_once() -> Iterator[None]:
    """Keeps lm-eval's compiled templates: it compiles them anew for each example.

    That is most of the time that building and judging take; a compiled template has no state.
    """
    from lm_eval.utils import env

    with _ONE_THREAD, patch.object(env, "from_string", _compiled):
        yield


@dataclass(frozen=True, eq=False)
class Example:
    """One example of a task, with the requests (`lm_eval.api.instance.Instance`) made of it."""

    doc_id: int  # its place in the split
    content: Any
    instances: tuple[Any, ...]
    doc_hash: str  # the SHA-256 in lm-eval's samples

    @cached_property
    def prompt_hash(self) -> str:
        """SHA-256 of all its requests: contexts, continuations, generation settings."""
        digest = hashlib.sha256()
        for instance in self.instances:
            request = [instance.request_type, instance.repeats or 1, list(instance.args)]
            digest.update(json.dumps(request, sort_keys=True, default=str).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one state of a model did on n examples; plain JSON values, rows in their order."""

    # ``name,filter`` → n values: numbers, or what lm-eval's aggregation of that metric takes
    metrics: dict[str, list[Any]]
    # n responses: a text (a list of them where the task repeats), or the choices' log-likelihoods
    responses: list[Any]
    # n lists: whether each choice was what greedy decoding gives; None for other requests
    greedy: list[list[bool]] | None = None
    # filter → n lists of answers; None where the filter takes each first response as it is
    filtered: dict[str, list[Any] | None] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class EvalTask:
    """A task of lm-eval with its requests."""

    name: str
    version: str
    metric: str  # the ``name,filter`` that is compared
    options: TaskOptions
    task: Any = None  # lm-eval's object
    templates: Mapping[str, Any] = field(default_factory=dict)  # what prompts are built with
    examples: tuple[Example, ...] = field(default=(), repr=False)
    group: str | None = None  # the group that brought this task along
    cluster: str | None = None  # the field that examples are clustered by

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def rolling(self) -> bool:
        """Whether it has a perplexity: `aggregate` gives its value, and there is no AURAC."""
        return bool(self.task.OUTPUT_TYPE == "loglikelihood_rolling")

    @property
    def num_fewshot(self) -> int:
        """Few-shot examples in each prompt."""
        return int(self.task.get_config("num_fewshot") or 0)

    @property
    def usable(self) -> dict[str, bool]:
        """``name,filter`` that it reports → whether it can be the metric."""
        return usable_metrics(self.task)

    @property
    def prompting(self) -> dict[str, Json]:
        """What its prompts are made with, beside its own settings."""
        given = self.options
        parts: dict[str, Json] = {"num_fewshot": self.num_fewshot}
        if given.split:
            parts["split"] = given.split
        if self.num_fewshot:
            parts |= {"fewshot": given.fewshot, "seed": given.seed}
        if given.apply_chat_template:
            turns = given.fewshot_as_multiturn is not False
            parts |= {"apply_chat_template": True, "fewshot_as_multiturn": turns}
        if given.system_instruction:
            parts["system_instruction"] = given.system_instruction
        if given.gen_kwargs and self.task.OUTPUT_TYPE == "generate_until":
            parts["gen_kwargs"] = given.gen_kwargs
        return parts

    @property
    def token_limit(self) -> int | None:
        """Most tokens of an answer; None where nothing is generated."""
        kwargs = self.examples[0].instances[0].args[1:2] if self.examples else ()
        return most_new_tokens(kwargs[0]) if kwargs and isinstance(kwargs[0], dict) else None

    @cached_property
    def keys(self) -> tuple[DocumentKey, ...]:
        """The n examples, as cells name them."""
        return tuple(
            DocumentKey(str(each.doc_id), each.doc_hash, each.prompt_hash) for each in self.examples
        )

    @cached_property
    def scoring(self) -> str:
        """How it makes scores of answers, as a hash."""
        return scoring_of(self.task)

    def instances(self, places: Iterable[int]) -> list[Any]:
        """lm-eval's requests of the examples at these places, in order."""
        return [instance for place in places for instance in self.examples[place].instances]

    def ask(self, lm: Any, places: Sequence[int]) -> list[list[Any]]:
        """For each request of these examples its responses, as many as the task repeats it.

        ``lm`` is a `lm_eval.api.model.LM`; it gets a repeated request as often, as from
        ``lm_eval.evaluate``. Torch is seeded by the first example, for those that sample.
        """
        by_kind: dict[str, list[Any]] = {}
        for instance in (instances := self.instances(places)):
            by_kind.setdefault(instance.request_type, []).append(instance)
        answers: dict[int, list[Any]] = {id(instance): [] for instance in instances}
        for kind, requests in by_kind.items():
            repeated = [each for each in requests for _ in range(each.repeats or 1)]
            with seeded(self.examples[places[0]].doc_id):
                responses = getattr(lm, kind)(repeated)
            for instance, response in zip(repeated, responses, strict=True):
                answers[id(instance)].append(response)
        return [answers[id(instance)] for instance in instances]

    @compiled_once()
    def judge(self, places: Sequence[int], answers: Sequence[Sequence[Any]]) -> Outcome:
        """Filters the answers of `ask` and scores each example, as ``lm_eval.evaluate`` does.

        Raises:
            CellError: A log-likelihood is not finite, or the task's own code fails on an answer.
            TaskError: The task does not report its metric, or not within [0, 1] (unless rolling).
        """
        examples = [self.examples[place] for place in places]
        instances = self.instances(places)
        _check_finite(self.name, instances, answers)
        try:  # lm-eval keeps responses in its requests, and would show them to the next model
            for instance, responses in zip(instances, answers, strict=True):
                instance.resps, instance.filtered_resps = list(responses), {}
            for ensemble in self.task._filters:
                ensemble.apply(instances)
            metrics, filtered = self._scored(examples)
        except AuracError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise CellError(f"Task {self.name} could not judge an answer ({reason}).") from error
        finally:
            for instance in instances:
                instance.resps, instance.filtered_resps = [], {}
        self._check_metric(metrics)
        rest = iter(answers)
        parts = [[next(rest) for _ in example.instances] for example in examples]
        choice = instances[0].request_type == "loglikelihood"
        return Outcome(
            metrics=metrics,
            responses=[_kept(e.instances[0], p) for e, p in zip(examples, parts, strict=True)],
            greedy=[[bool(r[0][1]) for r in part] for part in parts] if choice else None,
            filtered=filtered,
        )

    def _scored(
        self, examples: Sequence[Example]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any] | None]]:
        """Every example's value by ``metric,filter``, and its answers by filter."""
        columns: dict[str, list[Any]] = {}
        filtered: dict[str, list[Any] | None] = {}
        for chain_name in examples[0].instances[0].filtered_resps:
            rows, changed = [], False
            for example in examples:
                results = [instance.filtered_resps[chain_name] for instance in example.instances]
                first = [instance.resps[0] for instance in example.instances]
                changed |= any(r is not f and r != f for r, f in zip(results, first, strict=True))
                rows.append(plain(results))
                for name, value in self.task.process_results(example.content, results).items():
                    columns.setdefault(f"{name},{chain_name}", []).append(_value(value))
            filtered[chain_name] = rows if changed else None
        whole = {key: column for key, column in columns.items() if len(column) == len(examples)}
        return whole, filtered

    def _check_metric(self, metrics: Mapping[str, list[Any]]) -> None:
        column = metrics.get(self.metric)
        if column is None:
            there = ", ".join(metrics) or "no metric"
            raise TaskError(
                f"Task {self.name} did not report {self.metric} for every example, but {there}."
            )
        if not self.rolling and not all(isinstance(v, float) and 0 <= v <= 1 for v in column):
            raise TaskError(
                f"Metric {self.metric} of task {self.name} is not within [0, 1] for each example; "
                f"name another with --metric {self.name}=NAME,FILTER."
            )

    def aggregate(self, column: Sequence[Any]) -> float:
        """The value of its metric over n examples, by lm-eval's own aggregation."""
        aggregation = self.task.aggregation()[self.metric.partition(",")[0]]
        return float(aggregation([tuple(v) if isinstance(v, list) else v for v in column]))

    def aggregates(self, metrics: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """``metric,filter`` → lm-eval's aggregate, for all metrics of an outcome that have one."""
        values = {}
        for key, column in metrics.items():
            try:
                values[key] = replace(self, metric=key).aggregate(column)
            except Exception:  # noqa: BLE001, S112 - any task's own code; the value is left out
                continue
        return {key: value for key, value in values.items() if math.isfinite(value)}

    @compiled_once()
    def questions(self) -> list[dict[str, Json]]:
        """For each example ``doc_id``, ``question``, ``target`` and ``choices``, for readers."""
        return [_question(self.task, example) for example in self.examples]

    def record(self) -> dict[str, Json]:
        """What lm-eval's result files say of the task: configuration, version and prompting."""
        config = self.task.dump_config()
        if (made := self.task.config.custom_dataset) is not None:
            config["custom_dataset"] = f"{made.__module__}:{made.__qualname__.split('.')[0]}"
        (config.get("metadata") or {}).pop("config_source", None)
        record: dict[str, Json] = {
            "config": plain(config),
            "version": plain(self.task.VERSION),
            "higher_is_better": plain(self.task.higher_is_better()),
            "original": len(self.task.eval_docs),
            "dataset_revision": _revision(self.task.eval_docs),
            "system_instruction": self.options.system_instruction,
            "fewshot_as_multiturn": self.options.fewshot_as_multiturn is not False,
        }
        return record

    @compiled_once()
    def rows(self) -> list[dict[str, Json]]:
        """For each example what lm-eval's samples say of an example, whatever the model answers."""
        return [_row(self.task, example) for example in self.examples]

    @compiled_once()
    def held_out(self, count: int) -> list[tuple[str, str]]:
        """(prompt, reference answer) of the last `count` examples that are not evaluated.

        From the validation split, where it has enough beside those that are, else the training one.
        The prompts are built as those of the evaluation; solved examples in them are drawn anew.
        """
        task, config = self.task, self.task.config
        splits = {
            config.validation_split or "validation": (
                task.has_validation_docs,
                task.validation_docs,
            ),
            config.training_split or "train": (task.has_training_docs, task.training_docs),
        }
        evaluated = config.test_split or "test" if task.has_test_docs() else next(iter(splits))
        for split, (there, contents) in splits.items():
            rows = list(contents() if there() else ())
            beside = rows[len(self) :] if split == evaluated else rows
            if len(beside) >= (count if split == evaluated else 1):
                # Of the split that it evaluates lm-eval shows no example in its own prompt.
                with seeded(), patch.object(config, "test_split", split):
                    task.set_fewshot_seed(seed=self.options.seed)
                    return [self._reference(content) for content in beside[-count:]]
        raise TaskError(f"Task {self.name} has no examples beside those that are evaluated.")

    def _reference(self, content: Any) -> tuple[str, str]:
        """The prompt and the reference answer of an example, as they are scored or generated."""
        task, how, prefix = self.task, self.templates, self.task.doc_to_prefix(content)
        context = task.fewshot_context(content, self.num_fewshot, gen_prefix=prefix, **how)
        target, _ = _target(task, content)
        if not isinstance(context, str) or not isinstance(target, str):
            raise TaskError(f"Task {self.name} has no single reference answer in text.")
        chat = {name: how[name] for name in ("apply_chat_template", "chat_template")}
        if task.OUTPUT_TYPE in ("multiple_choice", "loglikelihood"):
            about = self.name, 0, 1
            made = task.construct_requests(doc=content, ctx=context, metadata=about, **chat)
            for request in made if isinstance(made, list) else [made]:
                if request.args[1].strip() == target.strip():
                    return request.args
            raise TaskError(f"Task {self.name} does not score the reference answer {target!r}.")
        # In a chat the answer begins a turn, as lm-eval has it for choices.
        begins = chat["apply_chat_template"] and (not prefix or prefix[-1].isspace())
        return context, f"{'' if begins else task.config.target_delimiter}{target}"


@dataclass(frozen=True, eq=False)
class TaskGroup:
    """A group of lm-eval: the examples of all its tasks pooled, by a metric that all report."""

    name: str
    version: str
    members: tuple[EvalTask, ...]
    metric: str = ""
    group: None = None

    def __len__(self) -> int:
        return sum(map(len, self.members))

    @property
    def usable(self) -> dict[str, bool]:
        """``name,filter`` that all members report → whether it can be the metric."""
        declared = [member.usable for member in self.members]
        everywhere = (key for key in declared[0] if all(key in other for other in declared))
        return {key: all(usable[key] for usable in declared) for key in everywhere}


def _revision(examples: Any) -> str | None:
    """The commit of the hub's data set that examples come from; None where it is not recorded."""
    files = getattr(getattr(examples, "info", None), "download_checksums", None) or ()
    found = {match[1] for file in files if (match := re.match(r"hf://datasets/.+?@(\w+)/", file))}
    return found.pop() if len(found) == 1 else None


def _check_finite(name: str, instances: Sequence[Any], answers: Sequence[Sequence[Any]]) -> None:
    """NaN compares false with everything, so an argmax would quietly call an example wrong."""
    for instance, responses in zip(instances, answers, strict=True):
        for response in responses:
            value = response[0] if isinstance(response, tuple) else response
            if isinstance(value, Real) and not math.isfinite(value):
                raise CellError(
                    f"The model gave doc_id {instance.doc_id} of task {name} the log-likelihood "
                    f"{float(value)}: look for overflow in the adapter, or try --dtype float32."
                )


def _value(value: Any) -> Any:
    """What an example contributes to a metric: a number where it is one."""
    if isinstance(value, (Real, np.bool_)) and math.isfinite(float(value)):
        return float(value)
    return plain(value)


def _kept(instance: Any, answers: Sequence[Sequence[Any]]) -> Any:
    """An example's responses as plain JSON values."""
    first = [responses[0] for responses in answers]
    if instance.request_type == "loglikelihood":
        return [float(value) for value, _ in first]
    if instance.request_type == "loglikelihood_rolling":
        return [float(value) for value in first]
    texts = [responses[0] if len(responses) == 1 else list(responses) for responses in answers]
    return texts[0] if len(texts) == 1 else texts


def _target(task: Any, content: Any) -> tuple[Any, list[str] | None]:
    """The reference of an example, that of a choice as its text, and the choices."""
    target, choices = task.doc_to_target(content), None
    if task.config.doc_to_choice is not None:
        choices = [str(choice) for choice in task.doc_to_choice(content)]
    if choices and isinstance(target, int) and 0 <= target < len(choices):
        target = choices[target]
    return target, choices


def _question(task: Any, example: Example) -> dict[str, Json]:
    target, choices = _target(task, example.content)
    texts = [t if isinstance(t, str) else None for t in (task.doc_to_text(example.content), target)]
    named = {"question": texts[0], "target": texts[1], "choices": choices}
    return {"doc_id": str(example.doc_id), **named}


def _row(task: Any, example: Example) -> dict[str, Json]:
    target = str(task.doc_to_target(example.content))
    arguments = [plain(list(instance.args)) for instance in example.instances]
    return {
        "doc_id": example.doc_id,
        "doc": plain(example.content),
        "target": target,
        "arguments": arguments,
        "doc_hash": example.doc_hash,
        "prompt_hash": sha256_text(str(example.instances[0].args[0])),
        "target_hash": sha256_text(target),
    }


def check_cluster(task: str, contents: Iterable[Any], column: str) -> None:
    """Refuse examples without the field that clusters them."""
    for content in contents:
        if content.get(column) is None:
            there = ", ".join(sorted(map(str, content)))
            raise TaskError(
                f"An example of task {task} has no field {column!r} to cluster by, but {there}."
            )
