"""How answers become scores, and which metric is "accuracy", the one integrated over ranks.

lm-eval has no primary metric: it reports ``name,filter`` keys, several for most tasks. AURAC is a
mean over documents of a per-document area, so only a metric that lm-eval itself aggregates with
the plain mean, that lies in [0, 1] for each document, and of which more is better, can be used.

lm-eval keeps a model's responses *in* its requests, and would hand those of the first model back
for every later one; here each evaluation starts from empty lists and leaves empty lists behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from aurac.errors import AuracError, CellError, TaskError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy import float64
    from numpy.typing import NDArray


ANY_TASK = "*"
"""The key of a metric that was asked for without naming a task."""

DEFAULTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gsm8k*", ("exact_match,strict-match",)),
    (ANY_TASK, ("acc,none", "exact_match,strict-match", "exact_match,none")),
)
"""Task-name pattern and the keys to take, first one reported wins; first pattern that serves wins.

The first two lines are those of the MatryoshkaLoRA research code: ``exact_match,strict-match`` for
gsm8k and ``acc,none`` elsewhere (arc, hellaswag, winogrande, mmlu, openbookqa). The other two serve
generative tasks, which report no ``acc``.
"""


def parse_metrics(values: Iterable[str]) -> dict[str, str]:
    """Reads ``--metric`` values, ``TASK=NAME,FILTER`` or ``NAME,FILTER`` for every task.

    Args:
        values: What was given, one string for each use of the option.

    Returns:
        Task name (or :data:`ANY_TASK`) to metric key.

    Raises:
        UsageError: A value is not of that form, or one task has two.
    """
    chosen: dict[str, str] = {}
    for value in values:
        task, equals, key = value.rpartition("=")
        name, comma, chain = key.partition(",")
        if not (name.strip() and comma and chain.strip()) or (equals and not task.strip()):
            raise UsageError(
                f"metric {value!r} cannot be read",
                expected="TASK=NAME,FILTER or NAME,FILTER, such as gsm8k=exact_match,strict-match",
            )
        task = task.strip() or ANY_TASK
        if task in chosen:
            where = "every task" if task == ANY_TASK else f"task {task!r}"
            raise UsageError(f"two metrics were given for {where}", fix="give one")
        chosen[task] = f"{name.strip()},{chain.strip()}"
    return chosen


def choose_metric(task: str, reported: Mapping[str, bool], asked: str | None = None) -> str:
    """The metric of a task that is integrated.

    Args:
        task: Name of the task, in lm-eval's spelling.
        reported: Every ``name,filter`` key the task reports, and whether it can be integrated
            (aggregated by the mean, more is better).
        asked: The key that was asked for; None takes the default of the task's family.

    Returns:
        One key of ``reported``.

    Raises:
        TaskError: The task does not report ``asked``, or it cannot be integrated, or the defaults
            do not serve and more than one metric could be meant.
    """
    usable = [key for key, integrable in reported.items() if integrable]
    if asked is not None:
        return _asked(task, reported, usable, asked)
    for pattern, keys in DEFAULTS:
        for key in keys:
            if fnmatchcase(task, pattern) and reported.get(key):
                return key
    if len(usable) == 1:
        return usable[0]
    if not usable:
        raise TaskError(
            f"task {task!r} reports {_listed(reported)}, and none of them is a per-document "
            "score that is averaged and of which more is better",
            fix="choose a task with an accuracy",
        )
    raise TaskError(
        f"task {task!r} has no default metric",
        expected=f"one of {_listed(usable)}",
        fix=f"name one with --metric {task}=NAME,FILTER",
    )


def _asked(task: str, reported: Mapping[str, bool], usable: list[str], asked: str) -> str:
    if asked not in reported:
        raise TaskError(
            f"task {task!r} does not report the metric {asked!r}",
            expected=f"one of {_listed(usable or reported)}",
        )
    if not reported[asked]:
        raise TaskError(
            f"metric {asked!r} of task {task!r} is not a mean over documents of which more is "
            "better, so it cannot be integrated",
            expected=f"one of {_listed(usable)}" if usable else None,
        )
    return asked


def check_scores(task: str, key: str, scores: NDArray[float64]) -> None:
    """Sees that the metric which is integrated lies in [0, 1] for every document.

    Args:
        task: Name of the task.
        key: The metric's key.
        scores: (n,) one score for each document.

    Raises:
        TaskError: A score lies outside.
    """
    low, high = float(scores.min()), float(scores.max())
    if low < 0 or high > 1:
        raise TaskError(
            f"metric {key!r} of task {task!r} runs from {low:g} to {high:g} over the documents",
            expected="a score in [0, 1] for each document",
            fix=f"name another metric with --metric {task}=NAME,FILTER",
        )


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)) or "no metric"


class Log:
    """Gathers, while a task is judged, what only lm-eval's own logs would have kept.

    The result holds `greedy` (n lists of booleans, whether each choice was what greedy decoding
    gives; None for generated text), `filtered` (filter → n entries, one list of filtered answers
    for each document; None in the place of the n where the filter takes each request's first
    answer as it is) and `other` (``metric,filter`` → n values of the metrics that are no numbers
    for a document).
    """

    def __init__(self) -> None:
        self._greedy: list[Any] = []
        self._filtered: dict[str, list[Any]] = {}
        self._changed: set[str] = set()
        self._other: dict[str, list[Any]] = {}

    def filtered(self, chain: str, results: Sequence[Any], instances: Sequence[Any]) -> None:
        """One document's answers after a filter."""
        self._filtered.setdefault(chain, []).append([plain(result) for result in results])
        if any(r is not i.resps[0] and r != i.resps[0] for r, i in zip(results, instances)):  # noqa: B905
            self._changed.add(chain)

    def judged(self, columns: Mapping[str, Sequence[Any]], numbers: Mapping[str, Any]) -> None:
        """The metrics of all documents; those in `numbers` are kept elsewhere."""
        for key, column in columns.items():
            if key not in numbers:
                self._other[key] = [plain(value) for value in column]

    def answered(self, answers: Sequence[Sequence[Any]], kind: str) -> None:
        """One document's answers as the model gave them."""
        if kind == "loglikelihood":
            self._greedy.append([bool(responses[0][1]) for responses in answers])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "greedy": self._greedy or None,
            "filtered": {
                chain: rows if chain in self._changed else None
                for chain, rows in self._filtered.items()
            },
            "other": self._other,
        }


