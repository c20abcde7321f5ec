"""How answers become scores, and which metric is "accuracy", the one integrated over ranks.

lm-eval reports several ``name,filter`` keys for most tasks. AURAC is a mean over documents of their
areas: a metric that can be used is aggregated by the plain mean, lies in [0, 1] for each document,
and more of it is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from numbers import Real
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from aurac.errors import AuracError, CellError, TaskError
from aurac.records.cell import Logged

ANY_TASK = "*"
"""Stands for every task where a metric is asked for."""

DEFAULTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gsm8k*", ("exact_match,strict-match",)),
    (
        ANY_TASK,
        ("acc,none", "exact_match,strict-match", "exact_match,none", "word_perplexity,none"),
    ),
)
"""Task-name pattern and the keys to take; the first that is reported wins.

``exact_match,strict-match`` for gsm8k and ``acc,none`` elsewhere are those of the MatryoshkaLoRA
research code; the others serve generative tasks, which report no ``acc``.
"""


def usable_metrics(task: Any) -> dict[str, bool]:
    """``name,filter`` of lm-eval's task → whether it can be compared.

    It can where it is a mean over examples of which more is better, or a perplexity.
    """
    from lm_eval.api.metrics import mean

    better, rolling = task.higher_is_better(), task.OUTPUT_TYPE == "loglikelihood_rolling"
    return {
        f"{name},{ensemble.name}": rolling or (aggregation is mean and bool(better.get(name, True)))
        for name, aggregation in task.aggregation().items()
        for ensemble in task._filters
    }


def matching(wanted: str, there: Iterable[str]) -> list[str]:
    """The metrics ``name,filter`` of that name, or that name and filter."""
    return [key for key in there if wanted in (key, key.rpartition(",")[0])]


def choose_metric(task: str, reported: Mapping[str, bool], wanted: str | None = None) -> str:
    """The metric of a task that is compared: ``wanted``, a key or its name, else the default.

    ``reported`` says of every ``name,filter`` whether it can be compared.

    Raises:
        TaskError: It has none of that name, several, none by default, or one that is no mean.
    """
    usable = [key for key, good in reported.items() if good]
    keys = matching(wanted, reported) if wanted else _default(task, usable)
    if len(keys) == 1 and reported[keys[0]]:
        return keys[0]
    if not usable:
        there = "; ".join(reported)
        raise TaskError(f"Task {task} reports {there}: none is a mean of which more is better.")
    what = f"has {'several' if keys else 'no'} {wanted}" if wanted else "has no default metric"
    if len(keys) == 1:
        what, keys = f"has {keys[0]}, which is not a mean of which more is better", usable
    choice = "; ".join(keys or usable)
    raise TaskError(f"Task {task} {what}: give --metric {task}=NAME,FILTER, one of {choice}.")


def _default(task: str, usable: Sequence[str]) -> list[str]:
    for pattern, keys in DEFAULTS:
        for key in keys:
            if fnmatchcase(task, pattern) and key in usable:
                return [key]
    return list(usable)


def check_scores(task: str, key: str, scores: NDArray[float64]) -> None:
    """Refuse a metric that does not lie in [0, 1] for every document, (n,)."""
    low, high = float(scores.min()), float(scores.max())
    if low < 0 or high > 1:
        raise TaskError(
            f"metric {key!r} of task {task!r} runs from {low:g} to {high:g} over the documents",
            expected="a score in [0, 1] for each document",
            fix=f"name another metric with --metric {task}=NAME,FILTER",
        )


def plain(value: Any) -> Any:
    """As lm-eval's own JSON has it: numpy's numbers as numbers, the unknown as text."""
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    return str(value)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one state of a model did on some documents of a task, rows in their order."""

    # ``name,filter`` to (n,) scores, for every metric that has a number for each document
    metrics: dict[str, NDArray[np.float64]]
    # n entries: the generated text or texts, or the list of the choices' log-likelihoods
    responses: list[Any]
    # What lm-eval's sample logs hold beyond these: ``greedy`` (n lists, whether each choice was
    # what greedy decoding gives; None for text), ``filtered`` (filter to n lists of answers; None
    # where it takes each first answer as it is) and ``other`` (``metric,filter`` to n values that
    # are no numbers). With samples each entry is a list, one for each sample.
    logged: Logged
    # With K > 1 samples, ``name,filter`` to (n, K) scores of the same metrics
    samples: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Document:
    """One document: its place in the split, its content, and the requests built from it."""

    doc_id: int
    content: Any
    instances: tuple[Any, ...]
    doc_hash: str