def aggregated(
    columns: Mapping[str, Sequence[Any]], aggregation: Mapping[str, Callable[..., Any]]
) -> dict[str, float]:
    """Values over all documents, by lm-eval's own functions, where they are not plain means.

    Args:
        columns: ``metric,filter`` → n values.
        aggregation: Metric → lm-eval's function for it.
    """
    values = {}
    for key, column in columns.items():
        try:
            value = float(aggregation[key.rpartition(",")[0]](list(column)))
        except Exception:  # noqa: BLE001, S112 - any task's own code; the value is only left out
            continue
        numeric = all(isinstance(entry, (int, float)) for entry in column)
        if np.isfinite(value) and not (numeric and abs(value - float(np.mean(column))) < 1e-12):
            values[key] = value
    return values


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
    """What one state of a model did on some documents of a task, rows in their order.

    Attributes:
        metrics: ``name,filter`` to (n,) scores, one for each document, for every metric that has
            a number for each document.
        responses: n entries: the generated text (a list of texts where the task asks for several),
            or the list of the choices' log-likelihoods.
        logged: What lm-eval's sample logs hold beyond these, see `aurac.tasks.metrics.Log`.
        engine: What it cost and how many decisions were near ties (``Record.to_dict``).
    """

    metrics: dict[str, NDArray[np.float64]]
    responses: list[Any]
    logged: dict[str, Any]
    engine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Document:
    """One document: its place in the split, its content, and the requests built from it."""

    doc_id: int
    content: Any
    instances: tuple[Any, ...]
    doc_hash: str


@dataclass(frozen=True, eq=False)
class Leaf:
    """One lm-eval task with the requests it built; not a group.

    Attributes:
        task: lm-eval's task object.
        documents: The documents that are evaluated, in order.
        integrable: For each ``name,filter`` that the task declares, whether it is a mean over
            documents of which more is better.
        higher_is_better: For each of the same keys.
    """

    name: str
    task: Any
    documents: tuple[Document, ...]
    integrable: Mapping[str, bool]
    higher_is_better: Mapping[str, bool]

    @property
    def num_fewshot(self) -> int:
        """Examples in each prompt."""
        return int(self.task.get_config("num_fewshot") or 0)

    @property
    def instances(self) -> list[Any]:
        """lm-eval's requests, in document order."""
        return _instances(self.documents)

    def judge(self, documents: Sequence[Document], answers: Sequence[list[Any]]) -> Outcome:
        """Filters the answers and scores each document, as ``lm_eval.evaluate`` does.

        Args:
            documents: Some of the documents.
            answers: For each of their requests, in order, its responses.

        Raises:
            CellError: lm-eval's filters or metrics fail on an answer.
        """
        instances = _instances(documents)
        log = Log()
        try:
            for instance, responses in zip(instances, answers, strict=True):
                instance.resps, instance.filtered_resps = list(responses), {}
            for ensemble in self.task._filters:
                ensemble.apply(instances)
            scores = self._scores(documents, list(instances[0].filtered_resps), log)
        except AuracError:
            raise
        except Exception as error:
            raise CellError(
                f"task {self.name!r} could not judge an answer ({type(error).__name__}: {error})"
            ) from error
        finally:
            for instance in instances:
                instance.resps, instance.filtered_resps = [], {}
        at = 0
        kept: list[Any] = []
        for document in documents:
            part = answers[at : at + len(document.instances)]
            log.answered(part, document.instances[0].request_type)
            kept.append(_kept(document, part))
            at += len(document.instances)
        return Outcome(metrics=scores, responses=kept, logged=log.to_dict())

    def near_ties(
        self, documents: Sequence[Document], answers: Sequence[list[Any]], noise: float
    ) -> int:
        """Documents whose two likeliest choices lie within twice the rounding of one logit."""
        at = count = 0
        for document in documents:
            size = len(document.instances)
            part, at = answers[at : at + size], at + size
            if size < 2 or document.instances[0].request_type != "loglikelihood":
                continue
            best, second = sorted((responses[0][0] for responses in part), reverse=True)[:2]
            count += best - second <= 2 * noise
        return count

    def _scores(
        self, documents: Sequence[Document], filters: Iterable[str], log: Log
    ) -> dict[str, NDArray[np.float64]]:
        columns: dict[str, list[Any]] = {}
        for chain_name in filters:
            for index, document in enumerate(documents):
                results = [instance.filtered_resps[chain_name] for instance in document.instances]
                log.filtered(chain_name, results, document.instances)
                judged = self.task.process_results(document.content, results)
                for name, value in judged.items():
                    column = columns.setdefault(f"{name},{chain_name}", [])
                    column += [None] * (index - len(column))
                    column.append(value)
        whole = {k: column for k, column in columns.items() if len(column) == len(documents)}
        numbers = {
            key: np.array([float(value) for value in column])
            for key, column in whole.items()
            if all(map(_is_number, column))
        }
        log.judged(whole, numbers)
        return numbers

    def aggregates(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """Values over all documents of the metrics that lm-eval does not aggregate by their mean.

        Args:
            columns: ``name,filter`` to what every document contributed, numbers or not.
        """
        return aggregated(columns, self.task.aggregation())


def _instances(documents: Sequence[Document]) -> list[Any]:
    return list(chain.from_iterable(document.instances for document in documents))


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, np.bool_)) and math.isfinite(float(value))


def _kept(document: Document, answers: Sequence[list[Any]]) -> Any:
    """A document's responses as they are kept: plain JSON values."""
    first = [responses[0] for responses in answers]
    if document.instances[0].request_type == "loglikelihood":
        return [float(value) for value, _ in first]
    if document.instances[0].request_type == "loglikelihood_rolling":
        return [float(value) for value in first]
    kept = [r[0] if len(r) == 1 else list(r) for r in answers]
    return kept[0] if len(kept) == 1 else kept