@dataclass(frozen=True, eq=False)
class Leaf:
    """One lm-eval task with the requests it built; not a group."""

    name: str
    task: Any  # lm-eval's task object
    documents: tuple[Document, ...]  # the documents that are evaluated, in order
    integrable: Mapping[str, bool]  # see `aurac.tasks.upstream.integrable_metrics`
    samples: int = 1  # answers of each document that are scored one by one; 1: as the task does it
    scoring: str = ""  # see `aurac.tasks.scoring.scoring_of`

    @property
    def num_fewshot(self) -> int:
        """Examples in each prompt."""
        return int(self.task.get_config("num_fewshot") or 0)

    @property
    def instances(self) -> list[Any]:
        """lm-eval's requests, in document order."""
        return _instances(self.documents)

    def judge(self, documents: Sequence[Document], answers: Sequence[list[Any]]) -> Outcome:
        """Filters the answers and scores each document, as ``lm_eval.evaluate`` does."""
        if self.samples == 1:
            return self._judged(documents, answers)
        samples = zip(*answers, strict=True)
        return _together([self._judged(documents, [[r] for r in sample]) for sample in samples])

    def _judged(self, documents: Sequence[Document], answers: Sequence[list[Any]]) -> Outcome:
        instances = _instances(documents)
        try:  # lm-eval keeps responses in its requests, and would show them to the next model
            for instance, responses in zip(instances, answers, strict=True):
                instance.resps, instance.filtered_resps = list(responses), {}
            for ensemble in self.task._filters:
                ensemble.apply(instances)
            columns, filtered = self._columns(documents)
        except AuracError:
            raise
        except Exception as error:
            raise CellError(
                f"task {self.name!r} could not judge an answer ({type(error).__name__}: {error})"
            ) from error
        finally:
            for instance in instances:
                instance.resps, instance.filtered_resps = [], {}
        numbers = {key: c for key, c in columns.items() if all(map(_is_number, c))}
        parts = list(_by_document(documents, answers))
        choice = instances[0].request_type == "loglikelihood"
        return Outcome(
            metrics={key: np.array([float(v) for v in c]) for key, c in numbers.items()},
            responses=[_kept(*part) for part in parts],
            logged=Logged(
                greedy=[[bool(r[0][1]) for r in part] for _, part in parts] if choice else None,
                filtered=filtered,
                other={
                    key: [plain(v) for v in c] for key, c in columns.items() if key not in numbers
                },
            ),
        )

    def _columns(
        self, documents: Sequence[Document]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any] | None]]:
        """Every document's value by ``metric,filter``, and its answers by filter."""
        columns: dict[str, list[Any]] = {}
        filtered: dict[str, list[Any] | None] = {}
        for chain_name in documents[0].instances[0].filtered_resps:
            rows, changed = [], False
            for index, document in enumerate(documents):
                results = [instance.filtered_resps[chain_name] for instance in document.instances]
                rows.append([plain(result) for result in results])
                first = [instance.resps[0] for instance in document.instances]
                changed |= any(r is not f and r != f for r, f in zip(results, first, strict=True))
                judged = self.task.process_results(document.content, results)
                for name, value in judged.items():
                    column = columns.setdefault(f"{name},{chain_name}", [])
                    column += [None] * (index - len(column))
                    column.append(value)
            filtered[chain_name] = rows if changed else None
        whole = {key: c for key, c in columns.items() if len(c) == len(documents)}
        return whole, filtered

    def aggregates(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """Of what each document contributed, those that lm-eval does not aggregate by the mean."""
        if self.samples > 1:  # they are no columns of one number for each document
            return {}
        values, aggregation = {}, self.task.aggregation()
        for key, column in columns.items():
            try:
                value = float(aggregation[key.rpartition(",")[0]](list(column)))
            except Exception:  # noqa: BLE001, S112 - any task's own code; the value is only left out
                continue
            numeric = all(isinstance(entry, (int, float)) for entry in column)
            if np.isfinite(value) and not (numeric and abs(value - float(np.mean(column))) < 1e-12):
                values[key] = value
        return values


def _together(rounds: Sequence[Outcome]) -> Outcome:
    """Outcomes of K samples of the same documents as one: scores are means."""
    first = rounds[0]
    samples = {
        key: np.stack([each.metrics[key] for each in rounds], axis=1)
        for key in first.metrics
        if all(key in each.metrics for each in rounds)
    }

    def by_document(columns: Iterable[Sequence[Any]]) -> list[list[Any]]:
        return [list(row) for row in zip(*columns, strict=True)]

    def answers(each: Outcome, chain: str) -> list[Any]:
        rows = each.logged.filtered[chain]
        return each.responses if rows is None else [row[0] for row in rows]

    filtered, other = first.logged.filtered, [each.logged.other for each in rounds]
    return Outcome(
        metrics={key: scores.mean(axis=1) for key, scores in samples.items()},
        responses=by_document(each.responses for each in rounds),
        logged=Logged(
            filtered={c: by_document(answers(each, c) for each in rounds) for c in filtered},
            other={
                key: by_document(columns[key] for columns in other)
                for key in other[0]
                if all(key in columns for columns in other)
            },
        ),
        samples=samples,
    )


def _instances(documents: Sequence[Document]) -> list[Any]:
    return list(chain.from_iterable(document.instances for document in documents))


def _by_document(
    documents: Sequence[Document], answers: Sequence[list[Any]]
) -> Iterator[tuple[Document, Sequence[list[Any]]]]:
    """Each document with the answers to its requests."""
    at = 0
    for document in documents:
        yield document, answers[at : at + len(document.instances)]
        at += len(document.instances)


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, np.bool_)) and math.isfinite(float(value))


def _kept(document: Document, answers: Sequence[list[Any]]) -> Any:
    """A document's responses as they are kept: plain JSON values."""
    first = [responses[0] for responses in answers]
    if document.instances[0].request_type == "loglikelihood":
        return [float(value) for value, _ in first]
    if document.instances[0].request_type == "loglikelihood_rolling":
        return [float(value) for value in first]
    texts = [r[0] if len(r) == 1 else list(r) for r in answers]
    return texts[0] if len(texts) == 1 else texts
